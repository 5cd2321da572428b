"""ParaGRU and ParaLSTM step by step, in place, with the backward derived by hand: for few CPU cores.

The forward loop holds nothing but what must be sequential. The backward is linear in the gradient, so that its loop
holds one multiplication a step for ParaGRU and four for ParaLSTM; all else is computed for many steps at once.
tanh(v) is computed as 2 sigmoid(2 v) - 1: on a CPU, torch's tanh costs several times as much as its sigmoid. The error
is one rounding of 1 also where v is small, so that everything is computed in float32 or float64.
Shapes: T time, B rows, N heads, G = 3 gates, K units of a head, H = N K hidden units, P = 2 peepholes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Derivatives of as many steps as give about this many numbers are computed at once: few enough to stay in the cache.
AT_ONCE = 1 << 17

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class Way(NamedTuple):
    """How a cell runs through time: forward, and backward through its linear steps."""

    forward: Callable[..., tuple[Tensor, ...]]
    """(gates_TGBH, weights.., states.., start_TB) -> gates after their nonlinearity, and the states of every step."""
    reverse: Callable[..., Any]
    """What `gru_totals` or `lstm_totals` return."""
    at_once: int = AT_ONCE
    """Numbers of a gate in the backward."""


def starting(start_TB: Tensor) -> Sequence[Tensor | None]:
    """Return which rows start, per step: on CPU their indices or None (one look per window), else masks (no look)."""
    if start_TB.device.type != "cpu":
        return start_TB.unbind(0)
    counts = start_TB.sum(1).tolist()
    indices = torch.split(start_TB.nonzero()[:, 1], counts)
    return [index if count else None for index, count in zip(indices, counts, strict=True)]


def _tanh(part: Tensor, minus_one: Tensor) -> Tensor:
    """Write tanh over twice its argument."""
    return torch.add(minus_one, part.sigmoid_(), alpha=2, out=part)


def _clear(part_TBH: Tensor, start_TB: Tensor) -> None:
    """Write zeros over the rows that start, at the steps where they do."""
    if start_TB.device.type == "cpu":
        part_TBH.flatten(0, 1).index_fill_(0, start_TB.flatten().nonzero()[:, 0], 0.0)
    else:
        part_TBH.masked_fill_(start_TB[..., None], 0.0)


def _forget(state_BH: Tensor, rows: Tensor | None) -> Tensor:
    """Return the state with zeros in the rows that start."""
    if rows is None:
        return state_BH
    return state_BH.masked_fill(rows[:, None], 0.0) if rows.dtype is torch.bool else state_BH.index_fill(0, rows, 0.0)


def gru_forward(gates_TGBH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Run the recurrence; returns z, r, n and the hidden units of every step.

    Args:
        gates_TGBH: what the gates receive from inputs and bias; is written over.
        recurrent_GH: what a unit hears of itself.
        hidden_BH: the hidden units before the first step.
        start_TB: true where a row forgets.
    """
    y_TBH, heard = gates_TGBH.new_empty(len(gates_TGBH), *hidden_BH.shape), torch.empty_like(hidden_BH)
    of_zr, of_n = recurrent_GH[:2, None], recurrent_GH[2]
    zr, (z, r, n) = gates_TGBH[:, :2].unbind(0), (part.unbind(0) for part in gates_TGBH.unbind(1))
    y, minus_one = y_TBH.unbind(0), gates_TGBH.new_tensor(-1.0)
    for t, rows in enumerate(starting(start_TB)):
        hidden_BH = _forget(hidden_BH, rows)
        zr[t].addcmul_(of_zr, hidden_BH).sigmoid_()
        torch.mul(hidden_BH, of_n, out=heard)
        n[t].addcmul_(heard, r[t])
        _tanh(n[t].add_(n[t]), minus_one)
        hidden_BH = torch.lerp(hidden_BH, n[t], z[t], out=y[t])
    return gates_TGBH, y_TBH


def gru_totals(slope_TBH: Tensor, d_y_TBH: Tensor, d_last_BH: Tensor) -> Tensor:
    """Return the gradient of the state after each step, with what comes through the later ones."""
    total_TBH = d_y_TBH.clone()
    total_TBH[-1] += d_last_BH
    slope, total = slope_TBH.unbind(0), total_TBH.unbind(0)
    for t in range(len(total) - 2, -1, -1):
        total[t].addcmul_(slope[t + 1], total[t + 1])
    return total_TBH


def gru_backward(
    way: Way,
    gates_TGBH: Tensor,
    y_TBH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    d_y_TBH: Tensor,
    d_last_BH: Tensor,
    d_gates_TGBH: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write the gradients of what the gates received; return those of the recurrent weights and of the first state."""
    before = before_each(hidden_BH, y_TBH, start_TB)
    z, r, n = gates_TGBH.unbind(1)
    a_z, a_r, a_n = recurrent_GH
    d_z, d_r, d_n = d_gates_TGBH.unbind(1)
    _sigmoid_backward(n - before, z, grad_input=d_z)
    _tanh_backward(z, n, grad_input=d_n)
    _sigmoid_backward((d_n * a_n).mul_(before), r, grad_input=d_r)
    slope = (1 - z).addcmul_(d_z, a_z).addcmul_(d_n * r, a_n).addcmul_(d_r, a_r)
    _clear(slope, start_TB)
    total = way.reverse(slope, d_y_TBH, d_last_BH)
    d_gates_TGBH.mul_(total[:, None])
    d_recurrent = torch.stack([(d * before).sum((0, 1)) for d in (d_z, d_r, d_n * r)])
    return d_recurrent, slope[0] * total[0]


def lstm_forward(
    gates_TGBH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence; like `gru_forward`, returns f, o, n, and the hidden units and the cell of every step."""
    y_TBH = gates_TGBH.new_empty(len(gates_TGBH), *hidden_BH.shape)
    cell_TBH, squashed = torch.empty_like(y_TBH), torch.empty_like(hidden_BH)
    of_h, (of_f, of_o) = recurrent_GH[:, None], peephole_PH
    gates, (f, o, n) = gates_TGBH.unbind(0), (part.unbind(0) for part in gates_TGBH.unbind(1))
    y, cells, minus_one = y_TBH.unbind(0), cell_TBH.unbind(0), gates_TGBH.new_tensor(-1.0)
    for t, rows in enumerate(starting(start_TB)):
        hidden_BH, cell_BH = _forget(hidden_BH, rows), _forget(cell_BH, rows)
        gates[t].addcmul_(of_h, hidden_BH)
        f[t].addcmul_(of_f, cell_BH).sigmoid_()
        _tanh(n[t].add_(n[t]), minus_one)
        cell_BH = torch.lerp(n[t], cell_BH, f[t], out=cells[t])
        o[t].addcmul_(of_o, cell_BH).sigmoid_()
        _tanh(torch.add(cell_BH, cell_BH, out=squashed), minus_one)
        hidden_BH = torch.mul(o[t], squashed, out=y[t])
    return gates_TGBH, y_TBH, cell_TBH


def lstm_totals(
    slopes: tuple[Tensor, Tensor, Tensor, Tensor], d_y_TBH: Tensor, d_last_BH: Tensor, d_last_cell_BH: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the hidden units and of the cell after each step, the latter without the former's part.

    Args:
        slopes: of every step, dc'/dc and dc'/dh, dh'/dc', and how h moves h' other than through c'.
        d_y_TBH: what comes from the outputs.
        d_last_BH: what comes from the hidden units after the last step.
        d_last_cell_BH: what comes from the cell after the last step.
    """
    c_of_c, c_of_h, h_of_c, h_of_h = (slope.unbind(0) for slope in slopes)
    total_TBH, cell_TBH = d_y_TBH.clone(), torch.empty_like(d_y_TBH)
    total_TBH[-1] += d_last_BH
    cell_TBH[-1] = d_last_cell_BH
    total, cell, moved = total_TBH.unbind(0), cell_TBH.unbind(0), torch.empty_like(d_last_BH)
    for t in range(len(total) - 1, 0, -1):
        torch.addcmul(cell[t], h_of_c[t], total[t], out=moved)
        torch.mul(c_of_c[t], moved, out=cell[t - 1])
        total[t - 1].addcmul_(c_of_h[t], moved).addcmul_(h_of_h[t], total[t])
    return total_TBH, cell_TBH


def lstm_backward(
    way: Way,
    gates_TGBH: Tensor,
    y_TBH: Tensor,
    cell_TBH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    d_y_TBH: Tensor,
    d_last_BH: Tensor,
    d_last_cell_BH: Tensor,
    d_gates_TGBH: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write the gradients of what the gates received; return those of both kinds of weights and of the first state."""
    before, cell_before = before_each(hidden_BH, y_TBH, start_TB), before_each(cell_BH, cell_TBH, start_TB)
    f, o, n = gates_TGBH.unbind(1)
    (a_f, a_o, a_n), (p_f, p_o) = recurrent_GH, peephole_PH
    squashed = _tanh(cell_TBH + cell_TBH, cell_TBH.new_tensor(-1.0))
    d_f, d_o, d_n = d_gates_TGBH.unbind(1)
    _sigmoid_backward(cell_before - n, f, grad_input=d_f)
    _sigmoid_backward(squashed, o, grad_input=d_o)
    _tanh_backward(1 - f, n, grad_input=d_n)
    h_of_c = torch.ops.aten.tanh_backward(o, squashed).addcmul_(d_o, p_o)
    slopes = torch.addcmul(f, d_f, p_f), (d_f * a_f).addcmul_(d_n, a_n), h_of_c, d_o * a_o
    for slope in (slopes[0], slopes[1], slopes[3]):
        _clear(slope, start_TB)
    total, moved = way.reverse(slopes, d_y_TBH, d_last_BH, d_last_cell_BH)
    moved = moved.addcmul(h_of_c, total)
    d_f.mul_(moved)
    d_o.mul_(total)
    d_n.mul_(moved)
    d_recurrent = torch.stack([(d * before).sum((0, 1)) for d in (d_f, d_o, d_n)])
    d_peephole = torch.stack([(d_f * cell_before).sum((0, 1)), (d_o * cell_TBH).sum((0, 1))])
    d_hidden = (slopes[1][0] * moved[0]).addcmul_(slopes[3][0], total[0])
    return d_recurrent, d_peephole, d_hidden, slopes[0][0] * moved[0]


def pieces(way: Way, y_TBH: Tensor) -> list[slice]:
    """Return the steps whose derivatives are computed at once, the last ones first."""
    time, at_once = len(y_TBH), max(1, way.at_once // y_TBH[0].numel())
    return [slice(first, first + at_once) for first in range(0, time, at_once)][::-1]


def before_each(first_BH: Tensor, states_TBH: Tensor, start_TB: Tensor) -> Tensor:
    """Return the state that each step takes: that after the one before, or zeros."""
    before_TBH = torch.cat([first_BH[None], states_TBH[:-1]])
    _clear(before_TBH, start_TB)
    return before_TBH


class _GRU(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in the functions above."""

    @staticmethod
    def forward(
        ctx: Any, gates_TGBH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor, way: Way
    ) -> tuple[Tensor, Tensor]:
        gates_TGBH, y_TBH = way.forward(gates_TGBH, recurrent_GH, hidden_BH, start_TB)
        ctx.way = way
        ctx.save_for_backward(gates_TGBH, y_TBH, recurrent_GH, hidden_BH, start_TB)
        return y_TBH, y_TBH[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        gates_TGBH, y_TBH, recurrent_GH, hidden_BH, start_TB = ctx.saved_tensors
        d_y_TBH, d_state = gradients
        d_gates_TGBH, d_recurrent = torch.empty_like(gates_TGBH), torch.zeros_like(recurrent_GH)
        for now in pieces(ctx.way, y_TBH):
            state = y_TBH[now.start - 1] if now.start else hidden_BH
            given = (gates_TGBH[now], y_TBH[now], recurrent_GH, state, start_TB[now], d_y_TBH[now])
            d_weight, d_state = gru_backward(ctx.way, *given, d_state, d_gates_TGBH[now])
            d_recurrent += d_weight
        return d_gates_TGBH, d_recurrent, d_state, None, None


class _LSTM(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in the functions above."""

    @staticmethod
    def forward(
        ctx: Any,
        gates_TGBH: Tensor,
        recurrent_GH: Tensor,
        peephole_PH: Tensor,
        hidden_BH: Tensor,
        cell_BH: Tensor,
        start_TB: Tensor,
        way: Way,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = (recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
        gates_TGBH, y_TBH, cell_TBH = way.forward(gates_TGBH, *given)
        ctx.way = way
        ctx.save_for_backward(gates_TGBH, y_TBH, cell_TBH, *given)
        return y_TBH, y_TBH[-1].clone(), cell_TBH[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        gates_TGBH, y_TBH, cell_TBH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB = ctx.saved_tensors
        d_y_TBH, d_h, d_c = gradients
        d_gates_TGBH, weights = torch.empty_like(gates_TGBH), (recurrent_GH, peephole_PH)
        d_recurrent, d_peephole = (torch.zeros_like(part) for part in weights)
        for now in pieces(ctx.way, y_TBH):
            state = (y_TBH[now.start - 1], cell_TBH[now.start - 1]) if now.start else (hidden_BH, cell_BH)
            given = (gates_TGBH[now], y_TBH[now], cell_TBH[now], *weights, *state, start_TB[now], d_y_TBH[now])
            d_weight, d_hole, d_h, d_c = lstm_backward(ctx.way, *given, d_h, d_c, d_gates_TGBH[now])
            d_recurrent += d_weight
            d_peephole += d_hole
        return d_gates_TGBH, d_recurrent, d_peephole, d_h, d_c, None, None


def refuse_second_derivative() -> None:
    """Raise when the backward is to be differentiated itself."""
    if torch.is_grad_enabled():
        raise RuntimeError("newton_rnn: this backend is not twice differentiable (create_graph); use 'reference'")


def _received(given_TBNGK: Tensor, bias_GH: Tensor) -> Tensor:
    """Return what the gates receive, a block for each step and gate: (T, G, B, H), in the type of the bias."""
    time, batch, heads, gates, units = given_TBNGK.shape
    received = given_TBNGK.permute(0, 3, 1, 2, 4) + bias_GH.view(gates, 1, heads, units)
    return received.reshape(time, gates, batch, heads * units).contiguous()


def computed(given: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors in the one type that they are computed in, at least float32."""
    dtype = torch.float32
    for tensor in given:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in given]


def run_gru(
    way: Way, given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a ParaGRU in some way; like `reference.para_gru`."""
    dtype, (bias, recurrent, hidden, _) = hidden_BH.dtype, computed([bias_GH, recurrent_GH, hidden_BH, given_TBNGK[:0]])
    results = _GRU.apply(_received(given_TBNGK, bias), recurrent, hidden, start_TB, way)  # type: ignore[no-untyped-call]
    y_TBH, hidden_BH = (result.to(dtype) for result in results)
    return y_TBH, hidden_BH


def run_lstm(
    way: Way,
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a ParaLSTM in some way; like `reference.para_lstm`."""
    bias, *parts, _ = computed([bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, given_TBNGK[:0]])
    results = _LSTM.apply(_received(given_TBNGK, bias), *parts, start_TB, way)  # type: ignore[no-untyped-call]
    y_TBH, last_BH, last_cell_BH = (result.to(hidden_BH.dtype) for result in results)
    return y_TBH, last_BH, last_cell_BH


def para_gru(
    given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the fast loop; like `reference.para_gru`."""
    return run_gru(Way(gru_forward, gru_totals), given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB)


def para_lstm(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the fast loop; like `reference.para_lstm`."""
    given = (given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
    return run_lstm(Way(lstm_forward, lstm_totals), *given)
