"""Any entry: the control that a rule has to beat.

Shapes: B rows, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .ledger import Ledger
from .rule import RankedConfig

MASK = 0xFFFFFFFF  # 32 bits


@dataclass(frozen=True, kw_only=True)
class RandomConfig(RankedConfig):
    """The first entries, the newest, and of the others a uniform choice.

    The draw is a function of the seed, the step and the place of an entry by age, so that the memory holds no state of
    a generator: rows at the same step of their trials drop the entry at the same place.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "entries at random, beside the first and the newest: the control"

    seed: int = 0
    """Other seeds drop other entries."""

    def worth(self, ledger: Ledger) -> Tensor:
        """Return 32 random bits."""
        # The seed is scrambled before it meets the step: `seen ^ seed` alone would give two seeds the same draws.
        key_B = _mix(_mix(torch.full_like(ledger.seen_B, self.seed & MASK)) ^ (ledger.seen_B & MASK))
        return _mix(_mix(ledger.rank_BS & MASK) ^ key_B[:, None]).double()


def _mix(bits: Tensor) -> Tensor:
    """Scramble 32-bit whole numbers one to one, in int64: lowbias32 of C. Wellons' hash-prospector."""
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & MASK
    # 0x846CA68B modulo 2^32, as the negative number that keeps the product within 63 bits.
    bits = ((bits ^ (bits >> 15)) * (0x846CA68B - 2**32)) & MASK
    return bits ^ (bits >> 16)
