"""The linear scan on a CPU: one fused operation per step, written in place, and a backward that is such a loop too.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .reference import widest


def refusal(like: Tensor, **facts: Any) -> str | None:
    """Say why this cannot run."""
    del facts
    kind = like.device.type
    return None if kind == "cpu" else f"it asks at each step whether a row starts, which a {kind} device would wait for"


def steps(
    a: Iterable[Tensor], b: Iterable[Tensor], h_BD: Tensor, start: Iterable[Tensor], y: Iterable[Tensor]
) -> Tensor:
    """Write each state into `y`, and return the last one."""
    for a_BD, b_BD, start_B, y_BD in zip(a, b, start, y, strict=True):
        torch.addcmul(b_BD, a_BD, h_BD, out=y_BD)
        if start_B.any():
            torch.where(start_B[:, None], b_BD, y_BD, out=y_BD)
        h_BD = y_BD
    return h_BD


class _LinearScan(torch.autograd.Function):
    """Everything is in float32 at least here."""

    @staticmethod
    def forward(ctx: Any, a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
        y_TBD = torch.empty(b_TBD.shape, dtype=b_TBD.dtype)
        last_BD = steps(a_TBD.expand(b_TBD.shape), b_TBD, h_BD, start_TB, y_TBD)
        ctx.save_for_backward(a_TBD, h_BD, start_TB, y_TBD)
        return y_TBD, last_BD.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y_TBD: Tensor, d_last_BD: Tensor) -> tuple[Tensor | None, ...]:
        a_TBD, h_BD, start_TB, y_TBD = ctx.saved_tensors
        a = a_TBD.expand(y_TBD.shape).conj()
        g_TBD = torch.empty_like(y_TBD)
        back = reversed(range(len(y_TBD) - 1))
        g_TBD[-1] = d_y_TBD[-1] + d_last_BD
        order = list(back)
        steps(
            (a[t + 1] for t in order), (d_y_TBD[t] for t in order), g_TBD[-1], (start_TB[t + 1] for t in order),
            (g_TBD[t] for t in order),
        )  # fmt: skip
        d_a = d_h = None
        forgets_TB1 = start_TB[..., None]
        if ctx.needs_input_grad[0]:
            d_a = torch.empty_like(g_TBD)
            d_a[0] = h_BD.conj() * g_TBD[0]
            torch.mul(y_TBD[:-1].conj(), g_TBD[1:], out=d_a[1:])
            d_a = d_a.masked_fill_(forgets_TB1, 0).sum_to_size(a_TBD.shape)
        if ctx.needs_input_grad[2]:
            d_h = (a[0] * g_TBD[0]).masked_fill(forgets_TB1[0], 0)
        return d_a, g_TBD, d_h, None


def linear_scan(a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `reference.linear_scan` returns."""
    wide = widest(a_TBD, b_TBD, h_BD)
    y_TBD, last_BD = _LinearScan.apply(a_TBD.to(wide), b_TBD.to(wide), h_BD.to(wide), start_TB)  # type: ignore[no-untyped-call]
    return y_TBD.to(b_TBD.dtype), last_BD.to(h_BD.dtype)
