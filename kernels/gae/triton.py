"""Advantages in Triton: the errors and their discounted sum in one pass over memory.

A program owns R rows and walks from the last step to the first in tiles of J steps, whose loads are in flight at once.
Inside a tile the steps are composed by an associative scan; an end is a select, so that nothing leaks over it.

Shapes: T time, B rows, J steps of a tile, R rows of a program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _then(ends, weight, sums, next_ends, next_weight, next_sums):
    """Compose two steps, going back in time: the second does not see the first where an episode ends."""
    return (
        ends | next_ends,
        weight * next_weight,
        tl.where(next_ends != 0, next_sums, next_weight * sums + next_sums),
    )


@triton.jit
def _accumulate(ends, weight, delta, follows):
    """Return, for each step of a tile (J, R), delta + weight * what follows; `follows` (1, R) is beyond the tile."""
    ends, weight, sums = tl.associative_scan((ends, weight, delta), 0, _then)
    return tl.where(ends != 0, sums, weight * follows + sums)


@triton.jit
def _last(tile, J: tl.constexpr):
    """Return the last row of a tile (J, R), as (1, R)."""
    at = tl.arange(0, J)[:, None] == J - 1
    return tl.sum(tl.where(at, tile, 0.0), 0, keep_dims=True)


@triton.jit
def _error(reward, value, next_value, terminated, at, inside, gamma):
    """Return reward + gamma * next_value - value, and the value; 0 outside."""
    over = tl.load(terminated + at, inside, other=1) != 0
    after = tl.where(over, 0.0, tl.load(next_value + at, inside, other=0.0).to(tl.float32))
    now = tl.load(value + at, inside, other=0.0).to(tl.float32)
    gain = tl.load(reward + at, inside, other=0.0).to(tl.float32) + gamma * after
    return gain - now, now


@triton.jit
def _gae(
    reward, value, next_value, terminated, done, advantage,
    T, B, gamma, decay, J: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[None, :]
    follows = tl.zeros([1, R], tl.float32)
    for first in range(0, T, J):
        t = T - 1 - first - tl.arange(0, J)[:, None]
        at, inside = t.to(tl.int64) * B + row, (t >= 0) & (row < B)
        delta, _ = _error(reward, value, next_value, terminated, at, inside, gamma)
        ends = tl.load(done + at, inside, other=0).to(tl.int32)
        sums = _accumulate(ends, decay + tl.zeros_like(delta), delta, follows)
        tl.store(advantage + at, sums, inside)
        follows = _last(sums, J)


@triton.jit
def _vtrace(
    log_ratio, reward, value, next_value, terminated, done, target, advantage,
    T, B, gamma, lam, rho_bar, c_bar, J: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Sum up, at each step, what follows it: a tile reads the steps one later too, mostly from a cache."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[None, :]
    follows = tl.zeros([1, R], tl.float32)
    for first in range(0, T, J):
        t = T - 1 - first - tl.arange(0, J)[:, None]
        at, inside, later = t.to(tl.int64) * B + row, (t >= 0) & (row < B), (t >= 0) & (t < T - 1) & (row < B)
        ends = tl.load(done + at, inside, other=0).to(tl.int32)
        delta, _ = _error(reward, value, next_value, terminated, at + B, later, gamma)
        ratio = tl.exp(tl.load(log_ratio + at + B, later, other=0.0).to(tl.float32))
        delta = tl.where((ends != 0) | ~later, 0.0, tl.minimum(ratio, rho_bar) * delta)
        # Outside, what follows is handed on as it is.
        weight = tl.where(later, gamma * lam * tl.minimum(ratio, c_bar), 1.0)
        sums = _accumulate(ends, weight, delta, follows)
        follows = _last(sums, J)

        delta, now = _error(reward, value, next_value, terminated, at, inside, gamma)
        ratio = tl.exp(tl.load(log_ratio + at, inside, other=0.0).to(tl.float32))
        rho, c = tl.minimum(ratio, rho_bar), lam * tl.minimum(ratio, c_bar)
        tl.store(target + at, now + (rho * delta + gamma * c * sums), inside)
        tl.store(advantage + at, rho * (delta + gamma * sums), inside)


MANY = 1 << 17
"""From this many rows on, one step at a time keeps a GPU's memory busy."""
LONGEST = 64
"""Steps of a tile, at most."""


def _above(number: int) -> int:
    """Return the next power of 2, sooner than Triton says it."""
    return 1 << (number - 1).bit_length()


def walk(steps: int, batch: int) -> dict[str, int]:
    """Choose the steps of a tile, the rows of a program and its warps by the sizes."""
    if batch >= MANY:
        return {"J": 1, "R": 256, "num_warps": 2}
    return {
        "J": min(LONGEST, _above(steps)),
        "R": min(16, _above(batch)),
        "num_warps": 4,
    }


def gae(
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    terminated_TB: Tensor,
    done_TB: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Return what `reference.gae` returns."""
    steps, batch = reward_TB.shape
    window = [part.contiguous() for part in (reward_TB, value_TB, next_value_TB, terminated_TB, done_TB)]
    advantage_TB = torch.empty((steps, batch), dtype=torch.float32, device=reward_TB.device)
    by = walk(steps, batch)
    _gae[(-(-batch // by["R"]),)](*window, advantage_TB, steps, batch, gamma, gamma * lam, **by)
    return advantage_TB


def vtrace(
    log_ratio_TB: Tensor,
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    terminated_TB: Tensor,
    done_TB: Tensor,
    gamma: float,
    lam: float,
    rho_bar: float,
    c_bar: float,
) -> tuple[Tensor, Tensor]:
    """Return what `reference.vtrace` returns."""
    steps, batch = reward_TB.shape
    window = (log_ratio_TB, reward_TB, value_TB, next_value_TB, terminated_TB, done_TB)
    target_TB = torch.empty((steps, batch), dtype=torch.float32, device=reward_TB.device)
    advantage_TB = torch.empty_like(target_TB)
    by = walk(steps, batch)
    _vtrace[(-(-batch // by["R"]),)](
        *(part.contiguous() for part in window), target_TB, advantage_TB, steps, batch, gamma, lam, rho_bar, c_bar, **by
    )
    return target_TB, advantage_TB
