"""The definition of the gated unit.

Shapes: `...` any leading axes, F hidden width, G = 2 F.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def gated_unit(both_G: Tensor) -> Tensor:
    """Return silu(gate) * up, (..., F)."""
    gate_F, up_F = both_G.chunk(2, -1)
    return F.silu(gate_F) * up_F
