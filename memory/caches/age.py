"""Entries weighted by age, with a bonus for use.

Source: HEMA (arXiv 2504.16754), the salience of its vector memory. As printed, the bonus goes to what was NOT used
recently, against the text; in a store of fixed size that loses the entries that are in use. The default is the rule
of the text, and `printed` the printed one.
Transferred: an entry is used by a step if a head of any layer gives it enough of its attention; one entry goes for
each that comes, instead of the lowest 0.5 % every 100 turns.
Shapes: B rows, S slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .ledger import Ledger
from .rule import RankedConfig

NEVER = -(2**31)


class Usage(NamedTuple):
    """What is noted of each entry."""

    born_BS: Tensor
    """(B, S) int32: the step it is of."""
    used_BS: Tensor
    """(B, S) int32: the last step that used it, or `NEVER`."""


@dataclass(frozen=True, kw_only=True)
class AgeConfig(RankedConfig):
    """The first entries, the newest, and of the others those with the highest salience.

    Salience is weight e^(-rate age) + bonus [used within the last `used_steps` steps].
    """

    name: ClassVar[str] = "age"
    summary: ClassVar[str] = "the young entries and those in use, beside the first and the newest (HEMA)"
    watches: ClassVar[bool] = True

    weight: float = 1.0
    """The salience of age 0 (lambda)."""
    rate: float = 0.002
    """How fast it falls with each step (gamma)."""
    bonus: float = 0.5
    """What use adds (beta)."""
    used_steps: int = 100
    """Steps for which use counts."""
    used_share: float = 0.1
    """The share of its attention that a head must give to an entry to have used it."""
    printed: bool = False
    """Give the bonus to what was not used, as the paper's formula has it."""

    def __post_init__(self) -> None:
        """Refuse a negative rate, what is no number, and shares that no entry can have or all have."""
        super().__post_init__()
        for name in ("weight", "rate", "bonus"):
            if not math.isfinite(getattr(self, name)):
                self.refuse(f"{name} is {getattr(self, name)}; it must be finite")
        if self.rate < 0:
            self.refuse(f"rate is {self.rate}; it must be at least 0")
        if self.used_steps < 1:
            self.refuse(f"used_steps is {self.used_steps}; it must be at least 1")
        if not 0 < self.used_share <= 1:
            self.refuse(f"used_share is {self.used_share}; it must lie in 0 to 1, 0 excluded")

    def blank(self, batch: int, slots: int, device: torch.device) -> Usage:
        """Return entries that were never used."""
        born_BS = torch.zeros(batch, slots, dtype=torch.int32, device=device)
        return Usage(born_BS, torch.full_like(born_BS, NEVER))

    def born(self, marks: Usage, here_BS: Tensor, time_B: Tensor) -> Usage:
        """Note the step."""
        time_B1 = time_B[:, None].int()
        return Usage(torch.where(here_BS, time_B1, marks.born_BS), torch.where(here_BS, NEVER, marks.used_BS))

    def used(self, marks: Usage, share_BS: Tensor, time_B: Tensor) -> Usage:
        """Note what was used."""
        return marks._replace(used_BS=torch.where(share_BS >= self.used_share, time_B[:, None].int(), marks.used_BS))

    def worth(self, ledger: Ledger) -> Tensor:
        """Return the salience at the step that is about to be taken."""
        marks: Usage = ledger.marks
        now_B1 = ledger.seen_B[:, None]
        bonus_BS = (now_B1 - marks.used_BS <= self.used_steps) != self.printed
        return self.weight * torch.exp(-self.rate * (now_B1 - marks.born_BS)) + self.bonus * bonus_BS
