"""The contract of a cache policy: what a trained core keeps, within a budget, when it acts for longer than it can keep.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch

from ..core import Core, MemoryConfig
from ..pair import Pair


@dataclass(frozen=True, kw_only=True)
class CacheConfig(ABC):
    """What every cache policy has in common; each adds its own options in a subclass.

    `name` and `summary` are what `mnemic list caches` and the registry show.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    context: int = 1024
    """Entries that a row may keep: the keys and values of one step, or of one token of a summary, in every layer."""

    def __post_init__(self) -> None:
        """Refuse a budget that holds nothing."""
        if self.context < 1:
            self.refuse(f"context is {self.context}; it must be at least 1, or use full, which keeps everything")

    def apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        """Return a core with the same weights that remembers under this policy, for trials of up to `steps` steps.

        Args:
            memory: the options that `core` was built from.
            core: the core, or a pair of them; not changed. Its weights are shared, not copied.
            steps: of a trial, at most.

        Raises:
            ValueError: the core cannot have the policy, the budget is below its least, or `steps` is below 1.
        """
        if steps < 1:
            self.refuse(f"a trial of {steps} steps; it must have at least 1")
        if isinstance(core, Pair):
            pair = Pair(self.apply(memory, core.actor, steps), self.apply(memory, core.critic, steps))
            return pair.train(core.training)
        return self._apply(memory, core, steps).train(core.training)

    @abstractmethod
    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        """Do what `apply` says, for one core."""

    def refuse(self, why: str) -> NoReturn:
        """Raise the ValueError of this policy."""
        raise ValueError(f"cache {self.name}: {why}")

    def refuse_core(self, memory: MemoryConfig, core: Core, steps: int) -> NoReturn:
        """Say that a core has nothing that this policy could drop."""
        if core.state_bytes(1) == core.state_bytes(steps) and core.context_entries(steps) == 0:
            self.refuse(
                f"{memory.name} has no entries to drop: its memory is {core.state_bytes(steps):,} bytes at every step; "
                "use --cache full"
            )
        self.refuse(f"it does not know how to drop entries of {memory.name}; use --cache full")

    def at_least(self, least: int, parts: str, option: str = "") -> None:
        """Refuse a budget below `least`, which is the sum of `parts`; `option`: what else could be lower."""
        if self.context < least:
            ways = f"give --context {least} or more" + (f", or lower {option}" if option else "")
            self.refuse(f"context is {self.context}, and the least is {least} ({parts}); {ways}")


def resized(memory: MemoryConfig, core: Core) -> Core:
    """Build a core of other sizes on the very weights of `core`; `memory` says the sizes.

    Where this is used, sizes are of the memory alone: no weight depends on them.
    """
    with torch.device("meta"):
        other = memory.build()
    for mine, theirs in zip(other.modules(), core.modules(), strict=True):
        for name, weight in theirs.named_parameters(recurse=False):
            setattr(mine, name, weight)
        for name, buffer in theirs.named_buffers(recurse=False):
            setattr(mine, name, buffer)
    return other
