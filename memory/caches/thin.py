"""Thinner keys: of entries that are not new, keys keep the channels that matter to the latest queries.

Source: Xu et al. 2024, ThinK (arXiv 2407.21018), section 3.2: channel j of a head matters by ||Q_j|| ||K_j||, which is
the Frobenius norm of its part of the scores, with Q the last 32 queries. Keys are pruned after rotation, the newest 32
entries stay whole, values stay, and scores keep the scale of the whole width.
Departure: the paper prunes once, when the prompt has been read. A stream has no such moment, and what is pruned is
gone. So whenever `recent` entries have left the newest ones, they become a page with a choice of channels of its own,
by the keys of the page and the queries of the last `recent` steps.
Shapes: B rows, H heads, K width of a head, L layers, N slots for the newest, R entries of a page, G pages, J channels
that are kept, M = G R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core import Core, MemoryConfig
from ..stack import Stack
from ..transformer import AttentionLayer
from .config import CacheConfig
from .streaming import Streaming, put, scores, shrunk, take, weigh, wipe


class Pages(NamedTuple):
    """What a row remembers. Slots without an entry are 0. Step p of the trial lies in slot p mod N until it leaves."""

    new_LB2HNK: tuple[Tensor, ...]
    """Keys, rotated by their step, and values of the newest steps: for each layer (B, 2, H, N, K), N = 2 R."""
    key_LBHGRJ: tuple[Tensor, ...]
    """Keys of the pages, page g in place g mod G."""
    value_LBHGRK: tuple[Tensor, ...]
    """Their values."""
    channel_LBHGJ: tuple[Tensor, ...]
    """(B, H, G, J) uint8: the channels that the keys of a page have kept."""
    power_LBHK: tuple[Tensor, ...]
    """(B, H, K) float32: the sum of squares of the queries since the last page was due."""
    seen_B: Tensor
    """(B,) int64: steps of the trial so far."""


class ThinCore(Streaming):
    """A transformer with whole keys for R to 2 R of the newest steps, and G pages of R steps with J of K channels."""

    def __init__(self, stack: Stack, recent: int, pages: int, channels: int) -> None:
        super().__init__(stack)
        self.recent, self.pages, self.channels = recent, pages, channels

    def _nothing(self, batch: int) -> Pages:
        weight, heads, width = next(self.stack.parameters()), self.heads, self.head_width
        shape = (batch, heads, self.pages, self.recent)

        def zeros(*shape: int, dtype: torch.dtype = weight.dtype) -> tuple[Tensor, ...]:
            return tuple(torch.zeros(shape, dtype=dtype, device=weight.device) for _ in range(self.depth))

        return Pages(
            zeros(batch, 2, heads, 2 * self.recent, width),
            zeros(*shape, self.channels),
            zeros(*shape, width),
            zeros(*shape[:3], self.channels, dtype=torch.uint8),
            zeros(batch, heads, width, dtype=torch.float32),
            torch.zeros(batch, dtype=torch.int64, device=weight.device),
        )

    def context_entries(self, steps: int) -> int:
        """Return how many entries a row keeps, whole or thin."""
        left = max(0, (steps - 1) // self.recent - 1)  # pages that have left the newest entries
        return steps - self.recent * max(0, left - self.pages)

    def flops_per_step(self, steps: int) -> float:
        """Return what a transformer costs that attends to as many entries, less the channels that are gone."""
        pages = min(self.pages, max(0, steps // self.recent - 1))
        keys, whole = self.context_entries(steps + 1), min(steps + 1, self.stack.context_entries(steps + 1))
        gone = pages * self.recent * (1 - self.channels / self.head_width)
        return self.stack.flops_per_step(steps) + self.depth * self.width * (4.0 * (keys - whole) - 2.0 * gone)

    def _forget(self, kept: Pages, start_B: Tensor) -> Pages:
        wipe(kept, start_B)
        return kept

    def _step(
        self, x_BD: Tensor, kept: Pages, position_B: Tensor | None, episode_B: Tensor | None
    ) -> tuple[Tensor, Pages]:
        seen_B, recent, slots = kept.seen_B, self.recent, 2 * self.recent
        left_B = (seen_B // recent - 1).clamp(min=0)  # pages that have left the newest entries, with this step
        due_B = seen_B % recent == 0
        leaves_B, place_B = due_B & (seen_B >= slots), (left_B - 1) % self.pages
        slot_N = torch.arange(slots, device=x_BD.device)
        from_BR = (seen_B[:, None] + slot_N[:recent]) % slots  # where the page lies that leaves, if one does
        step_BN = seen_B[:, None] - (seen_B[:, None] - slot_N) % slots  # the step that lies in each slot
        whole_BN = step_BN >= left_B[:, None] * recent
        written_BG = torch.arange(self.pages, device=x_BD.device) < left_B[:, None]
        thin_BM = written_BG[:, :, None].expand(-1, -1, recent).flatten(1)

        def read(number: int, layer: AttentionLayer, query_BHK: Tensor, new_B2HK: Tensor) -> Tensor:
            new, power = kept.new_LB2HNK[number], kept.power_LBHK[number]
            keys, values, channels = (part[number] for part in kept[1:4])
            key_BHRK, value_BHRK = take(new, 3, from_BR).unbind(1)
            channel_BHJ = strongest(power, key_BHRK, self.channels)
            key_BHRJ = key_BHRK.gather(3, channel_BHJ[:, :, None].expand(-1, -1, recent, -1))
            for store, page in ((keys, key_BHRJ), (values, value_BHRK), (channels, channel_BHJ)):
                put(store, 2, place_B, page, leaves_B)
            put(new, 3, seen_B % slots, new_B2HK, torch.ones_like(due_B))
            power.copy_(torch.where(due_B[:, None, None], 0, power) + query_BHK.detach().float().square())

            query_BHGJ = query_BHK[:, :, None].expand(-1, -1, self.pages, -1).gather(3, channels.long())
            scale = self.head_width**-0.5
            thin_BHGR = torch.einsum("bhgj,bhgrj->bhgr", query_BHGJ * scale, keys.to(query_BHGJ.dtype))
            thin_BHM = torch.where(thin_BM[:, None], thin_BHGR.flatten(2), -torch.inf)
            part = scores(query_BHK, new[:, 0], whole_BN), new[:, 1]
            return weigh(query_BHK, [part, (thin_BHM, values.flatten(2, 3))], layer._sink())[0]

        turn = self._turn((seen_B if position_B is None else position_B)[:, None])
        y_BD = self._walk(x_BD, turn, read)
        return y_BD, kept._replace(seen_B=seen_B + 1)


def strongest(power_BHK: Tensor, key_BHRK: Tensor, count: int) -> Tensor:
    """Return the channels with the highest ||Q_j|| ||K_j||, (B, H, J) in ascending order.

    Args:
        power_BHK: ||Q_j||^2, over the queries.
        key_BHRK: the keys.
        count: J.
    """
    strength_BHK = power_BHK * key_BHRK.float().square().sum(2)
    order_BHK = strength_BHK.argsort(dim=-1, descending=True, stable=True)
    return order_BHK[..., :count].sort(dim=-1)[0]


@dataclass(frozen=True, kw_only=True)
class ThinConfig(CacheConfig):
    """A window of `context` steps with thinner keys for those that are not new; the oldest page goes as a whole."""

    name: ClassVar[str] = "thin"
    summary: ClassVar[str] = "the newest steps, with fewer key channels for those that are not new (ThinK)"

    ratio: float = 0.4
    """The share of key channels that is dropped in each head, rounded down to whole channels."""
    recent: int = 32
    """The newest entries, which stay whole (up to twice as many); entries of a page; queries that choose channels."""

    def __post_init__(self) -> None:
        """Refuse a ratio that leaves nothing, and a budget without room for a page."""
        super().__post_init__()
        if not 0 <= self.ratio < 1:
            self.refuse(f"ratio is {self.ratio}; it must be at least 0 and less than 1")
        if self.recent < 1:
            self.refuse(f"recent is {self.recent}; it must be at least 1")
        self.at_least(3 * self.recent, f"2 x recent {self.recent} + a page of {self.recent}", "recent")

    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        stack = shrunk(self, memory, core, steps, min(self.context, steps))
        head = memory.width // memory.heads  # type: ignore[attr-defined]
        if head > 256:
            self.refuse(f"a head of {memory.name} is {head} wide; it takes up to 256, whose channels fit into a byte")
        needed = max(1, -(-steps // self.recent) - 2)
        return ThinCore(stack, self.recent, min(self.context // self.recent - 2, needed), head - int(self.ratio * head))
