"""Run folders as data: what training and evaluation left there.

Configurations are plain data here, so that runs of other versions of mnemic can be reported too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..statistics import Array, Interval
from .diagnosed import Diagnosis, parse


class Series(NamedTuple):
    """The figures of one tag in the order of training, where they are numbers."""

    steps: Array
    """Environment steps."""
    seconds: Array
    """Of acting and learning until then; evaluations are not counted."""
    values: Array


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one `mnemic eval` found."""

    checkpoint: int
    env: dict[str, Any]
    options: dict[str, Any]
    episodes: int
    figures: dict[str, Interval]
    by_episode: list[dict[str, Interval]]
    """By place of the episode in its trial; empty where a trial is one episode."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was reached and paid in a stream, or in a part of one."""

    end: int
    """Steps of each row at its end."""
    figures: dict[str, Interval]
    costs: dict[str, float]
    """Entries, bytes, operations and seconds of a step; NaN where not known."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What one cache policy did at one budget, as `mnemic eval --cache` found it."""

    checkpoint: int
    env: dict[str, Any]
    sampled: bool
    device: str
    cache: str
    options: dict[str, Any]
    """Of the policy, `context` among them: the entries that it may keep, 0 for all."""
    whole: Part
    bins: list[Part]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of a run."""

    path: Path
    config: dict[str, Any]
    about: dict[str, Any]
    """Command, parameters, and a session (date, version, device) for each start; empty where it was not recorded."""
    lines: list[dict[str, float]]
    """The figures of each update by TensorBoard tag."""
    evaluations: list[Evaluation]
    streams: list[Stream]
    """Later ones stand later."""
    diagnoses: list[Diagnosis]
    """Later ones stand later."""

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def steps(self) -> int:
        """Environment steps of training."""
        return int(self.lines[-1]["steps"]) if self.lines else 0

    @property
    def seconds(self) -> float:
        """Seconds of acting and learning."""
        return float(self._seconds[-1]) if self.lines else 0.0

    @cached_property
    def solved(self) -> bool:
        """Whether the run ended early, since its task was solved."""
        last = self.series("eval/solved").values
        return bool(len(last) and last[-1])

    def series(self, tag: str) -> Series:
        """Return the figures of a tag."""
        places = [place for place, line in enumerate(self.lines) if math.isfinite(line.get(tag, math.nan))]
        steps, values = ([self.lines[place][name] for place in places] for name in ("steps", tag))
        return Series(np.asarray(steps, np.float64), self._seconds[places], np.asarray(values, np.float64))

    @cached_property
    def _seconds(self) -> Array:
        parts = ("time/acting_seconds", "time/learning_seconds")
        return np.cumsum([sum(line.get(part, 0.0) for part in parts) for line in self.lines], dtype=np.float64)


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Return the run folders that paths name: each is one, or a folder that holds some, or folders of some.

    Raises:
        ValueError: a path leads to no run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if (path / "config.json").is_file():
            below = [path]
        elif path.is_dir():
            below = sorted(file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/config.json"))
        else:
            raise ValueError(f"{path} is not a run folder: it {'is a file' if path.exists() else 'is not there'}")
        if not below:
            raise ValueError(f"{path} is not a run folder and holds none: there is no config.json in it or below it")
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read(path: Path) -> Run:
    """Read a run folder.

    Raises:
        ValueError: it belongs to something else, or one of its files is damaged.
    """
    config = _json(path / "config.json")
    parts = ("env", "memory", "ppo")
    named = isinstance(config, dict) and all(isinstance(config.get(part), dict) for part in parts)
    if not named or not isinstance(config.get("seed"), int) or "name" not in config["memory"]:
        raise ValueError(f"{path} is not a run folder: its config.json lacks {', '.join(parts)} or a seed")
    about = path / "about.json"
    return Run(
        path=path,
        config=config,
        about=_about(about) if about.is_file() else {},
        lines=_lines(path / "metrics.jsonl"),
        evaluations=[_evaluation(file) for file in sorted(path.glob("eval-*.json"))],
        streams=[stream for file in sorted(path.glob("stream-*.json")) for stream in _streams(file)],
        diagnoses=[_diagnosis(file) for file in sorted(path.glob("diagnose-*.json"))],
    )


def _about(file: Path) -> dict[str, Any]:
    found = _json(file)
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.get("sessions", ())):
        raise ValueError(f"{file} was not written by `mnemic train`: it has no sessions")
    return found


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: not JSON ({error})") from None


def _lines(file: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics file; a last one that a kill cut short is left out."""
    if not file.is_file():
        return []
    lines = []
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append({name: float(value) for name, value in json.loads(line).items()})
            lines[-1]["steps"]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{file} is damaged: line {number} holds no figures") from None
    return lines


def reference(file: Path) -> tuple[str, Evaluation]:
    """Return a player that does not learn, and what it reached, as `mnemic eval oracle --json` wrote it.

    Raises:
        ValueError: the file holds something else.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not there; `mnemic eval oracle --env NAME --json {file}` writes it")
    found = _json(file)
    if not isinstance(found, dict) or not isinstance(found.get("player"), str):
        raise ValueError(f"{file} was not written by `mnemic eval oracle --json`, nor by `eval random`")
    return found["player"], _evaluation(file)


def _evaluation(file: Path) -> Evaluation:
    found = _json(file)
    try:
        return Evaluation(
            checkpoint=int(found.get("checkpoint", 0)),
            env=dict(found["env"]),
            options=dict(found["options"]),
            episodes=int(found["episodes"]),
            figures=_figures(found["figures"]),
            by_episode=[_figures(place) for place in found["by_episode"]],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} was not written by `mnemic eval`: {error!r}") from None


def _streams(file: Path) -> list[Stream]:
    found = _json(file)
    try:
        return [
            Stream(
                checkpoint=int(found["checkpoint"]),
                env=dict(found["env"]),
                sampled=bool(found["options"]["sample"]),
                device=str(found["device"]),
                cache=str(line["cache"]),
                options=dict(line["options"]),
                whole=_part(line, int(line["steps"])),
                bins=[_part(each, int(each["end"])) for each in line["bins"]],
            )
            for line in found["lines"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} was not written by `mnemic eval --cache`: {error!r}") from None


def _diagnosis(file: Path) -> Diagnosis:
    found = _json(file)
    try:
        return parse(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} was not written by `mnemic diagnose`: {error!r}") from None


def _part(found: dict[str, Any], end: int) -> Part:
    costs = {name: _number(value) for name, value in found["costs"].items()}
    return Part(end=end, figures=_figures(found["figures"]), costs=costs)


def _figures(found: dict[str, dict[str, float | None]]) -> dict[str, Interval]:
    return {name: Interval(*(_number(each.get(part)) for part in Interval._fields)) for name, each in found.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def newest_of_each_seed(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """Return one run for each seed, and those left out: a repeated seed is no new sample.

    The run with most steps stays, of equals the last one.
    """
    best: dict[int, Run] = {}
    left = []
    for run in runs:
        other = best.get(run.seed)
        if other is not None and other.steps > run.steps:
            left.append(run)
            continue
        if other is not None:
            left.append(other)
        best[run.seed] = run
    return sorted(best.values(), key=lambda run: run.seed), left
