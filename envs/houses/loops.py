"""The loops of `navigable`, compiled by Numba. Importing this takes half a second, so only those import it who loop.

Shapes: I rows and J columns of a grid, K fields, S solids, E eyes.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ...kernels.compiled import compiled
from .house import BOX

# Houses are to be the same on every machine, where a product may be rounded or not before it is added.
exactly = partial(compiled, exact=True)


@exactly
def stand_off(solids_S7, radius, cell, free_IJ):
    """Shut the cells whose middle is nearer than a radius to a solid: kind, x, z, half x, half z, cosine, sine."""
    for s in range(len(solids_S7)):
        kind, x, z, half_x, half_z, cos, sin = solids_S7[s]
        span = half_x if sin == 0 else math.hypot(half_x, half_z)
        reach_x, reach_z = span + radius, (half_z if sin == 0 else span) + radius
        for i in range(max(0, int((z - reach_z) / cell)), min(len(free_IJ), int((z + reach_z) / cell) + 1)):
            for j in range(max(0, int((x - reach_x) / cell)), min(free_IJ.shape[1], int((x + reach_x) / cell) + 1)):
                away_x, away_z = (j + 0.5) * cell - x, (i + 0.5) * cell - z
                if kind != BOX:
                    shut = away_x * away_x + away_z * away_z < (half_x + radius) * (half_x + radius)
                else:
                    out_x = max(abs(away_x * cos - away_z * sin) - half_x, 0.0)
                    out_z = max(abs(away_x * sin + away_z * cos) - half_z, 0.0)
                    shut = out_x * out_x + out_z * out_z < radius * radius
                if shut:
                    free_IJ[i, j] = False


@exactly
def look(solids_S8, eyes_E3, target_3, seen_E):
    """Write from which eyes a point is seen past solids, which are as in `navigable.sight_lines`."""
    for e in range(len(eyes_E3)):
        eye_x, eye_y, eye_z = eyes_E3[e]
        way_x, way_y, way_z = target_3[0] - eye_x, target_3[1] - eye_y, target_3[2] - eye_z
        seen_E[e] = True
        for s in range(len(solids_S8)):
            centre_x, centre_y, centre_z, half_x, half_y, half_z, cos, sin = solids_S8[s]
            x, y, z = eye_x - centre_x, eye_y - centre_y, eye_z - centre_z
            enter, leave = _within(y, way_y, half_y, 0.0, 1.0)
            enter, leave = _within(x * cos - z * sin, way_x * cos - way_z * sin, half_x, enter, leave)
            enter, leave = _within(x * sin + z * cos, way_x * sin + way_z * cos, half_z, enter, leave)
            if enter < leave:
                seen_E[e] = False
                break


@exactly
def _within(at, way, half, enter, leave):
    """Return what of a stretch of a line is within the two sides of a box along one axis."""
    per_way = 1.0 / (1e-9 if abs(way) < 1e-9 else way)
    middle, reach = -at * per_way, abs(half * per_way)
    return max(enter, middle - reach), min(leave, middle + reach)


@compiled
def spread(free_IJ, goal_KIJ, moves_M2, found_KIJ):
    """Write the lengths of the shortest ways to goals, in cells, field by field: see `navigable.geodesic_field`.

    Every cell knows the one where its way turns first. Cells are looked at from the nearest to the farthest; the
    neighbours of each get the way that is straight to its turn, where that is clear, or else the way to it.

    Args:
        free_IJ: (I, J) bool; no cell of the two outermost rows and columns on each side is free.
        goal_KIJ: (K, I, J) bool.
        moves_M2: (M, 2) rows and columns from a cell to its neighbours, up to 32.
        found_KIJ: (K, I, J) float64, which is written.

    Source: Theta* (Nash, Daniel, Koenig, Felner, AAAI 2007), from many goals to all cells.
    """
    columns, free, runs = free_IJ.shape[1], free_IJ.ravel(), _runs(free_IJ)
    turn, open_moves = np.empty(free.size, np.int32), np.zeros(free.size, np.uint32)
    for at in range(free.size):
        for m in range(len(moves_M2) if free[at] else 0):
            if _clear(runs, columns, at, moves_M2[m, 0], moves_M2[m, 1]):
                open_moves[at] |= np.uint32(1 << m)
    # The cells with ways of n to n + 1 cells are a list: the first of them, and what comes after and before each.
    first, after, before = np.full(3 * free.size, -1), np.empty(free.size, np.int64), np.empty(free.size, np.int64)
    lists = first, after, before
    for k in range(len(goal_KIJ)):
        goal, way = goal_KIJ[k].ravel(), found_KIJ[k].ravel()
        for at in range(free.size):
            # What cannot be walked on is as near as can be, so that nothing is a better way to it.
            way[at], turn[at] = math.inf if free[at] else -1.0, at
            if free[at] and goal[at]:
                way[at] = 0.0
                _put(lists, 0, at)
        number = last = 0
        while number <= last:
            at = first[number]
            if at < 0:
                number += 1
                continue
            _take(lists, number, at)
            before[at] = DONE
            i, j, turn_i, turn_j = at // columns, at % columns, turn[at] // columns, turn[at] % columns
            base = way[turn[at]]
            for m in range(len(moves_M2)):
                to = at + moves_M2[m, 0] * columns + moves_M2[m, 1]
                if way[to] <= way[at]:
                    continue
                room = way[to] - base - LEAST
                far_i, far_j = i + moves_M2[m, 0] - turn_i, j + moves_M2[m, 1] - turn_j
                if far_i * far_i + far_j * far_j >= room * room:
                    continue
                by, there = turn[at], base + math.hypot(far_i, far_j)
                if not _clear(runs, columns, turn[at], far_i, far_j):
                    by, there = at, way[at] + math.hypot(moves_M2[m, 0], moves_M2[m, 1])
                    if not open_moves[at] >> m & 1 or there >= way[to] - LEAST:
                        continue
                if way[to] < math.inf and before[to] != DONE:
                    _take(lists, int(way[to]), to)
                way[to], turn[to] = there, by
                _put(lists, int(there), to)
                last, number = max(last, int(there)), min(number, int(there))
        for at in range(free.size):
            if not free[at]:
                way[at] = math.inf


LEAST = 1e-6
"""A way that is not shorter by this, in cells, is not shorter."""
DONE = -2
"""What comes before a cell that is in no list any more."""


@compiled
def _put(lists, number, cell):
    """Put a cell at the head of a list."""
    first, after, before = lists
    after[cell], before[cell] = first[number], -1
    if after[cell] >= 0:
        before[after[cell]] = cell
    first[number] = cell


@compiled
def _take(lists, number, cell):
    """Take a cell out of a list."""
    first, after, before = lists
    if before[cell] >= 0:
        after[before[cell]] = after[cell]
    else:
        first[number] = after[cell]
    if after[cell] >= 0:
        before[after[cell]] = before[cell]


@compiled
def _runs(free_IJ):
    """Return how many cells in a row are free from each on, twice (I J,): along its row, and along its column."""
    runs = np.zeros((2, *free_IJ.shape), np.int32)
    for i in range(len(free_IJ) - 2, 0, -1):
        for j in range(free_IJ.shape[1] - 2, 0, -1):
            if free_IJ[i, j]:
                runs[0, i, j], runs[1, i, j] = 1 + runs[0, i, j + 1], 1 + runs[1, i + 1, j]
    return runs[0].ravel(), runs[1].ravel()


@compiled
def _clear(runs, columns, start, far_i, far_j):
    """Say whether all cells that a straight line passes are free, and both beside every corner that it passes.

    Args:
        runs: as of `_runs`.
        columns: J.
        start: the cell in whose middle the line begins.
        far_i: rows to the cell in whose middle it ends.
        far_j: columns.
    """
    step_i, step_j = columns if far_i > 0 else -columns, 1 if far_j > 0 else -1
    # The line goes farther along than across, and is cut into runs of cells, one for each cell across.
    if abs(far_i) > abs(far_j):
        run, along, across, step, next_run = runs[1], abs(far_i), abs(far_j), step_i, step_j
    else:
        run, along, across, step, next_run = runs[0], abs(far_j), abs(far_i), step_j, step_i
    parts = max(1, 2 * across)
    begin, end, rest = 0, (along + across) // parts, (along + across) % parts
    more, more_rest = 2 * along // parts, 2 * along % parts
    for number in range(across + 1):
        if number == across:
            end = along
        if run[start + step * (begin if step > 0 else end)] <= end - begin:
            return False
        # At a corner, where nothing rests, two runs share both cells beside it.
        begin = end if rest else end - 1
        start += next_run
        end += more
        rest += more_rest
        if rest >= parts:
            end += 1
            rest -= parts
    return True
