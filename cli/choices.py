"""What there is to choose from, each with one line on what it is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

from ..envs import ENVS
from ..envs import make_config as make_env
from ..envs.from_gymnasium import GymConfig
from ..envs.step import EnvConfig
from ..envs.trials import TrialsConfig
from ..kernels import backend
from ..memory import MEMORIES
from ..memory import make_config as make_memory
from ..memory.caches import CACHES
from ..memory.core import MemoryConfig
from ..train import recipes as known
from ..train.config import TrainConfig
from ..train.recipes import FAMILIES, RECIPES
from .names import by_likeness, choose

GYM, TRIALS = "gym:", "trials:"


def envs() -> dict[str, str]:
    """Return the environments."""
    named = {name: kind.summary for name, kind in ENVS.items()}
    return named | {f"{GYM}ID": GymConfig.summary, f"{TRIALS}NAME": TrialsConfig.summary}


def memories() -> dict[str, str]:
    """Return the memory cores."""
    return {name: kind.summary for name, kind in MEMORIES.items()}


def caches() -> dict[str, str]:
    """Return the cache policies."""
    return {name: kind.summary for name, kind in CACHES.items()}


def recipes() -> dict[str, str]:
    """Return the recipes; those for any memory once each, with MEMORY in the place of its name."""
    named: dict[str, Callable[..., TrainConfig]] = dict(RECIPES)
    named |= {f"{family}-MEMORY": function for family, function in FAMILIES.items()}
    return {name: (inspect.getdoc(function) or "").partition("\n")[0] for name, function in named.items()}


def kernels() -> dict[str, str]:
    """Return the backends of every kernel, as `--kernels` takes them, and whether each can run on this machine."""
    import torch

    like, found = torch.empty(0, device="cuda" if torch.cuda.is_available() else "cpu"), {}
    for op in sorted(backend.load().values(), key=lambda op: op.name):
        default = op.default(like)
        for name, each in op.backends.items():
            reason = op.refusal(name, like)
            note = " [runs here by default]" if name == default else f" [not here: {reason}]" if reason else ""
            found[f"{op.name}={name}"] = each.summary + note
    return found


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "envs": envs,
    "memories": memories,
    "caches": caches,
    "recipes": recipes,
    "kernels": kernels,
}


def env_config(name: str) -> EnvConfig:
    """Return the options of an environment by name, at their defaults.

    Raises:
        ValueError: there is none of that name.
    """
    if name.startswith(TRIALS) and name != TRIALS:
        return TrialsConfig(task=env_config(name.removeprefix(TRIALS)))
    if name.startswith(GYM) and name != GYM:
        return make_env(name)
    return make_env(choose("environment", name, ENVS, more=f"or {GymConfig.summary}, or {TrialsConfig.summary}"))


def memory_config(name: str) -> MemoryConfig:
    """Return the options of a memory core by name, at their defaults.

    Raises:
        ValueError: there is none of that name.
    """
    return make_memory(choose("memory", name, MEMORIES))


def recipe_config(name: str) -> TrainConfig:
    """Return the configuration of a recipe by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name in ENVS or name.startswith((GYM, TRIALS)):
        raise ValueError(
            f"{name!r} is an environment, not a recipe; write `mnemic train --env {name}`, "
            f"or choose a recipe: {', '.join(by_likeness(name, recipes()))}"
        )
    if name in (names := known.names()):
        return known.recipe(name)
    choose("recipe", name, recipes(), more="MEMORY is one of `mnemic list memories`")
    raise ValueError(f"{name!r}: put a memory in the place of MEMORY, as in {names[-1]}")


def recipe_for(env: str) -> TrainConfig | None:
    """Return the configuration of the recipe for a task, or None where the task has none that this machine can run."""
    import torch

    fits = (config for make in RECIPES.values() if (config := make()).env.label == env)
    return next((config for config in fits if config.device == "cpu" or torch.cuda.is_available()), None)


def check_device(name: str) -> str:
    """Return the name of a device that this machine has.

    Raises:
        ValueError: it does not have it; the message lists what it has.
    """
    import torch

    here = ["cpu"]
    if torch.cuda.is_available():
        here += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        here.append("mps")
    if name in here:
        return name
    raise ValueError(f"device {name!r} is not here; this machine has {', '.join(here)}")


def check_kernels(config: TrainConfig) -> None:
    """Refuse a kernel that a configuration names and that cannot run on its device.

    Raises:
        ValueError: it cannot; the message says why and what can.
    """
    import torch

    like = torch.empty(0, device=config.device)
    for op, name in backend.read(config.kernels).items():
        backend.OPS[op].pick(name, like)


def idle_threads(processes: int = 1) -> int:
    """Return how many threads a run on this machine should use: all cores up to four, or one where others are at work.

    Threads that wait for each other on a busy core make small networks many times slower than one thread is; so
    `processes` that run side by side share the cores.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    return min(cores, 4) if os.getloadavg()[0] < 0.5 else 1
