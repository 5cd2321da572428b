"""The definition of `rotary_heads`.

Shapes: B rows, P tokens, H heads, K width of a head, J = K / 2, N keys of the past.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..segment_attention.rotary import rotate


def rotary_heads(
    projected_BP3HK: Tensor, past_B2HNK: Tensor | None, cosine_BPJ: Tensor, sine_BPJ: Tensor
) -> tuple[Tensor, Tensor]:
    """Return queries, and keys and values behind those of the past."""
    qkv_B3HPK = projected_BP3HK.permute(0, 2, 3, 1, 4)
    turned_B2HPK = rotate(qkv_B3HPK[:, :2], cosine_BPJ[:, None, None], sine_BPJ[:, None, None])
    kv_B2HPK = torch.cat([turned_B2HPK[:, 1:], qkv_B3HPK[:, 2:]], 1)
    if past_B2HNK is not None:
        kv_B2HPK = torch.cat([past_B2HNK.to(kv_B2HPK.dtype), kv_B2HPK], 3)
    return turned_B2HPK[:, 0], kv_B2HPK
