"""Recurrent networks whose whole loop over time is one launch, forward and backward.

What the gates receive from the inputs is one product for all steps, written into a buffer that the kernel of the
forward then fills with what the backward needs, and the kernel of the backward with the gradients of the gates; the
gradients of weights and inputs are products of that buffer again.

A program takes a block of rows and some units of a head through all steps. What it hears from the units of the step
before it reads back from the outputs, and the recurrent weights come from the cache on the chip. Where several programs
share the units of a head, they wait for each other once a step.

Shapes: T time, B rows, D input features, H hidden units, N heads, K = H / N units of a head, G gates, C columns of the
buffer for each unit, S parts of the state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backend import interpreted
from .plan import Plan, plan
from .triton_backward import rnn_backward_kernel
from .triton_forward import rnn_forward_kernel

RECOMPUTES = True


def refusal(like: Tensor, **_: Any) -> str | None:
    """Say why the kernels cannot run, or return None."""
    return "it computes in float32 or less, not in float64" if like.dtype == torch.float64 else None


class Cell(NamedTuple):
    """What the host knows of a cell."""

    gates: int
    """Gates that hear the units of the step before."""
    columns: int
    """Numbers of a unit in the buffer: gates and what else the backward needs."""
    states: int
    saved: int
    """Parts of the state, other than the outputs, that the backward needs of every step."""


CELLS = {"elman": Cell(1, 1, 1, 0), "gru": Cell(3, 4, 1, 0), "lstm": Cell(4, 4, 2, 1), "slstm": Cell(4, 4, 4, 3)}


def forward(
    cell: str,
    x_TBD: Tensor,
    input_weight: Tensor,
    bias_CH: Tensor,
    recurrent_GNKK: Tensor,
    start_TB: Tensor,
    state_SBH: Tensor,
    precision: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence; weights, inputs and outputs in the type of `x_TBD`, states and biases in float32.

    Returns:
        The outputs, preceded by the first hidden units (T + 1, B, H), the last state (S, B, H), and what the backward
        needs: the buffer (T, B, C H) and saved parts of the state.
    """
    (time, batch, width), (_, heads, units, _) = x_TBD.shape, recurrent_GNKK.shape
    kind, hidden = CELLS[cell], heads * units
    buffer = x_TBD.new_empty(time, batch, kind.columns * hidden)
    rows = buffer.view(time * batch, -1)[:, : len(input_weight)]
    torch.mm(x_TBD.reshape(-1, width), input_weight.t(), out=rows)
    y_TBH = x_TBD.new_empty(time + 1, batch, hidden)
    y_TBH[0] = state_SBH[0]
    saved = x_TBD.new_empty(kind.saved if save else 0, time + 1, batch, hidden)
    for part, first in zip(saved[:2], state_SBH[1:], strict=False):
        part[0] = first
    last_SBH = torch.empty_like(state_SBH)
    weight_NGKK = recurrent_GNKK.transpose(0, 1).contiguous()
    cut = plan(True, batch, heads, units, x_TBD.element_size(), x_TBD.device)
    tensors = (buffer, y_TBH, saved, weight_NGKK, bias_CH, start_TB, state_SBH, last_SBH)
    options = {"CELL": cell, "SAVE": save, "PRECISION": precision}
    _launch(rnn_forward_kernel, cut, tensors, recurrent_GNKK, start_TB, **options)
    return y_TBH, last_SBH, buffer, saved


def backward(
    cell: str,
    x_TBD: Tensor,
    input_weight: Tensor,
    recurrent_GNKK: Tensor,
    start_TB: Tensor,
    y_TBH: Tensor,
    buffer: Tensor,
    saved: Tensor,
    d_y_TBH: Tensor,
    d_last_SBH: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the recurrence backward; the buffer is overwritten.

    Returns:
        The gradients of inputs, input weights, biases (C H,), recurrent weights and first state.
    """
    (time, batch, width), (gates, heads, units, _) = x_TBD.shape, recurrent_GNKK.shape
    d_first_SBH = torch.empty_like(d_last_SBH)
    weight_NKGK = recurrent_GNKK.permute(1, 3, 0, 2).contiguous()
    cut = plan(False, batch, heads, units, x_TBD.element_size(), x_TBD.device)
    tensors = (buffer, y_TBH, saved, weight_NKGK, start_TB, d_y_TBH, d_last_SBH, d_first_SBH)
    _launch(rnn_backward_kernel, cut, tensors, recurrent_GNKK, start_TB, CELL=cell, PRECISION=precision)

    d_rows = buffer.view(time * batch, -1)
    d_bias = d_rows.sum(0, dtype=torch.float32)
    of_input, of_hidden = d_rows[:, : len(input_weight)], d_rows[:, -gates * heads * units :]
    before = torch.where(start_TB[..., None] != 0, 0.0, y_TBH[:-1]).view(time * batch, -1)
    if heads == 1:
        d_recurrent_GNKK = _mm(of_hidden.t(), before).view(gates, 1, units, units)
    else:
        of_hidden_GNKR = of_hidden.view(-1, gates, heads, units).permute(1, 2, 3, 0)
        before_NRK = before.view(-1, heads, units).transpose(0, 1)
        d_recurrent_GNKK = torch.stack([_mm(of_gate_NKR, before_NRK) for of_gate_NKR in of_hidden_GNKR])
    del before
    d_weight = _mm(of_input.t(), x_TBD.reshape(-1, width))
    d_x_TBD = (of_input @ input_weight).view(time, batch, width)
    return d_x_TBD, d_weight, d_bias, d_recurrent_GNKK, d_first_SBH


def _mm(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of matrices, or of each pair of two stacks of them, in float32."""
    if left.dtype == torch.float32 or not left.is_cuda:
        return left.float() @ right.float()
    product = torch.mm if left.ndim == 2 else torch.bmm
    return product(left, right, out_dtype=torch.float32)


def _launch(
    kernel: Any, cut: Plan, tensors: tuple[Tensor, ...], recurrent_GNKK: Tensor, start_TB: Tensor, **options: Any
) -> None:
    (_, heads, units, _), (time, batch) = recurrent_GNKK.shape, start_TB.shape
    splits, groups = -(-units // cut.units), -(-batch // cut.rows) * heads
    options |= {"HEADS": heads, "UNITS": units, "SPLITS": splits}
    options |= {"BLOCK_B": cut.rows, "BLOCK_U": cut.units, "BLOCK_K": cut.keys, "EARLY": cut.early}
    options |= {"num_warps": cut.warps, "num_stages": cut.stages}
    counters, at_once = start_TB, groups
    if splits > 1:
        # Programs that wait for each other must all be running: as many groups at once as the device holds. A counter
        # has 128 bytes to itself, so that those who look at it do not disturb others.
        options["launch_cooperative_grid"] = True
        counters = start_TB.new_zeros(groups * 32, dtype=torch.int32)
        at_once = _held(kernel, (*tensors, counters), start_TB.device, tuple(options.items())) // splits
    for first in range(0, groups, at_once):
        grid = (splits * min(at_once, groups - first),)
        kernel[grid](*tensors, counters, time, batch, first, **options)


HELD: dict[Any, int] = {}


def _held(kernel: Any, tensors: tuple[Tensor, ...], device: torch.device, options: tuple[tuple[str, Any], ...]) -> int:
    """Return how many programs of a kernel the device can run at once."""
    name = (id(kernel), tensors[0].dtype, device, options)
    if name not in HELD:
        made = kernel.warmup(*tensors, 16, 16, 0, grid=(1, 1, 1), **dict(options))
        made._init_handles()
        has = torch.cuda.get_device_properties(device)
        threads = made.metadata.num_warps * 32
        by_registers = getattr(has, "regs_per_multiprocessor", 65536) // (threads * (-(-made.n_regs // 8) * 8))
        by_memory = has.shared_memory_per_multiprocessor // (made.metadata.shared + 1024)
        by_threads = has.max_threads_per_multi_processor // threads
        HELD[name] = has.multi_processor_count * min(by_registers, by_memory, by_threads)
    return HELD[name]


class _RNN(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in `forward` and `backward`."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        recompute: bool,
        start_TB: Tensor,
        x_TBD: Tensor,
        input_weight: Tensor,
        bias_CH: Tensor,
        recurrent_GNKK: Tensor,
        state_SBH: Tensor,
    ) -> tuple[Tensor, Tensor]:
        precision = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        precision = "ieee" if interpreted() else precision
        save = any(ctx.needs_input_grad)
        given = (cell, x_TBD, input_weight, bias_CH, recurrent_GNKK, start_TB, state_SBH, precision)
        with torch.autocast(x_TBD.device.type, enabled=False):
            y_TBH, last_SBH, *kept = forward(*given, save and not recompute)
        ctx.cell, ctx.precision = cell, precision
        # Not saved tensors: the backward overwrites them, and a second backward makes them again.
        ctx.kept = kept if save and not recompute else None
        ctx.save_for_backward(x_TBD, input_weight, bias_CH, recurrent_GNKK, start_TB, state_SBH, y_TBH)
        return y_TBH[1:], last_SBH

    @staticmethod
    def backward(ctx: Any, d_y_TBH: Tensor, d_last_SBH: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "rnn: backend 'triton' is not twice differentiable (create_graph); use backend 'reference'"
            )
        x_TBD, input_weight, bias_CH, recurrent_GNKK, start_TB, state_SBH, y_TBH = ctx.saved_tensors
        given = (ctx.cell, x_TBD, input_weight, bias_CH, recurrent_GNKK, start_TB, state_SBH, ctx.precision)
        with torch.autocast(x_TBD.device.type, enabled=False):
            buffer, saved = ctx.kept or forward(*given, True)[2:]
            ctx.kept = None
            d_x, d_weight, d_bias, d_recurrent, d_first = backward(
                ctx.cell,
                x_TBD,
                input_weight,
                recurrent_GNKK,
                start_TB,
                y_TBH,
                buffer,
                saved,
                d_y_TBH.contiguous(),
                d_last_SBH.contiguous(),
                ctx.precision,
            )
        return None, None, None, d_x, d_weight, d_bias.view_as(bias_CH), d_recurrent, d_first


def _run(
    cell: str,
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    start_TB: Tensor,
    states: tuple[Tensor, ...],
    recompute: bool,
) -> tuple[Tensor, ...]:
    """Bring everything into the types and the order of the kernels."""
    device = x_TBD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TBD.dtype
    bias_CH = bias.float().view(CELLS[cell].columns, -1).contiguous()
    state_SBH = torch.stack([part.float() for part in states])
    start_TB = start_TB.contiguous().view(torch.uint8)
    y_TBH, last_SBH = _RNN.apply(
        cell, recompute, start_TB, x_TBD.to(dtype), input_weight.to(dtype), bias_CH, recurrent_GNKK.to(dtype), state_SBH
    )
    return y_TBH, *(part.to(first.dtype) for part, first in zip(last_SBH.unbind(), states, strict=True))


def lstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernels; see `mnemic.kernels.rnn.lstm`."""
    states = (hidden_BH, cell_BH)
    y_TBH, hidden_BH, cell_BH = _run("lstm", x_TBD, input_weight, bias, recurrent_GNKK, start_TB, states, recompute)
    return y_TBH, hidden_BH, cell_BH


def gru(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the kernels; see `mnemic.kernels.rnn.gru`."""
    # The buffer has n first, and at the end what n hears: so what comes from inputs and from units is in one piece.
    input_weight = input_weight.view(3, -1, input_weight.shape[1]).roll(1, 0).flatten(0, 1)
    bias = torch.cat([bias.view(3, -1).roll(1, 0).flatten(), recurrent_bias])
    y_TBH, hidden_BH = _run("gru", x_TBD, input_weight, bias, recurrent_GNKK, start_TB, (hidden_BH,), recompute)
    return y_TBH, hidden_BH


def slstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    normaliser_BH: Tensor,
    stabiliser_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the kernels; see `mnemic.kernels.rnn.slstm`."""
    states = (hidden_BH, cell_BH, normaliser_BH, stabiliser_BH)
    y_TBH, hidden_BH, cell_BH, normaliser_BH, stabiliser_BH = _run(
        "slstm", x_TBD, input_weight, bias, recurrent_GNKK, start_TB, states, recompute
    )
    return y_TBH, hidden_BH, cell_BH, normaliser_BH, stabiliser_BH


def elman(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the kernels; see `mnemic.kernels.rnn.elman`."""
    y_TBH, hidden_BH = _run("elman", x_TBD, input_weight, bias, recurrent_GNKK, start_TB, (hidden_BH,), recompute)
    return y_TBH, hidden_BH
