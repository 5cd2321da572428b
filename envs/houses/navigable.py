"""Where a floor can be walked on, how far it is from everywhere to the nearest goal, and from where a thing is seen.

Ways go straight from the middle of a cell to that of another, over cells that can be walked on only, and not past the
corner of one that cannot. In the open they are straight lines; around corners they are found by steps to sixteen
neighbours: straight, diagonal, or like a knight in chess.

Shapes: I rows (along z) and J columns (along x) of the grid, N navigable cells, K fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .house import House, Instance
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
    from .loops import stand_off  # importing Numba takes its time

    columns, lines = math.ceil(size[0] / cell - 1e-6), math.ceil(size[1] / cell - 1e-6)
    free_IJ = np.ones((lines, columns), dtype=bool)
    solids = [
        (kind, x, z, half_x, half_z, math.cos(yaw), math.sin(yaw))
        for kind, x, y, z, half_x, half_y, half_z, yaw, *_ in rows
        if y - half_y < height and y + half_y > STEP_OVER
    ]
    stand_off(np.array(solids, dtype=np.float64).reshape(-1, 7), radius, cell, free_IJ)
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

    It is infinite where no way leads to a goal. Where several corners follow each other, it can exceed the shortest by
    a little; it is never longer than the way by steps to sixteen neighbours.

    Args:
        navigable_IJ: (I, J) bool.
        goals_KIJ: (K, I, J) bool; goals that are not navigable do not count.
        cell: side of a cell, metres.

    Raises:
        ValueError: the goals are not on the same grid.
    """
    from .loops import spread  # importing Numba takes its time

    if goals_KIJ.ndim != 3 or goals_KIJ.shape[1:] != navigable_IJ.shape:
        raise ValueError(f"geodesic_field: goals are {goals_KIJ.shape}; (fields, {navigable_IJ.shape}) are expected")
    free_IJ, goals_KIJ = np.pad(navigable_IJ, 2), np.pad(goals_KIJ, ((0, 0), (2, 2), (2, 2)))
    found_KIJ = np.empty(goals_KIJ.shape)
    spread(free_IJ, goals_KIJ, np.array(STRAIGHT + DIAGONAL + KNIGHT), found_KIJ)
    return (found_KIJ[:, 2:-2, 2:-2] * cell).astype(np.float32)


def sight_lines(solids: np.ndarray, eyes: np.ndarray, target: Sequence[float]) -> np.ndarray:
    """Return from which eyes a point is seen, (E,) bool.

    Args:
        solids: (S, 8): centre, half extents, cosine and sine of the yaw; round ones count as the boxes around them.
        eyes: (E, 3).
        target: (x, y, z).
    """
    from .loops import look  # importing Numba takes its time

    seen = np.empty(len(eyes), dtype=bool)
    look(solids, eyes, np.array(target, dtype=np.float64), seen)
    return seen


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
    low_i, low_j = (max(0, int((at - reach) / house.cell)) for at in (z, x))
    around = slice(low_i, int((z + reach) / house.cell) + 1), slice(low_j, int((x + reach) / house.cell) + 1)
    i, j = np.nonzero(house.navigable_IJ[around])
    i, j = i + low_i, j + low_j
    at_x, at_z = (j + 0.5) * house.cell, (i + 0.5) * house.cell
    near = np.hypot(at_x - x, at_z - z) <= reach
    i, j = i[near], j[near]
    eyes = np.stack([at_x[near], np.full(len(i), eye_height), at_z[near]], 1)
    found = np.zeros_like(house.navigable_IJ)
    others = np.delete(_table(house), np.r_[instance.solids], axis=0)
    found[i, j] = sight_lines(between(others, instance.centre, reach, eye_height), eyes, instance.centre)
    return found


@lru_cache(maxsize=1)  # things of a house come one after the other
def _table(house: House) -> np.ndarray:
    solids = house.solids
    rows = np.column_stack([solids.centre_S3.numpy(), solids.half_S3.numpy(), solids.yaw_S.numpy()])
    return as_table(rows.astype(np.float64))


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
