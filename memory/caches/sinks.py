"""The first entries and the newest: attention sinks and a window.

Source: Xiao et al. 2023, StreamingLLM (arXiv 2309.17453), section 3.2.
Shapes: B rows, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .ledger import Ledger
from .rule import RuleConfig


@dataclass(frozen=True, kw_only=True)
class SinksConfig(RuleConfig):
    """The first entries of the trial and the newest; keys are rotated when they are read, by their place in the cache.

    It does not reach further than its budget. A policy that never learned to lean on its first steps has no use for it.
    """

    name: ClassVar[str] = "sinks"
    summary: ClassVar[str] = "the first entries of the trial and the newest (StreamingLLM)"

    def worth(self, ledger: Ledger) -> Tensor:
        """Return 0: of equals, the oldest goes."""
        return torch.zeros(ledger.rank_BS.shape, device=ledger.rank_BS.device)
