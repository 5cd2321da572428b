"""The softmax scan on a CPU: what is one number per head for all steps first, then three operations per step in place.

Backward is such a loop too, from the last step to the first; `triton.py` has its equations.
Shapes: T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .reference import Sums


def refusal(like: Tensor, **facts: Any) -> str | None:
    """Say why this cannot run."""
    del facts
    kind = like.device.type
    return None if kind == "cpu" else f"it asks at each step whether a row starts, which a {kind} device would wait for"


def weigh(score_TBH: Tensor, sums: Sums, start_TB: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, for each step, the highest score, the total, what is kept of the sums, and what a value counts."""
    like = sums.total_BH
    top_TBH, total_TBH = (torch.empty(score_TBH.shape, dtype=like.dtype) for _ in range(2))
    start_TB1, lowest = start_TB[..., None], like.new_tensor(torch.finfo(like.dtype).min)
    before_TBH = torch.empty_like(top_TBH)
    top_BH = sums.top_BH
    for t, score_BH in enumerate(score_TBH):
        torch.where(start_TB1[t], lowest, top_BH, out=before_TBH[t])
        top_BH = torch.maximum(before_TBH[t], score_BH, out=top_TBH[t])
    keep_TBH, add_TBH = (before_TBH - top_TBH).exp_(), (score_TBH - top_TBH).exp_()
    keep_TBH.masked_fill_(start_TB1, 0)
    total_BH = torch.where(start_TB1[0], 0, sums.total_BH)
    for t, add_BH in enumerate(add_TBH):
        total_BH = torch.addcmul(add_BH, keep_TBH[t], total_BH, out=total_TBH[t])
    return top_TBH, total_TBH, keep_TBH, add_TBH


class _SoftmaxScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, score_TBH: Tensor, value_TBHK: Tensor, top_BH: Tensor, total_BH: Tensor, weighted_BHK: Tensor,
        start_TB: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        sums = Sums(top_BH, total_BH, weighted_BHK)
        top_TBH, total_TBH, keep_TBH, add_TBH = weigh(score_TBH, sums, start_TB)
        part_TBH = total_TBH.reciprocal()
        mean_TBHK = torch.empty(value_TBHK.shape, dtype=weighted_BHK.dtype)
        now_BHK, added_BHK = weighted_BHK.clone(), torch.empty_like(weighted_BHK)
        for t, starts in enumerate(start_TB.any(1).tolist()):
            if starts:
                now_BHK.masked_fill_(start_TB[t, :, None, None], 0)
            torch.mul(value_TBHK[t], add_TBH[t, ..., None], out=added_BHK)
            torch.addcmul(added_BHK, keep_TBH[t, ..., None], now_BHK, out=now_BHK)
            torch.mul(now_BHK, part_TBH[t, ..., None], out=mean_TBHK[t])
        ctx.save_for_backward(value_TBHK, total_BH, weighted_BHK, start_TB, mean_TBHK, keep_TBH, add_TBH, part_TBH)
        ctx.score = score_TBH.dtype
        last_top_BH = top_TBH[-1].clone()
        ctx.mark_non_differentiable(last_top_BH)
        return mean_TBHK, last_top_BH, total_TBH[-1].clone(), now_BHK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_mean_TBHK: Tensor, _: Any, d_total_BH: Tensor, d_weighted_BHK: Tensor) -> Any:
        value_TBHK, total_BH, weighted_BHK, start_TB, mean_TBHK, keep_TBH, add_TBH, part_TBH = ctx.saved_tensors
        d_value_TBHK, d_score_TBH = torch.empty_like(value_TBHK), torch.empty_like(add_TBH)
        g_BHK, g_BH, product_BHK = d_weighted_BHK.clone(), d_total_BH.clone(), torch.empty_like(weighted_BHK)
        starts = start_TB.any(1).tolist()
        for t in range(len(starts) - 1, -1, -1):
            part_BH, add_BH = part_TBH[t], add_TBH[t]
            g_BHK.addcmul_(d_mean_TBHK[t], part_BH[..., None])
            torch.mul(d_mean_TBHK[t], mean_TBHK[t], out=product_BHK)
            g_BH.addcmul_(product_BHK.sum(-1), part_BH, value=-1)
            torch.mul(g_BHK, value_TBHK[t], out=product_BHK)
            torch.mul(product_BHK.sum(-1).add_(g_BH), add_BH, out=d_score_TBH[t])
            torch.mul(g_BHK, add_BH[..., None], out=product_BHK)
            d_value_TBHK[t] = product_BHK
            g_BHK.mul_(keep_TBH[t, ..., None])
            g_BH.mul_(keep_TBH[t])
        forgets_B1 = start_TB[0, :, None]
        d_top_BH = (g_BH * total_BH + (g_BHK * weighted_BHK).sum(-1)).masked_fill_(forgets_B1, 0)
        return d_score_TBH.to(ctx.score), d_value_TBHK, d_top_BH, g_BH, g_BHK, None


def softmax_scan(score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor) -> tuple[Tensor, Sums]:
    """Return what `reference.softmax_scan` returns."""
    mean_TBHK, *after = _SoftmaxScan.apply(score_TBH, value_TBHK, *sums, start_TB)  # type: ignore[no-untyped-call]
    return mean_TBHK, Sums(*after)
