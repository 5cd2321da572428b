"""Policies that are the core itself with other sizes: everything, the newest steps, the newest summaries.

Source: the full-memory and the streaming agents of Memo (arXiv 2510.19732), sections 4.2 and 4.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..core import Core, MemoryConfig
from ..memo import MemoConfig
from ..transformer import TransformerConfig
from .config import CacheConfig, resized


@dataclass(frozen=True, kw_only=True)
class FullConfig(CacheConfig):
    """As many slots as the trial needs, so that nothing is dropped; a core of constant memory stays as it is."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "everything that the core can keep of the trial"

    context: int = 0
    """0: as many entries as the trial needs."""

    def __post_init__(self) -> None:
        """Refuse a budget, which would not be kept."""
        if self.context:
            self.refuse(f"context is {self.context}, but it keeps everything; leave it at 0, or use another policy")

    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        if isinstance(memory, TransformerConfig):
            return resized(replace(memory, context=steps), core)
        if isinstance(memory, MemoConfig) and memory.store == "accumulate":
            return with_sets(memory, core, max(1, steps // memory.segment))
        return core


@dataclass(frozen=True, kw_only=True)
class WindowConfig(CacheConfig):
    """The newest steps of a transformer, as if it had been trained with that context; positions stay as they were."""

    name: ClassVar[str] = "window"
    summary: ClassVar[str] = "the newest `context` steps (transformer)"

    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        if isinstance(memory, MemoConfig):
            self.refuse("memo keeps summaries, not steps; use --cache oldest-sets")
        if not isinstance(memory, TransformerConfig):
            self.refuse_core(memory, core, steps)
        return resized(replace(memory, context=min(self.context, steps)), core)


@dataclass(frozen=True, kw_only=True)
class OldestSetsConfig(CacheConfig):
    """The running segment and as many of the newest summaries as fit; the oldest one makes room as a whole.

    At context 1024, with segments of 256 steps and summaries of 32 tokens: 24 summaries, as in the paper's figure.
    """

    name: ClassVar[str] = "oldest-sets"
    summary: ClassVar[str] = "the running segment and the newest summaries (memo)"

    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        if isinstance(memory, TransformerConfig):
            self.refuse("transformer keeps steps, not summaries; use --cache window")
        if not isinstance(memory, MemoConfig):
            self.refuse_core(memory, core, steps)
        return with_sets(memory, core, sets_within(self, memory, steps))


def sets_within(
    cache: CacheConfig, memory: MemoConfig, steps: int, kept: int = 0, words: str = "", options: str = ""
) -> int:
    """Return how many summaries fit into a budget beside the running segment, and no more than a trial needs.

    Args:
        cache: the policy, which holds the budget.
        memory: the core's options.
        steps: of a trial.
        kept: sets that the policy does not drop, so that there must be one more.
        words: what they are.
        options: the options that make them fewer.

    Raises:
        ValueError: the store overwrites, so that there is one at every step; or the budget holds too few.
    """
    if memory.store == "overwrite":
        cache.refuse("memo with store overwrite holds one summary at every step; use --cache full")
    sets = f"({words} + 1) x summaries {memory.summaries}" if kept else f"one set of summaries {memory.summaries}"
    cache.at_least(memory.segment + (kept + 1) * memory.summaries, f"segment {memory.segment} + {sets}", options)
    return min((cache.context - memory.segment) // memory.summaries, max(1, steps // memory.segment))


def with_sets(memory: MemoConfig, core: Core, sets: int) -> Core:
    """Return a memo with that many sets, on the same weights; acting needs no second cache for cut gradients."""
    return resized(replace(memory, sets=sets, summary_gradient=-1), core)
