"""The definition of attention over spans of time, with a sink.

Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = -(2**31)
"""The time of a key that no query sees."""


class Seen(NamedTuple):
    """A query sees the keys whose time lies in its span, both ends included. All are whole numbers of 32 bits."""

    time_BN: Tensor
    """(B, N): the time of each key; `NEVER` for one that nobody sees."""
    first_BT: Tensor
    """(B, T): the first time that a query sees, later than `NEVER`."""
    last_BT: Tensor
    """(B, T): the last."""

    def mask(self) -> Tensor:
        """Return the same as (B, T, N) bool."""
        time_B1N = self.time_BN[:, None]
        return (time_B1N >= self.first_BT[..., None]) & (time_B1N <= self.last_BT[..., None])


def causal(steps: int, keys: int, device: torch.device) -> Tensor:
    """Return (1, T, N) bool: the queries are those of the last keys, and each sees all keys up to its own."""
    return torch.ones(1, steps, keys, dtype=torch.bool, device=device).tril(keys - steps)


def attention(
    query_BHTK: Tensor,
    kv_B2HNK: Tensor,
    seen: Seen | None,
    sink: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return softmax(query . key / sqrt(K)) . value over the keys that are seen and the sink, (B, H, T, K)."""
    key_BHNK, value_BHNK = kv_B2HNK.to(query_BHTK.dtype).unbind(1)
    steps, keys = query_BHTK.shape[2], key_BHNK.shape[2]
    mask_BTN = causal(steps, keys, query_BHTK.device) if seen is None else seen.mask()
    query_BHTK = query_BHTK * query_BHTK.shape[-1] ** -0.5
    score_BHTN = torch.einsum("bhtk,bhnk->bhtn", query_BHTK, key_BHNK)
    score_BHTN = torch.where(mask_BTN[:, None], score_BHTN, -torch.inf)
    if sink is None:
        return torch.einsum("bhtn,bhnk->bhtk", score_BHTN.softmax(-1), value_BHNK)
    key_HK, value_HK = (part.to(query_BHTK.dtype) for part in sink)
    sink_BHT = torch.einsum("bhtk,hk->bht", query_BHTK, key_HK)
    weight_BHTN = torch.cat([score_BHTN, sink_BHT[..., None]], -1).softmax(-1)
    read_BHTK = torch.einsum("bhtn,bhnk->bhtk", weight_BHTN[..., :-1], value_BHNK)
    return read_BHTK + weight_BHTN[..., -1:] * value_HK[:, None]
