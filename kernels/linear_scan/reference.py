"""The definition of the linear scan: one step at a time.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan(a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Run h[t] = a[t] h[t-1] + b[t], in float32 at least; where a row starts, h[t] = b[t].

    Both `a` and what it multiplies are replaced by 0 at a start, so that no NaN comes through, nor through gradients.
    """
    wide = widest(a_TBD, b_TBD, h_BD)
    state_BD, states = h_BD.to(wide), []
    for a_BD, b_BD, start_B in zip(a_TBD.expand(b_TBD.shape).to(wide), b_TBD.to(wide), start_TB, strict=True):
        start_B1 = start_B[:, None]
        state_BD = torch.where(start_B1, 0, a_BD) * torch.where(start_B1, 0, state_BD) + b_BD
        states.append(state_BD)
    return torch.stack(states).to(b_TBD.dtype), state_BD.to(h_BD.dtype)


def widest(*numbers: Tensor) -> torch.dtype:
    """Return the type to compute in: the widest that comes, float32 at least."""
    dtype = torch.float32
    for each in numbers:
        dtype = torch.promote_types(dtype, each.dtype)
    return dtype
