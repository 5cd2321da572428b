"""Color-Cubes as a picture: the numbers of an observation laid out as planes over the cells.

It says what the vector says. Where convolutions look at it, what they learn about one cell they know about all: which
cell holds the cube of the colour asked for is learned from a tenth of the frames (eval/RESULTS.md).

Shapes: B rows, S cells along a side, P planes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .step import Obs, Oracle


def planes(layout: dict[str, slice], cells: int) -> dict[str, slice]:
    """Return which planes say what, of a vector with this layout.

    A part of one number or more for each cell becomes one plane or more; the target's colour one plane for each colour,
    with the same number in all cells.
    """
    counts = {name: (part.stop - part.start) // (cells if name != "target" else 1) for name, part in layout.items()}
    found, end = {}, 0
    for name, count in counts.items():
        found[name] = slice(end, end + count)
        end += count
    return found


def as_grid(vector: Tensor, layout: dict[str, slice], size: int) -> Tensor:
    """Return (B, S, S, P) uint8 of a vector (B, ...) of zeros and ones."""
    cells = size * size
    parts = []
    for name, part in layout.items():
        found = vector[:, part]
        of_cells = found[:, :, None].expand(-1, -1, cells) if name == "target" else found.view(len(found), -1, cells)
        parts.append(of_cells)
    flat_BCP = torch.cat(parts, 1).mT
    return flat_BCP.reshape(len(vector), size, size, -1).to(torch.uint8)


def as_vector(grid: Tensor, layout: dict[str, slice], size: int) -> Tensor:
    """Return the vector (B, ...), float32, that `as_grid` was given."""
    flat_BPC = grid.flatten(1, 2).mT.float()
    parts = [
        flat_BPC[:, part, 0] if name == "target" else flat_BPC[:, part].flatten(1)
        for name, part in planes(layout, size * size).items()
    ]
    return torch.cat(parts, 1)


class GridPlayer(Oracle):
    """A player of vectors that is shown grids."""

    def __init__(self, player: Oracle, layout: dict[str, slice], size: int) -> None:
        self.player, self.layout, self.size = player, layout, size

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        return self.player.act(as_vector(obs, self.layout, self.size), reward_B, episode_start_B, trial_start_B)
