"""Gated recurrent memories, GRU and LSTM, that forget inside the window exactly where a row starts.

Shapes: T time, B rows, D features, N heads, K = D / N units of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import rnn
from .core import Core, MemoryConfig
from .stack import Stack


class GRUState(NamedTuple):
    """What a GRU layer remembers."""

    hidden: Tensor
    """(B, D)."""


class LSTMState(NamedTuple):
    """What an LSTM layer remembers."""

    hidden: Tensor
    """(B, D), the output of the step before."""
    cell: Tensor
    """(B, D)."""


def _input_weight(gates: int, width: int) -> nn.Parameter:
    """Return (G * D, D), each gate initialised as a layer of its own (Glorot and Bengio 2010, uniform)."""
    return nn.Parameter(torch.cat([nn.init.xavier_uniform_(torch.empty(width, width)) for _ in range(gates)]))


def _recurrent(gates: int, heads: int, units: int) -> nn.Parameter:
    """Return (G, N, K, K), orthogonal for each gate and head (Saxe et al. 2014)."""
    blocks = [nn.init.orthogonal_(torch.empty(units, units)) for _ in range(gates * heads)]
    return nn.Parameter(torch.stack(blocks).view(gates, heads, units, units))


class GRU(Core):
    """A gated recurrent unit. Source: Cho et al. 2014, in the form of `torch.nn.GRU`; heads as in FlashRNN."""

    keeps = "update"

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__(width)
        self.input_weight = _input_weight(3, width)
        self.bias = nn.Parameter(torch.zeros(3 * width))
        self.recurrent = _recurrent(3, heads, width // heads)
        self.recurrent_bias = nn.Parameter(torch.zeros(width))

    def initial_state(self, batch: int) -> GRUState:
        """Return zeros."""
        return GRUState(self.bias.new_zeros(batch, self.width))

    def step(self, x_BD: Tensor, state: GRUState, start_B: Tensor) -> tuple[Tensor, GRUState]:
        """Take one step."""
        y_BD = rnn.gru_step(x_BD, *self._weights, state.hidden, start_B)
        return y_BD, GRUState(y_BD)

    def unroll(self, x_TBD: Tensor, state: GRUState, start_TB: Tensor) -> tuple[Tensor, GRUState]:
        """Take T steps."""
        y_TBD, hidden = rnn.gru(x_TBD, *self._weights, state.hidden, start_TB)
        return y_TBD, GRUState(hidden)

    def gates(self, x_BD: Tensor, state: GRUState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the reset and the update gate, (B, D)."""
        reset, update, _ = _gates(self, x_BD, state.hidden, start_B)
        return {"reset": reset, "update": update}

    @property
    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.input_weight, self.bias, self.recurrent, self.recurrent_bias


class LSTM(Core):
    """Long short-term memory. Source: Hochreiter and Schmidhuber 1997, Gers et al. 2000; heads as in FlashRNN."""

    keeps = "forget"

    def __init__(self, width: int, heads: int = 1, forget_bias: float = 1.0) -> None:
        super().__init__(width)
        self.input_weight = _input_weight(4, width)
        self.bias = nn.Parameter(torch.zeros(4, width).index_fill_(0, torch.tensor(1), forget_bias).flatten())
        self.recurrent = _recurrent(4, heads, width // heads)

    def initial_state(self, batch: int) -> LSTMState:
        """Return zeros."""
        return LSTMState(self.bias.new_zeros(batch, self.width), self.bias.new_zeros(batch, self.width))

    def step(self, x_BD: Tensor, state: LSTMState, start_B: Tensor) -> tuple[Tensor, LSTMState]:
        """Take one step."""
        y_BD, cell = rnn.lstm_step(x_BD, self.input_weight, self.bias, self.recurrent, *state, start_B)
        return y_BD, LSTMState(y_BD, cell)

    def unroll(self, x_TBD: Tensor, state: LSTMState, start_TB: Tensor) -> tuple[Tensor, LSTMState]:
        """Take T steps."""
        y_TBD, *after = rnn.lstm(x_TBD, self.input_weight, self.bias, self.recurrent, *state, start_TB)
        return y_TBD, LSTMState(*after)

    def gates(self, x_BD: Tensor, state: LSTMState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the input, the forget and the output gate, (B, D)."""
        entry, forget, _, output = _gates(self, x_BD, state.hidden, start_B)
        return {"input": entry, "forget": forget, "output": output}


def _gates(layer: GRU | LSTM, x_BD: Tensor, hidden_BD: Tensor, start_B: Tensor) -> tuple[Tensor, ...]:
    """Return the sigmoid of what each gate receives; where the gate is the candidate, it means nothing."""
    gates, heads = layer.recurrent.shape[:2]
    hidden_BD = hidden_BD.masked_fill(start_B[:, None], 0.0)
    heard = torch.einsum("gnij,bnj->bgni", layer.recurrent, hidden_BD.reshape(len(hidden_BD), heads, -1)).flatten(1)
    return (F.linear(x_BD, layer.input_weight, layer.bias) + heard).sigmoid().chunk(gates, 1)


@dataclass(frozen=True, kw_only=True)
class RNNConfig(MemoryConfig):
    """The options of a gated recurrent memory."""

    heads: int = 1
    """Groups of units that hear only each other, and share `width` evenly; 1 is the usual network."""

    def __post_init__(self) -> None:
        """Refuse heads that cannot share the width."""
        super().__post_init__()
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"memory {self.name}: {self.heads} heads cannot share a width of {self.width} evenly")


@dataclass(frozen=True, kw_only=True)
class GRUConfig(RNNConfig):
    """A gated recurrent unit."""

    name: ClassVar[str] = "gru"
    summary: ClassVar[str] = "gated recurrent unit: small, constant memory, trains fast"

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [GRU(self.width, self.heads) for _ in range(self.depth)])


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(RNNConfig):
    """Long short-term memory."""

    name: ClassVar[str] = "lstm"
    summary: ClassVar[str] = "long short-term memory: constant memory with a cell that can hold on"

    forget_bias: float = 1.0
    """What the bias of the forget gate begins at: the higher, the longer the cell holds on at first."""

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [LSTM(self.width, self.heads, self.forget_bias) for _ in range(self.depth)])
