"""ParaGRU and ParaLSTM with the steps of a chunk in parallel: Newton's method on the chip, chunk after chunk of time.

A program has some lanes and walks over the chunks. In a chunk it guesses the state before each step, linearises all
steps there, and finds with one scan the states that the linear steps would have: `iterations` times. Then it looks by
how much a step from each state misses the next. From the first that it misses by more than the tolerance to the next
start, the lane is computed step by step: the same program does it, nobody waits. What a step holds depends on nothing
before its start, neither on how that was computed, so that forgetting is exact to the bit.
The backward is linear: one scan in reverse.
Source: Danieli et al. 2025, "ParaRNN" (arXiv 2510.21450), sections 2 and 3.
Shapes: T time, B rows, N heads, G = 3 gates, K units of a head, H = N K hidden units, P = 2 peepholes,
L lanes, C steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_cells as cells
from .newton import ITERATIONS, TOLERANCE
from .triton import Launch, Ways, run_gru, run_lstm


@triton.jit
def _line(a1, b1, a2, b2):
    # A step that hears nothing of the one before (a = 0) lets nothing through, not even a NaN.
    return tl.where(a2 == 0, 0.0, a2 * a1), tl.where(a2 == 0, b2, a2 * b1 + b2)


@triton.jit
def _plane(cc1, ch1, hc1, hh1, c1, h1, cc2, ch2, hc2, hh2, c2, h2):
    deaf = (cc2 == 0) & (ch2 == 0) & (hc2 == 0) & (hh2 == 0)
    return (
        tl.where(deaf, 0.0, cc2 * cc1 + ch2 * hc1),
        tl.where(deaf, 0.0, cc2 * ch1 + ch2 * hh1),
        tl.where(deaf, 0.0, hc2 * cc1 + hh2 * hc1),
        tl.where(deaf, 0.0, hc2 * ch1 + hh2 * hh1),
        tl.where(deaf, c2, cc2 * c1 + ch2 * h1 + c2),
        tl.where(deaf, h2, hc2 * c1 + hh2 * h1 + h2),
    )


@triton.jit
def _since(deaf1, missed1, deaf2, missed2):
    return deaf1 | deaf2, tl.where(deaf2 != 0, missed2, missed1 | missed2)


@triton.jit
def _chunk(given, start, at, row, t, T, batch, g_t, g_g, inside, TYPE: tl.constexpr):
    """Load the gates' inputs and the start flags of a chunk, (L, C), and say which of its steps exist."""
    t_1C = t[None, :]
    here = inside[:, None] & (t_1C < T)
    z, r, n = cells.load_gates(given + t_1C * g_t, at[:, None], g_g, here, TYPE)
    return z, r, n, tl.load(start + t_1C * batch + row[:, None], here, 0) != 0, here


@triton.jit
def _shifted(x, by, C: tl.constexpr):
    """Return the number of the step before (by = -1) or after (by = 1); at the edge, anything."""
    index = tl.arange(0, C)[None, :] + by
    index = tl.minimum(tl.maximum(index, 0), C - 1)
    return tl.gather(x, tl.broadcast_to(index, x.shape), 1)


@triton.jit
def _gru_forward(
    given, bias, recurrent, hidden, start, y, last, walked,
    T, batch, units, per_head, g_t, g_b, g_n, g_g, tolerance,
    LANES: tl.constexpr, CHUNK: tl.constexpr, ITERATIONS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_z, b_r, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_z, a_r, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    aa_z, aa_r, aa_n = a_z[:, None], a_r[:, None], a_n[:, None]
    every = tl.cast(batch, tl.int64) * units
    h_in = tl.load(hidden + lane, inside, 0).to(TYPE)
    opens = tl.arange(0, CHUNK)[None, :] == 0
    walks = 0
    for t0 in range(0, T, CHUNK):
        t = tl.cast(t0, tl.int64) + tl.arange(0, CHUNK)
        z_in, r_in, n_in, starts, here = _chunk(given, start, at, row, t, T, batch, g_t, g_g, inside, TYPE)
        z_in, r_in, n_in = z_in + b_z[:, None], r_in + b_r[:, None], n_in + b_n[:, None]
        alone = starts | opens
        origin = tl.where(opens & (starts == 0), h_in[:, None], tl.zeros_like(z_in))
        h = cells.sigmoid(z_in) * cells.tanh(n_in)
        before = tl.where(alone, origin, _shifted(h, -1, CHUNK))
        for _ in tl.static_range(ITERATIONS):
            z, r, n = cells.gru_gates(z_in, r_in, n_in, before, aa_z, aa_r, aa_n)
            _, _, _, slope = cells.gru_slopes(z, r, n, before, aa_z, aa_r, aa_n)
            guess = before + z * (n - before)
            a = tl.where(alone, 0.0, slope)
            b = tl.where(alone, guess, guess - slope * before)
            _, h = tl.associative_scan((a, b), 1, _line)
            before = tl.where(alone, origin, _shifted(h, -1, CHUNK))
        z, r, n = cells.gru_gates(z_in, r_in, n_in, before, aa_z, aa_r, aa_n)
        after = before + z * (n - before)
        missed = (here & ((tl.abs(after - h) <= tolerance) == 0)).to(tl.int32)
        _, missed = tl.associative_scan((alone.to(tl.int32), missed), 1, _since)
        # What is not known yet is marked by NaN.
        out = y + t[None, :] * every + lane[:, None]
        tl.store(out, tl.where(missed != 0, float("nan"), after), here)
        ends = tl.minimum(t0 + CHUNK, T)
        if tl.max(tl.max(missed, 1), 0) > 0:
            walks += 1
            tl.debug_barrier()
            for step in range(t0, ends):
                now = tl.cast(step, tl.int64)
                z_1, r_1, n_1 = cells.load_gates(given + now * g_t, at, g_g, inside, TYPE)
                known = tl.load(y + now * every + lane, inside, 0).to(TYPE)
                h_in = tl.where(tl.load(start + now * batch + row, inside, 0) != 0, 0.0, h_in)
                z_1, r_1, n_1 = cells.gru_gates(z_1 + b_z, r_1 + b_r, n_1 + b_n, h_in, a_z, a_r, a_n)
                h_in = tl.where(known == known, known, h_in + z_1 * (n_1 - h_in))
                tl.store(y + now * every + lane, h_in, inside)
        else:
            h_in = tl.sum(tl.where(t[None, :] == ends - 1, after, 0.0), 1)
    tl.store(last + lane, h_in, inside)
    tl.store(walked + tl.program_id(0), walks)


@triton.jit
def _gru_backward(
    given, bias, recurrent, hidden, start, y, d_y, d_last, d_given, d_hidden, d_vectors,
    T, batch, units, per_head, g_t, g_b, g_n, g_g,
    LANES: tl.constexpr, CHUNK: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_z, b_r, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_z, a_r, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    b_z, b_r, b_n, a_z, a_r, a_n = b_z[:, None], b_r[:, None], b_n[:, None], a_z[:, None], a_r[:, None], a_n[:, None]
    every = tl.cast(batch, tl.int64) * units
    first = tl.load(hidden + lane, inside, 0).to(TYPE)[:, None]
    carried = tl.load(d_last + lane, inside, 0).to(TYPE)
    db_z, db_r, db_n = tl.zeros_like(carried), tl.zeros_like(carried), tl.zeros_like(carried)
    da_z, da_r, da_n = tl.zeros_like(carried), tl.zeros_like(carried), tl.zeros_like(carried)
    begin = (T - 1) // CHUNK * CHUNK
    step = tl.arange(0, CHUNK)[None, :]
    for i in range(0, T, CHUNK):
        t = tl.cast(begin - i, tl.int64) + tl.arange(0, CHUNK)
        z_in, r_in, n_in, starts, here = _chunk(given, start, at, row, t, T, batch, g_t, g_g, inside, TYPE)
        t_1C, lane_L1 = t[None, :], lane[:, None]
        h = tl.load(y + (t_1C - 1) * every + lane_L1, here & (t_1C > 0), 0).to(TYPE)
        h = tl.where(starts, 0.0, tl.where(t_1C > 0, h, first))
        d_h = tl.load(d_y + t_1C * every + lane_L1, here, 0).to(TYPE)
        z, r, n = cells.gru_gates(z_in + b_z, r_in + b_r, n_in + b_n, h, a_z, a_r, a_n)
        d_z, d_r, d_n, slope = cells.gru_slopes(z, r, n, h, a_z, a_r, a_n)
        a = tl.where(here, tl.where(starts, 0.0, slope), 1.0)
        b = tl.where(a == 0, 0.0, a * d_h)
        a, b = tl.associative_scan((a, b), 1, _line, reverse=True)
        back = tl.where(a == 0, b, a * carried[:, None] + b)
        d_h += tl.where(step == CHUNK - 1, carried[:, None], _shifted(back, 1, CHUNK))
        carried = tl.sum(tl.where(step == 0, back, 0.0), 1)
        d_h = tl.where(here, d_h, 0.0)
        d_z, d_r, d_n = d_z * d_h, d_r * d_h, d_n * d_h
        out = d_given + t_1C * g_t + at[:, None]
        tl.store(out, d_z, here)
        tl.store(out + g_g, d_r, here)
        tl.store(out + 2 * g_g, d_n, here)
        db_z, db_r, db_n = db_z + tl.sum(d_z, 1), db_r + tl.sum(d_r, 1), db_n + tl.sum(d_n, 1)
        da_z, da_r, da_n = da_z + tl.sum(d_z * h, 1), da_r + tl.sum(d_r * h, 1), da_n + tl.sum(d_n * h * r, 1)
    tl.store(d_hidden + lane, carried, inside)
    tl.store(d_vectors + lane, db_z, inside)
    tl.store(d_vectors + every + lane, db_r, inside)
    tl.store(d_vectors + 2 * every + lane, db_n, inside)
    tl.store(d_vectors + 3 * every + lane, da_z, inside)
    tl.store(d_vectors + 4 * every + lane, da_r, inside)
    tl.store(d_vectors + 5 * every + lane, da_n, inside)


def launch(given_TBNGK: Tensor, computed: torch.dtype) -> Launch:
    """Choose lanes and steps of a chunk."""
    time, batch, heads, _, units = given_TBNGK.shape
    chunk = 64 if time > 32 else 32
    lanes = 8
    stride_t, stride_b, stride_n, stride_g, _ = given_TBNGK.stride()
    sizes = (time, batch, heads * units, units, stride_t, stride_b, stride_n, stride_g)
    kind = tl.float64 if computed == torch.float64 else tl.float32
    options = {"LANES": lanes, "CHUNK": chunk, "TYPE": kind, "num_warps": 4}
    return Launch((triton.cdiv(batch * heads * units, lanes),), sizes, options)


def gru_forward(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden units of every step, after the last, and how many chunks each program had to walk through."""
    y_TBH = hidden_BH.new_empty(len(start_TB), *hidden_BH.shape)
    last_BH = torch.empty_like(hidden_BH)
    grid, sizes, options = launch(given_TBNGK, bias_GH.dtype)
    walked = start_TB.new_empty(grid, dtype=torch.int32)
    tolerance = TOLERANCE[bias_GH.dtype] if tolerance is None else tolerance
    given = (given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB)
    _gru_forward[grid](*given, y_TBH, last_BH, walked, *sizes, tolerance, ITERATIONS=iterations, **options)
    return y_TBH, last_BH, walked


def gru_backward(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    y_TBH: Tensor,
    d_y_TBH: Tensor,
    d_last_BH: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `given_TBNGK`, the bias, the recurrent weights and the first hidden units."""
    d_given, d_hidden = torch.empty_like(given_TBNGK), torch.empty_like(hidden_BH)
    d_vectors = bias_GH.new_empty(6, *hidden_BH.shape)
    grid, sizes, options = launch(given_TBNGK, bias_GH.dtype)
    given = (given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB, y_TBH)
    _gru_backward[grid](*given, d_y_TBH, d_last_BH, d_given, d_hidden, d_vectors, *sizes, **options)
    d_bias, d_recurrent = d_vectors.sum(1).split(3)
    return d_given, d_bias, d_recurrent, d_hidden


def para_gru(
    given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve chunks of time by Newton's method; like `reference.para_gru`."""
    ways = Ways(lambda *given: gru_forward(*given)[:2], gru_backward)
    return run_gru(ways, given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB)
