"""Where a floor can be walked on, how far it is from everywhere to the nearest goal, and from where a thing is seen.

Distances are those of a grid with sixteen neighbours: one step straight (1 cell), diagonal (2^0.5) or like a knight in
chess (5^0.5), none of them past the corner of what cannot be walked on. In the open they exceed the straight line by at
most 2.8 %.

Shapes: I rows (along z) and J columns (along x) of the grid, N navigable cells, K fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .house import BOX, House, Instance
from .parts import Row

STEP_OVER = 0.05
"""What is not higher than this does not stand in the way, metres."""
STRAIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))
DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))
KNIGHT = ((1, 2), (1, -2), (-1, 2), (-1, -2), (2, 1), (2, -1), (-2, 1), (-2, -1))


def free_floor(size: tuple[float, float], rows: Sequence[Row], cell: float, radius: float, height: float) -> np.ndarray:
    """Return where the centre of an upright cylinder can be, (I, J) bool.

    Args:
        size: extents of the floor along x and z, metres.
        rows: the solids.
        cell: side of a cell, metres.
        radius: of the cylinder, metres.
        height: of the cylinder, metres.
    """
    columns, lines = math.ceil(size[0] / cell - 1e-6), math.ceil(size[1] / cell - 1e-6)
    x_J, z_I = (np.arange(columns) + 0.5) * cell, (np.arange(lines) + 0.5) * cell
    free_IJ = np.ones((lines, columns), dtype=bool)
    for kind, x, y, z, half_x, half_y, half_z, yaw, *_ in rows:
        if y - half_y >= height or y + half_y <= STEP_OVER:
            continue
        reach_x = (half_x if not yaw else math.hypot(half_x, half_z)) + radius
        reach_z = (half_z if not yaw else reach_x - radius) + radius
        j = slice(max(0, int((x - reach_x) / cell)), max(0, int((x + reach_x) / cell) + 1))
        i = slice(max(0, int((z - reach_z) / cell)), max(0, int((z + reach_z) / cell) + 1))
        away_x, away_z = x_J[None, j] - x, z_I[i, None] - z
        if kind != BOX:
            free_IJ[i, j] &= away_x * away_x + away_z * away_z >= (half_x + radius) ** 2
            continue
        if yaw:
            cos, sin = math.cos(yaw), math.sin(yaw)
            away_x, away_z = away_x * cos - away_z * sin, away_x * sin + away_z * cos
        out_x, out_z = np.maximum(np.abs(away_x) - half_x, 0.0), np.maximum(np.abs(away_z) - half_z, 0.0)
        free_IJ[i, j] &= out_x * out_x + out_z * out_z >= radius * radius
    return free_IJ


def pieces(free_IJ: np.ndarray) -> np.ndarray:
    """Return the number of the connected piece of each cell, (I, J): 0 where it is not free, 1 in the largest piece."""
    # Runs of free cells along the rows are joined where they touch those of the row before.
    flat = np.pad(free_IJ, ((0, 0), (1, 1))).astype(np.int8).ravel()
    width = free_IJ.shape[1] + 2
    change = np.flatnonzero(np.diff(flat)) + 1
    start, stop = change[::2], change[1::2]
    parent = list(range(len(start)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    # A run touches those of the next row that begin before its end and end after its start.
    first = np.searchsorted(stop, start + width, side="right").tolist()
    last = np.searchsorted(start, stop + width, side="left").tolist()
    for run in range(len(start)):
        for other in range(first[run], last[run]):
            one, two = root(run), root(other)
            parent[max(one, two)] = min(one, two)
    roots = np.array([root(run) for run in range(len(start))], dtype=np.int64)
    cells = np.bincount(roots, weights=stop - start, minlength=1)
    order = np.argsort(-cells, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(1, len(order) + 1)
    steps = np.zeros(len(flat) + 1, dtype=np.int64)
    steps[start] += rank[roots]
    steps[stop] -= rank[roots]
    label: np.ndarray = np.cumsum(steps)[:-1].reshape(-1, width)
    return label[:, 1:-1]


def geodesic_field(navigable_IJ: np.ndarray, goals_KIJ: np.ndarray, cell: float) -> np.ndarray:
    """Return the length of the shortest way from each cell to a goal, (K, I, J) float32, metres.

    It is infinite where no way leads to a goal. All fields are computed at once, which is much faster than one by one.

    Args:
        navigable_IJ: (I, J) bool.
        goals_KIJ: (K, I, J) bool; goals that are not navigable do not count.
        cell: side of a cell, metres.

    Raises:
        ValueError: the goals are not on the same grid.
    """
    if goals_KIJ.ndim != 3 or goals_KIJ.shape[1:] != navigable_IJ.shape:
        raise ValueError(f"geodesic_field: goals are {goals_KIJ.shape}; (fields, {navigable_IJ.shape}) are expected")
    fields, cells = len(goals_KIJ), int(navigable_IJ.sum())
    next_NM, length_M = _neighbours(navigable_IJ)
    # One more cell per field, at distance 0, stands for all that cannot be stepped on: no way to it is ever shorter.
    distance = np.full((fields, cells + 1), np.inf)
    distance[:, :-1][goals_KIJ[:, navigable_IJ]] = 0.0
    waiting = np.flatnonzero(distance == 0.0)
    distance[:, -1] = 0.0
    flat = distance.ravel()
    seen = np.zeros(fields * (cells + 1), dtype=np.int64)
    while len(waiting):
        # Ways that are not a full cell longer than the shortest cannot become shorter: no step is shorter than that.
        near = flat[waiting] < flat[waiting].min() + 1.0
        now, waiting = waiting[near], waiting[~near]
        seen[now] = np.arange(len(now))
        now = now[seen[now] == np.arange(len(now))]
        field, at = np.divmod(now, cells + 1)
        to = (next_NM[at] + (field * (cells + 1))[:, None]).ravel()
        way = (flat[now][:, None] + length_M).ravel()
        better = way < flat[to]
        to, way = to[better], way[better]
        np.minimum.at(flat, to, way)
        # Of several ways to the same cell the shortest is what stays.
        waiting = np.concatenate([waiting, to[flat[to] == way]])
    found = np.full(goals_KIJ.shape, np.inf, dtype=np.float32)
    found[:, navigable_IJ] = distance[:, :-1] * cell
    return found


def _neighbours(navigable_IJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the navigable cells that each of them has as neighbours, (N, 16), N for none, and how far they are."""
    cells = int(navigable_IJ.sum())
    number = np.full((navigable_IJ.shape[0] + 4, navigable_IJ.shape[1] + 4), cells, dtype=np.int64)
    number[2:-2, 2:-2][navigable_IJ] = np.arange(cells)
    free = number < cells
    i, j = np.nonzero(free)
    columns, lengths = [], []
    for di, dj in (*STRAIGHT, *DIAGONAL, *KNIGHT):
        if abs(di) + abs(dj) == 3:
            # Between a cell and the one a knight's move away lie the two that the straight line passes through.
            half_i, half_j = int(di / 2), int(dj / 2)
            clear = free[i + half_i, j + half_j] & free[i + di - half_i, j + dj - half_j]
        else:
            clear = free[i + di, j] & free[i, j + dj]
        columns.append(np.where(clear, number[i + di, j + dj], cells))
        lengths.append(math.hypot(di, dj))
    return np.stack(columns, 1), np.array(lengths)


def sight_lines(solids: np.ndarray, eyes: np.ndarray, target: Sequence[float]) -> np.ndarray:
    """Return from which eyes a point is seen, (E,) bool.

    Args:
        solids: (S, 8): centre, half extents, cosine and sine of the yaw; round ones count as the boxes around them.
        eyes: (E, 3).
        target: (x, y, z).
    """
    cos, sin = solids[:, 6], solids[:, 7]
    x, y, z = (eyes[:, axis, None] - solids[None, :, axis] for axis in range(3))
    way_x, way_y, way_z = (target[axis] - eyes[:, axis, None] for axis in range(3))
    at = (x * cos - z * sin, y, x * sin + z * cos)
    way = (way_x * cos - way_z * sin, way_y, way_x * sin + way_z * cos)
    enter, leave = np.zeros_like(x), np.ones_like(x)
    for axis in range(3):
        per_way = 1.0 / np.where(np.abs(way[axis]) < 1e-9, 1e-9, way[axis])
        middle, reach = -at[axis] * per_way, np.abs(solids[:, 3 + axis] * per_way)
        np.maximum(enter, middle - reach, out=enter)
        np.minimum(leave, middle + reach, out=leave)
    blocked: np.ndarray = (enter < leave).any(1)
    return ~blocked


def viewpoints(house: House, instance: Instance, reach: float = 2.0, eye_height: float = 1.25) -> np.ndarray:
    """Return the navigable cells from where the middle of a thing is seen, (I, J) bool.

    Args:
        house: where it is.
        instance: the thing.
        reach: how far away a cell can be, seen from above, metres.
        eye_height: of the eyes above the floor, metres.

    Source: the viewpoints of object navigation, ReLIC (arXiv 2410.02751).
    """
    x, _, z = instance.centre
    i, j = np.nonzero(house.navigable_IJ)
    at_x, at_z = (j + 0.5) * house.cell, (i + 0.5) * house.cell
    near = np.hypot(at_x - x, at_z - z) <= reach
    i, j = i[near], j[near]
    eyes = np.stack([at_x[near], np.full(len(i), eye_height), at_z[near]], 1)
    found = np.zeros_like(house.navigable_IJ)
    solids = house.solids
    rows = np.column_stack([solids.centre_S3.numpy(), solids.half_S3.numpy(), solids.yaw_S.numpy()]).astype(np.float64)
    others = np.delete(as_table(rows), np.r_[instance.solids], axis=0)
    found[i, j] = sight_lines(between(others, instance.centre, reach, eye_height), eyes, instance.centre)
    return found


def as_table(rows: np.ndarray) -> np.ndarray:
    """Return solids as `sight_lines` takes them, (S, 8), from their centres, half extents and yaws, (S, 7)."""
    return np.column_stack([rows[:, :6], np.cos(rows[:, 6]), np.sin(rows[:, 6])])


def between(solids: np.ndarray, target: Sequence[float], reach: float, eye_height: float) -> np.ndarray:
    """Return those of some solids that can be between a point and eyes that are no farther away than a reach."""
    span = np.where(solids[:, 7] == 0, 0.0, solids[:, 3] + solids[:, 5])
    near = np.abs(solids[:, 0] - target[0]) - np.maximum(solids[:, 3], span) <= reach
    near &= np.abs(solids[:, 2] - target[2]) - np.maximum(solids[:, 5], span) <= reach
    near &= solids[:, 1] - solids[:, 4] < max(eye_height, target[1])
    near &= solids[:, 1] + solids[:, 4] > min(eye_height, target[1])
    kept: np.ndarray = solids[near]
    return kept
