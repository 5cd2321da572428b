"""LSTM and GRU whose loop over time holds nothing but what must be sequential, with the backward derived by hand.

Three things make it several times faster than autograd through the reference loop on a few CPU cores:

- One matrix product a step. The input, a one (for the bias) and the hidden units of a step lie side by side, and so do
  the weights; the backward needs one product for the step before and one for all weights.
- Gates are feature-major, (G, H, B): each is one contiguous block that element-wise kernels run through.
- The local derivatives of several steps are computed at once, few enough to stay in the cache.

tanh(v) is computed as 2 sigmoid(2 v) - 1: on CPU, torch has a vectorised, threaded sigmoid, and its tanh costs three times as
much. The error is one rounding of 1, and never relative to a small v, so that the kernel works in float32 or float64 only.

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


def _starting(start_TB: Tensor) -> Sequence[Tensor | None]:
    """Return per step which rows start: their indices or None on CPU (one look per window), else the masks (no look)."""
    if start_TB.device.type != "cpu":
        return start_TB.unbind(0)
    counts = start_TB.sum(1).tolist()
    indices = start_TB.nonzero()[:, 1].split(counts)
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
    """Run the recurrence backward; returns the gradients of the inputs, the weights, the first hidden units and cell."""
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
