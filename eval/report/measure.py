"""What the runs of a task reached: final figures over seeds, steps to a threshold, and curves.

Every figure over seeds is an interquartile mean with its stratified bootstrap interval (Agarwal et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..statistics import Array, Interval, stratified_bootstrap
from .group import Entry, Task, flat, judged_by, words
from .runs import Evaluation, Run

# The first of these that the runs have is the figure of a task. A trial is judged as a whole.
MAIN = ("trial_return", "success", "return")
HOLD = 3  # evaluations in a row that must reach a threshold
POINTS = 60  # of a curve

# Curves of runs that were not evaluated while they trained show the episodes of training instead.
OF_TRAINING = {
    "return": "charts/episodic_return",
    "success": "charts/success",
    "trial_return": "trial/return",
    "gain": "trial/gain",
}


@dataclass(frozen=True)
class Scores:
    """The final figures of a task's runs."""

    source: str
    """Where they are from, in words."""
    figure: str
    """The one that the task is judged by."""
    figures: list[str]
    """All, that one first."""
    by_entry: dict[str, dict[str, list[float]]]
    """By the name of the entry and the figure: a score for each run that has it, in the order of the runs."""


def scores(task: Task, wanted: str = "") -> Scores:
    """Return final figures: of the newest evaluation of each run, where all runs have one; else of the metrics.

    Args:
        task: whose.
        wanted: the figure to judge by; empty: chosen by `MAIN`.

    Raises:
        ValueError: no run has any figure, or none has the wanted one.
    """
    runs = [run for entry in task.entries for run in entry.runs]
    own = {run.path: own_evaluation(run) for run in runs}
    if all(own.values()):
        counts = sorted({found.episodes for found in own.values() if found})
        source = f"`mnemic eval`, greedy, {_range([float(n) for n in counts])} fresh episodes for each run"
        found = {path: {name: each.value for name, each in own_.figures.items()} for path, own_ in own.items() if own_}
    else:
        source = "the last evaluation of each run while it trained, greedy, on fresh episodes"
        found = {run.path: _last_figures(run) for run in runs}
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    if not names:
        raise ValueError(f"no run on {task.title} has been evaluated: `mnemic eval {runs[0].path}`")
    main = wanted or next((name for name in MAIN if name in names), names[0])
    if main not in names:
        raise ValueError(f"no run on {task.title} has the figure {main!r}; choose one of {', '.join(names)}")
    figures = [main, *(name for name in names if name != main)]
    by_entry = {
        entry.name: {name: [found[run.path][name] for run in entry.runs if name in found[run.path]] for name in figures}
        for entry in task.entries
    }
    return Scores(source, main, figures, by_entry)


def own_evaluation(run: Run) -> Evaluation | None:
    """Return the evaluation that speaks for a run: on its own task, greedy, of its newest checkpoint, the largest."""
    return _best(found for found in run.evaluations if not elsewhere_words(run, found))


def elsewhere(run: Run) -> dict[str, Evaluation]:
    """Return what a run was evaluated on beside its own task, by what was other there, in words."""
    named: dict[str, list[Evaluation]] = {}
    for found in run.evaluations:
        if said := elsewhere_words(run, found):
            named.setdefault(said, []).append(found)
    return {said: best for said, each in named.items() if (best := _best(each))}


def elsewhere_words(run: Run, found: Evaluation) -> str:
    """Return in what an evaluation differs from the training of its run; empty where in nothing."""
    told = env_words(run, found.env)
    told += ["sampled actions"] * bool(found.options.get("sample"))
    told += [f"at most {steps:,} steps"] if (steps := found.options.get("steps")) else []
    return ", ".join(told)


def env_words(run: Run, env: dict[str, Any]) -> list[str]:
    """Return the options of a task that are not those of the task which a run is judged by, in words."""
    before, now = flat(judged_by(run.config["env"])), flat(env)
    return [words(name, now) for name in now if repr(now[name]) != repr(before.get(name, now[name]))]


def _best(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    return max(evaluations, key=lambda found: (found.checkpoint, found.episodes), default=None)


def _last_figures(run: Run) -> dict[str, float]:
    for line in reversed(run.lines):
        named = {tag.removeprefix("eval/"): value for tag, value in line.items() if tag.startswith("eval/")}
        named.pop("solved", None)
        if named:
            return {name: value for name, value in named.items() if math.isfinite(value)}
    return {}


def over_seeds(values: Sequence[float], resamples: int = 10_000) -> Interval:
    """Return the interquartile mean over seeds with its interval; NaN where there are no values."""
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    return stratified_bootstrap({"": values}, resamples=resamples)


class Reached(NamedTuple):
    """When a run came to a threshold."""

    steps: float
    seconds: float


def reached(run: Run, figure: str, threshold: float) -> Reached | None:
    """Return when a run had a figure at or above a threshold for good: the first of `HOLD` evaluations in a row.

    The evaluation that ended a run as solved was confirmed by a second one, so nothing has to come after it.
    """
    series = run.series(f"eval/{figure}")
    above = series.values >= threshold
    for place in range(len(above)):
        held = above[place : place + HOLD]
        if held.all() and (len(held) == HOLD or run.solved):
            return Reached(float(series.steps[place]), float(series.seconds[place]))
    return None


def tag_of(task: Task, figure: str) -> str:
    """Return the tag that shows a figure through training: that of the evaluations, or of the episodes of training."""
    tag = f"eval/{figure}"
    seen = any(len(run.series(tag).steps) for entry in task.entries for run in entry.runs)
    return tag if seen else OF_TRAINING.get(figure, tag)


class Curve(NamedTuple):
    """A figure through training, over seeds."""

    x: Array
    """Steps or seconds."""
    y: list[Interval]


def curve(entry: Entry, tag: str, against: str = "steps") -> Curve | None:
    """Return a figure over seeds against `steps` or `seconds`; None where no run shows it.

    At each place a run counts with what it showed last. A run that ended as solved keeps its last figure; where any
    other run ends, the curve ends, since the runs that are left would say something else.
    """
    found = [(run, series) for run in entry.runs if len((series := run.series(tag)).steps)]
    if not found:
        return None
    places = [series.steps if against == "steps" else series.seconds for _, series in found]
    open_ends = [x[-1] for x, (run, _) in zip(places, found, strict=True) if not run.solved]
    first, last = max(x[0] for x in places), min(open_ends) if open_ends else max(x[-1] for x in places)
    x = np.unique(np.concatenate(places))
    x = x[(x >= first) & (x <= last)]
    if not len(x):
        return None
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))]
    y = [
        series.values[np.searchsorted(place, x, side="right") - 1]
        for place, (_, series) in zip(places, found, strict=True)
    ]
    return Curve(x, [over_seeds(column.tolist(), 1_000) for column in np.stack(y, axis=1)])


def by_episode(entry: Entry, figure: str) -> list[Interval]:
    """Return a figure over seeds by the place of the episode in its trial, as far as all runs show it."""
    found = [own.by_episode for run in entry.runs if (own := own_evaluation(run)) and own.by_episode]
    lists = [[place[figure].value for place in places if figure in place] for places in found]
    return [over_seeds(list(column)) for column in zip(*lists, strict=False)]


def about(runs: Iterable[Run], name: str) -> list[Any]:
    """Return what the sessions of runs recorded under a name, each value once; empty where it was not recorded."""
    sessions = (session for run in runs for session in run.about.get("sessions", ()))
    return list(dict.fromkeys(session[name] for session in sessions if session.get(name) is not None))


def median_of(values: Iterable[float]) -> float:
    """Return the median; NaN of nothing."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else math.nan


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
