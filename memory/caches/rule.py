"""What the rules have in common that drop one entry for each new one.

Shapes: B rows, S slots.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core import Core, MemoryConfig, State
from ..memo import MemoConfig
from .config import CacheConfig
from .ledger import Ledger
from .resized import sets_within
from .sets import SetCore
from .slots import SlotCore
from .streaming import shrunk


@dataclass(frozen=True, kw_only=True)
class RuleConfig(CacheConfig):
    """A rule that drops the least worthy entry that it does not protect, the oldest of equals.

    An entry is a step of a transformer, or a summary of memo: a set, with the highest surprise of its segment.
    """

    watches: ClassVar[bool] = False
    """The rule notes how much attention entries get."""
    judges: ClassVar[bool] = False
    """The rule notes how surprising the steps of entries were."""

    sinks: int = 4
    """The first entries of a trial, which are never dropped (of memo: sets)."""
    positions: Literal["cache", "step"] = "cache"
    """Rotary positions: places among what is kept, or steps of the trial (memo, episode positions: as written)."""

    def __post_init__(self) -> None:
        """Refuse negative numbers, and a budget without room for one entry that may be dropped."""
        super().__post_init__()
        for name, count in (("sinks", self.sinks), ("recent", self.newest)):
            if count < 0:
                self.refuse(f"{name} is {count}; it must be at least 0")
        self.at_least(self.kept + 1, f"{self._kept_words} + 1", self._kept_options)

    @property
    def newest(self) -> int:
        """How many of the newest entries are not dropped."""
        return 0

    @property
    def kept(self) -> int:
        """How many entries are not dropped."""
        return self.sinks + self.newest

    @property
    def _kept_words(self) -> str:
        return f"sinks {self.sinks}" + (f" + recent {self.newest}" if self.newest else "")

    @property
    def _kept_options(self) -> str:
        return "sinks" + (" or recent" if self.newest else "")

    @property
    def episodic(self) -> bool:
        """Whether the rule wants to know where episodes start inside a trial."""
        return False

    @abstractmethod
    def worth(self, ledger: Ledger) -> Tensor:
        """Return how much each entry is worth, (B, S) float, before the next one comes; empty slots do not matter."""

    def blank(self, batch: int, slots: int, device: torch.device) -> State:
        """Return the marks of no entries."""
        return ()

    def tick(self, marks: State, time_B: Tensor, episode_B: Tensor | None) -> State:
        """Let a step of the trial begin: `time` steps came before it, and it opens an episode or does not."""
        return marks

    def born(self, marks: State, here_BS: Tensor, time_B: Tensor) -> State:
        """Let an entry be written where `here` is true."""
        return marks

    def used(self, marks: State, share_BS: Tensor, time_B: Tensor) -> State:
        """Note the share of attention that each entry got in a step, the highest of all heads and layers."""
        return marks

    def judged(self, marks: State, here_BS: Tensor, surprise_B: Tensor) -> State:
        """Note how surprising an entry was."""
        return marks

    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        if isinstance(memory, MemoConfig):
            if self.watches:
                self.refuse("memo does not tell how much attention a summary gets; use --cache surprise or oldest-sets")
            sets = sets_within(self, memory, steps, self.kept, self._kept_words, self._kept_options)
            return SetCore.over(memory, core, self, sets)
        slots = min(self.context, steps)
        return SlotCore(shrunk(self, memory, core, steps, slots), self, slots)


@dataclass(frozen=True, kw_only=True)
class RankedConfig(RuleConfig):
    """A rule that may not drop the newest entries."""

    recent: int = 8
    """The newest entries, which are not dropped (of memo: sets)."""

    @property
    def newest(self) -> int:
        """How many of the newest entries are not dropped."""
        return self.recent
