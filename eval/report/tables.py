"""The tables of a report: the same for the page, for Markdown and for the terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ..statistics import Interval, difference, probability_of_improvement, stratified_bootstrap
from .group import Entry, Task, differing, words
from .measure import HOLD, Scores, about, by_episode, elsewhere, median_of, over_seeds, own_evaluation, reached
from .runs import Evaluation, Run

FEW = 5  # a report says so where there are fewer seeds
NOTHING = Interval(math.nan, math.nan, math.nan)
MOST_PLACES = 16  # episodes of a trial that a table shows
MOST_PAIRS = 45  # ten entries; of more, each is compared with the best only


@dataclass(frozen=True)
class Table:
    """Words in rows, ready to be shown."""

    title: str
    header: list[str]
    lines: list[list[str]]
    note: str = ""

    def filled(self) -> Table:
        """Return the table without the columns in which nothing stands."""
        kept = [place for place in range(len(self.header)) if any(line[place] for line in self.lines)]
        header, *lines = ([line[place] for place in kept] for line in (self.header, *self.lines))
        return replace(self, header=header, lines=lines)


@dataclass(frozen=True)
class View:
    """A task and what is asked about it."""

    task: Task
    scores: Scores
    threshold: float | None
    published: Mapping[str, str]
    """By the name of an entry."""
    references: Mapping[str, Evaluation]
    """What players that do not learn reach on this task, by their names."""


def results(view: View) -> Table:
    """Return the final figures of every entry."""
    main, *others = view.scores.figures
    published = [entry.name for entry in view.task.entries if entry.name in view.published]
    header = ["entry", "seeds", main, "mean", *others] + ["published"] * bool(published)
    lines = []
    for entry in view.task.entries:
        found = view.scores.by_entry[entry.name]
        line = [entry.name, seeds(len(found[main])), interval(over_seeds(found[main])), number(_mean(found[main]))]
        line += [interval(over_seeds(found[name])) for name in others]
        lines.append(line + [view.published.get(entry.name, "")] * bool(published))
    for name, reference in view.references.items():
        known = [reference.figures.get(figure, NOTHING) for figure in (main, *others)]
        line = [name, "", interval(known[0]), number(known[0].value), *map(interval, known[1:])]
        lines.append(line + [""] * bool(published))
    note = (
        f"Final figures: {view.scores.source}. Interquartile mean over seeds with its stratified bootstrap "
        "95 % interval; of fewer than 4 seeds nothing is trimmed, so it is the mean."
    )
    if view.references:
        note += f" {', '.join(view.references)}: do not learn; the mean over their episodes with its interval."
    return Table("Final figures", header, lines, note)


def cost(view: View) -> Table:
    """Return what every entry took: steps, time, memory, and when it came to the threshold."""
    header = ["entry", "steps", "seconds", "steps/s", "parameters", "memory per row"]
    main, level = view.scores.figure, view.threshold
    if level is not None:
        header += [f"held {main} ≥ {level:g}", "steps until then", "seconds until then"]
    header.append("device")
    lines = []
    for entry in view.task.entries:
        runs = entry.runs
        rates = [median_of(run.series("charts/sps").values.tolist()) for run in runs]
        sizes = [max(run.series("memory/bytes_per_row").values.tolist(), default=math.nan) for run in runs]
        parameters = sorted({run.about["parameters"] for run in runs if "parameters" in run.about})
        line = [
            entry.name,
            spread([run.steps for run in runs if run.lines]),
            spread([run.seconds for run in runs if run.lines]),
            number(median_of(rates)),
            " and ".join(f"{count:,}" for count in parameters),
            size(median_of(sizes)),
        ]
        if level is not None:
            held = [found for run in runs if (found := reached(run, main, level))]
            line.append(f"{len(held)} of {len(runs)}")
            line += [spread([found.steps for found in held]), spread([found.seconds for found in held])]
        lines.append([*line, ", ".join(about(runs, "device"))])
    note = (
        "Medians over seeds, and the lowest and highest. Seconds are of acting and learning; evaluations are not "
        "counted. Memory is what one environment's memory takes at the end of a trial."
    )
    if level is not None:
        note += (
            f" {main} ≥ {level:g} is held where {HOLD} evaluations in a row show it, or where the evaluation that "
            "ended the run as solved does; the first of them counts."
        )
    return Table("Cost", header, lines, note)


def pairs(view: View) -> Table | None:
    """Return how entries compare with each other; None where there is but one."""
    found = {name: each[view.scores.figure] for name, each in view.scores.by_entry.items()}
    ranked = sorted((name for name in found if found[name]), key=lambda name: -over_seeds(found[name], 1).value)
    if len(ranked) < 2:
        return None
    compared = list(combinations(ranked, 2))
    if len(compared) > MOST_PAIRS:
        compared = [(ranked[0], other) for other in ranked[1:]]
    lines = [
        [
            better,
            other,
            interval(probability_of_improvement(found[better], found[other])),
            interval(difference(found[better], found[other])),
        ]
        for better, other in compared
    ]
    note = (
        "P: how likely a run of the first scores higher than one of the second, a tie counting half; difference: of "
        "their interquartile means. Bootstrap 95 % intervals over seeds; with few seeds they are too narrow."
    )
    header = ["entry", "beside", f"P(higher {view.scores.figure})", "difference"]
    return Table("Comparison", header, lines, note)


def across(views: Sequence[View]) -> Table | None:
    """Return success over all tasks and seeds, for entries that every task has; None where that says nothing new.

    Success is the one figure that means the same in every task.
    """
    judged = [view for view in views if view.scores.figure == "success"]
    names = [entry.name for entry in judged[0].task.entries] if len(judged) > 1 else []
    lines = []
    for name in names:
        found = {view.task.title: view.scores.by_entry.get(name, {}).get("success", []) for view in judged}
        if all(found.values()):
            values = [value for each in found.values() for value in each]
            lines.append(
                [name, str(len(found)), str(len(values)), interval(stratified_bootstrap(found)), number(_mean(values))]
            )
    note = (
        "Interquartile mean over tasks and seeds, with a bootstrap 95 % interval that draws seeds within each task. "
        f"Tasks: {'; '.join(view.task.title for view in judged)}."
    )
    return Table("All tasks", ["entry", "tasks", "runs", "success", "mean"], lines, note) if lines else None


def trials(view: View) -> dict[str, dict[str, list[Interval]]]:
    """Return figures by the place of the episode in its trial: by figure, then by entry or reference."""
    made = {}
    for figure in ("return", "success"):
        columns = {entry.name: by_episode(entry, figure) for entry in view.task.entries}
        for name, reference in view.references.items():
            columns[name] = [place[figure] for place in reference.by_episode if figure in place]
        if found := {name: column for name, column in columns.items() if column}:
            made[figure] = found
    return made


def trial(figure: str, columns: Mapping[str, Sequence[Interval]]) -> Table:
    """Return a figure by the place of the episode in its trial as a table."""
    longest = max(map(len, columns.values()))
    lines = [
        [str(place + 1), *(interval(column[place]) if place < len(column) else "" for column in columns.values())]
        for place in early(longest, MOST_PLACES)
    ]
    note = "Where a clock ends the trials, only those with quick episodes come to the late places."
    return Table(f"{figure} by episode in the trial", ["episode", *columns], lines, note)


def other_tasks(view: View) -> Table | None:
    """Return what evaluations on other options of the task found; None where there are none."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for entry in view.task.entries:
        for run in entry.runs:
            for said, evaluation in elsewhere(run).items():
                for name, figure in evaluation.figures.items():
                    found.setdefault((said, entry.name), {}).setdefault(name, []).append(figure.value)
    if not found:
        return None
    figures = list(dict.fromkeys([*view.scores.figures, *(name for each in found.values() for name in each)]))
    figures = [name for name in figures if any(name in each for each in found.values())]
    lines = [
        [
            said,
            entry,
            seeds(max(map(len, each.values()))),
            *(interval(over_seeds(each.get(name, []))) for name in figures),
        ]
        for (said, entry), each in sorted(found.items())
    ]
    return Table("Evaluated elsewhere, without training there", ["what is other", "entry", "seeds", *figures], lines)


def settings(view: View) -> Table | None:
    """Return the options in which entries differ; None where there is but one."""
    each = [entry.settings for entry in view.task.entries]
    options = differing(each)
    if not options:
        return None
    lines = [
        [entry.name, *("" if option not in own else words(option, own) for option in options)]
        for entry, own in zip(view.task.entries, each, strict=True)
    ]
    return Table("In what the entries differ", ["entry", *options], lines)


def runs(view: View) -> Table:
    """Return every run."""
    main, level = view.scores.figure, view.threshold
    header = ["run", "entry", "seed", "steps", "seconds", main, *(["steps until held"] if level is not None else [])]
    lines = []
    for entry in view.task.entries:
        for run in entry.runs:
            own = own_evaluation(run)
            shown = interval(own.figures[main]) if own and main in own.figures else ""
            line = [str(run.path), entry.name, str(run.seed), f"{run.steps:,}", f"{run.seconds:,.1f}", shown]
            if level is not None:
                line.append(number(found.steps) if (found := reached(run, main, level)) else "never")
            dates, versions, devices = (", ".join(about([run], name)) for name in ("date", "version", "device"))
            lines.append([*line, dates, versions, devices])
    note = f"{main}: of `mnemic eval` on the run's own task, with its 95 % interval over episodes."
    return Table("Runs", [*header, "date", "version", "device"], lines, note)


def commands(entry: Entry) -> list[str]:
    """Return the commands that train an entry's runs, each once: without their folders, and with S for the seed."""
    found: dict[str, list[int]] = {}
    for run in entry.runs:
        if command := run.about.get("command"):
            found.setdefault(_without(command, ("--run", "--seed")), []).append(run.seed)
    return [f"{command} --seed S        # S = {', '.join(map(str, seeds))}" for command, seeds in found.items()]


def _without(command: str, flags: Sequence[str]) -> str:
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in flags:
            next(words, None)
        elif not word.startswith(tuple(f"{flag}=" for flag in flags)):
            kept.append(word)
    return shlex.join(kept)


def unfinished(run: Run) -> str:
    """Return a line on a run that ended before its steps were done; empty for one that did not."""
    wanted = run.config.get("steps", 0)
    if run.solved or not run.lines or run.steps >= wanted:
        return ""
    return f"{run.path.name} has {run.steps:,} of its {wanted:,} steps"


def thinned(count: int, most: int) -> list[int]:
    """Return places from 0 to the last of `count`, at most `most`, evenly apart."""
    return [round(place * (count - 1) / max(1, min(count, most) - 1)) for place in range(min(count, most))]


def early(count: int, most: int) -> list[int]:
    """Return places from 0 to the last of `count`, at most `most`, closer together where an agent still learns."""
    if count <= most:
        return list(range(count))
    return sorted({round(count ** (place / (most - 1))) - 1 for place in range(most)})


def seeds(count: int) -> str:
    """Return the number of seeds, and whether they are few."""
    return f"{count}{' (fewer than 5)' if count < FEW else ''}"


def number(value: float) -> str:
    """Return a number with as many digits as it deserves; nothing for NaN."""
    if not math.isfinite(value):
        return ""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"


def short(value: float) -> str:
    """Return a number in a few letters: 1.5M, 200k, 0.25; nothing for NaN."""
    if math.isnan(value):
        return ""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


def interval(figure: Interval) -> str:
    """Return a figure with its interval, as far as there is one."""
    between = "" if math.isnan(figure.low) else f" ({number(figure.low)} to {number(figure.high)})"
    return number(figure.value) + between


def spread(values: Sequence[float]) -> str:
    """Return the median, and the lowest and highest where they differ."""
    if not values:
        return ""
    digits = 0 if min(values) >= 100 else 1
    whole = [f"{value:,.{digits}f}" for value in (median_of(values), min(values), max(values))]
    return whole[0] if whole[1] == whole[2] else f"{whole[0]} ({whole[1]} to {whole[2]})"


def size(value: float) -> str:
    """Return bytes in a unit that fits."""
    if not math.isfinite(value):
        return ""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else math.nan
