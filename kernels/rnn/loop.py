"""LSTM and GRU whose loop over time holds nothing but what must be sequential, with the backward derived by hand.

Three things make it several times faster than autograd through the reference loop on a few CPU cores:

- One matrix product a step. The input, a one (for the bias) and the hidden units of a step lie side by side, and so do
  the weights; the backward needs one product for the step before and one for all weights.
- Gates are feature-major, (G, H, B): each is one contiguous block that element-wise kernels run through.
- The local derivatives of several steps are computed at once, few enough to stay in the cache.

tanh(v) is computed as 2 sigmoid(2 v) - 1: on CPU, torch's tanh costs two to three times as much as its sigmoid. The
error is one rounding of 1 also where v is small, so that everything is computed in float32 or float64.

Shapes: T time, B rows, D input features, H hidden units, C = D + 1 + H columns, N heads, K units of a head, G gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Local derivatives of as many steps as give about this many numbers are computed at once.
AT_ONCE = 1 << 19

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def refusal(like: Tensor, *, cell: str = "lstm", **_: Any) -> str | None:
    """Say why the loop cannot run, or return None."""
    return None if cell in ("lstm", "gru") else f"it has no loop for the cell {cell!r}"


def _starting(start_TB: Tensor) -> Sequence[Tensor | None]:
    """Return which rows start, per step: on CPU their indices or None (one look per window), else masks (no look)."""
    if start_TB.device.type != "cpu":
        return start_TB.unbind(0)
    counts = start_TB.sum(1).tolist()
    indices = torch.split(start_TB.nonzero()[:, 1], counts)
    return [index if count else None for index, count in zip(indices, counts, strict=True)]


def _forget(part: Tensor, axis: int, starting: Tensor) -> None:
    """Write zeros over the rows that start, in place."""
    if starting.dtype is torch.bool:
        part.masked_fill_(starting if axis == 1 else starting[:, None], 0.0)
    else:
        part.index_fill_(axis, starting, 0.0)


def _columns(x_TBD: Tensor, hidden_BH: Tensor) -> Tensor:
    """Return (T + 1, B, C): the inputs, a one, and room for the hidden units, the first of which are given."""
    (time, batch, width), units = x_TBD.shape, hidden_BH.shape[1]
    columns = x_TBD.new_empty(time + 1, batch, width + 1 + units)
    columns[:time, :, :width] = x_TBD
    columns[:, :, width] = 1.0
    columns[0, :, width + 1 :] = hidden_BH
    return columns


def lstm_forward(
    x_TBD: Tensor, weight_GC: Tensor, hidden_BH: Tensor, cell_BH: Tensor, starting: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence.

    Args:
        x_TBD: the inputs.
        weight_GC: (4 H, C), the gates i, f, g, o of the columns (input, one, hidden units).
        hidden_BH: the hidden units before the first step.
        cell_BH: the cell before the first step.
        starting: per step, the rows that forget, or None.

    Returns:
        The outputs (T, B, H), and what the backward needs: the columns (T + 1, B, C), the gates (T, 4, H, B), the cells
        (T + 1, H, B), from before the first step on and after forgetting, and their tanh (T, H, B).
    """
    (time, batch, _), units = x_TBD.shape, hidden_BH.shape[1]
    columns = _columns(x_TBD, hidden_BH)
    gates, squashed = x_TBD.new_empty(time, 4, units, batch), x_TBD.new_empty(time, units, batch)
    cells, y_TBH = x_TBD.new_empty(time + 1, units, batch), x_TBD.new_empty(time, batch, units)
    cells[0] = cell_BH.t()
    weight = weight_GC.clone()
    weight[2 * units : 3 * units] *= 2
    minus_one = x_TBD.new_tensor(-1.0)

    hidden, cell, tanh, output = columns[..., -units:].unbind(0), cells.unbind(0), squashed.unbind(0), y_TBH.unbind(0)
    column, gate = columns.transpose(1, 2).unbind(0), gates.flatten(1, 2).unbind(0)
    i, f, g, o = (part.unbind(0) for part in gates.unbind(1))
    for t, rows in enumerate(starting):
        if rows is not None:
            _forget(hidden[t], 0, rows)
            _forget(cell[t], 1, rows)
        torch.mm(weight, column[t], out=gate[t])
        gate[t].sigmoid_()
        torch.add(minus_one, g[t], alpha=2, out=g[t])
        torch.mul(f[t], cell[t], out=cell[t + 1])
        cell[t + 1].addcmul_(i[t], g[t])
        torch.add(cell[t + 1], cell[t + 1], out=tanh[t])
        tanh[t].sigmoid_()
        torch.add(minus_one, tanh[t], alpha=2, out=tanh[t])
        torch.mul(o[t], tanh[t], out=output[t].t())
        hidden[t + 1].copy_(output[t])
    return y_TBH, columns, gates, cells, squashed


def lstm_backward(
    weight_GC: Tensor,
    columns: Tensor,
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
    starting: Sequence[Tensor | None],
    d_y_TBH: Tensor,
    d_hidden_BH: Tensor,
    d_cell_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence backward; returns the gradients of the inputs, weights, first hidden units and first cell."""
    time, _, units, batch = gates.shape
    width = weight_GC.shape[1] - 1 - units
    d_x_TBD, d_weight = gates.new_empty(time, batch, width), torch.zeros_like(weight_GC)
    d_column = gates.new_empty(batch, width + 1 + units)
    d_hidden, d_x = d_column[:, -units:], d_column[:, :width]
    d_hidden.copy_(d_hidden_BH)
    d_h, d_c = gates.new_empty(units, batch), d_cell_BH.t().clone(memory_format=torch.contiguous_format)

    at_once = max(1, min(time, AT_ONCE // (4 * units * batch)))
    slopes, cell_slopes = gates.new_empty(at_once, 4, units, batch), gates.new_empty(at_once, units, batch)
    of_cell, of_hidden = slopes[:, :3].unbind(0), slopes[:, 3].unbind(0)
    d_gate, cell_slope = slopes.flatten(1, 2).unbind(0), cell_slopes.unbind(0)
    i, f, g, o = gates.unbind(1)
    for first in range((time - 1) // at_once * at_once, -1, -at_once):
        last = min(time, first + at_once)
        now, many = slice(first, last), slice(last - first)
        _sigmoid_backward(g[now], i[now], grad_input=slopes[many, 0])
        _sigmoid_backward(cells[now], f[now], grad_input=slopes[many, 1])
        _tanh_backward(i[now], g[now], grad_input=slopes[many, 2])
        _sigmoid_backward(squashed[now], o[now], grad_input=slopes[many, 3])
        _tanh_backward(o[now], squashed[now], grad_input=cell_slopes[many])
        for t in range(last - 1, first - 1, -1):
            k, rows = t - first, starting[t]
            torch.add(d_hidden.t(), d_y_TBH[t].t(), out=d_h)
            d_c.addcmul_(d_h, cell_slope[k])
            of_cell[k].mul_(d_c)
            of_hidden[k].mul_(d_h)
            torch.mm(d_gate[k].t(), weight_GC, out=d_column)
            d_weight.addmm_(d_gate[k], columns[t])
            d_x_TBD[t].copy_(d_x)
            d_c.mul_(f[t])
            if rows is not None:
                _forget(d_hidden, 0, rows)
                _forget(d_c, 1, rows)
    return d_x_TBD, d_weight, d_hidden.clone(), d_c.t()


def _products(weight_GC: Tensor, columns: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the parts of a GRU's weights with the columns that each takes: r and z all, n either side of the one."""
    units = weight_GC.shape[0] // 4
    one = weight_GC.shape[1] - 1 - units
    return [
        (weight_GC[: 2 * units], columns),
        (weight_GC[2 * units : 3 * units, : one + 1], columns[..., : one + 1]),
        (weight_GC[3 * units :, one:], columns[..., one:]),
    ]


def gru_forward(
    x_TBD: Tensor, weight_GC: Tensor, hidden_BH: Tensor, starting: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence.

    Args:
        x_TBD: the inputs.
        weight_GC: (4 H, C), of the columns (input, one, hidden units): the gates r and z, then what the candidate n
            receives from the input and the one, then what it receives from the one and the hidden units. What these
            two have no part in is never read.
        hidden_BH: the hidden units before the first step.
        starting: per step, the rows that forget, or None.

    Returns:
        The outputs (T, B, H), and what the backward needs: the columns (T + 1, B, C), r, z, n and n's part from the
        hidden units (T, 4, H, B), and the hidden units (T + 1, H, B), from before the first step on, after forgetting.
    """
    (time, batch, _), units = x_TBD.shape, hidden_BH.shape[1]
    columns, gates = _columns(x_TBD, hidden_BH), x_TBD.new_empty(time, 4, units, batch)
    states, y_TBH = x_TBD.new_empty(time + 1, units, batch), x_TBD.new_empty(time, batch, units)
    states[0] = hidden_BH.t()
    minus_one = x_TBD.new_tensor(-1.0)

    hidden, state, output = columns[..., -units:].unbind(0), states.unbind(0), y_TBH.unbind(0)
    r_and_z = gates[:, :2].flatten(1, 2).unbind(0)
    products = [(weight, part.transpose(1, 2).unbind(0)) for weight, part in _products(weight_GC, columns)]
    r, z, n, n_of_h = (part.unbind(0) for part in gates.unbind(1))
    for t, rows in enumerate(starting):
        if rows is not None:
            _forget(hidden[t], 0, rows)
            _forget(state[t], 1, rows)
        for (weight, column), gate in zip(products, (r_and_z, n, n_of_h), strict=True):
            torch.mm(weight, column[t], out=gate[t])
        r_and_z[t].sigmoid_()
        n[t].addcmul_(r[t], n_of_h[t])
        torch.add(n[t], n[t], out=n[t])
        n[t].sigmoid_()
        torch.add(minus_one, n[t], alpha=2, out=n[t])
        torch.lerp(n[t], state[t], z[t], out=state[t + 1])
        output[t].t().copy_(state[t + 1])
        hidden[t + 1].copy_(output[t])
    return y_TBH, columns, gates, states


def gru_backward(
    weight_GC: Tensor,
    columns: Tensor,
    gates: Tensor,
    states: Tensor,
    starting: Sequence[Tensor | None],
    d_y_TBH: Tensor,
    d_hidden_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence backward; returns the gradients of the inputs, the weights and the first hidden units."""
    time, _, units, batch = gates.shape
    width = weight_GC.shape[1] - 1 - units
    d_x_TBD, d_weight = gates.new_empty(time, batch, width), torch.zeros_like(weight_GC)
    d_column = gates.new_empty(batch, width + 1 + units)
    d_hidden, d_x = d_column[:, -units:], d_column[:, :width]
    d_hidden.copy_(d_hidden_BH)
    d_h, d_carried = gates.new_empty(units, batch), gates.new_zeros(units, batch)

    at_once = max(1, min(time, AT_ONCE // (4 * units * batch)))
    slopes = gates.new_empty(at_once, 4, units, batch)
    slope, d_gates = slopes.unbind(0), (slopes[:, :2].flatten(1, 2), slopes[:, 2], slopes[:, 3])
    weight_of, d_weight_of = _products(weight_GC, d_column), _products(d_weight, columns)
    r, z, n, n_of_h = gates.unbind(1)
    for first in range((time - 1) // at_once * at_once, -1, -at_once):
        last = min(time, first + at_once)
        now, many = slice(first, last), slice(last - first)
        d_r, d_z, d_n, d_n_of_h = slopes[many].unbind(1)
        _tanh_backward(1 - z[now], n[now], grad_input=d_n)
        torch.mul(d_n, r[now], out=d_n_of_h)
        _sigmoid_backward(d_n * n_of_h[now], r[now], grad_input=d_r)
        _sigmoid_backward(states[now] - n[now], z[now], grad_input=d_z)
        for t in range(last - 1, first - 1, -1):
            k, rows = t - first, starting[t]
            torch.add(d_hidden.t(), d_y_TBH[t].t(), out=d_h)
            d_h.add_(d_carried)
            slope[k].mul_(d_h)
            torch.mm(d_gates[0][k].t(), weight_of[0][0], out=d_column)
            for d_gate, (weight, d_part) in zip(d_gates[1:], weight_of[1:], strict=True):
                d_part.addmm_(d_gate[k].t(), weight)
            for d_gate, (d_weight_part, part) in zip(d_gates, d_weight_of, strict=True):
                d_weight_part.addmm_(d_gate[k], part[t])
            d_x_TBD[t].copy_(d_x)
            torch.mul(d_h, z[t], out=d_carried)
            if rows is not None:
                _forget(d_hidden, 0, rows)
                _forget(d_carried, 1, rows)
    return d_x_TBD, d_weight, d_hidden + d_carried.t()


def _refuse_second_derivative() -> None:
    """Raise when the backward is to be differentiated itself; torch's own check misses the paths through weights."""
    if torch.is_grad_enabled():
        raise RuntimeError("rnn: backend 'loop' is not twice differentiable (create_graph); use backend 'reference'")


class _LSTM(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in `lstm_forward` and `lstm_backward`."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_GC: Tensor, hidden_BH: Tensor, cell_BH: Tensor, start_TB: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.starting = _starting(start_TB)
        y_TBH, *saved = lstm_forward(x_TBD, weight_GC, hidden_BH, cell_BH, ctx.starting)
        ctx.save_for_backward(weight_GC, *saved)
        return y_TBH, y_TBH[-1].clone(), saved[2][-1].t().clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        weight_GC, columns, gates, cells, squashed = ctx.saved_tensors
        d_y_TBH, d_hidden_BH, d_cell_BH = gradients
        saved = (weight_GC, columns, gates, cells, squashed, ctx.starting)
        return *lstm_backward(*saved, d_y_TBH, d_hidden_BH, d_cell_BH), None


class _GRU(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in `gru_forward` and `gru_backward`."""

    @staticmethod
    def forward(
        ctx: Any, x_TBD: Tensor, weight_GC: Tensor, hidden_BH: Tensor, start_TB: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.starting = _starting(start_TB)
        y_TBH, *saved = gru_forward(x_TBD, weight_GC, hidden_BH, ctx.starting)
        ctx.save_for_backward(weight_GC, *saved)
        return y_TBH, y_TBH[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        weight_GC, columns, gates, states = ctx.saved_tensors
        d_y_TBH, d_hidden_BH = gradients
        return *gru_backward(weight_GC, columns, gates, states, ctx.starting, d_y_TBH, d_hidden_BH), None


def _dense(recurrent_GNKK: Tensor) -> Tensor:
    """Return the weights (G, H, H) with a block per head on the diagonal, zeros elsewhere."""
    gates, heads, units, _ = recurrent_GNKK.shape
    if heads == 1:
        return recurrent_GNKK[:, 0]
    blocks = torch.diag_embed(recurrent_GNKK.movedim(1, -1), dim1=1, dim2=3)
    return blocks.reshape(gates, heads * units, heads * units)


def _computed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors in the one type that they are computed in, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def lstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the fast loop; see `mnemic.kernels.rnn.lstm`."""
    weight_GC = torch.cat([input_weight, bias[:, None], _dense(recurrent_GNKK).flatten(0, 1)], 1)
    results = _LSTM.apply(*_computed([x_TBD, weight_GC, hidden_BH, cell_BH]), start_TB)  # type: ignore[no-untyped-call]
    y_TBH, hidden_BH, cell_BH = (result.to(hidden_BH.dtype) for result in results)
    return y_TBH, hidden_BH, cell_BH


def gru(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the fast loop; see `mnemic.kernels.rnn.gru`."""
    dense, units = _dense(recurrent_GNKK), hidden_BH.shape[1]
    of_input = torch.cat([input_weight, bias[:, None]], 1)
    nothing = of_input.new_zeros(units, units), of_input.new_zeros(units, x_TBD.shape[2])
    weight_GC = torch.cat(
        [
            torch.cat([of_input, torch.cat([dense[0], dense[1], nothing[0]])], 1),
            torch.cat([nothing[1], recurrent_bias[:, None], dense[2]], 1),
        ]
    )
    results = _GRU.apply(*_computed([x_TBD, weight_GC, hidden_BH]), start_TB)  # type: ignore[no-untyped-call]
    y_TBH, hidden_BH = (result.to(hidden_BH.dtype) for result in results)
    return y_TBH, hidden_BH
