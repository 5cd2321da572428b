"""`rotary_heads` in Triton: each projection is read once and written once, where attention wants it.

A program takes one of query, key and value of a few tokens, all heads. Backward it turns the other way.
Shapes: B rows, P tokens, H heads, K width of a head, J = K / 2, N keys of the past, F = H * J pairs of a token.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PAIRS = 1024
"""Pairs that a program takes, if a token has no more."""


def refusal(like: Tensor) -> str | None:
    """Say why the kernel cannot run, or return None."""
    if like.dtype == torch.float64:
        return "it does not compute in float64"
    return None


@triton.jit
def _turn(
    projected, query, kv, cosine, sine,
    projected_b, projected_p, query_b, query_p, query_h, kv_b, kv_part, kv_h, kv_n, turn_b,
    tokens, past, heads, width,
    BACK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(2)
    half = width // 2
    token_P, pair_F = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_F)
    head_F, pair_F = pair_F // half, pair_F % half
    inside_PF = (token_P < tokens)[:, None] & (head_F < heads)[None, :]

    at_PF = projected + row * projected_b + token_P[:, None] * projected_p
    at_PF += ((part * heads + head_F) * width + pair_F)[None, :]
    if part == 0:
        to_PF = query + row * query_b + token_P[:, None] * query_p + (head_F * query_h + pair_F)[None, :]
    else:
        to_PF = kv + row * kv_b + (part - 1) * kv_part + (past + token_P)[:, None] * kv_n
        to_PF += (head_F.to(tl.int64) * kv_h + pair_F)[None, :]
    if BACK:
        at_PF, to_PF = to_PF, at_PF
    left_PF = tl.load(at_PF, inside_PF, other=0.0).to(tl.float32)
    right_PF = tl.load(at_PF + half, inside_PF, other=0.0).to(tl.float32)
    if part < 2:
        angle_PF = row * turn_b + token_P[:, None] * half + pair_F[None, :]
        cosine_PF = tl.load(cosine + angle_PF, inside_PF, other=0.0)
        sine_PF = tl.load(sine + angle_PF, inside_PF, other=0.0)
        if BACK:
            sine_PF = -sine_PF
        turned_PF = left_PF * cosine_PF - right_PF * sine_PF
        right_PF = right_PF * cosine_PF + left_PF * sine_PF
        left_PF = turned_PF
    tl.store(to_PF, left_PF.to(to_PF.dtype.element_ty), inside_PF)
    tl.store(to_PF + half, right_PF.to(to_PF.dtype.element_ty), inside_PF)


def _launch(
    projected: Tensor, query: Tensor, kv: Tensor, turn: tuple[Tensor, Tensor], past: int, *, back: bool
) -> None:
    rows, tokens, _, heads, width = projected.shape
    block_f = triton.next_power_of_2(heads * width // 2)
    block_p = max(1, min(PAIRS // block_f, triton.next_power_of_2(tokens)))
    cosine, sine = turn
    _turn[(rows, triton.cdiv(tokens, block_p), 3)](
        projected, query, kv, cosine, sine,
        projected.stride(0), projected.stride(1), query.stride(0), query.stride(2), query.stride(1),
        *kv.stride()[:4], 0 if len(cosine) == 1 else cosine.stride(0),
        tokens, past, heads, width, BACK=back, BLOCK_P=block_p, BLOCK_F=block_f, num_warps=4,
    )  # fmt: skip


class _RotaryHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected_BP3HK: Tensor, past_B2HNK: Tensor | None, cosine_BPJ: Tensor, sine_BPJ: Tensor
    ) -> Any:
        rows, tokens, _, heads, width = projected_BP3HK.shape
        past = 0 if past_B2HNK is None else past_B2HNK.shape[3]
        # In memory (B, P, H, K), as they come.
        query_BHPK = projected_BP3HK.new_empty(rows, tokens, heads, width).transpose(1, 2)
        kv_B2HNK = projected_BP3HK.new_empty(rows, 2, heads, past + tokens, width)
        if past_B2HNK is not None:
            kv_B2HNK[..., :past, :].copy_(past_B2HNK)
        _launch(projected_BP3HK, query_BHPK, kv_B2HNK, (cosine_BPJ, sine_BPJ), past, back=False)
        ctx.save_for_backward(cosine_BPJ, sine_BPJ)
        ctx.sizes, ctx.past = projected_BP3HK.shape, past
        ctx.past_type = None if past_B2HNK is None else past_B2HNK.dtype
        return query_BHPK, kv_B2HNK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_query_BHPK: Tensor, d_kv_B2HNK: Tensor) -> Any:
        d_query_BHPK, d_kv_B2HNK = (
            part if part.stride(-1) == 1 else part.contiguous() for part in (d_query_BHPK, d_kv_B2HNK)
        )
        d_projected_BP3HK = d_query_BHPK.new_empty(ctx.sizes)
        _launch(d_projected_BP3HK, d_query_BHPK, d_kv_B2HNK, ctx.saved_tensors, ctx.past, back=True)
        d_past = d_kv_B2HNK[..., : ctx.past, :].to(ctx.past_type) if ctx.needs_input_grad[1] else None
        return d_projected_BP3HK, d_past, None, None


def rotary_heads(
    projected_BP3HK: Tensor, past_B2HNK: Tensor | None, cosine_BPJ: Tensor, sine_BPJ: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `reference.rotary_heads` returns."""
    if not projected_BP3HK[0, 0].is_contiguous():
        projected_BP3HK = projected_BP3HK.contiguous()
    query_BHPK, kv_B2HNK = _RotaryHeads.apply(
        projected_BP3HK, past_B2HNK, cosine_BPJ.float().contiguous(), sine_BPJ.float().contiguous()
    )
    return query_BHPK, kv_B2HNK
