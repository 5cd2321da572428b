"""How long each unit holds what it holds, in steps: half-lives from what units do, and from how open gates are.

By regression. With h the value of a unit less its mean, the share of a deviation that is left after s steps is the
slope r(s) = sum h[t] h[t+s] / sum h[t]^2 over all pairs of moments s steps apart in one trial. The half-life is the
first s at which r(s) is 1/2, on straight lines through log r between the s that are looked at (through r where it is
not above 0). For h[t+1] = a h[t] + noise, r(s) = a^s, so the half-life is log(1/2) / log(a). It is a slope and no
correlation, since a decay without noise is correlated with itself at any distance.

By gates. A unit of which a step keeps the share f on average of log f has the half-life log(1/2) / mean log f.

Shapes: T steps, B rows, U units, S distances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .curves import edges

LEAST_PAIRS = 32
"""That a distance needs."""


@dataclass(frozen=True)
class HalfLives:
    """The half-lives of the units of one thing."""

    name: str
    steps_U: NDArray[np.float64]
    """Of the units that vary; infinite where half is left at the longest distance."""
    longest: int | None
    """The longest distance that trials allowed; None: half-lives of gates have no such limit."""
    still: int = 0
    """Units that do not vary."""

    @property
    def median(self) -> float:
        """The median; infinite where most units outlast what can be seen, NaN where no unit varies."""
        return float(np.median(self.steps_U)) if len(self.steps_U) else math.nan


def by_regression(name: str, unit_TBU: Tensor, starts_TB: NDArray[np.bool_]) -> HalfLives:
    """Return half-lives from the values of units; numbers that are not finite count as the unit's mean."""
    unit_TBU = unit_TBU.double()
    finite_TBU = unit_TBU.isfinite()
    count_U = finite_TBU.sum((0, 1)).clamp(min=1)
    middle_U = torch.where(finite_TBU, unit_TBU, 0.0).sum((0, 1)) / count_U
    h_TBU = torch.where(finite_TBU, unit_TBU - middle_U, 0.0)
    varies_U = h_TBU.square().mean((0, 1)).sqrt() > 1e-6 * (1 + middle_U.abs())
    h_TBU, trial_TB = h_TBU[..., varies_U], torch.from_numpy(np.cumsum(starts_TB, 0))
    distances, slopes = [0], [torch.ones(h_TBU.shape[-1], dtype=torch.float64)]
    for distance in edges(len(trial_TB) - 1)[1:]:
        if distance >= len(trial_TB):
            break
        pair_TB1 = (trial_TB[distance:] == trial_TB[:-distance])[..., None]
        if int(pair_TB1.sum()) < LEAST_PAIRS:
            break
        before_TBU, after_TBU = h_TBU[:-distance] * pair_TB1, h_TBU[distance:]
        slopes.append((before_TBU * after_TBU).sum((0, 1)) / before_TBU.square().sum((0, 1)).clamp(min=1e-30))
        distances.append(distance)
    still = int((~varies_U).sum())
    return HalfLives(name, crossings(np.array(distances), torch.stack(slopes).numpy()), distances[-1], still)


def crossings(distance_S: NDArray[np.int64], slope_SU: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where each unit's slope first comes down to 1/2; infinite where it does not."""
    found_U = np.full(slope_SU.shape[1], np.inf)
    for unit, slope_S in enumerate(slope_SU.T):
        below = np.flatnonzero(slope_S <= 0.5)
        if not len(below):
            continue
        place = below[0]
        (x0, x1), (y0, y1) = distance_S[place - 1 : place + 1], slope_S[place - 1 : place + 1]
        if y1 > 0:
            y0, y1, half = math.log(y0), math.log(y1), math.log(0.5)
        else:
            half = 0.5
        found_U[unit] = x0 + (x1 - x0) * (y0 - half) / (y0 - y1)
    return found_U


def by_gate(name: str, log_kept_U: NDArray[np.float64]) -> HalfLives:
    """Return half-lives from the mean logarithm of what a step keeps."""
    with np.errstate(divide="ignore"):
        steps_U = math.log(0.5) / np.minimum(log_kept_U, 0.0)
    return HalfLives(name, np.where(log_kept_U < 0, np.abs(steps_U), np.inf), None)
