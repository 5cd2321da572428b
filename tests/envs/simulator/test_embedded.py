"""The simulator of this package: steps by hand on a bare floor, walks through homes, pictures and ways."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from mnemic.envs.houses import House, HouseConfig, generate
from mnemic.envs.houses.navigable import geodesic_field
from mnemic.envs.random import Stream
from mnemic.envs.simulator import ACTIONS, Agents, Embedded, Motion, Pose
from mnemic.kernels.ray_cast import View, ray_cast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STOP, FORWARD, LEFT, RIGHT, UP, DOWN = range(6)
CELL = 0.1


@pytest.fixture(scope="module")
def homes() -> list[House]:
    return [generate(seed, HouseConfig(max_rooms=4)) for seed in range(3)]


class Walk(NamedTuple):
    """Random actions from random places, mostly forward; T steps."""

    agents: list[Agents]
    hits: list[Tensor]
    actions: list[Tensor]


def walk(sim: Embedded, house_B: Tensor, steps: int, first_row: int = 0) -> Walk:
    stream = Stream.seeded(3, len(house_B), DEVICE, first_row)
    agents = [sim.spawn(house_B, stream.uniform(0, 2))]
    hits, actions = [], []
    for t in range(steps):
        now = stream._replace(clock=stream.clock + t + 1)
        actions.append(torch.where(now.uniform(1) < 0.4, FORWARD, now.integers(2, len(ACTIONS))))
        after, hit = sim.move(agents[-1], actions[-1])
        agents.append(after)
        hits.append(hit)
    return Walk(agents, hits, actions)


@pytest.fixture(scope="module")
def walked(homes: list[House]) -> tuple[Embedded, Walk]:
    sim = Embedded(homes, DEVICE)
    return sim, walk(sim, torch.arange(48, device=DEVICE) % 3, 150)


def floor(home: House, free_IJ: np.ndarray) -> House:
    return replace(home, cell=CELL, navigable_IJ=free_IJ)


def stand(sim: Embedded, x: float, z: float, degrees: float, pitch: float = 0.0) -> Agents:
    turned = torch.tensor([math.radians(degrees)]), torch.tensor([math.radians(pitch)])
    return sim.place(torch.zeros(1, dtype=torch.int64), Pose(torch.tensor([[x, 0.0, z]]), *turned))


def act(sim: Embedded, agents: Agents, action: int) -> tuple[Agents, bool]:
    after, hit_B = sim.move(agents, torch.full_like(agents.house_B, action))
    return after, bool(hit_B.all())


@pytest.mark.parametrize(
    ("degrees", "x", "z"), [(0, 0, -1), (90, -1, 0), (180, 0, 1), (-90, 1, 0), (30, -0.5, -math.sqrt(0.75))]
)
def test_a_step_goes_where_the_agent_looks(homes: list[House], degrees: float, x: float, z: float) -> None:
    sim = Embedded([floor(homes[0], np.ones((40, 40), dtype=bool))], DEVICE)
    after, hit = act(sim, stand(sim, 2.0, 2.0, degrees), FORWARD)
    want = torch.tensor([[2.0 + 0.25 * x, 0.0, 2.0 + 0.25 * z]])
    torch.testing.assert_close(after.pose.position_B3.cpu(), want, rtol=0, atol=1e-6)
    assert not hit


def test_turns_and_looks(homes: list[House]) -> None:
    sim = Embedded([floor(homes[0], np.ones((40, 40), dtype=bool))], DEVICE)
    agents = stand(sim, 2.0, 2.0, 150)
    yaws = []
    for action in (LEFT, LEFT, RIGHT, STOP):
        agents, hit = act(sim, agents, action)
        assert not hit
        yaws.append(math.degrees(agents.pose.yaw_B.item()))
    assert yaws == pytest.approx([-180, -150, -180, -180], abs=1e-3) or yaws == pytest.approx(
        [180, -150, 180, 180], abs=1e-3
    )
    pitches = []
    for action in (UP, UP, DOWN, DOWN, DOWN, DOWN):  # from 30 up to 60 down
        agents, _ = act(sim, agents, action)
        pitches.append(math.degrees(agents.pose.pitch_B.item()))
    assert pitches == pytest.approx([30, 30, 0, -30, -60, -60], abs=1e-3)
    assert agents.pose.position_B3.tolist() == [[2.0, 0.0, 2.0]]


def test_along_a_wall_an_agent_slides_by_what_points_along_it(homes: list[House]) -> None:
    """Nothing beyond x = 2: at 30 degrees to the wall all of the part along z is made, and x comes near the wall."""
    free_IJ = np.ones((40, 40), dtype=bool)
    free_IJ[:, 20:] = False
    sim = Embedded([floor(homes[0], free_IJ)], DEVICE)
    agents = stand(sim, 1.95, 2.0, -60)  # looks to +x and a little to -z
    for step in range(1, 5):
        agents, hit = act(sim, agents, FORWARD)
        assert hit
        x, _, z = agents.pose.position_B3[0].tolist()
        assert z == pytest.approx(2.0 - step * 0.25 * math.cos(math.radians(60)), abs=1e-5)
        assert 1.95 <= x < 2.0
    agents, hit = act(sim, stand(sim, 1.95, 2.0, -90), FORWARD)  # straight at it
    assert hit
    assert agents.pose.position_B3[0, 2].item() == pytest.approx(2.0, abs=1e-6)


def test_without_sliding_an_agent_stops_at_what_it_meets(homes: list[House]) -> None:
    """Nothing beyond x = 2, 0.105 m away; a step is made in five pieces of 0.05 m."""
    free_IJ = np.ones((40, 40), dtype=bool)
    free_IJ[:, 20:] = False
    sim = Embedded([floor(homes[0], free_IJ)], DEVICE, motion=Motion(sliding=False))
    for degrees, pieces in ((-90, 2), (-60, 2), (-30, 4), (0, 5)):
        start = stand(sim, 1.895, 2.0, degrees)
        agents, hit = act(sim, start, FORWARD)
        assert hit == (pieces < 5)
        length, yaw = 0.05 * pieces, math.radians(degrees)
        want = [1.895 - length * math.sin(yaw), 0.0, 2.0 - length * math.cos(yaw)]
        assert agents.pose.position_B3[0].tolist() == pytest.approx(want, abs=1e-5)
        again, _ = act(sim, agents, FORWARD)
        assert (again.pose.position_B3[0, 0] < 2.0).item()
        if hit:
            assert torch.equal(again.pose.position_B3, agents.pose.position_B3)


def test_no_step_goes_through_a_wall_of_one_cell_or_between_two_corners(homes: list[House]) -> None:
    thin_IJ = np.ones((40, 40), dtype=bool)
    thin_IJ[:, 20] = False
    sim = Embedded([floor(homes[0], thin_IJ)], DEVICE)
    agents = stand(sim, 1.99, 2.0, -90)
    for _ in range(5):
        agents, _ = act(sim, agents, FORWARD)
    assert agents.pose.position_B3[0, 0].item() < 2.0
    corners_IJ = np.zeros((40, 40), dtype=bool)
    corners_IJ[20:, 20:] = corners_IJ[:20, :20] = True  # two rooms that share a corner and no side
    sim = Embedded([floor(homes[0], corners_IJ)], DEVICE)
    agents = stand(sim, 2.01, 2.01, 45)
    for _ in range(5):
        agents, _ = act(sim, agents, FORWARD)
    assert agents.pose.position_B3[0, [0, 2]].min().item() >= 2.0


def test_walks_stay_on_the_floor_outside_of_solids(walked: tuple[Embedded, Walk], homes: list[House]) -> None:
    """No feet, knees or eyes in a solid: by the solids themselves, not by the grid."""
    _, steps = walked
    for row in range(0, 48, 5):
        kind, centre, half, yaw = (part.double() for part in homes[row % 3].solids[:4])
        for agents in steps.agents[::6]:
            for up in (0.06, 0.4, 1.25):
                at = agents.pose.position_B3[row].cpu().double() + torch.tensor([0.0, up, 0.0]) - centre
                x = at[:, 0] * yaw.cos() - at[:, 2] * yaw.sin()
                z = at[:, 0] * yaw.sin() + at[:, 2] * yaw.cos()
                box = (x.abs() < half[:, 0]) & (at[:, 1].abs() < half[:, 1]) & (z.abs() < half[:, 2])
                tube = (x**2 + z**2 < half[:, 0] ** 2) & (at[:, 1].abs() < half[:, 1])
                ball = at.square().sum(1) < half[:, 0] ** 2
                inside = torch.where(kind == 0, box, torch.where(kind == 1, tube, ball))
                assert not inside.any(), f"row {row}, solid {inside.nonzero().tolist()}"


def test_steps_are_as_long_as_they_may_be(walked: tuple[Embedded, Walk]) -> None:
    _, steps = walked
    slid = full = 0
    for before, after, hit, action in zip(steps.agents, steps.agents[1:], steps.hits, steps.actions, strict=False):
        length = (after.pose.position_B3 - before.pose.position_B3).norm(dim=1)
        assert length.max() <= 0.25 + 1e-5
        assert (length[action != FORWARD] == 0).all()
        assert not hit[action != FORWARD].any()
        free = (action == FORWARD) & ~hit
        torch.testing.assert_close(length[free], torch.full_like(length[free], 0.25), rtol=1e-5, atol=0)
        slid += int((hit & (length > 0.02)).sum())
        full += int(free.sum())
    assert slid > 100
    assert full > 500


def test_rows_do_not_know_of_each_other(walked: tuple[Embedded, Walk]) -> None:
    sim, whole = walked
    part = walk(sim, torch.arange(10, 14, device=DEVICE) % 3, 150, first_row=10)
    for some, all_of_them in zip(part.agents, whole.agents, strict=True):
        assert all(torch.equal(one, other[10:14]) for one, other in zip(some.pose, all_of_them.pose, strict=True))
    seen, alone = sim.render(whole.agents[-1]), sim.render(part.agents[-1])
    assert all(torch.equal(alone[name], seen[name][10:14]) for name in ("rgb", "depth", "semantic"))


def test_some_agents_can_be_drawn_without_the_others(walked: tuple[Embedded, Walk]) -> None:
    sim, steps = walked
    agents = steps.agents[-1]
    every = sim.render(agents)
    for which_B in (torch.arange(48, device=DEVICE) % 5 == 0, torch.zeros(48, dtype=torch.bool, device=DEVICE)):
        some = sim.render_some(agents, which_B)
        for name, part in some.items():
            assert torch.equal(part[which_B], every[name][which_B])
            assert not part[~which_B].any()


def test_pictures_are_those_of_the_definition_from_the_eye(walked: tuple[Embedded, Walk], homes: list[House]) -> None:
    _, steps = walked
    sim = Embedded(
        homes, DEVICE, view=View(24, 32, 79.0, 6.0), motion=Motion(eye_height=0.88), sensors=("depth", "rgb")
    )
    house_B, (position_B3, yaw_B, pitch_B) = steps.agents[-1]
    got = sim.render(steps.agents[-1])
    assert list(got) == ["depth", "rgb"]
    eye_B3 = position_B3 + torch.tensor([0.0, 0.88, 0.0], device=DEVICE)
    want = ray_cast(sim.scene, house_B, eye_B3.double(), yaw_B, pitch_B, sim.view, "reference")
    apart = (got["depth"] - want.depth_BIJ).abs() > 1e-4 * want.depth_BIJ
    assert apart.float().mean() < 2e-3
    coloured = (got["rgb"].int() - want.rgb_BIJ3.int()).abs().amax(-1) > 1
    assert coloured.float().mean() < 1e-2


def test_things_are_seen_by_their_ids(homes: list[House]) -> None:
    """From its viewpoint, an agent that turns around sees a thing: the id of the instance, at the instance's depth."""
    sim = Embedded(homes[:1], DEVICE)
    thing = homes[0].things[0]
    assert thing.viewpoint is not None
    x, z = thing.viewpoint
    towards = math.degrees(math.atan2(-(thing.centre[0] - x), -(thing.centre[2] - z)))
    flat = math.hypot(thing.centre[0] - x, thing.centre[2] - z)
    seen = sim.render(stand(sim, x, z, towards, math.degrees(math.atan2(thing.centre[1] - 1.25, flat))))
    mine = seen["semantic"][0] == thing.id
    assert mine.any()
    away = math.hypot(flat, thing.centre[1] - 1.25)
    assert seen["depth"][0][mine].min().item() == pytest.approx(away, abs=max(thing.half) * 1.8 + 0.05)


def test_ways_are_those_of_the_fields_and_grow_shorter_towards_the_goal(homes: list[House]) -> None:
    """On a bare floor the way is the straight line."""
    free_IJ = np.ones((40, 40), dtype=bool)
    free_IJ[10:12, 5:] = False  # a wall with a gap on the left
    goal_KIJ = np.zeros((2, 40, 40), dtype=bool)
    goal_KIJ[0, 30, 30] = goal_KIJ[1, 5, 30] = True
    larger = floor(homes[1], np.ones((50, 45), dtype=bool))
    sim = Embedded([floor(homes[0], free_IJ), larger], DEVICE)
    field_FC = sim.pad(geodesic_field(free_IJ, goal_KIJ, CELL))
    assert field_FC.shape == (2, 50 * 45)
    last = math.inf
    agents = stand(sim, 3.05, 1.35, 180)
    for _ in range(6):
        near, round_the_wall = (
            sim.geodesic(agents, field_FC, torch.tensor([field], device=DEVICE)).item() for field in (0, 1)
        )
        straight = 3.05 - agents.pose.position_B3[0, 2].item()
        assert near == pytest.approx(straight, abs=0.02)
        assert near < last
        assert round_the_wall > 4.5  # to the left end of the wall and back
        last = near
        agents, _ = act(sim, agents, FORWARD)
    there = stand(sim, 3.07, 3.04, 0)
    assert sim.geodesic(there, field_FC, torch.tensor([0], device=DEVICE)).item() == 0
    none = torch.full_like(field_FC, torch.inf)
    assert sim.geodesic(there, none, torch.tensor([0], device=DEVICE)).item() == math.inf


def test_no_way_leads_past_a_corner_that_no_agent_gets_past(homes: list[House]) -> None:
    """Two rooms that share a corner and no side, a goal near it in the first and one far away in the second."""
    free_IJ = np.zeros((40, 40), dtype=bool)
    free_IJ[20:, 20:] = free_IJ[:20, :20] = True
    goal_KIJ = np.zeros((1, 40, 40), dtype=bool)
    goal_KIJ[0, 15, 15] = goal_KIJ[0, 35, 35] = True
    sim = Embedded([floor(homes[0], free_IJ)], DEVICE)
    field_FC, which_B = sim.pad(geodesic_field(free_IJ, goal_KIJ, CELL)), torch.tensor([0], device=DEVICE)
    for place, away in ((1.99, 0.44), (2.01, 1.54)):
        way = sim.geodesic(stand(sim, place, place, 0), field_FC, which_B).item()
        assert way == pytest.approx(away * 2**0.5, abs=1e-5)


def test_spawning_takes_all_of_the_floor_evenly(homes: list[House]) -> None:
    free_IJ = np.zeros((40, 40), dtype=bool)
    free_IJ[3, 4] = free_IJ[7, 8] = free_IJ[20, 1] = True
    sim = Embedded([floor(homes[0], free_IJ), floor(homes[1], np.ones((30, 50), dtype=bool))], DEVICE)
    numbers = Stream.seeded(0, 3000, DEVICE).uniform(0, 2)
    agents = sim.spawn(torch.zeros(3000, dtype=torch.int64, device=DEVICE), numbers)
    places, count = agents.pose.position_B3.unique(dim=0, return_counts=True)
    torch.testing.assert_close(places.cpu(), torch.tensor([[0.15, 0, 2.05], [0.45, 0, 0.35], [0.85, 0, 0.75]]))
    assert count.min() > 900
    assert len(agents.pose.yaw_B.unique()) == 12
    last = sim.spawn(torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.full((1, 2), 1 - 2.0**-24, device=DEVICE))
    assert last.pose.position_B3[0].tolist() == pytest.approx([0.15, 0, 2.05])


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
def test_a_cuda_graph_holds_moving_and_rendering(homes: list[House]) -> None:
    sim = Embedded(homes, DEVICE)
    agents = walk(sim, torch.arange(8, device=DEVICE) % 3, 5).agents[-1]
    action_B = torch.full((8,), FORWARD, device=DEVICE)
    want, _ = sim.move(agents, action_B)
    seen = sim.render(want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got, _ = sim.move(agents, action_B)
        pictures = sim.render(got)
    graph.replay()
    assert torch.equal(got.pose.position_B3, want.pose.position_B3)
    assert all(torch.equal(pictures[name], seen[name]) for name in seen)


def test_bad_input_is_refused(homes: list[House]) -> None:
    sim = Embedded(homes[:1], DEVICE)
    with pytest.raises(ValueError, match=r"agent 0 cannot stand at \(-1.00, 0.00, 2.00\) in house 0"):
        stand(sim, -1.0, 2.0, 0)
    with pytest.raises(ValueError, match="there is no house 7; there are 1"):
        sim.place(torch.tensor([7]), Pose(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1)))
    with pytest.raises(ValueError, match="no house came"):
        Embedded([])
    with pytest.raises(ValueError, match="unknown sensor 'lidar'; choose of rgb, depth, semantic"):
        Embedded(homes, sensors=("lidar",))
    with pytest.raises(ValueError, match="cells of"):
        Embedded([homes[0], replace(homes[1], cell=0.05)])
    with pytest.raises(ValueError, match="house 1 has no navigable floor"):
        Embedded([homes[0], floor(homes[1], np.zeros((40, 40), dtype=bool))])
    with pytest.raises(ValueError, match="within"):
        sim.pad(np.zeros((1, 999, 3), dtype=np.float32))
    for options, words in (
        ({"forward": 0}, "forward is 0"),
        ({"turn": 270.0}, "turn is 270"),
        ({"lowest": 40.0}, "tilts go from 40"),
        ({"eye_height": 0.0}, "eye_height is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Motion(**options)
