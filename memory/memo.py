"""Memo: an agent that writes summaries of what it has lived through, and reads those instead of all of it.

The steps of a trial are cut into segments. A step attends to the summaries of earlier segments and to the steps of
its own segment. After the last step of a segment, learned tokens attend to the same; what comes out of the trunk for
them is the summary. It is fed to the trunk once more, as tokens, and the keys and values of that second pass are the
memory. The step that completes a segment does not see its summary yet.

Sources: Memo (arXiv 2510.19732); the Recurrent Memory Transformer (arXiv 2207.06881) for the store that overwrites;
rotary positions (arXiv 2104.09864).
Departures: rows may be at different steps of their trials; the store is a ring that drops the oldest summaries when it
is full; all segments have one length; no depth dropout.
Shapes: T time, C steps of a window (J as keys), P tokens, B rows, D features, L layers, H heads, K = D / H, R some of
the rows, M slots for summaries, S slots for the running segment, N = M + S or more keys.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..kernels.decode_attention import decode_attention
from ..kernels.segment_attention import NEVER, Seen, attention
from .attention import Heads, HeadsConfig
from .core import Core, map_state, rows, select
from .in_step import Section, sections, unroll_in_step
from .stack import Block, Norm

# Keys and values, for each layer (B, 2, H, slots, K).
Layers = tuple[Tensor, ...]


class Notes(NamedTuple):
    """What a row remembers: summaries and the running segment. Slots without an entry are 0."""

    kv_LB2HNK: Layers
    """M slots for the summaries, where set n lies at n mod sets, then S for the segment, where step i lies at i."""
    sets_B: Tensor
    """(B,) int64: segments completed in this trial."""
    index_B: Tensor
    """(B,) int64: steps of the running segment so far, less than S."""
    apart_LB2HSK: Layers
    """The running segment again, where gradients are cut after n sets: same values, no gradient to a summary. Or ()."""


class Memo(Core):
    """The trunk with all its layers in one core, since a summary is what leaves the last of them."""

    def __init__(self, config: MemoConfig) -> None:
        super().__init__(config.width)
        self.heads, self.segment, self.summaries = config.heads, config.segment, config.summaries
        self.overwrite, self.gradient = config.store == "overwrite", config.summary_gradient
        self.sets = 1 if self.overwrite else config.sets
        self.layers = nn.ModuleList(Heads(config.width, config.heads) for _ in range(config.depth))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.Identity() if config.residual == "none" else Norm(config.width)
        self.settles = True
        self.tokens_PD = nn.Parameter(0.02 * torch.randn(config.summaries, config.width))

    @property
    def slots(self) -> int:
        """M, the slots for summaries."""
        return self.sets * self.summaries

    def initial_state(self, batch: int) -> Notes:
        """Return empty notes."""
        shape = (batch, 2, self.heads, self.slots + self.segment, self.width // self.heads)
        kv_LB2HNK = tuple(self.tokens_PD.new_zeros(shape) for _ in self.layers)
        apart = tuple(part[..., self.slots :, :].clone() for part in kv_LB2HNK) if self.gradient > 0 else ()
        none_B = torch.zeros(batch, dtype=torch.int64, device=self.tokens_PD.device)
        return Notes(kv_LB2HNK, none_B, none_B.clone(), apart)

    def context_entries(self, steps: int) -> int:
        """Return how many keys a row keeps after `steps` steps of a trial: of summaries, and of the running segment."""
        return min(steps // self.segment, self.sets) * self.summaries + steps % self.segment

    def step(self, x_BD: Tensor, state: Notes, start_B: Tensor) -> tuple[Tensor, Notes]:
        """Take one step; the rows that complete a segment with it also write their summary.

        The host looks which rows these are, so a CUDA graph captures `advance` and `settle` instead.
        """
        # `select` has made copies, so that the state that came in stays as it is.
        notes = select(start_B, self.initial_state(1), state)
        # Where gradients are cut, summaries read other caches than steps do: the same values, another history.
        sources = self._sources(notes)
        outputs = [self._decode(x_BD, notes, source) for source in sources]
        apart = tuple(part[..., self.slots :, :] for part in sources[1]) if self.gradient > 0 else ()
        notes = notes._replace(index_B=notes.index_B + 1, apart_LB2HSK=apart)

        complete_R = (notes.index_B == self.segment).nonzero()[:, 0]
        if len(complete_R):
            some, source = rows(notes, complete_R), rows(sources[-1], complete_R)
            some = self._complete(some, source, source, self._visible(some))
            notes = map_state(lambda part, new: part.index_copy(0, complete_R, new), notes, some)
        return outputs[0], notes

    @torch.no_grad()
    def advance(self, x_BD: Tensor, state: Notes, start_B: Tensor) -> tuple[Tensor, Notes]:
        """Take a step in the notes that are given; a row that completes a segment is left with `index` S."""
        sets_B, index_B = (torch.where(start_B, 0, count) for count in (state.sets_B, state.index_B))
        notes = Notes(state.kv_LB2HNK, sets_B, index_B, state.apart_LB2HSK)
        y_BD = self._decode(x_BD, notes, notes.kv_LB2HNK, start_B)
        for whole, apart in zip(notes.kv_LB2HNK, notes.apart_LB2HSK, strict=False):
            apart.copy_(whole[..., self.slots :, :])
        return y_BD, notes._replace(index_B=index_B + 1)

    def unsettled(self, state: Notes) -> Tensor:
        """Return which rows have completed a segment whose summary is not written."""
        return state.index_B == self.segment

    def slack(self, state: Notes) -> Tensor:
        """Return how many steps are left of each row's running segment."""
        return self.segment - state.index_B

    @torch.no_grad()
    def settle(self, state: Notes) -> Notes:
        """Write the summaries of some of the rows that wait for it: of a fixed number, so that few rows cost little."""
        some_R = (~self.unsettled(state)).byte().argsort(stable=True)[: max(64, -(-len(state.index_B) // 8))]
        notes = rows(state, some_R)
        after = self._complete(notes, notes.kv_LB2HNK, notes.kv_LB2HNK, self._visible(notes))
        after = select(self.unsettled(notes), after, notes)
        settled: Notes = map_state(lambda part, new: part.index_copy_(0, some_R, new), state, after)
        return settled

    def plan(self, state: Notes, start_TB: Tensor) -> Hashable:
        """Return the sections of a window."""
        return sections(state.index_B, state.sets_B, start_TB, self.segment)

    def unroll(self, x_TBD: Tensor, state: Notes, start_TB: Tensor) -> tuple[Tensor, Notes]:
        """Take T steps, after one look at what lies in them."""
        return self.follow(x_TBD, state, start_TB, self.plan(state, start_TB))

    def follow(self, x_TBD: Tensor, state: Notes, start_TB: Tensor, plan: Hashable) -> tuple[Tensor, Notes]:
        """Take T steps, in sections that begin where all rows start a trial.

        Where rows are in step, a pass takes a segment. Otherwise a window of one segment's length is taken at a time:
        in it, no row completes more than one segment.
        """
        outputs = []
        for section in cast("tuple[Section, ...]", plan):
            x_CBD, start_CB = x_TBD[section.begin : section.end], start_TB[section.begin : section.end]
            if section.in_step and self.gradient <= 0:
                state = select(start_CB[0], self.initial_state(1), state)
                y_CBD, state = unroll_in_step(self, x_CBD, state, section)
                outputs.append(y_CBD)
                continue
            for begin in range(0, len(x_CBD), self.segment):
                some = slice(begin, begin + self.segment)
                ends, x_BCD, start_BC = section.ends[some], x_CBD[some].transpose(0, 1), start_CB[some].t()
                y_BCD, state = self._window(x_BCD, state, start_BC, any(ends), any(ends[:-1]))
                outputs.append(y_BCD.transpose(0, 1))
        return torch.cat(outputs), state

    def _window(
        self, x_BCD: Tensor, notes: Notes, start_BC: Tensor, completes: bool, goes_on: bool
    ) -> tuple[Tensor, Notes]:
        """Take C <= S steps: those up to the end of a segment, the summary, those that see it.

        Every step keeps its place in the window, whatever came before it in its row, so that what a trial computes is
        the same, bit for bit, after any past. `completes` and `goes_on` say whether any row may complete a segment, and
        take steps after it: where they are false, a pass is saved.
        """
        notes = select(start_BC[:, 0], self.initial_state(1), notes)
        steps, length = start_BC.shape[1], self.segment
        time_C = torch.arange(steps, device=x_BCD.device)
        # When the trial of each step began. Only the trial that the window opens with can have begun at 0 or before.
        begun_BC = torch.where(start_BC & (time_C > 0), time_C, -1).cummax(1).values
        carried_BC = begun_BC < 0
        begun_BC = torch.where(carried_BC, -notes.index_B[:, None], begun_BC)
        index_BC = time_C - begun_BC
        next_BC = index_BC >= length  # in the segment after the one that is completed here

        # What the window opens with has time -1.
        first_BC, last_BC = torch.where(carried_BC, -1, begun_BC), time_C.expand_as(begun_BC)
        seen = Seen(torch.cat([self._time(notes), last_BC], 1), first_BC, last_BC)
        position_BC = carried_BC * self._offset(notes.sets_B)[:, None] + index_BC
        sources = self._sources(notes)
        passes = [self._trunk(x_BCD, position_BC, source, seen) for source in sources]
        y_BCD, new = passes[0][0], [kv for _, kv in passes]

        if completes:
            end_B1 = (length - notes.index_B)[:, None]  # when the segment that the window opens with is complete
            complete_B = (carried_BC & (index_BC == length - 1)).any(1)
            with_window = _join(sources[-1], new[-1])
            visible_BN = torch.cat([self._visible(notes), time_C < end_B1], 1)
            after = self._complete(notes, sources[-1], with_window, visible_BN)
            notes = select(complete_B, after, notes)
            if goes_on:
                # The steps before see themselves alone, so that those after see them not: what they see was settled.
                early_BC = time_C < torch.where(complete_B[:, None], end_B1, 0)
                time_BC = torch.where(early_BC, -2 - time_C, time_C)
                first_BC = torch.where(early_BC, time_BC, torch.where(next_BC, -1, first_BC.clamp(min=0)))
                seen = Seen(torch.cat([self._time(notes), time_BC], 1), first_BC, torch.maximum(time_BC, first_BC))
                position_BC = self._offset(notes.sets_B)[:, None] + index_BC % length
                passes = [self._trunk(x_BCD, position_BC, source, seen) for source in self._sources(notes)]
                y_BCD = torch.where(next_BC[..., None], passes[0][0], y_BCD)
                over = next_BC[:, None, None, :, None]
                new = [
                    tuple(torch.where(over, b, a) for a, b in zip(before, kv, strict=True))
                    for before, (_, kv) in zip(new, passes, strict=True)
                ]

        restarted_B = begun_BC[:, -1] > 0
        notes = select(restarted_B, self.initial_state(1), notes)
        index_B = (index_BC[:, -1] + 1) % length
        memory = tuple(part[..., : self.slots, :] for part in notes.kv_LB2HNK)
        segment = tuple(part[..., self.slots :, :] for part in notes.kv_LB2HNK)
        kv_LB2HNK = _join(memory, self._segment(segment, new[0], index_B))
        apart = self._segment(notes.apart_LB2HSK, new[1], index_B) if self.gradient > 0 else ()
        return y_BCD, Notes(kv_LB2HNK, notes.sets_B, index_B, apart)

    def _segment(self, before: Layers, window: Layers, index_B: Tensor) -> Layers:
        """Return the slots of the running segment after a window: its `index` steps, of the window or before it."""
        slot_S, steps = torch.arange(self.segment, device=index_B.device), window[0].shape[3]
        time_BS = slot_S - index_B[:, None] + steps
        source_BS = time_BS.clamp(0, steps - 1)[:, None, None, :, None]
        inside_BS = (time_BS >= 0)[:, None, None, :, None]
        held_BS = (time_BS < steps)[:, None, None, :, None]
        return tuple(
            torch.where(held_BS, torch.where(inside_BS, new.gather(3, source_BS.expand_as(old)), old), 0)
            for old, new in zip(before, window, strict=True)
        )

    def _complete(self, notes: Notes, memory: Layers, context: Layers, visible_BN: Tensor) -> Notes:
        """Write a summary of what `visible` shows of `context`, and begin a new segment.

        `memory` holds the summaries so far in its first M slots, as the new one is to read them.
        """
        batch, count = visible_BN.shape[0], self.summaries
        token_P = torch.arange(count, device=visible_BN.device)
        position_BP = (self._offset(notes.sets_B) + self.segment)[:, None] + token_P
        with torch.no_grad() if self.gradient == 0 else nullcontext():
            tokens_BPD = self.tokens_PD.expand(batch, -1, -1)
            summary_BPD, _ = self._trunk(tokens_BPD, position_BP, context, _after(visible_BN, count))

        # A summary that overwrites is read alone; one that is added is read after those before it.
        read = 0 if self.overwrite else self.slots
        position_BP = token_P.expand(batch, -1) if self.overwrite else self._offset(notes.sets_B)[:, None] + token_P
        earlier = tuple(part[..., :read, :] for part in memory)
        _, new = self._trunk(summary_BPD, position_BP, earlier, _after(self._visible(notes)[:, :read], count))
        slot_BP = (notes.sets_B % self.sets * count)[:, None] + token_P
        slot_N = torch.arange(self.slots + self.segment, device=slot_BP.device)
        kept = [torch.where(slot_N[:, None] < self.slots, part, 0) for part in notes.kv_LB2HNK]
        if self.gradient > 0:
            age_BN = (notes.sets_B[:, None] - slot_N // count) % self.sets
            near = (age_BN < self.gradient)[:, None, None, :, None]
            kept = [torch.where(near, part, part.detach()) for part in kept]
        written = (
            part.scatter_(3, slot_BP[:, None, None, :, None].expand_as(kv), kv.to(part.dtype))
            for part, kv in zip(kept, new, strict=True)
        )
        apart = tuple(torch.zeros_like(part) for part in notes.apart_LB2HSK)
        return Notes(tuple(written), notes.sets_B + 1, torch.zeros_like(notes.index_B), apart)

    def _trunk(self, x_BPD: Tensor, position_BP: Tensor, cache: Layers, seen: Seen | None) -> tuple[Tensor, Layers]:
        """Run tokens through all layers, each attending to its cache and to the tokens.

        Returns what leaves the trunk (B, P, D) and the tokens' keys and values.
        """
        kept, turn = [], self.layers[0].turn(position_BP)  # type: ignore[operator]
        for layer, block, cache_B2HNK in zip(self.layers, self.blocks, cache, strict=True):
            query_BHPK, kv_B2HNK = layer(block.before(x_BPD), turn, cache_B2HNK)  # type: ignore[operator]
            kept.append(kv_B2HNK[..., cache_B2HNK.shape[3] :, :])
            read_BHPK = attention(query_BHPK, kv_B2HNK, seen)
            x_BPD = block.after(x_BPD, layer.join(read_BHPK))  # type: ignore[operator]
        return self.norm(x_BPD), tuple(kept)

    def _decode(self, x_BD: Tensor, notes: Notes, cache: Layers, start_B: Tensor | None = None) -> Tensor:
        """Run one step through all layers; its keys and values are written to the cache, in place."""
        turn = self.layers[0].turn((self._offset(notes.sets_B) + notes.index_B)[:, None])  # type: ignore[operator]
        slot_B, near_B = self.slots + notes.index_B, notes.index_B + 1
        far_B = self.summaries * notes.sets_B.clamp(max=self.sets)
        x_B1D = x_BD[:, None]
        for layer, block, cache_B2HNK in zip(self.layers, self.blocks, cache, strict=True):
            query_BH1K, new_B2H1K = layer(block.before(x_B1D), turn)  # type: ignore[operator]
            read_BHK = decode_attention(
                query_BH1K[:, :, 0], new_B2H1K[:, :, :, 0], cache_B2HNK, slot_B, far_B, near_B, self.slots, start_B
            )
            x_B1D = block.after(x_B1D, layer.join(read_BHK[:, :, None]))  # type: ignore[operator]
        y_B1D: Tensor = self.norm(x_B1D)
        return y_B1D[:, 0]

    def _sources(self, notes: Notes) -> Sequence[Layers]:
        """Return the caches as the steps read them, and, where gradients are cut, as the summaries read them."""
        if self.gradient <= 0:
            return [notes.kv_LB2HNK]
        memory = tuple(part[..., : self.slots, :].detach() for part in notes.kv_LB2HNK)
        return [notes.kv_LB2HNK, _join(memory, notes.apart_LB2HSK)]

    def _visible(self, notes: Notes) -> Tensor:
        """Return which slots hold an entry, (B, M + S)."""
        slot_N = torch.arange(self.slots + self.segment, device=notes.sets_B.device)
        summary_BN = slot_N // self.summaries < notes.sets_B[:, None]
        return torch.where(slot_N < self.slots, summary_BN, slot_N - self.slots < notes.index_B[:, None])

    def _time(self, notes: Notes) -> Tensor:
        """Return -1 for the slots that hold an entry, as the time of their keys, and `NEVER` for the others."""
        return torch.where(self._visible(notes), -1, NEVER)

    def _offset(self, sets_B: Tensor) -> Tensor:
        """Return the position of the first step of a segment: summaries come before it, those dropped included."""
        return self.summaries * (sets_B.clamp(max=1) if self.overwrite else sets_B)


def _after(visible_BN: Tensor, count: int) -> Seen:
    """Return what `count` tokens see that come after what is visible, and see each other up to themselves."""
    token_BP = torch.arange(count, device=visible_BN.device).expand(len(visible_BN), -1)
    time_BN = torch.cat([torch.where(visible_BN, -1, NEVER), token_BP], 1)
    return Seen(time_BN, torch.full_like(token_BP, -1), token_BP)


def _join(first: Layers, second: Layers) -> Layers:
    """Put slots after slots, layer by layer."""
    return tuple(torch.cat(pair, 3) for pair in zip(first, second, strict=True))


def flops_per_step(parameters: int, layers: int, width: int, entries: float) -> float:
    """Return the floating-point operations of one step of a transformer that attends to `entries` keys.

    Two per weight; per layer and key, two per feature for the score and two for the sum of values.
    """
    return 2 * parameters + 4 * layers * width * entries


@dataclass(frozen=True, kw_only=True)
class MemoConfig(HeadsConfig):
    """A transformer that reads summaries of past segments, which it learns to write: all (Memo) or the last (RMT)."""

    name: ClassVar[str] = "memo"
    summary: ClassVar[str] = "a transformer that writes learned summaries of past segments and reads those (Memo, RMT)"
    rotary: ClassVar[bool] = True

    segment: int = 32
    """Steps of a segment: after each, a summary is written."""
    summaries: int = 4
    """Tokens of a summary."""
    store: Literal["accumulate", "overwrite"] = "accumulate"
    """Keep the summaries of all segments (Memo), or only the last one (RMT)."""
    sets: int = 8
    """Summaries that are kept; the oldest makes room. No difference to keeping all while a trial has at most so many
    segments before the running one. With store "overwrite" it is 1 whatever is set here."""
    summary_gradient: int = -1
    """How many segments back gradients reach through summaries: -1 all, 0 none, n exactly n (at twice the work)."""

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to summarise, or nothing to do it with."""
        super().__post_init__()
        for field, least in (("segment", 1), ("summaries", 1), ("sets", 1), ("summary_gradient", -1)):
            if getattr(self, field) < least:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least {least}")

    def build(self) -> Core:
        """Make the core."""
        return Memo(self)
