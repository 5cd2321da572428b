"""ParaGRU and ParaLSTM with all steps of a window at once: Newton's method, each correction one linear scan.

The unknowns are the states of all steps. Guess them (as if every step followed a start), linearise every step where
the guess puts it, and solve the linear recurrence: that is one iteration, exact for linear cells, and for any cell
after T. Where a step still misses the next by more than the tolerance, the fast loop takes over, from there to the next
start: it looks at the result, for which a GPU must be waited for. The Triton kernels do all of it without.
What a step holds depends on nothing before its start, neither on how that was computed: forgetting is exact to the bit.
Source: Danieli et al. 2025, "ParaRNN" (arXiv 2510.21450), sections 2 and 3.
Shapes: T time, B rows, N heads, G = 3 gates, K units of a head, H = N K hidden units, P = 2 peepholes, I iterations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..linear_scan import linear_scan
from . import loop, scans
from .reference import gates

ITERATIONS = 3
WHOLE = sys.maxsize
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-6}
"""By how much a step may miss the next state, by the type of the computation."""


class Solved(NamedTuple):
    """What Newton's method found."""

    gates_TGBH: Tensor
    """The gates of every step, at the states found."""
    states: tuple[Tensor, ...]
    """The hidden units, and for a ParaLSTM the cell, of every step: (T, B, H) each."""
    residuals: list[Tensor]
    """By how much each step misses the next state, (T, B, H), after 0, 1, .. iterations."""


def solve_gru(
    gates_TGBH: Tensor, recurrent_GH: Tensor, hidden_BH: Tensor, start_TB: Tensor, iterations: int = ITERATIONS
) -> Solved:
    """Find the states of a ParaGRU; arguments as of `loop.gru_forward`."""
    z_in, r_in, n_in = gates_TGBH.unbind(1)
    a_z, a_r, a_n = recurrent_GH
    found, residuals = torch.sigmoid(z_in) * torch.tanh(n_in), []
    for iteration in range(iterations + 1):
        h = loop.before_each(hidden_BH, found, start_TB)
        z, r = torch.sigmoid(torch.addcmul(z_in, a_z, h)), torch.sigmoid(torch.addcmul(r_in, a_r, h))
        n = torch.tanh(torch.addcmul(n_in, a_n * h, r))
        after = torch.lerp(h, n, z)
        residuals.append((after - found).abs())
        if iteration < iterations:
            of_n = z * (1 - n * n) * a_n
            slope = 1 - z + (n - h) * z * (1 - z) * a_z + of_n * (r + h * r * (1 - r) * a_r)
            found, _ = linear_scan(slope, after - slope * h, hidden_BH, start_TB)
    return Solved(torch.stack([z, r, n], 1), (after,), residuals)


def solve_lstm(
    gates_TGBH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
) -> Solved:
    """Find the states of a ParaLSTM; arguments as of `loop.lstm_forward`."""
    f_in, o_in, n_in = gates_TGBH.unbind(1)
    (a_f, a_o, a_n), (p_f, p_o) = recurrent_GH, peephole_PH
    cells = (1 - torch.sigmoid(f_in)) * torch.tanh(n_in)
    found, residuals = torch.sigmoid(torch.addcmul(o_in, p_o, cells)) * torch.tanh(cells), []
    for iteration in range(iterations + 1):
        h, c = loop.before_each(hidden_BH, found, start_TB), loop.before_each(cell_BH, cells, start_TB)
        f, n = torch.sigmoid(f_in + a_f * h + p_f * c), torch.tanh(torch.addcmul(n_in, a_n, h))
        c_after = torch.lerp(n, c, f)
        o, squashed = torch.sigmoid(o_in + a_o * h + p_o * c_after), torch.tanh(c_after)
        h_after = o * squashed
        residuals.append(torch.maximum((h_after - found).abs(), (c_after - cells).abs()))
        if iteration < iterations:
            of_f, of_o = (c - n) * f * (1 - f), squashed * o * (1 - o)
            c_of_c, c_of_h = f + of_f * p_f, of_f * a_f + (1 - f) * (1 - n * n) * a_n
            h_of_c = o * (1 - squashed * squashed) + of_o * p_o
            a = (c_of_c, c_of_h, h_of_c * c_of_c, h_of_c * c_of_h + of_o * a_o)
            b = (c_after - a[0] * c - a[1] * h, h_after - a[2] * c - a[3] * h)
            cells, found = scans.blocks(a, b, (cell_BH, hidden_BH), start_TB)
    return Solved(torch.stack([f, o, n], 1), (h_after, c_after), residuals)


def missed(residual_TBH: Tensor, start_TB: Tensor, tolerance: float) -> Tensor:
    """Say which states cannot be trusted: from the first that is missed to the next start, (T, B, H)."""
    time_T11 = torch.arange(len(residual_TBH), device=residual_TBH.device)[:, None, None]
    # A residual that is NaN is not within the tolerance.
    worst_TBH = torch.where(residual_TBH <= tolerance, -1, time_T11).cummax(0).values
    return worst_TBH >= torch.where(start_TB[..., None], time_T11, 0).cummax(0).values


def _forward(
    solve: Callable[..., Solved],
    step_by_step: Callable[..., tuple[Tensor, ...]],
    iterations: int,
    tolerance: float | None,
    gates_TGBH: Tensor,
    *given: Tensor,
) -> tuple[Tensor, ...]:
    solved = solve(gates_TGBH, *given, iterations=iterations)
    tolerance = TOLERANCE[gates_TGBH.dtype] if tolerance is None else tolerance
    wrong_TBH = missed(solved.residuals[-1], given[-1], tolerance)
    if not wrong_TBH.any():
        return solved.gates_TGBH, *solved.states
    gates_TGBH, *states = step_by_step(gates_TGBH, *given)
    right = (torch.where(wrong_TBH, state, found) for state, found in zip(states, solved.states, strict=True))
    return torch.where(wrong_TBH[:, None], gates_TGBH, solved.gates_TGBH), *right


def _gru_totals(slope_TBH: Tensor, d_y_TBH: Tensor, d_last_BH: Tensor) -> Tensor:
    """Return what `loop.gru_totals` returns, by a scan in reverse."""
    passed = torch.cat([slope_TBH[1:], torch.ones_like(slope_TBH[:1])]).flip(0)
    never = torch.zeros(d_y_TBH.shape[:2], dtype=torch.bool, device=d_y_TBH.device)
    return linear_scan(passed, d_y_TBH.flip(0), d_last_BH, never)[0].flip(0)


def _lstm_totals(
    slopes: tuple[Tensor, Tensor, Tensor, Tensor], d_y_TBH: Tensor, d_last_BH: Tensor, d_last_cell_BH: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `loop.lstm_totals` returns, by a scan in reverse."""
    c_of_c, c_of_h, h_of_c, h_of_h = slopes
    through = (c_of_c, c_of_c * h_of_c, c_of_h, torch.addcmul(h_of_h, c_of_h, h_of_c))
    one, zero = torch.ones_like(d_y_TBH[:1]), torch.zeros_like(d_y_TBH[:1])
    ends = (one, zero, zero, one)
    a_cc, a_ch, a_hc, a_hh = (torch.cat([part[1:], end]).flip(0) for part, end in zip(through, ends, strict=True))
    never = torch.zeros(d_y_TBH.shape[:2], dtype=torch.bool, device=d_y_TBH.device)
    b = (torch.zeros_like(d_y_TBH), d_y_TBH.flip(0))
    cells, total = scans.blocks((a_cc, a_ch, a_hc, a_hh), b, (d_last_cell_BH, d_last_BH), never)
    return total.flip(0), cells.flip(0)


def para_gru(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    hidden_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Solve a window; like `reference.para_gru`.

    Args:
        given_TBNGK: like there.
        bias_GH: like there.
        recurrent_GH: like there.
        hidden_BH: like there.
        start_TB: like there.
        iterations: how often the guess is corrected.
        tolerance: by how much a step may miss the next state; None for `TOLERANCE`.
    """
    way = loop.Way(partial(_forward, solve_gru, loop.gru_forward, iterations, tolerance), _gru_totals, WHOLE)
    return loop.run_gru(way, given_TBNGK, bias_GH, recurrent_GH, hidden_BH, start_TB)


def para_lstm(
    given_TBNGK: Tensor,
    bias_GH: Tensor,
    recurrent_GH: Tensor,
    peephole_PH: Tensor,
    hidden_BH: Tensor,
    cell_BH: Tensor,
    start_TB: Tensor,
    iterations: int = ITERATIONS,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve a window; like `reference.para_lstm`, with the options of `para_gru`."""
    way = loop.Way(partial(_forward, solve_lstm, loop.lstm_forward, iterations, tolerance), _lstm_totals, WHOLE)
    given = (given_TBNGK, bias_GH, recurrent_GH, peephole_PH, hidden_BH, cell_BH, start_TB)
    return loop.run_lstm(way, *given)


@torch.no_grad()
def residuals(given_TBNGK: Tensor, bias_GH: Tensor, *weights_and_states: Tensor, iterations: int) -> Tensor:
    """Return the largest residual of a window after 0, 1, .. `iterations` iterations, (I + 1,)."""
    bias, *parts, _ = loop.computed([bias_GH, *weights_and_states[:-1], given_TBNGK[:0]])
    received = gates(given_TBNGK.to(bias.dtype), bias).transpose(0, 1)
    solve: Callable[..., Solved] = solve_gru if len(parts) == 2 else solve_lstm
    solved = solve(received, *parts, weights_and_states[-1], iterations=iterations)
    return torch.stack([residual.max() for residual in solved.residuals])
