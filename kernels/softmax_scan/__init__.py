"""Softmax over all steps so far, as a recurrence: the mean of their values, weighted by the exponential of a score.

Shapes: T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op
from .reference import Sums

__all__ = ["OP", "Sums", "softmax_scan"]

FEW = 64
"""Up to so many rows (environments times heads), chunks of time are faster on a CPU than a loop."""

OP = Op(
    "softmax_scan",
    __name__,
    {
        "triton": Backend("one pass over memory each way", triton=True),
        "loop": Backend("step by step in place, with a backward of its own, on a CPU"),
        "chunked": Backend("masked softmax over chunks of time"),
        "reference": Backend("step by step, the definition"),
    },
)


def softmax_scan(
    score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, backend: str | None = None
) -> tuple[Tensor, Sums]:
    """Run the recurrence over T steps; `reference.softmax_scan` is its definition.

    Args:
        score_TBH: how much each step counts, (T, B, H), T >= 1, finite.
        value_TBHK: what each step says, (T, B, H, K), in any type.
        sums: what is known of the steps before, in the type that the sums are to be kept in.
        start_TB: (T, B) bool; true where a row forgets everything before it takes that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The weighted means (T, B, H, K), in the type of `sums`, and the sums after the last step.
    """
    rather = None
    if not value_TBHK.is_cuda:
        # One step has nothing to gain; a chunk costs its square, but fewer calls, which is what few rows wait for.
        steps, rows = len(score_TBH), score_TBH[0].numel()
        rather = "reference" if steps == 1 else "chunked" if rows <= FEW else None
    scan = OP.pick(backend, value_TBHK, rather=rather, width=value_TBHK.shape[-1]).softmax_scan
    mean_TBHK, sums = scan(score_TBH, value_TBHK, sums, start_TB)
    return mean_TBHK, sums
