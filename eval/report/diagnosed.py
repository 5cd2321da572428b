"""What `mnemic diagnose` wrote, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..statistics import Interval

Points = list[tuple[float, Interval]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one probe read of one content."""

    hidden: str
    source: str
    back: int
    """How many contents ago."""
    chance: float
    accuracy: Interval
    by_age: Points
    by_number: Points


@dataclass(frozen=True, kw_only=True)
class HalfLives:
    """The half-lives of the units of one thing, in steps."""

    name: str
    units: int
    median: float
    """Infinite where most units outlast what could be seen; NaN where no unit varies."""
    longest: int | None
    """What could be seen; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a part of the state through a long life."""

    name: str
    ratio: float
    """The largest beyond the range of training over the largest in it; infinite where it is not finite."""
    collapses: bool
    """Whether that is beyond the rule."""
    steps: list[int]
    rms: list[float]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What one `mnemic diagnose` found."""

    checkpoint: int
    env: dict[str, Any]
    sampled: bool
    readings: list[Reading]
    half_lives: list[HalfLives]
    long: int
    """Steps of the long life; 0 for none."""
    trained: int
    sizes: list[Size]


def parse(found: dict[str, Any]) -> Diagnosis:
    """Return a diagnosis from its JSON.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is something else.
    """
    life = found["life"] or {"steps": 0, "trained": 0, "parts": []}
    return Diagnosis(
        checkpoint=int(found["checkpoint"]),
        env=dict(found["env"]),
        sampled=bool(found["options"]["sample"]),
        readings=[_reading(each) for each in found["readings"]],
        half_lives=[_half_lives(each) for each in found["half_lives"]],
        long=int(life["steps"]),
        trained=int(life["trained"]),
        sizes=[_size(each) for each in life["parts"]],
    )


def _reading(found: dict[str, Any]) -> Reading:
    return Reading(
        hidden=str(found["hidden"]),
        source=str(found["source"]),
        back=int(found["back"]),
        chance=float(found["chance"]),
        accuracy=_interval(found["accuracy"]),
        by_age=_points(found["by_age"]),
        by_number=_points(found["by_number"]),
    )


def _half_lives(found: dict[str, Any]) -> HalfLives:
    units = int(found["units"])
    return HalfLives(
        name=str(found["name"]),
        units=units,
        median=_number(found["median"], math.inf if units else math.nan),
        longest=None if found["longest"] is None else int(found["longest"]),
    )


def _size(found: dict[str, Any]) -> Size:
    return Size(
        name=str(found["name"]),
        ratio=_number(found["ratio"], math.inf),
        collapses=bool(found["collapses"]),
        steps=[int(step) for step in found["steps"]],
        rms=[_number(value, math.nan) for value in found["rms"]],
    )


def _points(found: list[dict[str, Any]]) -> Points:
    return [(float(each["at"]), _interval(each["accuracy"])) for each in found]


def _interval(found: dict[str, float | None]) -> Interval:
    return Interval(*(_number(found[part], math.nan) for part in Interval._fields))


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)
