"""Ray casting against depths worked out by hand, and every backend against the definition in float64."""

import math
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mnemic.kernels.compiled import compiled
from mnemic.kernels.ray_cast import OP, PATTERNS, Scene, Seen, View, bench, material, pack, ray_cast, texture
from mnemic.kernels.ray_cast.scene import BOX, CYLINDER, SPHERE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TABLE = [material((0.2, 0.4, 0.6), (0.9, 0.8, 0.7), pattern, 0.3) for pattern in PATTERNS]


@pytest.fixture(params=["triton", "numba", "reference"])
def backend(request: Any) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
    if request.param == "numba" and DEVICE != "cpu":
        pytest.skip("numba is for CPUs")
    return str(request.param)


class House(NamedTuple):
    kind_S: Tensor
    centre_S3: Tensor
    half_S3: Tensor
    yaw_S: Tensor
    material_S: Tensor
    semantic_S: Tensor


def house(*rows: tuple[float, ...]) -> House:
    """Solids from kind, centre, half extents and yaw; labels count from 1, materials go round."""
    table = torch.tensor(rows, dtype=torch.float32)
    label = torch.arange(len(rows))
    return House(table[:, 0].to(torch.int8), table[:, 1:4], table[:, 4:7], table[:, 7], label % len(TABLE), label + 1)


def look(
    scene: Scene, eye: tuple[float, ...], yaw: float, pitch: float, view: View, backend: str, dtype=torch.float32
) -> Seen:
    """One camera; angles in degrees."""
    angles = [torch.tensor([math.radians(angle)], dtype=dtype, device=DEVICE) for angle in (yaw, pitch)]
    at = torch.tensor([eye], dtype=dtype, device=DEVICE)
    return ray_cast(scene, torch.zeros(1, dtype=torch.int64, device=DEVICE), at, *angles, view, backend)


ONE = View(1, 1, 60.0)


@pytest.mark.parametrize(
    ("yaw", "pitch", "depth", "label"),
    [
        (0, 0, 2.0, 1),  # -z: a box 3 m away, 1 m thick to this side
        (90, 0, 4.5, 2),  # left is -x: a sphere 5 m away
        (180, 0, 5.75, 3),  # back is +z: a cylinder
        (270, 0, 3 - math.sqrt(0.5), 4),  # right is +x: a cube of 1 m turned by 45 degrees shows its edge
        (0, 90, 7.0, 5),
        (30, 90, 7.0, 5),
        (0, -90, 0.0, 0),  # nothing is below
        (45, 0, 0.0, 0),
    ],
)
def test_one_ray_by_hand(backend: str, yaw: float, pitch: float, depth: float, label: int) -> None:
    scene = pack(
        [
            house(
                (BOX, 0, 1, -3, 0.5, 0.5, 1.0, 0),
                (SPHERE, -5, 1, 0, 0.5, 0.5, 0.5, 0),
                (CYLINDER, 0, 1, 6, 0.25, 1.0, 0.25, 0),
                (BOX, 3, 1, 0, 0.5, 0.5, 0.5, math.pi / 4),
                (CYLINDER, 0, 9, 0, 0.5, 1.0, 0.5, 0),
            )
        ],
        TABLE,
        DEVICE,
    )
    seen = look(scene, (0, 1, 0), yaw, pitch, ONE, backend)
    assert seen.depth_BIJ.item() == pytest.approx(depth, abs=1e-5)
    assert seen.semantic_BIJ.item() == label
    assert bool(seen.rgb_BIJ3.any()) == (label > 0)


def test_depth_is_along_the_optical_axis_and_rows_go_down(backend: str) -> None:
    """A wall straight ahead has one depth in all pixels; with a pitch up by 45 degrees its upper rows are deeper."""
    scene = pack([house((BOX, 0, 0, -3, 50, 50, 1, 0))], TABLE, DEVICE)
    ahead = look(scene, (0, 0, 0), 0, 0, View(6, 10, 70.0), backend)
    torch.testing.assert_close(ahead.depth_BIJ, torch.full_like(ahead.depth_BIJ, 2.0))
    up = look(scene, (0, 0, 0), 0, 45, View(4, 4, 60.0), backend).depth_BIJ[0]
    # A ray of slope y against the axis goes cos 45 - y sin 45 towards the wall for each metre of depth.
    y = (1.5 - torch.arange(4)) / 4 * 2 * math.tan(math.radians(30))
    want = 2 / ((1 - y) * math.sqrt(0.5))
    torch.testing.assert_close(up.cpu(), want[:, None].expand(4, 4), rtol=1e-5, atol=0)


def test_columns_go_right_and_pixels_are_square(backend: str) -> None:
    """A post to the right of the axis, as wide as the rightmost of three columns; a slab as low as the lowest row."""
    slope = math.tan(math.radians(30))
    post = (BOX, 2 * slope, 0, -3, 0.01, 20, 0.01, 0)
    scene = pack([house(tuple(v * 1.0 for v in post))], TABLE, DEVICE)
    seen = look(scene, (0, 0, 0), 0, 0, View(5, 3, 60.0), backend).semantic_BIJ[0]
    assert seen.cpu().tolist() == [[0, 0, 1]] * 5
    slab = (BOX, 0, -4 * slope, -3, 20, 0.01, 0.01, 0)  # two rows down, a row is as high as a column is wide
    scene = pack([house(tuple(v * 1.0 for v in slab))], TABLE, DEVICE)
    seen = look(scene, (0, 0, 0), 0, 0, View(5, 3, 60.0), backend).semantic_BIJ[0]
    assert seen.cpu().tolist() == [[0] * 3] * 4 + [[1] * 3]


def test_an_eye_inside_a_solid_sees_it_from_within(backend: str) -> None:
    scene = pack(
        [
            house((BOX, 0, 1, 0, 2, 1, 3, 0)),
            house((SPHERE, 0, 1, 0, 2, 2, 2, 0)),
            house((CYLINDER, 0, 1, 0, 2, 1, 2, 0)),
        ],
        TABLE,
        DEVICE,
    )
    eye = torch.tensor([[0.5, 1.0, 0.0]], device=DEVICE).expand(3, 3)
    yaw, pitch = torch.full((2, 3), -math.pi / 2, device=DEVICE)
    seen = ray_cast(scene, torch.arange(3, device=DEVICE), eye, yaw, pitch * 0, ONE, backend)
    torch.testing.assert_close(seen.depth_BIJ.flatten().cpu(), torch.tensor([1.5, 1.5, 1.5]))
    seen = ray_cast(scene, torch.arange(3, device=DEVICE), eye, yaw * 0, pitch, ONE, backend)
    want = torch.tensor([1.0, math.sqrt(4 - 0.25), 1.0])
    torch.testing.assert_close(seen.depth_BIJ.flatten().cpu(), want)
    assert seen.semantic_BIJ.flatten().tolist() == [1, 1, 1]


def test_in_a_house_of_nothing_nothing_is_seen(backend: str) -> None:
    scene = pack([house((BOX, 0, 0, -2, 9, 9, 0.5, 0))], TABLE, DEVICE)
    with_nothing = scene._replace(first_H1=torch.cat([scene.first_H1[:1], scene.first_H1]))
    eye, angle = torch.zeros(3, 3, device=DEVICE), torch.zeros(3, device=DEVICE)
    seen = ray_cast(with_nothing, torch.tensor([0, 1, 0], device=DEVICE), eye, angle, angle, View(5, 7), backend)
    assert seen.depth_BIJ[1].min().item() == pytest.approx(1.5)
    for part in seen:
        assert part[1].all()
        assert not part[[0, 2]].any()


def test_far_is_the_last_depth(backend: str) -> None:
    scene = pack([house((BOX, 0, 0, -3, 5, 5, 1, 0))], TABLE, DEVICE)
    assert look(scene, (0, 0, 0), 0, 0, View(5, 5, 60.0, 2.001), backend).semantic_BIJ.all()
    beyond = look(scene, (0, 0, 0), 0, 0, View(5, 5, 60.0, 1.999), backend)
    assert not any(part.any() for part in beyond)


def test_edges_that_meet_leave_no_gap(backend: str) -> None:
    """Rays along the edges of boxes, along their faces, and through the corner that two of them share."""
    cell = [(BOX, x, 0, -3, 0.5, 0.5, 0.5, 0) for x in (-1.5, -0.5, 0.5, 1.5)]
    scene = pack([house(*cell)], TABLE, DEVICE)
    for eye in ((0.0, 0.0, 0.0), (1.0, 0.25, 0.0), (-1.0, -0.25, 0.0)):
        seen = look(scene, eye, 0, 0, View(1, 9, 40.0), backend)
        torch.testing.assert_close(seen.depth_BIJ, torch.full_like(seen.depth_BIJ, 2.5))
    level = look(
        scene, (0.0, 0.5, 0.0), 0, 0, ONE, backend
    )  # grazes the tops: the depth is that of their edge, or none
    assert level.depth_BIJ.item() in (0.0, 2.5)


def test_of_two_solids_in_one_place_the_first_is_seen(backend: str) -> None:
    twins = [(BOX, 0, 0, -3, 5, 5, 1, 0)] * 2 + [(SPHERE, 0, 0, 3, 1, 1, 1, 0)] * 2
    scene = pack([house(*twins)], TABLE, DEVICE)
    for yaw, label in ((0, 1), (180, 3)):
        seen = look(scene, (0, 0, 0), yaw, 0, View(9, 9, 30.0), backend).semantic_BIJ
        assert seen.unique().tolist() == [label]


def random_scene(seed: int) -> House:
    """Forty solids about the origin, a few of them not turned or turned by quarters."""
    draw = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (40,), generator=draw)
    centre = torch.randn(40, 3, generator=draw) * torch.tensor([3.0, 1.0, 3.0])
    half = 0.1 + 0.5 * torch.rand(40, 3, generator=draw)
    half[kind == CYLINDER, 2] = half[kind == CYLINDER, 0]
    half[kind == SPHERE] = half[kind == SPHERE, :1]
    yaw = torch.rand(40, generator=draw) * 7
    yaw[:10] = torch.randint(4, (10,), generator=draw) * (math.pi / 2)
    label = torch.arange(40)
    return House(kind.to(torch.int8), centre, half, yaw, label % len(TABLE), label + 1)


@pytest.mark.parametrize("size", [(7, 9), (16, 16), (21, 40)], ids=str)
def test_backends_show_random_solids_as_the_definition_does(backend: str, size: tuple[int, int]) -> None:
    """Cameras everywhere, some inside of solids, at all pitches; the definition in float64."""
    scene = pack([random_scene(seed) for seed in range(4)], TABLE, DEVICE)
    draw = torch.Generator().manual_seed(size[0])
    eye = (torch.randn(12, 3, generator=draw) * torch.tensor([2.0, 0.5, 2.0])).to(DEVICE)
    yaw, pitch = ((torch.rand(2, 12, generator=draw) - 0.5) * torch.tensor([[7.0], [3.0]])).to(DEVICE)
    pitch[:4] = 0
    yaw[:4] = torch.arange(4) * (math.pi / 2)
    which = torch.arange(12, device=DEVICE) % 4
    view = View(*size, 100.0, 8.0)
    want = ray_cast(scene, which, eye.double(), yaw, pitch, view, "reference")
    got = ray_cast(scene, which, eye, yaw, pitch, view, backend)
    assert 0.1 < (want.depth_BIJ > 0).float().mean() < 1
    # The table of ties: a pixel on an edge may go either way; here hardly any does.
    bench.compare(got, want, ties=1.5e-3)


def test_backends_show_rooms_as_the_definition_does(backend: str) -> None:
    scene = pack([bench.rooms(seed) for seed in range(3)], bench.MATERIALS, DEVICE)
    which, eye, yaw, pitch = (part.to(DEVICE) for part in bench.cameras(4, 3))
    view = View(20, 36, 90.0)
    want = ray_cast(scene, which, eye.double(), yaw, pitch, view, "reference")
    bench.compare(ray_cast(scene, which, eye, yaw, pitch, view, backend), want)
    assert (want.depth_BIJ > 0).all()  # rooms are closed


def test_rows_are_independent(backend: str) -> None:
    scene = pack([random_scene(seed) for seed in range(3)], TABLE, DEVICE)
    draw = torch.Generator().manual_seed(5)
    eye, yaw = torch.randn(6, 3, generator=draw).to(DEVICE), torch.randn(6, generator=draw).to(DEVICE)
    which, pitch, view = torch.arange(6, device=DEVICE) % 3, yaw * 0.1, View(8, 8)
    whole = ray_cast(scene, which, eye, yaw, pitch, view, backend)
    order = torch.tensor([4, 1, 3], device=DEVICE)
    some = ray_cast(scene, which[order], eye[order], yaw[order], pitch[order], view, backend)
    for one, other in zip(some, whole, strict=True):
        assert torch.equal(one, other[order])


def test_solids_in_one_plane_show_the_first(backend: str) -> None:
    """Fronts of different sizes in one plane, the smaller one first or last; the nearest of all comes last."""
    small, large = (BOX, 0.25, 0, -3, 0.5, 0.5, 1, 0), (BOX, 0, 0, -4, 5, 5, 2, 0)
    near = (BOX, 0, 3, -2, 9, 0.5, 1, 0)
    for rows, shown in (((small, large, near), [1, 2, 3]), ((large, small, near), [1, 3])):
        seen = look(pack([house(*rows)], TABLE, DEVICE), (0, 0, 0), 0, 0, View(80, 80, 120.0), backend)
        assert [label for label in seen.semantic_BIJ.unique().tolist() if label] == shown


@pytest.mark.parametrize("size", [(70, 33), (8, 130)], ids=str)
def test_numba_shows_large_views_as_the_definition_does(size: tuple[int, int]) -> None:
    scene, view = pack([random_scene(seed) for seed in range(2)], TABLE), View(*size, 90.0)
    draw = torch.Generator().manual_seed(1)
    eye, yaw = torch.randn(4, 3, generator=draw), torch.randn(4, generator=draw)
    which = torch.arange(4) % 2
    want = ray_cast(scene, which, eye.double(), yaw, yaw * 0.3, view, "reference")
    bench.compare(ray_cast(scene, which, eye, yaw, yaw * 0.3, view, "numba"), want)


def test_many_threads_say_what_one_says() -> None:
    """Nine cameras are enough pixels for three threads; calls from threads of Python at once say it too."""
    scene, view = pack([bench.rooms(0)], bench.MATERIALS), View(120, 120)
    at = bench.cameras(9, 1)
    alone = ray_cast(scene, *at, view, "numba")
    torch.set_num_threads(3)
    try:
        shared = [ray_cast(scene, *at, view, "numba")]
        with ThreadPoolExecutor(3) as threads:
            shared += threads.map(lambda _: ray_cast(scene, *at, view, "numba"), range(3))
    finally:
        torch.set_num_threads(1)
    for seen in shared:
        assert all(torch.equal(one, other) for one, other in zip(alone, seen, strict=True))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_child_processes_cast_rays_too(start: str) -> None:
    """After the parent has used its threads, which a forked child has not."""
    code = f"""
import multiprocessing, torch, zlib
from mnemic.kernels.ray_cast import View, bench, pack, ray_cast

torch.set_num_threads(2)
scene, at = pack([bench.rooms(0)], bench.MATERIALS), bench.cameras(9, 1)  # PyTorch's own threads do not survive a fork

def depths():
    return zlib.crc32(ray_cast(scene, *at, View(120, 120), "numba").depth_BIJ.numpy())

if __name__ == "__main__":
    here = depths()
    with multiprocessing.get_context({start!r}).Pool(1) as pool:
        print(here == pool.apply_async(depths).get(60))
"""
    with tempfile.TemporaryDirectory() as folder:
        (script := Path(folder) / "cast.py").write_text(code)
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "True"


def test_what_cannot_be_kept_is_compiled_all_the_same() -> None:
    module: dict[str, Any] = {}
    exec("def double(x): return 2 * x", module)  # of no file, so that there is no folder beside it
    assert compiled(module["double"])(4) == 8


def test_what_is_exact_rounds_every_product_and_every_sum() -> None:
    def share(a, b, c):
        return a * b + c

    a, b = 1 + 2.0**-30, 1 - 2.0**-30
    assert compiled(share, exact=True)(a, b, -1.0) == 0.0, "the product is 1 - 2^-60, and so is rounded to 1"


def test_numba_leaves_other_types_to_the_definition() -> None:
    assert OP.default(torch.zeros(1)) == "numba"
    assert OP.default(torch.zeros(1, dtype=torch.float64)) == "reference"
    assert OP.refusal("numba", torch.zeros(1, device="meta")) == "it is for CPUs"


def test_no_camera_sees_nothing(backend: str) -> None:
    scene = pack([house((BOX, 0, 0, -3, 5, 5, 1, 0))], TABLE, DEVICE)
    none = torch.zeros(0, device=DEVICE)
    seen = ray_cast(scene, none.long(), none.view(0, 3), none, none, View(3, 5), backend)
    assert [tuple(part.shape) for part in seen] == [(0, 3, 5), (0, 3, 5), (0, 3, 5, 3)]


def test_patterns_by_hand() -> None:
    """Points in metres on materials of scale 0.3, red from 51 to 230 by the share of the second colour."""

    def red(pattern: str, u: float, v: float) -> int:
        row = torch.tensor(TABLE[list(PATTERNS).index(pattern)])
        return int(texture.colour(row, torch.tensor(u), torch.tensor(v))[0])

    assert [red("plain", u, 0.1) for u in (0.1, 0.4)] == [51, 51]
    assert [red("checker", u, v) for u, v in ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4))] == [51, 230, 51, 230]
    assert [red("stripes", u, v) for u, v in ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.7, 0.1))] == [51, 230, 230, 51]
    # Bricks of 0.3 m x 0.12 m with joints to the left and below; the next row lies half a brick further.
    assert red("bricks", 0.001, 0.06) == red("bricks", 0.1, 0.001) == red("bricks", 0.151, 0.18) == 230
    assert max(red("bricks", 0.1, 0.06), red("bricks", 0.001, 0.18)) < 51 + 0.36 * 179
    noise = {red("noise", 0.3 * k + 0.1, 0.1) for k in range(50)}
    assert len(noise) > 30
    assert max(noise) - min(noise) > 120


def test_angles_are_those_of_atan2() -> None:
    turn = torch.linspace(-3.14, 3.14, 999)
    torch.testing.assert_close(texture.angle(turn.sin() * 3, turn.cos() * 3), turn, rtol=0, atol=2e-5)
    assert texture.angle(torch.zeros(1), torch.zeros(1)).item() == 0


def test_bad_input_is_refused() -> None:
    box = house((BOX, 0, 0, -3, 5, 5, 1, 0))
    with pytest.raises(ValueError, match="no house came"):
        pack([], TABLE)
    with pytest.raises(ValueError, match="a kind is 3; 0 box"):
        pack([house((3, 0, 0, -3, 5, 5, 1, 0))], TABLE)
    with pytest.raises(ValueError, match="a kind is -1; 0 box"):
        pack([box._replace(kind_S=torch.tensor([-1]))], TABLE)
    with pytest.raises(ValueError, match="a solid has no extent"):
        pack([house((BOX, 0, 0, -3, 5, 0, 1, 0))], TABLE)
    with pytest.raises(ValueError, match="a solid has material 9; there are 6"):
        pack([box._replace(material_S=torch.tensor([9]))], TABLE)
    with pytest.raises(ValueError, match="a solid has material -2; there are 6, from 0"):
        pack([box._replace(material_S=torch.tensor([-2]))], TABLE)
    with pytest.raises(ValueError, match="house 1 has no solids"):
        pack([box, House(*(part[:0] for part in box))], TABLE)
    with pytest.raises(ValueError, match="unknown pattern 'dots'"):
        material((0, 0, 0), (1, 1, 1), "dots", 1.0)
    with pytest.raises(ValueError, match="scale is 0"):
        material((0, 0, 0), (1, 1, 1), "plain", 0)
    with pytest.raises(ValueError, match="in 0"):
        material((0, 0, 255), (1, 1, 1), "plain", 1)
    scene, zero = pack([box], TABLE), torch.zeros(2)
    with pytest.raises(ValueError, match=r"eye \(B, 3\)"):
        ray_cast(scene, zero.long(), zero, zero, zero, ONE)
    for strayed in range(4):
        at = [zero.long(), torch.zeros(2, 3), zero, zero]
        at[strayed] = at[strayed].to("meta")
        with pytest.raises(ValueError, match=r"cameras and houses are on cpu and meta; move them to one device"):
            ray_cast(scene, *at, ONE)
    for view, words in (
        (View(0, 3), "0 x 3 pixels"),
        (View(3, 3, 180), "hfov is 180"),
        (View(3, 3, far=0), "far is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            ray_cast(scene, zero.long(), torch.zeros(2, 3), zero, zero, view)
    scene, zero, eye = pack([box], TABLE, DEVICE), zero.to(DEVICE), torch.zeros(2, 3, device=DEVICE)
    with pytest.raises(ValueError, match=r"cannot run here: it computes in float32; what can: .*reference"):
        ray_cast(scene, zero.long(), eye.double(), zero, zero, ONE, "triton")
