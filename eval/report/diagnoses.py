"""Diagnoses of a task's runs, over seeds: what memories hold, by delay and overwriting, their half-lives and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..diagnose.curves import edges
from ..statistics import Interval
from .diagnosed import Diagnosis, HalfLives, Points, Reading, Size
from .group import Entry
from .measure import env_words, over_seeds
from .picture import Line, chart
from .runs import Run
from .tables import Table, interval, number, seeds

CONTROL = "input"


@dataclass(frozen=True)
class Look:
    """Diagnoses on one task, by entry: one for each seed."""

    title: str
    found: dict[str, list[Diagnosis]]


def looks(entries: Iterable[Entry]) -> list[Look]:
    """Put the diagnoses of a task together: by its options, then by entry. Of a run the newest of its kind counts."""
    found: dict[str, dict[str, list[Diagnosis]]] = {}
    for entry in entries:
        for run in entry.runs:
            newest: dict[str, Diagnosis] = {}
            for each in run.diagnoses:
                title = _title(run, each)
                if title not in newest or each.checkpoint >= newest[title].checkpoint:
                    newest[title] = each
            for title, each in newest.items():
                found.setdefault(title, {}).setdefault(entry.name, []).append(each)
    return [Look(title, each) for title, each in found.items()]


def _title(run: Run, found: Diagnosis) -> str:
    return ", ".join(["diagnosis", *env_words(run, found.env), *["sampled actions"] * found.sampled])


def tables_of(look: Look) -> list[Table]:
    """Return the tables that have lines: what can be read, and how long units hold and how large they get."""
    return [each for each in (_read(look), _units(look)) if each.lines]


def _read(look: Look) -> Table:
    lines = []
    for entry, diagnoses in look.found.items():
        for (hidden, source, back), found in _by_probe(diagnoses).items():
            ages = _joined([each.by_age for each in found])
            numbers = _joined([each.by_number for each in found])
            lines.append(
                [
                    entry,
                    seeds(len(found)),
                    hidden + (f", {back} before" if back else ""),
                    source,
                    interval(_over([each.accuracy for each in found])),
                    number(_mean([each.chance for each in found])),
                    _at(ages[0]) if ages else "",
                    _at(ages[-1]) if ages else "",
                    _at(numbers[-1]) if len(numbers) > 1 else "",
                ]
            )
    header = ["entry", "seeds", "hidden", "read from", "accuracy", "chance"]
    header += ["shortest delay", "longest delay", "most overwritten"]
    note = (
        "Accuracy of linear probes, tested on rows that they have not learned from; over seeds, of one seed with its "
        "interval over rows. input: what the core is told at the step itself, the control. N before: the content that "
        "was overwritten N times. Chance: always the most frequent. Delay: steps since the content was shown, and most "
        "overwritten: contents before it, each with the accuracy there. `docs/diagnostics.md` has the rest."
    )
    return Table(f"{look.title}: what can be read", header, lines, note)


def _units(look: Look) -> Table:
    lines = []
    for entry, diagnoses in look.found.items():
        lives: dict[str, list[HalfLives]] = {}
        for each in (half for found in diagnoses for half in found.half_lives):
            lives.setdefault(each.name, []).append(each)
        for name, halves in lives.items():
            count = seeds(len(halves))
            lines.append([entry, count, f"half-life of {name}", _median(halves), f"{halves[0].units:,}", "", ""])
        sizes: dict[str, list[Size]] = {}
        for size in (size for found in diagnoses for size in found.sizes):
            sizes.setdefault(size.name, []).append(size)
        for name, found in sizes.items():
            broken = sum(size.collapses for size in found)
            worst = max(size.ratio for size in found)
            ratio = f"{number(worst)}x" if math.isfinite(worst) else "not finite"
            lines.append([entry, seeds(len(found)), f"size of {name}", "", "", ratio, f"{broken} of {len(found)}"])
    lasted = sorted({(each.long, each.trained) for found in look.found.values() for each in found if each.long})
    spans = ", ".join(f"{long:,} steps beside {trained:,} of training" for long, trained in lasted)
    note = (
        "Half-lives: medians over units, then over seeds, in steps. Growth: the largest root mean square of a memory "
        f"that is emptied once, beyond the range of training over that inside, of the worst seed ({spans})."
    )
    header = ["entry", "seeds", "of", "median half-life", "units", "growth", "above 2x"]
    return Table(f"{look.title}: half-lives and sizes", header, lines, note)


def charts(look: Look) -> list[str]:
    """Return pictures: for each hidden thing accuracy by delay and by contents before it; sizes of the output."""
    made = []
    hidden = dict.fromkeys(each.hidden for found in look.found.values() for one in found for each in one.readings)
    for name in hidden:
        for what, across in (("by_age", "steps since it was shown"), ("by_number", "contents before it")):
            lines = []
            for (label, place), found in _lines(look, name).items():
                points = _joined([getattr(each, what) for each in found])
                if len(points) > 1:
                    lines.append(Line(label, place, [at for at, _ in points], [y for _, y in points]))
            if lines:
                title = f"{name}: {'retention' if what == 'by_age' else 'overwriting'}"
                made.append(chart(title, across, "accuracy", lines))
    sizes = []
    for place, (entry, diagnoses) in enumerate(look.found.items()):
        for size in [size for size in diagnoses[0].sizes if size.name == "output"]:
            y = [Interval(value, math.nan, math.nan) for value in size.rms]
            sizes.append(Line(entry, place, [float(step) for step in size.steps], y))
    if sizes:
        made.append(chart("size of the output, never emptied, first seed", "steps", "rms", sizes, log_x=True))
    return made


def _lines(look: Look, hidden: str) -> dict[tuple[str, int], list[Reading]]:
    """Return what lines show: of one entry all that is read of it, of several their outputs (else their states)."""
    shown: dict[tuple[str, int], list[Reading]] = {}
    for place, (entry, diagnoses) in enumerate(look.found.items()):
        probes = {key: found for key, found in _by_probe(diagnoses).items() if key[0] == hidden}
        if len(look.found) == 1:
            for number_, ((_, source, back), found) in enumerate(probes.items()):
                if back <= 1:
                    shown[source + (", the one before" if back else ""), number_] = found
            continue
        present = {source: found for (_, source, back), found in probes.items() if not back and source != CONTROL}
        if present:
            shown[entry, place] = present.get("output") or next(iter(present.values()))
    return shown


def _by_probe(diagnoses: Iterable[Diagnosis]) -> dict[tuple[str, str, int], list[Reading]]:
    found: dict[tuple[str, str, int], list[Reading]] = {}
    for each in (reading for one in diagnoses for reading in one.readings):
        found.setdefault((each.hidden, each.source, each.back), []).append(each)
    return found


def _joined(curves: list[Points]) -> Points:
    """Return a curve over seeds: points of one stretch together, at the mean of their places."""
    bounds = edges(math.ceil(max((at for curve in curves for at, _ in curve), default=0)))
    found: dict[int, Points] = {}
    for at, accuracy in (point for curve in curves for point in curve):
        found.setdefault(sum(bound <= at for bound in bounds), []).append((at, accuracy))
    return [(_mean([at for at, _ in each]), _over([y for _, y in each])) for _, each in sorted(found.items())]


def _over(figures: list[Interval]) -> Interval:
    return figures[0] if len(figures) == 1 else over_seeds([each.value for each in figures], 2_000)


def _at(point: tuple[float, Interval]) -> str:
    return f"{point[0]:,.0f}: {number(point[1].value)}"


def _median(halves: list[HalfLives]) -> str:
    ordered = sorted(half.median for half in halves if not math.isnan(half.median))
    if not ordered:
        return ""
    middle = ordered[len(ordered) // 2]
    if math.isfinite(middle):
        return number(middle)
    seen = [half.longest for half in halves if half.longest is not None]
    return f"> {max(seen):,}" if seen else "no end"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
