"""Aaren: attention with one learned query, which needs no cache: its past fits into three running sums.

Departures from the paper: the scores are divided by sqrt(K), as in the Transformer that it replaces; no biases; the
sums are kept in float32 at least, since a sum over a long past in bfloat16 stops growing after 256 steps.
Shapes: T time, B rows, D features, H heads, K = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.softmax_scan import Sums, softmax_scan
from ..kernels.softmax_scan.reference import fresh
from .attention import HeadsConfig
from .core import Core, count_parameters
from .stack import Stack


class Aaren(Core):
    """One layer: every step is weighed once, by how well its key fits a query that is learned and never changes.

    It remembers for ever and cannot forget by itself: with bounded scores a new step counts less and less.

    Source: Feng et al. 2024, "Attention as an RNN" (arXiv 2405.13956), section 3.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width)
        self.heads = heads
        self.token = nn.Parameter(torch.randn(width))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def initial_state(self, batch: int) -> Sums:
        """Return the sums of rows without a past."""
        dtype = torch.promote_types(self.token.dtype, torch.float32)
        like = torch.empty(0, dtype=dtype, device=self.token.device)
        return fresh(batch, self.heads, self.width // self.heads, like)

    def step(self, x_BD: Tensor, state: Sums, start_B: Tensor) -> tuple[Tensor, Sums]:
        """Add one step to the sums."""
        y_1BD, state = self.unroll(x_BD[None], state, start_B[None])
        return y_1BD[0], state

    def unroll(self, x_TBD: Tensor, state: Sums, start_TB: Tensor) -> tuple[Tensor, Sums]:
        """Add T steps, in parallel."""
        kept = state.total_BH.dtype
        value_TBHK = self.value(x_TBD).unflatten(-1, (self.heads, -1))
        mean_TBHK, state = softmax_scan(self._score(x_TBD).to(kept), value_TBHK, state, start_TB)
        return self.out(mean_TBHK.flatten(-2).to(x_TBD.dtype)), state

    def flops_per_step(self, steps: int) -> float:
        """Return what value, output and the folded score cost: the fold itself is made once for all rows of a call."""
        return 2.0 * (count_parameters(self.value, self.out) + self.heads * self.width)

    def _score(self, x_TBD: Tensor) -> Tensor:
        """Return query . key / sqrt(K), (T, B, H).

        The query is the same for all steps, so it is folded into the key's weights: H numbers per step, not D.
        """
        query_HK = self.query(self.token).view(self.heads, -1)
        key_HKD = self.key.weight.view(self.heads, -1, self.width)
        fold_HD = torch.einsum("hk,hkd->hd", query_HK * query_HK.shape[-1] ** -0.5, key_HKD)
        return F.linear(x_TBD, fold_HD)


@dataclass(frozen=True, kw_only=True)
class AarenConfig(HeadsConfig):
    """Attention with a learned query, as a recurrence."""

    name: ClassVar[str] = "aaren"
    summary: ClassVar[str] = (
        "attention with one learned query, as a recurrence: constant memory, never forgets by itself"
    )

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [Aaren(self.width, self.heads) for _ in range(self.depth)])
