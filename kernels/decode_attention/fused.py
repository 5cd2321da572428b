"""Attention of one new step to a cache through PyTorch's scaled dot-product attention, with a mask.

Shapes: B rows, H heads, N slots of the cache, K width of a head.
"""

from __future__ import annotations

from torch import Tensor

from ..segment_attention import fused
from .reference import visible, write


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
    write(new_B2HK, cache_B2HNK, slot_B, start_B)
    seen = visible(cache_B2HNK, far_B, near_B, split)
    return fused.attention(query_BHK[:, :, None], cache_B2HNK, seen, sink)[:, :, 0]
