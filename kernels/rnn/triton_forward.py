"""The kernel that runs a recurrent network forward over a whole window in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

FLOOR = tl.constexpr(-1e30)
"""The stabiliser of an sLSTM before the first step: below every input gate, and finite."""


@triton.jit
def arrive(counter_ptr):
    """Say that this program has written its part of a step."""
    tl.debug_barrier()
    tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter_ptr, arrived):
    """Go on when the programs of a group have arrived this many times."""
    while tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu") < arrived:
        pass


@triton.jit
def add_product(left, right, total, PRECISION: tl.constexpr):
    """Return total + left right; with the precision `ieee`, as Triton's interpreter needs it: in float32."""
    if PRECISION == "ieee":
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def tanh(v):
    return 2.0 / (1.0 + tl.exp(-2.0 * v)) - 1.0


@triton.jit(do_not_specialize=["time", "batch", "first_block"])
def rnn_forward_kernel(
    gates_ptr,
    y_ptr,
    saved_ptr,
    weight_ptr,
    bias_ptr,
    start_ptr,
    first_ptr,
    last_ptr,
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
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
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
    # Pointers are moved by 64-bit numbers, what lies within a block of rows is found by 32-bit ones.
    state_at = row[:, None] * WIDTH + unit[None, :]
    heard_at = row[:, None] * WIDTH + key[None, :]
    gates_at = row[:, None] * (COLUMNS * WIDTH) + unit[None, :]
    weight_at = key[:, None] + unit[None, :] * UNITS
    first_ptr += base * WIDTH + head * UNITS
    last_ptr += base * WIDTH + head * UNITS
    y_ptr += base * WIDTH + head * UNITS
    saved_ptr += step + base * WIDTH + head * UNITS
    gates_ptr += base * (COLUMNS * WIDTH) + head * UNITS
    weight_ptr += head * (GATES * UNITS * UNITS)
    start_ptr += base
    counter_ptr += block * HEADS + head

    bias_ptr += head * UNITS + unit
    bias_0 = tl.load(bias_ptr, unit < UNITS, 0.0)[None, :]
    if COLUMNS == 4:
        bias_1 = tl.load(bias_ptr + WIDTH, unit < UNITS, 0.0)[None, :]
        bias_2 = tl.load(bias_ptr + 2 * WIDTH, unit < UNITS, 0.0)[None, :]
        bias_3 = tl.load(bias_ptr + 3 * WIDTH, unit < UNITS, 0.0)[None, :]

    h = tl.load(first_ptr + state_at, own, 0.0)
    if CELL == "lstm" or CELL == "slstm":
        c = tl.load(first_ptr + step + state_at, own, 0.0)
    if CELL == "slstm":
        n = tl.load(first_ptr + 2 * step + state_at, own, 0.0)
        m = tl.load(first_ptr + 3 * step + state_at, own, 0.0)

    for t in range(time):
        started = (tl.load(start_ptr + row, row_in, 0) != 0)[:, None]
        if EARLY:
            x_0 = tl.load(gates_ptr + gates_at, own, 0.0).to(tl.float32)
            if COLUMNS == 4:
                x_1 = tl.load(gates_ptr + WIDTH + gates_at, own, 0.0).to(tl.float32)
                x_2 = tl.load(gates_ptr + 2 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            if GATES == 4:
                x_3 = tl.load(gates_ptr + 3 * WIDTH + gates_at, own, 0.0).to(tl.float32)
        if SPLITS > 1:
            wait(counter_ptr, SPLITS * t)
        else:
            tl.debug_barrier()

        sum_0 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        if GATES >= 3:
            sum_1 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
            sum_2 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        if GATES == 4:
            sum_3 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        for k in range(0, UNITS, BLOCK_K):
            inside = key < UNITS - k
            heard = tl.load(y_ptr + k + heard_at, row_in[:, None] & inside[None, :], 0.0, cache_modifier=".cg")
            known = inside[:, None] & (unit < UNITS)[None, :]
            weight = tl.load(weight_ptr + k + weight_at, known, 0.0)
            sum_0 = add_product(heard, weight, sum_0, PRECISION)
            if GATES >= 3:
                weight = tl.load(weight_ptr + UNITS * UNITS + k + weight_at, known, 0.0)
                sum_1 = add_product(heard, weight, sum_1, PRECISION)
                weight = tl.load(weight_ptr + 2 * UNITS * UNITS + k + weight_at, known, 0.0)
                sum_2 = add_product(heard, weight, sum_2, PRECISION)
            if GATES == 4:
                weight = tl.load(weight_ptr + 3 * UNITS * UNITS + k + weight_at, known, 0.0)
                sum_3 = add_product(heard, weight, sum_3, PRECISION)

        if not EARLY:
            x_0 = tl.load(gates_ptr + gates_at, own, 0.0).to(tl.float32)
            if COLUMNS == 4:
                x_1 = tl.load(gates_ptr + WIDTH + gates_at, own, 0.0).to(tl.float32)
                x_2 = tl.load(gates_ptr + 2 * WIDTH + gates_at, own, 0.0).to(tl.float32)
            if GATES == 4:
                x_3 = tl.load(gates_ptr + 3 * WIDTH + gates_at, own, 0.0).to(tl.float32)
        # Forgetting after the product is forgetting before it: no row of it depends on another.
        sum_0 = tl.where(started, 0.0, sum_0)
        h = tl.where(started, 0.0, h)
        if CELL == "elman":
            h = tanh(x_0 + bias_0 + sum_0)
        if CELL == "gru":
            r = sigmoid(x_1 + bias_1 + sum_0)
            z = sigmoid(x_2 + bias_2 + tl.where(started, 0.0, sum_1))
            heard_n = tl.where(started, 0.0, sum_2) + bias_3
            new = tanh(x_0 + bias_0 + r * heard_n)
            h = (1.0 - z) * new + z * h
            if SAVE:
                tl.store(gates_ptr + gates_at, new.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + WIDTH + gates_at, r.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + 2 * WIDTH + gates_at, z.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + 3 * WIDTH + gates_at, heard_n.to(gates_ptr.dtype.element_ty), own)
        if CELL == "lstm":
            i = sigmoid(x_0 + bias_0 + sum_0)
            f = sigmoid(x_1 + bias_1 + tl.where(started, 0.0, sum_1))
            g = tanh(x_2 + bias_2 + tl.where(started, 0.0, sum_2))
            o = sigmoid(x_3 + bias_3 + tl.where(started, 0.0, sum_3))
            c = f * tl.where(started, 0.0, c) + i * g
            h = o * tanh(c)
            if SAVE:
                tl.store(gates_ptr + gates_at, i.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + WIDTH + gates_at, f.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + 2 * WIDTH + gates_at, g.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + 3 * WIDTH + gates_at, o.to(gates_ptr.dtype.element_ty), own)
                tl.store(saved_ptr + state_at, c.to(saved_ptr.dtype.element_ty), own)
        if CELL == "slstm":
            entry = x_0 + bias_0 + sum_0
            hold = x_1 + bias_1 + tl.where(started, 0.0, sum_1)
            z = tanh(x_2 + bias_2 + tl.where(started, 0.0, sum_2))
            o = sigmoid(x_3 + bias_3 + tl.where(started, 0.0, sum_3))
            c, n = tl.where(started, 0.0, c), tl.where(started, 0.0, n)
            # The logarithm of a sigmoid, without overflow.
            held = tl.minimum(hold, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(hold)))
            held = tl.where(n == 0.0, FLOOR, held + m)
            m = tl.maximum(entry, held)
            i, f = tl.exp(entry - m), tl.exp(held - m)
            c = f * c + i * z
            n = tl.maximum(f * n + i, 1.0)
            h = o * c / n
            if SAVE:
                tl.store(gates_ptr + gates_at, i.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + WIDTH + gates_at, hold.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + 2 * WIDTH + gates_at, z.to(gates_ptr.dtype.element_ty), own)
                tl.store(gates_ptr + 3 * WIDTH + gates_at, o.to(gates_ptr.dtype.element_ty), own)
                part = (time + 1) * step
                tl.store(saved_ptr + state_at, c.to(saved_ptr.dtype.element_ty), own)
                tl.store(saved_ptr + part + state_at, n.to(saved_ptr.dtype.element_ty), own)
                tl.store(saved_ptr + 2 * part + state_at, f.to(saved_ptr.dtype.element_ty), own)
        tl.store(y_ptr + step + state_at, h.to(y_ptr.dtype.element_ty), own)
        if SPLITS > 1:
            arrive(counter_ptr)
        y_ptr += step
        saved_ptr += step
        gates_ptr += step * COLUMNS
        start_ptr += batch

    tl.store(last_ptr + state_at, h, own)
    if CELL == "lstm" or CELL == "slstm":
        tl.store(last_ptr + step + state_at, c, own)
    if CELL == "slstm":
        tl.store(last_ptr + 2 * step + state_at, n, own)
        tl.store(last_ptr + 3 * step + state_at, m, own)
