"""A picture of an evaluation: what the episodes of a trial reached, one after the other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from .protocol import Played
from .summary import by_place

INK, PALE = "#1f4e79", "#9db8d2"


def write_figure(played: Played, path: Path, title: str) -> None:
    """Write the curve of return, and of success where the task has it, by episode in the trial, with 95 % intervals.

    Where trials are ended by a clock, only those that are quick come far: a curve is pale where fewer than half of the
    trials have come, and ends where a tenth of them has.

    Raises:
        OSError: the file cannot be written.
        ValueError: a trial is one episode.
    """
    places = by_place(played)
    if not places:
        raise ValueError("a trial is one episode here, so there is no curve by episode in the trial")
    came = Counter(place for place, whole in zip(played.places, played.whole, strict=True) if whole)
    half, places = (
        [at for place, at in enumerate(places) if came[place] >= share * came[0]] for share in (1 / 2, 1 / 10)
    )
    names = list(places[0])
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    figure.suptitle(title, fontsize=10)
    episodes = [place + 1 for place in range(len(places))]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        values, low, high = zip(*(place[name] for place in places), strict=True)
        axes.fill_between(episodes, low, high, color=PALE, alpha=0.4, linewidth=0)
        axes.plot(episodes, values, color=PALE, linewidth=1.5)
        axes.plot(episodes[: len(half)], values[: len(half)], color=INK, linewidth=1.5, marker="o", markersize=3)
        axes.set_xlabel("episode in the trial")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)
