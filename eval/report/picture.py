"""Line charts as SVG that lives inside a page: its colours are variables of the page, so it follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ..statistics import Interval
from .tables import interval, short

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 42
COLOURS = 8  # --c0 to --c7 on the page
DASHES = ("", "6 4", "2 3", "9 3 2 3")  # for entries beyond that
TOLD = 15  # places of a line that say their numbers when one points at them


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    place: int
    """Among the entries: gives colour and dashes."""
    x: Sequence[float]
    y: Sequence[Interval]
    """A band is drawn where they have intervals."""


class Axis:
    """A scale from numbers to 0..1, and its ticks.

    Args:
        values: those that are not finite, or not above 0 on a logarithmic scale, do not count.
        logarithmic: by powers of ten.
        room: reach out to the next tick on both sides.
        own: where there are few values, they are the ticks.
    """

    def __init__(
        self, values: Iterable[float], *, logarithmic: bool = False, room: bool = False, own: bool = False
    ) -> None:
        self._logarithmic = logarithmic
        known = sorted({x for x in values if math.isfinite(x) and (x > 0 or not logarithmic)}) or [1.0]
        low, high = _wider(self._scaled(known[0]), self._scaled(known[-1]))
        if own and len(known) <= 8:
            ticks = known
        elif logarithmic:
            steps = (1, 2, 5) if high - low < 3 else (1,)  # few decades have too few powers of ten
            powers = range(math.floor(low) - 1, math.ceil(high) + 1)
            around = [step * 10.0**power for power in powers for step in steps]
            first = max((x for x in around if self._scaled(x) <= low + 1e-9), default=around[0])
            last = min((x for x in around if self._scaled(x) >= high - 1e-9), default=around[-1])
            ticks = [x for x in around if first <= x <= last]
        else:
            ticks = nice(low, high)
        if room:
            low, high = min(low, self._scaled(ticks[0])), max(high, self._scaled(ticks[-1]))
        self._low, self._high = low, high
        self.ticks = [x for x in ticks if -1e-9 <= self(x) <= 1 + 1e-9]

    def __call__(self, x: float) -> float:
        """Return where a number stands between the ends of the axis."""
        return (self._scaled(x) - self._low) / (self._high - self._low)

    def _scaled(self, x: float) -> float:
        return math.log10(x) if self._logarithmic else x


Place = Callable[[float, float], tuple[float, float]]


def chart(title: str, across: str, up: str, lines: Sequence[Line], *, log_x: bool = False, log_y: bool = False) -> str:
    """Return a figure: a legend and a chart.

    Args:
        title: above it.
        across: what x is.
        up: what y is.
        lines: at least one; places whose y is no number are left out.
        log_x: a logarithmic scale of x, every x above 0.
        log_y: a logarithmic scale of y; places that are not above 0 are left out.
    """
    x_axis = Axis((x for line in lines for x in line.x), logarithmic=log_x, own=log_x)
    y_axis = Axis((bound for line in lines for y in line.y for bound in y), logarithmic=log_y, room=True)

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + x_axis(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y_axis(y) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_axis.ticks:
        y = HEIGHT - BOTTOM - y_axis(tick) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, short(tick), "end"))
    for tick in x_axis.ticks:
        x = LEFT + x_axis(tick) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 16, short(tick), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across, "middle"))
    for line in lines:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y.value > (0 if log_y else -math.inf)]
        parts += _drawn(line, points, at, across)
    legend = "".join(f"<span>{_swatch(line.place)}{escape(line.name)}</span>" for line in lines)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {up} against {across}")}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _drawn(line: Line, points: list[tuple[float, Interval]], at: Place, across: str) -> list[str]:
    colour = f"var(--c{line.place % COLOURS})"
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


def _wider(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 2 or 0.5
    return low - room, high + room


def nice(low: float, high: float) -> list[float]:
    """Return round numbers, 1, 2 or 5 times 10^n apart, that reach from `low` or below to `high` or above."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    apart = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / apart + 1e-9), math.ceil(high / apart - 1e-9)
    return [apart * place for place in range(first, last + 1)]
