"""A transformer that reads what a policy keeps: the walk through its layers, and attention to keys from several places.

Its layers are those of the trained core, with their weights; what each of them has kept is in the hands of a subclass.
Shapes: T time, B rows, D features, H heads, K = D / H, N keys, S slots.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ...kernels.segment_attention import rotate
from ..core import Core, MemoryConfig, State, map_state, select
from ..episodic import EpisodicStack, Places
from ..memo import MemoConfig
from ..stack import Stack
from ..transformer import AttentionLayer, TransformerConfig
from .config import CacheConfig, resized
from .stepped import SteppedCore

Turn = tuple[Tensor, Tensor]
Read = Callable[[int, AttentionLayer, Tensor, Tensor], Tensor]
"""From the number of a layer, the layer, its query (B, H, K) and its new key and value (B, 2, H, K) to (B, H, K)."""


class Streamed(NamedTuple):
    """What a row remembers."""

    kept: State
    """What the policy keeps."""
    places: Places | tuple[()]
    """Where the row is in its trial, for a stack that is told of episodes; else ()."""


class Streaming(SteppedCore):
    """A stack of attention layers under a policy. Rows may be at different steps of their trials.

    `step` and `advance` are one function, on a copy of the memory and on the memory itself; `unroll` takes steps one by
    one. So it is for acting, not for learning. A stack that is told of episodes turns keys by the number of the
    episode; then a policy leaves positions as they are.
    """

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.width)
        self.stack, self.episodic = stack, stack.episodic
        first = cast(AttentionLayer, stack.layers[0])
        self.depth, self.heads = len(stack.layers), first.weights.heads
        self.head_width = stack.width // self.heads

    def step(
        self, x_BD: Tensor, state: State, start_B: Tensor, episode_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Take one step."""
        # `select` has made a copy, so that the state that came in stays as it is.
        return self._take(x_BD, select(start_B, self.initial_state(1), state), start_B, episode_B)

    @torch.no_grad()
    def advance(
        self, x_BD: Tensor, state: State, start_B: Tensor, episode_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Take one step in the memory that is given."""
        return self._take(x_BD, state._replace(kept=self._forget(state.kept, start_B)), start_B, episode_B)

    def initial_state(self, batch: int) -> Streamed:
        """Return a memory in which nothing is kept."""
        places = self.stack.initial_state(batch).places if isinstance(self.stack, EpisodicStack) else ()
        return Streamed(self._nothing(batch), places)

    def check_episodes(self, steps: int | None) -> None:
        """Refuse what the stack refuses."""
        self.stack.check_episodes(steps)

    @abstractmethod
    def _nothing(self, batch: int) -> State:
        """Return what a policy keeps of nothing."""

    @abstractmethod
    def _forget(self, kept: State, start_B: Tensor) -> State:
        """Let the rows that start forget, in the memory that is given."""

    @abstractmethod
    def _step(
        self, x_BD: Tensor, kept: State, position_B: Tensor | None, episode_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Take one step; what is kept may be written to. Rows that start have forgotten.

        `position` is that of the step, where it is not for the policy to say.
        """

    def _take(
        self, x_BD: Tensor, state: Streamed, start_B: Tensor, episode_B: Tensor | None
    ) -> tuple[Tensor, Streamed]:
        places, position_B = state.places, None
        if isinstance(self.stack, EpisodicStack):
            x_BD, position_B, places = self.stack.enter(x_BD, cast(Places, places), start_B, episode_B)
        y_BD, kept = self._step(x_BD, state.kept, position_B, episode_B)
        return y_BD, Streamed(kept, places)

    def _walk(self, x_BD: Tensor, turn: Turn, read: Read) -> Tensor:
        """Take a step through all layers; queries and keys are turned by `turn`, and `read` keeps and attends."""
        for number, (layer, block) in enumerate(zip(self.stack.layers, self.stack.blocks, strict=True)):
            given_BD = block.before(x_BD)  # type: ignore[operator]
            query_BH1K, new_B2H1K = layer.weights(given_BD[:, None], turn)  # type: ignore[operator]
            read_BHK = read(number, cast(AttentionLayer, layer), query_BH1K[:, :, 0], new_B2H1K[:, :, :, 0])
            y_BD = layer.weights.join(read_BHK[:, :, None])[:, 0]  # type: ignore[operator, union-attr]
            x_BD = block.after(x_BD, y_BD)  # type: ignore[operator]
        left_BD: Tensor = self.stack.norm(x_BD)
        return left_BD

    def _turn(self, position_BN: Tensor) -> Turn:
        """Return cosine and sine of positions, for `rotate` of (B, N, K) or for `_walk`."""
        return cast(AttentionLayer, self.stack.layers[0]).weights.turn(position_BN)


def still(turn: Turn) -> Turn:
    """Return the turn that leaves everything where it is."""
    return torch.ones_like(turn[0]), torch.zeros_like(turn[1])


def turned(x_BHNK: Tensor, turn: Turn) -> Tensor:
    """Turn keys or queries of each head by the positions of their entries."""
    return rotate(x_BHNK, turn[0][:, None], turn[1][:, None])


def scores(query_BHK: Tensor, key_BHNK: Tensor, seen_BN: Tensor) -> Tensor:
    """Return the scores of keys, (B, H, N): -infinity for those that are not seen."""
    score_BHN = torch.einsum("bhk,bhnk->bhn", query_BHK * query_BHK.shape[-1] ** -0.5, key_BHNK.to(query_BHK.dtype))
    return torch.where(seen_BN[:, None], score_BHN, -torch.inf)


def weigh(
    query_BHK: Tensor, parts: Sequence[tuple[Tensor, Tensor]], sink: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, list[Tensor]]:
    """Attend to the keys of all parts at once, and to the core's own sink.

    Args:
        query_BHK: the query.
        parts: of each its scores (B, H, N) and its values (B, H, N, K).
        sink: key and value, (H, K) each.

    Returns:
        What is read (B, H, K), and the weight of every key, for each part (B, H, N).
    """
    found, dtype = [score_BHN for score_BHN, _ in parts], query_BHK.dtype
    if sink is not None:
        key_HK = sink[0].to(dtype) * query_BHK.shape[-1] ** -0.5
        found.append((query_BHK * key_HK).sum(-1, keepdim=True))
    weights = torch.split(torch.cat(found, -1).softmax(-1), [score.shape[-1] for score in found], -1)
    read_BHK = sum(
        torch.einsum("bhn,bhnk->bhk", weight_BHN, value_BHNK.to(dtype))
        for weight_BHN, (_, value_BHNK) in zip(weights, parts, strict=False)
    )
    if sink is not None:
        read_BHK = read_BHK + weights[-1] * sink[1].to(dtype)
    return cast(Tensor, read_BHK), list(weights[: len(parts)])


def wipe(state: State, start_B: Tensor) -> None:
    """Put 0 into all tensors of the rows that start, in place."""
    map_state(lambda part: part.masked_fill_(start_B.view(-1, *[1] * (part.ndim - 1)), 0), state)


def take(store: Tensor, dim: int, place_BN: Tensor) -> Tensor:
    """Return some places of each row along `dim`; like `gather`, and what is taken from may be written to after."""
    row_B1 = torch.arange(len(store), device=store.device)[:, None]
    return store.movedim(dim, 1)[row_B1, place_BN].movedim(1, dim)


def put(store: Tensor, dim: int, place_B: Tensor, new: Tensor, do_B: Tensor) -> None:
    """Write `new` to one place of each row along `dim`, in place; rows where `do` is false stay as they are.

    `new` has the shape of the store without `dim`.
    """
    moved, row_B = store.movedim(dim, 1), torch.arange(len(store), device=store.device)
    do = do_B.view(-1, *[1] * (new.ndim - 1))
    moved[row_B, place_B] = torch.where(do, new.to(store.dtype), moved[row_B, place_B])


def shrunk(cache: CacheConfig, memory: MemoryConfig, core: Core, steps: int, slots: int) -> Stack:
    """Return the stack of a transformer with that many slots, on the same weights, or refuse another core."""
    if isinstance(memory, MemoConfig):
        cache.refuse("memo keeps summaries, which it does not apply to; use --cache oldest-sets")
    if not isinstance(memory, TransformerConfig):
        cache.refuse_core(memory, core, steps)
    return cast(Stack, resized(replace(memory, context=slots), core))
