"""The softmax scan in parallel: a masked softmax inside each chunk of time, the sums carried from chunk to chunk.

The scores do not depend on who asks, so a chunk of C steps is a C x C matrix of weights, and one more entry for all
that came before it. Exact: the same function as `reference`, resets included.
Shapes: C steps of a chunk, J the same steps as keys, T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import Sums, forget

CHUNK = 32


def softmax_scan(score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor) -> tuple[Tensor, Sums]:
    """Return what `reference.softmax_scan` returns; time and memory grow with T * CHUNK."""
    sums = forget(start_TB[0], sums)
    means = []
    for score_CBH, value_CBHK, start_CB in zip(
        *(torch.split(part, CHUNK) for part in (score_TBH, value_TBHK, start_TB)), strict=True
    ):
        mean_BHCK, sums = _chunk(score_CBH.permute(1, 2, 0), value_CBHK.permute(1, 2, 0, 3), sums, start_CB.t())
        means.append(mean_BHCK.permute(2, 0, 1, 3))
    return torch.cat(means), sums


def _chunk(score_BHC: Tensor, value_BHCK: Tensor, sums: Sums, start_BC: Tensor) -> tuple[Tensor, Sums]:
    time_C = torch.arange(start_BC.shape[1], device=start_BC.device)
    latest_BC = torch.where(start_BC, time_C, -1).cummax(1).values
    seen_BCJ = (time_C <= time_C[:, None]) & (time_C >= latest_BC[..., None])
    carried_B1C = (latest_BC < 0)[:, None]

    score_BHCJ = torch.where(seen_BCJ[:, None], score_BHC[:, :, None], -torch.inf)
    # Where nothing is carried, the lowest number stands for the past: no past, however large, reaches an exponential.
    past_BHC = torch.where(carried_B1C, sums.top_BH[..., None], torch.finfo(sums.top_BH.dtype).min)
    top_BHC = torch.maximum(score_BHCJ.detach().amax(-1), past_BHC.detach())
    add_BHCJ = (score_BHCJ - top_BHC[..., None]).exp()
    keep_BHC = torch.where(carried_B1C, (past_BHC - top_BHC).exp(), 0)

    total_BHC = keep_BHC * sums.total_BH[..., None] + add_BHCJ.sum(-1)
    weighted_BHCK = keep_BHC[..., None] * sums.weighted_BHK[:, :, None] + add_BHCJ @ value_BHCK.to(add_BHCJ.dtype)
    after = Sums(top_BHC[..., -1], total_BHC[..., -1], weighted_BHCK[:, :, -1])
    return weighted_BHCK / total_BHC[..., None], after
