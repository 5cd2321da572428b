"""LSTM and GRU over a window in which rows forget wherever their start flag is true, exactly.

Shapes: T time, B rows, D input features, H hidden units, N heads, K = H / N units of a head, G gates.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..backend import Backend, Op
from . import loop, reference

__all__ = ["OP", "gru", "gru_step", "lstm", "lstm_step"]

OP = Op(
    "rnn",
    __name__,
    {
        "loop": Backend("one matrix product a step, its backward by hand; not twice differentiable"),
        "reference": Backend("autograd through the plain loop, the definition"),
    },
)


def lstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM over a window.

    i, f, g, o = input_weight x + bias + recurrent h, with h = c = 0 where the row starts, also if they held NaN;
    c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c). With one head this is `torch.nn.LSTM` (whose two
    biases are added). Source: Hochreiter and Schmidhuber 1997; the forget gate is of Gers et al. 2000.

    Args:
        x_TBD: the inputs, (T, B, D).
        input_weight: (4 H, D), in the order i, f, g, o.
        bias: (4 H,).
        recurrent_GNKK: (4, N, K, K), gate, head, to, from: the units of a head hear those of their own head only.
        hidden_BH: the hidden units before the first step, (B, H).
        cell_BH: the cell before the first step, (B, H).
        start_TB: (T, B) bool, true where the row forgets before that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The hidden units of every step (T, B, H), and the hidden units and the cell after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    _check(x_TBD, input_weight, recurrent_GNKK, hidden_BH, start_TB)
    window = (x_TBD, input_weight, bias, recurrent_GNKK, hidden_BH, cell_BH, start_TB)
    y_TBH, hidden_BH, cell_BH = OP.pick(backend, x_TBD).lstm(*window)
    return y_TBH, hidden_BH, cell_BH


def gru(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a GRU over a window.

    r and z are sigmoids of input_weight x + bias + recurrent h, with h = 0 where the row starts, also if it held NaN;
    n = tanh(input_weight x + bias + r * (recurrent h + recurrent_bias)); h = (1 - z) n + z h. With one head this is
    `torch.nn.GRU` (whose biases of r and z are added). Source: Cho et al. 2014, in the form of cuDNN.

    Args:
        x_TBD: the inputs, (T, B, D).
        input_weight: (3 H, D), in the order r, z, n.
        bias: (3 H,).
        recurrent_GNKK: (3, N, K, K), gate, head, to, from: the units of a head hear those of their own head only.
        recurrent_bias: (H,), added to what n receives from the hidden units, inside the reset gate.
        hidden_BH: the hidden units before the first step, (B, H).
        start_TB: (T, B) bool, true where the row forgets before that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The hidden units of every step (T, B, H), and after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    _check(x_TBD, input_weight, recurrent_GNKK, hidden_BH, start_TB)
    window = (x_TBD, input_weight, bias, recurrent_GNKK, recurrent_bias, hidden_BH, start_TB)
    y_TBH, hidden_BH = OP.pick(backend, x_TBD).gru(*window)
    return y_TBH, hidden_BH


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
    given = (x_BD, input_weight, bias, recurrent_GNKK, hidden_BH, cell_BH, start_B)
    hidden_BH, cell_BH = _stepping(x_BD).lstm_step(*given)
    return hidden_BH, cell_BH


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
    given = (x_BD, input_weight, bias, recurrent_GNKK, recurrent_bias, hidden_BH, start_B)
    after_BH: Tensor = _stepping(x_BD).gru_step(*given)
    return after_BH


# Rows from which on one product instead of two, and fewer passes, outweigh more calls.
MANY = 128


def _stepping(x_BD: Tensor) -> ModuleType:
    """Return what takes a single step: on a CPU, with many rows and nothing to differentiate, the loop's form of it."""
    quick = x_BD.device.type == "cpu" and len(x_BD) >= MANY and not torch.is_grad_enabled()
    return loop if quick and x_BD.dtype in (torch.float32, torch.float64) else reference


def _check(x_TBD: Tensor, input_weight: Tensor, recurrent_GNKK: Tensor, hidden_BH: Tensor, start_TB: Tensor) -> None:
    time, batch, width = x_TBD.shape
    gates, heads, units, _ = recurrent_GNKK.shape
    expected = {
        "input_weight": (tuple(input_weight.shape), (gates * heads * units, width)),
        "hidden": (tuple(hidden_BH.shape), (batch, heads * units)),
        "start": (tuple(start_TB.shape), (time, batch)),
    }
    for name, (came, wanted) in expected.items():
        if came != wanted:
            raise ValueError(
                f"rnn: {name} has the shape {came}; inputs {tuple(x_TBD.shape)} and recurrent weights "
                f"{tuple(recurrent_GNKK.shape)} need {wanted}"
            )
