"""The definition of attention of one new step to a cache.

Shapes: B rows, H heads, N slots of the cache, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..segment_attention import reference
from ..segment_attention.reference import NEVER, Seen


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
    """Write the step and return what it reads of the slots that its row sees."""
    write(new_B2HK, cache_B2HNK, slot_B, start_B)
    seen = visible(cache_B2HNK, far_B, near_B, split)
    return reference.attention(query_BHK[:, :, None], cache_B2HNK, seen, sink)[:, :, 0]


def write(new_B2HK: Tensor, cache_B2HNK: Tensor, slot_B: Tensor, start_B: Tensor | None) -> None:
    """Empty the rows that start, and put each step into its slot."""
    if start_B is not None:
        if cache_B2HNK.device.type == "cpu":  # a mask would pass over the whole cache, these over the rows that start
            cache_B2HNK.index_fill_(0, start_B.nonzero().squeeze(1), 0)
        else:
            cache_B2HNK.masked_fill_(start_B.view(-1, 1, 1, 1, 1), 0)
    new_B2H1K = new_B2HK[:, :, :, None].to(cache_B2HNK.dtype)
    cache_B2HNK.scatter_(3, slot_B.long().view(-1, 1, 1, 1, 1).expand_as(new_B2H1K), new_B2H1K)


def visible(cache_B2HNK: Tensor, far_B: Tensor, near_B: Tensor, split: int) -> Seen:
    """Return which slots the one query of each row sees."""
    slot_N = torch.arange(cache_B2HNK.shape[3], device=cache_B2HNK.device)
    until_BN = torch.where(slot_N < split, far_B[:, None], split + near_B[:, None])
    time_BN = torch.where(slot_N < until_BN, 0, NEVER)
    now_B1 = torch.zeros_like(time_BN[:, :1])
    return Seen(time_BN, now_B1, now_B1)
