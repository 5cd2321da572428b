"""What streams found, for machines and for eyes: plain data, TensorBoard scalars, a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from ..memory.caches import CacheConfig
from .statistics import Interval
from .stream import Bin, Stream

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Line:
    """One cache policy at one budget, and the stream that was played under it."""

    cache: CacheConfig
    stream: Stream

    @property
    def label(self) -> str:
        """What tables and pictures call it: the policy, and its budget where it has one."""
        return f"{self.cache.name} {self.cache.context}" if self.cache.context else self.cache.name


def as_data(line: Line) -> dict[str, Any]:
    """Return everything about a line as JSON can hold it; what is not known is None."""
    stream = line.stream
    return {
        "cache": line.cache.name,
        "options": asdict(line.cache),
        "rows": stream.rows,
        "steps": stream.steps,
        "trial_steps": stream.trial_steps,
        "how": stream.how,
        "interrupted": stream.interrupted,
        **_figures_and_costs(stream),
        "bins": [_bin(stream, each) for each in stream.bins],
    }


def _bin(stream: Stream, one: Bin) -> dict[str, Any]:
    episodes = int(one.episodes_B.sum())
    return {"begin": one.begin, "end": one.end, "episodes": episodes, **_figures_and_costs(stream, [one])}


def _figures_and_costs(stream: Stream, bins: list[Bin] | None = None) -> dict[str, Any]:
    figures = {
        name: {key: _plain(value) for key, value in figure._asdict().items()}
        for name, figure in stream.figures(bins).items()
    }
    return {"figures": figures, "costs": {name: _plain(value) for name, value in stream.costs(bins).items()}}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_scalars(lines: Sequence[Line], folder: Path) -> None:
    """Write `stream/FIGURE/POLICY-BUDGET` for TensorBoard over the steps of the stream, but for what is not known."""
    with SummaryWriter(str(folder)) as writer:
        for line in lines:
            for one in line.stream.bins:
                figures = {name: figure.value for name, figure in line.stream.figures([one]).items()}
                for name, value in (figures | line.stream.costs([one])).items():
                    if not math.isnan(value):
                        writer.add_scalar(f"stream/{name}/{line.label.replace(' ', '-')}", value, one.end)


def draw(lines: Sequence[Line], path: Path, title: str) -> None:
    """Write the picture into a PNG file."""
    FigureCanvasAgg(picture(lines, title)).print_png(str(path))  # type: ignore[no-untyped-call]


def picture(lines: Sequence[Line], title: str) -> Figure:
    """Draw four panels: what is reached by budget, and what is reached, kept and waited for by time.

    A policy without a budget (`full`) is a horizontal line in the first. What is reached is the success rate, or the
    return where the task does not say what a success is, or the reward of a step where no episode ended.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    (by_budget, by_time), (by_bytes, by_latency) = figure.subplots(2, 2)
    figure.suptitle(title)
    name = _reached(lines)
    costs = [[line.stream.costs([one]) for one in line.stream.bins] for line in lines]
    _draw_budgets(by_budget, lines, name)
    reached = [[line.stream.figures([one])[name] for one in line.stream.bins] for line in lines]
    _draw_times(by_time, lines, name, reached)
    _draw_times(by_bytes, lines, "bytes of memory per environment", _bare(costs, "bytes"), "log")
    _draw_times(by_latency, lines, "seconds of a step (dotted: p99)", _bare(costs, "latency_median"), "log")
    for line, look, some in zip(lines, _looks(lines), costs, strict=True):
        slow = [cost["latency_p99"] for cost in some]
        by_latency.plot([one.end for one in line.stream.bins], slow, ":", linewidth=1, **look)
    by_time.legend(fontsize="small", ncols=1 + len(lines) // 9)
    return figure


def _bare(costs: list[list[dict[str, float]]], key: str) -> list[list[Interval]]:
    return [[Interval(cost[key], math.nan, math.nan) for cost in some] for some in costs]


def _looks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return how each line is drawn: a policy has one colour in all panels, and is paler at its smaller budgets."""
    budgets: dict[str, list[int]] = {}
    for line in lines:
        budgets.setdefault(line.cache.name, []).append(line.cache.context)
    colours, looks = {name: f"C{number}" for number, name in enumerate(budgets)}, []
    for line in lines:
        some = sorted(budgets[line.cache.name])
        share = (1 + some.index(line.cache.context)) / len(some)
        looks.append({"color": colours[line.cache.name], "alpha": 0.25 + 0.75 * share})
    return looks


def _reached(lines: Sequence[Line]) -> str:
    """Return the figure that says best what was reached and that every line has."""
    for name in ("success", "return"):
        found = [line.stream.figures().get(name) for line in lines]
        if all(figure is not None and not math.isnan(figure.value) for figure in found):
            return name
    return "reward"


def _draw_budgets(axes: Axes, lines: Sequence[Line], name: str) -> None:
    found: dict[str, list[tuple[int, Interval]]] = {}
    for line in lines:
        found.setdefault(line.cache.name, []).append((line.cache.context, line.stream.figures()[name]))
    for number, (cache, points) in enumerate(found.items()):
        colour = f"C{number}"
        for _, figure in (point for point in points if not point[0]):
            axes.axhline(figure.value, color=colour, linestyle="--", label=cache)
            if not math.isnan(figure.low):
                axes.axhspan(figure.low, figure.high, color=colour, alpha=0.1)
        if bounded := sorted(point for point in points if point[0]):
            contexts, values = [context for context, _ in bounded], [figure.value for _, figure in bounded]
            down, up = (
                [0.0 if math.isnan(f.low) else f.value - f.low for _, f in bounded],
                [0.0 if math.isnan(f.low) else f.high - f.value for _, f in bounded],
            )
            axes.errorbar(contexts, values, yerr=[down, up], color=colour, marker="o", capsize=3, label=cache)
    marks = sorted({line.cache.context for line in lines if line.cache.context})
    if marks:
        axes.set_xscale("log", base=2)
        axes.set_xticks(marks, [f"{context:,}" for context in marks])
        axes.set_xlim(marks[0] / 1.2, marks[-1] * 1.2)  # one budget alone would get the margins of a linear axis
    else:
        axes.set_xticks([])
    axes.set(xlabel="context budget: entries that a row may keep", ylabel=name)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _draw_times(
    axes: Axes, lines: Sequence[Line], words: str, values: Sequence[Sequence[Interval]], scale: Scale = "linear"
) -> None:
    for line, look, some in zip(lines, _looks(lines), values, strict=True):
        ends = [one.end for one in line.stream.bins]
        axes.plot(ends, [figure.value for figure in some], marker=".", label=line.label, **look)
        low, high = [figure.low for figure in some], [figure.high for figure in some]
        axes.fill_between(ends, low, high, color=look["color"], alpha=0.1)
    axes.set(xlabel="steps of the stream", ylabel=words)
    positive = all(figure.value > 0 for some in values for figure in some if not math.isnan(figure.value))
    axes.set_yscale(scale if positive else "linear")
    axes.grid(alpha=0.3)
