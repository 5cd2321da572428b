"""A picture of an environment: a grid of coloured cells, for the terminal and for a GIF alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Cell(NamedTuple):
    """One cell: a character for the terminal and a colour, red, green and blue in 0..255, for both."""

    glyph: str
    colour: tuple[int, int, int]


FLOOR = Cell("·", (236, 236, 236))
WALL = Cell("█", (70, 70, 78))


@dataclass(frozen=True)
class Picture:
    """Rows of cells from top to bottom, and a line of words under them."""

    cells: list[list[Cell]]
    caption: str
    image: np.ndarray | None = field(default=None, compare=False)
    """(height, width, 3) uint8: what stands in the place of the cells where there are pixels."""


def to_text(picture: Picture, *, colour: bool = False) -> str:
    """Return the cells line by line and the caption under them, with the terminal's escape codes where asked for."""

    def shown(cell: Cell) -> str:
        red, green, blue = cell.colour
        return f"\x1b[38;2;{red};{green};{blue}m{cell.glyph}\x1b[0m" if colour else cell.glyph

    lines = ["".join(shown(cell) for cell in line) for line in picture.cells]
    return "\n".join([*lines, picture.caption] if picture.caption else lines)


def to_rgb(picture: Picture, scale: int = 16) -> np.ndarray:
    """Return an image, (height, width, 3) uint8: the picture's own, or each cell a square of `scale` pixels."""
    if picture.image is not None:
        return picture.image
    colours = np.array([[cell.colour for cell in line] for line in picture.cells], dtype=np.uint8)
    return colours.repeat(scale, axis=0).repeat(scale, axis=1)
