"""The surfaces of solids as triangles, with the places on them that a ray caster shows.

Shapes: V vertices, F triangles.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from .house import BOX, CYLINDER, Solids

AROUND = 32
"""Corners of a cylinder."""
RINGS, SIDES = 14, 24
"""Rings of a sphere from pole to pole, and corners of each."""


class Mesh(NamedTuple):
    """Triangles of solids; no two solids share a vertex, nor do two faces of one."""

    position_V3: np.ndarray
    """(V, 3) float64, metres."""
    normal_V3: np.ndarray
    """(V, 3) float64, of length 1, out of the solid."""
    place_V2: np.ndarray
    """(V, 2) float64: u and v on the surface, metres, from 0, as in `mnemic.kernels.ray_cast`."""
    solid_V: np.ndarray
    """(V,) int64: the solid that a vertex belongs to."""
    corner_F3: np.ndarray
    """(F, 3) int64: the vertices of a triangle, counter-clockwise seen from outside."""


def surfaces(solids: Solids) -> Mesh:
    """Return the surfaces of all solids. Those of round ones lie within them, their corners on them."""
    kinds = solids.kind_S.tolist()
    centres, halves = solids.centre_S3.double().numpy(), solids.half_S3.double().numpy()
    parts, first = [], 0
    for solid, (kind, yaw) in enumerate(zip(kinds, solids.yaw_S.tolist(), strict=True)):
        unit, normal, corner = _box() if kind == BOX else _cylinder() if kind == CYLINDER else _sphere()
        half = halves[solid]
        local = unit * half
        cos, sin = math.cos(yaw), math.sin(yaw)
        turn = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
        place = _on_box(local, normal, half) if kind == BOX else _on_round(local, normal, half, kind)
        owner = np.full(len(local), solid)
        parts.append((local @ turn + centres[solid], normal @ turn, place, owner, corner + first))
        first += len(local)
    return Mesh(*(np.concatenate(part) for part in zip(*parts, strict=True)))


Shape = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def _box() -> Shape:
    """Return vertices, normals and triangles of a box with half extents of 1: a face is four vertices."""
    vertices, normals, corners = list[np.ndarray](), list[np.ndarray](), list[tuple[int, int, int]]()
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = np.zeros(3)
            normal[axis] = sign
            # With the normal, right and up follow each other like x, y and z.
            right, up = np.roll(np.eye(3)[axis], 1), np.roll(np.eye(3)[axis], 2) * sign
            first = 4 * len(normals)
            vertices += [normal + a * right + b * up for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            corners += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
            normals.append(normal)
    return np.array(vertices), np.repeat(normals, 4, axis=0), np.array(corners)


@cache
def _cylinder() -> Shape:
    """Return those of an upright cylinder: a side that is cut open where u begins, and two ends."""
    # From -pi, where u is 0, to pi: an angle grows from x to z, which is clockwise seen from above.
    turns = np.linspace(-math.pi, math.pi, AROUND + 1)
    ring = np.stack([np.cos(turns), np.zeros_like(turns), np.sin(turns)], 1)
    up = np.array([0.0, 1.0, 0.0])
    vertices, normals = [ring - up, ring + up], [ring, ring]
    low, high = np.arange(AROUND), np.arange(AROUND) + AROUND + 1
    corners = [np.stack([low, high, low + 1], 1), np.stack([high, high + 1, low + 1], 1)]
    for sign in (-1.0, 1.0):
        first = sum(len(part) for part in vertices)
        fan = np.arange(1, AROUND - 1)
        vertices.append(ring[:-1] + sign * up)
        normals.append(np.repeat([sign * up], AROUND, axis=0))
        one, other = (fan, fan + 1) if sign < 0 else (fan + 1, fan)
        corners.append(first + np.stack([np.zeros_like(fan), one, other], 1))
    return np.concatenate(vertices), np.concatenate(normals), np.concatenate(corners)


@cache
def _sphere() -> Shape:
    """Return those of a sphere, cut open where u begins."""
    turns = np.linspace(-math.pi, math.pi, SIDES + 1)
    rises = np.linspace(-math.pi / 2, math.pi / 2, RINGS + 1)
    rise, turn = np.meshgrid(rises, turns, indexing="ij")
    around = np.stack([np.cos(rise) * np.cos(turn), np.sin(rise), np.cos(rise) * np.sin(turn)], -1)
    vertices = around.reshape(-1, 3)
    ring, side = (part.ravel() for part in np.meshgrid(np.arange(RINGS), np.arange(SIDES), indexing="ij"))
    low = ring * (SIDES + 1) + side
    high = low + SIDES + 1
    # A triangle at a pole has its third corner there; the other half of its square has no area.
    lower, upper = np.stack([low, high, low + 1], 1)[ring > 0], np.stack([high, high + 1, low + 1], 1)[ring < RINGS - 1]
    return vertices, vertices, np.concatenate([lower, upper])


def _on_box(local: np.ndarray, normal: np.ndarray, half: np.ndarray) -> np.ndarray:
    from_corner = local + half
    on_x, on_y = normal[:, 0] != 0, normal[:, 1] != 0
    u = np.where(on_x, from_corner[:, 2], from_corner[:, 0])
    v = np.where(on_y, from_corner[:, 2], from_corner[:, 1])
    return np.stack([u, v], 1)


def _on_round(local: np.ndarray, normal: np.ndarray, half: np.ndarray, kind: int) -> np.ndarray:
    turns = np.arctan2(local[:, 2], local[:, 0])
    if kind == CYLINDER:
        # The first vertex of each ring of the side is at -pi, where u begins, and the last at pi.
        turns[[0, AROUND + 1]], turns[[AROUND, 2 * AROUND + 1]] = -math.pi, math.pi
    else:
        turns = np.tile(np.linspace(-math.pi, math.pi, SIDES + 1), (RINGS + 1, 1))
        # At a pole a vertex belongs to one triangle, whose middle it is.
        turns[0, 1:] -= math.pi / SIDES
        turns[-1, :-1] += math.pi / SIDES
        turns = turns.ravel()
    u, v = (turns + math.pi) * half[0], local[:, 1] + half[1]
    if kind == CYLINDER:
        end = normal[:, 1] != 0
        u, v = np.where(end, local[:, 0] + half[0], u), np.where(end, local[:, 2] + half[2], v)
    return np.stack([u, v], 1)
