"""How fast ParaGRU and ParaLSTM are with 3 % resets: the recurrence alone, and whole beside cuDNN's, without.

cuDNN's networks are there for scale: as wide, but with dense weights from state to state, so that they compute more.
Shapes: T time, B rows, H inputs and hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..measure import Case, Run
from . import OP, para_gru, para_lstm
from .reference import project

KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {"gru": para_gru, "lstm": para_lstm}
THEIRS: dict[str, Callable[[int, int], nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Relative to the largest number compared; ten times where float32 may be multiplied in TF32: with input weights."""
CHECKED = 16
"""Rows that are compared with the definition."""
FEW = 1 << 16
"""Lanes up to which a GPU is given Newton's method, and an eighth of the numbers up to which, the plain loop."""


class Size(NamedTuple):
    """One size."""

    kind: str
    time: int
    batch: int
    width: int
    dtype: torch.dtype
    whole: bool
    """With the products of inputs and input weights."""
    backward: bool
    """Forward and backward; else forward."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield what is measured: few lanes, where Newton's method could pay, and many; on a CPU what a CPU trains."""
    for kind in KERNELS:
        if device.type != "cuda":
            for batch in (64,) if quick else (16, 64, 512):
                yield Size(kind, 64, batch, 64, torch.float32, whole=True, backward=True)
            continue
        yield Size(kind, 128, 32, 128, torch.float32, whole=False, backward=True)
        yield Size(kind, 64, 4096, 256, torch.float32, whole=True, backward=True)
        if quick:
            continue
        yield Size(kind, 128, 32, 128, torch.float32, whole=False, backward=False)
        yield Size(kind, 1024, 32, 128, torch.float32, whole=False, backward=True)
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                yield Size(kind, 64, 4096, 256, dtype, whole=False, backward=backward)
        yield Size(kind, 64, 4096, 256, torch.bfloat16, whole=True, backward=True)


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured."""
    for size in sizes(device, quick=quick):
        yield case(size, device)


def case(size: Size, device: torch.device) -> Case:
    """Make one case."""
    kind, time, batch, width, dtype, whole, backward = size
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device, generator=draw) * scale).to(dtype).requires_grad_()

    small = 2 / (5 * width) ** 0.5
    x_TBH, weight = normal(time, batch, width), normal(3, 1, width, width, scale=width**-0.5)
    parts = [normal(3, width, scale=0.1), normal(3, width, scale=small)]
    parts += [normal(2, width, scale=small)] if kind == "lstm" else []
    states = [normal(batch, width) for _ in range(2 if kind == "lstm" else 1)]
    start_TB = torch.rand(time, batch, device=device, generator=draw) < 0.03
    d_y_TBH = torch.randn(time, batch, width, device=device, generator=draw).to(dtype)
    given = project(x_TBH.detach(), weight.detach()).detach().requires_grad_()
    leaves = [x_TBH, weight, *parts, *states] if whole else [given, *parts, *states]

    def outputs(backend: str, leaves: list[Tensor], start_TB: Tensor) -> Tensor:
        if whole:
            return KERNELS[kind](*leaves, start_TB, backend=backend)[0]
        y_TBH: Tensor = getattr(OP.pick(backend, leaves[0]), f"para_{kind}")(*leaves, start_TB)[0]
        return y_TBH

    def runs(backend: str) -> Run:
        def forward() -> Tensor:
            with torch.no_grad():
                return outputs(backend, leaves, start_TB)

        def both() -> tuple[Tensor, ...]:
            return torch.autograd.grad(outputs(backend, leaves, start_TB), leaves, d_y_TBH)

        return both if backward else forward

    def check() -> None:
        rows, alone = min(CHECKED, batch), len(leaves) - len(states)
        some = [part.detach()[:, :rows] if i == 0 else part.detach() for i, part in enumerate(leaves[:alone])]
        some += [part.detach()[:rows] for part in leaves[alone:]]

        def found(backend: str, *, double: bool) -> list[Tensor]:
            own = [(part.double() if double else part.clone()).requires_grad_() for part in some]
            y_TBH = outputs(backend, own, start_TB[:, :rows])
            return [y_TBH, *torch.autograd.grad(y_TBH, own, d_y_TBH[:, :rows].to(y_TBH.dtype))]

        want, names = found("reference", double=True), ("y", *(f"gradient {i}" for i in range(len(leaves))))
        for backend in backends:
            for what, one, other in zip(names, found(backend, double=False), want, strict=True):
                error = ((one - other).abs().max() / other.abs().max()).item()
                if not error < TOLERANCE[dtype] * (10 if whole and device.type == "cuda" else 1):
                    raise AssertionError(
                        f"newton_rnn: {backend}: {what} of {size} differs by {error:.1e} of the largest"
                    )

    backends = ["loop"]
    if device.type == "cuda":
        backends = ["triton", "triton_newton"] if batch * width <= FEW else ["triton"]
    peers = {}
    if device.type != "cuda" or time * batch * width <= 8 * FEW:
        peers["plain loop"] = runs("reference")
    if whole:
        peers["torch.nn, no resets"] = _theirs(THEIRS[kind], x_TBH, d_y_TBH if backward else None)
    numbers = x_TBH.numel() * x_TBH.element_size()
    moved = (2 if whole else 4) + (2 if whole else 8) * backward
    passes = "forward and backward" if backward else "forward"
    return Case(
        "newton_rnn",
        f"para{kind}{', with input weights' * whole}, {passes}, T={time} B={batch} H={width}, "
        + str(dtype).removeprefix("torch."),
        {backend: runs(backend) for backend in backends},
        check,
        peers,
        bytes=moved * numbers,
        flops=2 * 3 * width * x_TBH.numel() * (3 if backward else 1) * whole,
    )


def _theirs(kind: Callable[[int, int], nn.RNNBase], x_TBH: Tensor, d_y_TBH: Tensor | None) -> Run:
    network = kind(x_TBH.shape[2], x_TBH.shape[2]).to(x_TBH.device, x_TBH.dtype)
    network.flatten_parameters()

    def run() -> object:
        if d_y_TBH is None:
            with torch.no_grad():
                return network(x_TBH)[0]
        return torch.autograd.grad(network(x_TBH)[0], [x_TBH, *network.parameters()], d_y_TBH)

    return run
