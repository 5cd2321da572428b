"""Parts that furniture and things are put together from, and chance.

A part is a solid in the axes of what it belongs to: x to the right, y up from its foot, and its front at -z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from .house import BOX, CYLINDER, SPHERE
from .materials import INDEX

Choice = TypeVar("Choice")


class Part(NamedTuple):
    """A solid of something."""

    kind: int
    x: float
    y: float
    z: float
    half_x: float
    half_y: float
    half_z: float
    yaw: float
    material: int


Row = tuple[int, float, float, float, float, float, float, float, int, int]


def box(x: float, y: float, z: float, width: float, height: float, depth: float, material: str, yaw: float = 0) -> Part:
    """Return a box that stands at height y, its middle at (x, z)."""
    return Part(BOX, x, y + height / 2, z, width / 2, height / 2, depth / 2, yaw, INDEX[material])


def cylinder(x: float, y: float, z: float, radius: float, height: float, material: str) -> Part:
    """Return an upright cylinder that stands at height y."""
    return Part(CYLINDER, x, y + height / 2, z, radius, height / 2, radius, 0.0, INDEX[material])


def ball(x: float, y: float, z: float, radius: float, material: str) -> Part:
    """Return a sphere that lies at height y."""
    return Part(SPHERE, x, y + radius, z, radius, radius, radius, 0.0, INDEX[material])


def turn(x: float, z: float, yaw: float) -> tuple[float, float]:
    """Return a point of a plan, turned about the origin."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return x * cos + z * sin, z * cos - x * sin


def place(parts: Sequence[Part], x: float, y: float, z: float, yaw: float, scale: float, semantic: int) -> list[Row]:
    """Return the solids of something that is turned and scaled, and stands at a point."""
    quarters = yaw / (math.pi / 2)
    straight = abs(quarters - round(quarters)) < 1e-9
    rows: list[Row] = []
    for part in parts:
        at_x, at_z = turn(part.x * scale, part.z * scale, yaw)
        half_x, half_z, own = part.half_x, part.half_z, 0.0
        if part.kind == BOX:
            own = part.yaw if straight else part.yaw + yaw
            if straight and round(quarters) % 2:
                # Without a yaw where none is needed: such boxes are cheaper to meet with rays.
                half_x, half_z = half_z, half_x
        # Rounded, so that machines whose sines differ in the last bit make the same house.
        rows.append(
            (
                part.kind,
                round(x + at_x, 5),
                round(y + part.y * scale, 5),
                round(z + at_z, 5),
                round(half_x * scale, 5),
                round(part.half_y * scale, 5),
                round(half_z * scale, 5),
                round(own, 5),
                part.material,
                semantic,
            )
        )
    return rows


def bounds(rows: Sequence[Row]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the middle and the half extents of the box around solids."""
    low, high = [math.inf] * 3, [-math.inf] * 3
    for kind, x, y, z, half_x, half_y, half_z, yaw, *_ in rows:
        if kind == BOX and yaw:
            cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
            half_x, half_z = half_x * cos + half_z * sin, half_x * sin + half_z * cos
        for axis, (centre, half) in enumerate(((x, half_x), (y, half_y), (z, half_z))):
            low[axis], high[axis] = min(low[axis], centre - half), max(high[axis], centre + half)
    middle = [round((a + b) / 2, 5) for a, b in zip(low, high, strict=True)]
    reach = [round((b - a) / 2, 5) for a, b in zip(low, high, strict=True)]
    return (middle[0], middle[1], middle[2]), (reach[0], reach[1], reach[2])


class Draw:
    """Chance, from a seed.

    All of it is made of doubles of PCG64, whose bits NumPy keeps the same on all machines and in all its versions.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._ready: list[float] = []

    def unit(self) -> float:
        """Return a number in [0, 1)."""
        if not self._ready:
            self._ready = self._random.random(512).tolist()
        return self._ready.pop()

    def between(self, low: float, high: float) -> float:
        """Return a number between two."""
        return low + (high - low) * self.unit()

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """Return True in a share of the cases."""
        return self.unit() < share

    def one(self, choices: Sequence[Choice]) -> Choice:
        """Return one of several."""
        return choices[int(self.unit() * len(choices))]
