"""Attention over spans of time in Triton: no mask in memory, tiles in which no query sees a key are skipped.

A tile is BLOCK_T queries by BLOCK_N keys. What a query does not see has no part in its output, be it NaN: scores are
selected, and values that are no numbers are taken out of the product and noted for the queries that do see them.
Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend import interpreted
from .reference import Seen
from .sink import with_sink

WIDEST = 128
LOG2E = 1.4426950408889634


def refusal(like: Tensor, width: int = 1) -> str | None:
    """Say why the kernel cannot run, or return None."""
    if width > WIDEST:
        return f"a head is {width} wide, and it takes up to {WIDEST}"
    if like.dtype == torch.float64:
        return "it does not compute in float64"
    return None


@triton.jit
def _finite(x):
    """Put 0 where x is no number."""
    wide = x.to(tl.float32)
    return tl.where(tl.abs(wide) < float("inf"), wide, 0.0).to(x.dtype)


@triton.jit
def _seen(time_of, first_T, last_T, time_T, time_N, steps, keys, CAUSAL: tl.constexpr):
    """Say which keys (at `time_N`) which queries (at `time_T`) of a row see, (BLOCK_T, BLOCK_N)."""
    if CAUSAL:
        seen_TN = (time_N[None, :] <= time_T[:, None] + (keys - steps)) & (time_T[:, None] < steps)
        seen_TN = seen_TN & (time_N[None, :] < keys)
    else:
        key_N = tl.load(time_of + time_N, time_N < keys, other=-2147483648)
        seen_TN = (key_N[None, :] >= first_T[:, None]) & (key_N[None, :] <= last_T[:, None])
    return seen_TN


@triton.jit
def _rows(at, step, index, count, width, offset_K, DTYPE: tl.constexpr):
    """Load rows of a matrix, (BLOCK, BLOCK_K), with 0 beyond its edges."""
    inside = (index < count)[:, None] & (offset_K < width)[None, :]
    return tl.load(at + index[:, None] * step + offset_K[None, :], inside, other=0.0).to(DTYPE)


@triton.jit
def _store(at, step, index, count, width, offset_K, x):
    inside = (index < count)[:, None] & (offset_K < width)[None, :]
    tl.store(at + index[:, None] * step + offset_K[None, :], x.to(at.dtype.element_ty), inside)


@triton.jit
def _spans(first_of, last_of, time_T, steps, CAUSAL: tl.constexpr):
    """Load the spans of the queries; one beyond the edge sees nothing."""
    if CAUSAL:
        first_T, last_T = time_T, time_T
    else:
        first_T = tl.load(first_of + time_T, time_T < steps, other=1)
        last_T = tl.load(last_of + time_T, time_T < steps, other=0)
    return first_T, last_T


@triton.jit
def _forward(
    query, key, value, time_of, first_of, last_of, out, log_sum,
    query_b, query_h, query_t, key_b, key_h, key_n, value_b, value_h, value_n, out_b, out_h, out_t,
    heads, steps, keys, width, scale,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    time_T = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    offset_N, offset_K = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    key, value = key + row * key_b + head * key_h, value + row * value_b + head * value_h
    query_TK = _rows(query + row * query_b + head * query_h, query_t, time_T, steps, width, offset_K, DTYPE)
    first_T, last_T = _spans(first_of + row * steps, last_of + row * steps, time_T, steps, CAUSAL)

    best_T = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total_T = tl.zeros((BLOCK_T,), tl.float32)
    spoiled_T = tl.zeros((BLOCK_T,), tl.int32)
    read_TK = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    until = keys
    if CAUSAL:
        until = tl.minimum(keys, (tl.program_id(1) + 1) * BLOCK_T + keys - steps)
    for begin in range(0, until, BLOCK_N):
        time_N = begin + offset_N
        seen_TN = _seen(time_of + row * keys, first_T, last_T, time_T, time_N, steps, keys, CAUSAL)
        if tl.max(seen_TN.to(tl.int32)) > 0:
            key_NK = _rows(key, key_n, time_N, keys, width, offset_K, DTYPE)
            value_NK = _rows(value, value_n, time_N, keys, width, offset_K, DTYPE)
            score_TN = tl.dot(query_TK, tl.trans(key_NK), input_precision=PRECISION) * scale
            score_TN = tl.where(seen_TN, score_TN, float("-inf"))
            higher_T = tl.maximum(best_T, tl.max(score_TN, 1))
            base_T = tl.where(higher_T == float("-inf"), 0.0, higher_T)
            shrink_T = tl.exp2(best_T - base_T)
            weight_TN = tl.where(seen_TN, tl.exp2(score_TN - base_T[:, None]), 0.0)
            total_T = total_T * shrink_T + tl.sum(weight_TN, 1)
            broken_N = 1 - tl.min((tl.abs(value_NK.to(tl.float32)) < float("inf")).to(tl.int32), 1)
            if tl.max(broken_N) > 0:
                spoiled_T = spoiled_T | tl.max((seen_TN & (broken_N > 0)[None, :]).to(tl.int32), 1)
            weight_TN = weight_TN.to(DTYPE)
            read_TK = read_TK * shrink_T[:, None]
            read_TK += tl.dot(weight_TN, _finite(value_NK), input_precision=PRECISION)
            best_T = higher_T
    total_T = tl.where(total_T == 0, 1.0, total_T)  # of a query that sees nothing, which has read 0
    read_TK = read_TK / total_T[:, None]
    read_TK = tl.where((spoiled_T > 0)[:, None], float("nan"), read_TK)
    _store(out + row * out_b + head * out_h, out_t, time_T, steps, width, offset_K, read_TK)
    # The natural logarithm, from those of base 2.
    log_sum_T = (best_T + tl.log2(total_T)) * 0.6931471805599453
    tl.store(log_sum + (row * heads + head) * steps + time_T, log_sum_T, time_T < steps)


@triton.jit
def _weights(query_TK, key_NK, base_T, seen_TN, scale, PRECISION: tl.constexpr):
    """Return the weights of the softmax again, exactly 0 where a key is not seen."""
    score_TN = tl.dot(query_TK, tl.trans(key_NK), input_precision=PRECISION) * scale
    score_TN = tl.where(seen_TN, score_TN, float("-inf"))
    return tl.where(seen_TN, tl.exp2(score_TN - base_T[:, None]), 0.0)


@triton.jit
def _backward_query(
    query, key, value, time_of, first_of, last_of, out, log_sum, d_out, d_log_sum, d_query, delta,
    query_b, query_h, query_t, key_b, key_h, key_n, value_b, value_h, value_n, out_b, out_h, out_t,
    d_out_b, d_out_h, d_out_t, d_query_b, d_query_h, d_query_t,
    heads, steps, keys, width, scale,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    time_T = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    offset_N, offset_K = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    key, value = key + row * key_b + head * key_h, value + row * value_b + head * value_h
    query_TK = _rows(query + row * query_b + head * query_h, query_t, time_T, steps, width, offset_K, DTYPE)
    d_out_TK = _rows(d_out + row * d_out_b + head * d_out_h, d_out_t, time_T, steps, width, offset_K, DTYPE)
    out_TK = _rows(out + row * out_b + head * out_h, out_t, time_T, steps, width, offset_K, DTYPE)
    first_T, last_T = _spans(first_of + row * steps, last_of + row * steps, time_T, steps, CAUSAL)
    at_T = (row * heads + head) * steps + time_T
    base_T = tl.load(log_sum + at_T, time_T < steps, other=0.0) * 1.4426950408889634
    delta_T = tl.sum(out_TK.to(tl.float32) * d_out_TK.to(tl.float32), 1)
    delta_T -= tl.load(d_log_sum + at_T, time_T < steps, other=0.0)
    tl.store(delta + at_T, delta_T, time_T < steps)

    d_query_TK = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    until = keys
    if CAUSAL:
        until = tl.minimum(keys, (tl.program_id(1) + 1) * BLOCK_T + keys - steps)
    for begin in range(0, until, BLOCK_N):
        time_N = begin + offset_N
        seen_TN = _seen(time_of + row * keys, first_T, last_T, time_T, time_N, steps, keys, CAUSAL)
        if tl.max(seen_TN.to(tl.int32)) > 0:
            key_NK = _rows(key, key_n, time_N, keys, width, offset_K, DTYPE)
            value_NK = _rows(value, value_n, time_N, keys, width, offset_K, DTYPE)
            weight_TN = _weights(query_TK, key_NK, base_T, seen_TN, scale, PRECISION)
            d_weight_TN = tl.dot(d_out_TK, tl.trans(_finite(value_NK)), input_precision=PRECISION)
            d_score_TN = tl.where(seen_TN, weight_TN * (d_weight_TN - delta_T[:, None]), 0.0).to(DTYPE)
            d_query_TK += tl.dot(d_score_TN, _finite(key_NK), input_precision=PRECISION)
    d_query_TK *= scale * 0.6931471805599453
    _store(d_query + row * d_query_b + head * d_query_h, d_query_t, time_T, steps, width, offset_K, d_query_TK)


@triton.jit
def _backward_key(
    query, key, value, time_of, first_of, last_of, log_sum, d_out, delta, d_key, d_value,
    query_b, query_h, query_t, key_b, key_h, key_n, value_b, value_h, value_n,
    d_out_b, d_out_h, d_out_t, d_key_b, d_key_h, d_key_n, d_value_b, d_value_h, d_value_n,
    heads, steps, keys, width, scale,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    time_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offset_T, offset_K = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_K)
    query, d_out = query + row * query_b + head * query_h, d_out + row * d_out_b + head * d_out_h
    key_NK = _rows(key + row * key_b + head * key_h, key_n, time_N, keys, width, offset_K, DTYPE)
    value_NK = _rows(value + row * value_b + head * value_h, value_n, time_N, keys, width, offset_K, DTYPE)
    value_NK = _finite(value_NK)

    d_key_NK = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    d_value_NK = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    since = 0
    if CAUSAL:
        since = tl.maximum(0, (tl.program_id(1) * BLOCK_N - (keys - steps)) // BLOCK_T * BLOCK_T)
    for begin in range(since, steps, BLOCK_T):
        time_T = begin + offset_T
        first_T, last_T = _spans(first_of + row * steps, last_of + row * steps, time_T, steps, CAUSAL)
        seen_TN = _seen(time_of + row * keys, first_T, last_T, time_T, time_N, steps, keys, CAUSAL)
        if tl.max(seen_TN.to(tl.int32)) > 0:
            query_TK = _rows(query, query_t, time_T, steps, width, offset_K, DTYPE)
            d_out_TK = _finite(_rows(d_out, d_out_t, time_T, steps, width, offset_K, DTYPE))
            at_T = (row * heads + head) * steps + time_T
            base_T = tl.load(log_sum + at_T, time_T < steps, other=0.0) * 1.4426950408889634
            delta_T = tl.load(delta + at_T, time_T < steps, other=0.0)
            weight_TN = _weights(query_TK, key_NK, base_T, seen_TN, scale, PRECISION)
            d_value_NK += tl.dot(tl.trans(weight_TN.to(DTYPE)), d_out_TK, input_precision=PRECISION)
            d_weight_TN = tl.dot(d_out_TK, tl.trans(value_NK), input_precision=PRECISION)
            d_score_TN = tl.where(seen_TN, weight_TN * (d_weight_TN - delta_T[:, None]), 0.0).to(DTYPE)
            d_key_NK += tl.dot(tl.trans(d_score_TN), _finite(query_TK), input_precision=PRECISION)
    d_key_NK *= scale * 0.6931471805599453
    _store(d_key + row * d_key_b + head * d_key_h, d_key_n, time_N, keys, width, offset_K, d_key_NK)
    _store(d_value + row * d_value_b + head * d_value_h, d_value_n, time_N, keys, width, offset_K, d_value_NK)


def _options(query_BHTK: Tensor, keys: int, *, causal: bool) -> dict[str, Any]:
    """Choose tiles by size: small ones where there is little to fill large ones, or numbers are large."""
    steps, width = query_BHTK.shape[2:]
    large = query_BHTK.dtype == torch.float32
    most = 32 if large else 64
    precision = "tf32x3" if large and torch.get_float32_matmul_precision() == "highest" else "tf32"
    return {
        "CAUSAL": causal,
        "PRECISION": precision if large else None,
        # The interpreter has no products of bfloat16.
        "DTYPE": tl.float32 if large or interpreted() else getattr(tl, str(query_BHTK.dtype).removeprefix("torch.")),
        "BLOCK_T": min(most, max(16, triton.next_power_of_2(steps))),
        "BLOCK_N": min(most, max(16, triton.next_power_of_2(keys))),
        "BLOCK_K": max(16, triton.next_power_of_2(width)),
        "num_warps": 4 if width <= 64 else 8,
        "num_stages": 2,
    }


def _pointers(seen: Seen | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if seen is None:
        return like, like, like  # not read
    time_BN, first_BT, last_BT = (part.to(torch.int32).contiguous() for part in seen)
    return time_BN, first_BT, last_BT


def forward(query_BHTK: Tensor, kv_B2HNK: Tensor, seen: Seen | None) -> tuple[Tensor, Tensor]:
    """Return what is read (B, H, T, K), and the logarithm of the sum of the weights (B, H, T)."""
    batch, heads, steps, width = query_BHTK.shape
    key_BHNK, value_BHNK = kv_B2HNK.unbind(1)
    keys = key_BHNK.shape[2]
    options = _options(query_BHTK, keys, causal=seen is None)
    # In memory (B, T, H, K), so that what the heads have read lies side by side.
    out_BHTK = query_BHTK.new_empty(batch, steps, heads, width).transpose(1, 2)
    log_sum_BHT = torch.empty(batch, heads, steps, dtype=torch.float32, device=query_BHTK.device)
    _forward[(batch * heads, triton.cdiv(steps, options["BLOCK_T"]))](
        query_BHTK, key_BHNK, value_BHNK, *_pointers(seen, log_sum_BHT), out_BHTK, log_sum_BHT,
        *query_BHTK.stride()[:3], *key_BHNK.stride()[:3], *value_BHNK.stride()[:3], *out_BHTK.stride()[:3],
        heads, steps, keys, width, width**-0.5 * LOG2E, **options,
    )  # fmt: skip
    return out_BHTK, log_sum_BHT


def backward(
    query_BHTK: Tensor,
    kv_B2HNK: Tensor,
    seen: Seen | None,
    out_BHTK: Tensor,
    log_sum_BHT: Tensor,
    d_out_BHTK: Tensor,
    d_log_sum_BHT: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of queries, and of keys and values."""
    batch, heads, steps, width = query_BHTK.shape
    key_BHNK, value_BHNK = kv_B2HNK.unbind(1)
    keys = key_BHNK.shape[2]
    options = _options(query_BHTK, keys, causal=seen is None)
    d_query_BHTK = query_BHTK.new_empty(batch, steps, heads, width).transpose(1, 2)
    d_kv_B2HNK = kv_B2HNK.new_empty(kv_B2HNK.shape)
    d_key_BHNK, d_value_BHNK = d_kv_B2HNK.unbind(1)
    delta_BHT = torch.empty_like(log_sum_BHT)
    pointers = _pointers(seen, log_sum_BHT)
    strides = (*query_BHTK.stride()[:3], *key_BHNK.stride()[:3], *value_BHNK.stride()[:3])
    sizes = (heads, steps, keys, width, width**-0.5 * LOG2E)
    _backward_query[(batch * heads, triton.cdiv(steps, options["BLOCK_T"]))](
        query_BHTK, key_BHNK, value_BHNK, *pointers, out_BHTK, log_sum_BHT, d_out_BHTK, d_log_sum_BHT,
        d_query_BHTK, delta_BHT,
        *strides, *out_BHTK.stride()[:3], *d_out_BHTK.stride()[:3], *d_query_BHTK.stride()[:3], *sizes, **options,
    )  # fmt: skip
    _backward_key[(batch * heads, triton.cdiv(keys, options["BLOCK_N"]))](
        query_BHTK, key_BHNK, value_BHNK, *pointers, log_sum_BHT, d_out_BHTK, delta_BHT, d_key_BHNK, d_value_BHNK,
        *strides, *d_out_BHTK.stride()[:3], *d_key_BHNK.stride()[:3], *d_value_BHNK.stride()[:3], *sizes, **options,
    )  # fmt: skip
    return d_query_BHTK, d_kv_B2HNK


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BHTK: Tensor, kv_B2HNK: Tensor, *seen: Tensor) -> Any:
        spans = Seen(*seen) if seen else None
        out_BHTK, log_sum_BHT = forward(query_BHTK, kv_B2HNK, spans)
        ctx.save_for_backward(query_BHTK, kv_B2HNK, out_BHTK, log_sum_BHT, *seen)
        return out_BHTK, log_sum_BHT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out_BHTK: Tensor, d_log_sum_BHT: Tensor) -> Any:
        query_BHTK, kv_B2HNK, out_BHTK, log_sum_BHT, *seen = ctx.saved_tensors
        spans = Seen(*seen) if seen else None
        d_out_BHTK = d_out_BHTK if d_out_BHTK.stride(-1) == 1 else d_out_BHTK.contiguous()
        d_log_sum_BHT = d_log_sum_BHT.contiguous()
        made = backward(query_BHTK, kv_B2HNK, spans, out_BHTK, log_sum_BHT, d_out_BHTK, d_log_sum_BHT)
        return *made, *[None] * len(seen)


def attention(query_BHTK: Tensor, kv_B2HNK: Tensor, seen: Seen | None, sink: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return what `reference.attention` returns."""
    if torch.is_autocast_enabled(query_BHTK.device.type):
        query_BHTK = query_BHTK.to(torch.get_autocast_dtype(query_BHTK.device.type))
    query_BHTK, kv_B2HNK = (part if part.stride(-1) == 1 else part.contiguous() for part in (query_BHTK, kv_B2HNK))
    spans = () if seen is None else _pointers(seen, query_BHTK)
    read_BHTK, log_sum_BHT = _Attention.apply(query_BHTK, kv_B2HNK, *spans)
    return read_BHTK if sink is None else with_sink(read_BHTK, log_sum_BHT, query_BHTK, sink)
