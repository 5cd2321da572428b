"""What was played, on the terminal and as plain data: what commands that evaluate agents and other players share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ..eval.figure import write_figure
from ..eval.protocol import Played
from ..eval.summary import by_place, summarise
from .tables import in_words, plain, table

MOST_LINES = 20  # places in a trial that the terminal shows


def show(title: str, played: Played) -> dict[str, Any]:
    """Print the figures with their intervals, where trials hold many episodes also by place, and return them for JSON.

    Raises:
        ValueError: no episode ended.
    """
    figures, places = summarise(played), by_place(played)
    console = Console(highlight=False)
    console.print(title, style="bold")
    console.print(table(["figure", "mean", "95 % interval"], [[n, *in_words(f)] for n, f in figures.items()]))
    if places:
        header = ["episode", *(word for name in places[0] for word in (name, "95 % interval"))]
        shown = enumerate(places[:MOST_LINES], start=1)
        lines = [[str(number), *(word for f in place.values() for word in in_words(f))] for number, place in shown]
        left = f", the first {MOST_LINES} of {len(places)}" if len(places) > MOST_LINES else ""
        console.print(f"by place of the episode in its trial{left}", style="bold")
        console.print(table(header, lines))
    return measured(played)


def measured(played: Played) -> dict[str, Any]:
    """Return the figures with their intervals for JSON.

    Raises:
        ValueError: no episode ended.
    """
    return {
        "episodes": len(played.returns),
        "figures": {name: plain(figure) for name, figure in summarise(played).items()},
        "by_episode": [{name: plain(figure) for name, figure in place.items()} for place in by_place(played)],
    }


def draw(title: str, played: Played, file: Path) -> list[Path]:
    """Draw the curve by place beside a JSON file, where trials hold many episodes; return what was written."""
    if not any(played.places):
        return [file]
    write_figure(played, file.with_suffix(".png"), title)
    return [file, file.with_suffix(".png")]
