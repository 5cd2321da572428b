"""RAT: a recurrence inside chunks of a trial, and attention over what the chunks before came to.

Chunks are counted from the start of a row's trial, so rows are at different places of theirs.
Shapes: T time, B rows, D features, H heads, K = D / H, G groups of heads, L steps of a chunk, C chunks that are kept,
M chunks that can end in a window, E = C + M, N numbers side by side or what one step asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.linear_scan import linear_scan
from ..kernels.segment_attention import angles, rotate
from .attention import HeadsConfig
from .core import Core, count_parameters, select
from .stack import Stack


class Chunks(NamedTuple):
    """The chunks of a row's trial."""

    running_B2HK: Tensor
    """(B, 2, H, K): the means of keys and of values in the running chunk."""
    kv_B2HCK: Tensor
    """(B, 2, H, C, K): what the last chunks came to, keys turned by the number of the chunk; the newest last."""
    seen_B: Tensor
    """(B,) int64: steps of the trial so far."""


class RAT(Core):
    """One layer.

    With a gate g for every feature, k' = g k' + (1 - g) k and v' = g v' + (1 - g) v, from 0 at the start of a chunk.
    A step attends to the last k' and v' of every chunk before its own and to those of its own so far; positions are
    numbers of chunks (rotary). What it reads goes out through a second gate.

    Source: Wei et al. 2025 (arXiv 2507.04416) and its code. Departures: chunks are counted from the start of the trial;
    of the chunks before, the last C are kept; weights begin at N(0, 1 / D), which at the published width is the
    published N(0, 0.02^2).
    """

    keeps = "hold"

    def __init__(self, width: int, heads: int, chunk: int, chunks: int, groups: int) -> None:
        super().__init__(width)
        self.heads, self.chunk, self.chunks, self.groups = heads, chunk, chunks, groups
        self.shared = groups * (width // heads)
        self.project = nn.Linear(width, 3 * width + 2 * self.shared, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        for layer in (self.project, self.out):
            nn.init.normal_(layer.weight, std=width**-0.5)
        # g of a feature is about 1 - 1 / tau at first, with tau spread over the chunk.
        self.hold_bias = nn.Parameter(torch.empty(width).uniform_(1, max(chunk - 1, 1)).log())

    def initial_state(self, batch: int) -> Chunks:
        """Return no chunks; the means are float32 at least, since in bfloat16 a slow gate would not move them."""
        weight, head = self.out.weight, self.width // self.heads
        dtype = torch.promote_types(weight.dtype, torch.float32)
        running_B2HK = torch.zeros(batch, 2, self.heads, head, dtype=dtype, device=weight.device)
        kv_B2HCK = weight.new_zeros(batch, 2, self.heads, self.chunks, head)
        return Chunks(running_B2HK, kv_B2HCK, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def step(self, x_BD: Tensor, state: Chunks, start_B: Tensor) -> tuple[Tensor, Chunks]:
        """Move the means, attend to the chunks, and put the running one among them where it ends."""
        running_B2HK, kv_B2HCK, seen_B = select(start_B, self.initial_state(1), state)
        query_BHK, new_B2HK, hold_BHK, out_BHK = self._asked(x_BD)
        begins_B = seen_B % self.chunk == 0
        running_B2HK = torch.where(begins_B[:, None, None, None], 0, running_B2HK) * hold_BHK[:, None] + new_B2HK
        number_B = seen_B // self.chunk
        cosine, sine = self._turn(number_B[:, None], x_BD)
        own_B2HK = running_B2HK.to(x_BD.dtype)
        key_BHK, value_BHK = rotate(own_B2HK[:, 0], cosine, sine), own_B2HK[:, 1]
        # One more chunk at the end: the running one.
        now_B2H1K = torch.stack([key_BHK, value_BHK], 1)[:, :, :, None]
        after_B2HNK = torch.cat([kv_B2HCK, now_B2H1K.to(kv_B2HCK.dtype)], 3)
        asked_BHNK, read_BHNK = torch.cat([kv_B2HCK.to(x_BD.dtype), now_B2H1K], 3).unbind(1)
        score_BHN = torch.einsum("bhk,bhnk->bhn", rotate(query_BHK, cosine, sine), asked_BHNK)
        age_N = torch.arange(self.chunks, -1, -1, device=x_BD.device)
        score_BHN = torch.where((age_N <= number_B[:, None])[:, None], score_BHN, -torch.inf)
        read_BHK = torch.einsum("bhn,bhnk->bhk", score_BHN.softmax(-1), read_BHNK)
        ends_B = ((seen_B + 1) % self.chunk == 0)[:, None, None, None, None]
        left = Chunks(running_B2HK, torch.where(ends_B, after_B2HNK[:, :, :, 1:], kv_B2HCK), seen_B + 1)
        return self.out((out_BHK * read_BHK).flatten(-2)), left

    def unroll(self, x_TBD: Tensor, state: Chunks, start_TB: Tensor) -> tuple[Tensor, Chunks]:
        """Scan inside the chunks, and attend from all T steps to those that have ended."""
        steps, dtype = len(x_TBD), x_TBD.dtype
        running_B2HK, kv_B2HCK, seen_B = select(start_TB[0], self.initial_state(1), state)
        query_TBHK, new_TB2HK, hold_TBHK, out_TBHK = self._asked(x_TBD)
        time_T1 = torch.arange(steps, device=x_TBD.device)[:, None]
        begun_TB = torch.where(start_TB, time_T1, -1).cummax(0).values
        step_TB = time_T1 - torch.where(begun_TB < 0, -seen_B, begun_TB)
        number_TB = step_TB // self.chunk

        hold_TBN = hold_TBHK[:, :, None].expand_as(new_TB2HK).flatten(2)
        mean_TBN, last_BN = linear_scan(
            hold_TBN, new_TB2HK.flatten(2), running_B2HK.flatten(1), step_TB % self.chunk == 0
        )
        cosine, sine = self._turn(number_TB[..., None], x_TBD)
        key_TBHK, value_TBHK = mean_TBN.view(new_TB2HK.shape).unbind(2)
        key_TBHK, query_TBHK = rotate(key_TBHK, cosine, sine), rotate(query_TBHK, cosine, sine)

        entry_BE2HK, trial_BE, number_BE = self._entries(kv_B2HCK, key_TBHK, value_TBHK, step_TB, start_TB)
        trial_TB = start_TB.cumsum(0)
        age_BTE = number_TB.t()[..., None] - number_BE[:, None]
        seen_BTE = (trial_TB.t()[..., None] == trial_BE[:, None]) & (age_BTE > 0) & (age_BTE <= self.chunks)
        asked_BEHK, read_BEHK = entry_BE2HK.to(dtype).unbind(2)
        score_BHTE = torch.einsum("tbhk,behk->bhte", query_TBHK, asked_BEHK)
        score_BHTE = torch.where(seen_BTE[:, None], score_BHTE, -torch.inf)
        own_BHT = (query_TBHK * key_TBHK).sum(-1).permute(1, 2, 0)
        weight_BHTN = torch.cat([score_BHTE, own_BHT[..., None]], -1).softmax(-1)
        read_TBHK = torch.einsum("bhte,behk->tbhk", weight_BHTN[..., :-1], read_BEHK)
        read_TBHK = read_TBHK + weight_BHTN[..., -1].permute(2, 0, 1)[..., None] * value_TBHK

        # Of all that have ended, the last C that are of the trial which goes on.
        ended_B = (step_TB % self.chunk == self.chunk - 1).sum(0)
        kept_BC = ended_B[:, None] + torch.arange(self.chunks, device=x_TBD.device)
        kept_BC2HK = entry_BE2HK.gather(1, kept_BC[..., None, None, None].expand(-1, -1, *entry_BE2HK.shape[2:]))
        own_BC = trial_BE.gather(1, kept_BC) == trial_TB[-1][:, None]
        kept_BC2HK = torch.where(own_BC[..., None, None, None], kept_BC2HK, 0)
        left = Chunks(last_BN.view_as(running_B2HK), kept_BC2HK.permute(0, 2, 3, 1, 4).contiguous(), step_TB[-1] + 1)
        return self.out((out_TBHK * read_TBHK).flatten(-2)), left

    def _entries(
        self, kv_B2HCK: Tensor, key_TBHK: Tensor, value_TBHK: Tensor, step_TB: Tensor, start_TB: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the chunks that were kept and those that end in the window, (B, E, 2, H, K), without gaps.

        And of each the trial, counted from the one in which the window begins (-1 where there is no chunk), and the
        number in its trial, both (B, E).
        """
        steps, batch = step_TB.shape
        most = (steps + self.chunk - 1) // self.chunk
        ends_TB = step_TB % self.chunk == self.chunk - 1
        slot_TB = torch.where(ends_TB, ends_TB.cumsum(0) - 1, most)
        time_TB = torch.arange(steps, device=step_TB.device)[:, None].expand(-1, batch)
        # What does not end a chunk is written to a place that is cut off.
        at_BM = torch.zeros(batch, most + 1, dtype=torch.int64, device=step_TB.device)
        at_BM = at_BM.scatter(1, slot_TB.t(), time_TB.t())[:, :most]
        ended_BM = torch.arange(most, device=step_TB.device) < ends_TB.sum(0)[:, None]

        index = at_BM[..., None, None].expand(-1, -1, *key_TBHK.shape[2:])
        new_BM2HK = torch.stack([part.transpose(0, 1).gather(1, index) for part in (key_TBHK, value_TBHK)], 2)
        entry_BE2HK = torch.cat([kv_B2HCK.permute(0, 3, 1, 2, 4), new_BM2HK.to(kv_B2HCK.dtype)], 1)

        trial_BT, step_BT = start_TB.cumsum(0).t(), step_TB.t()
        first_B = start_TB[0].long()
        # The chunks before the one in which the window begins, the last of which has its number less one.
        before_BC = (step_BT[:, :1] // self.chunk) + torch.arange(-self.chunks, 0, device=step_TB.device)
        kept_BC = torch.where(before_BC >= 0, first_B[:, None], -1)
        trial_BE = torch.cat([kept_BC, torch.where(ended_BM, trial_BT.gather(1, at_BM), -1)], 1)
        return entry_BE2HK, trial_BE, torch.cat([before_BC, step_BT.gather(1, at_BM) // self.chunk], 1)

    def gates(self, x_BD: Tensor, state: Chunks, start_B: Tensor) -> dict[str, Tensor]:
        """Return how much of the means is kept, and how much of what is read goes out, (B, H, K)."""
        _, _, hold_BHK, out_BHK = self._asked(x_BD)
        return {"hold": hold_BHK, "output": out_BHK}

    def context_entries(self, steps: int) -> int:
        """Return how many chunks are kept, the running one included."""
        return min(steps // self.chunk, self.chunks) + (steps % self.chunk > 0)

    def flops_per_step(self, steps: int) -> float:
        """Return what the weights cost, and attention to the chunks before and the running one."""
        keys = min(steps // self.chunk, self.chunks) + 1
        return 2.0 * count_parameters(self.project, self.out) + 4.0 * self.width * keys

    def _asked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return queries / sqrt K (..., H, K), what joins the means (..., 2, H, K), and the gates (..., H, K)."""
        sizes = [self.width] * 3 + [self.shared] * 2
        out, hold, value, query, key = self.project(x).split(sizes, -1)
        out, hold = out.sigmoid(), (hold + self.hold_bias.to(hold.dtype)).sigmoid()
        out, hold, value = (part.unflatten(-1, (self.heads, -1)) for part in (out, hold, value))
        many = self.heads // self.groups
        query, key = (part.unflatten(-1, (self.groups, -1)).repeat_interleave(many, -2) for part in (query, key))
        new = (1 - hold)[..., None, :, :] * torch.stack([key, value], -3)
        return query * query.shape[-1] ** -0.5, new, hold, out

    def _turn(self, number: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        return angles(number, self.width // self.heads, like.dtype)


@dataclass(frozen=True, kw_only=True)
class RATConfig(HeadsConfig):
    """A recurrence inside chunks, attention over chunks."""

    name: ClassVar[str] = "rat"
    summary: ClassVar[str] = "a gated recurrence inside chunks, attention over what the last `chunks` chunks came to"
    rotary: ClassVar[bool] = True

    chunk: int = 16
    """Steps of a chunk; with 1 it is attention."""
    chunks: int = 64
    """Chunks before the running one that are kept."""
    groups: int = 2
    """Groups of heads that share queries and keys; as many as heads for none that do."""

    def __post_init__(self) -> None:
        """Refuse sizes of nothing, and groups that cannot share the heads."""
        super().__post_init__()
        for field in ("chunk", "chunks"):
            if getattr(self, field) < 1:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least 1")
        if self.groups < 1 or self.heads % self.groups:
            raise ValueError(f"memory {self.name}: {self.groups} groups cannot share {self.heads} heads evenly")

    def build(self) -> Core:
        """Make the core."""
        sizes = (self.width, self.heads, self.chunk, self.chunks, self.groups)
        return Stack(self, [RAT(*sizes) for _ in range(self.depth)])
