"""A single step of an LSTM and a GRU: the definition, and on a CPU a quicker form for acting with many rows.

The quicker form takes one product where the definition takes two, and fewer passes over the gates; tanh(v) is
2 sigmoid(2 v) - 1, as in `loop`.

Shapes: B rows, D input features, H hidden units, C = D + 1 + H columns, N heads, K units of a head, G gates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .loop import dense

# Rows from which on fewer products and passes outweigh more calls.
MANY = 128


def quick(x_BD: Tensor) -> bool:
    """Say whether the quicker form serves: on a CPU, with many rows and nothing to differentiate."""
    plain = x_BD.dtype in (torch.float32, torch.float64) and not torch.is_grad_enabled()
    return plain and x_BD.device.type == "cpu" and len(x_BD) >= MANY


def lstm_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take one step of an LSTM; returns the hidden units, which are the output, and the cell. See `lstm`."""
    step = _lstm_step if quick(x_BD) else reference.lstm_step
    return step(x_BD, input_weight, bias, recurrent_GNKK, hidden_BH, cell_BH, start_B)


def gru_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_B: Tensor,
) -> Tensor:
    """Take one step of a GRU; returns the hidden units, which are the output. See `gru`."""
    step = _gru_step if quick(x_BD) else reference.gru_step
    return step(x_BD, input_weight, bias, recurrent_GNKK, recurrent_bias, hidden_BH, start_B)


def _columns(x_BD: Tensor, hidden_BH: Tensor, starting: Tensor) -> Tensor:
    """Return (B, C): the inputs, a one, and the hidden units, with zeros in the rows that start."""
    column = torch.cat([x_BD, x_BD.new_ones(len(x_BD), 1), hidden_BH], 1)
    if len(starting):
        column[:, -hidden_BH.shape[1] :].index_fill_(0, starting, 0.0)
    return column


def _lstm_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take one step of an LSTM without gradients, on a CPU."""
    units, starting = hidden_BH.shape[1], start_B.nonzero().squeeze(1)
    weight_GC = torch.cat([input_weight, bias[:, None], dense(recurrent_GNKK).flatten(0, 1)], 1)
    weight_GC[2 * units : 3 * units] *= 2
    gates = torch.mm(_columns(x_BD, hidden_BH, starting), weight_GC.t()).sigmoid_()
    i, f, g, o = gates.chunk(4, 1)
    minus_one = gates.new_tensor(-1.0)
    cell_BH = torch.mul(f, cell_BH)
    if len(starting):
        cell_BH.index_fill_(0, starting, 0.0)
    cell_BH.addcmul_(i, torch.add(minus_one, g, alpha=2))
    tanh = torch.add(cell_BH, cell_BH).sigmoid_()
    torch.add(minus_one, tanh, alpha=2, out=tanh)
    return o * tanh, cell_BH


def _gru_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_B: Tensor,
) -> Tensor:
    """Take one step of a GRU without gradients, on a CPU."""
    (_, width), units, starting = x_BD.shape, hidden_BH.shape[1], start_B.nonzero().squeeze(1)
    recurrent = dense(recurrent_GNKK)
    of_input = torch.cat([input_weight, bias[:, None]], 1)
    both = torch.cat([of_input[: 2 * units], recurrent[:2].flatten(0, 1)], 1)
    column = _columns(x_BD, hidden_BH, starting)
    r, z = torch.mm(column, both.t()).sigmoid_().chunk(2, 1)
    n = torch.mm(column[:, : width + 1], of_input[2 * units :].t())
    n.addcmul_(r, torch.addmm(recurrent_bias, column[:, width + 1 :], recurrent[2].t()))
    torch.add(n, n, out=n).sigmoid_()
    torch.add(n.new_tensor(-1.0), n, alpha=2, out=n)
    return torch.lerp(n, column[:, width + 1 :], z)
