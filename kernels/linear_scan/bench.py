"""How fast the linear scan is, with 3 % resets, beside accelerated-scan's without any, in its own layout (B, D, T).

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, linear_scan

CHECKED = 4
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.complex64: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared, or 0.1."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[tuple[int, int, int, torch.dtype]]:
    """Yield T, B, D and the type; on a CPU what a CPU trains."""
    if device.type != "cuda":
        yield 64, 64, 64, torch.float32
        if not quick:
            yield 128, 256, 128, torch.float32
            yield 64, 64, 64, torch.complex64
        return
    yield 128, 256, 128, torch.float32
    yield 64, 4096, 256, torch.float32
    if not quick:
        yield 1024, 4096, 256, torch.float32
        yield 1024, 4096, 256, torch.bfloat16
        yield 1024, 2048, 256, torch.complex64


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: each size forward, and forward and backward."""
    for time, batch, width, dtype in sizes(device, quick=quick):
        draw = torch.Generator(device).manual_seed(0)
        start_TB = torch.rand(time, batch, generator=draw, device=device) < 0.03
        b_TBD, d_y_TBD = (torch.randn(time, batch, width, generator=draw, device=device, dtype=dtype) for _ in range(2))
        a_TBD = torch.rand(b_TBD.shape, generator=draw, device=device, dtype=b_TBD.real.dtype).to(dtype)
        h_BD = torch.randn(batch, width, generator=draw, device=device).to(torch.promote_types(dtype, torch.float32))
        leaves = [leaf.requires_grad_() for leaf in (a_TBD, b_TBD, h_BD)]
        words = f"T={time} B={batch} D={width}, {str(dtype).removeprefix('torch.')}"
        large = time * batch * width >= 1 << 24
        names = [name for name in OP.backends if not OP.refusal(name, b_TBD) and (name == "triton" or not large)]
        state, whole = (leaf.numel() * leaf.element_size() for leaf in (h_BD, b_TBD))
        check = partial(_check, names, leaves, start_TB, d_y_TBD)
        for passes in ("forward", "forward and backward"):
            both = passes != "forward"
            back = d_y_TBD if both else None
            ours: dict[str, Run] = {name: partial(_run, name, leaves, start_TB, back) for name in names}
            # Backward reads a, the states and what comes back, and writes a gradient for each of a, b and h.
            bytes_ = 3 * whole + 2 * state + both * (5 * whole + 2 * state)
            yield Case("linear_scan", f"{passes}, {words}", ours, check, _peers(leaves, back), bytes_)


def _run(name: str, leaves: list[Tensor], start_TB: Tensor, d_y_TBD: Tensor | None) -> list[Tensor]:
    with torch.set_grad_enabled(d_y_TBD is not None):
        y_TBD, last_BD = linear_scan(leaves[0], leaves[1], leaves[2], start_TB, name)
    gradients = [] if d_y_TBD is None else torch.autograd.grad(y_TBD, leaves, d_y_TBD)
    return [y_TBD.detach(), last_BD.detach(), *gradients]


def _check(names: list[str], leaves: list[Tensor], start_TB: Tensor, d_y_TBD: Tensor) -> None:
    """Compare some rows with the definition: rows do not know of each other."""
    a_TBD, b_TBD, h_BD = leaves
    few = [part.detach().requires_grad_() for part in (a_TBD[:, :CHECKED], b_TBD[:, :CHECKED], h_BD[:CHECKED])]
    wants = _run("reference", few, start_TB[:, :CHECKED], d_y_TBD[:, :CHECKED])
    for name in names:
        gots = _run(name, leaves, start_TB, d_y_TBD)
        for what, got, want in zip(("y", "last", "d_a", "d_b", "d_h"), gots, wants, strict=True):
            rows = got[:CHECKED] if got.ndim == 2 else got[:, :CHECKED]
            worst = (rows - want).abs().max().item() / max(want.abs().max().item(), 0.1)
            if not worst < TOLERANCE[b_TBD.dtype]:
                raise AssertionError(f"{name}: {what} is off by {worst:.1e}")


def _peers(leaves: list[Tensor], d_y_TBD: Tensor | None) -> dict[str, Run]:
    """Return accelerated-scan's kernels that there are here, on the same numbers in the layout (B, D, T)."""
    if not leaves[0].is_cuda or importlib.util.find_spec("accelerated_scan") is None:
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
