"""Rows of results as Markdown, and their place in a page that also has words by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import diagnoses, streams, tables
from .measure import about
from .tables import Table, View

END = "<!-- end -->"


def markdown(name: str, heading: str, views: Sequence[View], notes: Sequence[str]) -> str:
    """Return a section: for each task its commands, a row for each entry, and how entries compare.

    There is no date but those of the runs: the same runs give the same section.
    """
    parts = [f"## {name}", heading]
    if joined := tables.across(views):
        parts += [f"{joined.title}:", markdown_table(joined), joined.note]
    for view in views:
        if len(views) > 1:
            parts.append(f"### {view.task.title}")
        found = [f"    {command}" for entry in view.task.entries for command in tables.commands(entry)]
        parts += ["\n".join(dict.fromkeys(found))] if found else []
        joined = rows(view)
        parts.append(markdown_table(joined))
        trials = [tables.trial(*each) for each in tables.trials(view).items()]
        streamed = [streams.table(kind) for kind in streams.kinds(view.task.entries)]
        looks = [each for look in diagnoses.looks(view.task.entries) for each in diagnoses.tables_of(look)]
        shown = [each for each in (tables.pairs(view), tables.other_tasks(view), *trials, *streamed, *looks) if each]
        for each in shown:
            parts += [f"{each.title}:", markdown_table(each)]
        parts += dict.fromkeys(each.note for each in (joined, *shown) if each.note)
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts)


def rows(view: View) -> Table:
    """Return final figures and cost side by side, with the dates of the runs."""
    final, cost = tables.results(view), tables.cost(view)
    more = [
        [*line[1:], _between(about(entry.runs, "date"))]
        for line, entry in zip(cost.lines, view.task.entries, strict=True)
    ]
    more += [[""] * len(cost.header)] * len(view.references)
    lines = [[*line, *rest] for line, rest in zip(final.lines, more, strict=True)]
    return Table(final.title, [*final.header, *cost.header[1:], "date"], lines, f"{final.note} {cost.note}")


def _between(dates: Sequence[str]) -> str:
    """Return the first and the last of some days, once where they are one."""
    return " to ".join(dict.fromkeys((min(dates), max(dates)))) if dates else ""


def markdown_table(found: Table) -> str:
    """Return a table as Markdown."""
    found = found.filled()
    shown = ([cell.replace("|", "\\|") for cell in line] for line in (found.header, *found.lines))
    head, *body = (f"| {' | '.join(line)} |" for line in shown)
    return "\n".join([head, "|" + "---|" * len(found.header), *body])


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
