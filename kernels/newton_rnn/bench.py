"""How fast ParaGRU and ParaLSTM are with 3 % resets: the recurrence alone, and whole beside cuDNN's networks without any.

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
"""Relative to the largest number compared; with input weights float32 may be multiplied in TF32, for which ten times."""
CHECKED = 4
"""Rows that are compared with the definition."""


class Size(NamedTuple):
    """One size."""

    kind: str
    time: int
    batch: int
    width: int
    dtype: torch.dtype


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield what is measured; on a CPU what a CPU trains."""
    if device.type != "cuda":
        shapes = [(64, 64, 64)] if quick else [(64, 64, 64), (128, 16, 64), (64, 512, 64), (16, 1024, 64)]
    elif quick:
        shapes = [(128, 64, 64), (64, 4096, 256)]
    else:
        shapes = [(time, batch, 128) for time in (64, 128, 512, 1024) for batch in (32, 512)]
        shapes += [(time, 4096, 256) for time in (64, 128, 512)]
    for dtype in (torch.float32, torch.bfloat16)[: 2 if device.type == "cuda" else 1]:
        for time, batch, width in shapes:
            for kind in KERNELS:
                yield Size(kind, time, batch, width, dtype)


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured: of each size the recurrence and the whole, forward, and forward and backward."""
    for size in sizes(device, quick=quick):
        for whole in (False, True):
            for backward in (False, True):
                yield case(size, device, whole=whole, backward=backward)


def case(size: Size, device: torch.device, *, whole: bool, backward: bool) -> Case:
    """Make one case; `whole` with the products of inputs and input weights."""
    kind, time, batch, width, dtype = size
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
        want, got = (
            _with_gradients(outputs, backend, some, start_TB[:, :rows], d_y_TBH[:, :rows], double=double)
            for backend, double in (("reference", True), (backends[0], False))
        )
        for what, one, other in zip(("y", *(f"gradient {i}" for i in range(len(leaves)))), got, want, strict=True):
            error = ((one - other).abs().max() / other.abs().max()).item()
            if not error < TOLERANCE[dtype] * (10 if whole and device.type == "cuda" else 1):
                raise AssertionError(
                    f"newton_rnn: {backends[0]}: {what} of {size} differs by {error:.1e} of the largest"
                )

    asked = [name for name, backend in OP.backends.items() if name != "reference" and not OP.refusal(name, given)]
    backends = [name for name in asked if OP.backends[name].triton == (device.type == "cuda")]
    peers = {}
    if time * batch * width <= 1 << 22:
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


def _with_gradients(
    outputs: Callable[..., Tensor],
    backend: str,
    leaves: list[Tensor],
    start_TB: Tensor,
    d_y_TBH: Tensor,
    *,
    double: bool,
) -> list[Tensor]:
    """Return outputs and gradients, with `double` in float64."""
    own = [(part.double() if double else part.clone()).requires_grad_() for part in leaves]
    y_TBH = outputs(backend, own, start_TB)
    return [y_TBH, *torch.autograd.grad(y_TBH, own, d_y_TBH.to(y_TBH.dtype))]


def _theirs(kind: Callable[[int, int], nn.RNNBase], x_TBH: Tensor, d_y_TBH: Tensor | None) -> Run:
    network = kind(x_TBH.shape[2], x_TBH.shape[2]).to(x_TBH.device, x_TBH.dtype)
    network.flatten_parameters()

    def run() -> object:
        if d_y_TBH is None:
            with torch.no_grad():
                return network(x_TBH)[0]
        return torch.autograd.grad(network(x_TBH)[0], [x_TBH, *network.parameters()], d_y_TBH)

    return run
