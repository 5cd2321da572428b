"""`mnemic report`: runs side by side, as tables, one page, and rows of results."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .. import __version__
from ..eval.report import group, measure, page, rows, runs, tables
from . import flags
from .names import choose
from .runs import newest_hint
from .tables import show_plain


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to make of the runs."""

    out: str = ""
    """Write a page with tables and curves to this file, which ends in .html."""
    rows: str = ""
    """Put the rows of results into this file, which ends in .md: a section of it is replaced, or added at its end."""
    section: str = ""
    """The name of that section; empty: the names of the tasks."""
    title: str = ""
    """Of the page; empty: the names of the tasks."""
    figure: str = ""
    """What the runs are judged by: success, return, ..; empty: the return of a trial, or success, or the return."""
    threshold: float = math.nan
    """A level of that figure: how many runs reach it and hold it for three evaluations, and after how many steps; nan
    for none."""
    reference: tuple[str, ...] = ()
    """What players that do not learn reach on a task, as files of `mnemic eval oracle --json FILE`: shown as levels."""
    published: tuple[str, ...] = ()
    """Figures to show beside ours, as ENTRY=FIGURE: "memo=95.1 (arXiv 2510.19732)"."""


def report(argv: list[str]) -> int:
    """Read runs, print their figures, and write what is asked for."""
    paths, rest = flags.take_words(argv)
    if not paths and any(word in flags.HELP for word in rest):
        print("Runs side by side: tables with intervals, curves, rows of results. Runs with equal configurations but")
        print("for the seed are one entry. RUN is a run folder, or a folder that holds some.\n")
    options = flags.parse(ReportOptions(), rest, prog="mnemic report RUN..", usage="mnemic report RUN.. [flags]")
    if not paths:
        raise ValueError(f"run folders come first: `mnemic report RUN.. --out report.html`{newest_hint()}")
    out, target = _file(options.out, "--out", ".html"), _file(options.rows, "--rows", ".md")
    views, notes = look(paths, options)
    tasks = ", ".join(view.task.title for view in views)
    written = []
    if out:
        heading = f"{date.today().isoformat()}, mnemic {__version__}"
        written.append((out, page.page(options.title or tasks, heading, views, notes)))
    if target:
        name = options.section or tasks
        heading = f"Made by `mnemic report`, version {__version__}."
        written.append((target, rows.placed(target, name, rows.markdown(name, heading, views, notes))))
    _show(views, notes)
    for file, text in written:
        rows.write(file, text)
        print(f"written    {file}")
    return 0


def write_page(paths: list[str], out: Path, references: list[Path]) -> str:
    """Write the page of some runs with what players that do not learn reach; return what speaks against it, or "".

    References to tasks by which no run is judged are left out.
    """
    try:
        judged = [group.judged_by(runs.read(path).config["env"]) for path in runs.find(paths)]
        fitting = tuple(str(file) for file in references if runs.reference(file)[1].env in judged)
        views, notes = look(paths, ReportOptions(reference=fitting))
    except ValueError as error:
        return str(error)
    title = ", ".join(view.task.title for view in views) if len(views) < 4 else f"{len(views)} tasks"
    heading = f"{date.today().isoformat()}, mnemic {__version__}"
    rows.write(out, page.page(title, heading, views, notes))
    return ""


def look(paths: list[str], options: ReportOptions) -> tuple[list[tables.View], list[str]]:
    """Read runs and return what there is to show of each task, and lines on runs that are not what they seem.

    Raises:
        ValueError: a folder is no run, no run has figures, or the options ask for what is not there.
    """
    found = [runs.read(path) for path in runs.find(paths)]
    empty = [run for run in found if not run.lines and not run.evaluations]
    found = [run for run in found if run not in empty]
    if not found:
        raise ValueError(f"{empty[0].path} has no figures yet; train it on, or name another run")
    tasks, notes = group.group(found)
    published, references = _published(options, tasks), _references(options, tasks)
    notes += [f"{run.path} is left out: it has no figures yet" for run in empty]
    kept = [run for task in tasks for entry in task.entries for run in entry.runs]
    notes += [said for run in kept if (said := tables.unfinished(run))]
    threshold = None if math.isnan(options.threshold) else options.threshold
    views = [
        tables.View(task, measure.scores(task, options.figure), threshold, published, references[task.title])
        for task in tasks
    ]
    return views, notes


def _published(options: ReportOptions, tasks: list[group.Task]) -> dict[str, str]:
    names = [entry.name for task in tasks for entry in task.entries]
    found = {}
    for word in options.published:
        name, equals, figure = word.partition("=")
        if not equals:
            raise ValueError(f"--published takes ENTRY=FIGURE, {word!r} came; entries are {', '.join(names)}")
        found[choose("entry", name, names)] = figure
    return found


def _references(options: ReportOptions, tasks: list[group.Task]) -> dict[str, dict[str, runs.Evaluation]]:
    """Return what players reach, by the title of the task and the name of the player."""
    found: dict[str, dict[str, runs.Evaluation]] = {task.title: {} for task in tasks}
    for name in options.reference:
        player, evaluation = runs.reference(Path(name))
        fits = [task.title for task in tasks if group.judged_by(task.env) == evaluation.env]
        if not fits:
            raise ValueError(
                f"--reference {name}: no run is judged by its task, {group.label(evaluation.env)}, as it is"
            )
        found[fits[0]][player] = evaluation
    return found


def _file(name: str, flag: str, suffix: str) -> Path | None:
    """Return a file that can be written, or None where none is asked for."""
    if not name:
        return None
    file = Path(name)
    if file.suffix != suffix:
        raise ValueError(f"{flag} {name}: give a file that ends in {suffix}")
    if not file.parent.is_dir() or file.is_dir():
        raise ValueError(f"{flag} {name}: {'it is a folder' if file.is_dir() else 'its folder is not there'}")
    return file


def _show(views: list[tables.View], notes: list[str]) -> None:
    console = Console(highlight=False)
    for view in views:
        console.print(Text(view.task.title, style="bold"), soft_wrap=True)
        for found in (tables.results(view).filled(), tables.cost(view).filled()):
            show_plain(console, replace(found, title=""))
    for note in notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
