"""How fast the softmax scan is, with 3 % resets; values in float32 or bfloat16, sums and means in float32.

Shapes: T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, Sums, softmax_scan
from .reference import fresh

CHECKED = 4
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared; the gradient to values has their type."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[tuple[int, int, int, int]]:
    """Yield (T, B, H, K); a single step is what acting takes."""
    if device.type != "cuda":
        yield from [(64, 64, 4, 16)] if quick else [(64, 64, 4, 16), (128, 256, 4, 32), (1, 64, 4, 16)]
        return
    if not quick:
        yield 1024, 4096, 4, 64
        yield 1024, 64, 4, 64
    yield from [(64, 4096, 4, 64), (128, 256, 4, 32), (1, 4096, 4, 64)]


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: each size forward, and forward and backward."""
    for dtype in (torch.float32, torch.bfloat16):
        for shape in sizes(device, quick=quick):
            time, batch, heads, width = shape
            draw = torch.Generator(device).manual_seed(0)
            start_TB = torch.rand(time, batch, generator=draw, device=device) < 0.03
            score_TBH = torch.randn(time, batch, heads, generator=draw, device=device).requires_grad_()
            value_TBHK = torch.randn(shape, generator=draw, device=device, dtype=dtype).requires_grad_()
            d_mean_TBHK = torch.randn(shape, generator=draw, device=device)
            sums = fresh(batch, heads, width, d_mean_TBHK)
            words = f"T={time} B={batch} H={heads} K={width}, {str(dtype).removeprefix('torch.')}"
            values, scores = time * batch * heads * width, time * batch * heads * 4
            for passes in ("forward", "forward and backward"):
                both = passes != "forward"
                ours = {
                    name: _run(name, score_TBH, value_TBHK, sums, start_TB, d_mean_TBHK if both else None)
                    for name in OP.backends
                    if not OP.refusal(name, value_TBHK, width=width) and (values < 1 << 27 or name == "triton")
                }
                # Backward reads scores, values, means and what comes back, and writes two gradients.
                bytes_ = (
                    scores + values * (4 + dtype.itemsize) + both * (2 * scores + values * (8 + 2 * dtype.itemsize))
                )
                check = _check(list(ours), score_TBH, value_TBHK, sums, start_TB, d_mean_TBHK)
                yield Case("softmax_scan", f"{passes}, {words}", ours, check, {}, bytes_)


def _run(
    name: str, score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, d_mean_TBHK: Tensor | None
) -> Run:
    def run() -> None:
        with torch.set_grad_enabled(d_mean_TBHK is not None):
            mean_TBHK, _ = softmax_scan(score_TBH, value_TBHK, sums, start_TB, name)
        if d_mean_TBHK is not None:
            torch.autograd.grad(mean_TBHK, [score_TBH, value_TBHK], d_mean_TBHK)

    return run


def _check(
    names: list[str], score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, d_mean_TBHK: Tensor
) -> Run:
    """Compare some rows with the definition: rows do not know of each other."""

    def results(name: str) -> list[Tensor]:
        leaves = [part[:, :CHECKED].detach().requires_grad_() for part in (score_TBH, value_TBHK)]
        few = Sums(*(part[:CHECKED] for part in sums))
        mean_TBHK, after = softmax_scan(leaves[0], leaves[1], few, start_TB[:, :CHECKED], name)
        return [mean_TBHK.detach(), *after, *torch.autograd.grad(mean_TBHK, leaves, d_mean_TBHK[:, :CHECKED])]

    def check() -> None:
        wants = results("reference")
        for name in names:
            with torch.no_grad():
                whole, _ = softmax_scan(score_TBH, value_TBHK, sums, start_TB, name)
            gots = [*results(name), whole[:, :CHECKED]]
            for what, got, want in zip(
                ("mean", *Sums._fields, "d_score", "d_value", "mean of all rows"), gots, [*wants, wants[0]], strict=True
            ):
                worst = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-9)
                if not worst < TOLERANCE[got.dtype]:
                    raise AssertionError(f"{name}: {what} is off by {worst:.1e}")

    return check
