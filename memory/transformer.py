"""A causal transformer whose keys and values are its memory: a ring of slots per row, each row at its own step.

Time in this file is counted from the first input of the call (0); what lies in the ring has a negative time.
Shapes: T time, B rows, D features, H heads, K = D / H, S slots of the ring, N = S + T keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.decode_attention import decode_attention
from ..kernels.segment_attention import Seen, attention
from .attention import Heads, HeadsConfig, shares
from .core import Core, count_parameters, select
from .episodic import EpisodicStack
from .stack import Stack

Sink = Literal["none", "kv", "kv0", "k0v", "k0v0"]


class Ring(NamedTuple):
    """The last steps of a row's trial. Step p of the trial lies in slot p mod S; slots without a step are 0."""

    kv_B2HSK: Tensor
    """(B, 2, H, S, K): keys, rotated by their position, and values."""
    seen_B: Tensor
    """(B,) int64: steps of the trial so far."""


class AttentionLayer(Core):
    """Masked attention of each step to itself and the steps of its own trial before it, as far as the ring reaches.

    Source: Vaswani et al. 2017 with rotary positions (arXiv 2104.09864), counted from the start of the trial where no
    other position is given; the sink is the Sink-KV of ReLIC (Elawady et al. 2024, arXiv 2410.02751), which has no
    position: its key is not rotated.
    """

    def __init__(self, width: int, heads: int, context: int, sink: Sink = "none") -> None:
        super().__init__(width)
        self.context, self.sink = context, sink
        self.weights = Heads(width, heads)
        shape = (heads, width // heads)
        self.sink_key = nn.Parameter(torch.zeros(shape)) if sink in ("kv", "kv0") else None
        self.sink_value = nn.Parameter(torch.zeros(shape)) if sink in ("kv", "k0v") else None

    def initial_state(self, batch: int) -> Ring:
        """Return an empty ring."""
        weight, heads = self.weights.out.weight, self.weights.heads
        kv_B2HSK = weight.new_zeros(batch, 2, heads, self.context, self.width // heads)
        return Ring(kv_B2HSK, torch.zeros(batch, dtype=torch.int64, device=weight.device))

    def step(self, x_BD: Tensor, state: Ring, start_B: Tensor, position_B: Tensor | None = None) -> tuple[Tensor, Ring]:
        """Write the step into its slot and attend to the ring; its position is its step of the trial, or as given."""
        # `select` has made a copy, so that the state that came in stays as it is.
        return self._step(x_BD, select(start_B, self.initial_state(1), state), None, position_B)

    @torch.no_grad()
    def advance(
        self, x_BD: Tensor, state: Ring, start_B: Tensor, position_B: Tensor | None = None
    ) -> tuple[Tensor, Ring]:
        """Take a step in the ring that is given."""
        return self._step(x_BD, state, start_B, position_B)

    def _step(
        self, x_BD: Tensor, state: Ring, start_B: Tensor | None, position_B: Tensor | None
    ) -> tuple[Tensor, Ring]:
        seen_B = state.seen_B if start_B is None else torch.where(start_B, 0, state.seen_B)
        turn = self.weights.turn((seen_B if position_B is None else position_B)[:, None])
        query_BH1K, new_B2H1K = self.weights(x_BD[:, None], turn)
        slot_B, held_B = seen_B % self.context, (seen_B + 1).clamp(max=self.context)
        read_BHK = decode_attention(
            query_BH1K[:, :, 0],
            new_B2H1K[:, :, :, 0],
            state.kv_B2HSK,
            slot_B,
            torch.zeros_like(slot_B),
            held_B,
            split=0,
            start_B=start_B,
            sink=self._sink(),
        )
        return self.weights.join(read_BHK[:, :, None])[:, 0], Ring(state.kv_B2HSK, seen_B + 1)

    def unroll(
        self, x_TBD: Tensor, state: Ring, start_TB: Tensor, position_TB: Tensor | None = None
    ) -> tuple[Tensor, Ring]:
        """Attend from all T steps at once to the ring and to each other."""
        steps, context = len(x_TBD), self.context
        ring_B2HSK, seen_B = select(start_TB[0], self.initial_state(1), state)
        time_T, slot_S = torch.arange(steps, device=x_TBD.device), self._slots(x_TBD)

        # When the trial of each step began: at a start of this window, or `seen` steps before it.
        begun_BT = torch.where(start_TB.t(), time_T, -1).cummax(1).values
        begun_BT = torch.where(begun_BT < 0, -seen_B[:, None], begun_BT)
        turn = self.weights.turn(time_T - begun_BT if position_TB is None else position_TB.t())
        query_BHTK, kv_B2HNK = self.weights(x_TBD.transpose(0, 1), turn, ring_B2HSK)

        ring_time_BS = -1 - (seen_B[:, None] - 1 - slot_S) % context
        time_BT = time_T.expand(len(seen_B), -1)
        seen = Seen(torch.cat([ring_time_BS, time_BT], 1), torch.maximum(begun_BT, time_T - context + 1), time_BT)
        y_BTD = self.weights.join(attention(query_BHTK, kv_B2HNK, seen, self._sink()))

        # What each slot holds after the window: a step of the window, a step that was there before, or nothing.
        window_B2HTK = kv_B2HNK[..., context:, :].to(ring_B2HSK.dtype)
        begun_B, seen_B = begun_BT[:, -1], steps - begun_BT[:, -1]
        held_BS = steps - 1 - (seen_B[:, None] - 1 - slot_S) % context
        held_B2HSK = held_BS.clamp(0).view(-1, 1, 1, context, 1).expand_as(ring_B2HSK)
        moved_B2HSK = torch.where(_over(held_BS >= 0), window_B2HTK.gather(3, held_B2HSK), ring_B2HSK)
        kept_B2HSK = torch.where(_over(held_BS >= begun_B[:, None]), moved_B2HSK, 0)
        return y_BTD.transpose(0, 1), Ring(kept_B2HSK, seen_B)

    def attends(self, x_BD: Tensor, state: Ring, start_B: Tensor, position_B: Tensor | None = None) -> Tensor:
        """Return the shares of the last S steps, (B, S), the step itself first."""
        seen_B = torch.where(start_B, 0, state.seen_B)
        turn = self.weights.turn((seen_B if position_B is None else position_B)[:, None])
        query_BH1K, _ = self.weights(x_BD[:, None], turn)
        _, ring = self.step(x_BD, state, start_B, position_B)
        sink, held_BS = self._sink(), self._slots(x_BD) <= seen_B[:, None]
        share_BS = shares(query_BH1K[:, :, 0], ring.kv_B2HSK[:, 0], held_BS, sink and sink[0])
        return share_BS.gather(1, (seen_B[:, None] - self._slots(x_BD)) % self.context)

    def context_entries(self, steps: int) -> int:
        """Return how many steps the ring holds."""
        return min(steps, self.context)

    def flops_per_step(self, steps: int) -> float:
        """Return what the weights cost, and attention to what is in reach: the step itself and a sink included."""
        keys = min(steps + 1, self.context) + (self.sink != "none")
        return 2.0 * count_parameters(self.weights) + 4.0 * self.width * keys

    def _slots(self, like: Tensor) -> Tensor:
        return torch.arange(self.context, device=like.device)

    def _sink(self) -> tuple[Tensor, Tensor] | None:
        if self.sink == "none":
            return None
        zeros_HK = self.weights.out.weight.new_zeros(self.weights.heads, self.width // self.weights.heads)
        key_HK, value_HK = (zeros_HK if part is None else part for part in (self.sink_key, self.sink_value))
        return key_HK, value_HK


def _over(mask_BS: Tensor) -> Tensor:
    """Spread a mask of slots over keys and values, heads and features."""
    return mask_BS[:, None, None, :, None]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(HeadsConfig):
    """Full attention over the last steps of the trial, with rotary positions."""

    name: ClassVar[str] = "transformer"
    summary: ClassVar[str] = "causal attention over the last `context` steps of the trial, with a key-value cache"
    rotary: ClassVar[bool] = True

    context: int = 64
    """Steps that a query sees, itself included; as many as a trial has, or more, is full context."""
    sink: Sink = "none"
    """What every query may look at instead of the past: nothing, a learned key and value (kv), one of them and 0 for
    the other (kv0: the value is 0, as in ReLIC's main runs; k0v: the key is), or 0 for both (k0v0: softmax with 1 more
    in the denominator)."""
    positions: Literal["rotary", "episode"] = "rotary"
    """Rotary positions count the steps of the trial; or its episodes, and a learned vector for the step of the episode
    joins the input (ReLIC)."""
    episode_positions: int = 512
    """Learned vectors for the steps of an episode: at least as many as an episode has."""

    def __post_init__(self) -> None:
        """Refuse a context that does not hold the step itself, and a table of positions without a row."""
        super().__post_init__()
        if self.context < 1:
            raise ValueError(f"memory {self.name}: context is {self.context}; it must be at least 1, the step itself")
        if self.episode_positions < 1:
            raise ValueError(
                f"memory {self.name}: episode_positions is {self.episode_positions}; it must be at least 1"
            )

    def build(self) -> Core:
        """Make the core."""
        layers = [AttentionLayer(self.width, self.heads, self.context, self.sink) for _ in range(self.depth)]
        if self.positions == "episode":
            return EpisodicStack(self, layers, self.episode_positions)
        return Stack(self, layers)
