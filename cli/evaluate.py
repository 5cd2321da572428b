"""`mnemic eval`: fresh episodes, figures with intervals, and a JSON file beside the run."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..agents.checkpoint import load_policy
from ..envs import config_to_dict
from ..envs.step import EnvConfig
from ..eval.protocol import play_episodes
from ..eval.statistics import Interval
from ..eval.summary import by_place, summarise
from ..train.config import TrainConfig
from ..train.run import RunFolder
from . import choices, flags
from .runs import checkpoint_of, open_run


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How to evaluate."""

    episodes: int = 1000
    """Fresh episodes, at least."""
    seed: int = 0
    """Other seeds give other episodes."""
    sample: bool = False
    """Draw actions as in training, instead of taking the most likely one."""
    rows: int = 0
    """Environments side by side; 0 chooses."""
    steps: int = 0
    """Stop after so many steps of each row; 0 for no limit."""
    checkpoint: int = -1
    """Steps of the checkpoint to load; -1 for the newest."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        for name, least in (("episodes", 1), ("seed", 0), ("rows", 0), ("steps", 0), ("checkpoint", -1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class _Options(EvalOptions):
    """How to evaluate, and on what."""

    env: EnvConfig = field(kw_only=True)
    """Options of the task, as in training unless changed here."""


def evaluate(argv: list[str]) -> int:
    """Evaluate a run."""
    folder, config, rest = open_run(argv, "eval", EvalOptions())
    options = flags.parse(_Options(env=config.env), rest, prog=f"mnemic eval {folder.path}")
    choices.check_device(options.device)
    evaluate_run(folder, config, options, options.env)
    return 0


def evaluate_run(folder: RunFolder, config: TrainConfig, options: EvalOptions, env: EnvConfig | None = None) -> None:
    """Play, print a table and write `eval-<steps>-<time>.json` into the run folder.

    Args:
        folder: the run.
        config: of the run.
        options: how to play.
        env: the task; None: as in training.
    """
    env = env or config.env
    checkpoint = checkpoint_of(folder, options.checkpoint)
    policy = load_policy(checkpoint / "policy", options.device)
    began = time.monotonic()
    played = play_episodes(
        policy,
        env,
        episodes=options.episodes,
        seed=options.seed,
        rows=options.rows or None,
        greedy=not options.sample,
        device=options.device,
        max_steps=options.steps or None,
    )
    seconds = time.monotonic() - began
    figures, places = summarise(played), by_place(played)
    manner = "sampled" if options.sample else "greedy"
    title = f"{env.label}: {len(played.returns):,} fresh episodes, {manner}, checkpoint {int(checkpoint.name):,}"
    console = Console(highlight=False)
    console.print(title, style="bold")
    console.print(_table(["figure", "mean", "95 % interval"], [[n, *_words(f)] for n, f in figures.items()]))
    if places:
        header = ["episode", *(word for name in places[0] for word in (name, "95 % interval"))]
        lines = [[str(i + 1), *(word for f in place.values() for word in _words(f))] for i, place in enumerate(places)]
        console.print("by place of the episode in its trial", style="bold")
        console.print(_table(header, lines))
    found = {
        "checkpoint": int(checkpoint.name),
        "env": config_to_dict(env),
        "options": {name: value for name, value in asdict(options).items() if name != "env"},
        "episodes": len(played.returns),
        "seconds": seconds,
        "figures": {name: _plain(figure) for name, figure in figures.items()},
        "by_episode": [{name: _plain(figure) for name, figure in place.items()} for place in places],
    }
    stem = f"eval-{checkpoint.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"written    {_write_new(folder.path, stem, found)}")


def _table(header: list[str], lines: list[list[str]]) -> Table:
    table = Table()
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _words(figure: Interval) -> tuple[str, str]:
    between = "unknown" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
    return f"{figure.value:.3f}", between


def _plain(figure: Interval) -> dict[str, float | None]:
    """Return the figure for JSON, which knows no NaN."""
    return {name: None if math.isnan(value) else value for name, value in figure._asdict().items()}


def _write_new(folder: Path, stem: str, found: dict[str, Any]) -> Path:
    """Write a file that is not there yet: the stem, or the stem and a number."""
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            with path.open("x") as file:
                file.write(json.dumps(found, indent=2) + "\n")
            return path
        except FileExistsError:
            number += 1
