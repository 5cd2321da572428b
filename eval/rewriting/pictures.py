"""The pictures of the benchmark: heat maps of generalisation, the ladder, the frontier."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .found import Line, memories, own, tasks

COLOURS = ("#0b62a8", "#c4500c", "#0a7f5b", "#a3357c", "#8a6d00", "#4a4fc4", "#b3232f", "#58606b")
MARKERS = "os^Dv<>P"
FRAMES: dict[str, dict[str, Any]] = {
    "trained": {"linewidth": 2.2, "linestyle": "-"},
    "extrapolation": {"linewidth": 0.9, "linestyle": ":"},
}


def heat_map(lines: Sequence[Line], memory: str, path: Path) -> None:
    """Draw success by trained (down) and tested (across) configuration.

    A thick frame: trained and tested on the same. Dotted: extrapolation. None: interpolation. Grey: not measured.
    """
    here = [line for line in lines if line.memory == memory]
    down, across = tasks(here), sorted({line.test for line in here}, key=_in_order)
    grid = np.full((len(down), len(across)), math.nan)
    for line in here:
        grid[down.index(line.task), across.index(line.test)] = line.success.value
    size = (2.6 + 0.52 * len(across), 2.0 + 0.36 * len(down))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"].with_extremes(bad="#dddddd")
    image = axes.imshow(grid, vmin=0, vmax=1, cmap=colours, aspect="auto")
    for line in here:
        y, x = down.index(line.task), across.index(line.test)
        value = grid[y, x]
        if math.isfinite(value):
            ink = "black" if value > 0.6 else "white"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
        if frame := FRAMES.get(line.relation):
            colour = "#d7191c" if line.relation == "trained" else "white"
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, **frame))
    axes.set_xticks(range(len(across)), across, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(down)), down, fontsize=7)
    axes.set_xlabel("tested")
    axes.set_ylabel("trained")
    axes.set_title(f"{memory}: success (red frame: trained there; dotted: extrapolation)", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8)
    figure.savefig(path, dpi=120)


def _in_order(name: str) -> tuple[str, list[int]]:
    """Return the place of a maze among others: by sampling, then by length and corridors as numbers."""
    return name.partition("-")[0], [int(number) for number in re.findall(r"\d+", name)]


def ladder(lines: Sequence[Line], rungs: Sequence[str], path: Path) -> None:
    """Draw success of every memory from rung to rung, between floor and oracle."""
    figure, axes = _axes(9.0)
    _lines(axes, lines, rungs, list(range(len(rungs))))
    axes.set_xticks(range(len(rungs)), rungs, rotation=20, fontsize=8)
    axes.set_title("Color-Cubes: the ladder", fontsize=10)
    _finish(figure, axes, path)


def frontier(lines: Sequence[Line], order: Sequence[str], bindings: Sequence[int], level: float, path: Path) -> None:
    """Draw success of every memory against the bindings of colour to cell that the task has, between floor and oracle.

    Args:
        lines: of one preset.
        order: its tasks, from small to large.
        bindings: the cubes of each.
        level: the success that counts as holding a task.
        path: of the PNG.
    """
    figure, axes = _axes(7.5)
    places = [float(count) for count in bindings]
    if len(set(places)) < len(places):  # sizes that differ in their grid or phases alone stand side by side
        places = [float(place) for place in range(len(order))]
    _lines(axes, lines, order, places)
    axes.axhline(level, color="#b3232f", linewidth=0.8, linestyle="-.")
    labels = [f"{count} cubes\n{task.rpartition('-')[2]}" for count, task in zip(bindings, order, strict=True)]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_xlabel("bindings held (grid x cubes x phases)")
    axes.set_title(f"Color-Cubes, {order[0].rpartition('-')[0]}: the frontier at {level:g}", fontsize=10)
    _finish(figure, axes, path)


def _axes(width: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    return figure, figure.subplots()


def _lines(axes: Any, lines: Sequence[Line], order: Sequence[str], places: Sequence[float]) -> None:
    at = dict(zip(order, places, strict=True))
    here = [line for line in own(lines) if line.task in at]
    for index, name in enumerate(memories(here)):
        found = sorted((at[line.task], line.success) for line in here if line.memory == name)
        x, y = [place for place, _ in found], [figure.value for _, figure in found]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index // len(COLOURS) % len(MARKERS)]}
        axes.plot(x, y, label=name, linewidth=1.4, markersize=4, **style)
        banded = [(place, figure) for place, figure in found if math.isfinite(figure.low)]
        if banded:
            low, high = ([getattr(figure, side) for _, figure in banded] for side in ("low", "high"))
            axes.fill_between([place for place, _ in banded], low, high, color=style["color"], alpha=0.15, linewidth=0)
    for label, side, dash in (("oracle", "oracle", "--"), ("floor", "memoryless", ":")):
        level = {at[line.task]: found["success"] for line in here if (found := getattr(line, side))}
        if level:
            place = sorted(level)  # of one place alone a line would not be seen
            axes.plot(place, [level[x] for x in place], "k_", linestyle=dash, linewidth=1, label=label)


def _finish(figure: Figure, axes: Any, path: Path) -> None:
    axes.set_ylim(-0.02, 1.03)
    axes.set_ylabel("success")
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=7, ncols=2, loc="best")
    figure.savefig(path, dpi=120)
