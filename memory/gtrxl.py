"""GTrXL: attention to the inputs of a block at the last steps, which are kept as they are, behind GRU gates.

What is kept of a step is what came into the layer, not a key and a value: both are made anew from it with the weights
of today, so that these learn from steps before the window too. A step asks all of it with few products: the query is
taken through the weights of the keys, and the mean of what was kept through those of the values.

Time in this file is counted from the first input of the call (0); what is kept has a negative time.
Shapes: T time, B rows, D features, H heads, K = D / H, S steps that are kept, N = S + T entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.segment_attention import Seen, angles, attention
from .attention import HeadsConfig
from .core import Core, count_parameters, select
from .stack import Stack

Positions = Literal["relative", "learned", "sinusoidal", "none"]

NOTHING = -(2**30)
"""The time of an entry without a value, for queries that have no past to see."""


class Past(NamedTuple):
    """The last inputs of a row's trial."""

    past_BSD: Tensor
    """(B, S, D), the newest last; zeros where the trial has not been so long."""
    seen_B: Tensor
    """(B,) int64: steps of the trial so far."""


class PastAttention(Core):
    """Attention of each step to the inputs of the last S steps of its trial, and to itself.

    Sources: Parisotto et al. 2019 (arXiv 1910.06764), section 3, with the relative positions of Transformer-XL (Dai et
    al. 2019, arXiv 1901.02860), section 3.3; the variants without the present step and without gradients into the past,
    and with learned, sinusoidal or no positions, are of TrXL-PPO (Pleines et al.).

    Departure: the sinusoids of relative positions are K wide, not D. So the term of a pair is a product of what the
    query knows and of what the key knows, and attention needs no number for each pair.
    """

    def __init__(
        self, width: int, heads: int, context: int, positions: Positions, table: int, current: bool, gradient: bool
    ) -> None:
        super().__init__(width)
        self.heads, self.context, self.positions, self.current, self.gradient = (
            heads,
            context,
            positions,
            current,
            gradient,
        )
        self.query = nn.Linear(width, width, bias=False)
        self.key_and_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        if positions == "relative":
            head = width // heads
            self.content_bias = nn.Parameter(torch.zeros(heads, head))
            self.position_bias = nn.Parameter(torch.zeros(heads, head))
            self.position_key = nn.Parameter(torch.randn(heads, head, head) * head**-0.5)
        if positions == "learned":
            self.table_PD = nn.Parameter(0.02 * torch.randn(table, width))

    def initial_state(self, batch: int) -> Past:
        """Return no past."""
        weight = self.out.weight
        past_BSD = weight.new_zeros(batch, self.context, self.width)
        return Past(past_BSD, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def step(self, x_BD: Tensor, state: Past, start_B: Tensor) -> tuple[Tensor, Past]:
        """Ask the past, and the step itself, without a key or value of any entry."""
        past_BSD, seen_B = select(start_B, self.initial_state(1), state)
        after_BND = torch.cat([past_BSD, x_BD[:, None].to(past_BSD.dtype)], 1)
        weight_BHN, asked_BND = self._weigh(x_BD, after_BND, seen_B)
        value_HKD = self.key_and_value.weight.view(2, self.heads, -1, self.width)[1]
        mean_BHD = torch.einsum("bhn,bnd->bhd", weight_BHN, asked_BND)
        read_BHK = torch.einsum("bhd,hkd->bhk", mean_BHD, value_HKD.to(x_BD.dtype))
        return self.out(read_BHK.flatten(-2)), Past(after_BND[:, 1:], seen_B + 1)

    def attends(self, x_BD: Tensor, state: Past, start_B: Tensor) -> Tensor:
        """Return the shares of the step itself and of those that are kept, (B, S + 1), the newest first."""
        past_BSD, seen_B = select(start_B, self.initial_state(1), state)
        after_BND = torch.cat([past_BSD, x_BD[:, None].to(past_BSD.dtype)], 1)
        share_BN = self._weigh(x_BD, after_BND, seen_B)[0].mean(1)
        return F.pad(share_BN, (0, 0 if self.current else 1)).flip(1)

    def _weigh(self, x_BD: Tensor, after_BND: Tensor, seen_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of entries (B, H, N) and the entries (B, N, D), of the past and the step itself."""
        past_BSD = after_BND[:, :-1]
        asked_BND = after_BND if self.current else past_BSD if self.gradient else past_BSD.detach()
        time_N = torch.arange(-self.context, asked_BND.shape[1] - self.context, device=x_BD.device)
        asked_BND = self._placed(asked_BND, seen_B[:, None] + time_N).to(x_BD.dtype)

        query_BHK = self.query(x_BD).unflatten(-1, (self.heads, -1)) * (self.width // self.heads) ** -0.5
        key_HKD = self.key_and_value.weight.view(2, self.heads, -1, self.width)[0]
        content_BHK, place_BHK = self._sides(query_BHK, (self.width // self.heads) ** -0.5)
        asks_BHD = torch.einsum("bhk,hkd->bhd", content_BHK, key_HKD.to(x_BD.dtype))
        score_BHN = torch.einsum("bhd,bnd->bhn", asks_BHD, asked_BND)
        if place_BHK is not None:
            score_BHN = score_BHN + torch.einsum("bhk,nk->bhn", place_BHK, _sinusoids(-time_N, place_BHK))
        # One more entry, of no value, that only a query without anything else sees.
        seen_BN = time_N >= -seen_B[:, None]
        seen_BN = torch.cat([seen_BN, ~seen_BN.any(1, keepdim=True)], 1)
        score_BHN = torch.where(seen_BN[:, None], F.pad(score_BHN, (0, 1)), -torch.inf)
        return score_BHN.softmax(-1)[..., :-1], asked_BND

    def unroll(self, x_TBD: Tensor, state: Past, start_TB: Tensor) -> tuple[Tensor, Past]:
        """Ask from all T steps at once."""
        steps, context = len(x_TBD), self.context
        past_BSD, seen_B = select(start_TB[0], self.initial_state(1), state)
        after_BND = torch.cat([past_BSD, x_TBD.transpose(0, 1).to(past_BSD.dtype)], 1)
        asked_BND = after_BND if self.gradient else after_BND.detach()

        # When the trial of each step began: at a start of this window, or `seen` steps before it.
        time_T = torch.arange(steps, device=x_TBD.device)
        begun_BT = torch.where(start_TB.t(), time_T, -1).cummax(1).values
        begun_BT = torch.where(begun_BT < 0, -seen_B[:, None], begun_BT)
        time_N = torch.arange(-context, steps, device=x_TBD.device)
        place_BN = torch.cat([seen_B[:, None] + time_N[:context], time_T - begun_BT], 1)
        query_BHTK, kv_B2HNK = self._made(x_TBD.transpose(0, 1), self._placed(asked_BND, place_BN), time_N)

        first_BT, last_BT = (
            torch.maximum(begun_BT, time_T - context),
            (time_T - (0 if self.current else 1)).expand_as(begun_BT),
        )
        first_BT, last_BT = (torch.where(first_BT > last_BT, NOTHING, part) for part in (first_BT, last_BT))
        time_BN = F.pad(time_N, (0, 1), value=NOTHING).expand(len(seen_B), -1)
        read_BHTK = attention(query_BHTK, F.pad(kv_B2HNK, (0, 0, 0, 1)), Seen(time_BN, first_BT, last_BT))
        read_BTD = read_BHTK[..., : self.width // self.heads].transpose(1, 2).flatten(-2)

        begun_B = begun_BT[:, -1]
        kept_BS = time_N[-context:] >= begun_B[:, None]
        left = Past(torch.where(kept_BS[..., None], after_BND[:, -context:], 0), steps - begun_B)
        return self.out(read_BTD).transpose(0, 1), left

    def _made(self, x_BTD: Tensor, asked_BND: Tensor, time_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries, and keys and values of entries.

        With relative positions both are twice as wide. The term of a query at i and a key at j is
        p_s . sin((i - j) w) + p_c . cos((i - j) w)
        = cos(j w) . (p_s sin(i w) + p_c cos(i w)) + sin(j w) . (p_c sin(i w) - p_s cos(i w)),
        a product of two vectors; values get zeros.
        """
        query_BHTK = self.query(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv_BN2HK = self.key_and_value(asked_BND.to(x_BTD.dtype)).unflatten(-1, (2, self.heads, -1))
        kv_B2HNK = kv_BN2HK.permute(0, 2, 3, 1, 4)
        content_BHTK, place_BHTK = self._sides(query_BHTK.transpose(1, 2), 1.0)
        if place_BHTK is None:
            return query_BHTK, kv_B2HNK
        content_BHTK, place_BHTK = content_BHTK.transpose(1, 2), place_BHTK.transpose(1, 2)
        key_BHNK, value_BHNK = kv_B2HNK.unbind(1)
        sine_NJ, cosine_NJ = _sinusoids(time_N, key_BHNK).chunk(2, -1)
        of_sine, of_cosine = place_BHTK.chunk(2, -1)
        sine, cosine = sine_NJ[self.context :], cosine_NJ[self.context :]
        turned = [of_sine * sine + of_cosine * cosine, of_cosine * sine - of_sine * cosine]
        # The attention divides by the root of 2 K, and the score is meant to be divided by that of K.
        query_BHTK = torch.cat([content_BHTK, *turned], -1) * 2**0.5
        place_BHNK = torch.cat([cosine_NJ, sine_NJ], -1).expand_as(key_BHNK)
        key_and_value = [torch.cat([key_BHNK, place_BHNK], -1), F.pad(value_BHNK, (0, value_BHNK.shape[-1]))]
        return query_BHTK, torch.stack(key_and_value, 1)

    def _sides(self, query_HK: Tensor, scale: float) -> tuple[Tensor, Tensor | None]:
        """Return what queries (..., H, K) ask of contents, and of sinusoids of distances; biases are scaled."""
        if self.positions != "relative":
            return query_HK, None
        content_HK = query_HK + scale * self.content_bias.to(query_HK.dtype)
        place_HK = query_HK + scale * self.position_bias.to(query_HK.dtype)
        return content_HK, torch.einsum("...hk,hkj->...hj", place_HK, self.position_key.to(query_HK.dtype))

    def _placed(self, entry_BND: Tensor, place_BN: Tensor) -> Tensor:
        """Add to entries what stands for their step of the trial; those below 0 are nothing that a query sees."""
        if self.positions == "learned":
            return entry_BND + F.embedding(place_BN.clamp(0, len(self.table_PD) - 1), self.table_PD)
        return entry_BND + _sinusoids(place_BN, entry_BND) if self.positions == "sinusoidal" else entry_BND

    def check_episodes(self, steps: int | None) -> None:
        """Refuse episodes that go beyond the table of positions.

        Raises:
            ValueError: they do.
        """
        if self.positions == "learned" and steps is not None and steps > len(self.table_PD):
            raise ValueError(
                f"an episode takes up to {steps} steps, and the memory has positions for {len(self.table_PD)}; "
                f"train with --memory.trial-positions {steps} or more"
            )

    def context_entries(self, steps: int) -> int:
        """Return how many inputs are kept."""
        return min(steps, self.context)

    def flops_per_step(self, steps: int) -> float:
        """Return what the weights cost, and per entry two products of D numbers for every head."""
        entries = min(steps, self.context) + self.current
        relative = self.positions == "relative"
        weights = 2.0 * count_parameters(self.query, self.key_and_value, self.out)
        weights += 2.0 * self.position_key.numel() if relative else 0.0
        return weights + entries * (4.0 * self.heads * self.width + 2.0 * self.width * relative)


def _sinusoids(place: Tensor, like: Tensor) -> Tensor:
    """Return sines and cosines of whole numbers (...), as wide as `like` is: (..., 2 J), by the same frequencies."""
    cosine, sine = angles(place, like.shape[-1], like.dtype)
    return torch.cat([sine, cosine], -1).to(like.dtype)


@dataclass(frozen=True, kw_only=True)
class GTrXLConfig(HeadsConfig):
    """Attention to the inputs of the last steps, behind GRU gates."""

    name: ClassVar[str] = "gtrxl"
    summary: ClassVar[str] = "gated transformer-XL: attention to the inputs of the last `context` steps, GRU gates"

    residual: Literal["none", "add", "gate"] = "gate"
    """How a layer joins the stream: its output replaces it, is added to it, or enters through a GRU gate (GTrXL)."""
    context: int = 64
    """Steps before its own that a query sees."""
    positions: Positions = "relative"
    """How a query tells steps apart: by how long ago they were (Transformer-XL), by a learned or a sinusoidal vector
    for the step of the trial that joins what is kept, or not at all."""
    trial_positions: int = 512
    """Learned vectors for the steps of a trial, with positions learned; the steps beyond share the last one."""
    current: bool = True
    """A query sees its own step besides; without, a first step sees nothing."""
    past_gradient: bool = True
    """Gradients go into the steps of the window that a query sees; without (and without `current`), into none."""

    def __post_init__(self) -> None:
        """Refuse sizes without an entry, odd widths for sinusoids, and a present that would have no gradient."""
        super().__post_init__()
        for field, least in (("context", 1), ("trial_positions", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least {least}")
        wide = {"relative": self.width // self.heads, "sinusoidal": self.width}.get(self.positions, 0)
        if wide % 2:
            raise ValueError(
                f"memory {self.name}: positions {self.positions} need an even number of features, not {wide}; change "
                "width or heads, or choose positions learned or none"
            )
        if self.current and not self.past_gradient:
            raise ValueError(
                f"memory {self.name}: without past_gradient a query cannot see its own step, which has one; "
                "add --memory.no-current"
            )

    def build(self) -> Core:
        """Make the core."""
        sizes = (self.width, self.heads, self.context, self.positions, self.trial_positions)
        return Stack(self, [PastAttention(*sizes, self.current, self.past_gradient) for _ in range(self.depth)])
