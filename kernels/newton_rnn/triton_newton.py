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
from .triton import Launch, Ways, backward_by, gru_gradients, lstm_gradients, run_gru, run_lstm


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


@triton.jit(do_not_specialize=["T", "batch"])
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
        final = t[None, :] == ends - 1
        unknown = tl.sum(tl.where(final, missed, 0), 1) != 0
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
        # Not as it was written where it is known: that may be in half precision, and depend on who walked.
        h_in = tl.where(unknown, h_in, tl.sum(tl.where(final, after, 0.0), 1))
    tl.store(last + lane, h_in, inside)
    tl.store(walked + tl.program_id(0), walks)


@triton.jit(do_not_specialize=["T", "batch"])
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


@triton.jit(do_not_specialize=["T", "batch"])
def _lstm_forward(
    given, bias, recurrent, peephole, hidden, cell, start, y, cells_out, last_h, last_c, walked,
    T, batch, units, per_head, g_t, g_b, g_n, g_g, tolerance,
    LANES: tl.constexpr, CHUNK: tl.constexpr, ITERATIONS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_f, b_o, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_f, a_o, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    p_f = tl.load(peephole + unit, inside, 0).to(TYPE)
    p_o = tl.load(peephole + units + unit, inside, 0).to(TYPE)
    aa_f, aa_o, aa_n, pp_f, pp_o = a_f[:, None], a_o[:, None], a_n[:, None], p_f[:, None], p_o[:, None]
    every = tl.cast(batch, tl.int64) * units
    h_in, c_in = tl.load(hidden + lane, inside, 0).to(TYPE), tl.load(cell + lane, inside, 0).to(TYPE)
    opens = tl.arange(0, CHUNK)[None, :] == 0
    walks = 0
    for t0 in range(0, T, CHUNK):
        t = tl.cast(t0, tl.int64) + tl.arange(0, CHUNK)
        f_in, o_in, n_in, starts, here = _chunk(given, start, at, row, t, T, batch, g_t, g_g, inside, TYPE)
        f_in, o_in, n_in = f_in + b_f[:, None], o_in + b_o[:, None], n_in + b_n[:, None]
        alone = starts | opens
        heard = opens & (starts == 0)
        h_origin = tl.where(heard, h_in[:, None], tl.zeros_like(f_in))
        c_origin = tl.where(heard, c_in[:, None], tl.zeros_like(f_in))
        c = (1.0 - cells.sigmoid(f_in)) * cells.tanh(n_in)
        h = cells.sigmoid(o_in + pp_o * c) * cells.tanh(c)
        h_before = tl.where(alone, h_origin, _shifted(h, -1, CHUNK))
        c_before = tl.where(alone, c_origin, _shifted(c, -1, CHUNK))
        for _ in tl.static_range(ITERATIONS):
            f, o, n, c_next = cells.lstm_gates(f_in, o_in, n_in, h_before, c_before, aa_f, aa_o, aa_n, pp_f, pp_o)
            of_f, of_o, of_n, of_c, squashed = cells.lstm_slopes(f, o, n, c_before, c_next, pp_o)
            cc = tl.where(alone, 0.0, f + of_f * pp_f)
            ch = tl.where(alone, 0.0, of_f * aa_f + of_n * aa_n)
            hc = of_c * cc
            hh = tl.where(alone, 0.0, of_c * ch + of_o * aa_o)
            c = tl.where(alone, c_next, c_next - cc * c_before - ch * h_before)
            h = tl.where(alone, o * squashed, o * squashed - hc * c_before - hh * h_before)
            _, _, _, _, c, h = tl.associative_scan((cc, ch, hc, hh, c, h), 1, _plane)
            h_before = tl.where(alone, h_origin, _shifted(h, -1, CHUNK))
            c_before = tl.where(alone, c_origin, _shifted(c, -1, CHUNK))
        f, o, n, c_next = cells.lstm_gates(f_in, o_in, n_in, h_before, c_before, aa_f, aa_o, aa_n, pp_f, pp_o)
        h_next = o * cells.tanh(c_next)
        near = (tl.abs(h_next - h) <= tolerance) & (tl.abs(c_next - c) <= tolerance)
        missed = (here & (near == 0)).to(tl.int32)
        _, missed = tl.associative_scan((alone.to(tl.int32), missed), 1, _since)
        # What is not known yet is marked by NaN.
        out = t[None, :] * every + lane[:, None]
        tl.store(y + out, tl.where(missed != 0, float("nan"), h_next), here)
        tl.store(cells_out + out, tl.where(missed != 0, float("nan"), c_next), here)
        ends = tl.minimum(t0 + CHUNK, T)
        final = t[None, :] == ends - 1
        unknown = tl.sum(tl.where(final, missed, 0), 1) != 0
        if tl.max(tl.max(missed, 1), 0) > 0:
            walks += 1
            tl.debug_barrier()
            for step in range(t0, ends):
                now = tl.cast(step, tl.int64)
                f_1, o_1, n_1 = cells.load_gates(given + now * g_t, at, g_g, inside, TYPE)
                known_h = tl.load(y + now * every + lane, inside, 0).to(TYPE)
                known_c = tl.load(cells_out + now * every + lane, inside, 0).to(TYPE)
                begins = tl.load(start + now * batch + row, inside, 0) != 0
                h_in, c_in = tl.where(begins, 0.0, h_in), tl.where(begins, 0.0, c_in)
                f_1, o_1, n_1 = f_1 + b_f, o_1 + b_o, n_1 + b_n
                f_1, o_1, n_1, c_in = cells.lstm_gates(f_1, o_1, n_1, h_in, c_in, a_f, a_o, a_n, p_f, p_o)
                h_in = tl.where(known_h == known_h, known_h, o_1 * cells.tanh(c_in))
                c_in = tl.where(known_h == known_h, known_c, c_in)
                tl.store(y + now * every + lane, h_in, inside)
                tl.store(cells_out + now * every + lane, c_in, inside)
        h_in = tl.where(unknown, h_in, tl.sum(tl.where(final, h_next, 0.0), 1))
        c_in = tl.where(unknown, c_in, tl.sum(tl.where(final, c_next, 0.0), 1))
    tl.store(last_h + lane, h_in, inside)
    tl.store(last_c + lane, c_in, inside)
    tl.store(walked + tl.program_id(0), walks)


@triton.jit(do_not_specialize=["T", "batch"])
def _lstm_backward(
    given, bias, recurrent, peephole, hidden, cell, start, y, cells_out, d_y, d_last_h, d_last_c,
    d_given, d_hidden, d_cell, d_vectors,
    T, batch, units, per_head, g_t, g_b, g_n, g_g,
    LANES: tl.constexpr, CHUNK: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    lane, inside, row, unit, at = cells.lanes(batch, units, per_head, g_b, g_n, LANES)
    b_f, b_o, b_n = cells.load_vectors(bias, unit, units, inside, TYPE)
    a_f, a_o, a_n = cells.load_vectors(recurrent, unit, units, inside, TYPE)
    b_f, b_o, b_n, a_f, a_o, a_n = b_f[:, None], b_o[:, None], b_n[:, None], a_f[:, None], a_o[:, None], a_n[:, None]
    p_f = tl.load(peephole + unit, inside, 0).to(TYPE)[:, None]
    p_o = tl.load(peephole + units + unit, inside, 0).to(TYPE)[:, None]
    every = tl.cast(batch, tl.int64) * units
    first_h, first_c = tl.load(hidden + lane, inside, 0).to(TYPE), tl.load(cell + lane, inside, 0).to(TYPE)
    first_h, first_c = first_h[:, None], first_c[:, None]
    d_h_in, d_c_in = tl.load(d_last_h + lane, inside, 0).to(TYPE), tl.load(d_last_c + lane, inside, 0).to(TYPE)
    db_f, db_o, db_n = tl.zeros_like(d_h_in), tl.zeros_like(d_h_in), tl.zeros_like(d_h_in)
    da_f, da_o, da_n = tl.zeros_like(d_h_in), tl.zeros_like(d_h_in), tl.zeros_like(d_h_in)
    dp_f, dp_o = tl.zeros_like(d_h_in), tl.zeros_like(d_h_in)
    begin = (T - 1) // CHUNK * CHUNK
    step = tl.arange(0, CHUNK)[None, :]
    for i in range(0, T, CHUNK):
        t = tl.cast(begin - i, tl.int64) + tl.arange(0, CHUNK)
        f_in, o_in, n_in, starts, here = _chunk(given, start, at, row, t, T, batch, g_t, g_g, inside, TYPE)
        f_in, o_in, n_in = f_in + b_f, o_in + b_o, n_in + b_n
        t_1C = t[None, :]
        before = (t_1C - 1) * every + lane[:, None]
        h = tl.load(y + before, here & (t_1C > 0), 0).to(TYPE)
        c = tl.load(cells_out + before, here & (t_1C > 0), 0).to(TYPE)
        h = tl.where(starts, 0.0, tl.where(t_1C > 0, h, first_h))
        c = tl.where(starts, 0.0, tl.where(t_1C > 0, c, first_c))
        d_h = tl.load(d_y + before + every, here, 0).to(TYPE)
        f, o, n, c_next = cells.lstm_gates(f_in, o_in, n_in, h, c, a_f, a_o, a_n, p_f, p_o)
        of_f, of_o, of_n, of_c, _ = cells.lstm_slopes(f, o, n, c, c_next, p_o)
        c_of_c = tl.where(starts, 0.0, f + of_f * p_f)
        c_of_h = tl.where(starts, 0.0, of_f * a_f + of_n * a_n)
        h_of_h = tl.where(starts, 0.0, of_c * c_of_h + of_o * a_o)
        # What goes back to the cell and to the hidden units of the step before, of what comes to these two of this one.
        cc, ch = tl.where(here, c_of_c, 1.0), tl.where(here, of_c * c_of_c, 0.0)
        hc, hh = tl.where(here, c_of_h, 0.0), tl.where(here, h_of_h, 1.0)
        c_back = tl.where(ch == 0, 0.0, ch * d_h)
        h_back = tl.where(hh == 0, 0.0, hh * d_h)
        cc, ch, hc, hh, c_back, h_back = tl.associative_scan((cc, ch, hc, hh, c_back, h_back), 1, _plane, reverse=True)
        deaf = (cc == 0) & (ch == 0) & (hc == 0) & (hh == 0)
        c_back = tl.where(deaf, c_back, cc * d_c_in[:, None] + ch * d_h_in[:, None] + c_back)
        h_back = tl.where(deaf, h_back, hc * d_c_in[:, None] + hh * d_h_in[:, None] + h_back)
        d_h += tl.where(step == CHUNK - 1, d_h_in[:, None], _shifted(h_back, 1, CHUNK))
        d_c = tl.where(step == CHUNK - 1, d_c_in[:, None], _shifted(c_back, 1, CHUNK)) + of_c * d_h
        d_h_in = tl.sum(tl.where(step == 0, h_back, 0.0), 1)
        d_c_in = tl.sum(tl.where(step == 0, c_back, 0.0), 1)
        d_f, d_n = tl.where(here, of_f * d_c, 0.0), tl.where(here, of_n * d_c, 0.0)
        d_o = tl.where(here, of_o * d_h, 0.0)
        out = d_given + t_1C * g_t + at[:, None]
        tl.store(out, d_f, here)
        tl.store(out + g_g, d_o, here)
        tl.store(out + 2 * g_g, d_n, here)
        db_f, db_o, db_n = db_f + tl.sum(d_f, 1), db_o + tl.sum(d_o, 1), db_n + tl.sum(d_n, 1)
        da_f, da_o, da_n = da_f + tl.sum(d_f * h, 1), da_o + tl.sum(d_o * h, 1), da_n + tl.sum(d_n * h, 1)
        dp_f, dp_o = dp_f + tl.sum(d_f * c, 1), dp_o + tl.sum(d_o * c_next, 1)
    tl.store(d_hidden + lane, d_h_in, inside)
    tl.store(d_cell + lane, d_c_in, inside)
    tl.store(d_vectors + lane, db_f, inside)
    tl.store(d_vectors + every + lane, db_o, inside)
    tl.store(d_vectors + 2 * every + lane, db_n, inside)
    tl.store(d_vectors + 3 * every + lane, da_f, inside)
    tl.store(d_vectors + 4 * every + lane, da_o, inside)
    tl.store(d_vectors + 5 * every + lane, da_n, inside)
    tl.store(d_vectors + 6 * every + lane, dp_f, inside)
    tl.store(d_vectors + 7 * every + lane, dp_o, inside)


def launch(given_TBNGK: Tensor, computed: torch.dtype) -> Launch:
    """Return the grid and the options: four warps for 8 lanes, with a chunk that a short window fills."""
    time, batch, heads, _, units = given_TBNGK.shape
    stride_t, stride_b, stride_n, stride_g, _ = given_TBNGK.stride()
    sizes = (time, batch, heads * units, units, stride_t, stride_b, stride_n, stride_g)
    kind = tl.float64 if computed == torch.float64 else tl.float32
    options = {"LANES": 8, "CHUNK": 32 if time <= 32 else 64, "TYPE": kind, "num_warps": 4}
    return Launch((triton.cdiv(batch * heads * units, 8),), sizes, options)


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


def para_gru(
    given_TBNGK: Tensor, bias_GH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve chunks of time by Newton's method; like `reference.para_gru`."""
    ways = Ways(lambda *given: gru_forward(*given)[:2], backward_by(gru_gradients, _gru_backward, launch))
    return run_gru(ways, given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB)


def lstm_forward(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the hidden units and the cell of every step, both after the last, and what `gru_forward` counts."""
    y_TBH = hidden_BH.new_empty(len(start_TB), *hidden_BH.shape)
    cell_TBH = torch.empty_like(y_TBH)
    last_BH, last_cell_BH = torch.empty_like(hidden_BH), torch.empty_like(cell_BH)
    grid, sizes, options = launch(given_TBNGK, bias_GH.dtype)
    walked = start_TB.new_empty(grid, dtype=torch.int32)
    tolerance = TOLERANCE[bias_GH.dtype] if tolerance is None else tolerance
    given = (given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
    results = (y_TBH, cell_TBH, last_BH, last_cell_BH, walked)
    _lstm_forward[grid](*given, *results, *sizes, tolerance, ITERATIONS=iterations, **options)
    return results


def para_lstm(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve chunks of time by Newton's method; like `reference.para_lstm`."""
    ways = Ways(lambda *given: lstm_forward(*given)[:4], backward_by(lstm_gradients, _lstm_backward, launch))
    return run_lstm(ways, given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
