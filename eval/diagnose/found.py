"""A diagnosis as a whole, and as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics import Interval
from .curves import Point, Reading
from .norms import Life, Norm
from .timescales import HalfLives

MOST_POINTS = 200  # of a curve of sizes


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    readings: list[Reading]
    """Empty where the task does not say what it hides."""
    half_lives: list[HalfLives]
    life: Life | None
    """None where no long life was asked for."""


def as_data(found: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as JSON can hold it; what is not known, or not finite, is None."""
    return {
        "readings": [_reading(each) for each in found.readings],
        "half_lives": [_half_lives(each) for each in found.half_lives],
        "life": None if found.life is None else _life(found.life),
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "hidden": reading.hidden,
        "source": reading.source,
        "back": reading.back,
        "chance": reading.chance,
        "accuracy": _interval(reading.accuracy),
        "samples": reading.samples,
        "by_age": [_point(each) for each in reading.by_age],
        "by_number": [_point(each) for each in reading.by_number],
    }


def _point(point: Point) -> dict[str, Any]:
    return {"at": point.at, "accuracy": _interval(point.accuracy), "samples": point.samples}


def _interval(figure: Interval) -> dict[str, float | None]:
    return {name: _known(value) for name, value in figure._asdict().items()}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _half_lives(found: HalfLives) -> dict[str, Any]:
    bounds, counts = histogram(found.steps_U)
    return {
        "name": found.name,
        "units": len(found.steps_U),
        "still": found.still,
        "longest": found.longest,
        "median": _known(found.median),
        "bounds": bounds,
        "counts": counts,
        "beyond": int(np.isinf(found.steps_U).sum()),
    }


def histogram(steps_U: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Return bounds 0, 1, 2, 4, 8, .. and how many finite half-lives lie between each two."""
    known = steps_U[np.isfinite(steps_U)]
    bounds = [0, 1]
    while len(known) and bounds[-1] <= known.max():
        bounds.append(2 * bounds[-1])
    counts: list[int] = np.histogram(known, bounds)[0].tolist()
    return bounds, counts


def _life(life: Life) -> dict[str, Any]:
    inside, outside = life.rewards()
    return {
        "steps": len(life.reward_T),
        "trained": life.trained,
        "reward": {"inside": _known(inside), "outside": _known(outside)},
        "parts": [
            {
                "name": norm.name,
                "ratio": _known(norm.ratio),
                "collapses": norm.collapses,
                "steps": steps,
                "rms": [_known(value) for value in values],
            }
            for norm in life.norms
            for steps, values in [thinned(norm)]
        ],
    }


def thinned(norm: Norm) -> tuple[list[int], list[float]]:
    """Return the largest size in each stretch of a life, with the step at which the stretch ends."""
    stretches = np.array_split(norm.rms_T, min(len(norm.rms_T), MOST_POINTS))
    return np.cumsum([len(part) for part in stretches]).tolist(), [float(part.max()) for part in stretches]
