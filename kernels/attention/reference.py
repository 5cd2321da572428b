"""The definition of attention with a mask and a sink.

Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention(
    query_BHTK: Tensor,
    key_BHNK: Tensor,
    value_BHNK: Tensor,
    mask_BTN: Tensor,
    sink: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return softmax(query . key / sqrt(K)) . value over the keys in the mask and the sink, (B, H, T, K)."""
    query_BHTK = query_BHTK * query_BHTK.shape[-1] ** -0.5
    score_BHTN = torch.einsum("bhtk,bhnk->bhtn", query_BHTK, key_BHNK)
    score_BHTN = torch.where(mask_BTN[:, None], score_BHTN, -torch.inf)
    if sink is None:
        return torch.einsum("bhtn,bhnk->bhtk", score_BHTN.softmax(-1), value_BHNK)
    key_HK, value_HK = sink
    sink_BHT = torch.einsum("bhtk,hk->bht", query_BHTK, key_HK)
    weight_BHTN = torch.cat([score_BHTN, sink_BHT[..., None]], -1).softmax(-1)
    read_BHTK = torch.einsum("bhtn,bhnk->bhtk", weight_BHTN[..., :-1], value_BHNK)
    return read_BHTK + weight_BHTN[..., -1:] * value_HK[:, None]
