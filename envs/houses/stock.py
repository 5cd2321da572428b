"""Puts things to find on furniture and on floors, and looks for points from where they are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .furnish import Ground, Standing, meets
from .house import KINDS
from .navigable import between, sight_lines
from .parts import Draw, Row, bounds, place, turn
from .things import STANDS, THINGS

REACH = 2.0
"""How far away a thing is found at most, metres (ReLIC, arXiv 2410.02751)."""
STANDOFF = 0.35
"""Floor kept free around a thing that stands on it, metres."""
AT_WALLS = 0.7
"""The share of the things on floors that stand at a wall."""
TRIED = 16
"""Points from where a thing is looked for."""


@dataclass(frozen=True)
class Thing:
    """A thing to find, at its place."""

    kind: str
    room: int
    rows: list[Row]


def on_floors(draw: Draw, grounds: list[Ground], number: int, scale: float) -> list[Thing]:
    """Return up to a number of things that stand on the floors of rooms, and take that floor."""
    kinds = [kind for kind in KINDS if kind in STANDS]
    found: list[Thing] = []
    for _ in range(4 * number):
        if len(found) == number:
            break
        kind, ground, yaw = draw.one(kinds), draw.one(grounds), draw.between(0.0, 2 * math.pi)
        (off_x, _, off_z), (half_x, _, half_z) = bounds(place(THINGS[kind], 0.0, 0.0, 0.0, yaw, scale, 0))
        x0, z0, x1, z1 = ground.whole
        low_x, high_x, low_z, high_z = x0 + half_x + 0.03, x1 - half_x - 0.03, z0 + half_z + 0.03, z1 - half_z - 0.03
        x, z = draw.between(low_x, high_x), draw.between(low_z, high_z)
        if draw.chance(AT_WALLS):
            x, z = draw.one(((low_x, z), (high_x, z), (x, low_z), (x, high_z)))
        rect = (x - half_x, z - half_z, x + half_x, z + half_z)
        wide = (rect[0] - STANDOFF, rect[1] - STANDOFF, rect[2] + STANDOFF, rect[3] + STANDOFF)
        if ground.free(rect) and not any(meets(wide, other) for other in ground.taken):
            ground.taken.append(rect)
            found.append(Thing(kind, ground.index, place(THINGS[kind], x - off_x, 0.0, z - off_z, yaw, scale, 0)))
    return found


def on_furniture(draw: Draw, grounds: list[Ground], number: int, scale: float) -> list[Thing]:
    """Return up to a number of things that stand on furniture, beside each other."""
    hosts = [standing for ground in grounds for standing in ground.standing if standing.piece.tops]
    found: list[Thing] = []
    for _ in range(4 * number if hosts else 0):
        if len(found) == number:
            break
        thing = _on(draw, draw.one(hosts), draw.one(KINDS), scale)
        if thing:
            found.append(thing)
    return found


def _on(draw: Draw, host: Standing, kind: str, scale: float) -> Thing | None:
    number = draw.whole(0, len(host.piece.tops) - 1)
    top, used = host.piece.tops[number], host.used.setdefault(number, [])
    yaw = draw.between(0.0, 2 * math.pi)
    (off_x, tall, off_z), (half_x, half_y, half_z) = bounds(place(THINGS[kind], 0.0, 0.0, 0.0, yaw, scale, 0))
    low_x, high_x, low_z, high_z = top.x0 + half_x, top.x1 - half_x, top.z0 + half_z, top.z1 - half_z
    if low_x > high_x or low_z > high_z or tall + half_y > top.headroom:
        return None
    x, z = draw.between(low_x, high_x), draw.between(low_z, high_z)
    rect = (x - half_x, z - half_z, x + half_x, z + half_z)
    if any(meets(rect, other) for other in used):
        return None
    used.append(rect)
    away_x, away_z = turn(x - off_x, z - off_z, host.yaw)
    rows = place(THINGS[kind], host.x + away_x, top.y, host.z + away_z, yaw + host.yaw, scale, 0)
    return Thing(kind, host.room, rows)


class Eyes:
    """Eyes at every point of the navigable floor."""

    def __init__(self, navigable_IJ: np.ndarray, cell: float, height: float) -> None:
        i, j = np.nonzero(navigable_IJ)
        self.x, self.z, self.height = (j + 0.5) * cell, (i + 0.5) * cell, height

    def viewpoint(self, target: tuple[float, float, float], solids: np.ndarray) -> tuple[float, float] | None:
        """Return a point from where a place is seen, about a metre away if that can be, or None.

        Args:
            target: (x, y, z).
            solids: what can stand in between, as of `sight_lines`.
        """
        away = np.hypot(self.x - target[0], self.z - target[2])
        near = np.flatnonzero(away <= REACH)
        near = near[np.argsort(np.abs(away[near] - 1.0), kind="stable")]
        tried = near[:: len(near) // TRIED + 1]
        eyes = np.stack([self.x[tried], np.full(len(tried), self.height), self.z[tried]], 1)
        seen = tried[sight_lines(between(solids, target, REACH, self.height), eyes, target)]
        return (round(float(self.x[seen[0]]), 4), round(float(self.z[seen[0]]), 4)) if len(seen) else None
