"""The kernel that runs a recurrent network forward over a whole window in one launch, and what both directions share.

A program has a block of rows and some units of a head. What its units hear from the step before it reads back from the
outputs. Programs that share the units of a head meet once a step: each adds one to a counter of their rows when its
part is written, and goes on when the counter says that all have.
"""

from __future__ import annotations

import triton
import triton.language as tl

FLOOR = tl.constexpr(-1e30)
"""The stabiliser of an sLSTM before the first step: below every input gate, and finite."""


@triton.jit
def arrive(counter_ptr):
    """Say that all threads of this program have written its part of a step."""
    tl.debug_barrier()
    tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter_ptr, arrivals):
    """Go on when the programs of a group have arrived that many times."""
    while seen(counter_ptr) < arrivals:
        pass


@triton.jit
def seen(counter_ptr):
    """Return the counter; whoever sees it sees what was written before it was counted."""
    # A load, where `tl` has only an atomic addition of nothing: those would queue up behind each other.
    return tl.inline_asm_elementwise(
        "ld.acquire.gpu.global.s32 $0, [$1];", "=r,l", [counter_ptr], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def add_product(left, right, total, PRECISION: tl.constexpr):
    """Return total + left right; with the precision `ieee`, as Triton's interpreter needs it: in float32."""
    if PRECISION == "ieee":
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def sigmoid(v):
    """Return the logistic function."""
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def tanh(v):
    """Return the hyperbolic tangent, with an error of one rounding of 1."""
    return 2.0 / (1.0 + tl.exp(-2.0 * v)) - 1.0


@triton.jit
def load_columns(ptr, at, own, WIDTH: tl.constexpr, COUNT: tl.constexpr):
    """Return what stands in 1, 3 or 4 columns of the buffer, as it stands there; four tensors in any case."""
    a = tl.load(ptr + at, own, 0.0)
    b, c, d = a, a, a
    if COUNT >= 3:
        b = tl.load(ptr + WIDTH + at, own, 0.0)
        c = tl.load(ptr + 2 * WIDTH + at, own, 0.0)
    if COUNT == 4:
        d = tl.load(ptr + 3 * WIDTH + at, own, 0.0)
    return a, b, c, d


@triton.jit
def store_columns(ptr, at, own, a, b, c, d, WIDTH: tl.constexpr):
    """Fill four columns of the buffer."""
    tl.store(ptr + at, a.to(ptr.dtype.element_ty), own)
    tl.store(ptr + WIDTH + at, b.to(ptr.dtype.element_ty), own)
    tl.store(ptr + 2 * WIDTH + at, c.to(ptr.dtype.element_ty), own)
    tl.store(ptr + 3 * WIDTH + at, d.to(ptr.dtype.element_ty), own)


@triton.jit(do_not_specialize=["time", "batch", "first_group"])
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
    first_group,
    CELL: tl.constexpr,
    HEADS: tl.constexpr,
    UNITS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Run some rows and some units of a head forward through all steps.

    The buffer of the gates has, for each unit, what each gate gets from the input; for a GRU in the order n, r, z. With
    SAVE it then has what the backward needs: of a GRU n, r, z and what n hears, of an LSTM its four gates, of an sLSTM
    i', the logit of f, z and o; the saved parts of the state are the cell, and for an sLSTM the normaliser and f'.
    """
    GATES: tl.constexpr = 1 if CELL == "elman" else (3 if CELL == "gru" else 4)
    COLUMNS: tl.constexpr = 1 if CELL == "elman" else 4
    WIDTH: tl.constexpr = HEADS * UNITS
    group, split = first_group + tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    block, head = group // HEADS, group % HEADS
    base = block.to(tl.int64) * BLOCK_B
    step = batch.to(tl.int64) * WIDTH

    row = tl.arange(0, BLOCK_B)
    unit = split * BLOCK_U + tl.arange(0, BLOCK_U)
    key = tl.arange(0, BLOCK_K)
    row_in, unit_in = row < batch - base, unit < UNITS
    own = row_in[:, None] & unit_in[None, :]
    # Pointers are moved by 64-bit numbers, what lies within a block of rows is found by 32-bit ones.
    state_at = row[:, None] * WIDTH + unit[None, :]
    heard_at = row[:, None] * WIDTH + key[None, :]
    gates_at = row[:, None] * (COLUMNS * WIDTH) + unit[None, :]
    weight_at = key[:, None] + unit[None, :] * UNITS
    first_ptr += base * WIDTH + head * UNITS
    last_ptr += base * WIDTH + head * UNITS
    y_ptr += base * WIDTH + head * UNITS
    saved_ptr += base * WIDTH + head * UNITS
    gates_ptr += base * (COLUMNS * WIDTH) + head * UNITS
    weight_ptr += head * (GATES * UNITS * UNITS)
    start_ptr += base
    counter_ptr += group * 32

    bias_ptr += head * UNITS
    b_0 = tl.load(bias_ptr + unit, unit_in, 0.0)[None, :]
    if COLUMNS == 4:
        b_1 = tl.load(bias_ptr + WIDTH + unit, unit_in, 0.0)[None, :]
        b_2 = tl.load(bias_ptr + 2 * WIDTH + unit, unit_in, 0.0)[None, :]
        b_3 = tl.load(bias_ptr + 3 * WIDTH + unit, unit_in, 0.0)[None, :]

    h = tl.load(first_ptr + state_at, own, 0.0)
    if CELL == "lstm" or CELL == "slstm":
        c = tl.load(first_ptr + step + state_at, own, 0.0)
    if CELL == "slstm":
        n = tl.load(first_ptr + 2 * step + state_at, own, 0.0)
        m = tl.load(first_ptr + 3 * step + state_at, own, 0.0)
    part = (time + 1) * step
    tl.store(y_ptr + state_at, h.to(y_ptr.dtype.element_ty), own)
    if SPLITS > 1:
        arrive(counter_ptr)
    if SAVE and (CELL == "lstm" or CELL == "slstm"):
        tl.store(saved_ptr + state_at, c.to(saved_ptr.dtype.element_ty), own)
    if SAVE and CELL == "slstm":
        tl.store(saved_ptr + part + state_at, n.to(saved_ptr.dtype.element_ty), own)

    for t in range(time):
        started = (tl.load(start_ptr + row, row_in, 0) != 0)[:, None]
        if EARLY:
            x_0, x_1, x_2, x_3 = load_columns(gates_ptr, gates_at, own, WIDTH, GATES)
        if SPLITS > 1:
            wait(counter_ptr, SPLITS * (t + 1))
        else:
            tl.debug_barrier()

        sum_0 = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
        sum_1, sum_2, sum_3 = sum_0, sum_0, sum_0
        for k in range(0, UNITS, BLOCK_K):
            inside = key < UNITS - k
            heard = tl.load(y_ptr + k + heard_at, row_in[:, None] & inside[None, :], 0.0, cache_modifier=".cg")
            known = inside[:, None] & unit_in[None, :]
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
            x_0, x_1, x_2, x_3 = load_columns(gates_ptr, gates_at, own, WIDTH, GATES)

        # Forgetting after the product is forgetting before it: no row of it depends on another.
        sum_0 = tl.where(started, 0.0, sum_0)
        if GATES >= 3:
            sum_1, sum_2 = tl.where(started, 0.0, sum_1), tl.where(started, 0.0, sum_2)
        if GATES == 4:
            sum_3 = tl.where(started, 0.0, sum_3)
        if CELL == "elman":
            h = tanh(x_0.to(tl.float32) + b_0 + sum_0)
        if CELL == "gru":
            r = sigmoid(x_1.to(tl.float32) + b_1 + sum_0)
            z = sigmoid(x_2.to(tl.float32) + b_2 + sum_1)
            sum_2 += b_3
            new = tanh(x_0.to(tl.float32) + b_0 + r * sum_2)
            h = (1.0 - z) * new + z * tl.where(started, 0.0, h)
        if CELL == "lstm":
            i = sigmoid(x_0.to(tl.float32) + b_0 + sum_0)
            f = sigmoid(x_1.to(tl.float32) + b_1 + sum_1)
            g = tanh(x_2.to(tl.float32) + b_2 + sum_2)
            o = sigmoid(x_3.to(tl.float32) + b_3 + sum_3)
            c = f * tl.where(started, 0.0, c) + i * g
            h = o * tanh(c)
        if CELL == "slstm":
            entry = x_0.to(tl.float32) + b_0 + sum_0
            hold = x_1.to(tl.float32) + b_1 + sum_1
            g = tanh(x_2.to(tl.float32) + b_2 + sum_2)
            o = sigmoid(x_3.to(tl.float32) + b_3 + sum_3)
            c, n = tl.where(started, 0.0, c), tl.where(started, 0.0, n)
            # The logarithm of a sigmoid, without overflow.
            held = tl.minimum(hold, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(hold)))
            held = tl.where(n == 0.0, FLOOR, held + m)
            m = tl.maximum(entry, held)
            i, f = tl.exp(entry - m), tl.exp(held - m)
            c = f * c + i * g
            n = tl.maximum(f * n + i, 1.0)
            h = o * c / n

        y_ptr += step
        saved_ptr += step
        # What the others wait for goes first.
        tl.store(y_ptr + state_at, h.to(y_ptr.dtype.element_ty), own)
        if SPLITS > 1:
            arrive(counter_ptr)
        if SAVE:
            if CELL == "gru":
                store_columns(gates_ptr, gates_at, own, new, r, z, sum_2, WIDTH)
            if CELL == "lstm":
                store_columns(gates_ptr, gates_at, own, i, f, g, o, WIDTH)
                tl.store(saved_ptr + state_at, c.to(saved_ptr.dtype.element_ty), own)
            if CELL == "slstm":
                store_columns(gates_ptr, gates_at, own, i, hold, g, o, WIDTH)
                tl.store(saved_ptr + state_at, c.to(saved_ptr.dtype.element_ty), own)
                tl.store(saved_ptr + part + state_at, n.to(saved_ptr.dtype.element_ty), own)
                tl.store(saved_ptr + 2 * part + state_at, f.to(saved_ptr.dtype.element_ty), own)
        gates_ptr += step * COLUMNS
        start_ptr += batch

    tl.store(last_ptr + state_at, h, own)
    if CELL == "lstm" or CELL == "slstm":
        tl.store(last_ptr + step + state_at, c, own)
    if CELL == "slstm":
        tl.store(last_ptr + 2 * step + state_at, n, own)
        tl.store(last_ptr + 3 * step + state_at, m, own)
