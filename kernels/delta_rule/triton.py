"""The delta rule on a GPU: one pass over chunks of time, the memory on chip, resets at any step.

Inside a chunk the writes u solve a triangular system (I + A) u = r, the WY form of Yang et al. 2024, "Parallelizing
Linear Transformers with the Delta Rule over Sequence Length" (arXiv 2406.06484), section 3.2, with the decays of "Gated
Delta Networks" (arXiv 2412.06464), section 3.3. What does not need the memory is prepared for all chunks at once. Then
a program owns a head of a row, with all or a block of its value columns, and takes its chunks in order; the backward
pass takes them in reverse, from the memories before them that the forward pass kept.

Forgetting is exact: what was forgotten is selected away. Matrix products multiply it by 0 all the same, so steps with
an infinity or a NaN are taken out of them; outputs that such a step reaches are NaN.
Shapes: C steps of a chunk, J the same steps as keys, T time, B rows, H heads, K width of keys, V columns of values, N
chunks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend import interpreted

WIDEST = 128
"""The most keys of one memory on a chip."""
HUGE = tl.constexpr(1e18)
"""Sums of products of numbers up to this are finite in float32."""
BROKEN = tl.constexpr(1 << 16)
"""Marks steps that see what is not finite; above all numbers of trials in a chunk."""
FORGETS = tl.constexpr(-80.0)
"""A log decay below this is a reset: what it leaves is too small for float32."""


@triton.jit
def _finite(x):
    """Put 0 for what is not finite, or too large for a sum of products."""
    return tl.where(tl.abs(x) < HUGE, x, 0.0)


@triton.jit
def _sound(x_CD):
    """Say which rows are finite."""
    return tl.sum(tl.abs(x_CD.to(tl.float32)), 1) < float("inf")


@triton.jit
def _gates(total_ptr, trial_ptr, stride, steps, C: tl.constexpr):
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
def _seen(trial_C, C: tl.constexpr):
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
def _load(ptr, stride, steps, column_D, WIDTH: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr):
    """Load the steps of a chunk, `stride` numbers apart: (C, D). What is outside is 0."""
    step_C = tl.arange(0, C)
    inside_CD = (step_C[:, None] < steps) & (column_D[None, :] < WIDTH)
    return tl.load(ptr + (step_C.to(INDEX)[:, None] * stride + column_D[None, :]), mask=inside_CD, other=0)


@triton.jit
def _store(ptr, stride, steps, column_D, x_CD, WIDTH: tl.constexpr, C: tl.constexpr, INDEX: tl.constexpr):
    """Store the steps of a chunk that exist."""
    step_C = tl.arange(0, C)
    inside_CD = (step_C[:, None] < steps) & (column_D[None, :] < WIDTH)
    x_CD = x_CD.to(ptr.dtype.element_ty)
    tl.store(ptr + (step_C.to(INDEX)[:, None] * stride + column_D[None, :]), x_CD, mask=inside_CD)


@triton.jit
def _prepare_kernel(
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
    key_CK = _load(key_ptr + b * key_b + h * key_h + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
    query_ptr += b * query_b + h * query_h + first * query_t
    query_CK = _load(query_ptr, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
    forgets_C = tl.load(start_ptr + first * rows + b + step_C * rows, mask=inside_C, other=0) != 0
    sound_C = _sound(key_CK)
    log_C = tl.zeros([C], tl.float32)
    if DECAY:
        log_C = tl.load(decay_ptr + gate + at_C, mask=inside_C, other=0).to(tl.float32)
        forgets_C = forgets_C | (log_C < FORGETS)
        sound_C = sound_C & (forgets_C | (tl.abs(log_C) < float("inf")))
        log_C = tl.where(forgets_C, 0.0, _finite(log_C))
    trial_C = tl.cumsum(forgets_C.to(tl.int32), 0)
    seen_CJ = _seen(trial_C, C)
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
        A_CJ = tl.where(lower_CJ, _finite(beta_C)[:, None] * pair_CJ * A_CJ, 0.0)
        inverse_CJ = _inverse(A_CJ, C, LEVELS, INVERSE, PRECISION)
        tl.store(inverse_ptr + at_CJ, inverse_CJ.to(COMPUTE))
    attend_CJ = pair_CJ * tl.dot(query_CK, tl.trans(key_CK), input_precision=PRECISION)
    tl.store(attend_ptr + at_CJ, tl.where(seen_CJ, attend_CJ, 0.0).to(COMPUTE))
    broken_C = tl.sum(tl.where(seen_CJ & (sound_C[None, :] == 0), 1, 0), 1) > 0
    tl.store(trial_ptr + gate + at_C, tl.where(broken_C, trial_C + BROKEN, trial_C), mask=inside_C)


@triton.jit
def _forward_kernel(
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
        key_CK = _load(key_ptr + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
        query_CK = _load(query_ptr + first * query_t, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
        value_CV = _load(value_ptr + first * value_t, value_t, left, v_V, V, C, INDEX)
        attend_CJ = tl.load(attend_ptr + chunk * (C * C) + cell_CJ)
        _total_C, trial_C, broken_C, carry_C, tail_C, keep = _gates(
            total_ptr + gate, trial_ptr + gate, rows * H, left, C
        )
        sound_C = _sound(value_CV)
        key_CK = tl.where(_sound(key_CK)[:, None], key_CK, 0.0)
        write_CV = tl.where(sound_C[:, None], value_CV, 0.0)
        memory_KV = state_KV.to(COMPUTE)
        if DELTA:
            beta_C = tl.load(beta_ptr + gate + step_C * (rows * H), mask=step_C < left, other=0).to(tl.float32)
            inverse_CJ = tl.load(inverse_ptr + chunk * (C * C) + cell_CJ)
            known_CV = carry_C[:, None] * tl.dot(key_CK, memory_KV, input_precision=PRECISION)
            known_CV = tl.where(carry_C[:, None] > 0, known_CV, 0.0)
            write_CV = _finite(beta_C[:, None] * (write_CV.to(tl.float32) - known_CV)).to(COMPUTE)
            write_CV = tl.dot(inverse_CJ, write_CV, input_precision=PRECISION)
        write_CV = write_CV.to(COMPUTE)
        recalled_CV = carry_C[:, None] * tl.dot(query_CK, memory_KV, input_precision=PRECISION)
        y_CV = tl.where(carry_C[:, None] > 0, recalled_CV, 0.0)
        y_CV += tl.dot(attend_CJ, write_CV, input_precision=PRECISION)
        faded_CK = (tail_C[:, None] * key_CK.to(tl.float32)).to(COMPUTE)
        state_KV = tl.where(keep > 0, keep * state_KV, 0.0)
        state_KV += tl.dot(tl.trans(faded_CK), write_CV, input_precision=PRECISION)
        if (tl.min(sound_C.to(tl.int32), 0) == 0) | (tl.max(broken_C, 0) > 0):
            broken_C += tl.sum(tl.where(_seen(trial_C, C) & (sound_C[None, :] == 0), 1, 0), 1)
            y_CV = tl.where(broken_C[:, None] > 0, float("nan"), y_CV)
            broken = tl.sum(tl.where(step_C == C - 1, broken_C, 0), 0)
            state_KV = tl.where(broken > 0, float("nan"), state_KV)
        _store(y_ptr + gate * V, rows * (H * V), left, v_V, y_CV, V, C, INDEX)
    tl.store(last_ptr + head * K * V + cell_KV, state_KV.to(last_ptr.dtype.element_ty), mask=held_KV)


@triton.jit
def _step_kernel(
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


@triton.jit
def _backward_kernel(
    query_ptr, key_ptr, value_ptr, beta_ptr, state_ptr, total_ptr, trial_ptr, attend_ptr, inverse_ptr, chunks_ptr,
    dy_ptr, dlast_ptr, dquery_ptr, dkey_ptr, dvalue_ptr, dbeta_ptr, ddecay_ptr, dstate_ptr,
    steps, rows, query_t, query_b, query_h, key_t, key_b, key_h, value_t, value_b, value_h,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DELTA: tl.constexpr, DECAY: tl.constexpr,
    C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Run a head of a row over all chunks in reverse; gradients of queries, keys and gates are those of its columns."""
    columns: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    column = tl.program_id(0) % columns
    head = (tl.program_id(0) // columns).to(tl.int64)
    b, h = head // H, head % H
    step_C, k_K = tl.arange(0, C), tl.arange(0, BLOCK_K)
    v_V = column * BLOCK_V + tl.arange(0, BLOCK_V)
    query_ptr += b * query_b + h * query_h
    key_ptr += b * key_b + h * key_h
    value_ptr += b * value_b + h * value_h
    heads = rows.to(tl.int64) * H
    # Each block of columns has its own part of these gradients.
    dquery_ptr += column * steps * heads * K
    dkey_ptr += column * steps * heads * K
    dbeta_ptr += column * steps * heads
    ddecay_ptr += column * steps * heads
    cell_KV = k_K[:, None] * V + v_V[None, :]
    held_KV = (k_K[:, None] < K) & (v_V[None, :] < V)
    cell_CJ = step_C[:, None] * C + step_C[None, :]
    dstate_KV = tl.load(dlast_ptr + head * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
    chunks = tl.cdiv(steps, C)
    for reverse in tl.range(0, chunks, disable_licm=True):
        first = (chunks - 1 - reverse).to(tl.int64) * C
        left = steps - (chunks - 1 - reverse) * C
        chunk = first // C * heads + head
        if first > 0:
            memory_KV = tl.load(chunks_ptr + (chunk - heads) * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
        else:
            memory_KV = tl.load(state_ptr + head * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
        memory_KV = _finite(memory_KV).to(COMPUTE)
        gate = first * heads + head
        key_CK = _load(key_ptr + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
        query_CK = _load(query_ptr + first * query_t, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
        value_CV = _load(value_ptr + first * value_t, value_t, left, v_V, V, C, INDEX)
        dy_CV = _load(dy_ptr + gate * V, rows * (H * V), left, v_V, V, C, INDEX).to(COMPUTE)
        attend_CJ = _finite(tl.load(attend_ptr + chunk * (C * C) + cell_CJ).to(tl.float32))
        total_C, trial_C, _broken_C, carry_C, tail_C, keep = _gates(
            total_ptr + gate, trial_ptr + gate, rows * H, left, C
        )
        seen_CJ = _seen(trial_C, C)
        pair_CJ = tl.exp(tl.where(seen_CJ, total_C[:, None] - total_C[None, :], float("-inf")))
        key_CK = tl.where(_sound(key_CK)[:, None], key_CK, 0.0)
        query_CK = tl.where(_sound(query_CK)[:, None], query_CK, 0.0)

        # What the forward pass had.
        write_CV = tl.where(_sound(value_CV)[:, None], value_CV, 0.0).to(tl.float32)
        if DELTA:
            beta_C = tl.load(beta_ptr + gate + step_C * (rows * H), mask=step_C < left, other=0).to(tl.float32)
            beta_C = _finite(beta_C)
            inverse_CJ = tl.load(inverse_ptr + chunk * (C * C) + cell_CJ)
            lower_CJ = seen_CJ & (step_C[:, None] > step_C[None, :])
            alike_CJ = tl.dot(key_CK, tl.trans(key_CK), input_precision=PRECISION)
            alike_CJ = tl.where(lower_CJ, pair_CJ * alike_CJ, 0.0)
            known_CV = carry_C[:, None] * tl.dot(key_CK, memory_KV, input_precision=PRECISION)
            news_CV = write_CV - known_CV
            write_CV = _finite(beta_C[:, None] * news_CV).to(COMPUTE)
            write_CV = tl.dot(inverse_CJ, write_CV, input_precision=PRECISION)
        write_CV = write_CV.to(COMPUTE)

        # Through y and the memory after the chunk, to the writes.
        faded_CK = (tail_C[:, None] * key_CK.to(tl.float32)).to(COMPUTE)
        after_KV = dstate_KV.to(COMPUTE)
        dwrite_CV = tl.dot(tl.trans(attend_CJ.to(COMPUTE)), dy_CV, input_precision=PRECISION)
        dwrite_CV += tl.dot(faded_CK, after_KV, input_precision=PRECISION)
        dattend_CJ = tl.where(seen_CJ, tl.dot(dy_CV, tl.trans(write_CV), input_precision=PRECISION), 0.0)
        dtotal_CJ = dattend_CJ * attend_CJ
        dattend_CJ = (dattend_CJ * pair_CJ).to(COMPUTE)
        dquery_CK = carry_C[:, None] * tl.dot(dy_CV, tl.trans(memory_KV), input_precision=PRECISION)
        dquery_CK = tl.where(carry_C[:, None] > 0, dquery_CK, 0.0)
        dcarry_C = tl.sum(dquery_CK * query_CK.to(tl.float32), 1)
        dquery_CK += tl.dot(dattend_CJ, key_CK, input_precision=PRECISION)
        _store(dquery_ptr + gate * K, rows * (H * K), left, k_K, dquery_CK, K, C, INDEX)
        dkey_CK = tail_C[:, None] * tl.dot(write_CV, tl.trans(after_KV), input_precision=PRECISION)
        dtail_C = tl.sum(dkey_CK * key_CK.to(tl.float32), 1)
        dkey_CK += tl.dot(tl.trans(dattend_CJ), query_CK, input_precision=PRECISION)
        dkeep = keep * tl.sum(tl.sum(dstate_KV * memory_KV.to(tl.float32), 1), 0)
        dstate_KV *= keep
        asked_CK = (carry_C[:, None] * query_CK.to(tl.float32)).to(COMPUTE)
        dstate_KV += tl.dot(tl.trans(asked_CK), dy_CV, input_precision=PRECISION)

        # Through the triangular system, to what was written, and to keys and gates.
        if DELTA:
            dwrite_CV = tl.dot(tl.trans(inverse_CJ), dwrite_CV.to(COMPUTE), input_precision=PRECISION)
            dbeta_C = tl.sum(dwrite_CV * news_CV, 1)
            dA_CJ = tl.dot(dwrite_CV.to(COMPUTE), tl.trans(write_CV), input_precision=PRECISION)
            dA_CJ = tl.where(lower_CJ, -dA_CJ, 0.0)
            dbeta_C += tl.sum(dA_CJ * alike_CJ, 1)
            dtotal_CJ += dA_CJ * beta_C[:, None] * alike_CJ
            dA_CJ = dA_CJ * beta_C[:, None] * pair_CJ
            dkey_CK += tl.dot((dA_CJ + tl.trans(dA_CJ)).to(COMPUTE), key_CK, input_precision=PRECISION)
            dwrite_CV = beta_C[:, None] * dwrite_CV
            dcarry_C -= tl.sum(dwrite_CV * known_CV, 1)
            dknown_CV = (-carry_C[:, None] * dwrite_CV).to(COMPUTE)
            dkey_CK += tl.dot(dknown_CV, tl.trans(memory_KV), input_precision=PRECISION)
            dstate_KV += tl.dot(tl.trans(key_CK), dknown_CV, input_precision=PRECISION)
            tl.store(dbeta_ptr + gate + step_C * (rows * H), dbeta_C, mask=step_C < left)
        _store(dvalue_ptr + gate * V, rows * (H * V), left, v_V, dwrite_CV, V, C, INDEX)
        _store(dkey_ptr + gate * K, rows * (H * K), left, k_K, dkey_CK, K, C, INDEX)
        if DECAY:
            dtotal_C = tl.sum(dtotal_CJ, 1) - tl.sum(dtotal_CJ, 0) + dcarry_C - dtail_C
            dtotal_C += tl.where(step_C == C - 1, tl.sum(dtail_C, 0) + dkeep, 0.0)
            # A decay is in the totals of its own step and of the later ones that see it.
            ddecay_C = tl.sum(tl.where(seen_CJ, dtotal_C[:, None], 0.0), 0)
            # Those of steps that forget are in none.
            before_C = tl.load(
                trial_ptr + gate + (step_C - 1) * (rows * H), mask=(step_C > 0) & (step_C < left), other=0
            )
            ddecay_C = tl.where(trial_C == before_C % BROKEN, ddecay_C, 0.0)
            tl.store(ddecay_ptr + gate + step_C * (rows * H), ddecay_C, mask=step_C < left)
    tl.store(dstate_ptr + head * K * V + cell_KV, dstate_KV.to(dstate_ptr.dtype.element_ty), mask=held_KV)


class Tiles(NamedTuple):
    """How the work is cut."""

    chunk: int
    """Steps of a chunk, in all passes."""
    prepare: int
    """Warps of a chunk alone."""
    forward: int
    forward_columns: int
    """Value columns of a program."""
    forward_stages: int
    backward: int
    backward_columns: int
    backward_stages: int


def _tiles(key: int, value: int, itemsize: int) -> Tiles:
    """Choose by size, without trying."""
    if max(key, value) <= 64:
        return Tiles(16, 1, 4, 64, 1, 4, 64, 1) if itemsize == 2 else Tiles(16, 2, 4, 64, 1, 8, 64, 1)
    return Tiles(32, 2, 4, 64, 1, 8, 128, 1) if itemsize == 2 else Tiles(16, 2, 4, 32, 1, 8, 64, 1)


class Inputs(NamedTuple):
    """What the kernels read; a gate that is left out is empty."""

    query_TBHK: Tensor
    key_TBHK: Tensor
    value_TBHV: Tensor
    beta_TBH: Tensor
    log_decay_TBH: Tensor
    state_BHKV: Tensor
    start_TB: Tensor


class Prepared(NamedTuple):
    """What chunks have for themselves. N chunks."""

    total_TBH: Tensor
    trial_TBH: Tensor
    attend_NBHCJ: Tensor
    inverse_NBHCJ: Tensor


class _Plan:
    """Sizes and constants of a call."""

    def __init__(self, inputs: Inputs) -> None:
        query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, _, _ = inputs
        self.steps, self.rows, self.heads, self.key = query_TBHK.shape
        self.value = value_TBHV.shape[3]
        self.delta, self.decay = beta_TBH.numel() > 0, log_decay_TBH.numel() > 0
        half = query_TBHK.dtype if query_TBHK.dtype.itemsize == 2 and query_TBHK.dtype == value_TBHV.dtype else None
        # The interpreter multiplies the bits of bfloat16 as if they were integers.
        half = None if interpreted() else half
        # In the type of the products: the backward pass sees what the forward pass saw.
        self.dtype = half or torch.float32
        self.tiles = _tiles(self.key, self.value, self.dtype.itemsize)
        self.chunks = triton.cdiv(self.steps, self.tiles.chunk)
        self.key_strides = [stride for part in (query_TBHK, key_TBHK) for stride in part.stride()[:3]]
        self.strides = [*self.key_strides, *value_TBHV.stride()[:3]]
        widest = self.tiles.chunk * max(part.stride(0) for part in (query_TBHK, key_TBHK, value_TBHV))
        exact = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        self.constants: dict[str, Any] = {
            "H": self.heads,
            "K": self.key,
            "DELTA": self.delta,
            "C": self.tiles.chunk,
            "BLOCK_K": max(16, triton.next_power_of_2(self.key)),
            "COMPUTE": {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[self.dtype],
            "PRECISION": exact,
            "INDEX": tl.int64 if widest >= 2**31 else tl.int32,
        }

    def columns(self, columns: int) -> tuple[int, dict[str, Any]]:
        """Return the blocks of value columns, and their constants."""
        block = max(16, triton.next_power_of_2(min(columns, self.value)))
        return triton.cdiv(self.value, block), {"V": self.value, "BLOCK_V": block, **self.constants}


def _prepare(plan: _Plan, inputs: Inputs) -> Prepared:
    query_TBHK, key_TBHK, _, beta_TBH, log_decay_TBH, state_BHKV, start_TB = inputs
    gates, chunk = (plan.steps, plan.rows, plan.heads), plan.tiles.chunk
    square = (plan.chunks, plan.rows, plan.heads, chunk, chunk)
    prepared = Prepared(
        state_BHKV.new_empty(gates, dtype=torch.float32),
        state_BHKV.new_empty(gates, dtype=torch.int32),
        state_BHKV.new_empty(square, dtype=plan.dtype),
        state_BHKV.new_empty(square if plan.delta else 0, dtype=plan.dtype),
    )
    _prepare_kernel[(plan.chunks * plan.rows * plan.heads,)](
        query_TBHK, key_TBHK, beta_TBH, log_decay_TBH, start_TB, *prepared,
        plan.steps, plan.rows, *plan.key_strides, DECAY=plan.decay, LEVELS=chunk.bit_length() - 1,
        # As exact as TF32, and as fast as bfloat16; what it inverts is near 1.
        INVERSE=tl.float32 if plan.dtype == torch.float32 else tl.float16,
        **plan.constants, num_warps=plan.tiles.prepare,
    )  # fmt: skip
    return prepared


def _forward(plan: _Plan, inputs: Inputs, save: bool) -> tuple[Tensor, Tensor, Prepared, Tensor]:
    query_TBHK, key_TBHK, value_TBHV, beta_TBH, _, state_BHKV, _ = inputs
    prepared = _prepare(plan, inputs)
    blocks, constants = plan.columns(plan.tiles.forward_columns)
    y_TBHV = value_TBHV.new_empty(value_TBHV.shape)
    last_BHKV = torch.empty_like(state_BHKV)
    chunks_NBHKV = state_BHKV.new_empty((plan.chunks - 1 if save else 0, *state_BHKV.shape), dtype=plan.dtype)
    _forward_kernel[(plan.rows * plan.heads * blocks,)](
        query_TBHK, key_TBHK, value_TBHV, beta_TBH, state_BHKV, *prepared, y_TBHV, last_BHKV, chunks_NBHKV,
        plan.steps, plan.rows, *plan.strides, SAVE=save,
        **constants, num_warps=plan.tiles.forward, num_stages=plan.tiles.forward_stages,
    )  # fmt: skip
    return y_TBHV, last_BHKV, prepared, chunks_NBHKV


def _step(plan: _Plan, inputs: Inputs) -> tuple[Tensor, Tensor]:
    _, _, value_TBHV, _, _, state_BHKV, _ = inputs
    y_TBHV = value_TBHV.new_empty(value_TBHV.shape)
    last_BHKV = torch.empty_like(state_BHKV)
    block_k, block_v = triton.next_power_of_2(plan.key), min(32, triton.next_power_of_2(plan.value))
    _step_kernel[(plan.rows * plan.heads * triton.cdiv(plan.value, block_v),)](
        *inputs, y_TBHV, last_BHKV, *(part.stride(d) for part in inputs[:3] for d in (1, 2)),
        H=plan.heads, K=plan.key, V=plan.value, DELTA=plan.delta, DECAY=plan.decay,
        BLOCK_K=block_k, BLOCK_V=block_v, num_warps=4,
    )  # fmt: skip
    return y_TBHV, last_BHKV


def _backward(
    plan: _Plan, inputs: Inputs, prepared: Prepared, chunks_NBHKV: Tensor, dy_TBHV: Tensor, dlast_BHKV: Tensor
) -> tuple[Tensor, ...]:
    query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, state_BHKV, _ = inputs
    blocks, constants = plan.columns(plan.tiles.backward_columns)
    # Each block of columns has its own part of these.
    shared = [query_TBHK, key_TBHK, beta_TBH, log_decay_TBH]
    parts = [
        like.new_empty((blocks, *like.shape), dtype=like.dtype if blocks == 1 and like.ndim == 4 else torch.float32)
        for like in shared
    ]
    dvalue_TBHV = value_TBHV.new_empty(value_TBHV.shape)
    dstate_BHKV = torch.empty_like(state_BHKV)
    dquery, dkey, dbeta, ddecay = parts
    _backward_kernel[(plan.rows * plan.heads * blocks,)](
        query_TBHK, key_TBHK, value_TBHV, beta_TBH, state_BHKV, *prepared, chunks_NBHKV, dy_TBHV, dlast_BHKV,
        dquery, dkey, dvalue_TBHV, dbeta, ddecay, dstate_BHKV,
        plan.steps, plan.rows, *plan.strides, DECAY=plan.decay,
        **constants, num_warps=plan.tiles.backward, num_stages=plan.tiles.backward_stages,
    )  # fmt: skip
    whole = [(part[0] if blocks == 1 else part.sum(0)).to(like.dtype) for part, like in zip(parts, shared, strict=True)]
    return whole[0], whole[1], dvalue_TBHV, whole[2], whole[3], dstate_BHKV


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        given = Inputs(*inputs)
        ctx.plan = _Plan(given)
        y_TBHV, last_BHKV, prepared, chunks_NBHKV = _forward(ctx.plan, given, save=True)
        ctx.save_for_backward(*inputs, *prepared, chunks_NBHKV)
        return y_TBHV, last_BHKV

    @staticmethod
    def backward(ctx: Any, dy_TBHV: Tensor, dlast_BHKV: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, prepared = Inputs(*saved[:7]), Prepared(*saved[7:11])
        grads = _backward(ctx.plan, inputs, prepared, saved[11], dy_TBHV.contiguous(), dlast_BHKV.contiguous())
        return *grads, None


def refusal(value_TBHV: Tensor, *, key: int = 1, delta: bool = True, by_key: bool = False) -> str | None:
    """Say why the kernels cannot run, or return None."""
    if value_TBHV.dtype == torch.float64:
        return "it computes in float32, and float64 came"
    if by_key:
        return "it has one decay for each head, and one for each key dimension came"
    if delta and key > WIDEST:
        return f"a memory of {key} keys is too large for a chip; {WIDEST} at most, or any number without beta"
    return None


def delta_rule(
    query_TBHK: Tensor,
    key_TBHK: Tensor,
    value_TBHV: Tensor,
    beta_TBH: Tensor | None,
    log_decay_TBH: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return what `reference.delta_rule` returns."""
    if query_TBHK.shape[3] > WIDEST:
        # Without beta, keys do not know of each other.
        cut = (part.split(WIDEST, d) for part, d in ((query_TBHK, 3), (key_TBHK, 3), (state_BHKV, 2)))
        parts = [
            delta_rule(query, key, value_TBHV, None, log_decay_TBH, state, start_TB)
            for query, key, state in zip(*cut, strict=True)
        ]
        y_TBHV = torch.stack([y.float() for y, _ in parts]).sum(0).to(value_TBHV.dtype)
        return y_TBHV, torch.cat([last for _, last in parts], 2)
    query_TBHK, key_TBHK, value_TBHV = (
        part if part.stride(-1) == 1 else part.contiguous() for part in (query_TBHK, key_TBHK, value_TBHV)
    )
    beta_TBH, log_decay_TBH = (
        state_BHKV.new_empty(0) if gate is None else gate.contiguous() for gate in (beta_TBH, log_decay_TBH)
    )
    start_TB = start_TB.contiguous().view(torch.uint8)
    inputs = Inputs(query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, state_BHKV.contiguous(), start_TB)
    if torch.is_grad_enabled() and any(part.requires_grad for part in inputs):
        y_TBHV, last_BHKV = _DeltaRule.apply(*inputs)
        return y_TBHV, last_BHKV
    plan = _Plan(inputs)
    if plan.steps == 1:
        return _step(plan, inputs)
    return _forward(plan, inputs, save=False)[:2]
