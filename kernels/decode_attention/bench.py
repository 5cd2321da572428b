"""How fast one step attends to its cache, rows at all lengths, beside PyTorch's attention over all slots.

Shapes: B rows, H heads, N slots of the cache, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..measure import Case
from . import OP, decode_attention

CHECKED = 16
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared."""
ROUNDED = 5e-3
"""The same where products of float32 may be rounded to less."""


class Size(NamedTuple):
    """One size: `far` slots for summaries, `near` for steps."""

    rows: int
    heads: int
    far: int
    near: int
    width: int
    dtype: torch.dtype


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield what is measured: Memo with ten summaries, and a full-context transformer."""
    if device.type != "cuda":
        yield Size(64, 4, 32, 32, 16, torch.float32)
        return
    for dtype in (torch.float32, torch.bfloat16):
        yield Size(2048, 8, 80, 50, 32, dtype)
        yield Size(512, 8, 0, 512, 32, dtype)
        if not quick:
            yield Size(1, 8, 0, 4096, 32, dtype)
            yield Size(256, 4, 0, 2048, 128, dtype)


class Scene:
    """Rows of every length from one step to all slots, each with its step in the last of its near slots."""

    def __init__(self, size: Size, device: torch.device) -> None:
        rows, heads, far, near, width, dtype = size
        draw = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, device=device, dtype=dtype)

        self.query, self.new = random(rows, heads, width), random(rows, 2, heads, width)
        self.cache, self.split = random(rows, 2, heads, far + near, width), far
        self.near = (
            torch.linspace(1, near, rows, device=device).round().long()
            if rows > 1
            else torch.tensor([near], device=device)
        )
        self.far = torch.randint(0, far + 1, (rows,), generator=draw, device=device)
        self.start = torch.zeros(rows, dtype=torch.bool, device=device)

    def run(self, name: str) -> Callable[[], Tensor]:
        """Return a step with a backend. It writes the same into the cache whenever it is run."""
        slot = self.split + self.near - 1

        def step() -> Tensor:
            with torch.no_grad():
                return decode_attention(
                    self.query, self.new, self.cache, slot, self.far, self.near, self.split, self.start, None, name
                )

        return step


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured."""
    for size in sizes(device, quick=quick):
        scene = Scene(size, device)
        names = [name for name in OP.backends if not OP.refusal(name, scene.query, width=size.width)]
        entries = int((scene.far + scene.near).sum()) * 2 * size.heads * size.width
        words = f"B={size.rows} H={size.heads} N={size.far}+{size.near} K={size.width}"
        yield Case(
            "decode_attention",
            f"{words}, {str(size.dtype).removeprefix('torch.')}",
            {name: scene.run(name) for name in names},
            _check(names, scene),
            bytes=(entries + 4 * scene.query.numel()) * size.dtype.itemsize,
            flops=2 * entries,
        )


def _check(names: list[str], scene: Scene) -> Callable[[], None]:
    def read(name: str, dtype: torch.dtype) -> Tensor:
        query, new, cache = (part[:CHECKED].to(dtype, copy=True) for part in (scene.query, scene.new, scene.cache))
        far, near, start = (part[:CHECKED] for part in (scene.far, scene.near, scene.start))
        with torch.no_grad():
            slot = scene.split + near - 1
            return decode_attention(query, new, cache, slot, far, near, scene.split, start, None, name)

    def check() -> None:
        want, dtype = read("reference", torch.float64), scene.query.dtype
        exact_products = dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
        for name in names:
            worst = float((read(name, dtype).double() - want).abs().max() / want.abs().max())
            if not worst <= (TOLERANCE[dtype] if exact_products else ROUNDED):
                raise AssertionError(f"{name}: what is read is off by {worst:.1e} of the largest number")

    return check
