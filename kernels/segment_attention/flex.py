"""Attention over spans of time through PyTorch's flex_attention, compiled.

Tiles in which nobody sees a key are skipped. A peer for comparison: compiling takes ten seconds, and the tiles of every
call have to be found anew.
Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from .reference import Seen
from .sink import with_sink


def refusal(like: Tensor, width: int = 16) -> str | None:
    """Say why it cannot run, or return None."""
    if not like.is_cuda:
        return f"its tensors are on the {like.device.type}, and flex_attention with gradients needs a CUDA GPU"
    if width < 16:
        return f"a head is {width} wide, and flex_attention takes 16 or more"
    return None


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    return torch.compile(create_block_mask), torch.compile(flex_attention)


def attention(
    query_BHTK: Tensor,
    kv_B2HNK: Tensor,
    seen: Seen | None,
    sink: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return what `reference.attention` returns."""
    batch, _, steps, _ = query_BHTK.shape
    keys = kv_B2HNK.shape[3]
    key_BHNK, value_BHNK = kv_B2HNK.to(query_BHTK.dtype).unbind(1)

    def causal(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query + keys - steps

    def spans(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert seen is not None
        time = seen.time_BN[row, key]
        return (time >= seen.first_BT[row, query]) & (time <= seen.last_BT[row, query])

    mask, attend = _compiled()
    if seen is None:
        block = mask(causal, None, None, steps, keys, device=query_BHTK.device)
    else:
        seen = Seen(*(part.contiguous() for part in seen))
        block = mask(spans, batch, None, steps, keys, device=query_BHTK.device)
    read_BHTK, log_sum_BHT = attend(query_BHTK, key_BHNK, value_BHNK, block_mask=block, return_lse=True)
    result: Tensor = read_BHTK if sink is None else with_sink(read_BHTK, log_sum_BHT, query_BHTK, sink)
    return result
