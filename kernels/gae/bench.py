"""How fast advantages and V-trace are, with 2 % ends by the rules and 2 % by the clock, beside TorchRL's functions.

Shapes: T time, B rows.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, gae, vtrace

GAMMA, LAM = 0.99, 0.95
CHECKED = 64
"""Rows that are compared with the definition."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[tuple[int, int]]:
    """Yield (T, B)."""
    if device.type != "cuda":
        yield 128, 256
        return
    yield 128, 4096
    yield 64, 16384
    if not quick:
        yield 1024, 1 << 20


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured."""
    for time, batch in sizes(device, quick=quick):
        draw = torch.Generator(device).manual_seed(0)
        numbers = [0.1 * torch.randn(time, batch, generator=draw, device=device) for _ in range(4)]
        terminated = torch.rand(time, batch, generator=draw, device=device) < 0.02
        done = terminated | (torch.rand(time, batch, generator=draw, device=device) < 0.02)
        window = [*numbers, terminated, done]
        large = time * batch >= 1 << 26
        peers = {} if large else _peers(window)
        # Three numbers and two flags are read, an advantage is written; for V-trace a number more each way.
        for words, function, per_step in (("advantages", _gae, 4 * 4 + 2), ("V-trace", _vtrace, 6 * 4 + 2)):
            ours: dict[str, Run] = {
                name: partial(function, window, name)
                for name in OP.backends
                if not OP.refusal(name, terminated) and (name == "triton" or not large)
            }
            check = partial(_check, function, window, list(ours))
            size = f"{words}, T={time} B={batch}, float32"
            yield Case("gae", size, ours, check, peers if function is _gae else {}, time * batch * per_step)


def _gae(window: list[Tensor], name: str) -> tuple[Tensor, ...]:
    _, reward, value, after, terminated, done = window
    return (gae(reward, value, after, terminated, done, GAMMA, LAM, name),)


def _vtrace(window: list[Tensor], name: str) -> tuple[Tensor, ...]:
    log_ratio, reward, value, after, terminated, done = window
    return vtrace(log_ratio, reward, value, after, terminated, done, GAMMA, LAM, backend=name)


def _check(function: Callable[[list[Tensor], str], tuple[Tensor, ...]], window: list[Tensor], names: list[str]) -> None:
    """Compare some rows with the definition: rows do not know of each other."""
    wants = function([part[:, :CHECKED] for part in window], "reference")
    for name in names:
        for got, want in zip(function(window, name), wants, strict=True):
            torch.testing.assert_close(got[:, :CHECKED], want, rtol=1e-4, atol=1e-4)


def _peers(window: list[Tensor]) -> dict[str, Run]:
    """Return TorchRL's function, rows first as it takes them."""
    if importlib.util.find_spec("torchrl") is None:
        return {}
    _, reward, value, after, terminated, done = (part.t().contiguous()[..., None] for part in window)

    def run() -> None:
        theirs = importlib.import_module("torchrl.objectives.value.functional").vec_generalized_advantage_estimate
        theirs(GAMMA, LAM, value, after, reward, done, terminated)

    return {"TorchRL vectorised": run}
