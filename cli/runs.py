"""Runs that a command is given, and their checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..train.config import TrainConfig
from ..train.run import RunFolder
from . import flags
from .names import choose


def open_run(argv: list[str], command: str, defaults: Any) -> tuple[RunFolder, TrainConfig, list[str]]:
    """Open the run that the first argument names.

    Args:
        argv: the arguments of the command.
        command: its name.
        defaults: its options, shown where --help comes without a run; the program then ends.

    Returns:
        The run, its configuration, with the task as it is evaluated (`EnvConfig.validation`), and the other arguments.

    Raises:
        ValueError: no run is named, or it is no run folder.
    """
    path, rest = flags.take_first(argv)
    if path is None:
        if any(word in flags.HELP for word in rest):
            print(f"With `mnemic {command} RUN --help`, the options of the run's task are shown too (--env.X).\n")
            flags.parse(defaults, rest, prog=f"mnemic {command} RUN")
        raise ValueError(f"a run folder comes first: `mnemic {command} RUN`{newest_hint()}")
    folder, config = open_folder(path)
    return folder, replace(config, env=config.env.validation()), rest


def open_folder(path: str) -> tuple[RunFolder, TrainConfig]:
    """Open a run by its path.

    Raises:
        ValueError: it is no run folder; the message names the newest one that is.
    """
    if not (Path(path) / "config.json").is_file():
        state = "has no config.json" if Path(path).is_dir() else "is not there"
        raise ValueError(f"{path} is not a run folder: it {state}{newest_hint()}")
    return RunFolder.open(Path(path))


def newest_hint(runs: Path = Path("runs")) -> str:
    """Return a hint at the newest run of a folder, or nothing where there is none."""
    found = sorted(runs.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return f"; the newest run is {found[-1].parent}" if found else ""


def checkpoint_of(folder: RunFolder, steps: int) -> Path:
    """Return a checkpoint of a run by its steps; -1 for the newest.

    Raises:
        ValueError: there is none at these steps; the message lists those that are there.
    """
    newest = folder.last()
    if steps < 0:
        return newest
    there = sorted((path.name for path in folder.checkpoints.glob("[0-9]*")), key=int)
    return folder.checkpoints / choose("checkpoint", str(steps), there)
