"""Attention with a mask and an optional sink, and rotary positions.

Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op
from .rotary import angles, rotate

__all__ = ["OP", "angles", "attention", "rotate"]

OP = Op(
    "attention",
    __name__,
    {"fused": Backend("PyTorch's scaled dot-product attention"), "reference": Backend("plain, the definition")},
)


def attention(
    query_BHTK: Tensor,
    key_BHNK: Tensor,
    value_BHNK: Tensor,
    mask_BTN: Tensor,
    sink: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Let every query take the mean of the values, weighted by the softmax of its scores: (B, H, T, K).

    A key that a query may not see has a weight of exactly 0. `reference.attention` is the definition.

    Args:
        query_BHTK: the queries, (B, H, T, K).
        key_BHNK: the keys, (B, H, N, K).
        value_BHNK: the values, (B, H, N, K).
        mask_BTN: (B, T, N) bool, true where a query may see a key; without a sink, every query must see one.
        sink: key and value, (H, K) each, that every query sees besides.
        backend: `reference` (plain), `fused` (PyTorch's scaled dot-product attention), or None for the faster one.
    """
    result: Tensor = OP.pick(backend, query_BHTK).attention(query_BHTK, key_BHNK, value_BHNK, mask_BTN, sink)
    return result
