"""The linear recurrence of pairs with 2 x 2 blocks, all steps at once, with exact starts. Of numbers: `linear_scan`.

Each step is a map state -> a state + b; maps are combined with those 1, 2, 4, .. steps before. A step that hears
nothing (a = 0: a start, or the first) takes nothing from before, not even a NaN.
Shapes: T time, B rows, H units.
"""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Block = tuple[Tensor, Tensor, Tensor, Tensor]
"""Row by row: first of first, first of second, second of first, second of second."""


def blocks(a: Block, b: Pair, first: Pair, start_TB: Tensor) -> Pair:
    """Return the pairs of s_t = A_t s_(t-1) + b_t, with s = 0 before a start; each part is (T, B, H)."""
    hears = ~start_TB[..., None]
    a_ff, a_fs, a_sf, a_ss = (torch.where(hears, part, 0.0) for part in a)
    b_f, b_s = (part.clone() for part in b)
    f, s = (torch.where(hears[0], part, 0.0) for part in first)
    b_f[0] += a_ff[0] * f + a_fs[0] * s
    b_s[0] += a_sf[0] * f + a_ss[0] * s
    for part in (a_ff, a_fs, a_sf, a_ss):
        part[0] = 0.0
    reach = 1
    while reach < len(b_f):
        now, earlier = slice(reach, None), slice(-reach)
        hears = (a_ff[now] != 0) | (a_fs[now] != 0) | (a_sf[now] != 0) | (a_ss[now] != 0)

        def joined(old: Tensor, new: Tensor, hears: Tensor = hears, reach: int = reach) -> Tensor:
            return torch.cat([old[:reach], torch.where(hears, new, old[reach:])])

        ff, fs, sf, ss = a_ff[now], a_fs[now], a_sf[now], a_ss[now]
        new_f = ff * b_f[earlier] + fs * b_s[earlier] + b_f[now]
        new_s = sf * b_f[earlier] + ss * b_s[earlier] + b_s[now]
        b_f, b_s = joined(b_f, new_f), joined(b_s, new_s)
        new = (
            ff * a_ff[earlier] + fs * a_sf[earlier],
            ff * a_fs[earlier] + fs * a_ss[earlier],
            sf * a_ff[earlier] + ss * a_sf[earlier],
            sf * a_fs[earlier] + ss * a_ss[earlier],
        )
        # Where a step hears nothing, its block is 0 already.
        a_ff, a_fs, a_sf, a_ss = (joined(old, n) for old, n in zip((a_ff, a_fs, a_sf, a_ss), new, strict=True))
        reach *= 2
    return b_f, b_s
