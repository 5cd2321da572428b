"""Many runs, one after the other: each in a folder of its own, gone on with where it was stopped, tested when done.

A sweep holds nothing but its folder. What is finished is not trained again, what fails is said in one line and left,
and whatever stops the sweep loses no more than the steps since the last checkpoint.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..agents.checkpoint import load_policy
from ..envs import config_to_dict
from ..envs.step import EnvConfig, Oracle
from ..eval.protocol import evaluate, play_episodes, play_rule
from ..eval.report.group import FREE, flat
from ..train.about import record
from ..train.config import TrainConfig
from ..train.loop import train
from ..train.ranks import Launch
from ..train.run import RunFolder
from .evaluate import EvalOptions
from .played import measured
from .train import describe

DONE = "finished.json"
FIRST = "first"
"""Beside the folder of runs: the runs that went before them."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run of a sweep."""

    name: str
    """Of its folder."""
    config: TrainConfig
    tests: Mapping[str, EnvConfig]
    """What it is tested on once it is trained, by name."""
    command: str
    """What trains it alone."""
    first: Planned | None = None
    """A run on an easier task, with whose weights it begins; `config.init` is its folder, `FIRST` / its name."""


class Stopped(Exception):
    """The user has stopped the sweep."""


def check(planned: Iterable[Planned], root: Path) -> None:
    """Refuse a folder whose runs were made with other options than those that are asked for now.

    Raises:
        ValueError: it is one; the message names the run and the first option that differs.
    """
    for run in planned:
        if run.first is not None:
            check([run.first], root.parent / FIRST)
        file = root / run.name / "config.json"
        if not file.is_file():
            continue
        try:
            before = json.loads(file.read_text())
        except ValueError:
            continue  # said when its turn comes
        # Through JSON, which knows no tuples.
        wanted = flat(json.loads(json.dumps(run.config.to_dict())))
        found = flat(before) if isinstance(before, dict) else {}
        for name, value in wanted.items():
            same = bool(found.get(name)) == bool(value) if name == "init" else found.get(name) == value
            if name not in FREE and not same:
                raise ValueError(
                    f"{root / run.name} was made with {name} {found.get(name)}, and {value} is asked for; "
                    "give the options that it has, or another --out"
                )


def go(run: Planned, root: Path) -> str:
    """Train a run to its end, if it is not there yet, and return what there is to say of it; empty if it was finished.

    Raises:
        Stopped: the user has stopped it; its checkpoint is whole.
        RuntimeError: it broke down.
        ValueError: it cannot be trained, or its folder is damaged.
    """
    path = root / run.name
    if finished_at(path) is not None:
        return ""
    if run.first is not None and (said := go(run.first, root.parent / FIRST)):
        say(f"    first {said}")
    if (path / "config.json").is_file():
        folder, config = RunFolder.open(path)
        config = replace(config, device=run.config.device)  # it may go on elsewhere than it began
        begun = folder.begun()
        steps, finished = folder.progress(config) if begun else (0, False)
        if finished:
            write(path / DONE, {"steps": steps})
            return ""
        _, parameters = describe(config, Launch.here())
    else:
        config, begun, steps = run.config, False, 0
        _, parameters = describe(config, Launch.here())  # builds all, so that what cannot be built leaves no folder
        if path.is_dir():  # killed between the folder and its configuration
            (path / ".config.json").unlink(missing_ok=True)
            path.rmdir()
        folder = RunFolder.create(path, config)
    record(path, {"command": run.command, "parameters": parameters}, torch.device(config.device), 1)
    result = train(config, folder, partial(evaluate, env_config=config.env.validation()), resume=begun)
    gc.collect()  # graphs and their memory hold on to each other
    if result.why == "interrupted":
        raise Stopped
    write(path / DONE, {"steps": result.steps})
    since = f", from step {steps:,}" if steps else ""
    return f"{result.steps:,} steps in {result.seconds:,.0f} s{since}"


def test(run: Planned, root: Path, episodes: int, device: str) -> None:
    """Play the tests of a finished run that it has not played yet, and keep what they found in its folder.

    Raises:
        RuntimeError: a policy broke down.
        ValueError: a policy cannot play one of them.
    """
    folder, _ = RunFolder.open(root / run.name)
    checkpoint = folder.last()
    options = EvalOptions(episodes=episodes, device=device)
    policy = None
    for name, env in run.tests.items():
        file = test_file(folder.path, int(checkpoint.name), name)
        if _has(file, env, episodes):
            continue
        policy = policy or load_policy(checkpoint / "policy", device)
        began = time.monotonic()
        played = play_episodes(policy, env, episodes=episodes, seed=options.seed, device=device)
        found = {"checkpoint": int(checkpoint.name), "env": config_to_dict(env), "options": asdict(options)}
        write(file, found | {"seconds": time.monotonic() - began} | measured(played))


def finished_at(run: Path) -> int | None:
    """Return the steps of a run that the sweep has finished; None where it has not.

    A mark of one line says so: to read the whole state of training for it would take a sweep of many runs minutes.
    """
    try:
        return int(json.loads((run / DONE).read_text())["steps"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{run / DONE} is damaged; remove it, and the checkpoint says how far the run is") from None


def test_file(run: Path, steps: int, name: str) -> Path:
    """Return where a run keeps what a test found."""
    return run / f"eval-{steps}-{name}.json"


def tested(run: Planned, root: Path) -> dict[str, dict[str, float]]:
    """Return the mean figures of every test that a finished run has played, by the name of the test."""
    path = root / run.name
    if (steps := finished_at(path)) is None:
        return {}
    found = {}
    for name in run.tests:
        file = test_file(path, steps, name)
        if file.is_file():
            found[name] = means(json.loads(file.read_text()))
    return found


def play(root: Path, name: str, env: EnvConfig, episodes: int, device: str) -> dict[str, dict[str, float]]:
    """Let the players of a task that do not learn play what agents are tested on, and return their mean figures.

    What they reached is kept beside the runs, as `mnemic eval oracle --json` writes it.
    """
    found = {}
    makers: dict[str, Oracle | None] = {"oracle": env.oracle(), "memoryless": env.memoryless()}
    for player, rule in makers.items():
        if rule is None:
            continue
        file = root / f"{name}-{player}.json"
        if not _has(file, env, episodes):
            root.mkdir(parents=True, exist_ok=True)
            played = play_rule(rule, env, episodes=episodes, device=device)
            options = {"episodes": episodes, "seed": 0, "rows": 0, "steps": 0, "device": device}
            write(file, {"player": player, "env": config_to_dict(env), "options": options} | measured(played))
        found[player] = means(json.loads(file.read_text()))
    return found


def means(found: dict[str, Any]) -> dict[str, float]:
    """Return the mean figures of an evaluation."""
    return {name: each["value"] for name, each in found["figures"].items() if each["value"] is not None}


def _has(file: Path, env: EnvConfig, episodes: int) -> bool:
    """Say whether an evaluation is there, of this task and of as many episodes."""
    try:
        found = json.loads(file.read_text())
        return bool(found["env"] == json.loads(json.dumps(config_to_dict(env)))) and found["episodes"] >= episodes
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def write(file: Path, found: Any) -> None:
    """Write JSON in one piece: a sweep beside this one may be about to read it."""
    partial_file = file.with_name(f".{file.name}.{os.getpid()}")
    partial_file.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(partial_file, file)


def say(text: str) -> None:
    """Say where the sweep stands."""
    print(text, file=sys.stderr, flush=True)
