import heapq
import math
import subprocess
import sys

import numpy as np
import pytest

from mnemic.envs.houses import House, generate, geodesic_field, viewpoints
from mnemic.envs.houses.house import BOX, CYLINDER
from mnemic.envs.houses.navigable import DIAGONAL, KNIGHT, STRAIGHT, free_floor, pieces
from mnemic.envs.houses.parts import Row

SIZE = (6.0, 5.0)
BOXES = [(2.0, 1.0, 0.1, 2.0), (4.0, 3.5, 0.1, 1.5), (2.6, 4.0, 0.5, 0.2), (5.0, 1.3, 0.4, 0.3)]
"""Middle and half extents along x and z of what stands in a room."""


def standing(x: float, z: float, half_x: float, half_z: float, yaw: float = 0.0, kind: int = BOX) -> Row:
    return (kind, x, 0.5, z, half_x, 0.5, half_z, yaw, 0, 0)


def dijkstra(navigable: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """The same distances, cell by cell."""
    distance = np.full(navigable.shape, np.inf)
    queue = [(0.0, i, j) for i, j in zip(*(part.tolist() for part in np.nonzero(goals & navigable)), strict=True)]
    for _, i, j in queue:
        distance[i, j] = 0.0

    def open_at(i: int, j: int) -> bool:
        return 0 <= i < navigable.shape[0] and 0 <= j < navigable.shape[1] and bool(navigable[i, j])

    while queue:
        so_far, i, j = heapq.heappop(queue)
        for di, dj in (*STRAIGHT, *DIAGONAL, *KNIGHT):
            half_i, half_j = int(di / 2), int(dj / 2)
            past = [(half_i, half_j), (di - half_i, dj - half_j)] if abs(di) + abs(dj) == 3 else [(di, 0), (0, dj)]
            there = so_far + math.hypot(di, dj)
            if all(open_at(i + a, j + b) for a, b in [*past, (di, dj)]) and there < distance[i + di, j + dj] - 1e-9:
                distance[i + di, j + dj] = there
                heapq.heappush(queue, (there, i + di, j + dj))
    return distance


def straight_lines(free: np.ndarray) -> np.ndarray:
    """How far free cells are from each other in a straight line that touches free cells only, (N, N); else infinite."""
    cells = np.argwhere(free).astype(float)
    away = cells[None] - cells[:, None]
    length = np.hypot(away[..., 0], away[..., 1])
    per = 1.0 / np.where(away == 0, 1e-12, away)
    for shut in np.argwhere(~np.pad(free, 1)) - 1:
        middle, reach = (shut - cells)[:, None] * per, np.abs(0.5 * per)
        enter, leave = (middle - reach).max(-1), (middle + reach).min(-1)
        # Equal where the line passes the corner.
        length[(np.maximum(enter, 0) <= np.minimum(leave, 1) + 1e-9)] = np.inf
    return length


def test_fields_are_between_the_shortest_ways_and_those_by_steps_to_sixteen_neighbours() -> None:
    rng = np.random.default_rng(0)
    longer = []
    for share in (0.7, 0.9, 0.97, 1.0):
        free = rng.random((17, 21)) < share
        goals = rng.random((3, 17, 21)) < 0.01
        line_NN = straight_lines(free)
        for field, goal in zip(geodesic_field(free, goals, 0.1), goals, strict=True):
            assert np.array_equal(np.isfinite(field), np.isfinite(dijkstra(free, goal)))
            assert (field <= dijkstra(free, goal) * 0.1 + 1e-5).all()
            shortest = np.where(goal[free], 0.0, np.inf)
            for _ in range(60):
                shortest = np.minimum(shortest, (shortest[:, None] + line_NN).min(0))
            found, there = field[free] / 0.1, np.isfinite(shortest) & (shortest > 0)
            assert (found[there] >= shortest[there] - 1e-4).all()
            longer.append(found[there] / shortest[there] - 1)
    assert np.concatenate(longer).mean() < 0.005
    assert np.concatenate(longer).max() < 0.05


def test_in_the_open_ways_are_straight() -> None:
    goal = np.zeros((1, 30, 40), dtype=bool)
    goal[0, 7, 11] = True
    i, j = np.indices((30, 40))
    field = geodesic_field(np.ones((30, 40), dtype=bool), goal, 0.1)
    np.testing.assert_allclose(field[0], 0.1 * np.hypot(i - 7, j - 11), atol=1e-5)


def test_pieces_are_numbered_by_size() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        free = rng.random(rng.integers(1, 25, 2)) < rng.random()
        piece = pieces(free)
        assert np.array_equal(piece > 0, free)
        sizes = np.bincount(piece.ravel())[1:]
        assert (np.diff(sizes) <= 0).all()
        # Neighbours share a number, and what shares a number is joined.
        for one, other in ((piece[1:], piece[:-1]), (piece[:, 1:], piece[:, :-1])):
            both = (one > 0) & (other > 0)
            assert np.array_equal(one[both], other[both])
        for number in range(1, len(sizes) + 1):
            start = np.zeros_like(free)
            start[tuple(np.argwhere(piece == number)[0])] = True
            assert np.array_equal(np.isfinite(dijkstra(free, start)), piece == number)


def distances_to_boxes(points: np.ndarray) -> np.ndarray:
    """How far points are from the nearest box."""
    away = [
        np.hypot(np.maximum(abs(points[..., 0] - x) - a, 0), np.maximum(abs(points[..., 1] - z) - b, 0))
        for x, z, a, b in BOXES
    ]
    return np.min(away, axis=0)


def true_distances(start: np.ndarray, goal: np.ndarray, radius: float) -> np.ndarray:
    """The shortest ways of a disc by a visibility graph over points on the arcs around the corners of all boxes."""
    turns = np.arange(0, 2 * np.pi, np.pi / 12)
    ring = radius * 1.005 * np.stack([np.cos(turns), np.sin(turns)], 1)
    corners = np.array([(x + s * a, z + t * b) for x, z, a, b in BOXES for s in (-1, 1) for t in (-1, 1)])
    nodes = (corners[:, None] + ring).reshape(-1, 2)
    inside = (nodes > radius).all(1) & (nodes < np.array(SIZE) - radius).all(1)
    nodes = np.concatenate([goal[None], nodes[inside & (distances_to_boxes(nodes) >= radius)], start])
    share = np.linspace(0, 1, 200)[:, None]
    length = np.full((len(nodes), len(nodes)), np.inf)
    for node, point in enumerate(nodes):
        line = point + share[:, None] * (nodes - point)
        clear = (distances_to_boxes(line) >= radius - 2e-3).all(0)
        length[node, clear] = np.hypot(*(nodes - point).T)[clear]
    distance = length[0].copy()
    for _ in range(12):
        distance = np.minimum(distance, (distance[:, None] + length).min(0))
    return distance[len(nodes) - len(start) :]


@pytest.mark.parametrize("cell", [0.05, 0.1])
def test_ways_are_as_long_as_the_shortest_of_all(cell: float) -> None:
    radius = 0.15
    walls = [(3.0, -0.05, 3.0, 0.05), (3.0, 5.05, 3.0, 0.05), (-0.05, 2.5, 0.05, 2.5), (6.05, 2.5, 0.05, 2.5)]
    free = free_floor(SIZE, [standing(*part) for part in BOXES + walls], cell, radius, 1.5)
    rng = np.random.default_rng(2)
    i, j = np.nonzero(free)
    chosen = np.r_[0, rng.choice(len(i), 60, replace=False)]  # the goal is in the corner
    goal = np.zeros((1, *free.shape), dtype=bool)
    goal[0, i[chosen[0]], j[chosen[0]]] = True
    points = np.stack([(j[chosen] + 0.5) * cell, (i[chosen] + 0.5) * cell], 1)
    got = geodesic_field(free, goal, cell)[0, i[chosen[1:]], j[chosen[1:]]]
    want = true_distances(points[1:], points[0], radius)
    straight = np.hypot(*(points[1:] - points[0]).T)
    assert (want > straight + 1.0).sum() >= 10, "some ways lead around the walls"
    assert (np.abs(got - want) <= np.maximum(0.05 * want, 0.1)).all()


def test_the_floor_is_free_where_a_disc_fits() -> None:
    rows = [standing(2.0, 2.0, 0.5, 0.25, yaw=0.6), standing(4.0, 3.0, 0.4, 0.4, kind=CYLINDER)]
    high = (BOX, 1.0, 2.3, 4.0, 0.5, 0.2, 0.5, 0.0, 0, 0)
    flat = (BOX, 5.0, 0.02, 1.0, 0.5, 0.02, 0.5, 0.0, 0, 0)
    free = free_floor(SIZE, [*rows, high, flat], 0.05, 0.2, 1.5)
    z, x = (np.indices(free.shape) + 0.5) * 0.05
    along, across = np.array([math.cos(0.6), -math.sin(0.6)]), np.array([math.sin(0.6), math.cos(0.6)])
    out = [abs((x - 2) * way[0] + (z - 2) * way[1]) - half for way, half in ((along, 0.5), (across, 0.25))]
    far = np.hypot(np.maximum(out[0], 0), np.maximum(out[1], 0)) >= 0.2
    assert np.array_equal(free, far & (np.hypot(x - 4, z - 3) >= 0.6))
    assert free[80, 20], "what hangs high is walked under"
    assert free[20, 100], "what is flat is walked over"


def test_numba_is_imported_by_those_who_make_houses() -> None:
    """Its import takes its time: commands that need no house should not wait for it."""
    code = "import sys, mnemic.envs.object_nav; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_no_way_is_infinite_and_other_grids_are_refused() -> None:
    free = np.ones((6, 9), dtype=bool)
    free[:, 4] = False
    goals = np.zeros((2, 6, 9), dtype=bool)
    goals[0, 2, 1] = goals[1, 2, 4] = True
    field = geodesic_field(free, goals, 0.1)
    assert field.dtype == np.float32
    assert np.isfinite(field[0]).sum() == 6 * 4
    assert np.isinf(field[1]).all(), "a goal in a wall is none"
    with pytest.raises(ValueError, match=r"^geodesic_field: goals are \(2, 6, 9\)"):
        geodesic_field(free[1:], goals, 0.1)


@pytest.fixture(scope="module")
def house() -> House:
    return generate(1)


def test_things_are_seen_past_what_is_low_and_not_through_what_is_high(house: House) -> None:
    """Every line from a viewpoint is followed step by step, and meets no solid but the thing's own."""
    solids = house.solids
    centre, half, yaw = solids.centre_S3.numpy(), solids.half_S3.numpy(), solids.yaw_S.numpy()
    share = np.linspace(0, 1, 400)[:, None, None]
    for thing in house.things[::6]:
        seen = viewpoints(house, thing)
        z, x = (np.indices(seen.shape) + 0.5) * house.cell
        near = house.navigable_IJ & (np.hypot(x - thing.centre[0], z - thing.centre[2]) <= 2.0)
        others = ~np.isin(np.arange(len(yaw)), np.r_[thing.solids])
        wrong = 0
        for i, j in np.argwhere(near)[::40]:
            eye = np.array([x[i, j], 1.25, z[i, j]])
            away = eye + share * (np.array(thing.centre) - eye) - centre[others]
            turned = np.stack(
                [
                    away[..., 0] * np.cos(yaw[others]) - away[..., 2] * np.sin(yaw[others]),
                    away[..., 1],
                    away[..., 0] * np.sin(yaw[others]) + away[..., 2] * np.cos(yaw[others]),
                ],
                -1,
            )
            wrong += bool((abs(turned) < half[others]).all(-1).any()) == seen[i, j]
        # A line that only just touches something can fall between two steps.
        assert wrong <= 1
        assert not (seen & ~near).any()
