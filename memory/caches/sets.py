"""Memo whose summaries lie in slots, and a rule says which of them makes room: a set of tokens at a time.

The core writes its newest set over the oldest, as it does without a rule. What was there is put back where the set lay
that the rule drops: among keys that are all seen, places do not matter, and positions stay as they were written.
Shapes: T time, B rows, D features, L layers, H heads, K width of a head, P tokens of a set, N slots of all, S sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from ..core import Core, map_state, select
from ..memo import Memo, MemoConfig, Notes
from .ledger import Ledger, enter, newest, next_slot, no_entries
from .resized import with_sets
from .stepped import SteppedCore

if TYPE_CHECKING:
    from .rule import RuleConfig

UNJUDGED = torch.finfo(torch.float32).min
"""The highest surprise of a segment before the first judgement."""


class Sets(NamedTuple):
    """What a row remembers."""

    notes: Notes
    """Summaries and the running segment."""
    ledger: Ledger
    """Of its sets."""
    peak_B: Tensor
    """(B,) float32: the highest surprise of the running segment so far, or of the one just completed."""


class SetCore(SteppedCore):
    """Memo that keeps S summaries under a rule. For acting: no gradients."""

    def __init__(self, memo: Memo, rule: RuleConfig) -> None:
        super().__init__(memo.width)
        self.memo, self.rule = memo, rule
        self.settles = True
        self.judges, self.episodic = rule.judges, rule.episodic

    @classmethod
    def over(cls, memory: MemoConfig, core: Core, rule: RuleConfig, sets: int) -> SetCore:
        """Return a core on the weights of another."""
        return cls(cast(Memo, with_sets(memory, core, sets)), rule)

    def initial_state(self, batch: int) -> Sets:
        """Return empty notes."""
        notes = self.memo.initial_state(batch)
        device = notes.sets_B.device
        ledger = no_entries(self.rule, batch, self.memo.sets, device)
        return Sets(notes, ledger, torch.full((batch,), UNJUDGED, device=device))

    @torch.no_grad()
    def step(self, x_BD: Tensor, state: Sets, start_B: Tensor, episode_B: Tensor | None = None) -> tuple[Tensor, Sets]:
        """Take one step; the rows that complete a segment with it also write their summary."""
        # `select` has made a copy, so that the state that came in stays as it is.
        state = select(start_B, self.initial_state(1), state)
        y_BD, state = self.advance(x_BD, state, torch.zeros_like(start_B), episode_B)
        while bool(self.unsettled(state).any()):
            state = self.settle(state)
        return y_BD, state

    @torch.no_grad()
    def advance(
        self, x_BD: Tensor, state: Sets, start_B: Tensor, episode_B: Tensor | None = None
    ) -> tuple[Tensor, Sets]:
        """Take a step in the notes that are given."""
        blank = no_entries(self.rule, 1, self.memo.sets, start_B.device)
        ledger: Ledger = select(start_B, blank, state.ledger)
        time_B = torch.where(start_B, 0, state.notes.sets_B * self.memo.segment + state.notes.index_B)
        ledger = ledger._replace(marks=self.rule.tick(ledger.marks, time_B, episode_B))
        begins_B = start_B | (state.notes.index_B == 0)
        y_BD, notes = self.memo.advance(x_BD, state.notes, start_B)
        return y_BD, Sets(notes, ledger, torch.where(begins_B, UNJUDGED, state.peak_B))

    def unsettled(self, state: Sets) -> Tensor:
        """Return which rows have completed a segment whose summary is not written."""
        return self.memo.unsettled(state.notes)

    def slack(self, state: Sets) -> Tensor:
        """Return how many steps each row can take before it has completed its segment."""
        return self.memo.slack(state.notes)

    @torch.no_grad()
    def settle(self, state: Sets) -> Sets:
        """Write the summaries of some of the rows that wait for it, each instead of the set that the rule drops."""
        ledger, count_B = state.ledger, state.notes.sets_B.clone()
        slot_B, over_B = next_slot(self.rule, ledger), count_B % self.memo.sets
        put_back = [
            kv.gather(3, self._tokens(over_B).expand(*kv.shape[:3], -1, kv.shape[4])) for kv in state.notes.kv_LB2HNK
        ]
        notes = self.memo.settle(state.notes)
        done_B = notes.sets_B > count_B
        moved_B = done_B & (slot_B != over_B)
        for kv, old in zip(notes.kv_LB2HNK, put_back, strict=True):
            index = self._tokens(slot_B).expand_as(old)
            kv.scatter_(3, index, torch.where(moved_B.view(-1, 1, 1, 1, 1), old, kv.gather(3, index)))

        # The new set lies where the core wrote it, and what was there where the dropped one lay.
        after = _swapped(enter(self.rule, ledger, slot_B, count_B), slot_B, over_B)
        ledger = select(done_B, after, ledger)
        return Sets(notes, self._judged(ledger, state.peak_B, done_B), state.peak_B)

    def judge(self, state: Sets, surprise_B: Tensor) -> Sets:
        """Note how surprising the step just taken was; the set of its segment is worth the highest of them."""
        peak_B = torch.maximum(state.peak_B, surprise_B.to(state.peak_B.dtype).nan_to_num(nan=UNJUDGED))
        complete_B = state.notes.index_B == 0
        return Sets(state.notes, self._judged(state.ledger, peak_B, complete_B), peak_B)

    def context_entries(self, steps: int) -> int:
        """Return what the core keeps with as many sets."""
        return self.memo.context_entries(steps)

    def flops_per_step(self, steps: int) -> float:
        """Return what the core costs with as many sets."""
        return self.memo.flops_per_step(steps)

    def settling_flops(self, steps: int) -> float:
        """Return what the summaries cost with as many sets."""
        return self.memo.settling_flops(steps)

    def _judged(self, ledger: Ledger, peak_B: Tensor, which_B: Tensor) -> Ledger:
        """Give the newest set of some rows the highest surprise of its segment, where there was any."""
        here_BS = newest(ledger) & (which_B & (peak_B > UNJUDGED))[:, None]
        return ledger._replace(marks=self.rule.judged(ledger.marks, here_BS, peak_B))

    def _tokens(self, set_B: Tensor) -> Tensor:
        """Return the slots of the tokens of a set, (B, 1, 1, P, 1)."""
        token_P = torch.arange(self.memo.summaries, device=set_B.device)
        return ((set_B * self.memo.summaries)[:, None] + token_P)[:, None, None, :, None]


def _swapped(ledger: Ledger, one_B: Tensor, other_B: Tensor) -> Ledger:
    """Exchange what is noted of two slots of each row."""
    slot_BS = torch.arange(ledger.rank_BS.shape[1], device=one_B.device).expand_as(ledger.rank_BS)
    one_B1, other_B1 = one_B[:, None], other_B[:, None]
    source_BS = torch.where(slot_BS == one_B1, other_B1, torch.where(slot_BS == other_B1, one_B1, slot_BS))
    return Ledger(
        ledger.rank_BS.gather(1, source_BS),
        map_state(lambda part: part.gather(1, source_BS), ledger.marks),
        ledger.seen_B,
    )
