"""The kernel that runs a recurrent network backward over a whole window in one launch; see `triton_forward`."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import add_product, arrive, load_columns, sigmoid, tanh, wait


@triton.jit
def load_states(y_ptr, saved_ptr, at, own, step, part, CELL: tl.constexpr):
    """Return what the backward of a step needs of the states around it, as it stands there; five tensors in any case.

    Of an Elman network what the step put out, of a GRU what the step before did; of an LSTM the cell before and after;
    of an sLSTM cell and normaliser before, both after, and f'.
    """
    if CELL == "elman":
        a = tl.load(y_ptr + step + at, own, 0.0)
        b, c, d, e = a, a, a, a
    if CELL == "gru":
        a = tl.load(y_ptr + at, own, 0.0)
        b, c, d, e = a, a, a, a
    if CELL == "lstm":
        a, b = tl.load(saved_ptr + at, own, 0.0), tl.load(saved_ptr + step + at, own, 0.0)
        c, d, e = a, a, a
    if CELL == "slstm":
        a, b = tl.load(saved_ptr + at, own, 0.0), tl.load(saved_ptr + part + at, own, 0.0)
        c, d = tl.load(saved_ptr + step + at, own, 0.0), tl.load(saved_ptr + part + step + at, own, 1.0)
        e = tl.load(saved_ptr + 2 * part + step + at, own, 0.0)
    return a, b, c, d, e


@triton.jit
def leave(ptr, at, own, gradient, total, LATER: tl.constexpr):
    """Write the gradients of a gate; returns their sum over the rows, added to the total, unless that can wait."""
    tl.store(ptr + at, gradient.to(ptr.dtype.element_ty), own)
    if not LATER:
        total += tl.sum(gradient, 0)
    return total


@triton.jit
def hear_back(
    d_gates_ptr,
    heard_at,
    row_in,
    weight_ptr,
    weight_at,
    unit_in,
    key,
    WIDTH: tl.constexpr,
    UNITS: tl.constexpr,
    GATES: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the gradient that the units of this program get from the gates of the step after."""
    d_h = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    for k in range(0, UNITS, BLOCK_K):
        inside = key < UNITS - k
        there, known = row_in[:, None] & inside[None, :], inside[:, None] & unit_in[None, :]
        heard = tl.load(d_gates_ptr + k + heard_at, there, 0.0, cache_modifier=".cg")
        weight = tl.load(weight_ptr + k + weight_at, known, 0.0)
        d_h = add_product(heard, weight, d_h, PRECISION)
        if GATES >= 3:
            heard = tl.load(d_gates_ptr + WIDTH + k + heard_at, there, 0.0, cache_modifier=".cg")
            weight = tl.load(weight_ptr + UNITS + k + weight_at, known, 0.0)
            d_h = add_product(heard, weight, d_h, PRECISION)
            heard = tl.load(d_gates_ptr + 2 * WIDTH + k + heard_at, there, 0.0, cache_modifier=".cg")
            weight = tl.load(weight_ptr + 2 * UNITS + k + weight_at, known, 0.0)
            d_h = add_product(heard, weight, d_h, PRECISION)
        if GATES == 4:
            heard = tl.load(d_gates_ptr + 3 * WIDTH + k + heard_at, there, 0.0, cache_modifier=".cg")
            weight = tl.load(weight_ptr + 3 * UNITS + k + weight_at, known, 0.0)
            d_h = add_product(heard, weight, d_h, PRECISION)
    return d_h


@triton.jit(do_not_specialize=["time", "batch", "first_group"])
def rnn_backward_kernel(
    gates_ptr,
    y_ptr,
    saved_ptr,
    weight_ptr,
    start_ptr,
    d_y_ptr,
    d_last_ptr,
    d_first_ptr,
    d_bias_ptr,
    before_ptr,
    counter_ptr,
    time,
    batch,
    first_group,
    CELL: tl.constexpr,
    HEADS: tl.constexpr,
    UNITS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Run some rows and some units of a head backward through all steps.

    The gradients of the gates replace in the buffer what the forward left there; those of what hears the units of the
    step before are the last columns. Beside them it leaves, for the gradients of the weights, the units of the step
    before as the step heard them, and the sums of the gradients over rows and steps, for each block of rows.
    """
    GATES: tl.constexpr = 1 if CELL == "elman" else (3 if CELL == "gru" else 4)
    COLUMNS: tl.constexpr = 1 if CELL == "elman" else 4
    WIDTH: tl.constexpr = HEADS * UNITS
    # Sums over rows wait for what others wait for, but where registers cannot hold the gradients so long.
    LATER: tl.constexpr = EARLY or CELL == "gru"
    group, split = first_group + tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    block, head = group // HEADS, group % HEADS
    base = block.to(tl.int64) * BLOCK_B
    step = batch.to(tl.int64) * WIDTH
    part = (time + 1) * step

    row = tl.arange(0, BLOCK_B)
    unit = split * BLOCK_U + tl.arange(0, BLOCK_U)
    key = tl.arange(0, BLOCK_K)
    row_in, unit_in = row < batch - base, unit < UNITS
    own = row_in[:, None] & unit_in[None, :]
    state_at = row[:, None] * WIDTH + unit[None, :]
    heard_at = row[:, None] * (COLUMNS * WIDTH) + key[None, :]
    gates_at = row[:, None] * (COLUMNS * WIDTH) + unit[None, :]
    weight_at = key[:, None] + unit[None, :] * (GATES * UNITS)
    last = (time - 1).to(tl.int64) * batch
    d_last_ptr += base * WIDTH + head * UNITS
    d_first_ptr += base * WIDTH + head * UNITS
    d_bias_ptr += block.to(tl.int64) * (COLUMNS * WIDTH) + head * UNITS
    before_ptr += (last + base) * WIDTH + head * UNITS
    y_ptr += (last + base) * WIDTH + head * UNITS
    d_y_ptr += (last + base) * WIDTH + head * UNITS
    saved_ptr += (last + base) * WIDTH + head * UNITS
    gates_ptr += (last + base) * (COLUMNS * WIDTH) + head * UNITS
    weight_ptr += head * (GATES * UNITS * UNITS)
    start_ptr += last + base
    counter_ptr += group * 32

    d_h = tl.load(d_last_ptr + state_at, own, 0.0)
    if CELL == "lstm" or CELL == "slstm":
        d_c = tl.load(d_last_ptr + step + state_at, own, 0.0)
    if CELL == "slstm":
        d_n = tl.load(d_last_ptr + 2 * step + state_at, own, 0.0)
        d_m = tl.load(d_last_ptr + 3 * step + state_at, own, 0.0)

    # Before the last step's there are no gradients of gates: what is read for them is forgotten like the past of a row.
    # Factors that do not depend on them are in parentheses and the zeros of `d_h` are a choice that is always the same:
    # so the compiler moves fewer numbers between the layouts of memory and of products.
    after_ptr = gates_ptr + (COLUMNS - GATES) * WIDTH
    cut = (row >= 0)[:, None]
    d_b_0 = tl.zeros((BLOCK_U,), tl.float32)
    d_b_1, d_b_2, d_b_3 = d_b_0, d_b_0, d_b_0
    for back in range(time):
        started = (tl.load(start_ptr + row, row_in, 0) != 0)[:, None]
        if EARLY:
            d_y = tl.load(d_y_ptr + state_at, own, 0.0)
            g_0, g_1, g_2, g_3 = load_columns(gates_ptr, gates_at, own, WIDTH, COLUMNS)
            s_0, s_1, s_2, s_3, s_4 = load_states(y_ptr, saved_ptr, state_at, own, step, part, CELL)
        if SPLITS > 1:
            wait(counter_ptr, SPLITS * back)
        else:
            tl.debug_barrier()
        heard = hear_back(
            after_ptr, heard_at, row_in, weight_ptr, weight_at, unit_in, key,
            WIDTH, UNITS, GATES, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION,
        )  # fmt: skip
        if not EARLY:
            d_y = tl.load(d_y_ptr + state_at, own, 0.0)
            g_0, g_1, g_2, g_3 = load_columns(gates_ptr, gates_at, own, WIDTH, COLUMNS)
            s_0, s_1, s_2, s_3, s_4 = load_states(y_ptr, saved_ptr, state_at, own, step, part, CELL)
        d_h += tl.where(cut, 0.0, heard) + d_y.to(tl.float32)

        before = s_0.to(tl.float32)
        if CELL == "elman":
            e_0 = d_h * (1.0 - before * before)
            d_b_0 = leave(gates_ptr, gates_at, own, e_0, d_b_0, LATER)
            d_h = tl.where(time < 0, d_h, 0.0)
        if CELL == "gru":
            new, r, z, heard_n = g_0.to(tl.float32), g_1.to(tl.float32), g_2.to(tl.float32), g_3.to(tl.float32)
            before = tl.where(started, 0.0, before)
            e_0 = d_h * ((1.0 - z) * (1.0 - new * new))
            d_b_0 = leave(gates_ptr, gates_at, own, e_0, d_b_0, LATER)
            e_1 = e_0 * (heard_n * r * (1.0 - r))
            d_b_1 = leave(gates_ptr + WIDTH, gates_at, own, e_1, d_b_1, LATER)
            e_3 = e_0 * r
            d_b_3 = leave(gates_ptr + 3 * WIDTH, gates_at, own, e_3, d_b_3, LATER)
            e_2 = d_h * ((before - new) * z * (1.0 - z))
            d_b_2 = leave(gates_ptr + 2 * WIDTH, gates_at, own, e_2, d_b_2, LATER)
            d_h = tl.where(started, 0.0, d_h * z)
        if CELL == "lstm":
            i, f, g, o = g_0.to(tl.float32), g_1.to(tl.float32), g_2.to(tl.float32), g_3.to(tl.float32)
            before, squashed = tl.where(started, 0.0, before), tanh(s_1.to(tl.float32))
            d_c += d_h * (o * (1.0 - squashed * squashed))
            e_3 = d_h * (squashed * o * (1.0 - o))
            d_b_3 = leave(gates_ptr + 3 * WIDTH, gates_at, own, e_3, d_b_3, LATER)
            e_0 = d_c * (g * i * (1.0 - i))
            d_b_0 = leave(gates_ptr, gates_at, own, e_0, d_b_0, LATER)
            e_2 = d_c * (i * (1.0 - g * g))
            d_b_2 = leave(gates_ptr + 2 * WIDTH, gates_at, own, e_2, d_b_2, LATER)
            e_1 = d_c * (before * f * (1.0 - f))
            d_b_1 = leave(gates_ptr + WIDTH, gates_at, own, e_1, d_b_1, LATER)
            d_c = tl.where(started, 0.0, d_c * f)
            d_h = tl.where(time < 0, d_h, 0.0)
        if CELL == "slstm":
            i, hold, g, o = g_0.to(tl.float32), g_1.to(tl.float32), g_2.to(tl.float32), g_3.to(tl.float32)
            before, n_before = tl.where(started, 0.0, before), tl.where(started, 0.0, s_1.to(tl.float32))
            c, n, f = s_2.to(tl.float32), s_3.to(tl.float32), s_4.to(tl.float32)
            ratio = d_h / n
            d_c += ratio * o
            d_n = tl.where(f * n_before + i >= 1.0, d_n - ratio * o * c / n, 0.0)
            e_0 = (d_c * g + d_n) * i
            d_held = (d_c * before + d_n * n_before) * f
            # The stabiliser is the larger of the two exponents, and their mean where they are equal.
            rest = d_m - e_0 - d_held
            share = tl.where(i == 1.0, tl.where(f == 1.0, 0.5, 1.0), 0.0)
            e_0 += share * rest
            d_b_0 = leave(gates_ptr, gates_at, own, e_0, d_b_0, LATER)
            d_held += (1.0 - share) * rest
            e_1 = d_held * sigmoid(-hold)
            d_b_1 = leave(gates_ptr + WIDTH, gates_at, own, e_1, d_b_1, LATER)
            e_2 = d_c * (i * (1.0 - g * g))
            d_b_2 = leave(gates_ptr + 2 * WIDTH, gates_at, own, e_2, d_b_2, LATER)
            e_3 = ratio * (c * o * (1.0 - o))
            d_b_3 = leave(gates_ptr + 3 * WIDTH, gates_at, own, e_3, d_b_3, LATER)
            d_c, d_n = tl.where(started, 0.0, d_c * f), tl.where(started, 0.0, d_n * f)
            d_m = tl.where(started | (n_before == 0.0), 0.0, d_held)
            d_h = tl.where(time < 0, d_h, 0.0)
        if SPLITS > 1:
            arrive(counter_ptr)
        if CELL == "gru":
            y_before = before.to(y_ptr.dtype.element_ty)
        else:
            y_before = tl.where(started, 0.0, tl.load(y_ptr + state_at, own, 0.0))
        tl.store(before_ptr + state_at, y_before, own)
        if LATER:
            d_b_0 += tl.sum(e_0, 0)
        if LATER and COLUMNS == 4:
            d_b_1 += tl.sum(e_1, 0)
            d_b_2 += tl.sum(e_2, 0)
            d_b_3 += tl.sum(e_3, 0)
        cut = started
        after_ptr = gates_ptr + (COLUMNS - GATES) * WIDTH
        before_ptr -= step
        y_ptr -= step
        d_y_ptr -= step
        saved_ptr -= step
        gates_ptr -= step * COLUMNS
        start_ptr -= batch

    if SPLITS > 1:
        wait(counter_ptr, SPLITS * time)
    else:
        tl.debug_barrier()
    heard = hear_back(
        after_ptr, heard_at, row_in, weight_ptr, weight_at, unit_in, key,
        WIDTH, UNITS, GATES, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION,
    )  # fmt: skip
    tl.store(d_first_ptr + state_at, d_h + tl.where(cut, 0.0, heard), own)
    if CELL == "lstm" or CELL == "slstm":
        tl.store(d_first_ptr + step + state_at, d_c, own)
    if CELL == "slstm":
        tl.store(d_first_ptr + 2 * step + state_at, d_n, own)
        tl.store(d_first_ptr + 3 * step + state_at, d_m, own)
    tl.store(d_bias_ptr + unit, d_b_0, unit_in)
    if COLUMNS == 4:
        tl.store(d_bias_ptr + WIDTH + unit, d_b_1, unit_in)
        tl.store(d_bias_ptr + 2 * WIDTH + unit, d_b_2, unit_in)
        tl.store(d_bias_ptr + 3 * WIDTH + unit, d_b_3, unit_in)
