"""What the cores whose memory is a matrix share: options, projections, resets, several memories, the way out.

A head's memory is a matrix from keys to values. A layer says what it asks, where it writes and what, and how much is
kept and erased; `kernels.delta_rule` runs it, over T steps in chunks or one step at a time.
Shapes: T time, B rows, D features, H heads, M memories of each head, G = M H matrices, K width of queries and keys, V
width of values, N writes of a step, C taps of the convolution.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import HeadsConfig
from .core import Core, State, count_parameters
from .short_conv import ShortConv
from .stack import EPS, Stack


class MatrixState(NamedTuple):
    """What a layer remembers; a part that it does not have is ()."""

    memory_BGKV: Tensor
    """(B, G, K, V), in float32 at least: sums over a long past stop growing in fewer bits."""
    top_BG: State
    """(B, G): the log of the scale of the memory, where input gates are exponentials."""
    past_BCD: State
    """(B, C - 1, D): the inputs before, for the convolution."""


class Routing(NamedTuple):
    """Which memories a step writes to, and how much of each is read."""

    active_TBM: Tensor
    """(T, B, M) bool."""
    weight_TBM: Tensor
    """(T, B, M)."""


@dataclass(frozen=True, kw_only=True)
class MatrixConfig(HeadsConfig):
    """The options of a core whose memory is a matrix for each head."""

    key_width: int = 0
    """Numbers of a query and of a key of a head; 0 for `width` / `heads`."""
    value_width: int = 0
    """Numbers of a value of a head; 0 for `width` / `heads`."""
    conv: int = 0
    """Steps that a short convolution sees, before queries and keys are made; 0 for none, 4 in most language models."""

    def __post_init__(self) -> None:
        """Refuse widths that no memory can have, and a convolution over nothing but the step itself."""
        super().__post_init__()
        for field in ("key_width", "value_width"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"memory {self.name}: {field} is {getattr(self, field)}; give a width, or 0 for width / heads"
                )
        if self.conv < 0 or self.conv == 1:
            raise ValueError(f"memory {self.name}: conv is {self.conv}; give at least 2 steps, or 0 for none")

    @property
    def key(self) -> int:
        """K."""
        return self.key_width or self.width // self.heads

    @property
    def value(self) -> int:
        """V."""
        return self.value_width or self.width // self.heads

    @abstractmethod
    def layer(self, memories: int = 1) -> MatrixLayer:
        """Make one layer, whose heads have so many memories each."""

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [self.layer() for _ in range(self.depth)])


class MatrixLayer(Core):
    """A layer whose memory is a matrix for each head, or several, of which each step uses some.

    Memories of one head share its queries; each has keys, values and gates of its own.
    """

    def __init__(
        self,
        config: MatrixConfig,
        memories: int,
        *,
        shape: tuple[int, int] | None = None,
        writes: int = 1,
        norm: bool = True,
        gate: Literal["none", "silu", "sigmoid"] = "none",
    ) -> None:
        """Make the weights that all layers have.

        Args:
            config: the sizes.
            memories: M.
            shape: of one memory, where it is not (K, V).
            writes: N.
            norm: what is read is divided by its root mean square, head by head.
            gate: the step says how much of what is read leaves, by this function.
        """
        super().__init__(config.width)
        self.heads, self.memories, self.writes, self.gate = config.heads, memories, writes, gate
        self.shape = shape or (config.key, config.value)
        matrices = memories * config.heads
        self.conv = ShortConv(config.width, config.conv) if config.conv else None
        self.query = nn.Linear(config.width, config.heads * config.key, bias=False)
        self.key = nn.Linear(config.width, writes * matrices * config.key, bias=False)
        self.value = nn.Linear(config.width, writes * matrices * config.value, bias=False)
        leaving = config.heads * config.value
        self.norm = nn.Parameter(torch.ones(leaving)) if norm else None
        self.out_gate = None if gate == "none" else nn.Linear(config.width, leaving, bias=False)
        self.out = nn.Linear(leaving, config.width, bias=False)

    @abstractmethod
    def recur(
        self, x_TBD: Tensor, heard_TBD: Tensor, state: MatrixState, start_TB: Tensor, active_TBG: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Write and read T steps.

        Args:
            x_TBD: the inputs.
            heard_TBD: what queries and keys are made of: the inputs, or what the convolution made of them.
            state: the memory before.
            start_TB: where rows forget.
            active_TBG: (T, B, G) bool, where a memory takes part: where it does not, it stays as it is; None for all.

        Returns:
            What is read (T, B, G, V), and the parts `memory` and `top` of the state after the last step.
        """

    def initial_state(self, batch: int) -> MatrixState:
        """Return zeros."""
        weight, matrices = self.out.weight, self.memories * self.heads
        dtype = torch.promote_types(weight.dtype, torch.float32)
        memory_BGKV = weight.new_zeros(batch, matrices, *self.shape, dtype=dtype)
        past = () if self.conv is None else self.conv.initial_state(batch)
        return MatrixState(memory_BGKV, self.initial_top(memory_BGKV), past)

    def initial_top(self, memory_BGKV: Tensor) -> State:
        """Return the log of the scale of an empty memory. Here: there is none."""
        return ()

    def step(
        self, x_BD: Tensor, state: MatrixState, start_B: Tensor, routing: Routing | None = None
    ) -> tuple[Tensor, MatrixState]:
        """Take one step: the recurrence as it stands."""
        y_1BD, state = self.unroll(x_BD[None], state, start_B[None], routing)
        return y_1BD[0], state

    def unroll(
        self, x_TBD: Tensor, state: MatrixState, start_TB: Tensor, routing: Routing | None = None
    ) -> tuple[Tensor, MatrixState]:
        """Take T steps, chunk by chunk."""
        heard_TBD, past = x_TBD, state.past_BCD
        if self.conv is not None:
            heard_TBD, past = self.conv(x_TBD, past, start_TB)
        active_TBG = None if routing is None else routing.active_TBM.repeat_interleave(self.heads, -1)
        read_TBGV, memory_BGKV, top_BG = self.recur(x_TBD, heard_TBD, state, start_TB, active_TBG)
        if routing is not None:
            weight_TBM11 = routing.weight_TBM[..., None, None].to(read_TBGV.dtype)
            read_TBMHV = read_TBGV.reshape(*x_TBD.shape[:2], self.memories, self.heads, -1)
            read_TBGV = (weight_TBM11 * read_TBMHV).sum(2)
        return self._leave(read_TBGV.to(x_TBD.dtype), x_TBD), MatrixState(memory_BGKV, top_BG, past)

    def flops_per_step(self, steps: int) -> float:
        """Return what the weights cost, and to read every matrix, and to write to it, with or without erasing."""
        key, value = self.shape
        return 2.0 * count_parameters(self) + 2.0 * self.memories * self.heads * key * value * self.touches()

    def touches(self) -> int:
        """Return how often a step goes through the numbers of a matrix: here once to write and once to read."""
        return 2

    def queries(self, heard_TBD: Tensor) -> Tensor:
        """Return what is asked of each matrix, (T, B, G, K): memories of one head are asked the same."""
        query_TBHK: Tensor = self.query(heard_TBD).unflatten(-1, (self.heads, -1))
        return query_TBHK if self.memories == 1 else query_TBHK.repeat(1, 1, self.memories, 1)

    def split(self, projected_TBF: Tensor) -> Tensor:
        """Return what one projection gives to each matrix, (T, B, G, ..); with several writes (T, N, B, G, ..)."""
        matrices = self.memories * self.heads
        if self.writes == 1:
            return projected_TBF.reshape(*projected_TBF.shape[:2], matrices, -1)
        return projected_TBF.reshape(*projected_TBF.shape[:2], self.writes, matrices, -1).movedim(2, 1)

    def _leave(self, read_TBHV: Tensor, x_TBD: Tensor) -> Tensor:
        """Norm, gate and project what the heads have read, (T, B, D)."""
        if self.norm is not None:
            read_TBHV = F.rms_norm(read_TBHV, read_TBHV.shape[-1:], eps=EPS)
            read_TBHV = read_TBHV * self.norm.view(self.heads, -1).to(read_TBHV.dtype)
        read_TBF = read_TBHV.flatten(-2)
        if self.out_gate is not None:
            opening_TBF = self.out_gate(x_TBD)
            read_TBF = read_TBF * (F.silu(opening_TBF) if self.gate == "silu" else opening_TBF.sigmoid())
        y_TBD: Tensor = self.out(read_TBF)
        return y_TBD


def wide(x: Tensor) -> Tensor:
    """Return numbers in float32 at least: gates are products over many steps."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unless(active_TBG: Tensor | None, x: Tensor, idle: float) -> Tensor:
    """Put a value where a memory takes no part; x is (T, B, G), or (T, N, B, G) with several writes."""
    if active_TBG is None:
        return x
    return torch.where(active_TBG[:, None] if x.ndim == 4 else active_TBG, x, idle)
