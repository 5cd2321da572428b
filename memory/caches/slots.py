"""A transformer whose steps lie in slots, and a rule says which of them makes room.

What is kept of a step is kept in every layer, so one ledger tells of all of them.
Shapes: B rows, D features, H heads, K width of a head, L layers, S slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...kernels.decode_attention import decode_attention
from ...kernels.decode_attention.reference import write
from ..core import select
from ..stack import Stack
from ..transformer import AttentionLayer
from .ledger import Ledger, enter, newest, next_slot, no_entries
from .streaming import Streamed, Streaming, scores, still, turned, weigh, wipe

if TYPE_CHECKING:
    from .rule import RuleConfig


class Slots(NamedTuple):
    """What a row remembers. Slots without an entry are 0."""

    kv_LB2HSK: tuple[Tensor, ...]
    """Keys, not rotated where positions are places in the cache, and values: for each layer (B, 2, H, S, K)."""
    ledger: Ledger


class SlotCore(Streaming):
    """A transformer that keeps S steps under a rule."""

    def __init__(self, stack: Stack, rule: RuleConfig, slots: int) -> None:
        super().__init__(stack)
        self.rule, self.slots = rule, slots
        self.judges, self.episodic = rule.judges, rule.episodic or stack.episodic

    def _nothing(self, batch: int) -> Slots:
        weight = next(self.stack.parameters())
        shape = (batch, 2, self.heads, self.slots, self.head_width)
        kv_LB2HSK = tuple(weight.new_zeros(shape) for _ in range(self.depth))
        return Slots(kv_LB2HSK, no_entries(self.rule, batch, self.slots, weight.device))

    def judge(self, state: Streamed, surprise_B: Tensor) -> Streamed:
        """Note how surprising the step just taken was."""
        ledger: Ledger = state.kept.ledger
        marks = self.rule.judged(ledger.marks, newest(ledger), surprise_B)
        return state._replace(kept=state.kept._replace(ledger=ledger._replace(marks=marks)))

    def context_entries(self, steps: int) -> int:
        """Return how many steps a row keeps."""
        return min(steps, self.slots)

    def flops_per_step(self, steps: int) -> float:
        """Return what a transformer with a context of as many steps costs; turning keys is not counted."""
        return self.stack.flops_per_step(steps)

    def _forget(self, kept: Slots, start_B: Tensor) -> Slots:
        wipe(kept.kv_LB2HSK, start_B)
        fresh = no_entries(self.rule, 1, self.slots, start_B.device)
        return Slots(kept.kv_LB2HSK, select(start_B, fresh, kept.ledger))

    def _step(
        self, x_BD: Tensor, kept: Slots, position_B: Tensor | None, episode_B: Tensor | None
    ) -> tuple[Tensor, Slots]:
        rule, ledger, time_B = self.rule, kept.ledger, kept.ledger.seen_B
        ledger = ledger._replace(marks=rule.tick(ledger.marks, time_B, episode_B))
        slot_B = next_slot(rule, ledger)
        ledger = enter(rule, ledger, slot_B, time_B)
        held_BS, held_B = ledger.rank_BS >= 0, ledger.seen_B.clamp(max=self.slots)
        by_place, shares = rule.positions == "cache" and position_B is None, []

        position_B = time_B if position_B is None else position_B
        turn = own = turns = self._turn((held_B - 1 if by_place else position_B)[:, None])
        if by_place:
            turn = still(own)
            table = self._turn(torch.arange(self.slots, device=x_BD.device)[None])
            turns = (table[0][0, ledger.rank_BS.clamp(0)], table[1][0, ledger.rank_BS.clamp(0)])

        def read(number: int, layer: AttentionLayer, query_BHK: Tensor, new_B2HK: Tensor) -> Tensor:
            kv_B2HSK = kept.kv_LB2HSK[number]
            if not by_place and not rule.watches:
                return decode_attention(
                    query_BHK, new_B2HK, kv_B2HSK, slot_B, torch.zeros_like(slot_B), held_B, split=0, sink=layer._sink()
                )
            write(new_B2HK, kv_B2HSK, slot_B, None)
            key_BHSK, value_BHSK = kv_B2HSK.unbind(1)
            if by_place:
                key_BHSK, query_BHK = turned(key_BHSK, turns), turned(query_BHK[:, :, None], own)[:, :, 0]
            part = scores(query_BHK, key_BHSK, held_BS), value_BHSK
            read_BHK, (weight_BHS,) = weigh(query_BHK, [part], layer._sink())
            if rule.watches:
                shares.append(weight_BHS.detach().amax(1))
            return read_BHK

        y_BD = self._walk(x_BD, turn, read)
        if shares:
            ledger = ledger._replace(marks=rule.used(ledger.marks, torch.stack(shares).amax(0), time_B))
        return y_BD, Slots(kept.kv_LB2HSK, ledger)
