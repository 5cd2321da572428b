"""Attention of one new step to a cache in one launch, which reads the slots that a row sees and no others.

A program takes one head of one row. The step itself is in its registers, so nothing is read that the launch writes.
Shapes: B rows, H heads, N slots of the cache, K width of a head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_N = 64
"""Slots that a program reads at once."""
WIDEST = 256


def refusal(like: Tensor, width: int = 1, *, gradients: bool = False) -> str | None:
    """Say why the kernel cannot run, or return None."""
    if gradients:
        return "it has no gradients (torch.no_grad() when acting)"
    if width > WIDEST:
        return f"a head is {width} wide, and it takes up to {WIDEST}"
    if like.dtype == torch.float64:
        return "it does not compute in float64"
    return None


@triton.jit
def _slots(query_K, cache, part, first, until, slot, width, best, total, read_K, offset_K, BLOCK_N: tl.constexpr):
    """Read the slots from `first` to `until`, but for the one of the step, into the running softmax."""
    offset_N = tl.arange(0, BLOCK_N)
    inside_K = offset_K < width
    for begin in range(first, until, BLOCK_N):
        slot_N = begin + offset_N
        use_N = (slot_N < until) & (slot_N != slot)
        at_NK = cache + slot_N[:, None] * width + offset_K[None, :]
        use_NK = use_N[:, None] & inside_K[None, :]
        key_NK = tl.load(at_NK, use_NK, other=0.0).to(tl.float32)
        value_NK = tl.load(at_NK + part, use_NK, other=0.0).to(tl.float32)
        score_N = tl.where(use_N, tl.sum(key_NK * query_K[None, :], 1), float("-inf"))
        higher = tl.maximum(best, tl.max(score_N, 0))
        shrink = tl.exp2(best - higher)
        weight_N = tl.where(use_N, tl.exp2(score_N - higher), 0.0)
        total = total * shrink + tl.sum(weight_N, 0)
        read_K = read_K * shrink + tl.sum(weight_N[:, None] * value_NK, 0)
        best = higher
    return best, total, read_K


@triton.jit
def _decode(
    query,
    new,
    cache,
    slot_of,
    far_of,
    near_of,
    start_of,
    sink_key,
    sink_value,
    out,
    query_row,
    query_head,
    new_row,
    new_part,
    new_head,
    part,
    heads,
    slots,
    width,
    split,
    scale,
    HAS_START: tl.constexpr,
    HAS_SINK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offset_K = tl.arange(0, BLOCK_K)
    inside_K = offset_K < width
    slot, far, near = tl.load(slot_of + row), tl.load(far_of + row), tl.load(near_of + row)
    keys = cache + row * 2 * part + head * slots * width
    values = keys + part
    query_K = tl.load(query + row * query_row + head * query_head + offset_K, inside_K, other=0.0)
    # Exponentials of base 2: the change of base is part of the scale.
    query_K = query_K.to(tl.float32) * (scale * 1.4426950408889634)
    key = new + row * new_row + head * new_head + offset_K
    key_K = tl.load(key, inside_K, other=0.0).to(cache.dtype.element_ty)
    value_K = tl.load(key + new_part, inside_K, other=0.0).to(cache.dtype.element_ty)

    best = tl.sum(query_K * key_K.to(tl.float32), 0)
    total = best * 0.0 + 1.0
    read_K = value_K.to(tl.float32)
    if HAS_SINK:
        sink_key_K = tl.load(sink_key + head * width + offset_K, inside_K, other=0.0).to(tl.float32)
        sink_value_K = tl.load(sink_value + head * width + offset_K, inside_K, other=0.0).to(tl.float32)
        score = tl.sum(query_K * sink_key_K, 0)
        higher = tl.maximum(best, score)
        total = tl.exp2(best - higher) + tl.exp2(score - higher)
        read_K = read_K * tl.exp2(best - higher) + sink_value_K * tl.exp2(score - higher)
        best = higher
    if HAS_START:  # noqa: SIM102, what is known when the kernel is made stands alone
        if tl.load(start_of + row) != 0:
            far, near = far * 0, near * 0
            offset_N = tl.arange(0, BLOCK_N)
            for begin in range(0, slots, BLOCK_N):
                slot_N = begin + offset_N
                empty_NK = ((slot_N < slots) & (slot_N != slot))[:, None] & inside_K[None, :]
                zero_NK = tl.zeros((BLOCK_N, BLOCK_K), cache.dtype.element_ty)
                tl.store(keys + slot_N[:, None] * width + offset_K[None, :], zero_NK, empty_NK)
                tl.store(values + slot_N[:, None] * width + offset_K[None, :], zero_NK, empty_NK)
    best, total, read_K = _slots(query_K, keys, part, 0, far, slot, width, best, total, read_K, offset_K, BLOCK_N)
    best, total, read_K = _slots(
        query_K, keys, part, split, split + near, slot, width, best, total, read_K, offset_K, BLOCK_N
    )
    tl.store(keys + slot * width + offset_K, key_K, inside_K)
    tl.store(values + slot * width + offset_K, value_K, inside_K)
    tl.store(out + (row * heads + head) * width + offset_K, read_K / total, inside_K)


def decode_attention(
    query_BHK: Tensor,
    new_B2HK: Tensor,
    cache_B2HNK: Tensor,
    slot_B: Tensor,
    far_B: Tensor,
    near_B: Tensor,
    split: int,
    start_B: Tensor | None,
    sink: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return what `reference.decode_attention` returns."""
    batch, heads, width = query_BHK.shape
    if not cache_B2HNK.is_contiguous():
        raise ValueError("decode_attention: the cache must be contiguous, since it is written to in place")
    query_BHK, new_B2HK = (part if part.stride(-1) == 1 else part.contiguous() for part in (query_BHK, new_B2HK))
    sink_key, sink_value = (None, None) if sink is None else (part.contiguous() for part in sink)
    out_BHK = torch.empty(batch, heads, width, dtype=query_BHK.dtype, device=query_BHK.device)
    _decode[(batch, heads)](
        query_BHK,
        new_B2HK,
        cache_B2HNK,
        slot_B,
        far_B,
        near_B,
        None if start_B is None else start_B.view(torch.uint8),
        sink_key,
        sink_value,
        out_BHK,
        query_BHK.stride(0),
        query_BHK.stride(1),
        new_B2HK.stride(0),
        new_B2HK.stride(1),
        new_B2HK.stride(2),
        cache_B2HNK.stride(1),
        heads,
        cache_B2HNK.shape[3],
        width,
        split,
        width**-0.5,
        HAS_START=start_B is not None,
        HAS_SINK=sink is not None,
        BLOCK_N=BLOCK_N,
        BLOCK_K=triton.next_power_of_2(width),
        num_warps=4,
    )
    return out_BHK
