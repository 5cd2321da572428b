"""LSTM and GRU whose loop over time holds nothing but what must be sequential, with the backward derived by hand.

Three things make it several times faster than autograd through the reference loop on a few CPU cores:

- One matrix product a step. The input, a one (for the bias) and the hidden units of a step lie side by side, and so do
  the weights. The backward needs one for the step before; those for inputs and weights are taken over several steps.
- Each gate is one contiguous block (B, H) that element-wise kernels run through, as are states, inputs and outputs.
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

# As many steps as give about this many numbers have their derivatives, and the products with them, computed at once.
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


def _forget(state_BH: Tensor, starting: Tensor) -> None:
    """Write zeros over the rows that start, in place."""
    if starting.dtype is torch.bool:
        state_BH.masked_fill_(starting[:, None], 0.0)
    else:
        state_BH.index_fill_(0, starting, 0.0)


def _at_once(time: int, batch: int, units: int) -> int:
    return max(1, min(time, AT_ONCE // (4 * units * batch)))


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
        The outputs (T, B, H), and what the backward needs: the columns (T + 1, B, C), the gates (T, 4, B, H), the cells
        (T + 1, B, H), from before the first step on and after forgetting, and their tanh (T, B, H).
    """
    (time, batch, _), units = x_TBD.shape, hidden_BH.shape[1]
    columns = _columns(x_TBD, hidden_BH)
    gates, squashed = x_TBD.new_empty(time, 4, batch, units), x_TBD.new_empty(time, batch, units)
    cells, y_TBH = x_TBD.new_empty(time + 1, batch, units), x_TBD.new_empty(time, batch, units)
    cells[0] = cell_BH
    weight = weight_GC.clone()
    weight[2 * units : 3 * units] *= 2
    minus_one = x_TBD.new_tensor(-1.0)
    product = x_TBD.new_empty(batch, 4 * units)
    by_gate, weight = product.view(batch, 4, units).transpose(0, 1), weight.t()

    hidden, cell, tanh, output = columns[..., -units:].unbind(0), cells.unbind(0), squashed.unbind(0), y_TBH.unbind(0)
    column, gate = columns.unbind(0), gates.unbind(0)
    i, f, g, o = (part.unbind(0) for part in gates.unbind(1))
    for t, rows in enumerate(starting):
        if rows is not None:
            _forget(hidden[t], rows)
            _forget(cell[t], rows)
        torch.mm(column[t], weight, out=product)
        torch.sigmoid(by_gate, out=gate[t])
        torch.add(minus_one, g[t], alpha=2, out=g[t])
        torch.mul(f[t], cell[t], out=cell[t + 1])
        cell[t + 1].addcmul_(i[t], g[t])
        torch.add(cell[t + 1], cell[t + 1], out=tanh[t])
        tanh[t].sigmoid_()
        torch.add(minus_one, tanh[t], alpha=2, out=tanh[t])
        torch.mul(o[t], tanh[t], out=output[t])
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
    time, _, batch, units = gates.shape
    width = weight_GC.shape[1] - 1 - units
    d_x_TBD, d_weight_CG = gates.new_empty(time, batch, width), torch.zeros_like(weight_GC.t())
    of_input, of_hidden = weight_GC[:, :width].contiguous(), weight_GC[:, -units:].contiguous()
    d_hidden, d_c = (part.clone(memory_format=torch.contiguous_format) for part in (d_hidden_BH, d_cell_BH))
    d_h = torch.empty_like(d_c)

    at_once = _at_once(time, batch, units)
    slopes, cell_slopes = gates.new_empty(at_once, 4, batch, units), gates.new_empty(at_once, batch, units)
    d_gates = gates.new_empty(at_once, batch, 4 * units)
    d_by_gate = d_gates.view(at_once, batch, 4, units)
    d_of_cell, d_of_hidden = d_by_gate[:, :, :3].unbind(0), d_by_gate[:, :, 3].unbind(0)
    of_cell, slope_o = slopes[:, :3].transpose(1, 2).unbind(0), slopes[:, 3].unbind(0)
    d_gate, cell_slope = d_gates.unbind(0), cell_slopes.unbind(0)
    i, f, g, o = gates.unbind(1)
    d_c_wide = d_c[:, None]
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
            torch.add(d_hidden, d_y_TBH[t], out=d_h)
            d_c.addcmul_(d_h, cell_slope[k])
            torch.mul(of_cell[k], d_c_wide, out=d_of_cell[k])
            torch.mul(slope_o[k], d_h, out=d_of_hidden[k])
            torch.mm(d_gate[k], of_hidden, out=d_hidden)
            d_c.mul_(f[t])
            if rows is not None:
                _forget(d_hidden, rows)
                _forget(d_c, rows)
        flat = d_gates[many].flatten(0, 1)
        d_weight_CG.addmm_(columns[now].flatten(0, 1).t(), flat)
        torch.mm(flat, of_input, out=d_x_TBD[now].flatten(0, 1))
    return d_x_TBD, d_weight_CG.t(), d_hidden, d_c


def gru_forward(
    x_TBD: Tensor, weight_GC: Tensor, hidden_BH: Tensor, starting: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence.

    Args:
        x_TBD: the inputs.
        weight_GC: (4 H, C), of the columns (input, one, hidden units): what the candidate n receives from the input and
            the one, the gates r and z, then what n receives from the one and the hidden units. What the first and the
            last have no part in is never read.
        hidden_BH: the hidden units before the first step.
        starting: per step, the rows that forget, or None.

    Returns:
        The outputs (T, B, H), and what the backward needs: the columns (T + 1, B, C), n, r, z and n's part from the
        hidden units (T, 4, B, H), and the hidden units (T + 1, B, H), from before the first step on, after forgetting.
    """
    (time, batch, width), units = x_TBD.shape, hidden_BH.shape[1]
    columns, gates = _columns(x_TBD, hidden_BH), x_TBD.new_empty(time, 4, batch, units)
    states, y_TBH = x_TBD.new_empty(time + 1, batch, units), x_TBD.new_empty(time, batch, units)
    states[0] = hidden_BH
    minus_one = x_TBD.new_tensor(-1.0)
    product = x_TBD.new_empty(batch, 2 * units)
    by_gate = product.view(batch, 2, units).transpose(0, 1)
    of_input, of_hidden = weight_GC[:units, : width + 1].t(), weight_GC[3 * units :, width:].t()
    both = weight_GC[units : 3 * units].t()

    hidden, state, output = columns[..., -units:].unbind(0), states.unbind(0), y_TBH.unbind(0)
    column, given, kept = columns.unbind(0), columns[..., : width + 1].unbind(0), columns[..., width:].unbind(0)
    n, r, z, n_of_h = (part.unbind(0) for part in gates.unbind(1))
    r_and_z = gates[:, 1:3].unbind(0)
    for t, rows in enumerate(starting):
        if rows is not None:
            _forget(hidden[t], rows)
            _forget(state[t], rows)
        torch.mm(column[t], both, out=product)
        torch.mm(given[t], of_input, out=n[t])
        torch.mm(kept[t], of_hidden, out=n_of_h[t])
        torch.sigmoid(by_gate, out=r_and_z[t])
        n[t].addcmul_(r[t], n_of_h[t])
        torch.add(n[t], n[t], out=n[t])
        n[t].sigmoid_()
        torch.add(minus_one, n[t], alpha=2, out=n[t])
        torch.lerp(n[t], state[t], z[t], out=output[t])
        state[t + 1].copy_(output[t])
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
    time, _, batch, units = gates.shape
    width = weight_GC.shape[1] - 1 - units
    d_x_TBD, d_weight_CG = gates.new_empty(time, batch, width), torch.zeros_like(weight_GC.t())
    # n, r and z hear the input; r, z and the last part the hidden units.
    d_of_input, d_of_hidden = d_weight_CG[: width + 1, : 3 * units], d_weight_CG[width:, units:]
    of_input, of_hidden = weight_GC[: 3 * units, :width].contiguous(), weight_GC[units:, -units:].contiguous()
    d_hidden, d_carried = d_hidden_BH.clone(memory_format=torch.contiguous_format), gates.new_zeros(batch, units)
    d_h = torch.empty_like(d_carried)

    at_once = _at_once(time, batch, units)
    slopes, d_gates = gates.new_empty(at_once, 4, batch, units), gates.new_empty(at_once, batch, 4 * units)
    slope, d_by_gate = slopes.transpose(1, 2).unbind(0), d_gates.view(at_once, batch, 4, units).unbind(0)
    heard, d_h_wide = d_gates[..., units:].unbind(0), d_h[:, None]
    n, r, z, n_of_h = gates.unbind(1)
    for first in range((time - 1) // at_once * at_once, -1, -at_once):
        last = min(time, first + at_once)
        now, many = slice(first, last), slice(last - first)
        d_n, d_r, d_z, d_n_of_h = slopes[many].unbind(1)
        _tanh_backward(1 - z[now], n[now], grad_input=d_n)
        torch.mul(d_n, r[now], out=d_n_of_h)
        _sigmoid_backward(d_n * n_of_h[now], r[now], grad_input=d_r)
        _sigmoid_backward(states[now] - n[now], z[now], grad_input=d_z)
        for t in range(last - 1, first - 1, -1):
            k, rows = t - first, starting[t]
            torch.add(d_hidden, d_y_TBH[t], out=d_h)
            d_h.add_(d_carried)
            torch.mul(slope[k], d_h_wide, out=d_by_gate[k])
            torch.mm(heard[k], of_hidden, out=d_hidden)
            torch.mul(d_h, z[t], out=d_carried)
            if rows is not None:
                _forget(d_hidden, rows)
                _forget(d_carried, rows)
        flat, column = d_gates[many].flatten(0, 1), columns[now].flatten(0, 1).t()
        d_of_input.addmm_(column[: width + 1], flat[:, : 3 * units])
        d_one_of_input = d_of_input[width, units:].clone()  # the one of r and z stands in both parts, and counts once
        d_of_hidden.addmm_(column[width:], flat[:, units:])
        d_of_input[width, units:] = d_one_of_input
        torch.mm(flat[:, : 3 * units], of_input, out=d_x_TBD[now].flatten(0, 1))
    return d_x_TBD, d_weight_CG.t(), d_hidden + d_carried


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
        return y_TBH, y_TBH[-1].clone(), saved[2][-1].clone()

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


def dense(recurrent_GNKK: Tensor) -> Tensor:
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
    weight_GC = torch.cat([input_weight, bias[:, None], dense(recurrent_GNKK).flatten(0, 1)], 1)
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
    weights, units = dense(recurrent_GNKK), hidden_BH.shape[1]
    of_input = torch.cat([input_weight, bias[:, None]], 1)
    nothing = of_input.new_zeros(units, units), of_input.new_zeros(units, x_TBD.shape[2])
    weight_GC = torch.cat(
        [
            torch.cat([of_input[2 * units :], nothing[0]], 1),
            torch.cat([of_input[: 2 * units], weights[:2].flatten(0, 1)], 1),
            torch.cat([nothing[1], recurrent_bias[:, None], weights[2]], 1),
        ]
    )
    results = _GRU.apply(*_computed([x_TBD, weight_GC, hidden_BH]), start_TB)  # type: ignore[no-untyped-call]
    y_TBH, hidden_BH = (result.to(hidden_BH.dtype) for result in results)
    return y_TBH, hidden_BH
