"""A picture of an environment: a grid of coloured cells, for the terminal and for a GIF alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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
