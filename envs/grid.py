"""A square grid of cells: where moves lead, how far cells are apart, how to walk, how it looks.

Shapes: B rows, C cells (row by row from the top left, so that cell = y * size + x), A the five moves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .picture import FLOOR, Cell

MOVES = ("up", "down", "left", "right", "stay")
UP, DOWN, LEFT, RIGHT, STAY = range(5)
AGENT_COLOUR = (220, 40, 40)


class Grid:
    """Cells and moves. A move into the border leaves the walker where it is.

    Attributes:
        size: cells along a side.
        cells: C.
        next_CA: (C, A) the cell that each move leads to.
    """

    def __init__(self, size: int, device: torch.device | str) -> None:
        self.size, self.cells = size, size * size
        cell_C = torch.arange(self.cells)
        y, x = cell_C // size, cell_C % size
        up, down = (y - 1).clamp(min=0), (y + 1).clamp(max=size - 1)
        left, right = (x - 1).clamp(min=0), (x + 1).clamp(max=size - 1)
        moves = [up * size + x, down * size + x, y * size + left, y * size + right, cell_C]
        self.next_CA = torch.stack(moves, 1).to(device)
        self._x_C, self._y_C = x.to(device), y.to(device)
        self._scaled_C2 = (torch.stack([x, y], 1) / size).to(device)
        # The place of each cell on a way through all of them, row by row, there and back.
        self._snake_C = (y * size + torch.where(y % 2 == 0, x, size - 1 - x)).to(device)
        self._way_C = self._snake_C.argsort()

    def move(self, cell_B: Tensor, action_B: Tensor) -> Tensor:
        """Return the cells after a move, (B,)."""
        return self.next_CA[cell_B, action_B]

    def toward(self, cell_B: Tensor, goal_B: Tensor) -> Tensor:
        """Return the next move of a shortest way, first along the row; STAY at the goal. (B,)."""
        right_B = self._x_C[goal_B] - self._x_C[cell_B]
        down_B = self._y_C[goal_B] - self._y_C[cell_B]
        upright_B = torch.where(down_B > 0, DOWN, torch.where(down_B < 0, UP, STAY))
        return torch.where(right_B > 0, RIGHT, torch.where(right_B < 0, LEFT, upright_B))

    def distance(self, cell_B: Tensor, other_B: Tensor) -> Tensor:
        """Return how many moves two cells are apart, (B,)."""
        return (self._x_C[cell_B] - self._x_C[other_B]).abs() + (self._y_C[cell_B] - self._y_C[other_B]).abs()

    def sweep(self, cell_B: Tensor, back_B: Tensor) -> Tensor:
        """Return the next cell on a way through all cells, row by row; at an end, the one before it. (B,).

        Args:
            cell_B: where one stands.
            back_B: (B,) bool: go towards the first cell of the way instead of the last.
        """
        place_B = self._snake_C[cell_B]
        next_B = torch.where(back_B, place_B - 1, place_B + 1)
        next_B = torch.where(next_B < 0, 1, torch.where(next_B >= self.cells, self.cells - 2, next_B))
        return self._way_C[next_B]

    def before(self, cell_B: Tensor, other_B: Tensor) -> Tensor:
        """Say whether a cell comes before another one on the way of `sweep`, (B,) bool."""
        return self._snake_C[cell_B] < self._snake_C[other_B]

    def nearest(self, cell_B: Tensor, among_BC: Tensor) -> Tensor:
        """Return the nearest of some cells, (B,). Of two as near, the one that comes first on a way through all cells.

        Args:
            cell_B: where to measure from.
            among_BC: (B, C) bool; where a row has none, any cell may be returned.
        """
        distance_BC = (self._x_C - self._x_C[cell_B, None]).abs() + (self._y_C - self._y_C[cell_B, None]).abs()
        score_BC = distance_BC * self.cells + self._snake_C
        return torch.where(among_BC, score_BC, 2 * self.size * self.cells).argmin(1)

    def scaled(self) -> Tensor:
        """Return (C, 2) float32: x and y of every cell, over the size."""
        return self._scaled_C2

    def cell_at(self, scaled_B2: Tensor) -> Tensor:
        """Return the cells whose x and y over the size are given, (B,): the inverse of `scaled`."""
        x_B, y_B = (scaled_B2 * self.size).round().long().unbind(1)
        return y_B * self.size + x_B

    def draw(self, things: dict[int, Cell]) -> list[list[Cell]]:
        """Return the cells of a picture, with some things on the floor."""
        flat = [things.get(cell, FLOOR) for cell in range(self.cells)]
        return [flat[start : start + self.size] for start in range(0, self.cells, self.size)]
