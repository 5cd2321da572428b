"""ParaGRU and ParaLSTM in one launch each way: a loop over time on the chip, a lane for each unit of each row.

State-to-state weights are diagonal, so a lane needs nothing from another: its state stays in a register, and a step
reads three numbers and writes one. The inputs of the next steps are on their way while these are computed. Nothing but
the states is kept for the backward, which computes the gates again.
Shapes: T time, B rows, N heads, G = 3 gates, K units of a head, H = N K hidden units, P = 2 peepholes, L lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_cells as cells
from .loop import refuse_second_derivative


@triton.jit(do_not_specialize=["T", "batch"])
def _gru_forward(
    given, bias, recurrent, hidden, start, y, last,
    T, batch, units, per_head, g_t, g_b, g_n, g_g,
    LANES: tl.constexpr, STEPS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_z, b_r, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_z, a_r, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    every = tl.cast(batch, tl.int64) * units
    h = tl.load(hidden + lane, inside, 0).to(TYPE)
    next_z = cells.load_steps(given, at, 0, T, g_t, inside, STEPS)
    next_r = cells.load_steps(given + g_g, at, 0, T, g_t, inside, STEPS)
    next_n = cells.load_steps(given + 2 * g_g, at, 0, T, g_t, inside, STEPS)
    next_start = cells.load_steps(start, row, 0, T, batch, inside, STEPS)
    for t0 in range(0, T, STEPS):
        z_in, r_in = cells.columns(next_z, LANES, STEPS), cells.columns(next_r, LANES, STEPS)
        n_in, starts = cells.columns(next_n, LANES, STEPS), cells.columns(next_start, LANES, STEPS)
        next_z = cells.load_steps(given, at, t0 + STEPS, T, g_t, inside, STEPS)
        next_r = cells.load_steps(given + g_g, at, t0 + STEPS, T, g_t, inside, STEPS)
        next_n = cells.load_steps(given + 2 * g_g, at, t0 + STEPS, T, g_t, inside, STEPS)
        next_start = cells.load_steps(start, row, t0 + STEPS, T, batch, inside, STEPS)
        for s in tl.static_range(STEPS):
            t = tl.cast(t0 + s, tl.int64)
            h = tl.where(starts[s] != 0, 0.0, h)
            z_now, r_now, n_now = z_in[s].to(TYPE) + b_z, r_in[s].to(TYPE) + b_r, n_in[s].to(TYPE) + b_n
            z, _, n = cells.gru_gates(z_now, r_now, n_now, h, a_z, a_r, a_n)
            h = tl.where(t < T, h + z * (n - h), h)
            tl.store(y + t * every + lane, h, inside & (t < T))
    tl.store(last + lane, h, inside)


@triton.jit(do_not_specialize=["T", "batch"])
def _gru_backward(
    given, bias, recurrent, hidden, start, y, d_y, d_last, d_given, d_hidden, d_vectors,
    T, batch, units, per_head, g_t, g_b, g_n, g_g,
    LANES: tl.constexpr, STEPS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_z, b_r, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_z, a_r, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    every = tl.cast(batch, tl.int64) * units
    first = tl.load(hidden + lane, inside, 0).to(TYPE)
    d_h = tl.load(d_last + lane, inside, 0).to(TYPE)
    db_z, db_r, db_n = tl.zeros_like(d_h), tl.zeros_like(d_h), tl.zeros_like(d_h)
    da_z, da_r, da_n = tl.zeros_like(d_h), tl.zeros_like(d_h), tl.zeros_like(d_h)
    begin = (T - 1) // STEPS * STEPS
    next_z = cells.load_steps(given, at, begin, T, g_t, inside, STEPS)
    next_r = cells.load_steps(given + g_g, at, begin, T, g_t, inside, STEPS)
    next_n = cells.load_steps(given + 2 * g_g, at, begin, T, g_t, inside, STEPS)
    next_start = cells.load_steps(start, row, begin, T, batch, inside, STEPS)
    next_h = cells.load_steps(y, lane, begin - 1, T, every, inside, STEPS)
    next_d = cells.load_steps(d_y, lane, begin, T, every, inside, STEPS)
    for i in range(0, T, STEPS):
        t0 = begin - i
        z_in, r_in = cells.columns(next_z, LANES, STEPS), cells.columns(next_r, LANES, STEPS)
        n_in, starts = cells.columns(next_n, LANES, STEPS), cells.columns(next_start, LANES, STEPS)
        before, d_now = cells.columns(next_h, LANES, STEPS), cells.columns(next_d, LANES, STEPS)
        next_z = cells.load_steps(given, at, t0 - STEPS, T, g_t, inside, STEPS)
        next_r = cells.load_steps(given + g_g, at, t0 - STEPS, T, g_t, inside, STEPS)
        next_n = cells.load_steps(given + 2 * g_g, at, t0 - STEPS, T, g_t, inside, STEPS)
        next_start = cells.load_steps(start, row, t0 - STEPS, T, batch, inside, STEPS)
        next_h = cells.load_steps(y, lane, t0 - STEPS - 1, T, every, inside, STEPS)
        next_d = cells.load_steps(d_y, lane, t0 - STEPS, T, every, inside, STEPS)
        for s in tl.static_range(STEPS - 1, -1, -1):
            t = tl.cast(t0 + s, tl.int64)
            here, begins = inside & (t < T), starts[s] != 0
            h = tl.where(begins, 0.0, tl.where(t > 0, before[s].to(TYPE), first))
            z_now, r_now, n_now = z_in[s].to(TYPE) + b_z, r_in[s].to(TYPE) + b_r, n_in[s].to(TYPE) + b_n
            z, r, n = cells.gru_gates(z_now, r_now, n_now, h, a_z, a_r, a_n)
            d_z, d_r, d_n, slope = cells.gru_slopes(z, r, n, h, a_z, a_r, a_n)
            # Past the end the gates are not 0, as what is loaded is: no gradient there.
            d_h = d_h + d_now[s].to(TYPE)
            moved = tl.where(here, d_h, 0.0)
            d_z, d_r, d_n = d_z * moved, d_r * moved, d_n * moved
            out = d_given + t * g_t + at
            tl.store(out, d_z, here)
            tl.store(out + g_g, d_r, here)
            tl.store(out + 2 * g_g, d_n, here)
            db_z, db_r, db_n = db_z + d_z, db_r + d_r, db_n + d_n
            da_z, da_r, da_n = da_z + d_z * h, da_r + d_r * h, da_n + d_n * h * r
            d_h = tl.where(here, tl.where(begins, 0.0, slope * d_h), d_h)
    tl.store(d_hidden + lane, d_h, inside)
    tl.store(d_vectors + lane, db_z, inside)
    tl.store(d_vectors + every + lane, db_r, inside)
    tl.store(d_vectors + 2 * every + lane, db_n, inside)
    tl.store(d_vectors + 3 * every + lane, da_z, inside)
    tl.store(d_vectors + 4 * every + lane, da_r, inside)
    tl.store(d_vectors + 5 * every + lane, da_n, inside)


@triton.jit(do_not_specialize=["T", "batch"])
def _lstm_forward(
    given, bias, recurrent, peephole, hidden, cell, start, y, cells_out, last_h, last_c,
    T, batch, units, per_head, g_t, g_b, g_n, g_g,
    LANES: tl.constexpr, STEPS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_f, b_o, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_f, a_o, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    p_f = tl.load(peephole + unit, inside, 0).to(TYPE)
    p_o = tl.load(peephole + units + unit, inside, 0).to(TYPE)
    every = tl.cast(batch, tl.int64) * units
    h, c = tl.load(hidden + lane, inside, 0).to(TYPE), tl.load(cell + lane, inside, 0).to(TYPE)
    next_f = cells.load_steps(given, at, 0, T, g_t, inside, STEPS)
    next_o = cells.load_steps(given + g_g, at, 0, T, g_t, inside, STEPS)
    next_n = cells.load_steps(given + 2 * g_g, at, 0, T, g_t, inside, STEPS)
    next_start = cells.load_steps(start, row, 0, T, batch, inside, STEPS)
    for t0 in range(0, T, STEPS):
        f_in, o_in = cells.columns(next_f, LANES, STEPS), cells.columns(next_o, LANES, STEPS)
        n_in, starts = cells.columns(next_n, LANES, STEPS), cells.columns(next_start, LANES, STEPS)
        next_f = cells.load_steps(given, at, t0 + STEPS, T, g_t, inside, STEPS)
        next_o = cells.load_steps(given + g_g, at, t0 + STEPS, T, g_t, inside, STEPS)
        next_n = cells.load_steps(given + 2 * g_g, at, t0 + STEPS, T, g_t, inside, STEPS)
        next_start = cells.load_steps(start, row, t0 + STEPS, T, batch, inside, STEPS)
        for s in tl.static_range(STEPS):
            t = tl.cast(t0 + s, tl.int64)
            begins = starts[s] != 0
            h, c = tl.where(begins, 0.0, h), tl.where(begins, 0.0, c)
            f_now, o_now, n_now = f_in[s].to(TYPE) + b_f, o_in[s].to(TYPE) + b_o, n_in[s].to(TYPE) + b_n
            _, o, _, c_new = cells.lstm_gates(f_now, o_now, n_now, h, c, a_f, a_o, a_n, p_f, p_o)
            h, c = tl.where(t < T, o * cells.tanh(c_new), h), tl.where(t < T, c_new, c)
            tl.store(y + t * every + lane, h, inside & (t < T))
            tl.store(cells_out + t * every + lane, c, inside & (t < T))
    tl.store(last_h + lane, h, inside)
    tl.store(last_c + lane, c, inside)


@triton.jit(do_not_specialize=["T", "batch"])
def _lstm_backward(
    given, bias, recurrent, peephole, hidden, cell, start, y, cells_out, d_y, d_last_h, d_last_c,
    d_given, d_hidden, d_cell, d_vectors,
    T, batch, units, per_head, g_t, g_b, g_n, g_g,
    LANES: tl.constexpr, STEPS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_f, b_o, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_f, a_o, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    p_f = tl.load(peephole + unit, inside, 0).to(TYPE)
    p_o = tl.load(peephole + units + unit, inside, 0).to(TYPE)
    every = tl.cast(batch, tl.int64) * units
    first_h, first_c = tl.load(hidden + lane, inside, 0).to(TYPE), tl.load(cell + lane, inside, 0).to(TYPE)
    d_h, d_c = tl.load(d_last_h + lane, inside, 0).to(TYPE), tl.load(d_last_c + lane, inside, 0).to(TYPE)
    db_f, db_o, db_n = tl.zeros_like(d_h), tl.zeros_like(d_h), tl.zeros_like(d_h)
    da_f, da_o, da_n = tl.zeros_like(d_h), tl.zeros_like(d_h), tl.zeros_like(d_h)
    dp_f, dp_o = tl.zeros_like(d_h), tl.zeros_like(d_h)
    begin = (T - 1) // STEPS * STEPS
    next_f = cells.load_steps(given, at, begin, T, g_t, inside, STEPS)
    next_o = cells.load_steps(given + g_g, at, begin, T, g_t, inside, STEPS)
    next_n = cells.load_steps(given + 2 * g_g, at, begin, T, g_t, inside, STEPS)
    next_start = cells.load_steps(start, row, begin, T, batch, inside, STEPS)
    next_h = cells.load_steps(y, lane, begin - 1, T, every, inside, STEPS)
    next_c = cells.load_steps(cells_out, lane, begin - 1, T, every, inside, STEPS)
    next_d = cells.load_steps(d_y, lane, begin, T, every, inside, STEPS)
    for i in range(0, T, STEPS):
        t0 = begin - i
        f_in, o_in = cells.columns(next_f, LANES, STEPS), cells.columns(next_o, LANES, STEPS)
        n_in, starts = cells.columns(next_n, LANES, STEPS), cells.columns(next_start, LANES, STEPS)
        before_h, before_c = cells.columns(next_h, LANES, STEPS), cells.columns(next_c, LANES, STEPS)
        d_now = cells.columns(next_d, LANES, STEPS)
        next_f = cells.load_steps(given, at, t0 - STEPS, T, g_t, inside, STEPS)
        next_o = cells.load_steps(given + g_g, at, t0 - STEPS, T, g_t, inside, STEPS)
        next_n = cells.load_steps(given + 2 * g_g, at, t0 - STEPS, T, g_t, inside, STEPS)
        next_start = cells.load_steps(start, row, t0 - STEPS, T, batch, inside, STEPS)
        next_h = cells.load_steps(y, lane, t0 - STEPS - 1, T, every, inside, STEPS)
        next_c = cells.load_steps(cells_out, lane, t0 - STEPS - 1, T, every, inside, STEPS)
        next_d = cells.load_steps(d_y, lane, t0 - STEPS, T, every, inside, STEPS)
        for s in tl.static_range(STEPS - 1, -1, -1):
            t = tl.cast(t0 + s, tl.int64)
            here, begins = inside & (t < T), starts[s] != 0
            h = tl.where(begins, 0.0, tl.where(t > 0, before_h[s].to(TYPE), first_h))
            c = tl.where(begins, 0.0, tl.where(t > 0, before_c[s].to(TYPE), first_c))
            f_now, o_now, n_now = f_in[s].to(TYPE) + b_f, o_in[s].to(TYPE) + b_o, n_in[s].to(TYPE) + b_n
            f, o, n, c_new = cells.lstm_gates(f_now, o_now, n_now, h, c, a_f, a_o, a_n, p_f, p_o)
            of_f, of_o, of_n, of_c, _ = cells.lstm_slopes(f, o, n, c, c_new, p_o)
            d_h = d_h + d_now[s].to(TYPE)
            moved_h = tl.where(here, d_h, 0.0)
            moved_c = tl.where(here, d_c + of_c * d_h, 0.0)
            d_f, d_o, d_n = of_f * moved_c, of_o * moved_h, of_n * moved_c
            out = d_given + t * g_t + at
            tl.store(out, d_f, here)
            tl.store(out + g_g, d_o, here)
            tl.store(out + 2 * g_g, d_n, here)
            db_f, db_o, db_n = db_f + d_f, db_o + d_o, db_n + d_n
            da_f, da_o, da_n = da_f + d_f * h, da_o + d_o * h, da_n + d_n * h
            dp_f, dp_o = dp_f + d_f * c, dp_o + d_o * c_new
            d_h = tl.where(here, tl.where(begins, 0.0, a_f * d_f + a_o * d_o + a_n * d_n), d_h)
            d_c = tl.where(here, tl.where(begins, 0.0, f * moved_c + p_f * d_f), d_c)
    tl.store(d_hidden + lane, d_h, inside)
    tl.store(d_cell + lane, d_c, inside)
    tl.store(d_vectors + lane, db_f, inside)
    tl.store(d_vectors + every + lane, db_o, inside)
    tl.store(d_vectors + 2 * every + lane, db_n, inside)
    tl.store(d_vectors + 3 * every + lane, da_f, inside)
    tl.store(d_vectors + 4 * every + lane, da_o, inside)
    tl.store(d_vectors + 5 * every + lane, da_n, inside)
    tl.store(d_vectors + 6 * every + lane, dp_f, inside)
    tl.store(d_vectors + 7 * every + lane, dp_o, inside)


class Ways(NamedTuple):
    """The two directions of a cell."""

    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]


class Launch(NamedTuple):
    """How a kernel is started: the grid, and the options that depend on sizes."""

    grid: tuple[int]
    sizes: tuple[int, ...]
    options: dict[str, Any]


def launch(given_TBNGK: Tensor, computed: torch.dtype, *, backward: bool) -> Launch:
    """Return the grid and the options: a warp for 32 lanes, whose next steps are loaded while it computes."""
    time, batch, heads, _, units = given_TBNGK.shape
    stride_t, stride_b, stride_n, stride_g, _ = given_TBNGK.stride()
    sizes = (time, batch, heads * units, units, stride_t, stride_b, stride_n, stride_g)
    kind = tl.float64 if computed == torch.float64 else tl.float32
    options = {"LANES": 32, "STEPS": 4 if backward else 8, "TYPE": kind, "num_warps": 1}
    return Launch((triton.cdiv(batch * heads * units, 32),), sizes, options)


def gru_forward(
    given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the hidden units of every step, and after the last."""
    y_TBH = hidden_BH.new_empty(len(start_TB), *hidden_BH.shape)
    last_BH = torch.empty_like(hidden_BH)
    grid, sizes, options = launch(given_TBNGK, bias_GH.dtype, backward=False)
    _gru_forward[grid](given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB, y_TBH, last_BH, *sizes, **options)
    return y_TBH, last_BH


def gru_gradients(
    kernel: Any,
    how: Launch,
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    y_TBH: Tensor,
    d_y_TBH: Tensor,
    d_last_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run a backward kernel; return the gradients of `given`, bias, recurrent weights and first hidden units."""
    d_given, d_hidden = torch.empty_like(given_TBNGK), torch.empty_like(hidden_BH)
    d_vectors = bias_GH.new_empty(6, *hidden_BH.shape)
    given = (given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB, y_TBH)
    kernel[how.grid](*given, d_y_TBH, d_last_BH, d_given, d_hidden, d_vectors, *how.sizes, **how.options)
    d_bias, d_recurrent = d_vectors.sum(1).split(3)
    return d_given, d_bias, d_recurrent, d_hidden


def lstm_forward(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the hidden units and the cell of every step, and both after the last."""
    y_TBH = hidden_BH.new_empty(len(start_TB), *hidden_BH.shape)
    cell_TBH = torch.empty_like(y_TBH)
    last_BH, last_cell_BH = torch.empty_like(hidden_BH), torch.empty_like(cell_BH)
    grid, sizes, options = launch(given_TBNGK, bias_GH.dtype, backward=False)
    given = (given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
    _lstm_forward[grid](*given, y_TBH, cell_TBH, last_BH, last_cell_BH, *sizes, **options)
    return y_TBH, cell_TBH, last_BH, last_cell_BH


def lstm_gradients(
    kernel: Any,
    how: Launch,
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    y_TBH: Tensor,
    cell_TBH: Tensor,
    d_y_TBH: Tensor,
    d_last_BH: Tensor,
    d_last_cell_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run a backward kernel; return the gradients of `given`, bias, recurrent weights, peepholes and first state."""
    d_given, d_hidden, d_cell = (torch.empty_like(part) for part in (given_TBNGK, hidden_BH, cell_BH))
    d_vectors = bias_GH.new_empty(8, *hidden_BH.shape)
    given = (given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB, y_TBH, cell_TBH)
    gradients = (d_y_TBH, d_last_BH, d_last_cell_BH, d_given, d_hidden, d_cell, d_vectors)
    kernel[how.grid](*given, *gradients, *how.sizes, **how.options)
    d_bias, d_recurrent, d_peephole = d_vectors.sum(1).split((3, 3, 2))
    return d_given, d_bias, d_recurrent, d_peephole, d_hidden, d_cell


def backward_by(
    gradients: Callable[..., tuple[Tensor, ...]], kernel: Any, start: Callable[[Tensor, torch.dtype], Launch]
) -> Callable[..., tuple[Tensor, ...]]:
    """Return the backward direction that a kernel, started in some way, computes."""
    return lambda given, bias, *others: gradients(kernel, start(given, bias.dtype), given, bias, *others)


class _GRU(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in the kernels."""

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, bias: Tensor, recurrent: Tensor, hidden: Tensor, start: Tensor, ways: Ways
    ) -> tuple[Tensor, Tensor]:
        y_TBH, last_BH = ways.forward(given, bias, recurrent, hidden, start)
        ctx.save_for_backward(given, bias, recurrent, hidden, start, y_TBH)
        ctx.backward_way = ways.backward
        return y_TBH, last_BH

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        return *ctx.backward_way(*ctx.saved_tensors, d_y.contiguous(), d_last.contiguous()), None, None


class _LSTM(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in the kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        bias: Tensor,
        recurrent: Tensor,
        peephole: Tensor,
        hidden: Tensor,
        cell: Tensor,
        start: Tensor,
        ways: Ways,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y_TBH, cell_TBH, last, last_cell = ways.forward(given, bias, recurrent, peephole, hidden, cell, start)
        ctx.save_for_backward(given, bias, recurrent, peephole, hidden, cell, start, y_TBH, cell_TBH)
        ctx.backward_way = ways.backward
        return y_TBH, last, last_cell

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor, d_last_cell: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        gradients = (d_y.contiguous(), d_last.contiguous(), d_last_cell.contiguous())
        return *ctx.backward_way(*ctx.saved_tensors, *gradients), None, None


def vectors(given_TBNGK: Tensor, *parts: Tensor) -> list[Tensor]:
    """Return parameters in one piece and in the type of the computation, at least float32."""
    computed = torch.float32
    for part in (given_TBNGK, *parts):
        computed = torch.promote_types(computed, part.dtype)
    return [part.to(computed).contiguous() for part in parts]


def dense(given_TBNGK: Tensor) -> Tensor:
    """Return the inputs of the gates in one place: as they are, where their gradient can have the same strides."""
    like = torch.empty_like(given_TBNGK, device="meta")
    return given_TBNGK if like.stride() == given_TBNGK.stride() and like.stride(-1) == 1 else given_TBNGK.contiguous()


def run_gru(
    ways: Ways, given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a ParaGRU in some way; like `reference.para_gru`."""
    bias_GH, recurrent_GH = vectors(given_TBNGK, bias_GH, recurrent_GH)
    given = (dense(given_TBNGK), bias_GH, recurrent_GH, hidden_BH.contiguous(), start_TB.contiguous())
    y_TBH, last_BH = _GRU.apply(*given, ways)
    return y_TBH, last_BH


def run_lstm(
    ways: Ways,
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a ParaLSTM in some way; like `reference.para_lstm`."""
    parameters = vectors(given_TBNGK, bias_GH, recurrent_GH, peephole_PH)
    given = (dense(given_TBNGK), *parameters, hidden_BH.contiguous(), cell_BH.contiguous(), start_TB.contiguous())
    y_TBH, last_BH, last_cell_BH = _LSTM.apply(*given, ways)
    return y_TBH, last_BH, last_cell_BH


def para_gru(
    given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Loop over time on the chip; like `reference.para_gru`."""
    ways = Ways(gru_forward, backward_by(gru_gradients, _gru_backward, partial(launch, backward=True)))
    return run_gru(ways, given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB)


def para_lstm(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loop over time on the chip; like `reference.para_lstm`."""
    ways = Ways(lstm_forward, backward_by(lstm_gradients, _lstm_backward, partial(launch, backward=True)))
    return run_lstm(ways, given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
