"""The gated unit in Triton: the projection is read once, forward and backward.

Shapes: R rows of all leading axes, F hidden width, G = 2 F.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def refusal(like: Tensor) -> str | None:
    """Say why the kernel cannot run, or return None."""
    if like.dtype == torch.float64:
        return "it does not compute in float64"
    return None


@triton.jit
def _place(width, BLOCK: tl.constexpr):
    """Return the numbers of a program in their row, and where the row begins."""
    return tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.program_id(0).to(tl.int64) * width


@triton.jit
def _forward(both, out, width, BLOCK: tl.constexpr):
    offset, begin = _place(width, BLOCK)
    inside = offset < width
    gate = tl.load(both + 2 * begin + offset, inside, other=0.0).to(tl.float32)
    up = tl.load(both + 2 * begin + width + offset, inside, other=0.0).to(tl.float32)
    tl.store(out + begin + offset, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), inside)


@triton.jit
def _backward(both, d_out, d_both, width, BLOCK: tl.constexpr):
    offset, begin = _place(width, BLOCK)
    inside = offset < width
    gate = tl.load(both + 2 * begin + offset, inside, other=0.0).to(tl.float32)
    up = tl.load(both + 2 * begin + width + offset, inside, other=0.0).to(tl.float32)
    d = tl.load(d_out + begin + offset, inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    d_gate = d * up * share * (1 + gate * (1 - share))
    tl.store(d_both + 2 * begin + offset, d_gate.to(d_both.dtype.element_ty), inside)
    tl.store(d_both + 2 * begin + width + offset, (d * gate * share).to(d_both.dtype.element_ty), inside)


def _grid(rows: int, width: int) -> tuple[int, int]:
    return rows, triton.cdiv(width, BLOCK)


class _GatedUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both_RG: Tensor) -> Tensor:
        rows, width = both_RG.shape[0], both_RG.shape[1] // 2
        out_RF = both_RG.new_empty(rows, width)
        _forward[_grid(rows, width)](both_RG, out_RF, width, BLOCK=BLOCK, num_warps=4)
        ctx.save_for_backward(both_RG)
        return out_RF

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out_RF: Tensor) -> Tensor:
        (both_RG,) = ctx.saved_tensors
        d_both_RG = torch.empty_like(both_RG)
        grid = _grid(*d_out_RF.shape)
        _backward[grid](both_RG, d_out_RF.contiguous(), d_both_RG, d_out_RF.shape[1], BLOCK=BLOCK, num_warps=4)
        return d_both_RG


def gated_unit(both_G: Tensor) -> Tensor:
    """Return what `reference.gated_unit` returns."""
    both_RG = both_G.reshape(-1, both_G.shape[-1]).contiguous()
    made: Tensor = _GatedUnit.apply(both_RG)
    return made.view(*both_G.shape[:-1], -1)
