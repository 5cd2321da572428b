"""The backward kernel of the delta rule.

Shapes: C steps of a chunk, J the same steps as keys, K width of keys, V columns of values.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_forward import BROKEN, finite, gates, load, seen, sound, store


@triton.jit(do_not_specialize=["steps", "rows"])
def backward_kernel(
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
        memory_KV = finite(memory_KV).to(COMPUTE)
        gate = first * heads + head
        key_CK = load(key_ptr + first * key_t, key_t, left, k_K, K, C, INDEX).to(COMPUTE)
        query_CK = load(query_ptr + first * query_t, query_t, left, k_K, K, C, INDEX).to(COMPUTE)
        value_CV = load(value_ptr + first * value_t, value_t, left, v_V, V, C, INDEX)
        dy_CV = load(dy_ptr + gate * V, rows * (H * V), left, v_V, V, C, INDEX).to(COMPUTE)
        attend_CJ = finite(tl.load(attend_ptr + chunk * (C * C) + cell_CJ).to(tl.float32))
        total_C, trial_C, _broken_C, carry_C, tail_C, keep = gates(
            total_ptr + gate, trial_ptr + gate, rows * H, left, C
        )
        seen_CJ = seen(trial_C, C)
        pair_CJ = tl.exp(tl.where(seen_CJ, total_C[:, None] - total_C[None, :], float("-inf")))
        key_CK = tl.where(sound(key_CK)[:, None], key_CK, 0.0)
        query_CK = tl.where(sound(query_CK)[:, None], query_CK, 0.0)

        # What the forward pass had.
        write_CV = tl.where(sound(value_CV)[:, None], value_CV, 0.0).to(tl.float32)
        if DELTA:
            beta_C = tl.load(beta_ptr + gate + step_C * (rows * H), mask=step_C < left, other=0).to(tl.float32)
            beta_C = finite(beta_C)
            inverse_CJ = tl.load(inverse_ptr + chunk * (C * C) + cell_CJ)
            lower_CJ = seen_CJ & (step_C[:, None] > step_C[None, :])
            alike_CJ = tl.dot(key_CK, tl.trans(key_CK), input_precision=PRECISION)
            alike_CJ = tl.where(lower_CJ, pair_CJ * alike_CJ, 0.0)
            known_CV = carry_C[:, None] * tl.dot(key_CK, memory_KV, input_precision=PRECISION)
            news_CV = write_CV - known_CV
            write_CV = finite(beta_C[:, None] * news_CV).to(COMPUTE)
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
        store(dquery_ptr + gate * K, rows * (H * K), left, k_K, dquery_CK, K, C, INDEX)
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
        store(dvalue_ptr + gate * V, rows * (H * V), left, v_V, dwrite_CV, V, C, INDEX)
        store(dkey_ptr + gate * K, rows * (H * K), left, k_K, dkey_CK, K, C, INDEX)
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
