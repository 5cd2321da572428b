"""Memo: an agent that writes summaries of what it has lived through, and reads those instead of all of it.

The steps of a trial are cut into segments. A step attends to the summaries of earlier segments and to the steps of
its own segment. After the last step of a segment, learned tokens attend to the same; what comes out of the trunk for
them is the summary. It is fed to the trunk once more, as tokens, and the keys and values of that second pass are the
memory. The step that completes a segment does not see its summary yet.

Sources: Memo (arXiv 2510.19732); the Recurrent Memory Transformer (arXiv 2207.06881) for the store that overwrites;
rotary positions (arXiv 2104.09864).
Departures: rows may be at different steps of their trials; the store is a ring that drops the oldest summaries when it
is full; a summary is read for the second time once, and not with each segment anew, which differs only under noise.
Noise of learning, as there: segments of a drawn length, and depth dropout, which is drawn for each pass. A pass takes
the summary that is read for the first time, steps, and the tokens of the summary that they complete.
Shapes: T time, P tokens, B rows, D features, L layers, H heads, K = D / H, R some of the rows, M slots for summaries, S
slots for the running segment (more within a pass whose segments are longer), N = M + S or more keys, A ages in
steps, from 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..kernels.decode_attention import decode_attention
from ..kernels.segment_attention import NEVER, Seen, attention
from .attention import Heads, HeadsConfig, shares
from .core import Core, count_parameters, map_state, rows, select
from .in_step import Layers, Section, sections, unroll_in_step
from .out_of_step import join, unroll_out_of_step
from .stack import Block, Norm, kept_layers

# A number of the host, or one by row.
Count = TypeVar("Count", int, Tensor)
# Which layers take part in a pass, (L,) bool; None: all.
Kept = Tensor | None


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
    """The trunk with all its layers in one core, since a summary is what leaves the last of them.

    Positions: summary n of P tokens that is read again has positions n P and after, and the steps of segment n begin at
    n P. Where summaries are not read again, the keys of their tokens keep the positions of the only pass that they
    have, behind the steps of their segment, and the next segment begins behind them: no key lies ahead of a query.
    """

    def __init__(self, config: MemoConfig) -> None:
        super().__init__(config.width)
        self.heads, self.segment, self.summaries = config.heads, config.segment, config.summaries
        self.overwrite, self.gradient = config.store == "overwrite", config.summary_gradient
        self.reread, self.depth_dropout, self.jitter = config.reread, config.depth_dropout, config.segment_jitter
        self.draws_plans = config.segment_jitter > 0
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

    def attends(self, x_BD: Tensor, state: Notes, start_B: Tensor) -> Tensor:
        """Return the shares of the steps of the trial as far as summaries reach, (B, A), the step itself first.

        What a summary gets is spread evenly over the steps of the segment after which it was written.
        """
        notes = select(start_B, self.initial_state(1), state)  # copies, into which the step is written
        queries: list[Tensor] = []
        self._decode(x_BD, notes, notes.kv_LB2HNK, queries=queries)
        seen_BN = self._visible(notes._replace(index_B=notes.index_B + 1))
        pairs = zip(queries, notes.kv_LB2HNK, strict=True)
        share_BN = torch.stack([shares(query, kv_B2HNK[:, 0], seen_BN) for query, kv_B2HNK in pairs]).mean(0)

        age_A = torch.arange((self.sets + 1) * self.segment, device=x_BD.device)
        back_BA = age_A - notes.index_B[:, None] - 1  # steps before the last one of the segment before
        slot_BA = (self.slots + notes.index_B[:, None] - age_A).clamp(min=self.slots)
        near_BA = torch.where(back_BA < 0, share_BN.gather(1, slot_BA), 0)
        of_set_BM = share_BN[:, : self.slots].view(-1, self.sets, self.summaries).sum(2) / self.segment
        set_BA = notes.sets_B[:, None] - 1 - back_BA.clamp(min=0) // self.segment
        held_BA = (back_BA >= 0) & (set_BA >= 0) & (set_BA >= notes.sets_B[:, None] - self.sets)
        return near_BA + torch.where(held_BA, of_set_BM.gather(1, set_BA % self.sets), 0)

    def context_entries(self, steps: int) -> int:
        """Return how many keys a row keeps after `steps` steps of a trial: of summaries, and of the running segment."""
        return min(steps // self.segment, self.sets) * self.summaries + steps % self.segment

    def flops_per_step(self, steps: int) -> float:
        """Return what a step costs that writes no summary: its weights, and attention to all entries and itself."""
        return self._flops_per_token(self.context_entries(steps) + 1)

    def settling_flops(self, steps: int) -> float:
        """Return what the next summary costs, both passes of its tokens, by the steps of a segment."""
        sets = min(steps // self.segment, self.sets)
        among = (self.summaries + 1) / 2  # of a summary's tokens, that one of them sees on average
        first = self._flops_per_token(sets * self.summaries + self.segment + among)
        second = self._flops_per_token((0 if self.overwrite else sets * self.summaries) + among)
        return self.summaries * (first + (second if self.reread else 0.0)) / self.segment

    def _flops_per_token(self, keys: float) -> float:
        weights = count_parameters(self.layers, self.blocks, self.norm)
        return 2.0 * weights + 4.0 * len(self.layers) * self.width * keys

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
        """Return the sections of a window, and in training mode with jitter draw how long their segments are."""
        length = self.segment
        if self.training and self.jitter:
            drawn = 1 - self.jitter + 2 * self.jitter * float(torch.rand(()))
            length = max(1, int(self.segment * drawn))
        return sections(state.index_B, state.sets_B, start_TB, self.segment, length)

    def unroll(self, x_TBD: Tensor, state: Notes, start_TB: Tensor) -> tuple[Tensor, Notes]:
        """Take T steps, after one look at what lies in them."""
        return self.follow(x_TBD, state, start_TB, self.plan(state, start_TB))

    def follow(self, x_TBD: Tensor, state: Notes, start_TB: Tensor, plan: Hashable) -> tuple[Tensor, Notes]:
        """Take T steps, in sections that begin where all rows start a trial.

        Where segments have a drawn length, those do that begin in the window. One that was begun before it keeps the
        length that it has in acting. The memory that is left is then for no one to go on from: it has room for S - 1
        steps of the running segment and no more.
        """
        outputs = []
        for section in cast("tuple[Section, ...]", plan):
            x_CBD, start_CB = x_TBD[section.begin : section.end], start_TB[section.begin : section.end]
            state = select(start_CB[0], self.initial_state(1), state)
            if section.in_step and self.gradient <= 0:
                y_CBD, state = unroll_in_step(self, x_CBD, state, section)
            else:
                y_CBD, state = unroll_out_of_step(self, x_CBD, state, start_CB, section)
            outputs.append(y_CBD)
        return torch.cat(outputs), state

    def _complete(
        self,
        notes: Notes,
        memory: Layers,
        context: Layers,
        visible_BN: Tensor,
        *,
        offset_B: Tensor | None = None,
        length_B: Tensor | None = None,
        kept: tuple[Kept, Kept] = (None, None),
    ) -> Notes:
        """Write a summary of what `visible` shows of `context`, and begin a new segment.

        `memory` holds the summaries so far in its first M slots, as the new one is to read them. In learning the
        segment may have a `length` that is not S, and begin at an `offset` that comes of such, and each of the two
        passes may leave layers out.
        """
        batch, count = visible_BN.shape[0], self.summaries
        token_P = torch.arange(count, device=visible_BN.device)
        offset_B = self._offset(notes.sets_B) if offset_B is None else offset_B
        length_B = torch.full_like(offset_B, self.segment) if length_B is None else length_B
        position_BP = (offset_B + length_B)[:, None] + token_P
        with torch.no_grad() if self.gradient == 0 else nullcontext():
            tokens_BPD = self.tokens_PD.expand(batch, -1, -1)
            summary_BPD, new = self._trunk(tokens_BPD, position_BP, context, _after(visible_BN, count), kept[0])

        if self.reread:  # a summary that overwrites is read alone; one that is added is read after those before it
            read = 0 if self.overwrite else self.slots
            position_BP = token_P.expand(batch, -1) if self.overwrite else offset_B[:, None] + token_P
            earlier = tuple(part[..., :read, :] for part in memory)
            seen = _after(self._visible(notes)[:, :read], count)
            _, new = self._trunk(summary_BPD, position_BP, earlier, seen, kept[1])
        slot_BP = (notes.sets_B % self.sets * count)[:, None] + token_P
        slot_N = torch.arange(notes.kv_LB2HNK[0].shape[3], device=slot_BP.device)
        written = [torch.where(slot_N[:, None] < self.slots, part, 0) for part in notes.kv_LB2HNK]
        if self.gradient > 0:
            age_BN = (notes.sets_B[:, None] - slot_N // count) % self.sets
            near = (age_BN < self.gradient)[:, None, None, :, None]
            written = [torch.where(near, part, part.detach()) for part in written]
        for part, kv in zip(written, new, strict=True):
            part.scatter_(3, slot_BP[:, None, None, :, None].expand_as(kv), kv.to(part.dtype))
        apart = tuple(torch.zeros_like(part) for part in notes.apart_LB2HSK)
        return Notes(tuple(written), notes.sets_B + 1, torch.zeros_like(notes.index_B), apart)

    def _draw(self, like: Tensor) -> Kept:
        """Draw which layers take part in a pass of learning."""
        return kept_layers(self, self.depth_dropout, len(self.layers), like)

    def _trunk(
        self, x_BPD: Tensor, position_BP: Tensor, cache: Layers, seen: Seen | None, kept: Kept = None
    ) -> tuple[Tensor, Layers]:
        """Run tokens through all layers, each attending to its cache and to the tokens.

        Returns what leaves the trunk (B, P, D) and the tokens' keys and values.
        """
        found, turn = [], self.layers[0].turn(position_BP)  # type: ignore[operator]
        for index, (layer, block, cache_B2HNK) in enumerate(zip(self.layers, self.blocks, cache, strict=True)):
            query_BHPK, kv_B2HNK = layer(block.before(x_BPD), turn, cache_B2HNK)  # type: ignore[operator]
            found.append(kv_B2HNK[..., cache_B2HNK.shape[3] :, :])
            read_BHPK = attention(query_BHPK, kv_B2HNK, seen)
            takes_part = None if kept is None else kept[index]
            x_BPD = block.after(x_BPD, layer.join(read_BHPK), takes_part)  # type: ignore[operator]
        return self.norm(x_BPD), tuple(found)

    def _decode(
        self,
        x_BD: Tensor,
        notes: Notes,
        cache: Layers,
        start_B: Tensor | None = None,
        queries: list[Tensor] | None = None,
    ) -> Tensor:
        """Run one step through all layers; its keys and values are written to the cache, in place.

        To `queries` those of every layer are appended, (B, H, K).
        """
        turn = self.layers[0].turn((self._offset(notes.sets_B) + notes.index_B)[:, None])  # type: ignore[operator]
        slot_B, near_B = self.slots + notes.index_B, notes.index_B + 1
        far_B = self.summaries * notes.sets_B.clamp(max=self.sets)
        x_B1D = x_BD[:, None]
        for layer, block, cache_B2HNK in zip(self.layers, self.blocks, cache, strict=True):
            query_BH1K, new_B2H1K = layer(block.before(x_B1D), turn)  # type: ignore[operator]
            if queries is not None:
                queries.append(query_BH1K[:, :, 0])
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
        return [notes.kv_LB2HNK, join(memory, notes.apart_LB2HSK)]

    def _visible(self, notes: Notes) -> Tensor:
        """Return which slots hold an entry, (B, M + S)."""
        slot_N = torch.arange(notes.kv_LB2HNK[0].shape[3], device=notes.sets_B.device)
        summary_BN = slot_N // self.summaries < notes.sets_B[:, None]
        return torch.where(slot_N < self.slots, summary_BN, slot_N - self.slots < notes.index_B[:, None])

    def _offset(self, sets: Count) -> Count:
        """Return the position of the first step after so many segments of S steps, those with a dropped summary too."""
        if not self.reread:
            return (self.segment + self.summaries) * sets
        return self.summaries * (sets > 0 if self.overwrite else sets)

    def _next_offset(self, offset: Count, length: Count) -> Count:
        """Return the position of the first step after a segment of `length` steps whose first was at `offset`."""
        if not self.reread:
            return offset + length + self.summaries
        return (0 if self.overwrite else 1) * offset + self.summaries


def _after(visible_BN: Tensor, count: int) -> Seen:
    """Return what `count` tokens see that come after what is visible, and see each other up to themselves."""
    token_BP = torch.arange(count, device=visible_BN.device).expand(len(visible_BN), -1)
    time_BN = torch.cat([torch.where(visible_BN, -1, NEVER), token_BP], 1)
    return Seen(time_BN, torch.full_like(token_BP, -1), token_BP)


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
    reread: bool = True
    """Feed a summary to the trunk once more and keep the keys and values of that pass (Memo); without, keep those that
    its tokens have in their first pass (the paper's ablation), and what leaves the trunk for them is not used."""
    segment_jitter: float = 0.0
    """In learning, all segments that begin in a window get one drawn length, up to this share of `segment` shorter or
    longer (Memo: 0.2). Shorter ones are more: `sets` must leave room for them."""

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to summarise, or nothing to do it with."""
        super().__post_init__()
        for field, least in (("segment", 1), ("summaries", 1), ("sets", 1), ("summary_gradient", -1)):
            if getattr(self, field) < least:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least {least}")
        if not 0 <= self.segment_jitter < 1:
            raise ValueError(
                f"memory {self.name}: segment_jitter is {self.segment_jitter}; it must be at least 0 and less than 1"
            )

    def build(self) -> Core:
        """Make the core."""
        return Memo(self)
