"""Streams of a task's runs: what cache policies keep and pay at their budgets, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..statistics import Interval
from .group import Entry, told_apart
from .measure import env_words, median_of, over_seeds
from .picture import Line, chart
from .runs import Part, Run, Stream
from .tables import Table, interval, number, seeds, short, size, thinned

# The first of these that every stream of a kind has says what was reached.
REACHED = ("success", "return", "reward")


@dataclass(frozen=True)
class Kept:
    """An entry under one policy at one budget, and its streams, one for each seed."""

    entry: str
    name: str
    """Of the policy, with its budget."""
    cache: str
    context: int
    streams: list[Stream]

    def reached(self, figure: str, place: int | None = None) -> Interval:
        """Return a figure over seeds, of the whole streams or of a bin; of one seed with its interval over rows."""
        found = [part.figures[figure] for part in self._parts(place) if figure in part.figures]
        found = [each for each in found if math.isfinite(each.value)]
        return found[0] if len(found) == 1 else over_seeds([each.value for each in found], 2_000)

    def paid(self, cost: str, place: int | None = None) -> float:
        """Return the median of a cost over seeds, of the whole streams or of a bin."""
        return median_of(part.costs.get(cost, math.nan) for part in self._parts(place))

    @property
    def bins(self) -> int:
        """How many bins all streams have."""
        return min(len(stream.bins) for stream in self.streams)

    def ends(self) -> list[float]:
        """Return the steps at the ends of the bins."""
        return [float(part.end) for part in self.streams[0].bins[: self.bins]]

    def _parts(self, place: int | None) -> list[Part]:
        return [stream.whole if place is None else stream.bins[place] for stream in self.streams]


@dataclass(frozen=True)
class Kind:
    """Streams of equal length on equal tasks, which can be compared."""

    title: str
    figure: str
    """What says how much was reached."""
    kept: list[Kept]


def kinds(entries: Iterable[Entry]) -> list[Kind]:
    """Put the streams of a task together: by length and options of the task, then by entry, policy and budget.

    Of a run's streams of one kind, policy and budget the one of its newest checkpoint counts, of several the last.
    """
    found: dict[str, dict[tuple[str, str], tuple[Stream, list[Stream]]]] = {}
    for entry in entries:
        for run in entry.runs:
            newest: dict[tuple[str, str], Stream] = {}
            for stream in run.streams:
                key = _title(run, stream), f"{stream.cache} {sorted(stream.options.items())}"
                if key not in newest or stream.checkpoint >= newest[key].checkpoint:
                    newest[key] = stream
            for (title, kept), stream in newest.items():
                found.setdefault(title, {}).setdefault((entry.name, kept), (stream, []))[1].append(stream)
    return [_kind(title, each) for title, each in found.items()]


def _kind(title: str, found: dict[tuple[str, str], tuple[Stream, list[Stream]]]) -> Kind:
    kept = []
    for entry in dict.fromkeys(name for name, _ in found):
        own = [each for (name, _), each in found.items() if name == entry]
        labels = [_label(first) for first, _ in own]
        names = told_apart(labels, [first.options | {"policy": first.cache} for first, _ in own])
        kept += [
            Kept(entry, name, first.cache, int(first.options.get("context", 0)), streams)
            for name, (first, streams) in zip(names, own, strict=True)
        ]
    figure = next(
        (name for name in REACHED if all(math.isfinite(each.reached(name).value) for each in kept)), REACHED[-1]
    )
    return Kind(title, figure, kept)


def _label(stream: Stream) -> str:
    context = stream.options.get("context")
    return f"{stream.cache} {context}" if context else stream.cache


def _title(run: Run, stream: Stream) -> str:
    told = [f"streams of {stream.whole.end:,} steps", *env_words(run, stream.env)]
    return ", ".join(told + ["sampled actions"] * stream.sampled)


def table(kind: Kind) -> Table:
    """Return what was reached and paid under every policy at every budget."""
    full = {each.entry: each.reached(kind.figure).value for each in kind.kept if each.cache == "full"}
    most = max((held for each in kind.kept if math.isfinite(held := each.paid("bytes"))), default=math.nan)
    lines = []
    for each in kind.kept:
        reached, held = each.reached(kind.figure), each.paid("bytes")
        share = reached.value / full[each.entry] if full.get(each.entry, 0.0) > 0 else math.nan
        first, last = (each.paid("latency_median", place) for place in (0, each.bins - 1)) if each.bins else (1.0,) * 2
        lines.append(
            [
                each.entry,
                each.name,
                seeds(len(each.streams)),
                interval(reached),
                _percent(share),
                number(each.paid("entries")),
                size(held),
                _percent(held / most if most else math.nan),
                short(each.paid("flops")),
                short(each.paid("settling")) if each.paid("settling") else "",
                number(1e3 * each.paid("latency_median")),
                number(1e3 * each.paid("latency_p99")),
                number(last / first),
            ]
        )
    header = ["entry", "kept", "seeds", kind.figure, "of full", "entries", "bytes", "of most", "FLOPs", "+ settling"]
    header += ["ms, median", "ms, p99", "last/first bin"]
    note = (
        f"{kind.figure}: over seeds; of one seed with its interval over rows. Of full: beside the same entry with all "
        "of its memory. Entries and bytes: of one row's memory at the end; of most: of the largest here. FLOPs: of one "
        "step of one row; settling: summaries. ms: of one step of all rows together, without the environments; "
        "last/first bin: of its medians. Costs are medians over seeds, on "
        f"{', '.join(sorted({stream.device for each in kind.kept for stream in each.streams}))}."
    )
    return Table(kind.title, header, lines, note)


def by_time(kind: Kind) -> Table:
    """Return what was reached, kept and waited for at some bins of the streams."""
    lines = [
        [
            each.entry,
            each.name,
            f"{each.ends()[place]:,.0f}",
            interval(each.reached(kind.figure, place)),
            size(each.paid("bytes", place)),
            number(1e3 * each.paid("latency_median", place)),
            number(1e3 * each.paid("latency_p99", place)),
        ]
        for each in kind.kept
        for place in thinned(each.bins, 10)
    ]
    header = ["entry", "kept", "steps", kind.figure, "bytes", "ms, median", "ms, p99"]
    return Table(f"{kind.title}, by time", header, lines)


def charts(kind: Kind) -> list[str]:
    """Return pictures: what was reached by budget; and what was reached, kept and waited for by time."""
    made = []
    budgets = sorted({float(each.context) for each in kind.kept if each.context})
    if budgets:
        made.append(
            chart(f"{kind.figure} by budget", "entries kept", kind.figure, _by_budget(kind, budgets), log_x=True)
        )
    shown = [(kind.figure, kind.figure), ("bytes of memory per row", "bytes"), ("seconds of a step", "latency_median")]
    for what, name in shown:
        lines = [
            Line(called, number, each.ends(), [_at(each, name, place) for place in range(each.bins)])
            for number, (called, each) in enumerate(zip(_names(kind), kind.kept, strict=True))
            if each.bins
        ]
        if lines:
            made.append(chart(f"{what} by time", "steps of the stream", what, lines, log_y=name != kind.figure))
    return made


def _names(kind: Kind) -> list[str]:
    several = len({each.entry for each in kind.kept}) > 1
    return [f"{each.entry}: {each.name}" if several else each.name for each in kind.kept]


def _by_budget(kind: Kind, budgets: list[float]) -> list[Line]:
    """Return a line for each entry and policy; what has no budget is level."""
    found: dict[str, list[tuple[float, Interval]]] = {}
    several = len({each.entry for each in kind.kept}) > 1
    for each in kind.kept:
        name = f"{each.entry}: {each.cache}" if several else each.cache
        reached = each.reached(kind.figure)
        places = [float(each.context)] if each.context else [budgets[0], budgets[-1]]
        found.setdefault(name, []).extend((place, reached) for place in places)
    lines = []
    for place, (name, points) in enumerate(found.items()):
        x, y = zip(*sorted(points), strict=True)
        lines.append(Line(name, place, x, y))
    return lines


def _at(kept: Kept, name: str, place: int) -> Interval:
    if name in REACHED:
        return kept.reached(name, place)
    return Interval(kept.paid(name, place), math.nan, math.nan)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else ""
