"""Materials without images: a colour as a function of where on a surface a point lies.

A material lays cells of a size on the surface, row by row, each row shifted against the last. A point takes the second
colour instead of the first by a share: all of it in the joint at a cell's lower edges, elsewhere by the parity of the
cell and by a number drawn for the cell. One formula gives all patterns, so that a GPU does not branch on them.

Shapes: M materials, K = 16 columns of a row; the shapes of points are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LIGHT = (0.42, 0.78, 0.4638965)
"""Where the light comes from, of length 1."""
AMBIENT, DIRECT = 0.7, 0.3

COLUMNS = 16
"""Columns of a row: the first colour, the second less the first, both in 0..255; then `Pattern`, its sizes inverted."""


class Pattern(NamedTuple):
    """What the cells of a pattern are like; lengths in units of the material's scale."""

    width: float = 1.0
    height: float = 1.0
    shift: float = 0.0
    """How far a row lies beyond the one below, in widths."""
    joint_u: float = 0.0
    """The joint at the side of a cell, in widths."""
    joint_v: float = 0.0
    """The joint below a cell, in heights."""
    rows: float = 0.0
    """1 where the parity counts rows."""
    columns: float = 0.0
    """1 where it counts columns."""
    parity: float = 0.0
    """The share of an odd cell."""
    drawn: float = 0.0
    """The largest share by the number drawn for a cell."""


PATTERNS = {
    "plain": Pattern(),
    "checker": Pattern(rows=1.0, columns=1.0, parity=1.0),
    "stripes": Pattern(columns=1.0, parity=1.0),
    "bricks": Pattern(height=0.4, shift=0.5, joint_u=0.06, joint_v=0.15, drawn=0.35),
    "planks": Pattern(width=8.0, shift=0.37, joint_u=0.006, joint_v=0.05, drawn=0.6),
    "noise": Pattern(drawn=1.0),
}


def material(first: Sequence[float], second: Sequence[float], pattern: str, scale: float) -> list[float]:
    """Return the row of a material.

    Args:
        first: red, green and blue in 0..1.
        second: likewise; a plain material does not show it.
        pattern: a name of `PATTERNS`.
        scale: the width of a cell (bricks: the length of one; planks: the width of one), metres.

    Raises:
        ValueError: an unknown pattern, a scale that is not above 0, or a colour outside 0..1.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"material: unknown pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    if not scale > 0:
        raise ValueError(f"material: scale is {scale}; metres above 0 are expected")
    if len(first) != 3 or len(second) != 3 or not all(0 <= part <= 1 for part in (*first, *second)):
        raise ValueError(f"material: the colours are {first} and {second}; give red, green and blue in 0..1")
    kind = PATTERNS[pattern]
    colours = [255.0 * part for part in first] + [255.0 * (b - a) for a, b in zip(first, second, strict=True)]
    return [*colours, 1 / (kind.width * scale), 1 / (kind.height * scale), *kind[2:], 0.0]


def share(row: Sequence[Tensor], u: Tensor, v: Tensor) -> Tensor:
    """Return how much of the second colour points have, in 0..1.

    Args:
        row: columns 6 to 14 of the materials, each of a shape that spreads over `u`.
        u: along the surface, metres.
        v: across, or up, metres.
    """
    per_width, per_height, shift, joint_u, joint_v, rows, columns, parity, drawn = row
    v = v * per_height
    line = v.floor()
    u = u * per_width + line * shift
    cell = u.floor()
    odd = (line * rows + cell * columns).to(torch.int32) & 1
    joint = ((u - cell < joint_u) | (v - line < joint_v)).to(u.dtype)
    return torch.maximum(joint, odd * parity + number(cell, line) * drawn)


def number(cell: Tensor, line: Tensor) -> Tensor:
    """Return the number of a cell in 0..1: integers that stay within 31 bits, so every device agrees."""
    bits = (cell.to(torch.int32) * 7919 + line.to(torch.int32) * 6007) & 0x7FFF
    bits = ((bits * 30011) >> 7) & 0x7FFF
    bits = ((bits * 24593) >> 6) & 0xFF
    return bits * (1 / 255.0)


def colour(row_K: Tensor, u: Tensor, v: Tensor, shade: Tensor | float = 1.0) -> Tensor:
    """Return red, green and blue as uint8, on a new last dimension.

    Args:
        row_K: rows of materials, (..., K), with the shape of the points before K.
        u: along the surface, metres.
        v: across, or up, metres.
        shade: the light, as of `light`.
    """
    parts = row_K.unbind(-1)
    mixed = share(parts[6:15], u, v)
    rgb = [(parts[c] + mixed * parts[3 + c]) * shade + 0.5 for c in range(3)]
    return torch.stack(rgb, -1).clamp(0, 255).to(torch.uint8)


def light(normal: Sequence[Tensor]) -> Tensor:
    """Return how bright a surface with a normal of length 1 is, in 0..1, by its angle to the light."""
    x, y, z = normal
    return AMBIENT + DIRECT * (x * LIGHT[0] + y * LIGHT[1] + z * LIGHT[2])


def angle(y: Tensor, x: Tensor) -> Tensor:
    """Return atan2(y, x) within 2e-5 rad, by the same polynomial on every device; 0 at the origin.

    Source: Abramowitz and Stegun 1964, 4.4.47.
    """
    wide, high = x.abs(), y.abs()
    ratio = torch.minimum(wide, high) / torch.maximum(wide, high).clamp(min=1e-20)
    square = ratio * ratio
    turn = ratio * (
        0.9998660 + square * (-0.3302995 + square * (0.1801410 + square * (-0.0851330 + square * 0.0208351)))
    )
    turn = torch.where(high > wide, 1.5707964 - turn, turn)
    turn = torch.where(x < 0, 3.1415927 - turn, turn)
    return torch.where(y < 0, -turn, turn)
