"""The linear recurrence h[t] = a[t] h[t-1] + b[t], which forgets where a row starts; real or complex.

It is the whole time loop of minGRU, S4D, S5, LRU, FFM, RAT and of moving averages.
Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "linear_scan"]

OP = Op(
    "linear_scan",
    __name__,
    {
        "triton": Backend("one pass over memory each way", triton=True),
        "loop": Backend("step by step in place, with a backward of its own, on a CPU"),
        "reference": Backend("step by step, the definition"),
    },
)


def linear_scan(
    a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Run h[t] = a[t] h[t-1] + b[t] over T steps; where a row starts, h[t] = b[t].

    It runs in float32 at least, whatever the types. Gradients go to `a`, `b` and `h`.

    Args:
        a_TBD: what is kept of the state, (T, B, D), T >= 1. Any size may be 1, or the tensor may be expanded, where it
            is the same throughout: (1, 1, D) for a system that does not change. It is never written out in full, and
            its gradient is summed up.
        b_TBD: what is added, (T, B, D).
        h_BD: the state before the first step, (B, D).
        start_TB: (T, B) bool; true where a row forgets everything before it takes that step.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Returns:
        The states (T, B, D) in the type of `b`, and the last one (B, D) in the type of `h`. Where one of the three is
        complex, all are.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    _check(a_TBD, b_TBD, h_BD, start_TB)
    if a_TBD.is_complex() or b_TBD.is_complex() or h_BD.is_complex():
        dtype = torch.promote_types(torch.promote_types(a_TBD.dtype, b_TBD.dtype), h_BD.dtype)
        a_TBD, b_TBD, h_BD = a_TBD.to(dtype), b_TBD.to(dtype), h_BD.to(dtype)
    same = [size > 1 and stride == 0 for size, stride in zip(a_TBD.shape, a_TBD.stride(), strict=True)]
    if any(same):
        a_TBD = _Shrink.apply(a_TBD, same)  # type: ignore[no-untyped-call]
    y_TBD, last_BD = OP.pick(backend, b_TBD).linear_scan(a_TBD, b_TBD, h_BD, start_TB)
    return y_TBD, last_BD


class _Shrink(torch.autograd.Function):
    """Undo an expansion. What comes back is spread evenly, so that the sum over the expansion is right."""

    @staticmethod
    def forward(ctx: Any, a_TBD: Tensor, same: list[bool]) -> Tensor:
        ctx.shape = a_TBD.shape
        return a_TBD[tuple(slice(1) if each else slice(None) for each in same)].clone()

    @staticmethod
    def backward(ctx: Any, d_a: Tensor) -> tuple[Tensor, None]:
        return (d_a / (ctx.shape.numel() / d_a.numel())).expand(ctx.shape), None


def _check(a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> None:
    shape = b_TBD.shape
    fits = len(shape) == 3 and shape[0] > 0 and h_BD.shape == shape[1:] and start_TB.shape == shape[:2]
    if not fits or a_TBD.ndim != 3 or any(size not in (1, full) for size, full in zip(a_TBD.shape, shape, strict=True)):
        came = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip("abh", (a_TBD, b_TBD, h_BD), strict=True))
        raise ValueError(
            f"linear_scan: {came}, start {tuple(start_TB.shape)} came; it takes b (T, B, D) with T >= 1, a of the same "
            "sizes or 1, h (B, D) and start (T, B)"
        )
    if start_TB.dtype != torch.bool:
        raise ValueError(f"linear_scan: start is {start_TB.dtype}; give torch.bool")
