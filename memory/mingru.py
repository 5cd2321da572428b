"""minGRU: a GRU whose gate and candidate see the input alone, so that a window is one scan.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .core import Core, MemoryConfig
from .scanned import Moves, Scanned, ScanState, widened
from .stack import Stack


class MinGRU(Scanned):
    """h' = (1 - z) h + z n, where z = sigmoid(W_z x + b_z) and n = g(W_n x + b_n).

    Source: Feng et al. 2024, "Were RNNs All We Needed?" (arXiv 2410.01201), section 3.1 and appendix B. The scan there
    runs over logarithms, since it divides by products of (1 - z) over time, which vanish; that takes a candidate above
    0, g(u) = u + 1/2 from 0 on and sigmoid(u) below. The scan of this package composes steps and never divides: all
    that it multiplies with lies in 0..1, the state is a weighted mean of candidates, and rounding does not build up. So
    no logarithms are needed, and the candidate may have any sign (`linear`, the paper's minGRU before logarithms).
    1 - z is computed as sigmoid(-u), so that a gate that hardly opens is not rounded to one that never does.
    """

    keeps = "-update"

    def __init__(self, width: int, candidate: str, hold: float) -> None:
        super().__init__(width, width)
        self.candidate = candidate
        self.project = nn.Linear(width, 2 * width)
        with torch.no_grad():
            self.project.bias.zero_()
            self.project.bias[:width] = torch.linspace(0, -hold, width)

    def moves(self, x_TBD: Tensor) -> Moves:
        """Return 1 - z and z n."""
        gate_TBD, new_TBD = widened(self.project(x_TBD)).chunk(2, -1)
        if self.candidate == "positive":
            new_TBD = torch.where(new_TBD >= 0, new_TBD + 0.5, torch.sigmoid(new_TBD))
        return Moves(torch.sigmoid(-gate_TBD), torch.sigmoid(gate_TBD) * new_TBD, x_TBD)

    def read(self, aside_TBA: Tensor, hidden_TBS: Tensor) -> Tensor:
        """Return the memory itself."""
        return hidden_TBS.to(aside_TBA.dtype)

    def gates(self, x_BD: Tensor, state: ScanState, start_B: Tensor) -> dict[str, Tensor]:
        """Return z, (B, D)."""
        return {"update": self.project(x_BD)[:, : self.width].sigmoid()}


@dataclass(frozen=True, kw_only=True)
class MinGRUConfig(MemoryConfig):
    """A GRU whose gate and candidate see the input alone."""

    name: ClassVar[str] = "mingru"
    summary: ClassVar[str] = "GRU whose gate sees the input alone: constant memory, a window is one scan"

    candidate: Literal["positive", "linear"] = "linear"
    """What may come in: any number, or those above 0 alone, as where the paper computes in logarithms."""
    hold: float = 4.0
    """The gate begins with biases spread evenly from 0 to minus this: the higher, the longer the units hold on."""

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [MinGRU(self.width, self.candidate, self.hold) for _ in range(self.depth)])
