"""`mnemic train` and `mnemic resume`."""

from __future__ import annotations

import errno
import os
import re
import shlex
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..agents.policy import Policy
from ..eval.protocol import evaluate
from ..train.about import record
from ..train.config import TrainConfig
from ..train.history import check_trials
from ..train.loop import Result
from ..train.loop import train as train_run
from ..train.ranks import Launch, Ranks, together
from ..train.recall import asked
from ..train.run import RunFolder, begin_from
from . import choices, flags
from .evaluate import EvalOptions, evaluate_run
from .runs import newest_hint, open_folder

DEFAULT_RECIPE = "endless-tmaze-lstm"


def train(argv: list[str]) -> int:
    """Train an agent and say how well it does."""
    if any(word in flags.HELP for word in argv):
        _print_choices()
    config, label, path = _configure(argv)
    launch = _launch(config)
    choices.check_kernels(config)
    config = replace(config, threads=config.threads or choices.idle_threads(launch.local_world))
    about, parameters = describe(config, launch)  # builds both, so that what cannot be built leaves no folder behind
    path = path or _free(Path("runs") / f"{label}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}")
    known = {"command": shlex.join(["mnemic", "train", *argv]), "parameters": parameters}
    return _run(path, config, launch, about, known)


def resume(argv: list[str]) -> int:
    """Go on with a run from its newest checkpoint."""
    if any(word in flags.HELP for word in argv):
        print("usage: mnemic resume RUN\n\nGo on with a run from its newest checkpoint, with the configuration it has.")
        return 0
    path, rest = flags.take_first(argv)
    if path is None or rest:
        raise ValueError("resume takes one run folder and nothing else: `mnemic resume RUN`" + newest_hint())
    folder, config = open_folder(path)
    launch = _launch(config)
    steps, finished = folder.progress(config) if folder.begun() else (0, False)
    if finished:
        if launch.rank == 0:
            print(f"{path} is finished, after {steps:,} steps; `mnemic eval {path}` plays it")
        return 0
    about, parameters = describe(config, launch)
    return _run(folder.path, config, launch, about, {"parameters": parameters}, resumed_at=steps)


def _configure(argv: list[str]) -> tuple[TrainConfig, str, Path | None]:
    """Return the configuration that the arguments ask for, a short name for it, and the folder if one is named."""
    recipe, rest = flags.take_first(argv)
    env, rest = flags.take(rest, "--env")
    memory, rest = flags.take(rest, "--memory")
    run, rest = flags.take(rest, "--run")
    if recipe is not None or env is None:
        label = recipe or DEFAULT_RECIPE
        config = choices.recipe_config(label)
    else:  # a recipe is tuned for its task; a task without one begins from the general defaults
        config = choices.recipe_for(env) or TrainConfig()
    if env is not None and env != config.env.label:
        config = replace(config, env=choices.env_config(env))
    if memory is not None and memory != config.memory.name:
        config = replace(config, memory=choices.memory_config(memory))
    if env is not None or memory is not None:
        label = re.sub(r"[^A-Za-z0-9.]+", "-", f"{config.env.label}-{config.memory.name}").strip("-")
    config = flags.parse(
        config,
        rest,
        prog="mnemic train",
        usage="mnemic train [RECIPE] [--env NAME] [--memory NAME] [--run DIR]",
        also=("--env", "--memory", "--run"),
    )
    return config, label, None if run is None else Path(run)


def _launch(config: TrainConfig) -> Launch:
    """Return which of how many processes this is, once the configuration is found fit for them."""
    launch = Launch.here()
    choices.check_device(config.device)
    choices.check_kernels(config)
    launch.device(config.device)
    launch.check(config)
    return launch


def describe(config: TrainConfig, launch: Launch) -> tuple[str, int]:
    """Return what to say of a run before it begins, and how many parameters its policy has."""
    env = config.env.build(1, config.seed, "cpu")
    try:
        policy = Policy(
            config.encoder,
            config.memory,
            env.observation_space,
            env.action_space,
            separate_critic=config.separate_critic,
        )
        check_trials(config.ppo, env)
        if config.ppo.recall_weight:
            asked(env, config.ppo.recall)
        policy.check_episodes(env.longest_episode)
    finally:
        env.close()
    if config.init:  # before the folder of the run is made
        begin_from(policy, Path(config.init))
    parameters = sum(part.numel() for part in policy.parameters())
    threads = f", {config.threads} thread{'s' * (config.threads > 1)}" if config.device == "cpu" else ""
    ranks = f" each of {launch.world} ranks" if launch.world > 1 else ""
    lines = [
        f"task {config.env.label}, memory {config.memory.name}, {parameters:,} parameters; "
        f"device {config.device}{threads}{ranks}"
    ]
    if config.ppo.wait_for < 1 and launch.world == 1:
        lines.insert(0, "note: --ppo.wait-for cuts short the windows of other ranks, and there are none")
    if 0 < config.ppo.recompute < (env.trial_steps or 0) - config.ppo.window:
        again = f"goes through {config.ppo.recompute} steps before a window again (--ppo.recompute)"
        lines.insert(0, f"note: learning {again}, and a trial takes up to {env.trial_steps}")
    if config.ppo.cut_returns and env.many_episodes:
        lines.insert(0, "note: a trial holds many episodes; --ppo.no-cut-returns counts what one teaches the next")
    context = getattr(config.memory, "context", None)
    if isinstance(context, int) and env.trial_steps and 0 < context < env.trial_steps:
        trial = f"a trial takes up to {env.trial_steps}"
        lines.insert(0, f"note: the memory reaches back {context} steps (--memory.context), and {trial}")
    return "\n".join(lines), parameters


def _run(
    path: Path,
    config: TrainConfig,
    launch: Launch,
    about: str,
    known: dict[str, Any],
    *,
    resumed_at: int | None = None,
) -> int:
    """Train, together with the other processes of the launch, and evaluate; the first rank speaks for all."""
    with together(launch, launch.device(config.device)) as ranks:
        if ranks.first:
            if resumed_at is None:
                RunFolder.create(path, config)
            record(path, known, launch.device(config.device), launch.world)
            print(
                f"{about}\nrun folder {path}{'' if resumed_at is None else f', from step {resumed_at:,}'}", flush=True
            )
        path, config = ranks.share((path, config))  # the clock is in one, the load of the machine in the other
        folder = RunFolder(path)
        result = _train(folder, config, ranks, resume=resumed_at is not None)
    if launch.rank == 0:
        _tell(folder, config, result)
    return 130 if result.why == "interrupted" else 0


def _train(folder: RunFolder, config: TrainConfig, ranks: Ranks, *, resume: bool) -> Result:
    try:
        return train_run(
            config, folder, partial(evaluate, env_config=config.env.validation()), ranks=ranks, resume=resume
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"{os.strerror(error.errno)}: {folder.path} could not be written; its earlier checkpoints are good: "
            f"make room, then `mnemic resume {folder.path}`"
        ) from None


def _tell(folder: RunFolder, config: TrainConfig, result: Result) -> None:
    path = folder.path
    if result.why == "interrupted":
        print(f"stopped after {result.steps:,} steps; the checkpoint is {folder.last()}")
        print(f"go on with `mnemic resume {path}`")
        return
    why = {"solved": "solved", "done": "all steps done"}[result.why]
    print(f"{why}: {result.steps:,} steps in {result.seconds:.1f} s")
    options = EvalOptions(episodes=config.evaluation.confirm_episodes, device=config.device)
    evaluate_run(folder, options, config.env.validation())
    print(f"curves     tensorboard --logdir {path.parent}, then open http://localhost:6006/#custom_scalars")
    print(f"next       mnemic eval {path}\n           mnemic play {path}")


def _free(path: Path) -> Path:
    """Return the path, or one with a number after it where it is taken: two runs may begin in one second."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _print_choices() -> None:
    print(f"Train an agent: a recipe, or any task with any memory. Without RECIPE and --env: {DEFAULT_RECIPE}.")
    for title, found in (
        ("RECIPE", choices.recipes()),
        ("--env NAME", choices.envs()),
        ("--memory NAME", choices.memories()),
    ):
        width = max(map(len, found))
        print(f"\n{title}\n" + "\n".join(f"  {name:<{width}}  {summary}" for name, summary in found.items()))
    print("\n--run DIR\n  runs/<name>-seed<S>-<time> if not given; a folder that exists is not overwritten\n")
