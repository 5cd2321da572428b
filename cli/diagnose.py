"""`mnemic diagnose RUN`: what an agent's memory holds, for how long, and what a long life does to it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..agents.checkpoint import load_policy
from ..agents.policy import Policy
from ..envs import config_to_dict
from ..envs.step import EnvConfig
from ..eval.diagnose.curves import Point, Reading, readings
from ..eval.diagnose.found import Diagnosis, as_data
from ..eval.diagnose.norms import RULE, Life, live
from ..eval.diagnose.picture import write
from ..eval.diagnose.play import longest_trial
from ..eval.diagnose.record import Read, Recording, record
from ..eval.diagnose.timescales import HalfLives, by_gate, by_regression
from ..eval.statistics import Interval
from . import choices, flags
from .bench_report import describe
from .runs import checkpoint_of, open_run
from .tables import table, write_new

LEAST_STEPS, MOST_STEPS = 256, 2048  # of a recording whose length is not given
LONGER, MOST_LONG, LONG_ROWS = 16, 20_000, 16  # a long life whose length is not given, and its rows


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions:
    """How to look into a memory."""

    steps: int = 0
    """Steps of each row that probes and half-lives are made from; 0: of a trial, at least 256 and at most 2,048."""
    rows: int = 256
    """Environments side by side: probes learn from the first half of them and are tested on the others."""
    read: Read = "auto"
    """What probes read: the output of the core, its state, or both. auto: both; of a cache the output alone."""
    project: int = 256
    """A state of more numbers than this is read through so many random projections."""
    long: int = -1
    """Steps of a life without forgetting, which shows whether the state outgrows training; -1: 16 times `trained`, at
    most 20,000; 0: none."""
    trained: int = 0
    """Steps of the longest trials of training, beside which that life is held; 0: as the task of the run says, or the
    window of its updates where that is unknown."""
    seed: int = 0
    """Other seeds give other tasks."""
    sample: bool = False
    """Draw actions as in training, instead of taking the most likely one."""
    checkpoint: int = -1
    """Steps of the checkpoint to load; -1 for the newest."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot be looked at."""
        least = {"steps": 0, "rows": 4, "project": 1, "long": -1, "trained": 0, "seed": 0, "checkpoint": -1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")


@dataclass(frozen=True, kw_only=True)
class _Options(DiagnoseOptions):
    """How to look into a memory, and on what task."""

    env: EnvConfig = field(kw_only=True)
    """Options of the task, as in training unless changed here."""


def diagnose(argv: list[str]) -> int:
    """Diagnose a run: print tables, and write JSON, a PNG and TensorBoard data into its folder."""
    folder, config, rest = open_run(argv, "diagnose", DiagnoseOptions())
    options = flags.parse(_Options(env=config.env), rest, prog=f"mnemic diagnose {folder.path}")
    choices.check_device(options.device)
    checkpoint = checkpoint_of(folder, options.checkpoint)
    policy = load_policy(checkpoint / "policy", options.device)
    trained = options.trained or longest_trial(config.env) or config.ppo.window
    long = min(LONGER * trained, MOST_LONG) if options.long < 0 else options.long
    if 0 < long <= trained:
        raise ValueError(f"long is {long}, and training had trials of {trained:,} steps; give it more, or 0 for none")
    steps = options.steps or max(LEAST_STEPS, min(longest_trial(options.env) or 0, MOST_STEPS))
    title = f"{options.env.label}: {config.memory.name}, checkpoint {int(checkpoint.name):,}, {_manner(options)}"
    recording, found = _look(policy, options, steps, trained, long)
    _show(title, recording, found, options)
    data = {
        "checkpoint": int(checkpoint.name),
        "env": config_to_dict(options.env),
        "options": {name: value for name, value in asdict(options).items() if name != "env"}
        | {"steps": steps, "trained": trained, "long": long},
        "device": describe(torch.device(options.device)),
        "state_units": recording.state_units,
        **as_data(found),
    }
    path = write_new(folder.path, f"diagnose-{checkpoint.name}-{time.strftime('%Y%m%d-%H%M%S')}", data)
    write(found, path.with_suffix(".png"), path.with_suffix(""), f"{folder.path.name}: {title}")
    print(f"written    {path}, {path.with_suffix('.png').name}, {path.stem}/ (TensorBoard)")
    return 0


def _manner(options: DiagnoseOptions) -> str:
    return "sampled" if options.sample else "greedy"


def _look(policy: Policy, options: _Options, steps: int, trained: int, long: int) -> tuple[Recording, Diagnosis]:
    plays: dict[str, Any] = {"seed": options.seed, "greedy": not options.sample, "device": options.device}
    with Console(stderr=True).status("playing") as status:
        recording = record(
            policy,
            options.env,
            steps=steps,
            rows=options.rows,
            read=options.read,
            project=options.project,
            **plays,
        )
        status.update("timing units")
        half_lives = [by_regression(name, units, recording.starts_TB) for name, units in recording.units.items()]
        half_lives += [by_gate(f"gate {name}", kept) for name, kept in recording.kept.items()]
        found = readings(recording, lambda what: status.update(f"probing {what}"))
        life = None
        if long:
            rows = min(options.rows, LONG_ROWS)
            life = live(
                policy,
                options.env,
                steps=long,
                rows=rows,
                trained=trained,
                tell=lambda done: status.update(f"a long life: {done:,} of {long:,} steps"),
                **plays,
            )
    return recording, Diagnosis(found, half_lives, life)


def _show(title: str, recording: Recording, found: Diagnosis, options: _Options) -> None:
    console = Console(highlight=False)
    console.print(Text(title, style="bold"), soft_wrap=True)
    if found.readings:
        _print(console, _read_table(found.readings))
        console.print(
            "accuracy of linear probes with 95 % intervals over rows; input: what the core is told now, the control; "
            "chance: always the most frequent; delay: steps since it was shown; overwritten: contents before it; "
            "1 before: the content whose place it took.",
            soft_wrap=True,
        )
        if "state" in recording.features and recording.state_units > options.project:
            console.print(
                f"state: {recording.state_units:,} numbers through {options.project} random projections", soft_wrap=True
            )
    elif recording.tracks:
        console.print("what the task hides was told too seldom for a probe: more --steps or --rows, or a better agent")
    else:
        console.print(f"{options.env.label} hides nothing that a probe could look for")
    if found.half_lives:
        _print(console, _half_life_table(found.half_lives))
    if found.life:
        _print(console, _size_table(found.life))
        _print_rewards(console, found.life)


def _print(console: Console, made: Table) -> None:
    least = Measurement.get(console, console.options.update(width=1000), made).maximum
    console.width = max(console.width, least)  # a terminal breaks a line that is too long; no figure is cut
    console.print(made)


def _read_table(found: list[Reading]) -> Table:
    lines = []
    probes = {(each.hidden, each.source, each.back): each for each in found}
    for each in found:
        if each.back:
            continue
        last = each.by_number[-1] if len(each.by_number) > 1 else None
        old = [probes.get((each.hidden, each.source, back)) for back in (1, 2)]
        lines.append(
            [
                each.hidden,
                each.source,
                _words(each.accuracy),
                f"{each.chance:.3f}",
                *(_at(each.by_age[place]) if each.by_age else "" for place in (0, -1)),
                _at(last) if last else "",
                *(f"{other.accuracy.value:.3f} ({other.chance:.3f})" if other else "" for other in old),
            ]
        )
    header = ["hidden", "read from", "accuracy", "chance", "shortest delay", "longest delay", "most overwritten"]
    return table([*header, "1 before (chance)", "2 before (chance)"], lines)


def _words(figure: Interval) -> str:
    between = "" if math.isnan(figure.low) else f" ({figure.low:.3f} to {figure.high:.3f})"
    return f"{figure.value:.3f}{between}"


def _at(point: Point) -> str:
    return f"{point.at:,.0f}: {point.accuracy.value:.3f}"


def _half_life_table(found: list[HalfLives]) -> Table:
    lines = []
    for each in found:
        parts = (0.25, 0.5, 0.75) if len(each.steps_U) else ()
        quarters = [float(np.quantile(each.steps_U, part, method="lower")) for part in parts]
        beyond = int(np.isinf(each.steps_U).sum())
        lines.append(
            [
                each.name,
                f"{len(each.steps_U):,}",
                *(_steps(value, each.longest) for value in quarters),
                *([""] * (3 - len(quarters))),
                f"{beyond:,}",
                f"{each.still:,}",
            ]
        )
    return table(["half-life of", "units", "a quarter below", "median", "a quarter above", "longer", "still"], lines)


def _steps(value: float, longest: int | None) -> str:
    if math.isinf(value):
        return "no end" if longest is None else f"> {longest:,}"
    return f"{value:,.1f}"


def _size_table(life: Life) -> Table:
    lines = [
        [
            norm.name,
            f"{norm.rms_T[: life.trained].max():.4g}",
            f"{norm.rms_T[life.trained :].max():.4g}",
            f"{norm.ratio:.2f}x",
            f"above {RULE:g}x" if norm.collapses else "",
        ]
        for norm in life.norms
    ]
    return table(["size of", f"most in {life.trained:,} steps", "most after", "ratio", ""], lines)


def _print_rewards(console: Console, life: Life) -> None:
    inside, outside = life.rewards()
    console.print(
        f"sizes: root mean square, in {len(life.reward_T):,} steps of a memory that is emptied once; "
        f"reward of a step: {inside:.4f} in the first {life.trained:,}, {outside:.4f} after",
        soft_wrap=True,
    )
