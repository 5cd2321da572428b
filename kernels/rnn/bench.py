"""How fast recurrent networks are, forward and backward with 3 % resets, beside cuDNN's without any and TorchRL's.

Precisions: `bfloat16`; `tf32`, float32 with products in TF32, cuDNN's default; `float32`, products in float32 or near.

Shapes: T time, B rows, H inputs and hidden units, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...kernels import rnn
from ..measure import Case, Run

GATES = {"gru": 3, "lstm": 4, "slstm": 4, "elman": 1}
STATES = {"gru": 1, "lstm": 2, "slstm": 4, "elman": 1}
THEIRS: dict[str, Callable[[int, int], nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN}
PRECISIONS = {
    "bfloat16": (torch.bfloat16, "high"),
    "tf32": (torch.float32, "high"),
    "float32": (torch.float32, "highest"),
}
# Relative to the largest number compared.
TOLERANCE = {"bfloat16": 3e-2, "tf32": 1e-2, "float32": 1e-4}
CHECKED = 4
"""Rows that are compared with the definition."""


class Size(NamedTuple):
    """One size."""

    cell: str
    width: int
    batch: int
    time: int
    precision: str


TORCHRL = Size("gru", 128, 256, 128, "tf32")
"""Where TorchRL's kernels are measured too: they tune themselves for every width and every number of steps, which takes
the longer the wider they are, minutes from 256 units on."""


def sizes(device: torch.device, *, quick: bool) -> Iterator[Size]:
    """Yield the corners of widths 128 to 512, 256 to 4,096 rows and 64 to 512 steps; on a CPU what a CPU trains."""
    if device.type != "cuda":
        for cell in GATES:
            yield Size(cell, 64, 16, 64, "float32")
            yield Size(cell, 64, 512, 16, "float32")
        return
    if quick:
        yield Size("gru", 128, 256, 128, "tf32")
        yield Size("gru", 256, 1024, 64, "bfloat16")
        yield Size("gru", 256, 4096, 64, "bfloat16")
        yield Size("lstm", 512, 1024, 64, "bfloat16")
        return
    for cell in ("gru", "lstm"):
        for width, batch, time in ((128, 256, 64), (128, 256, 512), (128, 4096, 64), (256, 1024, 64), (512, 256, 64)):
            yield Size(cell, width, batch, time, "tf32")
        yield Size(cell, 512, 4096, 64, "tf32")
        for width, batch, time in ((128, 256, 512), (256, 1024, 64), (256, 4096, 64), (512, 1024, 64), (512, 4096, 64)):
            yield Size(cell, width, batch, time, "bfloat16")
        yield Size(cell, 128, 256, 512, "float32")
    yield Size("slstm", 256, 1024, 64, "bfloat16")
    yield Size("elman", 256, 1024, 64, "bfloat16")
    yield TORCHRL


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured."""
    for size in sizes(device, quick=quick):
        yield case(size, device, torchrl=size == TORCHRL and not quick)


def case(size: Size, device: torch.device, *, torchrl: bool = False) -> Case:
    """Make one case; with TorchRL's kernels beside it, if they can run."""
    cell, width, batch, time, precision = size
    dtype, _ = PRECISIONS[precision]
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device, generator=draw) * scale).to(dtype)

    x_TBH, d_y_TBH = normal(time, batch, width), normal(time, batch, width)
    start_TB = torch.rand(time, batch, device=device, generator=draw) < 0.03
    weights = [normal(GATES[cell] * width, width, scale=width**-0.5), normal(GATES[cell] * width, scale=0.1)]
    weights.append(normal(GATES[cell], 1, width, width, scale=width**-0.5))
    if cell == "gru":
        weights.append(normal(width, scale=0.1))
    leaves = [part.requires_grad_() for part in (x_TBH, *weights)]
    kernel: Callable[..., tuple[Tensor, ...]] = getattr(rnn, cell)

    def ours(backend: str, rows: int | None = None) -> tuple[Tensor, ...]:
        """Run forward and backward; with `rows`, of the first rows alone, and return outputs and gradients of these."""
        state = [x_TBH.new_zeros(batch, width, dtype=torch.float32 if backend == "triton" else dtype)] * STATES[cell]
        y_TBH, *_ = kernel(*leaves, *state, start_TB, backend=backend)
        d_y = d_y_TBH if rows is None else d_y_TBH.index_fill(1, torch.arange(rows, batch, device=device), 0.0)
        d_x_TBH, *d_weights = torch.autograd.grad(y_TBH, leaves, d_y.to(y_TBH.dtype))
        return y_TBH[:, :rows], d_x_TBH[:, :rows], *d_weights

    def definition(rows: int) -> tuple[Tensor, ...]:
        own = [part.detach()[:, :rows] if part is x_TBH else part.detach() for part in leaves]
        own = [part.double().requires_grad_() for part in own]
        state = [own[0].new_zeros(rows, width)] * STATES[cell]
        y_TBH, *_ = kernel(*own, *state, start_TB[:, :rows], backend="reference")
        return y_TBH, *torch.autograd.grad(y_TBH, own, d_y_TBH[:, :rows].double())

    backends = ["triton"] if device.type == "cuda" else [*(["loop"] if cell in ("lstm", "gru") else []), "reference"]

    def check() -> None:
        rows = min(CHECKED, batch)
        want = definition(rows)
        for backend in backends:
            got = _with_precision(precision, partial(ours, backend, rows))()
            for what, one, other in zip(("y", "d_x", "d_weight", "d_bias", "d_recurrent"), got, want, strict=False):
                error = ((one - other).abs().max() / other.abs().max()).item()
                if not error < TOLERANCE[precision]:
                    raise AssertionError(f"rnn: {backend}: {what} of {size} differs by {error:.1e} of the largest")

    peers = {}
    if cell in THEIRS:
        peers["torch.nn, no resets"] = _with_precision(precision, _theirs(THEIRS[cell], leaves, d_y_TBH))
    if torchrl and not rnn.OP.refusal("torchrl", x_TBH, cell=cell):
        peers["torchrl"] = _with_precision(precision, partial(ours, "torchrl"))
    return Case(
        "rnn",
        f"{cell} forward and backward, H={width} B={batch} T={time}, {precision}",
        {backend: _with_precision(precision, partial(ours, backend)) for backend in backends},
        check,
        peers,
        bytes=4 * x_TBH.numel() * x_TBH.element_size(),  # x and its gradient, y and its gradient
        flops=3 * 2 * time * batch * 2 * width * GATES[cell] * width,
    )


def _theirs(kind: Callable[[int, int], nn.RNNBase], leaves: list[Tensor], d_y_TBH: Tensor) -> Run:
    x_TBH = leaves[0]
    network = kind(x_TBH.shape[2], x_TBH.shape[2]).to(x_TBH.device, x_TBH.dtype)
    network.flatten_parameters()
    inputs = [x_TBH, *network.parameters()]
    return lambda: torch.autograd.grad(network(x_TBH)[0], inputs, d_y_TBH)


def _with_precision(precision: str, run: Run) -> Run:
    """Let a run have the precision of products, and nobody after it."""
    wanted = PRECISIONS[precision][1]

    def set_and_run() -> Any:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision(wanted)
        torch.backends.cudnn.allow_tf32 = wanted == "high"
        try:
            return run()
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    return set_and_run
