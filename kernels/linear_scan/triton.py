"""The linear scan in Triton: channels across lanes, time in tiles, one pass over memory each way.

A program owns R rows and C columns. Where these channels are many on the whole, it walks step by step, and what keeps
the memory busy is the number of programs. Where they are few, it takes J steps at once, whose loads are all in flight,
and composes them by an associative scan; each lane owns one column, so that time lies in its registers and the scan
exchanges nothing between lanes (with fewer columns than lanes, a little).
A step is a triple (forgets, a, b); composing two selects and does not multiply by 0, so that nothing leaks.

Shapes: T time, B rows, D features, J steps of a tile, R rows and C columns of a program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import widest


@triton.jit
def _block(B, D, R: tl.constexpr, C: tl.constexpr):
    """Return the rows (R, 1) and the columns (1, C) of a program, and which of them there are."""
    across = tl.cdiv(D, C)
    row = (tl.program_id(0) // across).to(tl.int64) * R + tl.arange(0, R)[:, None]
    column = (tl.program_id(0) % across).to(tl.int64) * C + tl.arange(0, C)[None, :]
    return row, column, (row < B) & (column < D)


@triton.jit
def _load(pointer, offset, inside, COMPLEX: tl.constexpr, WIDE: tl.constexpr, SINGLE: tl.constexpr = False):
    """Return real and imaginary parts (twice the real part where numbers are real), 0 outside."""
    if COMPLEX and pointer.dtype.element_ty != tl.int64:
        both = tl.load(
            pointer + (2 * tl.expand_dims(offset, -1) + tl.arange(0, 2)), tl.expand_dims(inside, -1), other=0.0
        )
        real, imag = tl.split(both)
    else:
        at = pointer + offset
        if SINGLE:
            # Aligned to one number, no more, whatever is true: so that each lane takes one column, for all steps.
            at = tl.multiple_of(at, [1, 1, pointer.dtype.element_ty.primitive_bitwidth // 8])
        number = tl.load(at, inside, other=0)
        if COMPLEX:
            real = number.to(tl.int32).to(tl.float32, bitcast=True)
            imag = (number >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        else:
            real = number.to(WIDE)
            imag = real
    return real, imag


@triton.jit
def _store(pointer, offset, inside, real, imag, COMPLEX: tl.constexpr, SINGLE: tl.constexpr = False):
    if COMPLEX and pointer.dtype.element_ty != tl.int64:
        at = pointer + (2 * tl.expand_dims(offset, -1) + tl.arange(0, 2))
        tl.store(at, tl.join(real, imag), tl.expand_dims(inside, -1))
    else:
        at = pointer + offset
        if SINGLE:
            at = tl.multiple_of(at, [1, 1, pointer.dtype.element_ty.primitive_bitwidth // 8])
        if COMPLEX:
            low = real.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
            number = (imag.to(tl.int32, bitcast=True).to(tl.int64) << 32) | low
        else:
            number = real.to(pointer.dtype.element_ty)
        tl.store(at, number, inside)


@triton.jit
def _starts(start, t, row, start_t, start_b, inside, J: tl.constexpr, R: tl.constexpr):
    """Return which steps of t (J,) and rows (1, R, 1) start, as (J, R, 1); none where not `inside` (J,).

    The flags of a row are loaded once, not once per column, and reach the columns as the bits of one number.
    """
    step = tl.arange(0, J)
    if R == 1:
        flags = tl.load(start + (t * start_t + tl.sum(row) * start_b), inside, other=0).to(tl.int32)
        bits = tl.zeros([1, 1, 1], tl.int32) + tl.sum(flags << step)
    else:
        rows = tl.sum(tl.sum(row, 2), 0)[None, :]
        flags = tl.load(start + (t[:, None] * start_t + rows * start_b), inside[:, None], other=0).to(tl.int32)
        bits = tl.sum(flags << step[:, None], 0)[None, :, None]
    return (bits >> step[:, None, None]) & 1


@triton.jit
def _then(start, a, b, next_start, next_a, next_b):
    """Compose two real steps: the second forgets the first where it starts."""
    return (
        start | next_start,
        a * next_a,
        tl.where(next_start != 0, next_b, next_a * b + next_b),
    )


@triton.jit
def _then_complex(start, a, ai, b, bi, next_start, next_a, next_ai, next_b, next_bi):
    """Compose two complex steps."""
    forgets = next_start != 0
    return (
        start | next_start,
        a * next_a - ai * next_ai,
        a * next_ai + ai * next_a,
        tl.where(forgets, next_b, next_a * b - next_ai * bi + next_b),
        tl.where(forgets, next_bi, next_a * bi + next_ai * b + next_bi),
    )


@triton.jit
def _scan(start, a, ai, b, bi, h, hi, COMPLEX: tl.constexpr):
    """Run a tile of steps (J, R, C) from the state h (1, R, C); returns the state after each step."""
    start, _ = tl.broadcast(start, a)
    if COMPLEX:
        start, a, ai, b, bi = tl.associative_scan((start, a, ai, b, bi), 0, _then_complex)
        real = tl.where(start != 0, b, a * h - ai * hi + b)
        imag = tl.where(start != 0, bi, a * hi + ai * h + bi)
    else:
        start, a, b = tl.associative_scan((start, a, b), 0, _then)
        real = tl.where(start != 0, b, a * h + b)
        imag = real
    return real, imag


@triton.jit
def _last(tile, J: tl.constexpr):
    """Return the last step of a tile (J, R, C), as (1, R, C)."""
    at = tl.arange(0, J)[:, None, None] == J - 1
    return tl.sum(tl.where(at, tile, 0.0), 0, keep_dims=True)


@triton.jit
def _forward_tiles(
    a, b, h, start, y, last,
    T, B, D, a_t, a_b, a_d, b_t, b_b, b_d, start_t, start_b,
    J: tl.constexpr, R: tl.constexpr, C: tl.constexpr, SINGLE: tl.constexpr, COMPLEX: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Walk in tiles of J steps, whose loads are in flight at once: for few channels."""
    row, column, here = _block(B, D, R, C)
    row, column, here = row[None, :, :], column[None, :, :], here[None, :, :]
    there = tl.minimum(row, B - 1)
    zero = tl.zeros([1, 1, 1], tl.int64)  # what is added to it is as wide: offsets pass 2**31
    channel, N = row * D + column, (zero + B) * D
    a_at, b_at = row * a_b + column * a_d, row * b_b + column * b_d
    state, state_i = _load(h, channel, here, COMPLEX, WIDE)
    for first in range(0, T, J):
        when = first + tl.arange(0, J).to(tl.int64)
        t = when[:, None, None]
        inside = (t < T) & here
        a_tile, ai_tile = _load(a, t * a_t + a_at, inside, COMPLEX, WIDE, SINGLE)
        b_tile, bi_tile = _load(b, t * b_t + b_at, inside, COMPLEX, WIDE, SINGLE)
        starts = _starts(start, when, there, start_t, start_b, when < T, J, R)
        # Steps past the end keep the state: what the last row of the last tile holds is the state after T steps.
        a_tile = tl.where(t < T, a_tile, 1.0)
        real, imag = _scan(starts, a_tile, ai_tile, b_tile, bi_tile, state, state_i, COMPLEX)
        _store(y, t * N + channel, inside, real, imag, COMPLEX, SINGLE)
        state = _last(real, J)
        state_i = _last(imag, J) if COMPLEX else state
    _store(last, channel, here, state, state_i, COMPLEX)


@triton.jit
def _forward_steps(
    a, b, h, start, y, last,
    T, B, D, a_t, a_b, a_d, b_t, b_b, b_d, start_t, start_b,
    R: tl.constexpr, C: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Walk step by step, the next step's loads in flight: for many channels."""
    row, column, here = _block(B, D, R, C)
    zero = tl.zeros([1, 1], tl.int64)  # what is added to it is as wide: offsets pass 2**31
    channel, N = row * D + column, (zero + B) * D
    a_at, b_at, start_at = row * a_b + column * a_d, row * b_b + column * b_d, row * start_b
    state, state_i = _load(h, channel, here, COMPLEX, WIDE)
    a_now, ai_now = _load(a, a_at, here, COMPLEX, WIDE)
    b_now, bi_now = _load(b, b_at, here, COMPLEX, WIDE)
    starts = tl.load(start + start_at, row < B, other=0)
    for i in range(0, T):
        t = zero + i
        after, more = t + 1, here & (t + 1 < T)
        a_next, ai_next = _load(a, after * a_t + a_at, more, COMPLEX, WIDE)
        b_next, bi_next = _load(b, after * b_t + b_at, more, COMPLEX, WIDE)
        starts_next = tl.load(start + after * start_t + start_at, (row < B) & (t + 1 < T), other=0)
        keep = starts == 0
        if COMPLEX:
            real = tl.where(keep, a_now * state - ai_now * state_i, 0.0) + b_now
            state_i = tl.where(keep, a_now * state_i + ai_now * state, 0.0) + bi_now
            state = real
        else:
            state = tl.where(keep, a_now * state, 0.0) + b_now
            state_i = state
        _store(y, t * N + channel, here, state, state_i, COMPLEX)
        a_now, ai_now, b_now, bi_now, starts = a_next, ai_next, b_next, bi_next, starts_next
    _store(last, channel, here, state, state_i, COMPLEX)


@triton.jit
def _backward_tiles(
    a, h, start, y, d_y, d_last, d_a, d_b, d_h,
    T, B, D, a_t, a_b, a_d, y_t, y_b, y_d, start_t, start_b,
    J: tl.constexpr, R: tl.constexpr, C: tl.constexpr, SINGLE: tl.constexpr, SUM: tl.constexpr,
    COMPLEX: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Walk back in tiles: g[t] = d_y[t] + conj(a[t+1]) g[t+1], and 0 in place of g[t+1] at a start.

    With SUM, the gradient to `a` is added up over time, for an `a` that is the same at every step.
    """
    row, column, here = _block(B, D, R, C)
    row, column, here = row[None, :, :], column[None, :, :], here[None, :, :]
    there = tl.minimum(row, B - 1)
    zero = tl.zeros([1, 1, 1], tl.int64)
    channel, N = row * D + column, (zero + B) * D
    a_at, d_at = row * a_b + column * a_d, row * y_b + column * y_d
    if d_last is not None:
        g, gi = _load(d_last, channel, here, COMPLEX, WIDE)
    else:
        g = tl.zeros([1, R, C], WIDE)
        gi = g
    h_real, h_imag = _load(h, channel, here, COMPLEX, WIDE)
    total = tl.zeros([1, R, C], WIDE)
    total_i = total
    for first in range(0, T, J):
        when = (T - 1 - first) - tl.arange(0, J).to(tl.int64)
        t = when[:, None, None]
        inside, follows, follows_h = (t >= 0) & here, (t >= 0) & (t < T - 1) & here, (t > 0) & here
        a_next, ai_next = _load(a, (t + 1) * a_t + a_at, follows, COMPLEX, WIDE, SINGLE)
        a_next = tl.where((t >= 0) & (t < T - 1), a_next, 1.0)
        d_tile, di_tile = _load(d_y, t * y_t + d_at, inside, COMPLEX, WIDE, SINGLE)
        starts_next = _starts(start, when + 1, there, start_t, start_b, (when >= 0) & (when < T - 1), J, R)
        g_tile, gi_tile = _scan(starts_next, a_next, -ai_next, d_tile, di_tile, g, gi, COMPLEX)
        _store(d_b, t * N + channel, inside, g_tile, gi_tile, COMPLEX, SINGLE)
        g = _last(g_tile, J)
        gi = _last(gi_tile, J) if COMPLEX else g
        if d_a is not None:
            starts = _starts(start, when, there, start_t, start_b, when >= 0, J, R)
            before, before_i = _load(y, (t - 1) * N + channel, follows_h, COMPLEX, WIDE, SINGLE)
            before = tl.where(t == 0, h_real, before)
            if COMPLEX:
                before_i = tl.where(t == 0, h_imag, before_i)
                real, imag = before * g_tile + before_i * gi_tile, before * gi_tile - before_i * g_tile
            else:
                real = before * g_tile
                imag = real
            counts = (starts == 0) & inside
            real, imag = tl.where(counts, real, 0.0), tl.where(counts, imag, 0.0)
            if SUM:
                total += tl.sum(real, 0, keep_dims=True)
                total_i += tl.sum(imag, 0, keep_dims=True)
            else:
                _store(d_a, t * N + channel, inside, real, imag, COMPLEX, SINGLE)
    if SUM and d_a is not None:
        _store(d_a, channel, here, total, total_i, COMPLEX)
    if d_h is not None:
        a_first, ai_first = _load(a, a_at, here, COMPLEX, WIDE)
        forgets = tl.load(start + row * start_b, row < B, other=1) != 0
        if COMPLEX:
            real, imag = a_first * g + ai_first * gi, a_first * gi - ai_first * g
        else:
            real = a_first * g
            imag = real
        _store(d_h, channel, here, tl.where(forgets, 0.0, real), tl.where(forgets, 0.0, imag), COMPLEX)


@triton.jit
def _backward_steps(
    a, h, start, y, d_y, d_last, d_a, d_b, d_h,
    T, B, D, a_t, a_b, a_d, y_t, y_b, y_d, start_t, start_b,
    R: tl.constexpr, C: tl.constexpr, SUM: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Walk back step by step: what comes back to h[t-1] is conj(a[t]) g[t], or 0 where t starts."""
    row, column, here = _block(B, D, R, C)
    zero = tl.zeros([1, 1], tl.int64)  # what is added to it is as wide: offsets pass 2**31
    channel, N = row * D + column, (zero + B) * D
    a_at, d_at, start_at = row * a_b + column * a_d, row * y_b + column * y_d, row * start_b
    if d_last is not None:
        back, back_i = _load(d_last, channel, here, COMPLEX, WIDE)
    else:
        back = tl.zeros([R, C], WIDE)
        back_i = back
    h_real, h_imag = _load(h, channel, here, COMPLEX, WIDE)
    total = tl.zeros([R, C], WIDE)
    total_i = total
    final = zero + (T - 1)
    a_now, ai_now = _load(a, final * a_t + a_at, here, COMPLEX, WIDE)
    d_now, di_now = _load(d_y, final * y_t + d_at, here, COMPLEX, WIDE)
    before, before_i = _load(y, (final - 1) * N + channel, here & (T > 1), COMPLEX, WIDE)
    starts = tl.load(start + final * start_t + start_at, row < B, other=0)
    for i in range(0, T):
        t = final - i
        more = here & (t > 0)
        a_next, ai_next = _load(a, (t - 1) * a_t + a_at, more, COMPLEX, WIDE)
        d_next, di_next = _load(d_y, (t - 1) * y_t + d_at, more, COMPLEX, WIDE)
        before_next, before_i_next = _load(y, (t - 2) * N + channel, here & (t > 1), COMPLEX, WIDE)
        starts_next = tl.load(start + (t - 1) * start_t + start_at, (row < B) & (t > 0), other=0)
        keep = starts == 0
        g, gi = d_now + back, di_now + back_i
        _store(d_b, t * N + channel, here, g, gi, COMPLEX)
        before = tl.where(t == 0, h_real, before)
        if COMPLEX:
            before_i = tl.where(t == 0, h_imag, before_i)
            back = tl.where(keep, a_now * g + ai_now * gi, 0.0)
            back_i = tl.where(keep, a_now * gi - ai_now * g, 0.0)
            real = tl.where(keep, before * g + before_i * gi, 0.0)
            imag = tl.where(keep, before * gi - before_i * g, 0.0)
        else:
            back = tl.where(keep, a_now * g, 0.0)
            back_i = back
            real = tl.where(keep, before * g, 0.0)
            imag = real
        if SUM:
            total += real
            total_i += imag
        elif d_a is not None:
            _store(d_a, t * N + channel, here, real, imag, COMPLEX)
        a_now, ai_now, d_now, di_now = a_next, ai_next, d_next, di_next
        before, before_i, starts = before_next, before_i_next, starts_next
    if SUM and d_a is not None:
        _store(d_a, channel, here, total, total_i, COMPLEX)
    if d_h is not None:
        _store(d_h, channel, here, back, back_i, COMPLEX)


class Walk(NamedTuple):
    """How a program walks over time: its rows and columns, the steps that it takes at once, and its warps."""

    rows: int
    columns: int
    steps: int
    warps: int
    single: bool = False
    """Lanes own one column each, not as many as one load takes."""


MANY = 1 << 19
"""From this many channels on, one step at a time keeps a GPU's memory busy."""


def _above(number: int) -> int:
    """Return the next power of 2, sooner than Triton says it."""
    return 1 << (number - 1).bit_length()


def walk(steps: int, batch: int, width: int, size: int) -> Walk:
    """Choose by the sizes, and the bytes of a number."""
    channels = batch * width
    if channels >= MANY or steps == 1:
        most, warps = {2: (256, 1), 4: (256, 2)}.get(size, (64, 2))
        columns = min(most, _above(width))
        return Walk(most // columns, columns, 1, warps)
    columns = min(32, _above(width))
    rows = min(32 // columns, _above(batch))
    # The fewer the channels, the more of a program's time is waiting: it asks for more at once, as registers allow.
    most = 32 if channels <= 1 << 13 and size <= 4 else 16
    return Walk(rows, columns, min(most, _above(steps)), 1, True)


def forward(a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states after each step and after the last; `a` has the shape of `b`, of any strides."""
    y_TBD = torch.empty(b_TBD.shape, dtype=b_TBD.dtype, device=b_TBD.device)
    last_BD = torch.empty(h_BD.shape, dtype=h_BD.dtype, device=h_BD.device)
    if not h_BD.numel():
        return y_TBD, last_BD
    steps, batch, width = b_TBD.shape
    kind = {"COMPLEX": b_TBD.is_complex(), "WIDE": _WIDE[widest(a_TBD, b_TBD, h_BD)]}
    tensors = *map(_plain, (a_TBD, b_TBD, h_BD)), start_TB.view(torch.uint8), _plain(y_TBD), _plain(last_BD)
    strides = *a_TBD.stride(), *b_TBD.stride(), *start_TB.stride()
    by = walk(steps, batch, width, b_TBD.element_size())
    grid = (-(-batch // by.rows) * -(-width // by.columns),)
    block = {"R": by.rows, "C": by.columns, "num_warps": by.warps}
    tile = {"J": by.steps, "SINGLE": by.single}
    if by.steps == 1:
        _forward_steps[grid](*tensors, steps, batch, width, *strides, **block, **kind)
    else:
        _forward_tiles[grid](*tensors, steps, batch, width, *strides, **tile, **block, **kind)
    return y_TBD, last_BD


def backward(
    a_TBD: Tensor,
    h_BD: Tensor,
    start_TB: Tensor,
    y_TBD: Tensor,
    d_y_TBD: Tensor,
    d_last_BD: Tensor | None,
    *,
    of_a: bool,
    of_h: bool,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the gradients to `a` (in its own shape: over its sizes of 1 they are summed up), to `b` and to `h`."""
    steps, batch, width = y_TBD.shape
    d_b_TBD = torch.empty_like(y_TBD)
    d_h_BD = torch.empty_like(h_BD) if of_h else None
    constant = len(a_TBD) == 1 < steps
    d_a = None
    if of_a:
        # What is still to be summed up is kept in float32 at least.
        wide = torch.promote_types(a_TBD.dtype, torch.float32)
        dtype = a_TBD.dtype if a_TBD.shape == y_TBD.shape else wide
        d_a = torch.empty((1 if constant else steps, batch, width), dtype=dtype, device=a_TBD.device)
    if h_BD.numel():
        each_a = a_TBD.expand(y_TBD.shape)
        kind = {"SUM": constant, "COMPLEX": y_TBD.is_complex(), "WIDE": _WIDE[widest(a_TBD, y_TBD, h_BD)]}
        given = *map(_plain, (each_a, h_BD)), start_TB.view(torch.uint8), *map(_plain, (y_TBD, d_y_TBD, d_last_BD))
        tensors = *given, *map(_plain, (d_a, d_b_TBD, d_h_BD))
        strides = *each_a.stride(), *d_y_TBD.stride(), *start_TB.stride()
        by = walk(steps, batch, width, y_TBD.element_size())
        grid = (-(-batch // by.rows) * -(-width // by.columns),)
        block = {"R": by.rows, "C": by.columns, "num_warps": by.warps}
        tile = {"J": by.steps, "SINGLE": by.single}
        if by.steps == 1:
            _backward_steps[grid](*tensors, steps, batch, width, *strides, **block, **kind)
        else:
            _backward_tiles[grid](*tensors, steps, batch, width, *strides, **tile, **block, **kind)
    if d_a is not None:
        d_a = d_a.sum_to_size(a_TBD.shape).to(a_TBD.dtype)
    return d_a, d_b_TBD, d_h_BD


def _plain(x: Tensor | None) -> Tensor | None:
    """Return complex numbers as Triton takes them: two of 32 bits as one of 64, of 64 bits as pairs."""
    if x is None or not x.is_complex():
        return x
    return x.view(torch.int64) if x.dtype == torch.complex64 else torch.view_as_real(x)


_WIDE = {
    torch.float32: tl.float32,
    torch.complex64: tl.float32,
    torch.float64: tl.float64,
    torch.complex128: tl.float64,
}


class _LinearScan(torch.autograd.Function):
    """Bookkeeping only: the mathematics is in `forward` and `backward`."""

    @staticmethod
    def forward(ctx: Any, a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
        y_TBD, last_BD = forward(a_TBD.expand(b_TBD.shape), b_TBD, h_BD, start_TB)
        ctx.save_for_backward(a_TBD, h_BD, start_TB, y_TBD)
        ctx.set_materialize_grads(False)
        return y_TBD, last_BD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y_TBD: Tensor | None, d_last_BD: Tensor | None) -> tuple[Tensor | None, ...]:
        a_TBD, h_BD, start_TB, y_TBD = ctx.saved_tensors
        if d_y_TBD is None:
            d_y_TBD = y_TBD.new_zeros(()).expand(y_TBD.shape)
        d_y_TBD = d_y_TBD.resolve_conj()
        if d_last_BD is not None:
            d_last_BD = d_last_BD.resolve_conj().contiguous()
        of_a, of_b, of_h, _ = ctx.needs_input_grad
        d_a, d_b, d_h = backward(a_TBD, h_BD, start_TB, y_TBD, d_y_TBD, d_last_BD, of_a=of_a, of_h=of_h)
        return d_a, d_b if of_b else None, d_h, None


def linear_scan(a_TBD: Tensor, b_TBD: Tensor, h_BD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `reference.linear_scan` returns."""
    a_TBD, b_TBD, h_BD = a_TBD.resolve_conj(), b_TBD.resolve_conj(), h_BD.resolve_conj().contiguous()
    if not torch.is_grad_enabled():
        return forward(a_TBD.expand(b_TBD.shape), b_TBD, h_BD, start_TB)
    y_TBD, last_BD = _LinearScan.apply(a_TBD, b_TBD, h_BD, start_TB)
    return y_TBD, last_BD
