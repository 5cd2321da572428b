"""Environments that ask for memory, batched, and the registry that names them."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from difflib import get_close_matches
from typing import Any

from .color_cubes import ColorCubesConfig
from .dark_key_to_door import DarkKeyToDoorConfig
from .darkroom import DarkroomConfig
from .endless_tmaze import EndlessTMazeConfig
from .repeat_previous import RepeatPreviousConfig
from .step import EnvConfig
from .tmaze import TMazeConfig
from .to_gymnasium import register

__all__ = ["ENVS", "config_from_dict", "config_to_dict", "make_config"]

GYM = "gym"

ENVS: dict[str, type[EnvConfig]] = {
    config.name: config
    for config in (
        EndlessTMazeConfig,
        ColorCubesConfig,
        DarkKeyToDoorConfig,
        DarkroomConfig,
        TMazeConfig,
        RepeatPreviousConfig,
    )
}


def make_config(name: str, **options: Any) -> EnvConfig:
    """Return the options of an environment.

    Args:
        name: one of `ENVS`, or `gym:` and the id of a Gymnasium environment.
        options: its fields; what is not given stays at its default.

    Raises:
        ValueError: there is no such environment or option, or the options contradict each other.
    """
    if name.startswith(f"{GYM}:") and name != f"{GYM}:":
        return _make(GYM, {"id": name.removeprefix(f"{GYM}:")} | options)
    return _make(name, options)


def config_to_dict(config: EnvConfig) -> dict[str, Any]:
    """Return plain data from which `config_from_dict` makes the same options: `name` and the fields."""
    return {"name": config.name, **asdict(config)}


def config_from_dict(found: dict[str, Any]) -> EnvConfig:
    """Return the options that `config_to_dict` gave.

    Raises:
        ValueError: the name or a field is unknown, or a field is missing or has a value that it cannot have.
    """
    options = dict(found)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"an environment needs a name, one of {', '.join(ENVS)} or {GYM}; {name!r} came")
    missing = [field.name for field in fields(_kind(name)) if field.name not in options]
    if missing:
        raise ValueError(f"{name}: {', '.join(missing)} missing; the fields are {_fields(_kind(name))}")
    return _make(name, options)


def _kind(name: str) -> type[EnvConfig]:
    if name == GYM:
        # Only here, so that Gymnasium's worker processes and their parts are loaded by those who need them.
        from .from_gymnasium import GymConfig

        return GymConfig
    if name not in ENVS:
        near = get_close_matches(name, ENVS, n=3, cutoff=0.5)
        choices = [*near, *(known for known in ENVS if known not in near), f"{GYM}:<id of a Gymnasium environment>"]
        raise ValueError(f"unknown environment {name!r}; choose one of {', '.join(choices)}")
    return ENVS[name]


def _make(name: str, options: dict[str, Any]) -> EnvConfig:
    kind = _kind(name)
    unknown = [option for option in options if option not in {field.name for field in fields(kind)}]
    if unknown:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}; the options are {_fields(kind)}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in options]
    if missing:
        raise ValueError(f"{name}: {', '.join(missing)} missing")
    return kind(**options)


def _fields(kind: type[EnvConfig]) -> str:
    return ", ".join(field.name for field in fields(kind))


register()
