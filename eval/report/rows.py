"""Rows of results as Markdown, and their place in a page that also has words by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import tables
from .measure import about
from .tables import Table, View

END = "<!-- end -->"


def markdown(name: str, heading: str, views: Sequence[View], notes: Sequence[str]) -> str:
    """Return a section: for each task its commands, a row for each entry, and how entries compare."""
    parts = [f"## {name}", heading]
    for view in views:
        if len(views) > 1:
            parts.append(f"### {view.task.title}")
        found = [f"    {command}" for entry in view.task.entries for command in tables.commands(entry)]
        parts += ["\n".join(dict.fromkeys(found))] if found else []
        joined = rows(view)
        parts += [_table(joined), joined.note]
        for more in (tables.pairs(view), tables.other_tasks(view), *tables.trials(view)):
            if more:
                parts += [f"{more.title}:", _table(more)]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts)


def rows(view: View) -> Table:
    """Return final figures and cost side by side, with the dates of the runs."""
    final, cost = tables.results(view), tables.cost(view)
    dates = [_between(about(entry.runs, "date")) for entry in view.task.entries]
    lines = [[*line, *more[1:], date] for line, more, date in zip(final.lines, cost.lines, dates, strict=True)]
    return Table(final.title, [*final.header, *cost.header[1:], "date"], lines, f"{final.note} {cost.note}")


def _between(dates: Sequence[str]) -> str:
    """Return the first and the last of some days, once where they are one."""
    return " to ".join(dict.fromkeys((min(dates), max(dates)))) if dates else ""


def _table(found: Table) -> str:
    kept = [place for place in range(len(found.header)) if any(line[place] for line in found.lines)]
    shown = [[line[place] for place in kept] for line in (found.header, *found.lines)]
    head, *body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in shown)
    return "\n".join([head, "|" + "---|" * len(kept), *body])


def placed(page: Path, name: str, section: str) -> str:
    """Return the text of a page with a section in it: in the place of the one of this name, or at the end.

    A section stands between `<!-- report NAME -->` and `<!-- end -->`; all else stays as it is.

    Raises:
        ValueError: the section that is there has no end.
    """
    text = page.read_text() if page.is_file() else ""
    begin = f"<!-- report {name} -->"
    head, mark, tail = text.partition(begin)
    if mark:
        _, end, rest = tail.partition(END)
        if not end or "<!-- report " in tail.partition(END)[0]:
            raise ValueError(f"{page}: the section {begin} has no {END}; put one where the section ends")
    else:
        head, rest = (f"{text.rstrip()}\n\n" if text.strip() else ""), "\n"
    return f"{head}{begin}\n\n{section}\n\n{END}{rest}"


def write(file: Path, text: str) -> None:
    """Replace a file in one piece: what stood there is lost only once all of the new text is there."""
    file = file.resolve()
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text)
    os.replace(partial, file)
