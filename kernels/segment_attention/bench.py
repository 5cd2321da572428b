"""How fast attention over spans of time is, beside PyTorch's with a mask in memory and flex_attention.

Shapes: B rows, H heads, T queries, N keys, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, Seen, attention

CHECKED = 4
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared."""
ROUNDED = 5e-3
"""The same where products of float32 may be rounded to less."""


Leaves = tuple[Tensor, Tensor]
"""Queries, and keys and values."""


class Size(NamedTuple):
    """One size."""

    rows: int
    heads: int
    steps: int
    keys: int
    width: int
    dtype: torch.dtype


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield what is measured: a segment of Memo behind ten summaries, and windows of a full-context transformer."""
    if device.type != "cuda":
        yield Size(8, 4, 32, 96, 16, torch.float32)
        if not quick:
            yield Size(64, 4, 64, 128, 16, torch.float32)
        return
    yield Size(512, 8, 66, 146, 32, torch.bfloat16)
    yield Size(512, 8, 66, 146, 32, torch.float32)
    if not quick:
        yield Size(128, 8, 64, 576, 32, torch.bfloat16)
        yield Size(32, 8, 512, 1024, 64, torch.bfloat16)


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: each size forward, and forward and backward; trials begin in the middle of the keys."""
    for size in sizes(device, quick=quick):
        rows, heads, steps, keys, width, dtype = size
        draw = torch.Generator(device).manual_seed(0)
        query_BHTK, d_out_BHTK = (
            torch.randn(rows, steps, heads, width, generator=draw, device=device, dtype=dtype).transpose(1, 2)
            for _ in range(2)
        )
        kv_B2HNK = torch.randn(rows, 2, heads, keys, width, generator=draw, device=device, dtype=dtype)
        leaves = query_BHTK.requires_grad_(), kv_B2HNK.requires_grad_()
        time_BN = (torch.arange(keys, device=device) - (keys - steps)).expand(rows, -1)
        first_B1 = torch.randint(steps - keys, 1, (rows, 1), generator=draw, device=device)
        seen = Seen(time_BN, first_B1.expand(-1, steps), time_BN[:, keys - steps :])
        pairs = int(seen.mask().sum()) * heads
        numbers = query_BHTK.numel() * 2 + kv_B2HNK.numel()
        words = f"B={rows} H={heads} T={steps} N={keys} K={width}, {str(dtype).removeprefix('torch.')}"
        for passes in ("forward", "forward and backward"):
            both = passes != "forward"
            names = [name for name in OP.backends if name != "flex" and not OP.refusal(name, query_BHTK, width=width)]
            ours = {name: _run(name, leaves, seen, d_out_BHTK if both else None) for name in names}
            check = _check(names, leaves, seen, d_out_BHTK)
            # It compiles for ten seconds a size and pass, so it is measured once.
            peer = not quick and both and keys == 576 and device.type == "cuda"
            peers = {"flex_attention": _run("flex", leaves, seen, d_out_BHTK)} if peer else {}
            # Two products forward; backward five, of which one is the first again.
            flops = (14 if both else 4) * pairs * width
            bytes_ = numbers * dtype.itemsize * (3 if both else 1)
            yield Case("segment_attention", f"{passes}, {words}", ours, check, peers, bytes_, flops)


def _run(name: str, leaves: Leaves, seen: Seen, d_out_BHTK: Tensor | None) -> Run:
    def forward() -> Tensor:
        with torch.no_grad():
            return attention(*leaves, seen, None, name)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attention(*leaves, seen, None, name), leaves, d_out_BHTK)

    return forward if d_out_BHTK is None else both


def _check(names: list[str], leaves: Leaves, seen: Seen, d_out_BHTK: Tensor) -> Callable[[], None]:
    def check() -> None:
        some = [part[:CHECKED].detach() for part in leaves]
        exact = some[0].double().requires_grad_(), some[1].double().requires_grad_()
        few = Seen(*(part[:CHECKED] for part in seen))
        want = _all(exact, few, d_out_BHTK[:CHECKED].double(), "reference")
        for name in names:
            got = _all((some[0].requires_grad_(), some[1].requires_grad_()), few, d_out_BHTK[:CHECKED], name)
            for what, a, b in zip(("out", "d_query", "d_kv"), got, want, strict=True):
                worst = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
                exact_products = a.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
                if not worst <= (TOLERANCE[a.dtype] if exact_products else ROUNDED):
                    raise AssertionError(f"{name}: {what} is off by {worst:.1e} of the largest number")

    return check


def _all(leaves: Leaves, seen: Seen, d_out_BHTK: Tensor, name: str) -> list[Tensor]:
    out_BHTK = attention(*leaves, seen, None, name)
    return [out_BHTK, *torch.autograd.grad(out_BHTK, leaves, d_out_BHTK)]
