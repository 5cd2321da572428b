"""Forward kernels of the delta rule, and what the backward kernel shares with them.

Shapes: C steps of a chunk, J the same steps as keys, K width of keys, V columns of values, D is K or V.
"""

from __future__ import annotations

import triton
import triton.language as tl

HUGE = tl.constexpr(1e18)
"""Sums of products of numbers up to this are finite in float32."""
BROKEN = tl.constexpr(1 << 16)
"""Marks steps that see what is not finite; above all numbers of trials in a chunk."""
FORGETS = tl.constexpr(-80.0)
"""A log decay below this is a reset: what it leaves is too small for float32."""


@triton.jit
def finite(x):
    """Put 0 for what is not finite, or too large for a sum of products."""
    return tl.where(tl.abs(x) < HUGE, x, 0.0)


@triton.jit
def sound(x_CD):
    """Say which rows are finite."""
    return tl.sum(tl.abs(x_CD.to(tl.float32)), 1) < float("inf")


@triton.jit
def gates(total_ptr, trial_ptr, stride, steps, C: tl.constexpr):
    """Load what was prepared of the decays of a chunk: sums since the last reset, and which trial of the chunk it is.

    Return them with whether a step sees what is not finite, what each step has of the memory before the chunk (C), and
    what the memory after it has of each step (C) and of the memory before.
    """
    step_C = tl.arange(0, C)
    last = tl.minimum(steps, C) - 1
    at_C = tl.minimum(step_C, last) * stride
    total_C, trial_C = tl.load(total_ptr + at_C), tl.load(trial_ptr + at_C)
    end, trials = tl.load(total_ptr + last * stride), tl.load(trial_ptr + last * stride) % BROKEN
    broken_C = trial_C // BROKEN
    trial_C = trial_C % BROKEN
    carry_C = tl.exp(tl.where(trial_C == 0, total_C, float("-inf")))
    tail_C = tl.exp(tl.where(trial_C == trials, end - total_C, float("-inf")))
    keep = tl.exp(tl.where(trials == 0, end, float("-inf")))
    return total_C, trial_C, broken_C, carry_C, tail_C, keep


@triton.jit
def seen(trial_C, C: tl.constexpr):
    """Say which steps each step of a chunk sees."""
    step_C = tl.arange(0, C)
    return (trial_C[:, None] == trial_C[None, :]) & (step_C[:, None] >= step_C[None, :])


@triton.jit
def _inverse(A_CJ, C: tl.constexpr, LEVELS: tl.constexpr, INVERSE: tl.constexpr, PRECISION: tl.constexpr):
    """Invert I + A, where A is strictly lower triangular.

    The inverses of diagonal blocks are joined to those of blocks twice as large. Unlike a power series in A this is as
    stable as substitution: repeated keys with beta near 2 make powers of A huge, and its inverse small.
    """
    # No product of what is kept is infinite: a memory that explodes must not reach what comes after a reset.
    LIMIT: tl.constexpr = 6e4 if INVERSE.primitive_bitwidth == 16 else HUGE
    step_C = tl.arange(0, C)
    A_CJ = tl.where(tl.abs(A_CJ) < LIMIT, A_CJ, 0.0)
    pairs_CJ = (step_C[:, None] >> 1) == (step_C[None, :] >> 1)
    inverse_CJ = tl.where(step_C[:, None] == step_C[None, :], 1.0, 0.0) - tl.where(pairs_CJ, A_CJ, 0.0)
    for level in tl.static_range(1, LEVELS):
        near_CJ = (step_C[:, None] >> (level + 1)) == (step_C[None, :] >> (level + 1))
        far_CJ = (step_C[:, None] >> level) != (step_C[None, :] >> level)
        joint_CJ = tl.where(near_CJ & far_CJ, A_CJ, 0.0).to(INVERSE)
        joint_CJ = tl.dot(joint_CJ, inverse_CJ.to(INVERSE), input_precision=PRECISION)
        joint_CJ = tl.where(tl.abs(joint_CJ) < LIMIT, joint_CJ, 0.0).to(INVERSE)
        joint_CJ = tl.dot(inverse_CJ.to(INVERSE), joint_CJ, input_precision=PRECISION)
        inverse_CJ -= tl.where(tl.abs(joint_CJ) < LIMIT, joint_CJ, 0.0)
    return inverse_CJ


@triton.jit
def load(ptr, stride, steps, column_D, WIDTH: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr):
    """Load the steps of a chunk, `stride` numbers apart: (C, D). What is outside is 0."""
    step_C = tl.arange(0, C)
    inside_CD = (step_C[:, None] < steps) & (column_D[None, :] < WIDTH)
    return tl.load(ptr + (step_C.to(INDEX)[:, None] * stride + column_D[None, :]), mask=inside_CD, other=0)


@triton.jit
def store(ptr, stride, steps, column_D, x_CD, WIDTH: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr):
    """Store the steps of a chunk that exist."""
    step_C = tl.arange(0, C)
    inside_CD = (step_C[:, None] < steps) & (column_D[None, :] < WIDTH)
    x_CD = x_CD.to(ptr.dtype.element_ty)
    tl.store(ptr + (step_C.to(INDEX)[:, None] * stride + column_D[None, :]), x_CD, mask=inside_CD)


@triton.jit(do_not_specialize=["steps", "rows"])
def prepare_kernel(
    query_ptr, key_ptr, beta_ptr, decay_ptr, start_ptr, total_ptr, trial_ptr, attend_ptr, inverse_ptr,
    steps, rows, query_t, query_b, query_h, key_t, key_b, key_h,
    H: tl.constexpr, K: tl.constexpr, DELTA: tl.constexpr, DECAY: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, BLOCK_K: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    INVERSE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Compute what a chunk of a head of a row has for itself: sums of log decays, attention, the triangular inverse."""
    heads = rows.to(tl.int64) * H
    head = tl.program_id(0) % heads
    chunk = tl.program_id(0) // heads
    b, h, first = head // H, head % H, chunk * C
    left = (steps - first).to(tl.int32)
    step_C, k_K = tl.arange(0, C), tl.arange(0, BLOCK_K)
    inside_C = step_C < left
    gate = first * heads + head
    at_C = step_C * (rows * H)
    key_CK = load(key_ptr + b * key_b + h * key_h + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
    query_ptr += b * query_b + h * query_h + first * query_t
    query_CK = load(query_ptr, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
    forgets_C = tl.load(start_ptr + first * rows + b + step_C * rows, mask=inside_C, other=0) != 0
    sound_C = sound(key_CK)
    log_C = tl.zeros([C], tl.float32)
    if DECAY:
        log_C = tl.load(decay_ptr + gate + at_C, mask=inside_C, other=0).to(tl.float32)
        forgets_C = forgets_C | (log_C < FORGETS)
        sound_C = sound_C & (forgets_C | (tl.abs(log_C) < float("inf")))
        log_C = tl.where(forgets_C, 0.0, finite(log_C))
    trial_C = tl.cumsum(forgets_C.to(tl.int32), 0)
    seen_CJ = seen(trial_C, C)
    # Sums begin anew at each reset, so that not even their rounding depends on what was forgotten.
    total_C = tl.sum(tl.where(seen_CJ, log_C[None, :], 0.0), 1)
    tl.store(total_ptr + gate + at_C, total_C, mask=inside_C)
    pair_CJ = tl.exp(tl.where(seen_CJ, total_C[:, None] - total_C[None, :], float("-inf")))
    key_CK = tl.where(sound_C[:, None], key_CK, 0.0)
    at_CJ = (chunk * heads + head) * (C * C) + (step_C[:, None] * C + step_C[None, :])
    if DELTA:
        beta_C = tl.load(beta_ptr + gate + at_C, mask=inside_C, other=0).to(tl.float32)
        sound_C = sound_C & (tl.abs(beta_C) < float("inf"))
        A_CJ = tl.dot(key_CK, tl.trans(key_CK), input_precision=PRECISION)
        lower_CJ = seen_CJ & (step_C[:, None] > step_C[None, :])
        A_CJ = tl.where(lower_CJ, finite(beta_C)[:, None] * pair_CJ * A_CJ, 0.0)
        inverse_CJ = _inverse(A_CJ, C, LEVELS, INVERSE, PRECISION)
        tl.store(inverse_ptr + at_CJ, inverse_CJ.to(COMPUTE))
    attend_CJ = pair_CJ * tl.dot(query_CK, tl.trans(key_CK), input_precision=PRECISION)
    tl.store(attend_ptr + at_CJ, tl.where(seen_CJ, attend_CJ, 0.0).to(COMPUTE))
    broken_C = tl.sum(tl.where(seen_CJ & (sound_C[None, :] == 0), 1, 0), 1) > 0
    tl.store(trial_ptr + gate + at_C, tl.where(broken_C, trial_C + BROKEN, trial_C), mask=inside_C)


@triton.jit(do_not_specialize=["steps", "rows"])
def forward_kernel(
    query_ptr, key_ptr, value_ptr, beta_ptr, state_ptr, total_ptr, trial_ptr, attend_ptr, inverse_ptr,
    y_ptr, last_ptr, chunks_ptr,
    steps, rows, query_t, query_b, query_h, key_t, key_b, key_h, value_t, value_b, value_h,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DELTA: tl.constexpr, SAVE: tl.constexpr,
    C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Run a head of a row over all chunks."""
    columns: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    head = (tl.program_id(0) // columns).to(tl.int64)
    b, h = head // H, head % H
    step_C, k_K = tl.arange(0, C), tl.arange(0, BLOCK_K)
    v_V = (tl.program_id(0) % columns) * BLOCK_V + tl.arange(0, BLOCK_V)
    query_ptr += b * query_b + h * query_h
    key_ptr += b * key_b + h * key_h
    value_ptr += b * value_b + h * value_h
    cell_KV = k_K[:, None] * V + v_V[None, :]
    held_KV = (k_K[:, None] < K) & (v_V[None, :] < V)
    cell_CJ = step_C[:, None] * C + step_C[None, :]
    heads = rows.to(tl.int64) * H
    state_KV = tl.load(state_ptr + head * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
    for start in tl.range(0, steps, C, disable_licm=True):
        first = tl.cast(start, tl.int64)
        left = steps - start
        chunk = first // C * heads + head
        if SAVE and start > 0:
            tl.store(chunks_ptr + (chunk - heads) * K * V + cell_KV, state_KV.to(COMPUTE), mask=held_KV)
        gate = first * heads + head
        key_CK = load(key_ptr + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
        query_CK = load(query_ptr + first * query_t, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
        value_CV = load(value_ptr + first * value_t, value_t, left, v_V, V, C, INDEX)
        attend_CJ = tl.load(attend_ptr + chunk * (C * C) + cell_CJ)
        _total_C, trial_C, broken_C, carry_C, tail_C, keep = gates(
            total_ptr + gate, trial_ptr + gate, rows * H, left, C
        )
        sound_C = sound(value_CV)
        key_CK = tl.where(sound(key_CK)[:, None], key_CK, 0.0)
        write_CV = tl.where(sound_C[:, None], value_CV, 0.0)
        memory_KV = state_KV.to(COMPUTE)
        if DELTA:
            beta_C = tl.load(beta_ptr + gate + step_C * (rows * H), mask=step_C < left, other=0).to(tl.float32)
            inverse_CJ = tl.load(inverse_ptr + chunk * (C * C) + cell_CJ)
            known_CV = carry_C[:, None] * tl.dot(key_CK, memory_KV, input_precision=PRECISION)
            known_CV = tl.where(carry_C[:, None] > 0, known_CV, 0.0)
            write_CV = finite(beta_C[:, None] * (write_CV.to(tl.float32) - known_CV)).to(COMPUTE)
            write_CV = tl.dot(inverse_CJ, write_CV, input_precision=PRECISION)
        write_CV = write_CV.to(COMPUTE)
        recalled_CV = carry_C[:, None] * tl.dot(query_CK, memory_KV, input_precision=PRECISION)
        y_CV = tl.where(carry_C[:, None] > 0, recalled_CV, 0.0)
        y_CV += tl.dot(attend_CJ, write_CV, input_precision=PRECISION)
        faded_CK = (tail_C[:, None] * key_CK.to(tl.float32)).to(COMPUTE)
        state_KV = tl.where(keep > 0, keep * state_KV, 0.0)
        state_KV += tl.dot(tl.trans(faded_CK), write_CV, input_precision=PRECISION)
        if (tl.min(sound_C.to(tl.int32), 0) == 0) | (tl.max(broken_C, 0) > 0):
            broken_C += tl.sum(tl.where(seen(trial_C, C) & (sound_C[None, :] == 0), 1, 0), 1)
            y_CV = tl.where(broken_C[:, None] > 0, float("nan"), y_CV)
            broken = tl.sum(tl.where(step_C == C - 1, broken_C, 0), 0)
            state_KV = tl.where(broken > 0, float("nan"), state_KV)
        store(y_ptr + gate * V, rows * (H * V), left, v_V, y_CV, V, C, INDEX)
    tl.store(last_ptr + head * K * V + cell_KV, state_KV.to(last_ptr.dtype.element_ty), mask=held_KV)


@triton.jit
def step_kernel(
    query_ptr, key_ptr, value_ptr, beta_ptr, decay_ptr, state_ptr, start_ptr, y_ptr, last_ptr,
    query_b, query_h, key_b, key_h, value_b, value_h,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DELTA: tl.constexpr, DECAY: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Take one step of a head of a row, for a block of value columns: the definition as it stands."""
    columns: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    head = (tl.program_id(0) // columns).to(tl.int64)
    b, h = head // H, head % H
    k_K = tl.arange(0, BLOCK_K)
    v_V = (tl.program_id(0) % columns) * BLOCK_V + tl.arange(0, BLOCK_V)
    cell_KV = head * K * V + (k_K[:, None] * V + v_V[None, :])
    held_KV = (k_K[:, None] < K) & (v_V[None, :] < V)
    start = tl.load(start_ptr + b) != 0
    # A row that starts does not even read its memory.
    state_KV = tl.load(state_ptr + cell_KV, mask=held_KV & (start == 0), other=0).to(tl.float32)
    query_K = tl.load(query_ptr + b * query_b + h * query_h + k_K, mask=k_K < K, other=0).to(tl.float32)
    key_K = tl.load(key_ptr + b * key_b + h * key_h + k_K, mask=k_K < K, other=0).to(tl.float32)
    write_V = tl.load(value_ptr + b * value_b + h * value_h + v_V, mask=v_V < V, other=0).to(tl.float32)
    if DECAY:
        log_decay = tl.load(decay_ptr + head).to(tl.float32)
        state_KV = tl.where(start, 0.0, state_KV * tl.exp(log_decay))
    if DELTA:
        beta = tl.load(beta_ptr + head).to(tl.float32)
        write_V = beta * (write_V - tl.sum(key_K[:, None] * state_KV, 0))
    state_KV += key_K[:, None] * write_V[None, :]
    y_V = tl.sum(query_K[:, None] * state_KV, 0)
    tl.store(y_ptr + head * V + v_V, y_V.to(y_ptr.dtype.element_ty), mask=v_V < V)
    tl.store(last_ptr + cell_KV, state_KV.to(last_ptr.dtype.element_ty), mask=held_KV)
