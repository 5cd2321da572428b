"""`mnemic eval oracle`, `memoryless` and `random`: what a task pays to its scripted players, and to chance."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..envs import config_to_dict
from ..envs.step import EnvConfig
from ..eval.protocol import play_rule
from . import choices, flags
from .played import draw, show

PLAYERS = {
    "oracle": "the task's scripted player, which knows no more than an agent is told unless the task says so",
    "memoryless": "the task's scripted player without memory: it knows no more than the frame and its last action",
    "random": "a player for whom every action is as likely as any other",
}


@dataclass(frozen=True, kw_only=True)
class PlayerOptions:
    """What to play."""

    episodes: int = 1000
    """Fresh episodes, at least: those that `mnemic eval RUN` plays with the same seed and rows."""
    seed: int = 0
    """Other seeds give other episodes."""
    rows: int = 0
    """Environments side by side; 0 chooses."""
    steps: int = 0
    """Stop after so many steps of each row; 0 for no limit."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    json: str = ""
    """Write the figures to this file too, and beside it the curve by place in the trial as a PNG."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        for name, least in (("episodes", 1), ("seed", 0), ("rows", 0), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.json and not self.json.endswith(".json"):
            raise ValueError(f"--json takes a name that ends in .json, {self.json!r} came")
        if self.json and not Path(self.json).parent.is_dir():  # said before the play, not after
            raise ValueError(f"--json {self.json}: the folder {Path(self.json).parent} is not there; make it first")


@dataclass(frozen=True, kw_only=True)
class _Options(PlayerOptions):
    """What to play, and on what task."""

    env: EnvConfig = field(kw_only=True)
    """Options of the task."""


def evaluate_player(argv: list[str]) -> int:
    """Let one of `PLAYERS`, named first, play the task that `--env` names."""
    player, rest = argv[0], argv[1:]
    env, rest = flags.take(rest, "--env")
    prog = f"mnemic eval {player} --env {env or 'NAME'}"
    if env is None:
        if any(word in flags.HELP for word in rest):
            print(f"{PLAYERS[player]}; with --env NAME the options of the task are shown too (--env.X)\n")
            flags.parse(PlayerOptions(), rest, prog=prog)
        raise ValueError(f"eval {player} needs a task: `{prog}`; `mnemic list envs` shows what there is")
    options = flags.parse(_Options(env=choices.env_config(env)), rest, prog=prog, also=("--env",))
    choices.check_device(options.device)
    makers = {"oracle": options.env.oracle, "memoryless": options.env.memoryless}
    scripted = makers[player]() if player in makers else None
    if player in makers and scripted is None:
        label = options.env.label
        raise ValueError(f"{label} has no {player} player; `mnemic eval random --env {label}` plays it")
    began = time.monotonic()
    played = play_rule(
        scripted,
        options.env,
        episodes=options.episodes,
        seed=options.seed,
        rows=options.rows or None,
        device=options.device,
        max_steps=options.steps or None,
    )
    seconds = time.monotonic() - began
    title = f"{options.env.label}: {len(played.returns):,} fresh episodes, {player}"
    found = {
        "player": player,
        "env": config_to_dict(options.env),
        "options": {name: value for name, value in asdict(options).items() if name not in ("env", "json")},
        "seconds": seconds,
    } | show(title, played)
    if options.json:
        file = Path(options.json)
        file.write_text(json.dumps(found, indent=2) + "\n")
        print("written    " + ", ".join(map(str, draw(title, played, file))))
    return 0
