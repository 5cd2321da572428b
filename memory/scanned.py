"""What the cores on the linear scan share: the step, the window in one scan, and windows that would not fit at once.

A window writes out the memory after every step, for its gradients. Where that takes more than `PIECE_BYTES` in one
tensor, the window is cut into equal pieces, and the backward pass computes each piece once more from the memory that
was carried into it: what is kept is that memory, and the tensors of one piece. Results are the same.
Shapes: T time, B rows, D features, S numbers that a layer remembers, A numbers aside.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..kernels.linear_scan import linear_scan
from .core import Core, count_parameters

PIECE_BYTES = 1 << 28
"""What the memories after all steps of a piece may take, 256 MiB; some six tensors of this size live at once."""

Piece = Callable[..., tuple[Tensor, Tensor]]


class ScanState(NamedTuple):
    """What a layer remembers, in float32 at least: sums over a long past do not grow in bfloat16."""

    hidden: Tensor
    """(B, S), or (B, S, 2) for real and imaginary parts of complex numbers."""


class Moves(NamedTuple):
    """What an input does to the memory."""

    keep_TBS: Tensor
    """a: what is kept, (T, B, S) or 1 where it is the same throughout, in float32 at least."""
    add_TBS: Tensor
    """b: what is added, (T, B, S), in float32 at least."""
    aside_TBA: Tensor
    """What reading needs besides the memory: the input, or what has been made of it."""


def widened(x: Tensor) -> Tensor:
    """Return numbers in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_pieces(run: Piece, hidden: Tensor, *by_time: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `run(hidden, *by_time)` returns, outputs and the memory after them, in as few pieces as fit.

    Args:
        run: takes some steps.
        hidden: the memory before the first, of the size and type of what is written out per step.
        by_time: what goes by steps, time first.
    """
    steps = len(by_time[0])
    count = min(steps, -(-steps * hidden.numel() * hidden.element_size() // PIECE_BYTES))
    if count <= 1:
        return run(hidden, *by_time)
    outputs, length = [], -(-steps // count)
    for piece in zip(*(torch.split(each, length) for each in by_time), strict=True):
        if torch.is_grad_enabled():
            y_TBD, hidden = checkpoint(run, hidden, *piece, use_reentrant=False, preserve_rng_state=False)
        else:
            y_TBD, hidden = run(hidden, *piece)
        outputs.append(y_TBD)
    return torch.cat(outputs), hidden


class Scanned(Core):
    """A layer whose memory is h' = a h + b, number by number, where the input alone decides on a and b.

    A layer of its own kind says what its input `moves`, and how to `read` what is then remembered.
    """

    keeps = "kept"

    def __init__(self, width: int, size: int, *, is_complex: bool = False) -> None:
        super().__init__(width)
        self.size, self.is_complex = size, is_complex

    @abstractmethod
    def moves(self, x_TBD: Tensor) -> Moves:
        """Return what the input does to the memory."""

    @abstractmethod
    def read(self, aside_TBA: Tensor, hidden_TBS: Tensor) -> Tensor:
        """Return the outputs (T, B, D) from what `moves` put aside, and in its type, and the memory after each step."""

    def initial_state(self, batch: int) -> ScanState:
        """Return zeros."""
        like = widened(next(self.parameters()))
        return ScanState(like.new_zeros(batch, self.size, *[2] * self.is_complex))

    def step(self, x_BD: Tensor, state: ScanState, start_B: Tensor) -> tuple[Tensor, ScanState]:
        """Take one step: the recurrence as it is written."""
        keep_1BS, add_1BS, aside_1BA = self.moves(x_BD[None])
        before_BS = torch.where(start_B[:, None], 0, self._numbers(state.hidden))
        hidden_BS = keep_1BS[0] * before_BS + add_1BS[0]
        return self.read(aside_1BA, hidden_BS[None])[0], ScanState(self._stored(hidden_BS))

    def unroll(self, x_TBD: Tensor, state: ScanState, start_TB: Tensor) -> tuple[Tensor, ScanState]:
        """Take T steps in one scan, or in pieces where one would be too large."""

        def run(hidden_BS: Tensor, x_TBD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
            keep_TBS, add_TBS, aside_TBA = self.moves(x_TBD)
            hidden_TBS, last_BS = linear_scan(keep_TBS, add_TBS, hidden_BS, start_TB)
            return self.read(aside_TBA, hidden_TBS), last_BS

        y_TBD, last_BS = in_pieces(run, self._numbers(state.hidden), x_TBD, start_TB)
        return y_TBD, ScanState(self._stored(last_BS))

    def gates(self, x_BD: Tensor, state: ScanState, start_B: Tensor) -> dict[str, Tensor]:
        """Return |a| as `kept`, (B, S): no gate where all inputs have the same, but how long each number lasts."""
        return {"kept": self.moves(x_BD[None]).keep_TBS[0].abs().expand(len(x_BD), -1)}

    def flops_per_step(self, steps: int) -> float:
        """Return two per weight, and what the recurrence takes: a product and a sum, of complex numbers eight."""
        return 2.0 * count_parameters(self) + self.size * (8.0 if self.is_complex else 2.0)

    def _numbers(self, hidden: Tensor) -> Tensor:
        return torch.view_as_complex(hidden.contiguous()) if self.is_complex else hidden

    def _stored(self, hidden_BS: Tensor) -> Tensor:
        return torch.view_as_real(hidden_BS) if self.is_complex else hidden_BS
