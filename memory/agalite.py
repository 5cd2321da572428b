"""AGaLiTe and GaLiTe: linear attention with a gate for every key and value, in memory of a fixed size.

Shapes: T time, B rows, D features, H heads, K = D / H, E features that expand a key, F = K E, R terms of the product,
N numbers side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.linear_scan import linear_scan
from .attention import HeadsConfig
from .core import Core, count_parameters
from .stack import Stack

Product = Literal["approximate", "exact"]
Frequencies = Literal["harmonic", "published"]

EPS = 1e-5


class Traces(NamedTuple):
    """What a layer remembers."""

    trace_BN: Tensor
    """(B, N), side by side: with the approximate product R traces of keys (R, H, F), one of keys without a cosine
    (H, F), R of values (R, H, K); with the exact product one of keys (H, F) and their products (H, K, F)."""
    seen_B: Tensor
    """(B,) int64: steps of the trial so far."""


class Asked(NamedTuple):
    """What a layer makes of its inputs."""

    query_HF: Tensor
    """(..., H, F), not below 0."""
    key_HF: Tensor
    """(..., H, F), not below 0."""
    value_HK: Tensor
    """(..., H, K)."""
    key_gate_HF: Tensor
    """(..., H, F), 0 to 1: how much of the trace of keys is replaced."""
    value_gate_HK: Tensor
    """(..., H, K), 0 to 1: how much of the trace of values is replaced."""


class AGaLiTe(Core):
    """One layer.

    With keys k and queries q of F numbers, relu(W_k x) x relu(P_k x) as an outer product, gates g (like k, of sigmoids)
    and b, GaLiTe is C = ((1 - b) (1 - g)^T) * C + (b v) (g k)^T, s = (1 - g) s + g k and y = C q / (s . q). AGaLiTe
    keeps no matrix but R traces of keys and values, each weighed with the cosine of a frequency when it is written:
    C is about 2 / R times the sum of value_j key_j^T, since the cosines of two different steps are nearly orthogonal.

    Source: Pramanik et al. 2024 (TMLR, arXiv 2310.15719) and its code. Departures: the cosines count the steps of the
    trial (the code never begins again), so that forgetting is exact; frequencies 2 pi j / R and the factor 2 / R, with
    which more than two steps of R make the product exact. The code's frequencies, from -pi to pi in R even steps with
    a factor of 1 / (2 R), are `published`: for R = 2 both are the same cosine, so that nothing tells steps apart.
    """

    keeps = "-value"
    turns_R: Tensor

    def __init__(
        self, width: int, heads: int, expand: int, rank: int, product: Product, frequencies: Frequencies
    ) -> None:
        super().__init__(width)
        self.heads, self.expand, self.rank, self.product = heads, expand, rank, product
        self.project = _parts(width, width, 5)
        self.features = _parts(width, heads * expand, 3)
        self.out = _parts(width, width, 1)
        # Frequency j is 2 pi turns_j / cycle: whole numbers, so that late in a trial a cosine is as exact as at first.
        if frequencies == "harmonic":
            turns, self.cycle, self.weight = list(range(rank)), rank, 2 / rank
        else:
            turns, self.cycle, self.weight = (
                [2 * j + 1 - rank for j in range(rank)],
                2 * max(rank - 1, 1),
                1 / (2 * rank),
            )
        # The code's one frequency at a rank of 1 is the first of its row, -pi.
        turns_R = torch.tensor([-1] if frequencies == "published" and rank == 1 else turns)
        self.register_buffer("turns_R", turns_R, persistent=False)

    def initial_state(self, batch: int) -> Traces:
        """Return traces of nothing, in float32 at least: in bfloat16 a slow gate would not move them."""
        weight, number = self.out.weight, self.expand * self.width
        copies = self.width // self.heads if self.product == "exact" else self.rank
        size = number * (1 + copies) + (0 if self.product == "exact" else self.rank * self.width)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        trace_BN = torch.zeros(batch, size, dtype=dtype, device=weight.device)
        return Traces(trace_BN, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def step(self, x_BD: Tensor, state: Traces, start_B: Tensor) -> tuple[Tensor, Traces]:
        """Move the traces by one step."""
        y_1BD, state = self.unroll(x_BD[None], state, start_B[None])
        return y_1BD[0], state

    def unroll(self, x_TBD: Tensor, state: Traces, start_TB: Tensor) -> tuple[Tensor, Traces]:
        """Move the traces by T steps, in parallel."""
        steps, asked = len(x_TBD), self._asked(x_TBD)
        time_T1 = torch.arange(steps, device=x_TBD.device)[:, None]
        begun_TB = torch.where(start_TB, time_T1, -1).cummax(0).values
        begun_TB = torch.where(begun_TB < 0, -state.seen_B, begun_TB)
        if self.product == "exact":
            kept_TBN, added_TBN = self._matrix(asked)
        else:
            kept_TBN, added_TBN = self._terms(asked, self._cosines(time_T1 + 1 - begun_TB, x_TBD))
        trace_TBN, trace_BN = linear_scan(kept_TBN, added_TBN, state.trace_BN, start_TB)
        read_TBHK = (self._read_matrix if self.product == "exact" else self._read_terms)(trace_TBN, asked.query_HF)
        return self.out(read_TBHK.flatten(-2)), Traces(trace_BN, steps - begun_TB[-1])

    def gates(self, x_BD: Tensor, state: Traces, start_B: Tensor) -> dict[str, Tensor]:
        """Return how much of the traces is replaced: of keys (B, H, F), of values (B, H, K)."""
        asked = self._asked(x_BD)
        return {"key": asked.key_gate_HF, "value": asked.value_gate_HK}

    def flops_per_step(self, steps: int) -> float:
        """Return what the weights cost, two per number of the traces to move them, and the products that read them."""
        traces, keys = self.initial_state(1).trace_BN.numel(), self.expand * self.width
        products = keys * (1 + self.width // self.heads) if self.product == "exact" else keys * (1 + self.rank)
        products += 0 if self.product == "exact" else self.rank * self.width
        return 2.0 * (count_parameters(self) + traces + products)

    def _asked(self, x: Tensor) -> Asked:
        query, key, value, value_gate, key_gate = self.project(x).unflatten(-1, (5, self.heads, -1)).unbind(-3)
        of_query, of_key, of_gate = self.features(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return Asked(
            _outer(query.relu(), of_query.relu()),
            _outer(key.relu(), of_key.relu()),
            value,
            _outer(key_gate.sigmoid(), of_gate.sigmoid()),
            value_gate.sigmoid(),
        )

    def _cosines(self, tick_TB: Tensor, like: Tensor) -> Tensor:
        """Return the cosine of every frequency at steps of the trial, (T, B, R)."""
        phase_TBR = (tick_TB[..., None] * self.turns_R) % self.cycle
        return torch.cos(phase_TBR.double() * (2 * pi / self.cycle)).to(like.dtype)

    def _terms(self, asked: Asked, cosine_TBR: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is kept of the traces of the approximate product and what is added to them, (T, B, N)."""
        gate_TBF, keep_TBK = asked.key_gate_HF.flatten(-2), 1 - asked.value_gate_HK.flatten(-2)
        key_TBF, value_TBK = (asked.key_gate_HF * asked.key_HF).flatten(-2), (1 - keep_TBK) * asked.value_HK.flatten(-2)
        kept = [1 - gate_TBF] * (self.rank + 1) + [keep_TBK] * self.rank
        added = [_outer(cosine_TBR, key_TBF), key_TBF, _outer(cosine_TBR, value_TBK)]
        return torch.cat(kept, -1), torch.cat(added, -1)

    def _read_terms(self, trace_TBN: Tensor, query_TBHF: Tensor) -> Tensor:
        """Return what the queries read, (T, B, H, K)."""
        keys = self.expand * self.width
        key_N, value_N = torch.split(trace_TBN, [keys * (self.rank + 1), self.width * self.rank], -1)
        key_TBRHF = key_N.view(*key_N.shape[:2], self.rank + 1, self.heads, -1)
        value_TBRHK = value_N.view(*key_N.shape[:2], self.rank, self.heads, -1)
        match_TBRH = torch.einsum("tbrhf,tbhf->tbrh", key_TBRHF, query_TBHF)
        share_TBRH = match_TBRH[:, :, :-1] / (match_TBRH[:, :, -1:] + EPS)
        return self.weight * torch.einsum("tbrh,tbrhk->tbhk", share_TBRH, value_TBRHK)

    def _matrix(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """Return what is kept of keys and their products with values, and what is added to them, (T, B, N)."""
        gate, key = asked.key_gate_HF, asked.key_gate_HF * asked.key_HF
        value_gate, value = asked.value_gate_HK, asked.value_gate_HK * asked.value_HK
        kept = [(1 - gate).flatten(-2), _outer(1 - value_gate, 1 - gate).flatten(-2)]
        return torch.cat(kept, -1), torch.cat([key.flatten(-2), _outer(value, key).flatten(-2)], -1)

    def _read_matrix(self, trace_TBN: Tensor, query_TBHF: Tensor) -> Tensor:
        """Return what the queries read, (T, B, H, K)."""
        keys = self.expand * self.width
        key_N, matrix_N = torch.split(trace_TBN, [keys, trace_TBN.shape[-1] - keys], -1)
        matrix_TBHKF = matrix_N.view(*query_TBHF.shape[:3], -1, query_TBHF.shape[-1])
        total_TBH = (key_N.view(query_TBHF.shape) * query_TBHF).sum(-1)
        query_TBHF = query_TBHF / (total_TBH[..., None] + EPS)
        return torch.einsum("tbhkf,tbhf->tbhk", matrix_TBHKF, query_TBHF)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the outer product of the last axes, as one axis."""
    return (left[..., :, None] * right[..., None, :]).flatten(-2)


def _parts(width: int, out: int, parts: int) -> nn.Linear:
    """Return several maps side by side, each orthogonal with a gain of sqrt 2, and biases of 0."""
    layer = nn.Linear(width, parts * out)
    for part in layer.weight.detach().chunk(parts):
        nn.init.orthogonal_(part, 2**0.5)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True, kw_only=True)
class AGaLiTeConfig(HeadsConfig):
    """Gated linear attention in a fixed memory."""

    name: ClassVar[str] = "agalite"
    summary: ClassVar[str] = "gated linear attention in constant memory: AGaLiTe, or GaLiTe with product exact"

    residual: Literal["none", "add", "gate"] = "gate"
    """How a layer joins the stream: its output replaces it, is added to it, or enters through a GRU gate (GTrXL)."""
    expand: int = 4
    """How many times wider keys and queries are than values (eta of the paper)."""
    rank: int = 2
    """Terms of the approximate product (r of the paper)."""
    product: Product = "approximate"
    """What is kept of keys and values: `rank` traces of each (AGaLiTe), or their products (GaLiTe)."""
    frequencies: Frequencies = "harmonic"
    """Of the cosines of the approximate product: 2 pi j / rank, or those of the public code, two of which are the same
    at a rank of 2."""

    def __post_init__(self) -> None:
        """Refuse sizes of nothing."""
        super().__post_init__()
        for field in ("expand", "rank"):
            if getattr(self, field) < 1:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least 1")

    def build(self) -> Core:
        """Make the core."""
        options = (self.width, self.heads, self.expand, self.rank, self.product, self.frequencies)
        return Stack(self, [AGaLiTe(*options) for _ in range(self.depth)])
