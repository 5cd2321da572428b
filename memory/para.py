"""ParaGRU and ParaLSTM: gated memories whose units hear only themselves, and which learn in one launch on a GPU.

Shapes: T time, B rows, D features, N heads, K = D / N units of a head, G = 3 gates, P = 2 peepholes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..kernels import newton_rnn
from ..kernels.newton_rnn import reference
from .core import Core
from .rnn import GRUState, LSTMState, RNNConfig
from .stack import Stack


def _input_weight(heads: int, units: int) -> nn.Parameter:
    """Return (3, N, K, K), each gate and head initialised as a layer of its own (Glorot and Bengio 2010, uniform)."""
    blocks = [nn.init.xavier_uniform_(torch.empty(units, units)) for _ in range(3 * heads)]
    return nn.Parameter(torch.stack(blocks).view(3, heads, units, units))


def _diagonal(gates: int, width: int) -> nn.Parameter:
    """Return (G, D), small: so that Newton's method converges in few iterations at first (ParaRNN)."""
    return nn.Parameter(torch.randn(gates, width) * 2 / (5 * width) ** 0.5)


def _bias(width: int, keeping: float) -> nn.Parameter:
    """Return (3, D), zeros but for the first gate, spread evenly from 0 to `keeping`."""
    bias = torch.zeros(3, width)
    bias[0] = torch.linspace(0, keeping, width)
    return nn.Parameter(bias)


class ParaGRU(Core):
    """A GRU whose weights from state to state are diagonal. Source: Danieli et al. 2025 (arXiv 2510.21450)."""

    keeps = "-update"

    def __init__(self, width: int, heads: int = 1, hold: float = 1.0) -> None:
        super().__init__(width)
        self.input_weight = _input_weight(heads, width // heads)
        self.bias = _bias(width, -hold)
        self.recurrent = _diagonal(3, width)

    def initial_state(self, batch: int) -> GRUState:
        """Return zeros."""
        return GRUState(self.bias.new_zeros(batch, self.width))

    def step(self, x_BD: Tensor, state: GRUState, start_B: Tensor) -> tuple[Tensor, GRUState]:
        """Take one step."""
        weights = (self.input_weight, self.bias, self.recurrent)
        y_BD = newton_rnn.para_gru_step(x_BD, *weights, state.hidden, start_B)
        return y_BD, GRUState(y_BD)

    def unroll(self, x_TBD: Tensor, state: GRUState, start_TB: Tensor) -> tuple[Tensor, GRUState]:
        """Take T steps."""
        weights = (self.input_weight, self.bias, self.recurrent)
        y_TBD, hidden = newton_rnn.para_gru(x_TBD, *weights, state.hidden, start_TB)
        return y_TBD, GRUState(hidden)

    def gates(self, x_BD: Tensor, state: GRUState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the update and the reset gate, (B, D)."""
        given_GBD = reference.gates(reference.project(x_BD, self.input_weight), self.bias)
        update, reset, _ = reference.gru_gates(given_GBD, self.recurrent, reference.forget(state.hidden, start_B))
        return {"update": update, "reset": reset}


class ParaLSTM(Core):
    """An LSTM with peepholes whose weights from state to state are diagonal, and whose forget gate also lets in.

    Source: Danieli et al. 2025 (arXiv 2510.21450).
    """

    keeps = "forget"

    def __init__(self, width: int, heads: int = 1, hold: float = 1.0) -> None:
        super().__init__(width)
        self.input_weight = _input_weight(heads, width // heads)
        self.bias = _bias(width, hold)
        self.recurrent = _diagonal(3, width)
        self.peephole = _diagonal(2, width)

    def initial_state(self, batch: int) -> LSTMState:
        """Return zeros."""
        return LSTMState(self.bias.new_zeros(batch, self.width), self.bias.new_zeros(batch, self.width))

    def step(self, x_BD: Tensor, state: LSTMState, start_B: Tensor) -> tuple[Tensor, LSTMState]:
        """Take one step."""
        weights = (self.input_weight, self.bias, self.recurrent, self.peephole)
        y_BD, cell = newton_rnn.para_lstm_step(x_BD, *weights, *state, start_B)
        return y_BD, LSTMState(y_BD, cell)

    def unroll(self, x_TBD: Tensor, state: LSTMState, start_TB: Tensor) -> tuple[Tensor, LSTMState]:
        """Take T steps."""
        weights = (self.input_weight, self.bias, self.recurrent, self.peephole)
        y_TBD, *after = newton_rnn.para_lstm(x_TBD, *weights, *state, start_TB)
        return y_TBD, LSTMState(*after)

    def gates(self, x_BD: Tensor, state: LSTMState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the forget and the output gate, (B, D)."""
        given_GBD = reference.gates(reference.project(x_BD, self.input_weight), self.bias)
        before = (reference.forget(part, start_B) for part in state)
        forget, output, _ = reference.lstm_gates(given_GBD, self.recurrent, self.peephole, *before)
        return {"forget": forget, "output": output}


@dataclass(frozen=True, kw_only=True)
class ParaConfig(RNNConfig):
    """The options of a gated memory whose units hear only themselves."""

    hold: float = 1.0
    """The gate that keeps begins with biases spread evenly from 0 to this: the higher, the longer units hold on."""


@dataclass(frozen=True, kw_only=True)
class ParaGRUConfig(ParaConfig):
    """A GRU with diagonal weights from state to state."""

    name: ClassVar[str] = "paragru"
    summary: ClassVar[str] = "GRU whose units hear only themselves: constant memory, one launch for a whole window"

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [ParaGRU(self.width, self.heads, self.hold) for _ in range(self.depth)])


@dataclass(frozen=True, kw_only=True)
class ParaLSTMConfig(ParaConfig):
    """An LSTM with diagonal weights from state to state."""

    name: ClassVar[str] = "paralstm"
    summary: ClassVar[str] = "LSTM whose units hear only themselves, with peepholes and one gate to keep or let in"

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [ParaLSTM(self.width, self.heads, self.hold) for _ in range(self.depth)])
