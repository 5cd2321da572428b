"""The ledger of entries of equal right: which slot each has, how old it is, what a rule notes of it, and who goes.

Shapes: B rows, S slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..core import State

if TYPE_CHECKING:
    from .rule import RuleConfig


class Ledger(NamedTuple):
    """What is known of the entries of a row besides their keys and values."""

    rank_BS: Tensor
    """(B, S) int32: the place of each entry by age, 0 the oldest; -1 for a slot without an entry."""
    marks: State
    """What the rule notes of each entry: tensors (B, S), or ()."""
    seen_B: Tensor
    """(B,) int64: entries of this trial so far, those dropped included."""


def no_entries(rule: RuleConfig, batch: int, slots: int, device: torch.device) -> Ledger:
    """Return the ledger of rows without entries."""
    rank_BS = torch.full((batch, slots), -1, dtype=torch.int32, device=device)
    return Ledger(rank_BS, rule.blank(batch, slots, device), torch.zeros(batch, dtype=torch.int64, device=device))


def next_slot(rule: RuleConfig, ledger: Ledger) -> Tensor:
    """Return the slot of the next entry, (B,): an empty one while there is one, then that of the entry that goes."""
    rank_BS, slots = ledger.rank_BS, ledger.rank_BS.shape[1]
    open_BS = (rank_BS >= rule.sinks) & (rank_BS < slots - rule.newest)
    worth_BS = torch.where(open_BS, rule.worth(ledger), torch.inf)
    least_BS = open_BS & (worth_BS <= worth_BS.amin(1, keepdim=True))
    oldest_B = torch.where(least_BS, rank_BS, slots).argmin(1)
    return torch.where(ledger.seen_B < slots, ledger.seen_B, oldest_B)


def enter(rule: RuleConfig, ledger: Ledger, slot_B: Tensor, time_B: Tensor) -> Ledger:
    """Return the ledger after an entry has come into its slot, and the one that was there has gone."""
    rank_BS, slots = ledger.rank_BS, ledger.rank_BS.shape[1]
    here_BS = torch.arange(slots, device=slot_B.device) == slot_B[:, None]
    gone_B1 = torch.where(here_BS, rank_BS, -1).amax(1, keepdim=True)
    rank_BS = torch.where((gone_B1 >= 0) & (rank_BS > gone_B1), rank_BS - 1, rank_BS)
    last_B1 = ledger.seen_B.clamp(max=slots - 1)[:, None].to(rank_BS.dtype)
    rank_BS = torch.where(here_BS, last_B1, rank_BS)
    return Ledger(rank_BS, rule.born(ledger.marks, here_BS, time_B), ledger.seen_B + 1)


def newest(ledger: Ledger) -> Tensor:
    """Return where the newest entry is, (B, S) bool: nowhere in a row without entries."""
    last_B = ledger.seen_B.clamp(max=ledger.rank_BS.shape[1]) - 1
    return (ledger.rank_BS == last_B[:, None]) & (ledger.rank_BS >= 0)
