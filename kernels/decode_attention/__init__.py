"""Attention of one new step to a cache of keys and values, into which the step is written: rows of any length.

Shapes: B rows, H heads, N slots of the cache, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "decode_attention"]

OP = Op(
    "decode_attention",
    __name__,
    {
        "triton": Backend("reads what each row sees, in one launch; no gradients", triton=True),
        "fused": Backend("PyTorch's scaled dot-product attention over all slots"),
        "reference": Backend("plain, the definition"),
    },
)


def decode_attention(
    query_BHK: Tensor,
    new_B2HK: Tensor,
    cache_B2HNK: Tensor,
    slot_B: Tensor,
    far_B: Tensor,
    near_B: Tensor,
    split: int,
    start_B: Tensor | None = None,
    sink: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Write a step into its slot of the cache, in place, and read what its row sees: (B, H, K).

    A row sees its slots 0 to `far` - 1 and `split` to `split + near` - 1; the slot of the step must be among them.
    `reference.decode_attention` is the definition.

    Args:
        query_BHK: the query of the step, (B, H, K).
        new_B2HK: its key and value, (B, 2, H, K).
        cache_B2HNK: keys and values, (B, 2, H, N, K), changed in place.
        slot_B: (B,) whole: the slot that the step is written to.
        far_B: (B,) whole, at most `split`: how many of the first slots the row sees.
        near_B: (B,) whole, at most N - `split`: how many of the others.
        split: the first of the others.
        start_B: (B,) bool; the slots of a row that is true become 0 before the step is written. None: no row.
        sink: key and value, (H, K) each, that every query sees besides.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Raises:
        ValueError: the named backend cannot run here: `triton` where gradients are asked for.
    """
    needs_grad = torch.is_grad_enabled() and any(
        part.requires_grad for part in (query_BHK, new_B2HK, cache_B2HNK, *(sink or ()))
    )
    module = OP.pick(backend, query_BHK, width=query_BHK.shape[-1], gradients=needs_grad)
    result: Tensor = module.decode_attention(
        query_BHK, new_B2HK, cache_B2HNK, slot_B, far_B, near_B, split, start_B, sink
    )
    return result
