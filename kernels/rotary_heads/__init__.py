"""From the projections of tokens to queries, keys and values by heads, with rotary positions, behind those of the past.

Shapes: B rows, P tokens, H heads, K width of a head, J = K / 2, N keys of the past.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "rotary_heads"]

OP = Op(
    "rotary_heads",
    __name__,
    {"triton": Backend("one pass over the projections", triton=True), "reference": Backend("plain, the definition")},
)


def rotary_heads(
    projected_BP3HK: Tensor,
    past_B2HNK: Tensor | None,
    cosine_BPJ: Tensor,
    sine_BPJ: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Turn queries and keys by their positions and put keys and values behind those of the past.

    Args:
        projected_BP3HK: for each token its queries, keys and values, (B, P, 3, H, K), K even.
        past_B2HNK: keys and values of the past, (B, 2, H, N, K), in any floating type; None for no past.
        cosine_BPJ: cosines of the angles of each pair (k, k + J), (B, P, J) or (1, P, J) where rows are alike.
        sine_BPJ: their sines.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The queries (B, H, P, K), and keys and values (B, 2, H, N + P, K), in the type of the projections.
    """
    module = OP.pick(backend, projected_BP3HK)
    query_BHPK, kv_B2HNK = module.rotary_heads(projected_BP3HK, past_B2HNK, cosine_BPJ, sine_BPJ)
    return query_BHPK, kv_B2HNK
