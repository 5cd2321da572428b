"""Softmax over all steps so far, as a recurrence: the mean of their values, weighted by the exponential of a score.

Shapes: T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

from torch import Tensor

from . import chunked, reference
from .reference import Sums

__all__ = ["BACKENDS", "Sums", "softmax_scan"]

BACKENDS = {"reference": reference.softmax_scan, "chunked": chunked.softmax_scan}


def softmax_scan(
    score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, backend: str | None = None
) -> tuple[Tensor, Sums]:
    """Run the recurrence over T steps; `reference.softmax_scan` is its definition.

    Args:
        score_TBH: how much each step counts, (T, B, H), T >= 1, finite.
        value_TBHK: what each step says, (T, B, H, K).
        sums: what is known of the steps before, in the type that the sums are to be kept in.
        start_TB: (T, B) bool; true where a row forgets everything before it takes that step.
        backend: `reference` (step by step), `chunked` (masked softmax over chunks of time), or None for the faster one.

    Returns:
        The weighted means (T, B, H, K), in the type of `sums`, and the sums after the last step.
    """
    name = backend or ("reference" if len(score_TBH) == 1 else "chunked")
    if name not in BACKENDS:
        raise ValueError(f"softmax_scan: unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[name](score_TBH, value_TBHK, sums, start_TB)
