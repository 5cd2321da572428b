"""Which runs belong together: a task has entries, an entry has runs that differ in their seed only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...envs import config_from_dict, config_to_dict
from .runs import Run, newest_of_each_seed

# What may differ between the runs of one entry: none of it changes what is learned, but for the order of additions.
FREE = ("seed", "device", "threads", "checkpoint_seconds", "keep_checkpoints")

Settings = dict[str, Any]  # by dotted name, as the flags of `mnemic train` are called


@dataclass(frozen=True)
class Entry:
    """Runs of one configuration, one for each seed."""

    name: str
    settings: Settings
    runs: list[Run]


@dataclass(frozen=True)
class Task:
    """Entries that were trained on the same task, with the same options."""

    title: str
    env: dict[str, Any]
    entries: list[Entry]


def group(runs: Iterable[Run]) -> tuple[list[Task], list[str]]:
    """Put runs into entries and entries into tasks, in the order in which they come.

    An entry is called by its memory, and where that does not tell entries of a task apart, by a few options that do.

    Returns:
        The tasks, and a line on each run that is left out.
    """
    by_task: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        settings = _settings(run)
        env = json.dumps(run.config["env"], sort_keys=True)
        by_task.setdefault(env, {}).setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    envs = [next(iter(entries.values()))[0].config["env"] for entries in by_task.values()]
    titles = told_apart([label(env) for env in envs], [flat(env) for env in envs])
    tasks, notes = [], []
    for title, env, found in zip(titles, envs, by_task.values(), strict=True):
        options = [flat(_settings(runs[0])) for runs in found.values()]
        names = told_apart([str(each["memory.name"]) for each in options], options)
        entries = []
        for name, each, runs in zip(names, options, found.values(), strict=True):
            kept, left = newest_of_each_seed(runs)
            entries.append(Entry(name, each, kept))
            notes += [f"{run.path} is left out: another run has its configuration and its seed" for run in left]
        tasks.append(Task(title, env, entries))
    return tasks, notes


def _settings(run: Run) -> Settings:
    """Return what may not differ between the runs of one entry, but for the task."""
    kept = {name: part for name, part in run.config.items() if name not in (*FREE, "env")}
    # Each seed may begin with the policy of another run; runs of before this option began with none.
    return kept | {"init": bool(run.config.get("init"))}


def judged_by(env: dict[str, Any]) -> dict[str, Any]:
    """Return the task by which those are judged that train on one; that one itself where this version has none such."""
    try:
        return config_to_dict(config_from_dict(env).validation())
    except ValueError:
        return env


def label(env: dict[str, Any]) -> str:
    """Return what a task is called; one that this version does not know, by the name it gives itself."""
    try:
        return config_from_dict(env).label
    except (TypeError, ValueError):
        return str(env.get("name", "a task without a name"))


def flat(config: dict[str, Any]) -> Settings:
    """Return nested options by dotted name."""
    return dict(_flat(config, ""))


def _flat(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, part in config.items():
        if isinstance(part, dict):
            yield from _flat(part, f"{prefix}{name}.")
        else:
            yield prefix + name, part


def told_apart(labels: Sequence[str], settings: Sequence[Settings]) -> list[str]:
    """Return labels, those that are equal lengthened by the fewest options, one after the other, that tell them apart.

    Settings of equal labels must differ.
    """
    names = list(labels)
    while len(set(names)) < len(names):
        before = list(names)
        for twin in sorted({name for name in names if names.count(name) > 1}):
            places = [place for place, name in enumerate(before) if name == twin]
            option = _telling([settings[place] for place in places])
            for place in places:
                names[place] += f", {words(option, settings[place])}"
    return names


def _telling(settings: Sequence[Settings]) -> str:
    """Return the option that has the most values; the first of equals, those of the memory before all others."""
    options = list(dict.fromkeys(option for each in settings for option in each))
    options.sort(key=lambda option: not option.startswith("memory."))
    return max(options, key=lambda option: len({repr(each.get(option)) for each in settings}))


def words(option: str, settings: Settings) -> str:
    """Return an option and its value as one says them: `segment 50`, `no cut returns`."""
    name, value = option.rpartition(".")[2].replace("_", " "), settings.get(option)
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, list):
        return f"{name} {' '.join(map(str, value)) or 'as they choose themselves'}"
    return f"{name} {'not set' if value is None else value}"


def differing(settings: Sequence[Settings]) -> list[str]:
    """Return the options that do not have one value everywhere, in the order of the configuration."""
    options = dict.fromkeys(option for each in settings for option in each)
    return [option for option in options if len({repr(each.get(option)) for each in settings}) > 1]
