"""ParaGRU and ParaLSTM: gated cells whose units hear only themselves, so that a window can be solved at once.

Shapes: T time, B rows, N heads, J features and K units of a head, D = N J, H = N K, G = 3 gates, P = 2 peepholes.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op
from .newton import ITERATIONS, residuals
from .reference import para_gru_step, para_lstm_step, project

__all__ = [
    "OP",
    "para_gru",
    "para_gru_residuals",
    "para_gru_step",
    "para_lstm",
    "para_lstm_residuals",
    "para_lstm_step",
]

OP = Op(
    "newton_rnn",
    __name__,
    {
        "triton": Backend("one launch, a loop over time on the chip with a lane for each unit", triton=True),
        "triton_newton": Backend("one launch, chunks of time solved on the chip", triton=True, on_request=True),
        "loop": Backend("step by step in place, its backward by hand; not twice differentiable"),
        "newton": Backend("the window solved by linear scans; not twice differentiable", on_request=True),
        "reference": Backend("autograd through the plain loop, the definition"),
    },
)


def para_gru(
    x_TBD: Tensor,
    input_weight_GNKJ: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a ParaGRU over a window.

    z = sigmoid(W_z x + b_z + a_z h); r = sigmoid(W_r x + b_r + a_r h); n = tanh(W_n x + b_n + a_n h r);
    h = (1 - z) h + z n, all by element, with h = 0 where the row starts, also if it held NaN.
    Source: Danieli et al. 2025, "ParaRNN" (arXiv 2510.21450), section 3.

    Args:
        x_TBD: the inputs, (T, B, D), T >= 1.
        input_weight_GNKJ: (3, N, K, J), gate, head, to, from, the gates in the order z, r, n: the units of a head hear
            the features of their own head only. With one head the weights are dense.
        bias_GH: (3, H).
        recurrent_GH: (3, H), what a unit hears of itself: the diagonal of the weights from state to state.
        hidden_BH: the hidden units before the first step, (B, H).
        start_TB: (T, B) bool, true where the row forgets before that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The hidden units of every step (T, B, H), and after the last, in the type of `hidden_BH`.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    _check(x_TBD, input_weight_GNKJ, start_TB, bias=bias_GH, recurrent=recurrent_GH, hidden=hidden_BH)
    window = (project(x_TBD, input_weight_GNKJ), bias_GH, recurrent_GH, hidden_BH, start_TB)
    y_TBH, hidden_BH = OP.pick(backend, x_TBD).para_gru(*window)
    return y_TBH, hidden_BH


def para_lstm(
    x_TBD: Tensor,
    input_weight_GNKJ: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a ParaLSTM over a window.

    f = sigmoid(W_f x + b_f + a_f h + p_f c); n = tanh(W_n x + b_n + a_n h); c = f c + (1 - f) n;
    o = sigmoid(W_o x + b_o + a_o h + p_o c); h = o tanh(c), all by element, where o sees the new cell; with h = c = 0
    where the row starts, also if they held NaN. Source: Danieli et al. 2025, "ParaRNN" (arXiv 2510.21450), section 3.

    Args:
        x_TBD: the inputs, (T, B, D), T >= 1.
        input_weight_GNKJ: (3, N, K, J) as in `para_gru`, the gates in the order f, o, n.
        bias_GH: (3, H).
        recurrent_GH: (3, H), what a unit hears of itself.
        peephole_PH: (2, H), what f and o hear of the cell.
        hidden_BH: the hidden units before the first step, (B, H).
        cell_BH: the cell before the first step, (B, H).
        start_TB: (T, B) bool, true where the row forgets before that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The hidden units of every step (T, B, H), and the hidden units and the cell after the last.

    Raises:
        ValueError: for an unknown backend, or when the shapes do not fit.
    """
    vectors = {"bias": bias_GH, "recurrent": recurrent_GH, "peephole": peephole_PH}
    _check(x_TBD, input_weight_GNKJ, start_TB, **vectors, hidden=hidden_BH, cell=cell_BH)
    window = (project(x_TBD, input_weight_GNKJ), *vectors.values(), hidden_BH, cell_BH, start_TB)
    y_TBH, hidden_BH, cell_BH = OP.pick(backend, x_TBD).para_lstm(*window)
    return y_TBH, hidden_BH, cell_BH


def para_gru_residuals(
    x_TBD: Tensor,
    input_weight_GNKJ: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Return how well Newton's method does on a window: the largest residual after 0, 1, .. `iterations` iterations.

    The residual of a step is by how much the step from the state found before it misses the state found after it.
    Arguments as in `para_gru`.
    """
    given = project(x_TBD, input_weight_GNKJ)
    return residuals(given, bias_GH, recurrent_GH, hidden_BH, start_TB, iterations=iterations)


def para_lstm_residuals(
    x_TBD: Tensor,
    input_weight_GNKJ: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Return how well Newton's method does on a window; see `para_gru_residuals`."""
    given = (project(x_TBD, input_weight_GNKJ), bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
    return residuals(*given, iterations=iterations)


def _check(x_TBD: Tensor, input_weight_GNKJ: Tensor, start_TB: Tensor, **parts: Tensor) -> None:
    time, batch, width = x_TBD.shape
    gates, heads, units, features = input_weight_GNKJ.shape
    states = (batch, heads * units)
    expected = {"bias": (gates, states[1]), "recurrent": (gates, states[1]), "peephole": (2, states[1])}
    if (gates, heads * features) != (3, width):
        raise ValueError(
            f"newton_rnn: input_weight has the shape {tuple(input_weight_GNKJ.shape)}; it needs 3 gates, and "
            f"heads and features per head that make the {width} features of the inputs"
        )
    for name, part in {**parts, "start": start_TB}.items():
        wanted = (time, batch) if name == "start" else expected.get(name, states)
        if tuple(part.shape) != wanted:
            raise ValueError(
                f"newton_rnn: {name} has the shape {tuple(part.shape)}; inputs {tuple(x_TBD.shape)} and input weights "
                f"{tuple(input_weight_GNKJ.shape)} need {wanted}"
            )
