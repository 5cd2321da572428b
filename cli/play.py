"""`mnemic play`: watch an agent, in the terminal or as a GIF."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..agents.checkpoint import load_policy
from ..envs.picture import to_text
from ..envs.step import EnvConfig
from ..eval.play import Frame, heat, watch, write_gif
from . import flags
from .runs import checkpoint_of, open_run

SHADES = " ░▒▓█"


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """What to watch, and how."""

    gif: str = ""
    """Write an animated GIF to this file instead of drawing in the terminal."""
    episodes: int = 3
    """Episodes to watch."""
    steps: int = 500
    """Stop after so many steps."""
    seed: int = 0
    """Other seeds give other episodes."""
    sample: bool = False
    """Draw actions as in training, instead of taking the most likely one."""
    delay: float = 0.25
    """Seconds between two steps."""
    checkpoint: int = -1
    """Steps of the checkpoint to load; -1 for the newest."""

    def __post_init__(self) -> None:
        """Refuse what cannot be watched."""
        for name, least in (("episodes", 1), ("steps", 1), ("seed", 0), ("delay", 0), ("checkpoint", -1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class _Options(PlayOptions):
    """What to watch, and how."""

    env: EnvConfig = field(kw_only=True)
    """Options of the task, as in training unless changed here."""


def play(argv: list[str]) -> int:
    """Show a run's agent at work."""
    folder, config, rest = open_run(argv, "play", PlayOptions())
    options = flags.parse(_Options(env=config.env), rest, prog=f"mnemic play {folder.path}")
    policy = load_policy(checkpoint_of(folder, options.checkpoint) / "policy")
    frames = watch(
        policy,
        options.env,
        episodes=options.episodes,
        seed=options.seed,
        greedy=not options.sample,
        max_steps=options.steps,
    )
    if options.gif:
        path = Path(options.gif)
        if path.suffix.lower() != ".gif":
            raise ValueError(f"--gif takes a name that ends in .gif, {options.gif!r} came")
        if not path.parent.is_dir():  # said before minutes of play, not after
            raise ValueError(f"--gif {path}: the folder {path.parent} is not there; make it first")
        shown = list(frames)
        write_gif(shown, path, seconds_per_step=options.delay)
        print(f"{path}: {len(shown)} frames")
    else:
        _show(frames, options.delay)
    return 0


def _show(frames: Iterable[Frame], delay: float) -> None:
    """Draw frames in place in a terminal; elsewhere print them one after the other."""
    if not sys.stdout.isatty():
        for frame in frames:
            drawn = [f"{words} |{_shaded(value_C)}|" for words, value_C in _strips(frame)]
            print("\n".join([to_text(frame.picture), frame.caption, *drawn, ""]))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        for frame in frames:
            live.update(_drawn(frame), refresh=True)
            time.sleep(delay * (4 if frame.outcome else 1))


def _drawn(frame: Frame) -> Group:
    strips = []
    for words, value_C in _strips(frame):
        strips.append(Text(f"{words} "))
        for value in value_C.tolist():
            strips[-1].append(" ", f"on rgb({','.join(map(str, heat(value)))})")
    return Group(Text.from_ansi(to_text(frame.picture, colour=True)), Text(frame.caption), *strips)


def _strips(frame: Frame) -> list[tuple[str, NDArray[np.float64]]]:
    """Return what a terminal shows as strips, numbers in -1..1 behind a word."""
    strips = [("memory", frame.memory)]
    if (seen := frame.attention) is not None:
        strips.append(("attends", seen.share_C / max(seen.share_C.max(), 1e-9)))
    return strips


def _shaded(value_C: NDArray[np.float64]) -> str:
    return "".join(SHADES[min(int(abs(value) * len(SHADES)), len(SHADES) - 1)] for value in value_C.tolist())
