import io
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mnemic.envs.houses import House, HouseConfig, generate
from mnemic.envs.houses.export import DATASET, NAVMESH, bake, export, scene_name
from mnemic.envs.houses.house import BOX, CYLINDER, SPHERE, as_solids
from mnemic.envs.houses.materials import INDEX, MATERIALS
from mnemic.envs.houses.mesh import AROUND, RINGS, SIDES, Mesh, surfaces
from mnemic.kernels.ray_cast import View, pack, ray_cast, reference, texture
from mnemic.kernels.ray_cast.scene import rays

TRIANGLES = {BOX: 12, CYLINDER: 4 * AROUND - 4, SPHERE: 2 * SIDES * (RINGS - 1)}
NUMBERS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
NAME = "house_0000000004"
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class Part(NamedTuple):
    """A mesh as it is in a file."""

    name: str
    corner_F3: np.ndarray
    values: dict[str, np.ndarray]
    image: np.ndarray | None


def read(path: Path) -> tuple[dict[str, Any], list[Part]]:
    """A GLB read by the letter of the specification, without anything that wrote it."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    content = json.loads(data[20 : 20 + size])
    body_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    body = data[28 + size :]
    assert kind == b"BIN\0"
    assert len(body) == body_size == content["buffers"][0]["byteLength"]
    assert size % 4 == body_size % 4 == 0

    def values(number: int) -> np.ndarray:
        accessor = content["accessors"][number]
        view = content["bufferViews"][accessor["bufferView"]]
        kind, width = np.dtype(NUMBERS[accessor["componentType"]]), WIDTH[accessor["type"]]
        stride = view.get("byteStride", kind.itemsize * width)
        assert view["byteOffset"] % 4 == stride % 4 == 0
        assert accessor["count"] * stride <= view["byteLength"]
        raw = np.frombuffer(body, np.uint8, accessor["count"] * stride, view["byteOffset"]).reshape(-1, stride)
        found = raw[:, : kind.itemsize * width].copy().view(kind)
        if "min" in accessor:
            assert found.min(0).tolist() == accessor["min"]
            assert found.max(0).tolist() == accessor["max"]
        return found

    parts = []
    for node in content["scenes"][0]["nodes"]:
        mesh = content["meshes"][content["nodes"][node]["mesh"]]
        (primitive,) = mesh["primitives"]
        look = content["materials"][primitive["material"]]["pbrMetallicRoughness"]
        image = None
        if "baseColorTexture" in look:
            source = content["textures"][look["baseColorTexture"]["index"]]["source"]
            view = content["bufferViews"][content["images"][source]["bufferView"]]
            png = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
            image = np.array(Image.open(io.BytesIO(png)))
        found = {name: values(number) for name, number in primitive["attributes"].items()}
        parts.append(Part(mesh["name"], values(primitive["indices"]).reshape(-1, 3), found, image))
    return content, parts


@pytest.fixture(scope="module")
def house() -> House:
    return generate(4)


@pytest.fixture(scope="module")
def folder(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export([house], tmp_path_factory.mktemp("dataset"), HouseConfig(agent_radius=0.2)).parent


def volumes(position: np.ndarray, corner: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """What triangles enclose, by owner: signed, so that a face turned inside out is noticed."""
    a, b, c = (position[corner[:, place]] for place in range(3))
    return np.bincount(owner, (a * np.cross(b, c)).sum(1) / 6, minlength=count)


def shut(mesh: Mesh) -> bool:
    """Whether every edge is passed once there and once back, with vertices at the same place taken for one."""
    _, same = np.unique(np.column_stack([mesh.position_V3.round(6), mesh.solid_V]), axis=0, return_inverse=True)
    corner = same.reshape(-1)[mesh.corner_F3]
    there = np.concatenate([corner[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    edges = {tuple(edge) for edge in there.tolist()}
    return len(edges) == len(there) and edges == {(b, a) for a, b in edges}


def test_surfaces_enclose_their_solids(house: House) -> None:
    mesh, solids = surfaces(house.solids), house.solids
    kinds, half = solids.kind_S.numpy(), solids.half_S3.double().numpy()
    assert shut(mesh)
    owner_F = mesh.solid_V[mesh.corner_F3[:, 0]]
    assert np.array_equal(np.bincount(owner_F), [TRIANGLES[kind] for kind in kinds.tolist()])
    got = volumes(mesh.position_V3, mesh.corner_F3, owner_F, len(kinds))
    want = np.where(kinds == BOX, 8.0, np.where(kinds == CYLINDER, 2 * np.pi, 4 / 3 * np.pi)) * half.prod(1)
    assert np.allclose(got[kinds == BOX], want[kinds == BOX], rtol=1e-6)
    assert (got > 0.97 * want).all()
    assert (got < 1.0001 * want).all()
    a, b, c = (mesh.position_V3[mesh.corner_F3[:, place]] for place in range(3))
    facing = (np.cross(b - a, c - a) * mesh.normal_V3[mesh.corner_F3].mean(1)).sum(1)
    assert (facing > 0).all(), "normals look out of the solids"


def test_places_on_surfaces_are_those_of_the_ray_caster() -> None:
    rows = [
        (BOX, 1.0, 2.0, 3.0, 0.3, 0.5, 0.7, 0.4, 0, 0),
        (CYLINDER, -1.0, 0.5, 2.0, 0.4, 0.6, 0.4, 0.0, 0, 0),
        (SPHERE, 2.0, 1.0, -1.0, 0.5, 0.5, 0.5, 0.0, 0, 0),
    ]
    solids = as_solids(rows)
    mesh = surfaces(solids)
    point = torch.from_numpy(mesh.position_V3[mesh.corner_F3].mean(1))
    normal = torch.from_numpy(mesh.normal_V3[mesh.corner_F3].mean(1))
    normal = normal / normal.norm(dim=1, keepdim=True)
    solid = torch.from_numpy(mesh.solid_V[mesh.corner_F3[:, 0]])
    turn = solids.yaw_S.double()
    place = torch.cat([solids.centre_S3, solids.half_S3, turn.cos()[:, None], turn.sin()[:, None]], 1).double()[solid]
    eye, way, away = point + normal, -normal.T, torch.ones(len(point), dtype=torch.float64)
    u, v, seen = reference.surface(place, solids.kind_S[solid], eye, way, away)
    want = torch.stack([u, v], 1).numpy()
    got = mesh.place_V2[mesh.corner_F3].mean(1)
    assert np.allclose(got, want, atol=0.015), "triangles of round solids lie a little within them"
    flat = solids.kind_S.numpy()[solid] == BOX
    assert np.allclose(got[flat], want[flat], atol=1e-6)
    assert np.allclose(torch.stack(seen, 1).numpy(), normal.numpy(), atol=0.02)


def test_the_mesh_that_is_seen_is_the_house(house: House, folder: Path) -> None:
    content, parts = read(folder / "stages" / f"{NAME}.glb")
    assert content["extensionsUsed"] == ["KHR_materials_unlit"]
    solids = house.solids
    kinds, looks = solids.kind_S.numpy(), solids.material_S.numpy()
    assert [part.name for part in parts] == [MATERIALS[number].name for number in sorted(set(looks.tolist()))]
    for part in parts:
        own = looks == INDEX[part.name]
        # The ceiling has no upper face, two triangles of it.
        expected = sum(TRIANGLES[kind] for kind in kinds[own].tolist()) - 2 * (part.name == "ceiling")
        assert len(part.corner_F3) == expected
        assert part.corner_F3.max() == len(part.values["POSITION"]) - 1
    low = np.min([part.values["POSITION"].min(0) for part in parts], axis=0)
    high = np.max([part.values["POSITION"].max(0) for part in parts], axis=0)
    assert np.allclose(low, [0.0, -0.1, 0.0], atol=1e-5)
    assert np.allclose(high, [house.size[0], house.size[1] + 0.1, house.size[2]], atol=1e-5)


def test_ids_are_where_the_instances_are(house: House, folder: Path) -> None:
    _, (part,) = read(folder / "stages" / f"{NAME}.semantic.glb")
    ids = part.values["_OBJECT_ID"][:, 0]
    assert ids.dtype == np.uint16
    assert sorted(set(ids.tolist())) == list(range(len(house.instances) + 1))
    # A triangle belongs to one instance; all of them together enclose what its solids do.
    assert (ids[part.corner_F3] == ids[part.corner_F3[:, :1]]).all()
    for instance in house.instances:
        place = part.values["POSITION"][ids == instance.id]
        assert np.allclose((place.min(0) + place.max(0)) / 2, instance.centre, atol=5e-3)
        assert np.allclose((place.max(0) - place.min(0)) / 2, instance.half, atol=5e-3)
    colours = part.values["COLOR_0"].astype(int)
    assert np.array_equal(colours[:, 0] << 16 | colours[:, 1] << 8 | colours[:, 2], ids)
    lines = (folder / "stages" / f"{NAME}.semantic.txt").read_text().splitlines()
    assert lines[0] == "HM3D Semantic Annotations"
    want = [f'{thing.id},{thing.id:06X},"{thing.kind}",{thing.room}' for thing in house.instances]
    assert lines[1:] == want


def test_images_and_colours_are_what_the_ray_caster_shows(folder: Path) -> None:
    _, parts = read(folder / "stages" / f"{NAME}.glb")
    for part in parts:
        assert part.image is not None
        look = MATERIALS[INDEX[part.name]]
        shade = texture.light(list(torch.from_numpy(part.values["NORMAL"]).double().T))
        assert np.allclose(part.values["COLOR_0"][:, :3] / 255, shade[:, None], atol=0.003)
        at = part.values["TEXCOORD_0"][part.corner_F3].mean(1) * part.image.shape[1::-1]
        column, line = at.astype(int).T
        if look.pattern == "plain":
            assert part.image.shape == (1, 1, 3)
            continue
        u, v = (torch.from_numpy((index + 0.5) / 96) for index in (column, line))
        row = torch.tensor(texture.material(look.first, look.second, look.pattern, look.scale), dtype=torch.float64)
        want = texture.colour(row.expand(len(u), -1), u, v)
        assert np.array_equal(part.image[line, column], want.numpy())


def first_hit(eye: np.ndarray, way: np.ndarray, triangle_F33: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, triangle and place in it of the first triangle that each ray meets (Moeller and Trumbore, 1997)."""
    a, one, other = triangle_F33[:, 0], triangle_F33[:, 1] - triangle_F33[:, 0], triangle_F33[:, 2] - triangle_F33[:, 0]
    away = eye - a
    found = []
    for ray in way:
        across = np.cross(ray, other)
        inverse = 1.0 / np.where(np.abs(area := (one * across).sum(1)) < 1e-12, np.inf, area)
        q = np.cross(away, one)
        u, v, depth = (away * across).sum(1) * inverse, (q * ray).sum(1) * inverse, (q * other).sum(1) * inverse
        hit = (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6) & (depth > 1e-6)
        nearest = int(np.where(hit, depth, np.inf).argmin())
        found.append((depth[nearest], nearest, u[nearest], v[nearest]))
    table = np.array(found)
    return table[:, 0], table[:, 1].astype(int), table[:, 2:]


def test_meshes_show_what_the_ray_caster_shows(house: House, folder: Path) -> None:
    """Depth within 2 cm and the same ids for 99 % of the rays, and colours but at the edges of patterns."""
    view, count = View(9, 12, 90.0), 4
    rng = np.random.default_rng(0)
    i, j = np.nonzero(house.navigable_IJ)
    chosen = rng.choice(len(i), count, replace=False)
    eye = np.stack([(j[chosen] + 0.5) * house.cell, np.full(count, 1.25), (i[chosen] + 0.5) * house.cell], 1)
    yaw, pitch = torch.from_numpy(rng.uniform(0, 6.3, count)), torch.from_numpy(rng.uniform(-0.5, 0.3, count))
    scene = pack([house.solids], [texture.material(*material[1:]) for material in MATERIALS])
    houses = torch.zeros(count, dtype=torch.int64)
    seen = ray_cast(scene, houses, torch.from_numpy(eye), yaw, pitch, view, backend="reference")
    way = rays(yaw, pitch, view).flatten(2).permute(1, 2, 0).numpy()

    _, parts = read(folder / "stages" / f"{NAME}.glb")
    triangles = [part.values["POSITION"].astype(np.float64)[part.corner_F3] for part in parts]
    first = np.cumsum([0, *map(len, triangles)])
    _, (meant,) = read(folder / "stages" / f"{NAME}.semantic.glb")
    meant_F33 = meant.values["POSITION"].astype(np.float64)[meant.corner_F3]
    near, same, alike = [], [], []
    for row in range(count):
        depth, triangle, place = first_hit(eye[row], way[row], np.concatenate(triangles))
        near.append(np.abs(depth - seen.depth_BIJ[row].flatten().numpy()) < 0.02)
        _, other, _ = first_hit(eye[row], way[row], meant_F33)
        ids = meant.values["_OBJECT_ID"][meant.corner_F3[other, 0], 0]
        same.append(ids == seen.semantic_BIJ[row].flatten().numpy())
        rgb = seen.rgb_BIJ3[row].flatten(0, 1).numpy().astype(float)
        for ray, number in enumerate(triangle):
            of = int(np.searchsorted(first, number, side="right")) - 1
            part, image = parts[of], parts[of].image
            assert image is not None
            corner = part.corner_F3[number - first[of]]
            weight = np.array([1 - place[ray].sum(), *place[ray]])
            column, line = (weight @ part.values["TEXCOORD_0"][corner] * image.shape[1::-1]).astype(int)
            texel = image[min(line, image.shape[0] - 1), min(column, image.shape[1] - 1)]
            shaded = texel * (weight @ part.values["COLOR_0"][corner])[:3] / 255
            alike.append(np.abs(shaded - rgb[ray]).max() <= 6)
    assert np.mean(near) >= 0.99
    assert np.mean(same) >= 0.99
    assert np.mean(alike) >= 0.95


def test_an_image_is_as_large_as_what_it_covers() -> None:
    png, at = bake(INDEX["white_tiles"], np.array([[0.0, 0.0], [1.5, 0.6], [0.75, 0.15]]), 100)
    image = np.array(Image.open(io.BytesIO(png)))
    assert image.shape == (60, 150, 3)
    assert np.allclose(at, [[0, 0], [1, 1], [0.5, 0.25]])
    # Tiles of 0.3 m: light, dark, light, dark, light along x, and the other way round in the second row.
    light, dark = image[0, 0].tolist(), image[0, 30].tolist()
    assert light > dark
    assert image[10, 15::30].tolist() == [light, dark, light, dark, light]
    assert image[40, 15::30].tolist() == [dark, light, dark, light, dark]


def test_configurations_name_files_that_are_there(folder: Path) -> None:
    stage = json.loads((folder / "stages" / f"{NAME}.stage_config.json").read_text())
    for key in ("render_asset", "collision_asset", "semantic_asset", "semantic_descriptor_filename"):
        assert (folder / "stages" / stage[key]).is_file(), key
    assert (stage["up"], stage["front"]) == ([0, 1, 0], [0, 0, -1]) == (stage["semantic_up"], stage["semantic_front"])
    dataset = json.loads((folder / DATASET).read_text())
    for kind, name in (("stages", f"{NAME}.stage_config.json"), ("scene_instances", f"{NAME}.scene_instance.json")):
        (place,) = dataset[kind]["paths"][".json"]
        assert (folder / place / name).is_file()
    scene = json.loads((folder / "scenes" / f"{NAME}.scene_instance.json").read_text())
    assert (folder / f"{scene['stage_instance']['template_name']}.stage_config.json").is_file()
    settings = json.loads((folder / NAVMESH).read_text())
    assert (settings["agentRadius"], settings["agentHeight"], settings["agentMaxClimb"]) == (0.2, 1.5, 0.05)


def test_no_name_is_the_beginning_of_another() -> None:
    assert scene_name(4) == NAME
    names = [scene_name(seed) for seed in (1, 10, 100, 12, 2)]
    assert not any(other.startswith(name) for name in names for other in names if other != name)


def test_nothing_to_write_is_refused(tmp_path: Path, house: House) -> None:
    with pytest.raises(ValueError, match=r"^export: no house came; at least one is expected"):
        export([], tmp_path)
    with pytest.raises(ValueError, match=r"^export: pixels is 0; at least 1 of a metre is expected"):
        export([house], tmp_path, pixels=0)
