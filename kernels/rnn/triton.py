"""Recurrent networks whose whole loop over time is one launch, forward and backward.

What the gates receive from the inputs is one product for all steps, written into a buffer that the kernel of the
forward then fills with what the backward needs, and the kernel of the backward with the gradients of the gates; the
gradients of weights and inputs are products of that buffer again.

A program takes a block of rows and some units of a head through all steps. What it hears from the units of the step
before it reads back from the outputs, and the recurrent weights come from the cache on the chip. Where several programs
share the units of a head, they wait for each other once a step: on a GPU of NVIDIA that is one launch of programs that
all run at once, and rows beyond those wait for the next.

Shapes: T time, B rows, D input features, H hidden units, N heads, K = H / N units of a head, G gates, C columns of the
buffer for each unit, S parts of the state.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
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


def in_order(
    cell: str, dtype: torch.dtype, input_weight: Tensor, bias: Tensor, recurrent_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return input weights and biases (C, H) in the types and the order of the kernels.

    Of a GRU n comes first, and what n hears last: so what comes from the inputs is in one piece, and what is heard.
    """
    if recurrent_bias is not None:
        units = len(recurrent_bias)
        input_weight = input_weight.to(dtype).roll(units, 0)
        bias = torch.cat([bias[-units:], bias[:-units], recurrent_bias])
    return input_weight.to(dtype), bias.float().contiguous().view(CELLS[cell].columns, -1)


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
    saved = x_TBD.new_empty(kind.saved if save else 0, time + 1, batch, hidden)
    last_SBH = torch.empty_like(state_SBH)
    weight_NGKK = recurrent_GNKK.transpose(0, 1).contiguous()
    cut = plan(cell, True, batch, heads, units, kind.gates, x_TBD.element_size(), precision, x_TBD.device)
    tensors = (buffer, y_TBH, saved, weight_NGKK, bias_CH, start_TB, state_SBH, last_SBH)
    _launch(rnn_forward_kernel, cut, tensors, heads, units, start_TB, CELL=cell, SAVE=save, PRECISION=precision)
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
    cut = plan(cell, False, batch, heads, units, gates, x_TBD.element_size(), precision, x_TBD.device)
    d_first_SBH, before_TBH = torch.empty_like(d_last_SBH), torch.empty_like(y_TBH[1:])
    d_bias = d_first_SBH.new_empty(-(-batch // cut.rows), CELLS[cell].columns * heads * units)
    weight_NKGK = recurrent_GNKK.permute(1, 3, 0, 2).contiguous()
    tensors = (buffer, y_TBH, saved, weight_NKGK, start_TB, d_y_TBH, d_last_SBH, d_first_SBH, d_bias, before_TBH)
    _launch(rnn_backward_kernel, cut, tensors, heads, units, start_TB, CELL=cell, PRECISION=precision)

    d_rows, before = buffer.view(time * batch, -1), before_TBH.view(time * batch, -1)
    of_input, of_hidden = d_rows[:, : len(input_weight)], d_rows[:, -gates * heads * units :]
    d_recurrent_GNKK = _recurrent_gradient(of_hidden, before, gates, heads)
    del tensors, before, before_TBH  # the gradient of the inputs may take its place
    d_weight = _mm(of_input.t(), x_TBD.reshape(-1, width))
    d_x_TBD = (of_input @ input_weight).view(time, batch, width)
    return d_x_TBD, d_weight, d_bias.sum(0), d_recurrent_GNKK, d_first_SBH


def _recurrent_gradient(of_hidden: Tensor, before: Tensor, gates: int, heads: int) -> Tensor:
    """Return (G, N, K, K) from the gradients of the gates (T B, G H), and the units that they heard (T B, H)."""
    units = before.shape[1] // heads
    if heads == 1:
        return _mm(of_hidden.t(), before).view(gates, 1, units, units)
    of_hidden_GNKR = of_hidden.view(-1, gates, heads, units).permute(1, 2, 3, 0)
    before_NRK = before.view(-1, heads, units).transpose(0, 1)
    return torch.stack([_mm(of_gate_NKR, before_NRK) for of_gate_NKR in of_hidden_GNKR])


def _mm(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of matrices, or of each pair of two stacks of them, in float32."""
    if left.dtype == torch.float32 or not left.is_cuda:
        return left.float() @ right.float()
    product = torch.mm if left.ndim == 2 else torch.bmm
    return product(left, right, out_dtype=torch.float32)


def _launch(
    kernel: Any,
    cut: Plan,
    tensors: tuple[Tensor, ...],
    heads: int,
    units: int,
    start_TB: Tensor,
    **options: Any,
) -> None:
    time, batch = start_TB.shape
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
        held = _held(kernel, (*tensors, counters), start_TB.device, tuple(options.items()))
        if held < splits:
            raise ValueError(
                f"rnn: {units} units of a head need {splits} programs at once, and this GPU holds {held}; "
                "use more heads, or backend 'loop'"
            )
        at_once = held // splits
    for first in range(0, groups, at_once):
        grid = (splits * min(at_once, groups - first),)
        kernel[grid](*tensors, counters, time, batch, first, **options)


HELD: dict[Any, int] = {}
"""Programs that a device can run at once, by kernel, types, device and options."""


def _held(kernel: Any, tensors: tuple[Tensor, ...], device: torch.device, options: tuple[tuple[str, Any], ...]) -> int:
    name = (kernel.fn, tensors[0].dtype, device, options)
    if name not in HELD:
        made = kernel.warmup(*tensors, 16, 16, 0, grid=(1, 1, 1), **dict(options))
        made._init_handles()
        has, warps = torch.cuda.get_device_properties(device), made.metadata.num_warps
        # A quarter of the registers for a quarter of the warps; a warp gets them by 256.
        registers = getattr(has, "regs_per_multiprocessor", 65536) // 4
        by_registers = registers // (-(-made.n_regs // 8) * 256) * 4 // warps
        by_memory = has.shared_memory_per_multiprocessor // (made.metadata.shared + 1024)
        by_threads = has.max_threads_per_multi_processor // (32 * warps)
        HELD[name] = has.multi_processor_count * min(by_registers, by_memory, by_threads)
    return HELD[name]


def _types_as_they_are(device: str) -> AbstractContextManager[Any]:
    """Return a context in which autocast changes no types; it costs time, so there is none where none is needed."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class _RNN(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in `forward` and `backward`."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        recompute: bool,
        dtype: torch.dtype,
        start_TB: Tensor,
        x_TBD: Tensor,
        input_weight: Tensor,
        bias: Tensor,
        recurrent_GNKK: Tensor,
        recurrent_bias: Tensor | None,
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        precision = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        precision = "ieee" if interpreted() else precision
        save = any(ctx.needs_input_grad)
        with _types_as_they_are(x_TBD.device.type):
            weight, bias_CH = in_order(cell, dtype, input_weight, bias, recurrent_bias)
            parts = [part.float() for part in states]
            state_SBH = torch.stack(parts) if len(parts) > 1 else parts[0].contiguous()[None]
            given = (cell, x_TBD.to(dtype), weight, bias_CH, recurrent_GNKK.to(dtype), start_TB, state_SBH, precision)
            y_TBH, last_SBH, *kept = forward(*given, save and not recompute)
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.precision = cell, precision
        ctx.types = [part.dtype for part in (x_TBD, input_weight, bias, recurrent_GNKK, *states)]
        # Not saved tensors: the backward overwrites them, and a second backward makes them again.
        ctx.kept = kept if save and not recompute else None
        ctx.save_for_backward(*given[1:7], y_TBH)
        return y_TBH[1:], *(last_SBH[k].to(first.dtype) for k, first in enumerate(states))

    @staticmethod
    def backward(ctx: Any, d_y_TBH: Tensor | None, *d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "rnn: backend 'triton' is not twice differentiable (create_graph); use backend 'reference'"
            )
        x_TBD, weight, bias_CH, recurrent_GNKK, start_TB, state_SBH, y_TBH = ctx.saved_tensors
        with _types_as_they_are(x_TBD.device.type):
            kept, ctx.kept = ctx.kept, None
            if kept is None:
                given = (ctx.cell, x_TBD, weight, bias_CH, recurrent_GNKK, start_TB, state_SBH, ctx.precision)
                kept = forward(*given, True)[2:]
            buffer, saved = kept
            d_y_TBH = torch.zeros_like(y_TBH[1:]) if d_y_TBH is None else d_y_TBH.to(y_TBH.dtype).contiguous()
            d_last_SBH = torch.zeros_like(state_SBH)
            for k, gradient in enumerate(d_last):
                if gradient is not None:
                    d_last_SBH[k] = gradient
            d_x_TBD, d_weight, d_bias, d_recurrent_GNKK, d_first_SBH = backward(
                ctx.cell,
                x_TBD,
                weight,
                recurrent_GNKK,
                start_TB,
                y_TBH,
                buffer,
                saved,
                d_y_TBH,
                d_last_SBH,
                ctx.precision,
            )
            d_recurrent_bias = None
            if ctx.cell == "gru":
                units = bias_CH.shape[1]
                d_weight, d_recurrent_bias = d_weight.roll(-units, 0), d_bias[-units:]
                d_bias = torch.cat([d_bias[units:-units], d_bias[:units]])
        gradients = (d_x_TBD, d_weight, d_bias, d_recurrent_GNKK, *d_first_SBH)
        d_x_TBD, d_weight, d_bias, d_recurrent_GNKK, *d_first = (
            gradient.to(kind) for gradient, kind in zip(gradients, ctx.types, strict=True)
        )
        if d_recurrent_bias is not None:
            d_recurrent_bias = d_recurrent_bias.to(d_bias.dtype)
        return None, None, None, None, d_x_TBD, d_weight, d_bias, d_recurrent_GNKK, d_recurrent_bias, *d_first


def _run(
    cell: str,
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor | None,
    states: tuple[Tensor, ...],
    start_TB: Tensor,
    recompute: bool,
) -> tuple[Tensor, ...]:
    device = x_TBD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TBD.dtype
    start_TB = start_TB.contiguous().view(torch.uint8)
    given = (cell, recompute, dtype, start_TB, x_TBD, input_weight, bias, recurrent_GNKK, recurrent_bias, *states)
    results: tuple[Tensor, ...] = _RNN.apply(*given)
    return results


def lstm(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, ...]:
    """Run the kernels; see `mnemic.kernels.rnn.lstm`."""
    states = (hidden_BH, cell_BH)
    return _run("lstm", x_TBD, input_weight, bias, recurrent_GNKK, None, states, start_TB, recompute)


def gru(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    recurrent_bias: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, ...]:
    """Run the kernels; see `mnemic.kernels.rnn.gru`."""
    return _run("gru", x_TBD, input_weight, bias, recurrent_GNKK, recurrent_bias, (hidden_BH,), start_TB, recompute)


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
) -> tuple[Tensor, ...]:
    """Run the kernels; see `mnemic.kernels.rnn.slstm`."""
    states = (hidden_BH, cell_BH, normaliser_BH, stabiliser_BH)
    return _run("slstm", x_TBD, input_weight, bias, recurrent_GNKK, None, states, start_TB, recompute)


def elman(
    x_TBD: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    recurrent_GNKK: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    recompute: bool = False,
) -> tuple[Tensor, ...]:
    """Run the kernels; see `mnemic.kernels.rnn.elman`."""
    return _run("elman", x_TBD, input_weight, bias, recurrent_GNKK, None, (hidden_BH,), start_TB, recompute)
