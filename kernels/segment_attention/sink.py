"""A sink, added to attention without one: it takes its share by the logarithm of the sum of the other weights.

Shapes: B rows, H heads, T queries, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_sink(read_BHTK: Tensor, log_sum_BHT: Tensor, query_BHTK: Tensor, sink: tuple[Tensor, Tensor]) -> Tensor:
    """Return what is read beside a sink, of key and value (H, K); `log_sum` is -inf where a query sees nothing else."""
    key_HK, value_HK = sink
    query_BHTK = query_BHTK.float() * query_BHTK.shape[-1] ** -0.5
    sink_BHT = torch.einsum("bhtk,hk->bht", query_BHTK, key_HK.float())
    share_BHT1 = torch.sigmoid(sink_BHT - log_sum_BHT)[..., None]
    return torch.lerp(read_BHTK.float(), value_HK.float()[:, None].expand_as(read_BHTK), share_BHT1).to(read_BHTK.dtype)
