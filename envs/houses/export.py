"""Writes houses so that Habitat opens them: what is seen, what is what, and how its floor is found.

For each house there are a mesh with baked textures, a mesh whose vertices carry semantic ids, a list of what these ids
mean, a stage configuration and a scene instance; and for all of them a scene dataset configuration and the settings of
the navmesh.

Sources, of habitat-sim 0.3.3:
    the JSON files: docs/pages/attributesJSON.rst (aihabitat.org/docs/habitat-sim/attributesJSON.html);
    semantic meshes: src/esp/assets/GenericSemanticMeshData.cpp, buildSemanticMeshData: vertex colours are required, and
    an attribute of object ids, up to 65535, overrides what would be read from them;
    its name in glTF, _OBJECT_ID: Magnum's src/MagnumPlugins/GltfImporter/GltfImporter.conf;
    the list of meanings, in the form of HM3D: src/esp/scene/HM3DSemanticScene.cpp;
    navmesh settings, for NavMeshSettings.read_from_json: src/esp/io/JsonEspTypes.cpp.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...kernels.ray_cast.texture import colour, light, material
from .generate import HouseConfig
from .glb import Glb
from .house import House
from .materials import MATERIALS
from .mesh import Mesh, surfaces

DATASET = "mnemic.scene_dataset_config.json"
NAVMESH = "mnemic.navmesh_settings.json"


def export(houses: Iterable[House], folder: str | Path, config: HouseConfig | None = None, pixels: int = 96) -> Path:
    """Write houses as a scene dataset of Habitat and return the path of its configuration.

    The scene of a house is called `scene_name(seed)`. Its ids in Habitat's semantic sensor are those of the house.

    Args:
        houses: what is written.
        folder: where; it is made if it is not there.
        config: what the houses were made with; it says for whom the navmesh is.
        pixels: of a metre in the textures.

    Raises:
        ValueError: there is no house, or fewer than 1 pixel.
    """
    if pixels < 1:
        raise ValueError(f"export: pixels is {pixels}; at least 1 of a metre is expected")
    folder = Path(folder)
    written = 0
    for house in houses:
        _write_house(house, folder, pixels)
        written += 1
    if not written:
        raise ValueError("export: no house came; at least one is expected")
    _write(folder / NAVMESH, navmesh_settings(config or HouseConfig()))
    dataset = {
        "stages": {"paths": {".json": ["stages"]}},
        "scene_instances": {
            "paths": {".json": ["scenes"]},
            "default_attributes": {"default_lighting": "no_lights"},
        },
    }
    return _write(folder / DATASET, dataset)


def scene_name(seed: int) -> str:
    """Return the name of a house's scene; none is the beginning of another, for Habitat takes any that contains it."""
    return f"house_{seed:010d}"


def navmesh_settings(config: HouseConfig) -> dict[str, Any]:
    """Return the fields of Habitat's NavMeshSettings with which the navmesh is the house's navigable floor.

    Habitat's own step of 0.2 m would have an agent climb over things that stand on the floor. Cells of half the size of
    the house's close about the same gaps as these: a navmesh takes away all of a cell that an obstacle touches.
    """
    return {
        "cellSize": config.cell / 2,
        "cellHeight": 0.05,
        "agentHeight": config.agent_height,
        "agentRadius": config.agent_radius,
        "agentMaxClimb": 0.05,
        "agentMaxSlope": 45.0,
        "regionMinSize": 20.0,
        "regionMergeSize": 20.0,
        "edgeMaxLen": 12.0,
        "edgeMaxError": 1.3,
        "vertsPerPoly": 6.0,
        "detailSampleDist": 6.0,
        "detailSampleMaxError": 1.0,
        "filterLowHangingObstacles": True,
        "filterLedgeSpans": True,
        "filterWalkableLowHeightSpans": True,
    }


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _write_house(house: House, folder: Path, pixels: int) -> None:
    name = scene_name(house.seed)
    stages = folder / "stages"
    stages.mkdir(parents=True, exist_ok=True)
    mesh = without_roof(surfaces(house.solids), house.size[1])
    _seen(house, mesh, pixels).write(stages / f"{name}.glb")
    _meant(house, mesh).write(stages / f"{name}.semantic.glb")
    meanings = [f'{thing.id},{_hex(thing.id)},"{thing.kind}",{thing.room}' for thing in house.instances]
    (stages / f"{name}.semantic.txt").write_text("\n".join(["HM3D Semantic Annotations", *meanings, ""]))
    # Without up and front Habitat takes every GLB for one whose up is z.
    up, front = [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]
    stage = {
        "render_asset": f"{name}.glb",
        "collision_asset": f"{name}.glb",
        "semantic_asset": f"{name}.semantic.glb",
        "semantic_descriptor_filename": f"{name}.semantic.txt",
        "up": up,
        "front": front,
        "semantic_up": up,
        "semantic_front": front,
        "shader_type": "flat",
        "force_flat_shading": True,
        "has_semantic_textures": False,
    }
    _write(stages / f"{name}.stage_config.json", stage)
    scene = {"stage_instance": {"template_name": f"stages/{name}"}, "default_lighting": "no_lights"}
    _write(folder / "scenes" / f"{name}.scene_instance.json", scene)


def without_roof(mesh: Mesh, height: float) -> Mesh:
    """Return a mesh without what faces up above the rooms: nobody sees it, and a navmesh would make it a floor."""
    y_F3, up_F3 = mesh.position_V3[mesh.corner_F3, 1], mesh.normal_V3[mesh.corner_F3, 1]
    roof_F = (y_F3 > height + 0.01).all(1) & (up_F3 > 0.5).all(1)
    return mesh._replace(corner_F3=mesh.corner_F3[~roof_F])


def _seen(house: House, mesh: Mesh, pixels: int) -> Glb:
    """Return the mesh that is seen: one part per material, whose image has the place (0, 0) in its corner."""
    glb = Glb({"seed": house.seed})
    look_V = house.solids.material_S.numpy()[mesh.solid_V]
    look_F = look_V[mesh.corner_F3[:, 0]]
    shade = light([torch.from_numpy(mesh.normal_V3[:, axis]) for axis in range(3)]).numpy()
    colour_V4 = np.column_stack([np.rint(shade * 255)[:, None].repeat(3, 1), np.full(len(shade), 255)])
    for number in sorted(set(look_F.tolist())):
        corners = mesh.corner_F3[look_F == number]
        used, corner = np.unique(corners, return_inverse=True)
        image, texture = bake(number, mesh.place_V2[used], pixels)
        glb.mesh(
            MATERIALS[number].name,
            glb.material(MATERIALS[number].name, image),
            mesh.position_V3[used],
            corner.reshape(-1, 3),
            colour_V4[used],
            normal_V3=mesh.normal_V3[used],
            texture_V2=texture,
        )
    return glb


def bake(number: int, place_V2: np.ndarray, pixels: int) -> tuple[bytes, np.ndarray]:
    """Return the image (PNG) of a material that is large enough for some places on it, and where they are on it.

    Args:
        number: the material's place in `MATERIALS`.
        place_V2: (V, 2), metres, from 0.
        pixels: of a metre; a plain material has one in all.
    """
    look = MATERIALS[number]
    if look.pattern == "plain":
        place_V2, pixels = np.zeros_like(place_V2), 1
    size = np.maximum(np.ceil(place_V2.max(0) * pixels - 1e-6), 1).astype(int)
    u, v = ((torch.arange(count, dtype=torch.float64) + 0.5) / pixels for count in size.tolist())
    row = torch.tensor(material(look.first, look.second, look.pattern, look.scale), dtype=torch.float64)
    image = colour(row.expand(len(v), len(u), -1), u.expand(len(v), -1), v[:, None].expand(-1, len(u)))
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, format="PNG")
    return file.getvalue(), np.clip(place_V2 * pixels / size, 0.0, 1.0)


def _meant(house: House, mesh: Mesh) -> Glb:
    """Return the mesh whose vertices have the ids of what they belong to."""
    glb = Glb({"seed": house.seed})
    used, corner = np.unique(mesh.corner_F3, return_inverse=True)
    id_V = house.solids.semantic_S.numpy()[mesh.solid_V[used]]
    colour_V4 = np.stack([id_V >> 16 & 255, id_V >> 8 & 255, id_V & 255, np.full(len(id_V), 255)], 1)
    look = glb.material("semantic", None)
    glb.mesh("semantic", look, mesh.position_V3[used], corner.reshape(-1, 3), colour_V4, id_V=id_V)
    return glb


def _hex(number: int) -> str:
    """Return the colour of an id: red, green and blue are its bytes."""
    return f"{number:06X}"
