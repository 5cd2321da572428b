"""The gated unit of an MLP: silu(gate) * up, from one projection that holds both.

Shapes: `...` any leading axes, F hidden width, G = 2 F.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "gated_unit"]

OP = Op(
    "gated_unit",
    __name__,
    {"triton": Backend("one pass over the projection", triton=True), "reference": Backend("plain, the definition")},
)


def gated_unit(both_G: Tensor, backend: str | None = None) -> Tensor:
    """Return silu of the first half of the last axis times the second, (..., F), from (..., 2 F)."""
    made: Tensor = OP.pick(backend, both_G).gated_unit(both_G)
    return made
