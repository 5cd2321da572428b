"""The softmax scan in Triton: one pass over memory each way, the sums of a row in registers for the whole time loop.

A program owns R rows (a row is one head of one environment) and their C columns. Where rows are many it walks step by
step; where they are few it takes J steps at once and composes them by an associative scan. Forward saves the highest
score and the total of each step, one number per row; backward walks from the last step to the first with them, since

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
def _block(N, K, R: tl.constexpr, C: tl.constexpr):
    """Return the rows (R, 1) and columns (1, C) of a program, and which of the rows and of the numbers there are."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    column = tl.arange(0, C)[None, :]
    return row, column, row < N, (row < N) & (column < K)


@triton.jit
def _forward_steps(
    score, value, top, total, weighted, start, mean, tops, totals, last_top, last_total, last_weighted,
    T, N, H, K, start_t, start_b,
    R: tl.constexpr, C: tl.constexpr, LOWEST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Walk step by step, the next step's loads in flight: for many rows."""
    row, column, there, here = _block(N, K, R, C)
    at, start_at = row * K + column, row // H * start_b
    top_R, total_R = tl.load(top + row, there, other=0).to(WIDE), tl.load(total + row, there, other=0).to(WIDE)
    weighted_RC = tl.load(weighted + at, here, other=0).to(WIDE)
    zero = tl.zeros([1, 1], tl.int64)  # what is added to it is as wide: offsets pass 2**31
    size = (zero + N) * K
    score_R = tl.load(score + row, there, other=0).to(WIDE)
    value_RC = tl.load(value + at, here, other=0).to(WIDE)
    forgets = tl.load(start + start_at, there, other=0) != 0
    for i in range(0, T):
        t = zero + i
        more = t + 1 < T
        score_next = tl.load(score + (t + 1) * N + row, there & more, other=0).to(WIDE)
        value_next = tl.load(value + (t + 1) * size + at, here & more, other=0).to(WIDE)
        forgets_next = tl.load(start + (t + 1) * start_t + start_at, there & more, other=0) != 0
        known = tl.where(forgets, LOWEST, top_R)
        top_R = tl.maximum(known, score_R)
        keep, add = tl.exp(known - top_R), tl.exp(score_R - top_R)
        total_R = tl.where(forgets, 0.0, total_R) * keep + add
        weighted_RC = tl.where(forgets, 0.0, weighted_RC) * keep + value_RC * add
        tl.store(mean + t * size + at, (weighted_RC / total_R).to(mean.dtype.element_ty), here)
        if tops is not None:
            tl.store(tops + t * N + row, top_R, there)
            tl.store(totals + t * N + row, total_R, there)
        score_R, value_RC, forgets = score_next, value_next, forgets_next
    tl.store(last_top + row, top_R.to(last_top.dtype.element_ty), there)
    tl.store(last_total + row, total_R.to(last_total.dtype.element_ty), there)
    tl.store(last_weighted + at, weighted_RC.to(last_weighted.dtype.element_ty), here)


@triton.jit
def _then(start, top, total, weighted, next_start, next_top, next_total, next_weighted):
    """Compose two stretches of time: the second forgets the first where it starts."""
    forgets, falls = next_start != 0, top >= next_top
    less = tl.exp(-tl.abs(tl.where(forgets, 0.0, top - next_top)))
    keep, add = tl.where(falls, 1.0, less), tl.where(falls, less, 1.0)
    return (
        start | next_start,
        tl.where(forgets | (falls == 0), next_top, top),
        tl.where(forgets, next_total, total * keep + next_total * add),
        tl.where(forgets, next_weighted, weighted * keep + next_weighted * add),
    )


@triton.jit
def _last(tile, J: tl.constexpr):
    """Return the last step of a tile (J, C), as (1, C)."""
    return tl.sum(tl.where(tl.arange(0, J)[:, None] == J - 1, tile, 0.0), 0, keep_dims=True)


@triton.jit
def _one_each(pointer, offset):
    """Point so that each lane takes one column, and owns it for all steps of a tile: aligned to one number, no more."""
    at = pointer + offset
    return tl.multiple_of(at, [1, pointer.dtype.element_ty.primitive_bitwidth // 8])


@triton.jit
def _forward_tiles(
    score, value, top, total, weighted, start, mean, tops, totals, last_top, last_total, last_weighted,
    T, N, H, K, start_t, start_b,
    J: tl.constexpr, C: tl.constexpr, LOWEST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Walk along one row in tiles of J steps, whose loads are in flight at once: for few rows."""
    row, column, step = tl.program_id(0).to(tl.int64), tl.arange(0, C)[None, :], tl.arange(0, J).to(tl.int64)
    here, at, start_at = column < K, row * K + column, row // H * start_b
    whole, tile = tl.zeros([1, C], WIDE), tl.zeros([J, C], WIDE)
    top_C, total_C = whole + tl.load(top + row).to(WIDE), whole + tl.load(total + row).to(WIDE)
    weighted_C = tl.load(weighted + at, here, other=0).to(WIDE)
    size = (tl.zeros([1, 1], tl.int64) + N) * K
    for first in range(0, T, J):
        t = first + step
        inside, there = t < T, (t < T)[:, None] & here
        offset = t[:, None] * size + at
        value_JC = tl.load(_one_each(value, offset), there, other=0).to(WIDE)
        # A step past the end adds nothing.
        score_J = tl.load(score + t * N + row, inside, other=LOWEST).to(WIDE)
        forgets_J = tl.load(start + t * start_t + start_at, inside, other=0).to(tl.int32)
        forgets, tops_JC, totals_JC, sums_JC = tl.associative_scan(
            (
                forgets_J[:, None] + tile.to(tl.int32),
                score_J[:, None] + tile,
                tl.where(inside[:, None], 1.0 + tile, 0.0),
                value_JC,
            ),
            0,
            _then,
        )
        _, tops_JC, totals_JC, sums_JC = _then(
            forgets, tile + top_C, tile + total_C, tile + weighted_C, forgets, tops_JC, totals_JC, sums_JC
        )
        tl.store(_one_each(mean, offset), (sums_JC / totals_JC).to(mean.dtype.element_ty), there)
        if tops is not None:
            once = inside[:, None] & (column == 0)
            tl.store(tops + t[:, None] * N + row + 0 * column, tops_JC, once)
            tl.store(totals + t[:, None] * N + row + 0 * column, totals_JC, once)
        top_C, total_C, weighted_C = _last(tops_JC, J), _last(totals_JC, J), _last(sums_JC, J)
    tl.store(last_top + row + 0 * column, top_C.to(last_top.dtype.element_ty), column == 0)
    tl.store(last_total + row + 0 * column, total_C.to(last_total.dtype.element_ty), column == 0)
    tl.store(last_weighted + at, weighted_C.to(last_weighted.dtype.element_ty), here)


@triton.jit
def _backward_steps(
    score, value, top, total, weighted, start, mean, tops, totals, d_mean, d_last_total, d_last_weighted,
    d_score, d_value, d_top, d_total, d_weighted,
    T, N, H, K, start_t, start_b,
    R: tl.constexpr, C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row, column, there, here = _block(N, K, R, C)
    at, start_at = row * K + column, row // H * start_b
    back_R, back_RC = tl.zeros([R, 1], WIDE), tl.zeros([R, C], WIDE)
    if d_last_total is not None:
        back_R += tl.load(d_last_total + row, there, other=0).to(WIDE)
    if d_last_weighted is not None:
        back_RC += tl.load(d_last_weighted + at, here, other=0).to(WIDE)
    before_R = tl.load(top + row, there, other=0).to(WIDE)
    last = tl.zeros([1, 1], tl.int64) + (T - 1)
    size = (last * 0 + N) * K
    value_RC = tl.load(value + last * size + at, here, other=0).to(WIDE)
    mean_RC = tl.load(mean + last * size + at, here, other=0).to(WIDE)
    d_mean_RC = tl.load(d_mean + last * size + at, here, other=0).to(WIDE)
    score_R = tl.load(score + last * N + row, there, other=0).to(WIDE)
    top_R = tl.load(tops + last * N + row, there, other=0)
    total_R = tl.load(totals + last * N + row, there, other=1)
    forgets = tl.load(start + last * start_t + start_at, there, other=0) != 0
    for i in range(0, T):
        t = last - i
        more, before = t > 0, t - 1
        value_next = tl.load(value + before * size + at, here & more, other=0).to(WIDE)
        mean_next = tl.load(mean + before * size + at, here & more, other=0).to(WIDE)
        d_mean_next = tl.load(d_mean + before * size + at, here & more, other=0).to(WIDE)
        score_next = tl.load(score + before * N + row, there & more, other=0).to(WIDE)
        top_next = tl.where(more, tl.load(tops + before * N + row, there & more, other=0), before_R)
        total_next = tl.load(totals + before * N + row, there & more, other=1)
        forgets_next = tl.load(start + before * start_t + start_at, there & more, other=0) != 0
        add, d_mean_RC = tl.exp(score_R - top_R), d_mean_RC / total_R
        g_RC = back_RC + d_mean_RC
        g_R = back_R - tl.sum(d_mean_RC * mean_RC, 1, keep_dims=True)
        tl.store(d_value + t * size + at, (add * g_RC).to(d_value.dtype.element_ty), here)
        d_score_R = add * (g_R + tl.sum(g_RC * value_RC, 1, keep_dims=True))
        tl.store(d_score + t * N + row, d_score_R.to(d_score.dtype.element_ty), there)
        keep = tl.exp(tl.where(forgets, 0.0, top_next - top_R))
        back_RC, back_R = tl.where(forgets, 0.0, keep * g_RC), tl.where(forgets, 0.0, keep * g_R)
        value_RC, mean_RC, d_mean_RC, score_R = value_next, mean_next, d_mean_next, score_next
        top_R, total_R, forgets = top_next, total_next, forgets_next
    tl.store(d_total + row, back_R.to(d_total.dtype.element_ty), there)
    tl.store(d_weighted + at, back_RC.to(d_weighted.dtype.element_ty), here)
    kept = tl.load(start + start_at, there, other=1) == 0
    of_total = back_R * tl.load(total + row, there, other=0).to(WIDE)
    of_weighted = tl.sum(back_RC * tl.load(weighted + at, here, other=0).to(WIDE), 1, keep_dims=True)
    tl.store(d_top + row, tl.where(kept, of_total + of_weighted, 0.0).to(d_top.dtype.element_ty), there)


@triton.jit
def _then_back(start, keep, g, gs, next_start, next_keep, next_g, next_gs):
    """Compose two stretches of time, going back."""
    forgets = next_start != 0
    return (
        start | next_start,
        keep * next_keep,
        tl.where(forgets, next_g, next_keep * g + next_g),
        tl.where(forgets, next_gs, next_keep * gs + next_gs),
    )


@triton.jit
def _backward_tiles(
    score, value, top, total, weighted, start, mean, tops, totals, d_mean, d_last_total, d_last_weighted,
    d_score, d_value, d_top, d_total, d_weighted,
    T, N, H, K, start_t, start_b,
    J: tl.constexpr, C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row, column, step = tl.program_id(0).to(tl.int64), tl.arange(0, C)[None, :], tl.arange(0, J).to(tl.int64)
    here, at, start_at = column < K, row * K + column, row // H * start_b
    back, back_s, tile = tl.zeros([1, C], WIDE), tl.zeros([1, C], WIDE), tl.zeros([J, C], WIDE)
    if d_last_total is not None:
        back_s += tl.load(d_last_total + row).to(WIDE)
    if d_last_weighted is not None:
        back += tl.load(d_last_weighted + at, here, other=0).to(WIDE)
    size = (tl.zeros([1, 1], tl.int64) + N) * K
    for first in range(0, T, J):
        t = T - 1 - first - step
        inside, later, there = t >= 0, (t >= 0) & (t < T - 1), (t >= 0)[:, None] & here
        offset = t[:, None] * size + at
        value_JC = tl.load(_one_each(value, offset), there, other=0).to(WIDE)
        mean_JC = tl.load(_one_each(mean, offset), there, other=0).to(WIDE)
        d_mean_JC = tl.load(_one_each(d_mean, offset), there, other=0).to(WIDE)
        score_J = tl.load(score + t * N + row, inside, other=0).to(WIDE)
        top_J = tl.load(tops + t * N + row, inside, other=0)
        higher_J = tl.load(tops + (t + 1) * N + row, later, other=0)
        total_J = tl.load(totals + t * N + row, inside, other=1)
        forgets_J = tl.load(start + (t + 1) * start_t + start_at, later, other=0).to(tl.int32)
        # From the last step, and past the first, what comes back is handed on as it is.
        keep_J = tl.exp(tl.where(later & (forgets_J == 0), top_J - higher_J, 0.0))
        d_mean_JC = d_mean_JC / total_J[:, None]
        dot_J = tl.sum(d_mean_JC * mean_JC, 1)
        forgets, keep, g, gs = tl.associative_scan(
            (forgets_J[:, None] + tile.to(tl.int32), keep_J[:, None] + tile, d_mean_JC, tile - dot_J[:, None]),
            0,
            _then_back,
        )
        g, gs = tl.where(forgets != 0, g, keep * back + g), tl.where(forgets != 0, gs, keep * back_s + gs)
        add_J = tl.exp(score_J - top_J)
        tl.store(_one_each(d_value, offset), (add_J[:, None] * g).to(d_value.dtype.element_ty), there)
        # Every column holds the same gs: it counts once.
        d_score_J = add_J * tl.sum(g * value_JC + tl.where(column == 0, gs, 0.0), 1)
        tl.store(d_score + t * N + row, d_score_J.to(d_score.dtype.element_ty), inside)
        back, back_s = _last(g, J), _last(gs, J)
    forgets = tl.load(start + start_at) != 0
    keep = tl.exp(tl.where(forgets, 0.0, tl.load(top + row).to(WIDE) - tl.load(tops + row)))
    back, back_s = tl.where(forgets, 0.0, keep * back), tl.where(forgets, 0.0, keep * back_s)
    tl.store(d_total + row + 0 * column, back_s.to(d_total.dtype.element_ty), column == 0)
    tl.store(d_weighted + at, back.to(d_weighted.dtype.element_ty), here)
    of_weighted = tl.sum(back * tl.load(weighted + at, here, other=0).to(WIDE), 1, keep_dims=True)
    d_known = tl.where(forgets, 0.0, back_s * tl.load(total + row).to(WIDE) + of_weighted)
    tl.store(d_top + row + 0 * column, d_known.to(d_top.dtype.element_ty), column == 0)


class Walk(NamedTuple):
    """How a program walks over time: steps that it takes at once, rows (one, where it takes several steps), columns."""

    steps: int
    rows: int
    columns: int
    warps: int


MANY = 1 << 18
"""From this many numbers on, one step at a time keeps a GPU's memory busy."""


def _above(number: int) -> int:
    """Return the next power of 2, sooner than Triton says it."""
    return 1 << (number - 1).bit_length()


def walk(steps: int, rows: int, width: int, size: int) -> Walk:
    """Choose by the sizes, and the bytes of a number of what each step says."""
    columns = _above(width)
    if rows * columns >= MANY or steps == 1 or columns > 256:
        # As many numbers per lane as one load takes, where that leaves work for a whole GPU.
        vector = max(1, 16 // size) if rows * columns >= MANY else 1
        warps = 8 if columns > 512 else 1 if size == 4 and vector > 1 else 2
        taken = max(1, min(32 * warps * vector // columns, _above(rows)))
        return Walk(1, taken, columns, warps)
    return Walk(min(16, _above(steps)), 1, columns, 1)


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
    kernel, block = (_forward_steps, {"R": by.rows}) if by.steps == 1 else (_forward_tiles, {"J": by.steps})
    kernel[(-(-(batch * heads) // by.rows),)](
        score_TBH, value_TBHK, *sums, start_TB.view(torch.uint8), mean_TBHK, tops, totals, *after,
        steps, batch * heads, heads, width, *start_TB.stride(),
        **block, C=by.columns, LOWEST=torch.finfo(wide).min, WIDE=_WIDE[wide], num_warps=by.warps,
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
        kernel, block = (_backward_steps, {"R": by.rows}) if by.steps == 1 else (_backward_tiles, {"J": by.steps})
        kernel[(-(-(batch * heads) // by.rows),)](
            score, value, top, total, weighted, start.view(torch.uint8), mean, tops, totals, d_mean, *d_last, *found,
            steps, batch * heads, heads, width, *start.stride(),
            **block, C=by.columns, WIDE=_WIDE[totals.dtype], num_warps=by.warps,
        )  # fmt: skip
        return *found, None, None


def softmax_scan(score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor) -> tuple[Tensor, Sums]:
    """Return what `reference.softmax_scan` returns."""
    given = [part.contiguous() for part in (score_TBH, value_TBHK, *sums)]
    if not torch.is_grad_enabled():
        mean_TBHK, sums, *_ = forward(given[0], given[1], Sums(*given[2:]), start_TB, save=False)
        return mean_TBHK, sums
    mean_TBHK, *after = _SoftmaxScan.apply(*given, start_TB, any(part.requires_grad for part in given))
    return mean_TBHK, Sums(*after)
