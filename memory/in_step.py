"""Memo over rows in step: all begin their trials and complete their segments at the same steps.

Then a segment is one pass of the trunk: the summary of the segment before it, which is read for the first time and so
becomes keys and values, its steps, and the tokens that become its own summary. Every pass begins at the start of a
trial or of a segment, or with the window, so that what a trial computes is the same, bit for bit, after any past.
Shapes: T time, C steps of a pass, P tokens of a summary, Q tokens of a pass, B rows, D features, L layers, H heads,
K width of a head, M slots for summaries, S slots for the running segment, N = M + S.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..kernels.segment_attention import Seen

if TYPE_CHECKING:
    from .memo import Memo, Notes

# Keys and values, for each layer (B, 2, H, slots, K).
Layers = tuple[Tensor, ...]


class Section(NamedTuple):
    """Steps of a window, the first of them its first or one with which all rows start a trial."""

    begin: int
    end: int
    ends: tuple[bool, ...]
    """By step: the rows complete a segment with it. Of rows out of step: whether any does, with any step."""
    in_step: bool
    """No row starts a trial apart from the others, and all complete their segments together."""
    step: int
    """Steps of the running segment before the section, of rows in step."""
    sets: int
    """Segments completed before it, of rows in step."""
    length: int
    """Steps of the segments that begin in it."""


def sections(index_B: Tensor, sets_B: Tensor, start_TB: Tensor, segment: int, length: int) -> tuple[Section, ...]:
    """Look once at what lies in a window, and divide it where all rows start.

    A segment that was begun before the window has `segment` steps, one that begins in it has `length`. What happens in
    a section, rows in step or not, tells nothing of the sections before it. While a CUDA graph is captured no one can
    look: all is one section, in which anything may happen.
    """
    steps, batch = start_TB.shape
    if start_TB.is_cuda and torch.cuda.is_current_stream_capturing():
        return (Section(0, steps, (True,) * steps, in_step=False, step=0, sets=0, length=length),)
    time_T1 = torch.arange(steps, device=start_TB.device)[:, None]
    begun_TB = torch.where(start_TB, time_T1, -1).cummax(0).values
    # When a segment that was begun before would have begun, had it the other length, to end when it does.
    before_B = torch.where(index_B > 0, segment - index_B - length, 0)
    taken_TB = time_T1 - torch.where(begun_TB < 0, before_B, begun_TB) + 1
    end_TB = (taken_TB > 0) & (taken_TB % length == 0)
    index_B, sets_B = (torch.where(start_TB[0], 0, count) for count in (index_B, sets_B))
    counts = [end_TB.sum(1), start_TB.sum(1), *(edge[None] for n in (index_B, sets_B) for edge in (n.min(), n.max()))]
    found = torch.cat(counts).tolist()
    ended, started, (index, most_index, sets, most_sets) = found[:steps], found[steps : 2 * steps], found[2 * steps :]
    cuts = [0, *(time for time in range(1, steps) if started[time] == batch), steps]
    divided = []
    for begin, end in pairwise(cuts):
        alike = all(count in (0, batch) for count in (*ended[begin:end], *started[begin:end]))
        alike = alike and (begin > 0 or (index == most_index and sets == most_sets))
        ends = tuple(count > 0 for count in ended[begin:end])
        step, done = (index, sets) if not begin else (0, 0)
        if not alike:  # no more than what matters, so that windows of one plan are many
            ends, step, done = (any(ends),) * len(ends), 0, 0
        divided.append(Section(begin, end, ends, alike, step, done, length))
    return tuple(divided)


def unroll_in_step(core: Memo, x_TBD: Tensor, notes: Notes, section: Section) -> tuple[Tensor, Notes]:
    """Take a section in which rows are in step, from the memory that its first step finds, after any start."""
    past, outputs, begin = _Past(core, notes, section), [], 0
    for end in [time + 1 for time, ends in enumerate(section.ends) if ends or time + 1 == len(x_TBD)]:
        outputs.append(past.take(x_TBD[begin:end].transpose(0, 1), completes=section.ends[end - 1]))
        begin = end
    return torch.cat(outputs, 1).transpose(0, 1), past.notes()


class _Past:
    """What rows in step remember while a window goes on."""

    def __init__(self, core: Memo, notes: Notes, section: Section) -> None:
        self.core, self.before, self.index, self.done = core, notes, section.step, section.sets
        count, held = core.summaries, min(section.sets, core.sets)
        newest = [n % core.sets * count for n in range(section.sets - held, section.sets)]
        # For each layer the sets of summaries, the oldest first, and the running segment.
        self.sets_L = [[kv[..., at : at + count, :] for at in newest] for kv in notes.kv_LB2HNK]
        self.running_L = [kv[..., core.slots : core.slots + section.step, :] for kv in notes.kv_LB2HNK]
        self.offset = core._offset(section.sets)
        """The position of the first step of the running segment."""
        self.summary_BPD: Tensor | None = None
        """The summary of the segment before, as tokens that have not been read yet."""

    def take(self, x_BCD: Tensor, *, completes: bool) -> Tensor:
        """Take steps of one segment, and where they complete it, make its summary; return their outputs."""
        core, device = self.core, x_BCD.device
        batch, steps = x_BCD.shape[:2]
        tokens: list[Tensor] = []
        position: list[Tensor] = []
        read = self._begin_reading(tokens, position, device)
        count = core.summaries if completes else 0
        tokens += [x_BCD, core.tokens_PD[:count].to(x_BCD.dtype).expand(batch, -1, -1)]
        position.append(torch.arange(self.index, self.index + steps + count, device=device) + self.offset)
        y_BQD, kv = self._pass(tokens, position, read)
        y_BCD, summary_BPD = y_BQD[:, read : read + steps], y_BQD[:, read + steps :]
        self.index += steps
        for layer, kv_B2HQK in enumerate(kv):
            new = kv_B2HQK[..., read : read + steps, :]
            self.running_L[layer] = torch.cat([self.running_L[layer].to(new.dtype), new], 3)
        if completes:
            self.offset = core._next_offset(self.offset, self.index)
            self.index = 0
            self.running_L = [part[..., :0, :] for part in self.running_L]
            if core.reread:
                self.summary_BPD = summary_BPD if core.gradient else summary_BPD.detach()
            else:
                self.done += 1
                self._append([part[..., read + steps :, :] for part in kv], detached=not core.gradient)
        return y_BCD

    def notes(self) -> Notes:
        """Return the memory as it is kept, in slots."""
        core = self.core
        if self.summary_BPD is not None:
            tokens: list[Tensor] = []
            position: list[Tensor] = []
            read = self._begin_reading(tokens, position, self.summary_BPD.device)
            self._pass(tokens, position, read)
        kept, index = [], min(self.index, core.segment - 1)  # of a segment longer than that, its first steps
        for sets, running, like in zip(self.sets_L, self.running_L, self.before.kv_LB2HNK, strict=True):
            shift = (self.done - len(sets)) % core.sets  # the slot of the oldest
            turned = sets[len(sets) - shift :] + sets[: len(sets) - shift] if len(sets) == core.sets else sets
            parts = [part.to(like.dtype) for part in turned]
            held = [like.new_zeros(*like.shape[:3], core.slots - len(sets) * core.summaries, like.shape[4])]
            room = [like.new_zeros(*like.shape[:3], core.segment - index, like.shape[4])]
            kept.append(torch.cat([*parts, *held, running[..., :index, :].to(like.dtype), *room], 3))
        done_B = torch.full_like(self.before.sets_B, self.done)
        return self.before._replace(kv_LB2HNK=tuple(kept), sets_B=done_B, index_B=torch.full_like(done_B, index))

    def _begin_reading(self, tokens: list[Tensor], position: list[Tensor], device: torch.device) -> int:
        """Put the summary that has not been read before the other tokens; return how many tokens it has."""
        if self.summary_BPD is None:
            return 0
        count = self.core.summaries
        tokens.append(self.summary_BPD)
        position.append(torch.arange(count, device=device) + (0 if self.core.overwrite else count * self.done))
        self.summary_BPD, self.done = None, self.done + 1
        if self.core.overwrite:
            self.sets_L = [[] for _ in self.sets_L]
        return count

    def _append(self, kv: Sequence[Tensor], *, detached: bool = False) -> None:
        """Add a set of summaries to the others; where there is no room, the oldest makes it."""
        for sets, kv_B2HPK in zip(self.sets_L, kv, strict=True):
            sets.append(kv_B2HPK.detach() if detached else kv_B2HPK)
            del sets[: -self.core.sets]

    def _pass(self, tokens: list[Tensor], position: list[Tensor], read: int) -> tuple[Tensor, Layers]:
        """Run tokens through the trunk; the first `read` of them are a summary, which joins the others."""
        core = self.core
        x_BQD, position_1Q = torch.cat(tokens, 1), torch.cat(position)[None]
        full = bool(read) and len(self.sets_L[0]) == core.sets
        cache = tuple(
            torch.cat([*(part.to(running.dtype) for part in sets), running], 3)
            for sets, running in zip(self.sets_L, self.running_L, strict=True)
        )
        seen = self._without_oldest(x_BQD, cache[0].shape[3], read) if full else None
        y_BQD, kv = core._trunk(x_BQD, position_1Q, cache, seen, core._draw(x_BQD))
        if read:
            self._append([part[..., :read, :] for part in kv])
        return y_BQD, kv

    def _without_oldest(self, x_BQD: Tensor, slots: int, read: int) -> Seen:
        """Return what is seen where the store is full: a summary still reads the oldest set, whose place it takes."""
        batch, count = x_BQD.shape[:2]
        time_Q = torch.arange(count, device=x_BQD.device)
        slot_N = torch.arange(slots, device=x_BQD.device)
        time_N = torch.cat([torch.where(slot_N < self.core.summaries, -2, -1), time_Q])
        first_Q = torch.where(time_Q < read, -2, -1)
        return Seen(*(part.expand(batch, -1) for part in (time_N, first_Q, time_Q)))
