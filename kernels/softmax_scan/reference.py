"""The definition of the softmax scan: one step at a time, with running sums that cannot overflow.

Source: Feng et al. 2024, "Attention as an RNN" (arXiv 2405.13956), section 3.
Shapes: T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sums(NamedTuple):
    """What a row knows of its past. Fresh: `top` is the lowest number of its type, the sums are 0."""

    top_BH: Tensor
    """(B, H): the highest score so far. A unit of measure, not a variable: `weighted / total` does not depend on it."""
    total_BH: Tensor
    """(B, H): the sum of exp(score - top)."""
    weighted_BHK: Tensor
    """(B, H, K): the sum of exp(score - top) * value."""


def fresh(batch: int, heads: int, width: int, like: Tensor) -> Sums:
    """Return the sums of rows without a past, in the type and on the device of `like`."""
    lowest = torch.finfo(like.dtype).min
    return Sums(
        like.new_full((batch, heads), lowest), like.new_zeros(batch, heads), like.new_zeros(batch, heads, width)
    )


def forget(start_B: Tensor, sums: Sums) -> Sums:
    """Give the rows that start fresh sums."""
    start_B1 = start_B[:, None]
    return Sums(
        torch.where(start_B1, torch.finfo(sums.top_BH.dtype).min, sums.top_BH),
        torch.where(start_B1, 0, sums.total_BH),
        torch.where(start_B1[..., None], 0, sums.weighted_BHK),
    )


def softmax_scan(score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor) -> tuple[Tensor, Sums]:
    """Weigh each step by exp(score) and return, at each step, the mean of the values so far: (T, B, H, K).

    No gradient runs through the choice of `top`: the outputs do not depend on it.
    """
    top_BH, total_BH, weighted_BHK = sums
    means = []
    for score_BH, value_BHK, start_B in zip(score_TBH, value_TBHK, start_TB, strict=True):
        top_BH, total_BH, weighted_BHK = forget(start_B, Sums(top_BH, total_BH, weighted_BHK))
        higher_BH = torch.maximum(top_BH, score_BH).detach()
        keep_BH, add_BH = (top_BH - higher_BH).exp(), (score_BH - higher_BH).exp()
        total_BH = total_BH * keep_BH + add_BH
        weighted_BHK = weighted_BHK * keep_BH[..., None] + value_BHK * add_BH[..., None]
        top_BH = higher_BH
        means.append(weighted_BHK / total_BH[..., None])
    return torch.stack(means), Sums(top_BH, total_BH, weighted_BHK)
