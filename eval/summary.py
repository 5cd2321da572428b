"""What an evaluation found: figures with their intervals."""

from __future__ import annotations

from .protocol import Played, gain_name
from .statistics import Interval, bootstrap_mean, wilson


def summarise(played: Played) -> dict[str, Interval]:
    """Return the mean of `return`, `length` and every figure that the task gives, with 95 % intervals.

    The episodes of one trial depend on each other: where trials hold many, whole trials are drawn, and there are
    `trial_return`, the sum over a trial, and `gain` and `success_gain`, what its last whole episode reached minus what
    its first one did.

    Raises:
        ValueError: no episode ended.
    """
    if not played.returns:
        raise ValueError(f"no episode ended within {played.steps} steps of each row; give it more steps")
    many = any(played.places)
    groups = [f"{row}/{trial}" for row, trial in played.trials] if many else None
    named = {name: played.info[name] for name in sorted(played.info, key=lambda name: (name != "success", name))}
    named = {"return": played.returns, **named, "length": [float(n) for n in played.lengths]}
    found = {
        name: wilson(sum(values), len(values)) if name in played.rates and not many else bootstrap_mean(values, groups)
        for name, values in named.items()
    }
    if many and played.trial_returns:
        found["trial_return"] = bootstrap_mean(played.trial_returns)
        found |= {gain_name(name): bootstrap_mean(gains) for name, gains in played.gains.items() if gains}
    return found


def by_place(played: Played) -> list[dict[str, Interval]]:
    """Return what the whole episodes at each place in a trial reached; empty where a trial is one episode."""
    if not any(played.places):
        return []
    columns = {"return": played.returns} | {name: played.info[name] for name in ("success",) if name in played.info}
    by_name = {name: map(bootstrap_mean, _at_places(values, played)) for name, values in columns.items()}
    return [dict(zip(by_name, place, strict=True)) for place in zip(*by_name.values(), strict=True)]


def _at_places(values: list[float], played: Played) -> list[list[float]]:
    """Return the values of whole episodes by place: where one is whole, so are those before it in the trial."""
    found: dict[int, list[float]] = {}
    for value, place, whole in zip(values, played.places, played.whole, strict=True):
        if whole:
            found.setdefault(place, []).append(value)
    return [found[place] for place in sorted(found)]
