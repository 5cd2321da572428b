"""How fast the linear scan is, with 3 % resets, beside accelerated-scan's without any, in its own layout (B, D, T).

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, linear_scan

CHECKED = 4
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.complex64: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared."""


class Size(NamedTuple):
    """One size."""

    time: int
    batch: int
    width: int
    dtype: torch.dtype
    constant: bool = False
    """What is kept is the same at every step and for every row."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield what is measured; on a CPU what a CPU trains."""
    if device.type != "cuda":
        yield Size(64, 64, 64, torch.float32)
        if not quick:
            yield Size(128, 256, 128, torch.float32)
            yield Size(64, 64, 64, torch.complex64)
        return
    shapes = [(64, 4096, 256), (128, 256, 128)] if quick else [(1024, 4096, 256), (64, 4096, 256), (128, 256, 128)]
    if not quick:
        shapes.extend([(1024, 256, 256), (1024, 16, 256)])
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        for time, batch, width in shapes:
            yield Size(time, batch // 2 if dtype.is_complex and time * batch > 1 << 20 else batch, width, dtype)
        yield Size(64, 4096, 256, dtype, constant=True)


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: each size forward, and forward and backward."""
    for size in sizes(device, quick=quick):
        time, batch, width, dtype, constant = size
        draw = torch.Generator(device).manual_seed(0)
        start_TB = torch.rand(time, batch, generator=draw, device=device) < 0.03
        b_TBD, d_y_TBD = (torch.randn(time, batch, width, generator=draw, device=device, dtype=dtype) for _ in range(2))
        a_TBD = torch.rand((1, 1, width) if constant else b_TBD.shape, generator=draw, device=device).to(dtype)
        h_BD = torch.randn(batch, width, generator=draw, device=device).to(torch.promote_types(dtype, torch.float32))
        leaves = [leaf.requires_grad_() for leaf in (a_TBD, b_TBD, h_BD)]
        words = f"T={time} B={batch} D={width}, {str(dtype).removeprefix('torch.')}" + ", constant" * constant
        state, whole, once = (leaf.numel() * leaf.element_size() for leaf in (h_BD, b_TBD, a_TBD))
        for passes in ("forward", "forward and backward"):
            both = passes != "forward"
            ours = {
                name: _run(name, leaves, start_TB, d_y_TBD if both else None)
                for name in OP.backends
                if not OP.refusal(name, b_TBD) and (time * batch * width < 1 << 26 or name == "triton")
            }
            # Backward reads a, the states, what comes back, and writes a gradient for each of a, b and h.
            bytes_ = once + 2 * whole + 2 * state + both * (2 * once + 3 * whole + 2 * state)
            check = _check(list(ours), leaves, start_TB, d_y_TBD)
            peers = {} if constant or device.type != "cuda" else _peers(leaves, d_y_TBD if both else None)
            yield Case("linear_scan", f"{passes}, {words}", ours, check, peers, bytes_)


def _run(name: str, leaves: list[Tensor], start_TB: Tensor, d_y_TBD: Tensor | None) -> Run:
    def run() -> None:
        with torch.set_grad_enabled(d_y_TBD is not None):
            y_TBD, _ = linear_scan(leaves[0], leaves[1], leaves[2], start_TB, name)
        if d_y_TBD is not None:
            torch.autograd.grad(y_TBD, leaves, d_y_TBD)

    return run


def _check(names: list[str], leaves: list[Tensor], start_TB: Tensor, d_y_TBD: Tensor) -> Run:
    """Compare some rows with the definition: rows do not know of each other."""

    def results(name: str, rows: slice) -> list[Tensor]:
        a, b, h = leaves
        few = [part.detach().requires_grad_() for part in (a[:, rows] if a.shape[1] > 1 else a, b[:, rows], h[rows])]
        y_TBD, last_BD = linear_scan(few[0], few[1], few[2], start_TB[:, rows], name)
        return [y_TBD.detach(), last_BD.detach(), *torch.autograd.grad(y_TBD, few, d_y_TBD[:, rows])]

    def check() -> None:
        rows = slice(CHECKED)
        wants = results("reference", rows)
        for name in names:
            with torch.no_grad():
                whole, _ = linear_scan(leaves[0], leaves[1], leaves[2], start_TB, name)
            for what, got, want in zip(
                ("y", "last", "d_a", "d_b", "d_h", "y of all rows"),
                (*results(name, rows), whole[:, rows]),
                (*wants, wants[0]),
                strict=True,
            ):
                worst = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-9)
                if not worst < TOLERANCE[whole.dtype]:
                    raise AssertionError(f"{name}: {what} is off by {worst:.1e}")

    return check


def _peers(leaves: list[Tensor], d_y_TBD: Tensor | None) -> dict[str, Run]:
    """Return accelerated-scan's kernels that there are here, on the same numbers in the layout (B, D, T)."""
    if importlib.util.find_spec("accelerated_scan") is None:
        return {}
    complex_, time = leaves[0].is_complex(), len(leaves[0])
    modules = ["complex"] if complex_ else ["scalar"]
    # Its CUDA kernel is compiled when it is imported.
    if not complex_ and shutil.which("nvcc") and 32 <= time <= 1 << 16 and time & (time - 1) == 0:
        modules.append("warp")
    return {f"accelerated-scan {module}": _peer(module, leaves[:2], d_y_TBD) for module in modules}


def _peer(module: str, leaves: list[Tensor], d_y_TBD: Tensor | None) -> Run:
    made: list[tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor], Tensor | None]] = []

    def run() -> None:
        if not made:
            theirs = [leaf.detach().permute(1, 2, 0).contiguous().requires_grad_() for leaf in leaves]
            back = None if d_y_TBD is None else d_y_TBD.permute(1, 2, 0).contiguous()
            made.append((importlib.import_module(f"accelerated_scan.{module}").scan, theirs, back))
        scan, theirs, back = made[0]
        with torch.set_grad_enabled(back is not None):
            y_BDT = scan(theirs[0], theirs[1])
        if back is not None:
            torch.autograd.grad(y_BDT, theirs, back)

    return run
