"""sLSTM: the scalar memory of xLSTM, whose units hear each other, with an exponential input gate.

Shapes: T time, B rows, D features, N heads, K = D / N units of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import rnn
from .attention import HeadsConfig
from .core import Core
from .rnn import _input_weight
from .stack import EPS, Stack


class SLSTMState(NamedTuple):
    """What a layer remembers; zeros remember nothing."""

    hidden: Tensor
    """(B, D)."""
    cell: Tensor
    """(B, D)."""
    normaliser: Tensor
    """(B, D)."""
    stabiliser: Tensor
    """(B, D): the log of the scale of cell and normaliser."""


class SLSTM(Core):
    """An LSTM whose input gate is an exponential, and whose cell is a mean; the units of a head hear each other.

    Source: Beck et al. 2024, "xLSTM" (arXiv 2405.04517), section 2.2: the weights between units begin at 0, and what
    leaves is normed head by head. Departures: the norm divides by the root mean square, biases of the forget gate are
    spread evenly over the units of a head and not by a power, and there is no convolution.
    """

    def __init__(self, config: SLSTMConfig) -> None:
        super().__init__(config.width)
        units = config.width // config.heads
        self.heads = config.heads
        self.input_weight = _input_weight(4, config.width)
        bias = torch.zeros(4, config.heads, units)
        bias[1] = torch.linspace(config.forget_bias, config.forget_bias_last, units)
        self.bias = nn.Parameter(bias.flatten())
        self.recurrent = nn.Parameter(torch.zeros(4, config.heads, units, units))
        self.norm = nn.Parameter(torch.ones(config.width))

    def initial_state(self, batch: int) -> SLSTMState:
        """Return zeros."""
        return SLSTMState(*(self.bias.new_zeros(batch, self.width) for _ in range(4)))

    def step(self, x_BD: Tensor, state: SLSTMState, start_B: Tensor) -> tuple[Tensor, SLSTMState]:
        """Take one step."""
        after = SLSTMState(*rnn.slstm_step(x_BD, self.input_weight, self.bias, self.recurrent, *state, start_B))
        return self._leave(after.hidden), after

    def unroll(self, x_TBD: Tensor, state: SLSTMState, start_TB: Tensor) -> tuple[Tensor, SLSTMState]:
        """Take T steps."""
        y_TBD, *after = rnn.slstm(x_TBD, self.input_weight, self.bias, self.recurrent, *state, start_TB)
        return self._leave(y_TBD), SLSTMState(*after)

    def gates(self, x_BD: Tensor, state: SLSTMState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the forget and the output gate, (B, D), before the input gate sets the scale."""
        hidden_BNK = torch.where(start_B[:, None], 0.0, state.hidden).view(len(x_BD), self.heads, -1)
        heard = torch.einsum("gnij,bnj->bgni", self.recurrent, hidden_BNK).flatten(1)
        _, forget, _, output = (F.linear(x_BD, self.input_weight, self.bias) + heard).chunk(4, 1)
        return {"forget": forget.sigmoid(), "output": output.sigmoid()}

    def _leave(self, hidden: Tensor) -> Tensor:
        """Norm what leaves, (..., D), head by head."""
        by_head = hidden.reshape(*hidden.shape[:-1], self.heads, -1)
        return F.rms_norm(by_head, by_head.shape[-1:], eps=EPS).flatten(-2) * self.norm.to(hidden.dtype)


@dataclass(frozen=True, kw_only=True)
class SLSTMConfig(HeadsConfig):
    """The scalar memory of xLSTM."""

    name: ClassVar[str] = "slstm"
    summary: ClassVar[str] = (
        "scalar memory of xLSTM: exponential input gate, cells that are means, units that hear each other"
    )

    forget_bias: float = 3.0
    """What the bias of the forget gate begins at in the first unit of a head: the higher, the longer it holds on."""
    forget_bias_last: float = 6.0
    """The same in the last unit of a head; those between are spread evenly."""

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [SLSTM(self) for _ in range(self.depth)])
