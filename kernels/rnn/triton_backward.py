"""The kernel that runs a recurrent network backward over a whole window in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import add_product, arrive, sigmoid, tanh, wait


@triton.jit(do_not_specialize=["time", "batch", "first_block"])
def rnn_backward_kernel(
    gates_ptr,
    y_ptr,
    saved_ptr,
    weight_ptr,
    start_ptr,
    d_y_ptr,
    d_last_ptr,
    d_first_ptr,
    counter_ptr,
    time,
    batch,
    first_block,
    CELL: tl.constexpr,
    HEADS: tl.constexpr,
    UNITS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    GATES: tl.constexpr = 1 if CELL == "elman" else (3 if CELL == "gru" else 4)
    COLUMNS: tl.constexpr = 1 if CELL == "elman" else 4
    WIDTH: tl.constexpr = HEADS * UNITS
    block = first_block + tl.program_id(2)
    head, split = tl.program_id(1), tl.program_id(0)
    base = block.to(tl.int64) * BLOCK_B
    step = batch.to(tl.int64) * WIDTH

    row = tl.arange(0, BLOCK_B)
    unit = split * BLOCK_U + tl.arange(0, BLOCK_U)
    key = tl.arange(0, BLOCK_K)
    row_in = row < batch - base
    own = row_in[:, None] & (unit < UNITS)[None, :]
    state_at = row[:, None] * WIDTH + unit[None, :]
    heard_at = row[:, None] * (COLUMNS * WIDTH) + key[None, :]
    gates_at = row[:, None] * (COLUMNS * WIDTH) + unit[None, :]
    weight_at = key[:, None] + unit[None, :] * (GATES * UNITS)
    last = (time - 1).to(tl.int64) * batch
    d_last_ptr += base * WIDTH + head * UNITS
    d_first_ptr += base * WIDTH + head * UNITS
    y_ptr += (last + base) * WIDTH + head * UNITS
    d_y_ptr += (last + base) * WIDTH + head * UNITS
    saved_ptr += (last + base) * WIDTH + head * UNITS
    gates_ptr += (last + base) * (COLUMNS * WIDTH) + head * UNITS
    weight_ptr += head * (GATES * UNITS * UNITS)
    start_ptr += last + base
    counter_ptr += block * HEADS + head

    d_h = tl.load(d_last_ptr + state_at, own, 0.0)
    if CELL == "lstm" or CELL == "slstm":
        d_c = tl.load(d_last_ptr + step + state_at, own, 0.0)
    if CELL == "slstm":
        d_n = tl.load(d_last_ptr + 2 * step + state_at, own, 0.0)
        d_m = tl.load(d_last_ptr + 3 * step + state_at, own, 0.0)

    for back in range(time):
        started = (tl.load(start_ptr + row, row_in, 0) != 0)[:, None]
        d_h += tl.load(d_y_ptr + state_at, own, 0.0).to(tl.float32)
        kind = gates_ptr.dtype.element_ty
        if CELL == "elman":
            y = tl.load(y_ptr + step + state_at, own, 0.0).to(tl.float32)
            tl.store(gates_ptr + gates_at, (d_h * (1.0 - y * y)).to(kind), own)
            d_h = tl.zeros_like(d_h)
        if CELL == "gru":
            new = tl.load(gates_ptr + gates_at, own, 0.0).to(tl.float32)
            r = tl.load(gates_ptr + WIDTH + gates_at, own, 0.0).to(tl.float32)
            z = tl.load(gates_ptr + 2 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            heard_n = tl.load(gates_ptr + 3 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            before = tl.where(started, 0.0, tl.load(y_ptr + state_at, own, 0.0).to(tl.float32))
            d_new = d_h * (1.0 - z) * (1.0 - new * new)
            tl.store(gates_ptr + gates_at, d_new.to(kind), own)
            tl.store(gates_ptr + WIDTH + gates_at, (d_new * heard_n * r * (1.0 - r)).to(kind), own)
            tl.store(gates_ptr + 2 * WIDTH + gates_at, (d_h * (before - new) * z * (1.0 - z)).to(kind), own)
            tl.store(gates_ptr + 3 * WIDTH + gates_at, (d_new * r).to(kind), own)
            d_h *= z
        if CELL == "lstm":
            i = tl.load(gates_ptr + gates_at, own, 0.0).to(tl.float32)
            f = tl.load(gates_ptr + WIDTH + gates_at, own, 0.0).to(tl.float32)
            g = tl.load(gates_ptr + 2 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            o = tl.load(gates_ptr + 3 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            before = tl.where(started, 0.0, tl.load(saved_ptr + state_at, own, 0.0).to(tl.float32))
            squashed = tanh(tl.load(saved_ptr + step + state_at, own, 0.0).to(tl.float32))
            d_c += d_h * o * (1.0 - squashed * squashed)
            tl.store(gates_ptr + gates_at, (d_c * g * i * (1.0 - i)).to(kind), own)
            tl.store(gates_ptr + WIDTH + gates_at, (d_c * before * f * (1.0 - f)).to(kind), own)
            tl.store(gates_ptr + 2 * WIDTH + gates_at, (d_c * i * (1.0 - g * g)).to(kind), own)
            tl.store(gates_ptr + 3 * WIDTH + gates_at, (d_h * squashed * o * (1.0 - o)).to(kind), own)
            d_c = tl.where(started, 0.0, d_c * f)
            d_h = tl.zeros_like(d_h)
        if CELL == "slstm":
            part = (time + 1) * step
            i = tl.load(gates_ptr + gates_at, own, 0.0).to(tl.float32)
            hold = tl.load(gates_ptr + WIDTH + gates_at, own, 0.0).to(tl.float32)
            z = tl.load(gates_ptr + 2 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            o = tl.load(gates_ptr + 3 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            c = tl.load(saved_ptr + step + state_at, own, 0.0).to(tl.float32)
            n = tl.load(saved_ptr + part + step + state_at, own, 1.0).to(tl.float32)
            f = tl.load(saved_ptr + 2 * part + step + state_at, own, 0.0).to(tl.float32)
            c_before = tl.where(started, 0.0, tl.load(saved_ptr + state_at, own, 0.0).to(tl.float32))
            n_before = tl.where(started, 0.0, tl.load(saved_ptr + part + state_at, own, 0.0).to(tl.float32))
            ratio = d_h / n
            d_c += ratio * o
            d_n = tl.where(f * n_before + i >= 1.0, d_n - ratio * o * c / n, 0.0)
            d_entry = (d_c * z + d_n) * i
            d_held = (d_c * c_before + d_n * n_before) * f
            # The stabiliser is the larger of the two exponents, and their mean where they are equal.
            rest = d_m - d_entry - d_held
            share = tl.where(i == 1.0, tl.where(f == 1.0, 0.5, 1.0), 0.0)
            d_entry += share * rest
            d_held += (1.0 - share) * rest
            tl.store(gates_ptr + gates_at, d_entry.to(kind), own)
            tl.store(gates_ptr + WIDTH + gates_at, (d_held * sigmoid(-hold)).to(kind), own)
            tl.store(gates_ptr + 2 * WIDTH + gates_at, (d_c * i * (1.0 - z * z)).to(kind), own)
            tl.store(gates_ptr + 3 * WIDTH + gates_at, (ratio * c * o * (1.0 - o)).to(kind), own)
            d_c = tl.where(started, 0.0, d_c * f)
            d_n = tl.where(started, 0.0, d_n * f)
            d_m = tl.where(started | (n_before == 0.0), 0.0, d_held)
            d_h = tl.zeros_like(d_h)
        if SPLITS > 1:
            arrive(counter_ptr)
            wait(counter_ptr, SPLITS * (back + 1))
        else:
            tl.debug_barrier()

        heard_ptr = gates_ptr + (COLUMNS - GATES) * WIDTH
        for k in range(0, UNITS, BLOCK_K):
            inside = key < UNITS - k
            there = row_in[:, None] & inside[None, :]
            known = inside[:, None] & (unit < UNITS)[None, :]
            heard = tl.load(heard_ptr + k + heard_at, there, 0.0, cache_modifier=".cg")
            weight = tl.load(weight_ptr + k + weight_at, known, 0.0)
            d_h = add_product(heard, weight, d_h, PRECISION)
            if GATES >= 3:
                heard = tl.load(heard_ptr + WIDTH + k + heard_at, there, 0.0, cache_modifier=".cg")
                weight = tl.load(weight_ptr + UNITS + k + weight_at, known, 0.0)
                d_h = add_product(heard, weight, d_h, PRECISION)
                heard = tl.load(heard_ptr + 2 * WIDTH + k + heard_at, there, 0.0, cache_modifier=".cg")
                weight = tl.load(weight_ptr + 2 * UNITS + k + weight_at, known, 0.0)
                d_h = add_product(heard, weight, d_h, PRECISION)
            if GATES == 4:
                heard = tl.load(heard_ptr + 3 * WIDTH + k + heard_at, there, 0.0, cache_modifier=".cg")
                weight = tl.load(weight_ptr + 3 * UNITS + k + weight_at, known, 0.0)
                d_h = add_product(heard, weight, d_h, PRECISION)
        d_h = tl.where(started, 0.0, d_h)
        y_ptr -= step
        d_y_ptr -= step
        saved_ptr -= step
        gates_ptr -= step * COLUMNS
        start_ptr -= batch

    tl.store(d_first_ptr + state_at, d_h, own)
    if CELL == "lstm" or CELL == "slstm":
        tl.store(d_first_ptr + step + state_at, d_c, own)
    if CELL == "slstm":
        tl.store(d_first_ptr + 2 * step + state_at, d_n, own)
        tl.store(d_first_ptr + 3 * step + state_at, d_m, own)
