"""What the benchmark found, as data: one line for every task, memory and test, with oracle and floor beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..report.measure import over_seeds
from ..statistics import Interval

Figures = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the agents of one memory that were trained on one task reached on one test, one agent per seed."""

    part: str
    task: str
    memory: str
    test: str
    relation: str
    """trained, interpolation or extrapolation."""
    seeds: list[int]
    by_seed: list[dict[str, float]]
    """The mean figures of each seed's agent, over the same episodes."""
    oracle: dict[str, float]
    memoryless: dict[str, float]
    """Of the task's player without memory; empty where it has none."""
    steps: int
    """Environment steps of training, of the agent that has had the most."""

    def over_seeds(self, figure: str) -> Interval:
        """Return the interquartile mean over seeds with its interval; NaN where it is not known."""
        return over_seeds([each[figure] for each in self.by_seed if figure in each])

    @property
    def success(self) -> Interval:
        """The share of episodes that were solved, over seeds."""
        return self.over_seeds("success")

    def per_reveal(self, figure: str) -> float:
        """Return how often something happened for each frame that showed a jump, all seeds together."""
        reveals = sum(each.get("reveals", 0.0) for each in self.by_seed)
        return sum(each.get(figure, 0.0) for each in self.by_seed) / reveals if reveals else math.nan

    def plain(self) -> dict[str, Any]:
        """Return it for JSON, with figures over seeds."""
        names = dict.fromkeys(name for each in self.by_seed for name in each)
        figures = {name: _plain(self.over_seeds(name)) for name in names}
        return asdict(self) | {"figures": figures}


def _plain(figure: Interval) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figure._asdict().items()}


def of_part(lines: Iterable[Line], part: str) -> list[Line]:
    """Return the lines of one part."""
    return [line for line in lines if line.part == part]


def memories(lines: Iterable[Line]) -> list[str]:
    """Return the memories of some lines, each once."""
    return list(dict.fromkeys(line.memory for line in lines))


def tasks(lines: Iterable[Line]) -> list[str]:
    """Return the tasks of some lines, each once."""
    return list(dict.fromkeys(line.task for line in lines))


def own(lines: Iterable[Line]) -> list[Line]:
    """Return the lines whose test is the task that was trained."""
    return [line for line in lines if line.relation == "trained"]


def held(lines: Sequence[Line], memory: str, order: Sequence[str], level: float) -> str:
    """Return the last of some tasks, from easy to hard, up to which a memory stays at a level or above; "" for none.

    A task that has not been measured ends it, as one that is not held does.
    """
    reached = ""
    success = {line.task: line.success.value for line in own(lines) if line.memory == memory}
    for task in order:
        if not success.get(task, -math.inf) >= level:
            break
        reached = task
    return reached
