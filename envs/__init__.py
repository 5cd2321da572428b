"""Environments that ask for memory, batched, and the registry that names them."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from difflib import get_close_matches
from typing import Any

from .color_cubes import ColorCubesConfig
from .dark_key_to_door import DarkKeyToDoorConfig
from .darkroom import DarkroomConfig
from .endless_tmaze import EndlessTMazeConfig
from .object_nav import ObjectNavConfig
from .repeat_previous import RepeatPreviousConfig
from .step import EnvConfig
from .tmaze import TMazeConfig
from .to_gymnasium import register
from .trials import TrialsConfig

__all__ = ["ENVS", "config_from_dict", "config_to_dict", "make_config"]

GYM, TRIALS = "gym", "trials"

ENVS: dict[str, type[EnvConfig]] = {
    config.name: config
    for config in (
        EndlessTMazeConfig,
        ColorCubesConfig,
        DarkKeyToDoorConfig,
        DarkroomConfig,
        TMazeConfig,
        RepeatPreviousConfig,
        ObjectNavConfig,
    )
}


def make_config(name: str, **options: Any) -> EnvConfig:
    """Return the options of an environment.

    Args:
        name: one of `ENVS`, `gym:` and the id of a Gymnasium environment, or `trials:` and any of these.
        options: its fields; what is not given stays at its default. Of trials, `task` is a dictionary of those of the
            task.

    Raises:
        ValueError: there is no such environment or option, or the options contradict each other.
    """
    kind, _, rest = name.partition(":")
    if kind == GYM and rest:
        return _make(GYM, {"id": rest} | options)
    if kind == TRIALS and rest:
        return _make(TRIALS, options | {"task": make_config(rest, **options.get("task", {}))})
    return _make(name, options)


def config_to_dict(config: EnvConfig) -> dict[str, Any]:
    """Return plain data from which `config_from_dict` makes the same options: `name` and the fields."""
    plain = {"name": config.name, **asdict(config)}
    return plain | {"task": config_to_dict(config.task)} if isinstance(config, TrialsConfig) else plain


def config_from_dict(found: dict[str, Any]) -> EnvConfig:
    """Return the options that `config_to_dict` gave.

    Raises:
        ValueError: the name or a field is unknown, or a field is missing or has a value that it cannot have.
    """
    options = dict(found)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"an environment needs a name, one of {', '.join([*ENVS, GYM, TRIALS])}; {name!r} came")
    missing = [field.name for field in fields(_kind(name)) if field.name not in options]
    if missing:
        raise ValueError(f"{name}: {', '.join(missing)} missing; the fields are {_fields(_kind(name))}")
    if name == TRIALS:
        if not isinstance(options["task"], dict):
            raise ValueError(f"{name}: task is {options['task']!r}; a name and fields are expected")
        options["task"] = config_from_dict(options["task"])
    return _make(name, options)


def _kind(name: str) -> type[EnvConfig]:
    if name == GYM:
        # Only here, so that Gymnasium's worker processes and their parts are loaded by those who need them.
        from .from_gymnasium import GymConfig

        return GymConfig
    if name == TRIALS:
        return TrialsConfig
    if name not in ENVS:
        near = get_close_matches(name, ENVS, n=3, cutoff=0.5)
        choices = [*near, *(known for known in ENVS if known not in near), f"{GYM}:<id of a Gymnasium environment>"]
        choices.append(f"{TRIALS}:<any of these>")
        raise ValueError(f"unknown environment {name!r}; choose one of {', '.join(choices)}")
    return ENVS[name]


def _make(name: str, options: dict[str, Any]) -> EnvConfig:
    kind = _kind(name)
    unknown = [option for option in options if option not in {field.name for field in fields(kind)}]
    if unknown:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}; the options are {_fields(kind)}")
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    missing = [name for name in needed if name not in options]
    if missing:
        raise ValueError(f"{name}: {', '.join(missing)} missing")
    return kind(**options)


def _fields(kind: type[EnvConfig]) -> str:
    return ", ".join(field.name for field in fields(kind))


register()
