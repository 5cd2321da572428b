"""How fast the delta rule is, with 3 % resets, beside flash-linear-attention's chunked kernels without any.

Shapes: T time, B rows, H heads, K width of keys and of values.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ..measure import Case, Run
from . import OP, delta_rule

CHECKED = 4
"""Rows that are compared with the definition."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared."""
NAMES = ["query", "key", "value", "beta", "log_decay", "state"]


class Size(NamedTuple):
    """One size of one rule: its name says which gates there are."""

    time: int
    batch: int
    heads: int
    width: int
    dtype: torch.dtype
    rule: str


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield what is measured; on a CPU what a CPU trains."""
    if device.type != "cuda":
        yield Size(64, 16, 4, 32, torch.float32, "gated delta")
        if not quick:
            yield Size(64, 16, 4, 32, torch.float32, "linear")
        return
    yield Size(128, 256, 4, 64, torch.bfloat16, "gated delta")
    if not quick:
        yield Size(1024, 32, 4, 128, torch.bfloat16, "gated delta")
        yield Size(128, 256, 4, 64, torch.float32, "gated delta")
        yield Size(64, 1024, 4, 64, torch.bfloat16, "linear")
        # Last and alone, beside a peer that tries many kernels before it runs the first time.
        yield Size(64, 1024, 4, 64, torch.bfloat16, "gated delta")


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: each size forward, and forward and backward."""
    for size in sizes(device, quick=quick):
        time, batch, heads, width, dtype, rule = size
        parts, start_TB, d_y = _inputs(size, device)
        peers = _peers(parts, d_y) if device.type == "cuda" and time == 64 and "gated" in rule else {}
        words = f"{rule}, T={time} B={batch} H={heads} K={width}, {str(dtype).removeprefix('torch.')}"
        steps = time * batch * heads
        whole, state = steps * width * dtype.itemsize, batch * heads * width**2 * 4
        gates = sum(parts[name] is not None for name in ("beta", "log_decay")) * steps * 4
        facts = {"key": width, "delta": parts["beta"] is not None, "by_key": False}
        ours = [name for name in OP.backends if not OP.refusal(name, d_y, **facts)]
        if device.type == "cuda":
            ours.remove("reference")
        check = functools.cache(_check(ours, parts, start_TB, d_y))
        for passes in ("forward", "forward and backward"):
            both = passes != "forward"
            # Backward reads the inputs and what comes back for y and the last state, and writes a gradient for each.
            bytes_ = 4 * whole + gates + 2 * state + both * (7 * whole + 2 * gates + 3 * state)
            yield Case(
                "delta_rule",
                f"{passes}, {words}",
                {name: _run(name, parts, start_TB, d_y if both else None) for name in ours},
                check,
                peers.get(passes, {}),
                bytes_,
                # Read, decay, erase and write, 2 K V each; backward twice that.
                (3 if both else 1) * steps * width**2 * (2 * sum(part is not None for part in parts.values()) - 4),
            )


def _inputs(size: Size, device: torch.device) -> tuple[dict[str, Tensor | None], Tensor, Tensor]:
    draw = torch.Generator(device).manual_seed(0)
    time, batch, heads, width, dtype, rule = size
    shape = (time, batch, heads, width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    parts = {
        "query": normalize(normal(*shape), dim=-1).to(dtype),
        "key": normalize(normal(*shape), dim=-1).to(dtype),
        "value": normal(*shape).to(dtype),
        "beta": 2 * normal(*shape[:3]).sigmoid() if "delta" in rule else None,
        "log_decay": logsigmoid(normal(*shape[:3]) + 4) if "gated" in rule else None,
        "state": normal(batch, heads, width, width),
    }
    start_TB = torch.rand(time, batch, generator=draw, device=device) < 0.03
    leaves = {name: None if part is None else part.requires_grad_() for name, part in parts.items()}
    return leaves, start_TB, normal(*shape).to(dtype)


def _call(name: str, parts: dict[str, Tensor | None], start_TB: Tensor) -> tuple[Tensor, Tensor]:
    query, key, value, beta, decay, state = (parts[each] for each in NAMES)
    assert query is not None
    assert key is not None
    assert value is not None
    assert state is not None
    return delta_rule(query, key, value, beta, decay, state, start_TB, name)


def _gradients(found: tuple[Tensor, Tensor], parts: dict[str, Tensor | None], d_y: Tensor) -> tuple[Tensor, ...]:
    leaves = [part for part in parts.values() if part is not None]
    return torch.autograd.grad(found, leaves, (d_y.to(found[0].dtype), torch.ones_like(found[1])))


def _run(name: str, parts: dict[str, Tensor | None], start_TB: Tensor, d_y: Tensor | None) -> Run:
    def run() -> None:
        with torch.set_grad_enabled(d_y is not None):
            found = _call(name, parts, start_TB)
        if d_y is not None:
            _gradients(found, parts, d_y)

    return run


def _check(names: list[str], parts: dict[str, Tensor | None], start_TB: Tensor, d_y: Tensor) -> Run:
    """Compare some rows with the definition: rows do not know of each other."""

    def results(name: str) -> tuple[Tensor, ...]:
        few = {
            each: None if part is None else (part[:CHECKED] if each == "state" else part[:, :CHECKED])
            for each, part in parts.items()
        }
        few = {each: None if part is None else part.detach().requires_grad_() for each, part in few.items()}
        found = _call(name, few, start_TB[:, :CHECKED])
        return *found, *_gradients(found, few, d_y[:, :CHECKED])

    def check() -> None:
        wants = results("reference")
        for name in names:
            with torch.no_grad():
                y = _call(name, parts, start_TB)[0][:, :CHECKED]
            for i, (got, want) in enumerate(zip((*results(name), y), (*wants, wants[0]), strict=True)):
                worst = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-9)
                if not worst < TOLERANCE[y.dtype]:
                    raise AssertionError(f"{name}: result {i} is off by {worst:.1e}")

    return check


def _peers(parts: dict[str, Tensor | None], d_y: Tensor) -> dict[str, dict[str, Run]]:
    """Return a peer, if it is installed, by what it does: on the same numbers, rows first.

    It refuses some GPUs with some versions of Triton, when it runs.
    """
    if importlib.util.find_spec("fla") is None:
        return {}

    def peer(**given: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule(
            **given
        )
        return found

    turned = {
        each: None if part is None else part.detach() if each == "state" else part.detach().transpose(0, 1).contiguous()
        for each, part in parts.items()
    }
    turned = {each: None if part is None else part.requires_grad_() for each, part in turned.items()}
    words = {"query": "q", "key": "k", "value": "v", "beta": "beta", "log_decay": "g", "state": "initial_state"}
    given: dict[str, Any] = {words[each]: part for each, part in turned.items() if part is not None}
    given |= {"scale": 1.0, "output_final_state": True}
    d_y = d_y.transpose(0, 1).contiguous()

    def forward() -> None:
        with torch.no_grad():
            peer(**given)

    def both() -> None:
        _gradients(peer(**given), turned, d_y)

    runs = {"forward": forward, "forward and backward": both}
    return {passes: {"flash-linear-attention": run} for passes, run in runs.items()}
