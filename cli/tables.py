"""Figures with intervals as tables, and files of figures beside a run: what commands that evaluate share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..eval.report import tables as report_tables
from ..eval.statistics import Interval


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Return a table with its first column to the left and the others to the right."""
    made = Table()
    for i, name in enumerate(header):
        made.add_column(name, justify="right" if i else "left", no_wrap=True)
    for line in lines:
        made.add_row(*line)
    return made


def show_plain(console: Console, found: report_tables.Table) -> None:
    """Print a table of a report without a frame, as wide as it is: a narrow terminal wraps it and cuts nothing off."""
    if found.title:
        console.print(Text(found.title, style="bold"), soft_wrap=True)
    shown = [found.header, *found.lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        console.print(Text("  ".join(cells), style="dim" if line is found.header else ""), soft_wrap=True)
    console.print()


def in_words(figure: Interval) -> tuple[str, str]:
    """Return a figure and its interval in words."""
    between = "unknown" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
    return "none" if math.isnan(figure.value) else f"{figure.value:.3f}", between


def plain(figure: Interval) -> dict[str, float | None]:
    """Return the figure for JSON, which knows no NaN."""
    return {name: None if math.isnan(value) else value for name, value in figure._asdict().items()}


def write_new(folder: Path, stem: str, found: dict[str, Any]) -> Path:
    """Write a file that is not there yet: the stem, or the stem and a number."""
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            with path.open("x") as file:
                file.write(json.dumps(found, indent=2) + "\n")
            return path
        except FileExistsError:
            number += 1
