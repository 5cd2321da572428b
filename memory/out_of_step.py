"""Memo over rows out of step: each begins its trials and completes its segments when it does.

A window of at most one segment's length is taken at a time: in it, no row completes more than one segment.
Shapes: T time, C steps of a window (J as keys), B rows, D features, L layers, H heads, K width of a head, M slots for
summaries, S slots for the running segment, N = M + S or more keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.segment_attention import NEVER, Seen
from .core import map_state, select
from .in_step import Layers, Section

if TYPE_CHECKING:
    from .memo import Memo, Notes


class Lived(NamedTuple):
    """What rows bring into a window."""

    notes: Notes
    offset_B: Tensor
    """(B,) int64: the position of the first step of the running segment."""
    length_B: Tensor
    """(B,) int64: steps that the running segment will have."""


def unroll_out_of_step(
    core: Memo, x_TBD: Tensor, notes: Notes, start_TB: Tensor, section: Section
) -> tuple[Tensor, Notes]:
    """Take a section in which anything may happen, from the memory that its first step finds, after any start."""
    room, outputs = max(0, section.length - core.segment), []
    notes = map_state(lambda part: F.pad(part, (0, 0, 0, room)) if room and part.ndim > 1 else part, notes)
    length_B = torch.where(notes.index_B > 0, core.segment, section.length)
    lived = Lived(notes, core._offset(notes.sets_B), length_B)
    for begin in range(0, len(x_TBD), section.length):
        some = slice(begin, begin + section.length)
        ends = section.ends[some]
        x_BCD, start_BC = x_TBD[some].transpose(0, 1), start_TB[some].t()
        y_BCD, lived = _window(core, x_BCD, lived, start_BC, section.length, any(ends), any(ends[:-1]))
        outputs.append(y_BCD.transpose(0, 1))
    return torch.cat(outputs), _fitted(lived.notes, room, core.segment) if room else lived.notes


def _window(
    core: Memo, x_BCD: Tensor, lived: Lived, start_BC: Tensor, length: int, completes: bool, goes_on: bool
) -> tuple[Tensor, Lived]:
    """Take C <= `length` steps: those up to the end of a segment, the summary, those that see it.

    Every step keeps its place in the window, whatever came before it in its row, so that what a trial computes is
    the same, bit for bit, after any past. `completes` and `goes_on` say whether any row may complete a segment, and
    take steps after it: where they are false, a pass is saved.
    """
    lived = select(start_BC[:, 0], _fresh(lived, length), lived)
    notes, offset_B, length_B = lived
    time_C = torch.arange(start_BC.shape[1], device=x_BCD.device)
    # When the trial of each step began. Only the trial that the window opens with can have begun at 0 or before.
    begun_BC = torch.where(start_BC & (time_C > 0), time_C, -1).cummax(1).values
    carried_BC = begun_BC < 0
    begun_BC = torch.where(carried_BC, -notes.index_B[:, None], begun_BC)
    index_BC = time_C - begun_BC
    next_BC = carried_BC & (index_BC >= length_B[:, None])  # in the segment after the one that is completed here

    # What the window opens with has time -1.
    first_BC, last_BC = torch.where(carried_BC, -1, begun_BC), time_C.expand_as(begun_BC)
    seen = Seen(torch.cat([_time(core, notes), last_BC], 1), first_BC, last_BC)
    position_BC = carried_BC * offset_B[:, None] + index_BC
    sources, kept = core._sources(notes), core._draw(x_BCD)
    passes = [core._trunk(x_BCD, position_BC, source, seen, kept) for source in sources]
    y_BCD, new = passes[0][0], [kv for _, kv in passes]

    if completes:
        end_B1 = (length_B - notes.index_B)[:, None]  # when the segment that the window opens with is complete
        complete_B = (carried_BC & (index_BC == length_B[:, None] - 1)).any(1)
        with_window, kept_after = join(sources[-1], new[-1]), core._draw(x_BCD)
        visible_BN = torch.cat([core._visible(notes), time_C < end_B1], 1)
        after = core._complete(
            notes, sources[-1], with_window, visible_BN,
            offset_B=offset_B, length_B=length_B, kept=(kept, kept_after),
        )  # fmt: skip
        begins = Lived(after, core._next_offset(offset_B, length_B), torch.full_like(length_B, length))
        lived = select(complete_B, begins, lived)
        if goes_on:
            notes = lived.notes
            # The steps before see themselves alone, so that those after see them not: what they see was settled.
            early_BC = time_C < torch.where(complete_B[:, None], end_B1, 0)
            time_BC = torch.where(early_BC, -2 - time_C, time_C)
            first_BC = torch.where(early_BC, time_BC, torch.where(next_BC, -1, first_BC.clamp(min=0)))
            seen = Seen(torch.cat([_time(core, notes), time_BC], 1), first_BC, torch.maximum(time_BC, first_BC))
            position_BC = lived.offset_B[:, None] + torch.where(next_BC, index_BC - length_B[:, None], index_BC)
            passes = [core._trunk(x_BCD, position_BC, source, seen, kept_after) for source in core._sources(notes)]
            y_BCD = torch.where(next_BC[..., None], passes[0][0], y_BCD)
            over = next_BC[:, None, None, :, None]
            new = [
                tuple(torch.where(over, b, a) for a, b in zip(before, kv, strict=True))
                for before, (_, kv) in zip(new, passes, strict=True)
            ]

    taken_B = index_BC[:, -1] + 1
    taken_B = torch.where(carried_BC[:, -1] & (taken_B >= length_B), taken_B - length_B, taken_B)
    notes, offset_B, length_B = select(begun_BC[:, -1] > 0, _fresh(lived, length), lived)
    memory = tuple(part[..., : core.slots, :] for part in notes.kv_LB2HNK)
    segment = tuple(part[..., core.slots :, :] for part in notes.kv_LB2HNK)
    kv_LB2HNK = join(memory, _segment(segment, new[0], taken_B))
    apart = _segment(notes.apart_LB2HSK, new[1], taken_B) if core.gradient > 0 else ()
    return y_BCD, Lived(notes._replace(kv_LB2HNK=kv_LB2HNK, index_B=taken_B, apart_LB2HSK=apart), offset_B, length_B)


def _segment(before: Layers, window: Layers, index_B: Tensor) -> Layers:
    """Return the slots of the running segment after a window: its `index` steps, of the window or before it."""
    steps = window[0].shape[3]
    time_BS = torch.arange(before[0].shape[3], device=index_B.device) - index_B[:, None] + steps
    source_BS = time_BS.clamp(0, steps - 1)[:, None, None, :, None]
    inside_BS = (time_BS >= 0)[:, None, None, :, None]
    held_BS = (time_BS < steps)[:, None, None, :, None]
    return tuple(
        torch.where(held_BS, torch.where(inside_BS, new.gather(3, source_BS.expand_as(old)), old), 0)
        for old, new in zip(before, window, strict=True)
    )


def _fresh(lived: Lived, length: int) -> Lived:
    """Return what one row that starts a trial brings into a window whose segments have `length` steps."""
    empty: Lived = map_state(lambda part: torch.zeros_like(part[:1]), lived)
    return empty._replace(length_B=torch.full_like(empty.length_B, length))


def _fitted(notes: Notes, room: int, segment: int) -> Notes:
    """Return the first steps of a running segment, as many as acting has room for: there were `room` slots more."""

    def fitted(part: Tensor) -> Tensor:
        if part.ndim == 1:
            return part
        part = part[..., : part.shape[3] - room, :]
        return torch.cat([part[..., :-1, :], torch.zeros_like(part[..., -1:, :])], 3)

    notes = map_state(fitted, notes)
    return notes._replace(index_B=notes.index_B.clamp(max=segment - 1))


def _time(core: Memo, notes: Notes) -> Tensor:
    """Return -1 for the slots that hold an entry, as the time of their keys, and `NEVER` for the others."""
    return torch.where(core._visible(notes), -1, NEVER)


def join(first: Layers, second: Layers) -> Layers:
    """Put slots after slots, layer by layer."""
    return tuple(torch.cat(pair, 3) for pair in zip(first, second, strict=True))
