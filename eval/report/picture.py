"""Line charts as SVG that lives inside a page: its colours are variables of the page, so it follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ..statistics import Interval
from .tables import interval

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 42
COLOURS = 8  # --c0 to --c7 on the page
DASHES = ("", "6 4", "2 3", "9 3 2 3")  # for entries beyond that
TOLD = 20  # places of a line that say their numbers when one points at them


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    place: int
    """Among the entries: gives colour and dashes."""
    x: Sequence[float]
    y: Sequence[Interval]
    """A band is drawn where they have intervals."""


def chart(title: str, across: str, up: str, lines: Sequence[Line], *, logarithmic: bool = False) -> str:
    """Return a figure: a legend and a chart.

    Args:
        title: above it.
        across: what x is.
        up: what y is.
        lines: at least one, none of them empty.
        logarithmic: the scale of x; every x is then above 0.
    """
    xs = [_scaled(x, logarithmic) for line in lines for x in line.x]
    ys = [bound for line in lines for y in line.y for bound in y if math.isfinite(bound)]
    x_low, x_high = _wider(min(xs), max(xs))
    low, high = _wider(min(ys), max(ys))
    ticks = nice(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (_scaled(x, logarithmic) - x_low) / (x_high - x_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - (y - low) / (high - low) * (
            HEIGHT - TOP - BOTTOM
        )

    parts = []
    for tick in ticks:
        y = at(_unscaled(x_low, logarithmic), tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, short(tick), "end"))
    for tick in _ticks_across(lines, x_low, x_high, logarithmic):
        x = at(tick, low)[0]
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 16, short(tick), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across, "middle"))
    for line in lines:
        parts += _drawn(line, at, across)
    legend = "".join(f"<span>{_swatch(line.place)}{escape(line.name)}</span>" for line in lines)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {up} against {across}")}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _drawn(line: Line, at: Callable[[float, float], tuple[float, float]], across: str) -> list[str]:
    colour = f"var(--c{line.place % COLOURS})"
    points = list(zip(line.x, line.y, strict=True))
    parts = []
    banded = [(x, y) for x, y in points if math.isfinite(y.low)]
    if len(banded) > 1:
        edge = [at(x, y.high) for x, y in banded] + [at(x, y.low) for x, y in reversed(banded)]
        parts.append(f'<polygon class="band" style="fill:{colour}" points="{_points(edge)}"/>')
    places = [at(x, y.value) for x, y in points]
    dash = _dash(line.place)
    parts.append(f'<polyline class="line" style="stroke:{colour}"{dash} points="{_points(places)}"/>')
    shown = points[:: max(1, math.ceil(len(points) / TOLD))]
    few = len(points) <= TOLD  # then the places are drawn too
    for x, y in shown:
        h, v = at(x, y.value)
        told = escape(f"{line.name}, {across} {short(x)}: {interval(y)}")
        style = f'style="fill:{colour}" r="3"' if few else 'class="near" r="7"'
        parts.append(f'<circle {style} cx="{h:.1f}" cy="{v:.1f}"><title>{told}</title></circle>')
    return parts


def _swatch(place: int) -> str:
    colour = f"var(--c{place % COLOURS})"
    return (
        '<svg class="swatch" viewBox="0 0 24 8" aria-hidden="true">'
        f'<line class="line" style="stroke:{colour}"{_dash(place)} x1="0" y1="4" x2="24" y2="4"/></svg>'
    )


def _dash(place: int) -> str:
    dash = DASHES[place // COLOURS % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _scaled(x: float, logarithmic: bool) -> float:
    return math.log10(x) if logarithmic else x


def _unscaled(x: float, logarithmic: bool) -> float:
    return 10**x if logarithmic else x


def _wider(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 2 or 0.5
    return low - room, high + room


def _ticks_across(lines: Sequence[Line], low: float, high: float, logarithmic: bool) -> list[float]:
    if not logarithmic:
        return [tick for tick in nice(low, high) if low <= tick <= high]
    own = sorted({x for line in lines for x in line.x})
    if len(own) <= 8:
        return own
    return [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]


def nice(low: float, high: float) -> list[float]:
    """Return round numbers, 1, 2 or 5 times 10^n apart, that reach from `low` or below to `high` or above."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    apart = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / apart + 1e-9), math.ceil(high / apart - 1e-9)
    return [apart * place for place in range(first, last + 1)]


def short(value: float) -> str:
    """Return a number in a few letters: 1.5M, 200k, 0.25."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"
