"""The softmax scan in Triton: one pass over memory each way, the sums of a row in registers for the whole time loop.

A program owns R rows (a row is one head of one environment) and their C columns, and takes J steps at once: the loads
of the next J are in flight while it works on these. The highest score and the total are one number per row, not per
column. Forward saves both for each step; backward walks from the last step to the first with them, since

    d_weighted[t] = d_mean[t] / total[t]             + keep[t+1] * d_weighted[t+1]
    d_total[t]    = -(d_mean[t] . mean[t]) / total[t] + keep[t+1] * d_total[t+1]

with keep[t] = exp(top[t-1] - top[t]), or 0 where t starts: at most 1, so that nothing overflows.

Shapes: T time, B rows of the batch, H heads, K width of a head, J steps of a tile, R rows of a program, C its columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import Sums

WIDEST = 4096


def refusal(like: Tensor, *, width: int = 1, **facts: Any) -> str | None:
    """Say why this cannot run."""
    del like, facts
    return None if width <= WIDEST else f"heads of {width} numbers; it takes up to {WIDEST}"


@triton.jit
def _pick(tile, j: tl.constexpr, J: tl.constexpr):
    """Return step j of a tile (J, R, C), as (R, C)."""
    at = tl.arange(0, J)[:, None, None] == j
    return tl.sum(tl.where(at, tile, 0), 0)


@triton.jit
def _forward(
    score, value, top, total, weighted, start, mean, tops, totals, last_top, last_total, last_weighted,
    T, N, H, K, start_t, start_b,
    J: tl.constexpr, R: tl.constexpr, C: tl.constexpr, LOWEST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    column = tl.arange(0, C)[None, :]
    there = row < N
    here, at = there & (column < K), row * K + column
    top_R, total_R = tl.load(top + row, there, other=0).to(WIDE), tl.load(total + row, there, other=0).to(WIDE)
    weighted_RC = tl.load(weighted + at, here, other=0).to(WIDE)

    row_3d, at_3d = row[None, :, :], at[None, :, :]
    there_3d, here_3d, start_at = there[None, :, :], here[None, :, :], (row // H * start_b)[None, :, :]
    t = tl.zeros([J, 1, 1], tl.int64) + tl.arange(0, J)[:, None, None]
    size = (tl.zeros([1, 1], tl.int64) + N) * K
    scores = tl.load(score + t * N + row_3d, there_3d & (t < T), other=0)
    values = tl.load(value + t * size + at_3d, here_3d & (t < T), other=0)
    starts = tl.load(start + t * start_t + start_at, there_3d & (t < T), other=0)
    for first in range(0, T, J):
        after = t + (first + J)
        scores_next = tl.load(score + after * N + row_3d, there_3d & (after < T), other=0)
        values_next = tl.load(value + after * size + at_3d, here_3d & (after < T), other=0)
        starts_next = tl.load(start + after * start_t + start_at, there_3d & (after < T), other=0)
        for j in tl.static_range(J):
            now = tl.zeros([1, 1], tl.int64) + (first + j)
            score_R, value_RC = _pick(scores, j, J).to(WIDE), _pick(values, j, J).to(WIDE)
            forgets = _pick(starts, j, J) != 0
            known = tl.where(forgets, LOWEST, top_R)
            higher = tl.maximum(known, score_R)
            keep, add = tl.exp(known - higher), tl.exp(score_R - higher)
            inside = now < T
            top_R = tl.where(inside, higher, top_R)
            total_R = tl.where(inside, tl.where(forgets, 0.0, total_R) * keep + add, total_R)
            moved = tl.where(forgets, 0.0, weighted_RC) * keep + value_RC * add
            weighted_RC = tl.where(inside, moved, weighted_RC)
            tl.store(mean + now * size + at, (weighted_RC / total_R).to(mean.dtype.element_ty), here & inside)
            if tops is not None:
                tl.store(tops + now * N + row, top_R, there & inside)
                tl.store(totals + now * N + row, total_R, there & inside)
        scores, values, starts = scores_next, values_next, starts_next
    tl.store(last_top + row, top_R.to(last_top.dtype.element_ty), there)
    tl.store(last_total + row, total_R.to(last_total.dtype.element_ty), there)
    tl.store(last_weighted + at, weighted_RC.to(last_weighted.dtype.element_ty), here)


@triton.jit
def _backward(
    score, value, top, total, weighted, start, mean, tops, totals, d_mean, d_last_total, d_last_weighted,
    d_score, d_value, d_top, d_total, d_weighted,
    T, N, H, K, start_t, start_b,
    J: tl.constexpr, R: tl.constexpr, C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    column = tl.arange(0, C)[None, :]
    there = row < N
    here, at = there & (column < K), row * K + column
    back_R, back_RC = tl.zeros([R, 1], WIDE), tl.zeros([R, C], WIDE)
    if d_last_total is not None:
        back_R += tl.load(d_last_total + row, there, other=0).to(WIDE)
    if d_last_weighted is not None:
        back_RC += tl.load(d_last_weighted + at, here, other=0).to(WIDE)
    top_R = tl.load(top + row, there, other=0).to(WIDE)

    row_3d, at_3d = row[None, :, :], at[None, :, :]
    there_3d, here_3d, start_at = there[None, :, :], here[None, :, :], (row // H * start_b)[None, :, :]
    t = tl.zeros([J, 1, 1], tl.int64) + (T - 1) - tl.arange(0, J)[:, None, None]
    size = (tl.zeros([1, 1], tl.int64) + N) * K
    values = tl.load(value + t * size + at_3d, here_3d & (t >= 0), other=0)
    means = tl.load(mean + t * size + at_3d, here_3d & (t >= 0), other=0)
    d_means = tl.load(d_mean + t * size + at_3d, here_3d & (t >= 0), other=0)
    scores = tl.load(score + t * N + row_3d, there_3d & (t >= 0), other=0)
    highs = tl.load(tops + t * N + row_3d, there_3d & (t >= 0), other=0)
    befores = tl.load(tops + (t - 1) * N + row_3d, there_3d & (t >= 1), other=0)
    sums = tl.load(totals + t * N + row_3d, there_3d & (t >= 0), other=1)
    starts = tl.load(start + t * start_t + start_at, there_3d & (t >= 0), other=0)
    for first in range(0, T, J):
        after = t - (first + J)
        values_next = tl.load(value + after * size + at_3d, here_3d & (after >= 0), other=0)
        means_next = tl.load(mean + after * size + at_3d, here_3d & (after >= 0), other=0)
        d_means_next = tl.load(d_mean + after * size + at_3d, here_3d & (after >= 0), other=0)
        scores_next = tl.load(score + after * N + row_3d, there_3d & (after >= 0), other=0)
        highs_next = tl.load(tops + after * N + row_3d, there_3d & (after >= 0), other=0)
        befores_next = tl.load(tops + (after - 1) * N + row_3d, there_3d & (after >= 1), other=0)
        sums_next = tl.load(totals + after * N + row_3d, there_3d & (after >= 0), other=1)
        starts_next = tl.load(start + after * start_t + start_at, there_3d & (after >= 0), other=0)
        for j in tl.static_range(J):
            now = tl.zeros([1, 1], tl.int64) + (T - 1) - (first + j)
            inside = now >= 0
            high_R, part = _pick(highs, j, J), 1.0 / _pick(sums, j, J)
            d_mean_RC, value_RC = _pick(d_means, j, J).to(WIDE) * part, _pick(values, j, J).to(WIDE)
            add = tl.exp(_pick(scores, j, J).to(WIDE) - high_R)
            g_RC = back_RC + d_mean_RC
            g_R = back_R - tl.sum(d_mean_RC * _pick(means, j, J).to(WIDE), 1, keep_dims=True)
            tl.store(d_value + now * size + at, (add * g_RC).to(d_value.dtype.element_ty), here & inside)
            d_score_R = add * (g_R + tl.sum(g_RC * value_RC, 1, keep_dims=True))
            tl.store(d_score + now * N + row, d_score_R.to(d_score.dtype.element_ty), there & inside)
            forgets = _pick(starts, j, J) != 0
            before_R = tl.where(now == 0, top_R, _pick(befores, j, J))
            keep = tl.exp(tl.where(forgets, high_R, before_R) - high_R)
            back_RC = tl.where(inside, tl.where(forgets, 0.0, keep * g_RC), back_RC)
            back_R = tl.where(inside, tl.where(forgets, 0.0, keep * g_R), back_R)
        values, means, d_means, scores = values_next, means_next, d_means_next, scores_next
        highs, befores, sums, starts = highs_next, befores_next, sums_next, starts_next
    tl.store(d_total + row, back_R.to(d_total.dtype.element_ty), there)
    tl.store(d_weighted + at, back_RC.to(d_weighted.dtype.element_ty), here)
    kept = tl.load(start + row // H * start_b, there, other=1) == 0
    of_total = back_R * tl.load(total + row, there, other=0).to(WIDE)
    of_weighted = tl.sum(back_RC * tl.load(weighted + at, here, other=0).to(WIDE), 1, keep_dims=True)
    tl.store(d_top + row, tl.where(kept, of_total + of_weighted, 0.0).to(d_top.dtype.element_ty), there)


class Walk(NamedTuple):
    """How a program walks over time: steps that it takes at once, rows, columns, warps."""

    steps: int
    rows: int
    columns: int
    warps: int


def walk(steps: int, rows: int, width: int, size: int) -> Walk:
    """Choose by the sizes, and the bytes of a number."""
    columns = triton.next_power_of_2(width)
    numbers = rows * columns
    # As many numbers per lane as one load takes, where that leaves work for a whole GPU.
    vector = max(1, min(16 // size, numbers >> 17))
    at_once = 1 if numbers >= 1 << 18 else min(8, triton.next_power_of_2(steps))
    warps = 2 if columns <= 512 else 8
    return Walk(at_once, max(1, min(32 * warps * vector // columns, triton.next_power_of_2(rows))), columns, warps)


def forward(
    score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, *, save: bool
) -> tuple[Tensor, Sums, Tensor | None, Tensor | None]:
    """Return the means, the sums after the last step and, to save, the highest score and the total of each step."""
    steps, batch, heads, width = value_TBHK.shape
    dtype = sums.total_BH.dtype
    wide = torch.promote_types(dtype, torch.float32)
    mean_TBHK = torch.empty(value_TBHK.shape, dtype=dtype, device=value_TBHK.device)
    after = Sums(*(torch.empty_like(part) for part in sums))
    tops, totals = (
        torch.empty(score_TBH.shape, dtype=wide, device=score_TBH.device) if save else None for _ in range(2)
    )
    by = walk(steps, batch * heads, width, value_TBHK.element_size())
    _forward[(triton.cdiv(batch * heads, by.rows),)](
        score_TBH, value_TBHK, *sums, start_TB.view(torch.uint8), mean_TBHK, tops, totals, *after,
        steps, batch * heads, heads, width, *start_TB.stride(),
        J=by.steps, R=by.rows, C=by.columns, LOWEST=torch.finfo(wide).min, WIDE=_WIDE[wide], num_warps=by.warps,
    )  # fmt: skip
    return mean_TBHK, after, tops, totals


_WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}


class _SoftmaxScan(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in the kernels."""

    @staticmethod
    def forward(
        ctx: Any, score_TBH: Tensor, value_TBHK: Tensor, top_BH: Tensor, total_BH: Tensor, weighted_BHK: Tensor,
        start_TB: Tensor, save: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        sums = Sums(top_BH, total_BH, weighted_BHK)
        mean_TBHK, after, tops, totals = forward(score_TBH, value_TBHK, sums, start_TB, save=save)
        if save:
            ctx.save_for_backward(score_TBH, value_TBHK, *sums, start_TB, mean_TBHK, tops, totals)
        ctx.mark_non_differentiable(after.top_BH)
        ctx.set_materialize_grads(False)
        return mean_TBHK, *after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_mean: Tensor | None, _: Any, d_total: Tensor | None, d_weighted: Tensor | None) -> Any:
        score, value, top, total, weighted, start, mean, tops, totals = ctx.saved_tensors
        d_mean = torch.zeros_like(mean) if d_mean is None else d_mean.contiguous()
        d_last = tuple(None if each is None else each.contiguous() for each in (d_total, d_weighted))
        found = [torch.empty_like(each) for each in (score, value, top, total, weighted)]
        steps, batch, heads, width = value.shape
        by = walk(steps, batch * heads, width, value.element_size())
        _backward[(triton.cdiv(batch * heads, by.rows),)](
            score, value, top, total, weighted, start.view(torch.uint8), mean, tops, totals, d_mean, *d_last, *found,
            steps, batch * heads, heads, width, *start.stride(),
            J=min(by.steps, 4), R=by.rows, C=by.columns, WIDE=_WIDE[totals.dtype], num_warps=by.warps,
        )  # fmt: skip
        return *found, None, None


def softmax_scan(score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor) -> tuple[Tensor, Sums]:
    """Return what `reference.softmax_scan` returns."""
    given = [part.contiguous() for part in (score_TBH, value_TBHK, *sums)]
    save = torch.is_grad_enabled() and any(part.requires_grad for part in given)
    mean_TBHK, *after = _SoftmaxScan.apply(*given, start_TB, save)
    return mean_TBHK, Sums(*after)
