"""A diagnosis for eyes: one picture of six panels, and TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from ..statistics import Interval
from .curves import Point, Reading
from .found import Diagnosis, histogram, thinned
from .norms import RULE, Life
from .timescales import HalfLives

STYLES = {"output": "-", "state": "--", "input": ":"}


def write(found: Diagnosis, png: Path, folder: Path, title: str) -> None:
    """Write the picture as a PNG file, and into a folder of TensorBoard with all curves as scalars.

    Tags are `diagnose/retention/..` over the steps since a content was shown, `diagnose/overwrite/..` over the contents
    before it, `diagnose/survival/..` over the contents after it, `diagnose/norm/..` over the steps of a long life, and
    histograms `diagnose/half_life/..`.
    """
    canvas = _drawn(found, title)
    canvas.print_png(str(png))  # type: ignore[no-untyped-call]
    with SummaryWriter(str(folder)) as writer:
        for tag, step, value in _scalars(found):
            if math.isfinite(value):
                writer.add_scalar(f"diagnose/{tag.replace(' ', '_')}", value, step)
        for each in found.half_lives:
            if len(known := each.steps_U[np.isfinite(each.steps_U)]):
                writer.add_histogram(f"diagnose/half_life/{each.name}", known)
        picture = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
        writer.add_image("diagnose/curves", picture, dataformats="HWC")


def _scalars(found: Diagnosis) -> Iterable[tuple[str, int, float]]:
    for reading in found.readings:
        ago = f"_{reading.back}_before" if reading.back else ""
        name = f"{reading.hidden}/{reading.source}"
        yield f"survival/{name}", reading.back, reading.accuracy.value
        yield f"chance/{name}", reading.back, reading.chance
        for what, points in (("retention", reading.by_age), ("overwrite", reading.by_number)):
            for point in points:
                yield f"{what}{ago}/{name}", round(point.at), point.accuracy.value
    for norm in [] if found.life is None else found.life.norms:
        for step, size in zip(*thinned(norm), strict=True):
            yield f"norm/{norm.name}", step, size


def _drawn(found: Diagnosis, title: str) -> FigureCanvasAgg:
    figure = Figure(figsize=(17, 9.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(2, 3)
    now = [each for each in found.readings if not each.back]
    colours = {name: f"C{place % 10}" for place, name in enumerate(dict.fromkeys(each.hidden for each in now))}
    _curves(panels[0, 0], now, colours, lambda each: each.by_age)
    panels[0, 0].set(title="retention", xlabel="steps since it was shown")
    _curves(panels[0, 1], [each for each in now if len(each.by_number) > 1], colours, lambda each: each.by_number)
    before = [each for each in found.readings if each.back == 1]
    _curves(panels[0, 1], before, colours, lambda each: each.by_number, pale=True)
    panels[0, 1].set(title="overwriting: the present content; pale: the one before", xlabel="contents before it")
    _survival(panels[0, 2], found.readings, colours)
    if found.life is not None:
        _sizes(panels[1, 0], found.life)
    timed = [each for each in found.half_lives if each.longest is not None]
    _half_lives(panels[1, 1], timed, "half-lives by regression")
    _half_lives(panels[1, 2], [each for each in found.half_lives if each.longest is None], "half-lives by gates")
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        if not axes.has_data():
            axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color="0.5")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", ncols=2)
    return canvas


def _curves(
    axes: Axes,
    readings: Sequence[Reading],
    colours: dict[str, str],
    points: Callable[[Reading], list[Point]],
    pale: bool = False,
) -> None:
    for reading in readings:
        curve = points(reading)
        at, accuracy = [each.at for each in curve], [each.accuracy for each in curve]
        label = "" if pale else f"{reading.hidden}: {reading.source}"
        _line(axes, at, accuracy, colours[reading.hidden], STYLES[reading.source], label, alpha=0.4 if pale else 1.0)
        if reading.source != "input" and not pale:
            axes.axhline(reading.chance, color=colours[reading.hidden], linewidth=0.6, alpha=0.5)
    axes.set(ylabel="accuracy of the probe (thin: chance)", ylim=(-0.03, 1.03))
    if not pale:
        _from_zero(axes, max((point.at for reading in readings for point in points(reading)), default=0.0))


def _from_zero(axes: Axes, most: float) -> None:
    """Scale x in a line up to 4 and by powers of 2 from there."""
    axes.set_xscale("symlog", linthresh=4)
    axes.set_xlim(-0.2, max(most, 1.0) * 1.1)
    ticks = [0, 1, 2, *(2**power for power in range(2, 40) if 2**power <= axes.get_xlim()[1])]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def _line(
    axes: Axes, at: Sequence[float], values: Sequence[Interval], colour: str, style: str, label: str, alpha: float
) -> None:
    axes.plot(
        at, [each.value for each in values], color=colour, linestyle=style, marker=".", label=label or None, alpha=alpha
    )
    low, high = [each.low for each in values], [each.high for each in values]
    axes.fill_between(at, low, high, color=colour, alpha=0.08 * alpha, linewidth=0)


def _survival(axes: Axes, readings: Sequence[Reading], colours: dict[str, str]) -> None:
    lines: dict[tuple[str, str], list[Reading]] = {}
    for each in readings:
        lines.setdefault((each.hidden, each.source), []).append(each)
    for (hidden, source), some in lines.items():
        if len(some) > 1:
            back, accuracy = [each.back for each in some], [each.accuracy for each in some]
            _line(axes, back, accuracy, colours[hidden], STYLES[source], f"{hidden}: {source}", 1.0)
            if source != "input":
                axes.plot(back, [each.chance for each in some], color=colours[hidden], linewidth=0.6, alpha=0.5)
    axes.set_xticks(sorted({each.back for each in readings}))
    axes.set(title="what is left of old contents", xlabel="contents after it", ylabel="accuracy", ylim=(-0.03, 1.03))


def _sizes(axes: Axes, life: Life) -> None:
    positive = True
    for norm in life.norms:
        steps, sizes = thinned(norm)
        broken = f" ({norm.ratio:.3g}x)" if norm.collapses else ""
        axes.plot(steps, sizes, label=norm.name + broken)
        positive = positive and min(sizes) > 0
    axes.axvspan(0, life.trained, color="0.9")
    axes.set(title=f"size without forgetting (grey: training; a number: above {RULE:g}x)", xlabel="steps", ylabel="rms")
    axes.set_xscale("log")
    axes.set_yscale("log" if positive else "linear")


def _half_lives(axes: Axes, found: Sequence[HalfLives], title: str) -> None:
    bounds = max((histogram(each.steps_U)[0] for each in found), key=len, default=[0, 1])
    width = 0.8 / max(len(found), 1)
    for place, each in enumerate(found):
        counts = histogram(each.steps_U)[1]
        counts = [*counts, *[0] * (len(bounds) - 1 - len(counts)), int(np.isinf(each.steps_U).sum())]
        axes.bar(np.arange(len(counts)) + place * width, counts, width, label=each.name, align="edge")
    names = [f"{low}-{high}" for low, high in pairwise(bounds)]
    axes.set_xticks(np.arange(len(bounds)) + 0.4, [*names, "longer"], rotation=30, fontsize="small")
    axes.set(title=title, xlabel="steps", ylabel="units")
