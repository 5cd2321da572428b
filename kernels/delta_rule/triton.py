"""The delta rule on a GPU: one pass over chunks of time, the memory on chip, resets at any step.

Inside a chunk the writes u solve a triangular system (I + A) u = r, the WY form of Yang et al. 2024, "Parallelizing
Linear Transformers with the Delta Rule over Sequence Length" (arXiv 2406.06484), section 3.2, with the decays of "Gated
Delta Networks" (arXiv 2412.06464), section 3.3. What does not need the memory is prepared for all chunks at once. Then
a program owns a head of a row, with all or a block of its value columns, and takes its chunks in order; the backward
pass takes them in reverse, from the memories before them that the forward pass kept.

Forgetting is exact: what was forgotten is selected away. Matrix products multiply it by 0 all the same, so steps with
an infinity or a NaN are taken out of them; outputs that such a step reaches are NaN.
Shapes: C steps of a chunk, J the same steps as keys, T time, B rows, H heads, K width of keys, V columns of values, N
chunks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend import interpreted
from .triton_backward import backward_kernel
from .triton_forward import forward_kernel, prepare_kernel, step_kernel

WIDEST = 128
"""The most keys of one memory on a chip."""


class Tiles(NamedTuple):
    """How the work is cut."""

    chunk: int
    """Steps of a chunk, in all passes."""
    prepare: int
    """Warps of a chunk alone."""
    forward: int
    forward_columns: int
    """Value columns of a program."""
    forward_stages: int
    backward: int
    backward_columns: int
    backward_stages: int


def _tiles(key: int, value: int, itemsize: int) -> Tiles:
    """Choose by size, without trying."""
    if max(key, value) <= 64:
        return Tiles(16, 1, 4, 64, 1, 4, 64, 1) if itemsize == 2 else Tiles(16, 2, 4, 64, 1, 8, 64, 1)
    return Tiles(32, 2, 4, 64, 1, 8, 128, 1) if itemsize == 2 else Tiles(16, 2, 4, 32, 1, 8, 64, 1)


class Inputs(NamedTuple):
    """What the kernels read; a gate that is left out is empty."""

    query_TBHK: Tensor
    key_TBHK: Tensor
    value_TBHV: Tensor
    beta_TBH: Tensor
    log_decay_TBH: Tensor
    state_BHKV: Tensor
    start_TB: Tensor


class Prepared(NamedTuple):
    """What chunks have for themselves. N chunks."""

    total_TBH: Tensor
    trial_TBH: Tensor
    attend_NBHCJ: Tensor
    inverse_NBHCJ: Tensor


class _Plan:
    """Sizes and constants of a call."""

    def __init__(self, inputs: Inputs) -> None:
        query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, _, _ = inputs
        self.steps, self.rows, self.heads, self.key = query_TBHK.shape
        self.value = value_TBHV.shape[3]
        self.delta, self.decay = beta_TBH.numel() > 0, log_decay_TBH.numel() > 0
        types = {query_TBHK.dtype, key_TBHK.dtype, value_TBHV.dtype}
        # The interpreter multiplies the bits of bfloat16 as if they were integers.
        half = None if interpreted() or len(types) > 1 or query_TBHK.dtype.itemsize > 2 else query_TBHK.dtype
        # In the type of the products: the backward pass sees what the forward pass saw.
        self.dtype = half or torch.float32
        self.tiles = _tiles(self.key, self.value, self.dtype.itemsize)
        self.chunks = triton.cdiv(self.steps, self.tiles.chunk)
        self.key_strides = [stride for part in (query_TBHK, key_TBHK) for stride in part.stride()[:3]]
        self.strides = [*self.key_strides, *value_TBHV.stride()[:3]]
        widest = self.tiles.chunk * max(*self.strides, self.rows * self.heads * max(self.key, self.value))
        exact = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        self.constants: dict[str, Any] = {
            "H": self.heads,
            "K": self.key,
            "DELTA": self.delta,
            "C": self.tiles.chunk,
            "BLOCK_K": max(16, triton.next_power_of_2(self.key)),
            "COMPUTE": {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[self.dtype],
            "PRECISION": exact,
            "INDEX": tl.int64 if widest >= 2**31 else tl.int32,
        }

    def columns(self, columns: int) -> tuple[int, dict[str, Any]]:
        """Return the blocks of value columns, and their constants."""
        block = max(16, triton.next_power_of_2(min(columns, self.value)))
        return triton.cdiv(self.value, block), {"V": self.value, "BLOCK_V": block, **self.constants}


def _prepare(plan: _Plan, inputs: Inputs) -> Prepared:
    query_TBHK, key_TBHK, _, beta_TBH, log_decay_TBH, state_BHKV, start_TB = inputs
    gates, chunk = (plan.steps, plan.rows, plan.heads), plan.tiles.chunk
    square = (plan.chunks, plan.rows, plan.heads, chunk, chunk)
    prepared = Prepared(
        state_BHKV.new_empty(gates, dtype=torch.float32),
        state_BHKV.new_empty(gates, dtype=torch.int32),
        state_BHKV.new_empty(square, dtype=plan.dtype),
        state_BHKV.new_empty(square if plan.delta else 0, dtype=plan.dtype),
    )
    prepare_kernel[(plan.chunks * plan.rows * plan.heads,)](
        query_TBHK, key_TBHK, beta_TBH, log_decay_TBH, start_TB, *prepared,
        plan.steps, plan.rows, *plan.key_strides, DECAY=plan.decay, LEVELS=chunk.bit_length() - 1,
        # As exact as TF32, and as fast as bfloat16; what it inverts is near 1.
        INVERSE=tl.float32 if plan.dtype == torch.float32 else tl.float16,
        **plan.constants, num_warps=plan.tiles.prepare,
    )  # fmt: skip
    return prepared


def _forward(plan: _Plan, inputs: Inputs, save: bool) -> tuple[Tensor, Tensor, Prepared, Tensor]:
    query_TBHK, key_TBHK, value_TBHV, beta_TBH, _, state_BHKV, _ = inputs
    prepared = _prepare(plan, inputs)
    blocks, constants = plan.columns(plan.tiles.forward_columns)
    y_TBHV = value_TBHV.new_empty(value_TBHV.shape)
    last_BHKV = torch.empty_like(state_BHKV)
    chunks_NBHKV = state_BHKV.new_empty((plan.chunks - 1 if save else 0, *state_BHKV.shape), dtype=plan.dtype)
    forward_kernel[(plan.rows * plan.heads * blocks,)](
        query_TBHK, key_TBHK, value_TBHV, beta_TBH, state_BHKV, *prepared, y_TBHV, last_BHKV, chunks_NBHKV,
        plan.steps, plan.rows, *plan.strides, SAVE=save,
        **constants, num_warps=plan.tiles.forward, num_stages=plan.tiles.forward_stages,
    )  # fmt: skip
    return y_TBHV, last_BHKV, prepared, chunks_NBHKV


def _step(plan: _Plan, inputs: Inputs) -> tuple[Tensor, Tensor]:
    _, _, value_TBHV, _, _, state_BHKV, _ = inputs
    y_TBHV = value_TBHV.new_empty(value_TBHV.shape)
    last_BHKV = torch.empty_like(state_BHKV)
    block_k, block_v = triton.next_power_of_2(plan.key), min(32, triton.next_power_of_2(plan.value))
    step_kernel[(plan.rows * plan.heads * triton.cdiv(plan.value, block_v),)](
        *inputs, y_TBHV, last_BHKV, *(part.stride(d) for part in inputs[:3] for d in (1, 2)),
        H=plan.heads, K=plan.key, V=plan.value, DELTA=plan.delta, DECAY=plan.decay,
        BLOCK_K=block_k, BLOCK_V=block_v, num_warps=4,
    )  # fmt: skip
    return y_TBHV, last_BHKV


def _backward(
    plan: _Plan, inputs: Inputs, prepared: Prepared, chunks_NBHKV: Tensor, dy_TBHV: Tensor, dlast_BHKV: Tensor
) -> tuple[Tensor, ...]:
    query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, state_BHKV, _ = inputs
    blocks, constants = plan.columns(plan.tiles.backward_columns)
    # Each block of columns has its own part of these.
    shared = [query_TBHK, key_TBHK, beta_TBH, log_decay_TBH]
    parts = [
        like.new_empty((blocks, *like.shape), dtype=like.dtype if blocks == 1 and like.ndim == 4 else torch.float32)
        for like in shared
    ]
    dvalue_TBHV = value_TBHV.new_empty(value_TBHV.shape)
    dstate_BHKV = torch.empty_like(state_BHKV)
    dquery, dkey, dbeta, ddecay = parts
    backward_kernel[(plan.rows * plan.heads * blocks,)](
        query_TBHK, key_TBHK, value_TBHV, beta_TBH, state_BHKV, *prepared, chunks_NBHKV, dy_TBHV, dlast_BHKV,
        dquery, dkey, dvalue_TBHV, dbeta, ddecay, dstate_BHKV,
        plan.steps, plan.rows, *plan.strides, DECAY=plan.decay,
        **constants, num_warps=plan.tiles.backward, num_stages=plan.tiles.backward_stages,
    )  # fmt: skip
    whole = [(part[0] if blocks == 1 else part.sum(0)).to(like.dtype) for part, like in zip(parts, shared, strict=True)]
    return whole[0], whole[1], dvalue_TBHV, whole[2], whole[3], dstate_BHKV


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        given = Inputs(*inputs)
        ctx.plan = _Plan(given)
        y_TBHV, last_BHKV, prepared, chunks_NBHKV = _forward(ctx.plan, given, save=True)
        ctx.save_for_backward(*inputs, *prepared, chunks_NBHKV)
        return y_TBHV, last_BHKV

    @staticmethod
    def backward(ctx: Any, dy_TBHV: Tensor, dlast_BHKV: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, prepared = Inputs(*saved[:7]), Prepared(*saved[7:11])
        grads = _backward(ctx.plan, inputs, prepared, saved[11], dy_TBHV.contiguous(), dlast_BHKV.contiguous())
        return *grads, None


def refusal(value_TBHV: Tensor, *, key: int = 1, delta: bool = True, by_key: bool = False) -> str | None:
    """Say why the kernels cannot run, or return None."""
    if value_TBHV.dtype == torch.float64:
        return "it computes in float32, and float64 came"
    if by_key:
        return "it has one decay for each head, and one for each key dimension came"
    if delta and key > WIDEST:
        return f"a memory of {key} keys is too large for a chip; {WIDEST} at most, or any number without beta"
    return None


def delta_rule(
    query_TBHK: Tensor,
    key_TBHK: Tensor,
    value_TBHV: Tensor,
    beta_TBH: Tensor | None,
    log_decay_TBH: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return what `reference.delta_rule` returns."""
    if query_TBHK.shape[3] > WIDEST:
        # Without beta, keys do not know of each other.
        cut = (part.split(WIDEST, d) for part, d in ((query_TBHK, 3), (key_TBHK, 3), (state_BHKV, 2)))
        parts = [
            delta_rule(query, key, value_TBHV, None, log_decay_TBH, state, start_TB)
            for query, key, state in zip(*cut, strict=True)
        ]
        y_TBHV = torch.stack([y.float() for y, _ in parts]).sum(0).to(value_TBHV.dtype)
        return y_TBHV, torch.cat([last for _, last in parts], 2)
    query_TBHK, key_TBHK, value_TBHV = (
        part if part.stride(-1) == 1 else part.contiguous() for part in (query_TBHK, key_TBHK, value_TBHV)
    )
    beta_TBH, log_decay_TBH = (
        state_BHKV.new_empty(0) if gate is None else gate.contiguous() for gate in (beta_TBH, log_decay_TBH)
    )
    start_TB = start_TB.contiguous().view(torch.uint8)
    inputs = Inputs(query_TBHK, key_TBHK, value_TBHV, beta_TBH, log_decay_TBH, state_BHKV.contiguous(), start_TB)
    if torch.is_grad_enabled() and any(part.requires_grad for part in inputs):
        y_TBHV, last_BHKV = _DeltaRule.apply(*inputs)
        return y_TBHV, last_BHKV
    plan = _Plan(inputs)
    if plan.steps == 1:
        return _step(plan, inputs)
    return _forward(plan, inputs, save=False)[:2]
