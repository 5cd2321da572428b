"""`mnemic eval`: fresh episodes, figures with intervals, and a JSON file beside the run."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from ..agents.checkpoint import load_policy
from ..envs import config_to_dict
from ..envs.step import EnvConfig
from ..eval.protocol import play_episodes
from ..train.run import RunFolder
from . import choices, flags, stream
from .played import draw, show
from .players import PLAYERS, evaluate_player
from .runs import checkpoint_of, open_run
from .tables import write_new


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
    """Evaluate a run, by fresh episodes or by streams where flags ask for these; or another player of a task."""
    if argv and argv[0] in PLAYERS:
        return evaluate_player(argv)
    if any(word in flags.HELP for word in argv) and not stream.is_wanted(argv):
        print("Streams under cache policies have flags of their own: `mnemic eval RUN --cache full --help`\n")
    folder, config, rest = open_run(argv, "eval", EvalOptions())
    if stream.is_wanted(rest):
        return stream.evaluate_streams(folder, config, rest)
    prog = f"mnemic eval {folder.path}"
    options = flags.parse(_Options(env=config.env), rest, prog=prog, also=stream.FLAGS)
    choices.check_device(options.device)
    evaluate_run(folder, options, options.env)
    return 0


def evaluate_run(folder: RunFolder, options: EvalOptions, env: EnvConfig) -> None:
    """Play, print a table and write `eval-<steps>-<time>.json` into the run folder, for trials with a curve beside it.

    Args:
        folder: the run.
        options: how to play.
        env: the task.
    """
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
    manner = "sampled" if options.sample else "greedy"
    title = f"{env.label}: {len(played.returns):,} fresh episodes, {manner}, checkpoint {int(checkpoint.name):,}"
    found = {
        "checkpoint": int(checkpoint.name),
        "env": config_to_dict(env),
        "options": {name: value for name, value in asdict(options).items() if name != "env"},
        "seconds": seconds,
    } | show(title, played)
    stem = f"eval-{checkpoint.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    written = draw(title, played, write_new(folder.path, stem, found))
    print("written    " + ", ".join(map(str, written)))
