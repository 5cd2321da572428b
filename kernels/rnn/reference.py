"""What recurrent networks with forgetting inside the sequence are: one step, and a loop over it that autograd sees.

Shapes: T time, B rows, D input features, H hidden units, N heads, K = H / N units of a head, G gates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = -1e30
"""The stabiliser of an sLSTM that remembers nothing: below every input gate, and finite."""


def forget(state_BH: Tensor, start_B: Tensor) -> Tensor:
    """Give zeros to the rows that start. Selected, not multiplied: a NaN in a forgotten past stays there."""
    return torch.where(start_B[:, None], 0.0, state_BH)


def _recur(hidden_BH: Tensor, recurrent_GNKK: Tensor) -> Tensor:
    """Return what each gate receives from the hidden units, (B, G * H); a head hears its own units only."""
    gates, heads, units, _ = recurrent_GNKK.shape
    if heads == 1:
        return F.linear(hidden_BH, recurrent_GNKK.reshape(gates * units, units))
    hidden_BNK = hidden_BH.reshape(-1, heads, units)
    return torch.einsum("bnj,gnij->bgni", hidden_BNK, recurrent_GNKK).flatten(1)


def lstm_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Take one step; returns the hidden units, which are the output, and the cell. See `mnemic.kernels.rnn.lstm`."""
    gates_BG = F.linear(x_BD, input_weight, bias)
    return _lstm_cell(gates_BG, recurrent_GNKK, forget(hidden_BH, start_B), forget(cell_BH, start_B))


def _lstm_cell(gates_BG: Tensor, recurrent_GNKK: Tensor, hidden_BH: Tensor, cell_BH: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (gates_BG + _recur(hidden_BH, recurrent_GNKK)).chunk(4, -1)
    cell_BH = f.sigmoid() * cell_BH + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell_BH.tanh(), cell_BH


def lstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loop over time; see `mnemic.kernels.rnn.lstm`."""
    outputs = []
    for gates_BG, start_B in zip(F.linear(x_TBD, input_weight, bias), start_TB, strict=True):
        hidden_BH, cell_BH = forget(hidden_BH, start_B), forget(cell_BH, start_B)
        hidden_BH, cell_BH = _lstm_cell(gates_BG, recurrent_GNKK, hidden_BH, cell_BH)
        outputs.append(hidden_BH)
    return torch.stack(outputs), hidden_BH, cell_BH


def gru_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_B: Tensor,
) -> Tensor:
    """Take one step; returns the hidden units, which are the output. See `mnemic.kernels.rnn.gru`."""
    gates_BG = F.linear(x_BD, input_weight, bias)
    return _gru_cell(gates_BG, recurrent_GNKK, recurrent_bias, forget(hidden_BH, start_B))


def _gru_cell(gates_BG: Tensor, recurrent_GNKK: Tensor, recurrent_bias: Tensor, hidden_BH: Tensor) -> Tensor:
    r_of_x, z_of_x, n_of_x = gates_BG.chunk(3, -1)
    r_of_h, z_of_h, n_of_h = _recur(hidden_BH, recurrent_GNKK).chunk(3, -1)
    r, z = torch.sigmoid(r_of_x + r_of_h), torch.sigmoid(z_of_x + z_of_h)
    n = torch.tanh(n_of_x + r * (n_of_h + recurrent_bias))
    return (1 - z) * n + z * hidden_BH


def gru(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor]:
    """Loop over time; see `mnemic.kernels.rnn.gru`."""
    outputs = []
    for gates_BG, start_B in zip(F.linear(x_TBD, input_weight, bias), start_TB, strict=True):
        hidden_BH = _gru_cell(gates_BG, recurrent_GNKK, recurrent_bias, forget(hidden_BH, start_B))
        outputs.append(hidden_BH)
    return torch.stack(outputs), hidden_BH


def slstm_step(
    x_BD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    normaliser_BH: Tensor,
    stabiliser_BH: Tensor,
    start_B: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take one step; returns the state, the first part of which is the output. See `mnemic.kernels.rnn.slstm`."""
    gates_BG = F.linear(x_BD, input_weight, bias)
    state = (forget(part, start_B) for part in (hidden_BH, cell_BH, normaliser_BH, stabiliser_BH))
    return _slstm_cell(gates_BG, recurrent_GNKK, *state)


def _slstm_cell(
    gates_BG: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    normaliser_BH: Tensor,
    stabiliser_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entry, hold, z, o = (gates_BG + _recur(hidden_BH, recurrent_GNKK)).chunk(4, -1)
    # A normaliser is at least one from the first step on: zero says that nothing is remembered.
    held = torch.where(normaliser_BH == 0, FLOOR, F.logsigmoid(hold) + stabiliser_BH)
    stabiliser_BH = torch.maximum(entry, held)
    i, f = torch.exp(entry - stabiliser_BH), torch.exp(held - stabiliser_BH)
    cell_BH = f * cell_BH + i * z.tanh()
    normaliser_BH = (f * normaliser_BH + i).clamp(min=1.0)
    return o.sigmoid() * cell_BH / normaliser_BH, cell_BH, normaliser_BH, stabiliser_BH


def slstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    normaliser_BH: Tensor,
    stabiliser_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loop over time; see `mnemic.kernels.rnn.slstm`."""
    outputs, state = [], (hidden_BH, cell_BH, normaliser_BH, stabiliser_BH)
    for gates_BG, start_B in zip(F.linear(x_TBD, input_weight, bias), start_TB, strict=True):
        state = _slstm_cell(gates_BG, recurrent_GNKK, *(forget(part, start_B) for part in state))
        outputs.append(state[0])
    return torch.stack(outputs), *state


def elman_step(
    x_BD: Tensor, input_weight: Tensor, bias: Tensor, recurrent_GNKK: Tensor, hidden_BH: Tensor, start_B: Tensor
) -> Tensor:
    """Take one step; returns the hidden units, which are the output. See `mnemic.kernels.rnn.elman`."""
    return torch.tanh(F.linear(x_BD, input_weight, bias) + _recur(forget(hidden_BH, start_B), recurrent_GNKK))


def elman(
    x_TBD: Tensor, input_weight: Tensor, bias: Tensor, recurrent_GNKK: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Loop over time; see `mnemic.kernels.rnn.elman`."""
    outputs = []
    for gates_BH, start_B in zip(F.linear(x_TBD, input_weight, bias), start_TB, strict=True):
        hidden_BH = torch.tanh(gates_BH + _recur(forget(hidden_BH, start_B), recurrent_GNKK))
        outputs.append(hidden_BH)
    return torch.stack(outputs), hidden_BH
