"""The definition of the delta rule and its family: one step at a time.

Sources: Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv 2006.16236), section 3.3 (no beta); Yang et al. 2023,
"Gated Linear Attention" (arXiv 2312.06635), section 4.1 (a decay for each key dimension); Schlag et al. 2021, "Linear
Transformers Are Secretly Fast Weight Programmers" (arXiv 2102.11174), section 4.2 (beta); Yang et al. 2024, "Gated
Delta Networks: Improving Mamba2 with Delta Rule" (arXiv 2412.06464), section 3.1 (both).
Shapes: T time, B rows, H heads, K width of queries and keys, V width of values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def delta_rule(
    query_TBHK: Tensor,
    key_TBHK: Tensor,
    value_TBHV: Tensor,
    beta_TBH: Tensor | None,
    log_decay: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor]:
    """Forget, decay, erase, write, read: at each step, in this order."""
    wide = compute_type(state_BHKV, value_TBHV)
    last_BHKV, reads = state_BHKV.to(wide), []
    for t, start_B in enumerate(start_TB):
        query_BHK, key_BHK, value_BHV = (part[t].to(wide) for part in (query_TBHK, key_TBHK, value_TBHV))
        last_BHKV = torch.where(start_B[:, None, None, None], 0, last_BHKV)
        if log_decay is not None:
            # What a start forgot does not decay: a decay that is not a number must not bring it back.
            decay = log_decay[t].to(wide)
            decay = torch.where(start_B.view(-1, *(1,) * (decay.ndim - 1)), 0, decay).exp()
            last_BHKV = last_BHKV * (decay[..., None] if decay.ndim == 3 else decay[..., None, None])
        if beta_TBH is not None:
            known_BHV = (key_BHK[..., None] * last_BHKV).sum(-2)
            value_BHV = beta_TBH[t].to(wide)[..., None] * (value_BHV - known_BHV)
        last_BHKV = last_BHKV + key_BHK[..., None] * value_BHV[..., None, :]
        reads.append((query_BHK[..., None] * last_BHKV).sum(-2).to(value_TBHV.dtype))
    return torch.stack(reads), last_BHKV.to(state_BHKV.dtype)


def compute_type(state_BHKV: Tensor, value_TBHV: Tensor) -> torch.dtype:
    """Return the type that sums are kept in: the wider of state and value, at least float32."""
    return torch.promote_types(torch.promote_types(state_BHKV.dtype, value_TBHV.dtype), torch.float32)
