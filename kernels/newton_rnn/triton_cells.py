"""What the Triton kernels of this folder have in common: the two cells with their slopes, and what they load.

Shapes: L lanes (a lane is one unit of one row), S steps that are loaded together.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    # Wrong by one rounding of 1 at most, also near 0; the same as in the loop on the CPU.
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def gru_gates(z_in, r_in, n_in, h, a_z, a_r, a_n):
    z = sigmoid(z_in + a_z * h)
    r = sigmoid(r_in + a_r * h)
    n = tanh(n_in + a_n * h * r)
    return z, r, n


@triton.jit
def gru_slopes(z, r, n, h, a_z, a_r, a_n):
    """Return how much each gate's input moves the new state, and dh'/dh."""
    of_z = (n - h) * z * (1.0 - z)
    of_n = z * (1.0 - n * n)
    of_r = of_n * a_n * h * r * (1.0 - r)
    return of_z, of_r, of_n, 1.0 - z + of_z * a_z + of_n * a_n * r + of_r * a_r


@triton.jit
def lstm_gates(f_in, o_in, n_in, h, c, a_f, a_o, a_n, p_f, p_o):
    f = sigmoid(f_in + a_f * h + p_f * c)
    n = tanh(n_in + a_n * h)
    c = n + f * (c - n)
    o = sigmoid(o_in + a_o * h + p_o * c)
    return f, o, n, c


@triton.jit
def lstm_slopes(f, o, n, c_before, c, p_o):
    """Return by how much f and n move c', o moves h', c' moves h' in all, and tanh(c')."""
    of_f = (c_before - n) * f * (1.0 - f)
    of_n = (1.0 - f) * (1.0 - n * n)
    squashed = tanh(c)
    of_o = squashed * o * (1.0 - o)
    return of_f, of_o, of_n, o * (1.0 - squashed * squashed) + of_o * p_o, squashed


@triton.jit
def lanes(batch, units, per_head, g_b, g_n, LANES: tl.constexpr):
    """Return the lanes of this program, which exist, their rows and units, and where their inputs lie in a step."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = lane < batch * units
    row, unit = lane // units, lane % units
    return lane, inside, row, unit, row * g_b + (unit // per_head) * g_n + unit % per_head


@triton.jit
def load_gates(given, at, g_g, inside, TYPE: tl.constexpr):
    return (
        tl.load(given + at, inside, 0).to(TYPE),
        tl.load(given + at + g_g, inside, 0).to(TYPE),
        tl.load(given + at + 2 * g_g, inside, 0).to(TYPE),
    )


@triton.jit
def load_vectors(vectors, unit, units, inside, TYPE: tl.constexpr):
    return (
        tl.load(vectors + unit, inside, 0).to(TYPE),
        tl.load(vectors + units + unit, inside, 0).to(TYPE),
        tl.load(vectors + 2 * units + unit, inside, 0).to(TYPE),
    )


@triton.jit
def load_steps(numbers, at, t0, T, stride, inside, S: tl.constexpr):
    """Load one number of each lane at each of the steps from t0 on, (L, S), zeros where there is none."""
    t = tl.cast(t0, tl.int64) + tl.arange(0, S)
    here = inside[:, None] & ((t >= 0) & (t < T))[None, :]
    return tl.load(numbers + at[:, None] + t[None, :] * stride, here, 0)


@triton.jit
def columns(x_LS, L: tl.constexpr, S: tl.constexpr):
    """Return the S columns, of which there are 4 or 8: once on the chip, no step waits for another thread."""
    if S == 4:
        even, odd = tl.split(tl.reshape(x_LS, (L, 2, 2)))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        return x0, x1, x2, x3
    else:
        even, odd = tl.split(tl.reshape(x_LS, (L, 4, 2)))
        x04, x26 = tl.split(tl.reshape(even, (L, 2, 2)))
        x15, x37 = tl.split(tl.reshape(odd, (L, 2, 2)))
        x0, x4 = tl.split(x04)
        x1, x5 = tl.split(x15)
        x2, x6 = tl.split(x26)
        x3, x7 = tl.split(x37)
        return x0, x1, x2, x3, x4, x5, x6, x7
