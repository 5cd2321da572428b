"""Recurrent networks over a window in which rows forget wherever their start flag is true, exactly.

LSTM, GRU, sLSTM and the plain network of Elman, with dense recurrent weights or a block per head.

Shapes: T time, B rows, D input features, H hidden units, N heads, K = H / N units of a head, G gates.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..backend import Backend, Op
from .reference import elman_step, slstm_step
from .step import gru_step, lstm_step

__all__ = ["OP", "elman", "elman_step", "gru", "gru_step", "lstm", "lstm_step", "slstm", "slstm_step"]

OP = Op(
    "rnn",
    __name__,
    {
        "triton": Backend("the loop over time inside one kernel, forward and backward; not twice differentiable", True),
        "torchrl": Backend("TorchRL's kernels for LSTM and GRU, for comparison", on_request=True),
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
    recompute: bool = False,
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
        recompute: keep no gates for the backward, which computes them again: less memory, more time.

    Returns:
        The hidden units of every step (T, B, H), and the hidden units and the cell after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    window = (x_TBD, input_weight, bias, recurrent_GNKK, hidden_BH, cell_BH, start_TB)
    y_TBH, hidden_BH, cell_BH = _run("lstm", backend, recompute, *window)
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
    recompute: bool = False,
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
        recompute: keep no gates for the backward, which computes them again: less memory, more time.

    Returns:
        The hidden units of every step (T, B, H), and after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    window = (x_TBD, input_weight, bias, recurrent_GNKK, recurrent_bias, hidden_BH, start_TB)
    y_TBH, hidden_BH = _run("gru", backend, recompute, *window)
    return y_TBH, hidden_BH


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
    backend: str | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run an sLSTM over a window: an LSTM whose input gate is an exponential, and whose cell is an average.

    i, f, z, o = input_weight x + bias + recurrent h, with h = c = n = 0 where the row starts, also if they held NaN;
    m' = max(i, log sigmoid(f) + m), or i where n = 0; with i' = exp(i - m') and f' = exp(log sigmoid(f) + m - m'):
    c = f' c + i' tanh(z); n = max(f' n + i', 1); h = sigmoid(o) c / n. A state of zeros remembers nothing.
    Source: Beck et al. 2024 (xLSTM), in the form of FlashRNN (Poeppel et al. 2024).

    Args:
        x_TBD: the inputs, (T, B, D).
        input_weight: (4 H, D), in the order i, f, z, o.
        bias: (4 H,).
        recurrent_GNKK: (4, N, K, K), gate, head, to, from: the units of a head hear those of their own head only.
        hidden_BH: the hidden units before the first step, (B, H).
        cell_BH: the cell c before the first step, (B, H).
        normaliser_BH: the normaliser n before the first step, (B, H).
        stabiliser_BH: the stabiliser m before the first step, (B, H).
        start_TB: (T, B) bool, true where the row forgets before that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.
        recompute: keep no gates for the backward, which computes them again: less memory, more time.

    Returns:
        The hidden units of every step (T, B, H), and hidden units, cell, normaliser and stabiliser after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    window = (x_TBD, input_weight, bias, recurrent_GNKK, hidden_BH, cell_BH, normaliser_BH, stabiliser_BH, start_TB)
    y_TBH, hidden_BH, cell_BH, normaliser_BH, stabiliser_BH = _run("slstm", backend, recompute, *window)
    return y_TBH, hidden_BH, cell_BH, normaliser_BH, stabiliser_BH


def elman(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run a plain recurrent network over a window.

    h = tanh(input_weight x + bias + recurrent h), with h = 0 where the row starts, also if it held NaN. With one head
    this is `torch.nn.RNN` (whose two biases are added). Source: Elman 1990.

    Args:
        x_TBD: the inputs, (T, B, D).
        input_weight: (H, D).
        bias: (H,).
        recurrent_GNKK: (1, N, K, K), head, to, from: the units of a head hear those of their own head only.
        hidden_BH: the hidden units before the first step, (B, H).
        start_TB: (T, B) bool, true where the row forgets before that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.
        recompute: keep no gates for the backward, which computes them again: less memory, more time.

    Returns:
        The hidden units of every step (T, B, H), and after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    window = (x_TBD, input_weight, bias, recurrent_GNKK, hidden_BH, start_TB)
    y_TBH, hidden_BH = _run("elman", backend, recompute, *window)
    return y_TBH, hidden_BH


def _run(cell: str, backend: str | None, recompute: bool, *window: Tensor) -> tuple[Tensor, ...]:
    x_TBD, input_weight, _, recurrent_GNKK, *_, start_TB = window
    _check(x_TBD, input_weight, recurrent_GNKK, window[_FIRST[cell]], start_TB)
    module = OP.pick(backend, x_TBD, cell=cell, heads=recurrent_GNKK.shape[1])
    run: Any = getattr(module, cell)
    if not recompute:
        return tuple(run(*window))
    if getattr(module, "RECOMPUTES", False):
        return tuple(run(*window, recompute=True))
    return tuple(checkpoint(run, *window, use_reentrant=False))


# Where the hidden units stand among the arguments.
_FIRST = {"lstm": 4, "gru": 5, "slstm": 4, "elman": 4}


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
