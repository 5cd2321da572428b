"""The delta rule on a GPU: one pass over chunks of time, the memory on chip, resets at any step.

A program owns a head of a row, and all or a block of its value columns. Inside a chunk the writes u solve a triangular
system (I + A) u = r, the WY form of Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule over
Sequence Length" (arXiv 2406.06484), section 3.2, with the decays of "Gated Delta Networks" (arXiv 2412.06464), section
3.3; r needs the memory before the chunk, so nothing but that memory goes through DRAM from chunk to chunk. The backward
pass takes the chunks in reverse and computes their insides again.

Forgetting is exact: what was forgotten is selected away and never multiplied. Matrix products do multiply it by 0, so
steps with an infinity or a NaN are taken out of them; outputs that such a step reaches are NaN.
Shapes: C steps of a chunk, J the same steps as keys, T time, B rows, H heads, K width of keys, V columns of values.
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
def _decays(start_ptr, decay_ptr, steps, start_stride, decay_stride, DECAY: tl.constexpr, C: tl.constexpr):
    """Return what each step of a chunk sees of the others (C, J) and of the memory before it (C), and what stays."""
    step_C = tl.arange(0, C)
    inside_C = step_C < steps
    forgets_C = tl.load(start_ptr + step_C * start_stride, mask=inside_C, other=0) != 0
    sound_C = step_C >= 0
    log_C = tl.zeros([C], tl.float32)
    if DECAY:
        log_C = tl.load(decay_ptr + step_C * decay_stride, mask=inside_C, other=0).to(tl.float32)
        forgets_C = forgets_C | (log_C < FORGETS)
        sound_C = forgets_C | (tl.abs(log_C) < float("inf"))
        log_C = tl.where(forgets_C, 0.0, _finite(log_C))
    trial_C = tl.cumsum(forgets_C.to(tl.int32), 0)
    seen_CJ = (trial_C[:, None] == trial_C[None, :]) & (step_C[:, None] >= step_C[None, :])
    # Sums begin anew at each reset, so that not even their rounding depends on what was forgotten.
    total_C = log_C
    if DECAY:
        total_C = tl.sum(tl.where(seen_CJ, log_C[None, :], 0.0), 1)
    pair_CJ = tl.exp(tl.where(seen_CJ, total_C[:, None] - total_C[None, :], float("-inf")))
    carry_C = tl.exp(tl.where(trial_C == 0, total_C, float("-inf")))
    ends = tl.sum(tl.where(step_C == C - 1, total_C, 0.0), 0)
    trials = tl.max(trial_C, 0)
    tail_C = tl.exp(tl.where(trial_C == trials, ends - total_C, float("-inf")))
    keep = tl.exp(tl.where(trials == 0, ends, float("-inf")))
    return seen_CJ, pair_CJ, trial_C == 0, carry_C, tail_C, trials == 0, keep, forgets_C, sound_C


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
def _forward_kernel(
    query_ptr, key_ptr, value_ptr, beta_ptr, decay_ptr, state_ptr, start_ptr, y_ptr, last_ptr, chunks_ptr,
    steps, rows, query_t, query_b, query_h, key_t, key_b, key_h, value_t, value_b, value_h,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DELTA: tl.constexpr, DECAY: tl.constexpr, SAVE: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr, INVERSE: tl.constexpr, INDEX: tl.constexpr,
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
    heads = rows.to(tl.int64) * H
    state_KV = tl.load(state_ptr + head * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
    whole = (tl.max(tl.sum(tl.abs(state_KV), 1), 0) < float("inf")).to(tl.int32)
    state_KV = tl.where(whole != 0, state_KV, 0.0)
    for start in tl.range(0, steps, C, disable_licm=True):
        first = tl.cast(start, tl.int64)
        left = steps - start
        if SAVE and start > 0:
            chunk = ((first // C - 1) * heads + head) * K * V
            tl.store(chunks_ptr + chunk + cell_KV, state_KV.to(COMPUTE), mask=held_KV)
        key_CK = _load(key_ptr + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
        query_CK = _load(query_ptr + first * query_t, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
        value_CV = _load(value_ptr + first * value_t, value_t, left, v_V, V, C, INDEX)
        gate = first * heads + head
        seen_CJ, pair_CJ, carried_C, carry_C, tail_C, kept, keep, _forgets_C, sound_C = _decays(
            start_ptr + first * rows + b, decay_ptr + gate, left, rows, rows * H, DECAY, C
        )
        sound_C = sound_C & _sound(key_CK) & _sound(value_CV)
        if DELTA:
            beta_C = tl.load(beta_ptr + gate + step_C * (rows * H), mask=step_C < left, other=0).to(tl.float32)
            sound_C = sound_C & (tl.abs(beta_C) < float("inf"))
            beta_C = _finite(beta_C)
        key_CK = tl.where(sound_C[:, None], key_CK, 0.0)
        write_CV = tl.where(sound_C[:, None], value_CV, 0.0)
        memory_KV = state_KV.to(COMPUTE)
        if DELTA:
            lower_CJ = seen_CJ & (step_C[:, None] > step_C[None, :])
            A_CJ = tl.dot(key_CK, tl.trans(key_CK), input_precision=PRECISION)
            A_CJ = tl.where(lower_CJ, beta_C[:, None] * pair_CJ * A_CJ, 0.0)
            inverse_CJ = _inverse(A_CJ, C, LEVELS, INVERSE, PRECISION).to(COMPUTE)
            known_CV = carry_C[:, None] * tl.dot(key_CK, memory_KV, input_precision=PRECISION)
            write_CV = beta_C[:, None] * (write_CV.to(tl.float32) - tl.where(carried_C[:, None], known_CV, 0.0))
            write_CV = tl.dot(inverse_CJ, _finite(write_CV).to(COMPUTE), input_precision=PRECISION)
        write_CV = write_CV.to(COMPUTE)
        attend_CJ = pair_CJ * tl.dot(query_CK, tl.trans(key_CK), input_precision=PRECISION)
        attend_CJ = tl.where(seen_CJ, attend_CJ, 0.0).to(COMPUTE)
        recalled_CV = carry_C[:, None] * tl.dot(query_CK, memory_KV, input_precision=PRECISION)
        y_CV = tl.where(carried_C[:, None], recalled_CV, 0.0)
        y_CV += tl.dot(attend_CJ, write_CV, input_precision=PRECISION)
        if whole * tl.min(sound_C.to(tl.int32), 0) == 0:
            broken_C = tl.where(sound_C & ((whole != 0) | (carried_C == 0)), 0, 1)
            broken_C = tl.sum(tl.where(seen_CJ, broken_C[None, :], 0), 1)
            y_CV = tl.where(broken_C[:, None] > 0, float("nan"), y_CV)
            whole = (tl.sum(tl.where(step_C == C - 1, broken_C, 0), 0) == 0).to(tl.int32)
        _store(y_ptr + gate * V, rows * (H * V), left, v_V, y_CV, V, C, INDEX)
        faded_CK = (tail_C[:, None] * key_CK.to(tl.float32)).to(COMPUTE)
        state_KV = tl.where(kept, keep * state_KV, 0.0)
        state_KV += tl.dot(tl.trans(faded_CK), write_CV, input_precision=PRECISION)
    state_KV = tl.where(whole != 0, state_KV, float("nan"))
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
    query_ptr, key_ptr, value_ptr, beta_ptr, decay_ptr, state_ptr, start_ptr, chunks_ptr, dy_ptr, dlast_ptr,
    dquery_ptr, dkey_ptr, dvalue_ptr, dbeta_ptr, ddecay_ptr, dstate_ptr,
    steps, rows, query_t, query_b, query_h, key_t, key_b, key_h, value_t, value_b, value_h,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DELTA: tl.constexpr, DECAY: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr, INVERSE: tl.constexpr, INDEX: tl.constexpr,
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
    dstate_KV = tl.load(dlast_ptr + head * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
    chunks = tl.cdiv(steps, C)
    for reverse in tl.range(0, chunks, disable_licm=True):
        first = (chunks - 1 - reverse).to(tl.int64) * C
        left = steps - (chunks - 1 - reverse) * C
        if first > 0:
            chunk = ((first // C - 1) * heads + head) * K * V
            memory_KV = tl.load(chunks_ptr + chunk + cell_KV, mask=held_KV, other=0).to(COMPUTE)
        else:
            memory_KV = tl.load(state_ptr + head * K * V + cell_KV, mask=held_KV, other=0).to(tl.float32)
            memory_KV = _finite(memory_KV).to(COMPUTE)
        key_CK = _load(key_ptr + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
        query_CK = _load(query_ptr + first * query_t, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
        value_CV = _load(value_ptr + first * value_t, value_t, left, v_V, V, C, INDEX)
        gate = first * heads + head
        dy_CV = _load(dy_ptr + gate * V, rows * (H * V), left, v_V, V, C, INDEX).to(COMPUTE)
        seen_CJ, pair_CJ, carried_C, carry_C, tail_C, kept, keep, forgets_C, _sound_C = _decays(
            start_ptr + first * rows + b, decay_ptr + gate, left, rows, rows * H, DECAY, C
        )
        key_CK = tl.where(_sound(key_CK)[:, None], key_CK, 0.0)
        query_CK = tl.where(_sound(query_CK)[:, None], query_CK, 0.0)

        # What the forward pass had.
        write_CV = tl.where(_sound(value_CV)[:, None], value_CV, 0.0).to(tl.float32)
        if DELTA:
            beta_C = tl.load(beta_ptr + gate + step_C * (rows * H), mask=step_C < left, other=0).to(tl.float32)
            beta_C = _finite(beta_C)
            lower_CJ = seen_CJ & (step_C[:, None] > step_C[None, :])
            alike_CJ = tl.dot(key_CK, tl.trans(key_CK), input_precision=PRECISION)
            alike_CJ = tl.where(lower_CJ, pair_CJ * alike_CJ, 0.0)
            inverse_CJ = _inverse(beta_C[:, None] * alike_CJ, C, LEVELS, INVERSE, PRECISION).to(COMPUTE)
            known_CV = carry_C[:, None] * tl.dot(key_CK, memory_KV, input_precision=PRECISION)
            known_CV = tl.where(carried_C[:, None], known_CV, 0.0)
            news_CV = write_CV - known_CV
            write_CV = _finite(beta_C[:, None] * news_CV).to(COMPUTE)
            write_CV = tl.dot(inverse_CJ, write_CV, input_precision=PRECISION)
        write_CV = write_CV.to(COMPUTE)
        attend_CJ = pair_CJ * tl.dot(query_CK, tl.trans(key_CK), input_precision=PRECISION)
        attend_CJ = tl.where(seen_CJ, attend_CJ, 0.0)

        # Through y and the memory after the chunk, to the writes.
        faded_CK = (tail_C[:, None] * key_CK.to(tl.float32)).to(COMPUTE)
        after_KV = dstate_KV.to(COMPUTE)
        dwrite_CV = tl.dot(tl.trans(attend_CJ.to(COMPUTE)), dy_CV, input_precision=PRECISION)
        dwrite_CV += tl.dot(faded_CK, after_KV, input_precision=PRECISION)
        dattend_CJ = tl.where(seen_CJ, tl.dot(dy_CV, tl.trans(write_CV), input_precision=PRECISION), 0.0)
        dtotal_CJ = dattend_CJ * attend_CJ
        dattend_CJ = (dattend_CJ * pair_CJ).to(COMPUTE)
        dquery_CK = carry_C[:, None] * tl.dot(dy_CV, tl.trans(memory_KV), input_precision=PRECISION)
        dquery_CK = tl.where(carried_C[:, None], dquery_CK, 0.0)
        dcarry_C = tl.sum(dquery_CK * query_CK.to(tl.float32), 1)
        dquery_CK += tl.dot(dattend_CJ, key_CK, input_precision=PRECISION)
        _store(dquery_ptr + gate * K, rows * (H * K), left, k_K, dquery_CK, K, C, INDEX)
        dkey_CK = tail_C[:, None] * tl.dot(write_CV, tl.trans(after_KV), input_precision=PRECISION)
        dtail_C = tl.sum(dkey_CK * key_CK.to(tl.float32), 1)
        dkey_CK += tl.dot(tl.trans(dattend_CJ), query_CK, input_precision=PRECISION)
        dkeep = tl.where(kept, keep * tl.sum(tl.sum(dstate_KV * memory_KV.to(tl.float32), 1), 0), 0.0)
        dstate_KV = tl.where(kept, keep * dstate_KV, 0.0)
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
            dknown_CV = tl.where(carried_C[:, None], -carry_C[:, None] * dwrite_CV, 0.0).to(COMPUTE)
            dknown_CK = tl.dot(dknown_CV, tl.trans(memory_KV), input_precision=PRECISION)
            dkey_CK += tl.where(carried_C[:, None], dknown_CK, 0.0)
            dstate_KV += tl.dot(tl.trans(key_CK), dknown_CV, input_precision=PRECISION)
            tl.store(dbeta_ptr + gate + step_C * (rows * H), dbeta_C, mask=step_C < left)
        _store(dvalue_ptr + gate * V, rows * (H * V), left, v_V, dwrite_CV, V, C, INDEX)
        _store(dkey_ptr + gate * K, rows * (H * K), left, k_K, dkey_CK, K, C, INDEX)
        if DECAY:
            dtotal_C = tl.sum(dtotal_CJ, 1) - tl.sum(dtotal_CJ, 0) + dcarry_C - dtail_C
            dtotal_C += tl.where(step_C == C - 1, tl.sum(dtail_C, 0) + dkeep, 0.0)
            # A decay is in the totals of its own step and of the later ones that see it.
            ddecay_C = tl.sum(tl.where(seen_CJ, dtotal_C[:, None], 0.0), 0)
            ddecay_C = tl.where(forgets_C, 0.0, ddecay_C)
            tl.store(ddecay_ptr + gate + step_C * (rows * H), ddecay_C, mask=step_C < left)
    tl.store(dstate_ptr + head * K * V + cell_KV, dstate_KV.to(dstate_ptr.dtype.element_ty), mask=held_KV)


class Tiles(NamedTuple):
    """How a pass is cut: steps of a chunk, value columns of a program, warps, stages of the loop over chunks."""

    chunk: int
    columns: int
    warps: int
    stages: int = 1


def _tiles(key: int, value: int, backward: bool) -> Tiles:
    """Choose by size, without trying."""
    widest = max(key, value)
    if backward:
        return Tiles(32, min(value, 128), 8 if widest > 64 else 4)
    return Tiles(32, min(value, 64), 4)


def _constants(query_TBHK: Tensor, key_TBHK: Tensor, value_TBHV: Tensor, tiles: Tiles) -> dict[str, Any]:
    half = query_TBHK.dtype if query_TBHK.dtype.itemsize == 2 and query_TBHK.dtype == value_TBHV.dtype else None
    half = None if interpreted() else half  # the interpreter multiplies the bits of bfloat16 as if they were integers
    widest = tiles.chunk * max(part.stride(0) for part in (query_TBHK, key_TBHK, value_TBHV))
    exact = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return {
        "H": query_TBHK.shape[2],
        "K": query_TBHK.shape[3],
        "V": value_TBHV.shape[3],
        "C": tiles.chunk,
        "LEVELS": tiles.chunk.bit_length() - 1,
        "BLOCK_K": max(16, triton.next_power_of_2(query_TBHK.shape[3])),
        "BLOCK_V": max(16, triton.next_power_of_2(tiles.columns)),
        "COMPUTE": {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, None: tl.float32}[half],
        "PRECISION": exact,
        # As exact as TF32, and as fast as bfloat16; what it inverts is near 1.
        "INVERSE": tl.float16 if half else tl.float32,
        "INDEX": tl.int64 if widest >= 2**31 else tl.int32,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _strides(*parts: Tensor) -> list[int]:
    return [stride for part in parts for stride in part.stride()[:3]]


def _forward(inputs: tuple[Tensor, ...], delta: bool, decay: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    query_TBHK, key_TBHK, value_TBHV, _, _, state_BHKV, _ = inputs
    steps, rows, heads, key = query_TBHK.shape
    value = value_TBHV.shape[3]
    tiles = _tiles(key, value, backward=False)
    constants = _constants(query_TBHK, key_TBHK, value_TBHV, tiles)
    y_TBHV = torch.empty((steps, rows, heads, value), dtype=value_TBHV.dtype, device=value_TBHV.device)
    last_BHKV = torch.empty_like(state_BHKV)
    half = constants["COMPUTE"] != tl.float32
    # In the type of the products: the backward pass sees what the forward pass saw.
    chunks = torch.empty(
        (triton.cdiv(steps, tiles.chunk) - 1 if save else 0, *state_BHKV.shape),
        dtype=query_TBHK.dtype if half else torch.float32,
        device=state_BHKV.device,
    )
    _forward_kernel[(rows * heads * triton.cdiv(value, constants["BLOCK_V"]),)](
        *inputs, y_TBHV, last_BHKV, chunks, steps, rows, *_strides(query_TBHK, key_TBHK, value_TBHV),
        DELTA=delta, DECAY=decay, SAVE=save, **constants,
    )  # fmt: skip
    return y_TBHV, last_BHKV, chunks


def _step(inputs: tuple[Tensor, ...], delta: bool, decay: bool) -> tuple[Tensor, Tensor]:
    query_TBHK, key_TBHK, value_TBHV, _, _, state_BHKV, _ = inputs
    _, rows, heads, key = query_TBHK.shape
    value = value_TBHV.shape[3]
    y_TBHV = torch.empty((1, rows, heads, value), dtype=value_TBHV.dtype, device=value_TBHV.device)
    last_BHKV = torch.empty_like(state_BHKV)
    block_k, block_v = triton.next_power_of_2(key), min(32, triton.next_power_of_2(value))
    _step_kernel[(rows * heads * triton.cdiv(value, block_v),)](
        *inputs, y_TBHV, last_BHKV, *(part.stride(d) for part in (query_TBHK, key_TBHK, value_TBHV) for d in (1, 2)),
        H=heads, K=key, V=value, DELTA=delta, DECAY=decay, BLOCK_K=block_k, BLOCK_V=block_v, num_warps=4,
    )  # fmt: skip
    return y_TBHV, last_BHKV


def _backward(
    inputs: tuple[Tensor, ...], chunks: Tensor, dy_TBHV: Tensor, dlast_BHKV: Tensor, delta: bool, decay: bool
) -> tuple[Tensor, ...]:
    query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, state_BHKV, _ = inputs
    steps, rows, heads, key = query_TBHK.shape
    value = value_TBHV.shape[3]
    tiles = _tiles(key, value, backward=True)
    constants = _constants(query_TBHK, key_TBHK, value_TBHV, tiles)
    blocks = triton.cdiv(value, constants["BLOCK_V"])

    def part(like: Tensor, *shape: int) -> Tensor:
        dtype = like.dtype if blocks == 1 and len(shape) == 4 else torch.float32
        return torch.empty((blocks, *shape), dtype=dtype, device=like.device)

    dquery, dkey = (part(each, steps, rows, heads, key) for each in (query_TBHK, key_TBHK))
    dbeta, ddecay = (part(query_TBHK, *((steps, rows, heads) if has else (0,))) for has in (delta, decay))
    dvalue_TBHV = torch.empty((steps, rows, heads, value), dtype=value_TBHV.dtype, device=value_TBHV.device)
    dstate_BHKV = torch.empty_like(state_BHKV)
    _backward_kernel[(rows * heads * blocks,)](
        *inputs, chunks, dy_TBHV, dlast_BHKV, dquery, dkey, dvalue_TBHV, dbeta, ddecay, dstate_BHKV,
        steps, rows, *_strides(query_TBHK, key_TBHK, value_TBHV), DELTA=delta, DECAY=decay, **constants,
    )  # fmt: skip

    def whole(parts: Tensor, like: Tensor) -> Tensor:
        return (parts[0] if blocks == 1 else parts.sum(0)).to(like.dtype)

    gates = (whole(each, like) for each, like in ((dbeta, beta_TBH), (ddecay, log_decay_TBH)))
    return whole(dquery, query_TBHK), whole(dkey, key_TBHK), dvalue_TBHV, *gates, dstate_BHKV


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta: bool, decay: bool, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        y_TBHV, last_BHKV, chunks = _forward(inputs, delta, decay, save=True)
        ctx.save_for_backward(*inputs, chunks)
        ctx.gates = delta, decay
        return y_TBHV, last_BHKV

    @staticmethod
    def backward(ctx: Any, dy_TBHV: Tensor, dlast_BHKV: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, chunks = ctx.saved_tensors
        grads = _backward(tuple(inputs), chunks, dy_TBHV.contiguous(), dlast_BHKV.contiguous(), *ctx.gates)
        return None, None, *grads, None


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
    delta, decay = beta_TBH is not None, log_decay_TBH is not None
    narrow = (part if part.stride(-1) == 1 else part.contiguous() for part in (query_TBHK, key_TBHK, value_TBHV))
    # A gate that is left out is never read; the kernel wants a pointer all the same.
    beta_TBH, log_decay_TBH = (
        state_BHKV.new_empty(0) if gate is None else gate.contiguous() for gate in (beta_TBH, log_decay_TBH)
    )
    inputs = (*narrow, beta_TBH, log_decay_TBH, state_BHKV.contiguous(), start_TB.contiguous().view(torch.uint8))
    if torch.is_grad_enabled() and any(part.requires_grad for part in inputs):
        y_TBHV, last_BHKV = _DeltaRule.apply(delta, decay, *inputs)
        return y_TBHV, last_BHKV
    if len(query_TBHK) == 1:
        return _step(inputs, delta, decay)
    return _forward(inputs, delta, decay, save=False)[:2]
