"""How fast the softmax scan is, with 3 % resets; values in float32 or bfloat16, sums and means in float32.

Shapes: T time, B rows, H heads, K width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, Sums, softmax_scan
from .reference import fresh

CHECKED = 4
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared, or 0.1; the gradient to values has their type."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[tuple[int, int, int, int, torch.dtype]]:
    """Yield T, B, H, K and the type of the values; a single step is what acting takes."""
    if device.type != "cuda":
        yield 64, 64, 4, 16, torch.float32
        if not quick:
            yield 128, 256, 4, 32, torch.float32
            yield 1, 64, 4, 16, torch.float32
        return
    yield 1, 4096, 4, 64, torch.float32
    yield 128, 256, 4, 32, torch.float32
    if quick:
        yield 64, 4096, 4, 64, torch.float32
    else:
        yield 1024, 4096, 4, 64, torch.float32
        yield 1024, 4096, 4, 64, torch.bfloat16


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: each size forward, and forward and backward."""
    for time, batch, heads, width, dtype in sizes(device, quick=quick):
        draw = torch.Generator(device).manual_seed(0)
        start_TB = torch.rand(time, batch, generator=draw, device=device) < 0.03
        score_TBH = torch.randn(time, batch, heads, generator=draw, device=device).requires_grad_()
        shape = (time, batch, heads, width)
        value_TBHK = torch.randn(shape, generator=draw, device=device, dtype=dtype).requires_grad_()
        d_mean_TBHK = torch.randn(shape, generator=draw, device=device)
        sums = fresh(batch, heads, width, d_mean_TBHK)
        words = f"T={time} B={batch} H={heads} K={width}, {str(dtype).removeprefix('torch.')}"
        values, scores = time * batch * heads * width, time * batch * heads * 4
        names = [
            name
            for name in OP.backends
            if not OP.refusal(name, value_TBHK, width=width) and (values < 1 << 24 or name == "triton")
        ]
        check = partial(_check, names, score_TBH, value_TBHK, sums, start_TB, d_mean_TBHK)
        for passes in ("forward",) if time == 1 else ("forward", "forward and backward"):
            both = passes != "forward"
            back = d_mean_TBHK if both else None
            ours: dict[str, Run] = {
                name: partial(_run, name, score_TBH, value_TBHK, sums, start_TB, back) for name in names
            }
            # Backward reads scores, values, means and what comes back, and writes two gradients.
            bytes_ = scores + values * (4 + dtype.itemsize) + both * (2 * scores + values * (8 + 2 * dtype.itemsize))
            yield Case("softmax_scan", f"{passes}, {words}", ours, check, {}, bytes_)


def _run(
    name: str, score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, d_mean_TBHK: Tensor | None
) -> list[Tensor]:
    with torch.set_grad_enabled(d_mean_TBHK is not None):
        mean_TBHK, _ = softmax_scan(score_TBH, value_TBHK, sums, start_TB, name)
    if d_mean_TBHK is None:
        return [mean_TBHK]
    return [mean_TBHK.detach(), *torch.autograd.grad(mean_TBHK, [score_TBH, value_TBHK], d_mean_TBHK)]


def _check(
    names: list[str], score_TBH: Tensor, value_TBHK: Tensor, sums: Sums, start_TB: Tensor, d_mean_TBHK: Tensor
) -> None:
    """Compare some rows with the definition: rows do not know of each other."""
    few = [part[:, :CHECKED].detach().requires_grad_() for part in (score_TBH, value_TBHK)]
    some = Sums(*(part[:CHECKED] for part in sums))
    wants = _run("reference", few[0], few[1], some, start_TB[:, :CHECKED], d_mean_TBHK[:, :CHECKED])
    for name in names:
        gots = _run(name, score_TBH, value_TBHK, sums, start_TB, d_mean_TBHK)
        for what, got, want in zip(("mean", "d_score", "d_value"), gots, wants, strict=True):
            worst = (got[:, :CHECKED] - want).abs().max().item() / max(want.abs().max().item(), 0.1)
            if not worst < TOLERANCE[got.dtype]:
                raise AssertionError(f"{name}: {what} is off by {worst:.1e}")
