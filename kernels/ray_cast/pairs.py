"""Tiles of pictures and what touches them: the state of `tiles`, from the whole picture down to 4 x 4 pixels.

Shapes: B cameras, P pairs of a tile and what touches it, C = 16 parts of a tile, F faces or round solids.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .scene import View

PARTS = 4
"""A tile is cut into so many parts along each side; 4 is built in as `>> 2` and `& 3`."""


class Pairs(NamedTuple):
    """Tiles and what touches them, each with its numbers moved to the tile's first pixel."""

    row_PK: Tensor  # of faces: five functions, each by column, by row, and at the first pixel; of round ones: `_round`
    thing_P: Tensor  # which face or round solid
    camera_P: Tensor
    i_P: Tensor  # the first pixel of the tile
    j_P: Tensor

    def part(self, which_P: Tensor) -> Pairs:
        """Return some of them."""
        return Pairs(*(part.index_select(0, which_P) for part in self))


class Things(NamedTuple):
    """What may be seen: faces, or round solids."""

    solid_F: Tensor
    camera_F: Tensor
    normal_3F: Tensor | None


class Eyes(NamedTuple):
    """Cameras, as columns."""

    house_B: Tensor
    eye_B3: Tensor
    yaw_B: Tensor
    pitch_B: Tensor


def tile_of(pairs: Pairs, size: int, view: View) -> Tensor:
    """Return the number of each pair's tile among those of all cameras; `size` is a power of 2."""
    across, down, shift = -(-view.width // size), -(-view.height // size), size.bit_length() - 1
    return (pairs.camera_P * down + (pairs.i_P >> shift)) * across + (pairs.j_P >> shift)


def inside(pairs: Pairs, size: int, view: View) -> Tensor | None:
    """Say which parts of tiles begin in the picture, (C, P); None: all."""
    if view.height % (PARTS * size) == 0 and view.width % (PARTS * size) == 0:
        return None
    child = torch.arange(PARTS**2, device=pairs.i_P.device)[:, None]
    return (pairs.i_P + (child >> 2) * size < view.height) & (pairs.j_P + (child & 3) * size < view.width)
