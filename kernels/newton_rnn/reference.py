"""What ParaGRU and ParaLSTM are: one step of the cell, and a loop over it that autograd sees.

The weights from state to state are diagonal: a unit hears itself and the inputs of its head, nothing else.
Source: Danieli et al. 2025, "ParaRNN" (arXiv 2510.21450), section 3.
Shapes: T time, B rows, D = N J input features, H = N K hidden units, N heads, G = 3 gates, P = 2 peepholes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def forget(state_BH: Tensor, start_B: Tensor) -> Tensor:
    """Give zeros to the rows that start. Selected, not multiplied: a NaN in a forgotten past stays there."""
    return torch.where(start_B[:, None], 0.0, state_BH)


def project(x: Tensor, input_weight_GNKJ: Tensor) -> Tensor:
    """Return what each gate receives from the inputs (..., D), as (..., N, G, K); a head hears its own features."""
    gates, heads, units, width = input_weight_GNKJ.shape
    lead = x.shape[:-1]
    if heads == 1:
        return F.linear(x, input_weight_GNKJ.reshape(gates * units, width)).view(*lead, 1, gates, units)
    by_head = x.reshape(-1, heads, width).transpose(0, 1)
    weight = input_weight_GNKJ.permute(1, 3, 0, 2).reshape(heads, width, gates * units)
    return torch.bmm(by_head, weight).transpose(0, 1).view(*lead, heads, gates, units)


def gates(given_NGK: Tensor, bias_GH: Tensor) -> Tensor:
    """Return what `project` found with the bias, gate first: (G, ..., H)."""
    given_GH = given_NGK.movedim(-2, 0).flatten(-2)
    return given_GH + bias_GH.view(len(bias_GH), *[1] * (given_GH.ndim - 2), -1)


def gru_gates(given_GBH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, r and n of a step."""
    z = torch.sigmoid(given_GBH[0] + recurrent_GH[0] * hidden_BH)
    r = torch.sigmoid(given_GBH[1] + recurrent_GH[1] * hidden_BH)
    return z, r, torch.tanh(given_GBH[2] + recurrent_GH[2] * hidden_BH * r)


def gru_cell(given_GBH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor) -> Tensor:
    """Return the hidden units after a step."""
    z, _, n = gru_gates(given_GBH, recurrent_GH, hidden_BH)
    return (1 - z) * hidden_BH + z * n


def lstm_gates(
    given_GBH: Tensor, recurrent_GH: Tensor, peephole_PH: Tensor, hidden_BH: Tensor, cell_BH: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return f and o of a step, and the cell after it."""
    f = torch.sigmoid(given_GBH[0] + recurrent_GH[0] * hidden_BH + peephole_PH[0] * cell_BH)
    n = torch.tanh(given_GBH[2] + recurrent_GH[2] * hidden_BH)
    cell_BH = f * cell_BH + (1 - f) * n
    return f, torch.sigmoid(given_GBH[1] + recurrent_GH[1] * hidden_BH + peephole_PH[1] * cell_BH), cell_BH


def lstm_cell(
    given_GBH: Tensor, recurrent_GH: Tensor, peephole_PH: Tensor, hidden_BH: Tensor, cell_BH: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the hidden units and the cell after a step."""
    _, o, cell_BH = lstm_gates(given_GBH, recurrent_GH, peephole_PH, hidden_BH, cell_BH)
    return o * torch.tanh(cell_BH), cell_BH


def para_gru_step(
    x_BD: Tensor, input_weight: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_B: Tensor
) -> Tensor:
    """Take one step; returns the hidden units, which are the output. See `mnemic.kernels.newton_rnn.para_gru`."""
    given_GBH = gates(project(x_BD, input_weight), bias_GH)
    return gru_cell(given_GBH, recurrent_GH, forget(hidden_BH, start_B)).to(hidden_BH.dtype)


def para_lstm_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take one step; returns the hidden units, which are the output, and the cell. See `para_lstm` of the package."""
    given_GBH = gates(project(x_BD, input_weight), bias_GH)
    after = lstm_cell(given_GBH, recurrent_GH, peephole_PH, forget(hidden_BH, start_B), forget(cell_BH, start_B))
    return after[0].to(hidden_BH.dtype), after[1].to(cell_BH.dtype)


def para_gru(
    given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Loop over time.

    Args:
        given_TBNGK: what the gates z, r, n receive from the inputs, as `project` returns it.
        bias_GH: added to it.
        recurrent_GH: what a unit hears of itself, by gate.
        hidden_BH: the hidden units before the first step.
        start_TB: true where the row forgets before that step.

    Returns:
        The hidden units of every step (T, B, H), and after the last, in the type of `hidden_BH`.
    """
    outputs, dtype = [], hidden_BH.dtype
    for given_GBH, start_B in zip(gates(given_TBNGK, bias_GH).unbind(1), start_TB, strict=True):
        hidden_BH = gru_cell(given_GBH, recurrent_GH, forget(hidden_BH, start_B))
        outputs.append(hidden_BH)
    return torch.stack(outputs).to(dtype), hidden_BH.to(dtype)


def para_lstm(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loop over time; like `para_gru`, with gates f, o, n, and peepholes of f and o.

    Returns:
        The hidden units of every step (T, B, H), and the hidden units and the cell after the last.
    """
    outputs, dtype = [], hidden_BH.dtype
    for given_GBH, start_B in zip(gates(given_TBNGK, bias_GH).unbind(1), start_TB, strict=True):
        hidden_BH, cell_BH = forget(hidden_BH, start_B), forget(cell_BH, start_B)
        hidden_BH, cell_BH = lstm_cell(given_GBH, recurrent_GH, peephole_PH, hidden_BH, cell_BH)
        outputs.append(hidden_BH)
    return torch.stack(outputs).to(dtype), hidden_BH.to(dtype), cell_BH.to(dtype)
