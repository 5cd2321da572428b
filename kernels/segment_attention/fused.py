"""Attention through PyTorch's scaled dot-product attention: the weights are never written to memory, the mask is.

Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import Seen, causal


def attention(
    query_BHTK: Tensor,
    kv_B2HNK: Tensor,
    seen: Seen | None,
    sink: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return what `reference.attention` returns; the sink is one more key that all see."""
    key_BHNK, value_BHNK = kv_B2HNK.to(query_BHTK.dtype).unbind(1)
    steps, keys = query_BHTK.shape[2], key_BHNK.shape[2]
    mask_BTN = causal(steps, keys, query_BHTK.device) if seen is None else seen.mask()
    if sink is not None:
        batch = len(key_BHNK)
        key_B1K, value_B1K = (part.to(key_BHNK.dtype).expand(batch, *part.shape)[:, :, None] for part in sink)
        key_BHNK, value_BHNK = torch.cat([key_B1K, key_BHNK], 2), torch.cat([value_B1K, value_BHNK], 2)
        mask_BTN = F.pad(mask_BTN, (1, 0), value=True)
    return F.scaled_dot_product_attention(query_BHTK, key_BHNK, value_BHNK, attn_mask=mask_BTN[:, None])
