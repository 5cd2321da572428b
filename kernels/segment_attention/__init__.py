"""Attention in which each query sees the keys of a span of time, with an optional sink; and rotary positions.

Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op
from .reference import NEVER, Seen
from .rotary import angles, rotate

__all__ = ["NEVER", "OP", "Seen", "angles", "attention", "rotate"]

OP = Op(
    "segment_attention",
    __name__,
    {
        "triton": Backend("tiles that are skipped where nobody sees anything", triton=True),
        "fused": Backend("PyTorch's scaled dot-product attention"),
        "flex": Backend("PyTorch's flex_attention, compiled", on_request=True),
        "reference": Backend("plain, the definition"),
    },
)


def attention(
    query_BHTK: Tensor,
    kv_B2HNK: Tensor,
    seen: Seen | None = None,
    sink: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Let every query take the mean of the values, weighted by the softmax of its scores: (B, H, T, K).

    A key that a query does not see has a weight of exactly 0. `reference.attention` is the definition.

    Args:
        query_BHTK: the queries, (B, H, T, K).
        kv_B2HNK: the keys and the values, (B, 2, H, N, K), in any floating type.
        seen: which keys each query sees; without a sink, every query must see one. None: the queries are those of the
            last T keys, and each sees all keys up to its own.
        sink: key and value, (H, K) each, that every query sees besides.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The means (B, H, T, K), in the type of the queries (in that of autocast where it is on).
    """
    module = OP.pick(backend, query_BHTK, width=query_BHTK.shape[-1])
    result: Tensor = module.attention(query_BHTK, kv_B2HNK, seen, sink)
    return result
