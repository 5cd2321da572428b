"""SHM, Stable Hadamard Memory: a matrix that every step multiplies, number by number, and adds to.

Shapes: T time, B rows, D features, H rows and columns of the memory, S = H H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.bits import GOLDEN, MASK, below, mix
from ..kernels.linear_scan import linear_scan
from .core import Core, MemoryConfig, count_parameters
from .scanned import in_pieces, widened
from .stack import Stack

TABLE = 128
"""Rows that are learned for theta to be drawn from."""
LARGEST = 1e18
"""What the numbers of a memory are cut off at, since a step may double them."""


class SHMState(NamedTuple):
    """What a layer remembers, in float32 at least."""

    memory: Tensor
    """(B, H, H)."""
    age: Tensor
    """(B,) int64, steps since the trial began: which row of the table is next."""


class _Written(NamedTuple):
    """What an input does to the memory, and where it looks."""

    keep: Tensor
    """C, (..., H, H)."""
    add: Tensor
    """eta v k^T, (..., H, H)."""
    query: Tensor
    """q, (..., H)."""
    eta: Tensor
    """(..., 1)."""


class SHM(Core):
    """M' = M * C + eta v k^T with C = 1 + tanh(theta v_c^T); y = W (M' q).

    Keys and queries are relu(.) / (1e-5 + sum), eta = sigmoid(.); all see LN(x), without biases.

    Source: Le et al. 2024, "Stable Hadamard Memory" (arXiv 2410.10132), section 3, and its public code. In the paper
    theta is a random row of a learned table at every step, so that products of C over time are 1 on average. In the
    code the draw is rounded down to 0, and so theta is always the first row (`constant`).

    What is drawn (`random`) is a function of the step of the trial and of the option `seed`, and of nothing else: no
    generator. So acting, learning from a window, and going through a trial again all draw the same, wherever a window
    begins. Every row of a batch and every trial meets the same sequence, which goes on for ever: a number that told
    rows apart would have to outlive the start of a trial, at which all is forgotten.

    A step multiplies by up to 2, so the memory may grow without bound. What is carried is cut off at 1e18, so that a
    stream stays finite; up to there the recurrence is exact.
    """

    def __init__(self, width: int, size: int, rows: str, seed: int, ceiling: float) -> None:
        super().__init__(width)
        self.size, self.ceiling, self.key = size, ceiling, mix((seed + GOLDEN) & MASK)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * size + 1, bias=False)
        self.out = nn.Linear(size, width)
        table = nn.init.xavier_uniform_(torch.empty(TABLE, size))
        self.table = nn.Parameter(table if rows == "random" else table[:1].clone())

    def initial_state(self, batch: int) -> SHMState:
        """Return zeros."""
        memory = widened(self.table).new_zeros(batch, self.size, self.size)
        return SHMState(memory, torch.zeros(batch, dtype=torch.int64, device=memory.device))

    def step(self, x_BD: Tensor, state: SHMState, start_B: Tensor) -> tuple[Tensor, SHMState]:
        """Take one step: the recurrence as it is written."""
        age_B = torch.where(start_B, 0, state.age)
        written = self._write(x_BD, self.drawn(age_B))
        before_BHH = torch.where(start_B[:, None, None], 0, state.memory)
        memory_BHH = (written.keep * before_BHH + written.add).clamp(-LARGEST, LARGEST)
        return self._read(x_BD, memory_BHH, written.query), SHMState(memory_BHH, age_B + 1)

    def unroll(self, x_TBD: Tensor, state: SHMState, start_TB: Tensor) -> tuple[Tensor, SHMState]:
        """Take T steps in one scan, or in pieces where one would be too large."""
        time_T1 = torch.arange(len(x_TBD), device=x_TBD.device)[:, None]
        begun_TB = torch.where(start_TB, time_T1, -1).cummax(0).values
        age_TB = time_T1 - torch.where(begun_TB < 0, -state.age, begun_TB)

        def run(memory_BS: Tensor, x_TBD: Tensor, start_TB: Tensor, age_TB: Tensor) -> tuple[Tensor, Tensor]:
            written = self._write(x_TBD, self.drawn(age_TB))
            memory_TBS, last_BS = linear_scan(written.keep.flatten(-2), written.add.flatten(-2), memory_BS, start_TB)
            y_TBD = self._read(x_TBD, memory_TBS.view_as(written.keep), written.query)
            return y_TBD, last_BS.clamp(-LARGEST, LARGEST)

        y_TBD, last_BS = in_pieces(run, state.memory.flatten(1), x_TBD, start_TB, age_TB)
        return y_TBD, SHMState(last_BS.view_as(state.memory), age_TB[-1] + 1)

    def drawn(self, age: Tensor) -> Tensor:
        """Return which row of the table a step of a trial takes, for steps (...) of any number."""
        return below(mix(mix(age & MASK) ^ self.key), len(self.table))

    def gates(self, x_BD: Tensor, state: SHMState, start_B: Tensor) -> dict[str, Tensor]:
        """Return eta (B, 1) as `write`, and half of C, (B, H, H), as `keep`: at 0.5 the memory stays as it is."""
        written = self._write(x_BD, self.drawn(torch.where(start_B, 0, state.age)))
        return {"write": written.eta, "keep": written.keep / 2}

    def flops_per_step(self, steps: int) -> float:
        """Return two per weight, and eight per number of the memory: C, its product and sum, what is added, reading.

        The table is looked up, not multiplied with.
        """
        return 2.0 * count_parameters(self.norm, self.project, self.out) + 8.0 * self.size**2

    def _write(self, x: Tensor, drawn: Tensor) -> _Written:
        projected = widened(
            self.project(F.layer_norm(x, (self.width,), self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)))
        )
        key, query, value, calm, eta = torch.split(projected, [self.size] * 4 + [1], -1)
        key, query = (part.relu() / (1e-5 + part.relu().sum(-1, keepdim=True)) for part in (key, query))
        eta = eta.sigmoid()
        theta = widened(F.embedding(drawn, self.table))
        keep = 1 + torch.tanh(theta[..., None] * calm[..., None, :])
        if self.ceiling < 2:
            keep = keep.clamp(max=self.ceiling)
        return _Written(keep, (eta * value)[..., None] * key[..., None, :], query, eta)

    def _read(self, x: Tensor, memory: Tensor, query: Tensor) -> Tensor:
        y: Tensor = self.out((memory @ query[..., None])[..., 0].to(x.dtype))
        return y


@dataclass(frozen=True, kw_only=True)
class SHMConfig(MemoryConfig):
    """A matrix that every step multiplies, number by number, and adds to."""

    name: ClassVar[str] = "shm"
    summary: ClassVar[str] = "Stable Hadamard Memory: a matrix, calibrated number by number at every step"

    residual: Literal["none", "add", "gate"] = "add"
    """How a layer joins the stream: its output replaces it, is added to it, or enters through a GRU gate (GTrXL)."""
    size: int = 32
    """Rows and columns of the memory, H in the paper; a window of learning costs its square per step."""
    rows: Literal["random", "constant"] = "random"
    """Which row of its table the calibration takes at a step: a drawn one (the paper), or always one (its code)."""
    seed: int = 0
    """Another seed, another sequence of drawn rows."""
    ceiling: float = 2.0
    """The most that a step multiplies a number of the memory with: 2 as published; at 1 nothing can grow."""

    def __post_init__(self) -> None:
        """Refuse a layer without memory, and a ceiling that cannot be."""
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"memory shm: size is {self.size}; it must be at least 1")
        if not 0 < self.ceiling <= 2:
            raise ValueError(f"memory shm: ceiling is {self.ceiling}; it must be above 0 and at most 2")

    def build(self) -> Core:
        """Make the core."""
        layers = [SHM(self.width, self.size, self.rows, self.seed, self.ceiling) for _ in range(self.depth)]
        return Stack(self, layers)
