"""What a Gymnasium environment shows and takes, and how that is shown to an agent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import EnumType
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from .gym_draw import is_minigrid
from .gym_rows import Field

MINIGRID_PLANES = (11, 6, 3)  # kinds of object, colours, states of a door
TEXT_TRIALS = 20  # fresh episodes that are looked at to learn whether a text ever changes


class Facts(NamedTuple):
    """What one environment, made for that purpose and closed again, tells about all of them."""

    fields: tuple[Field, ...]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    action_names: tuple[str, ...]
    success: Literal["reward", "is_success", "success"] | None
    episode_steps: int | None
    drawable: bool


def ask_one(label: str, make: partial[gymnasium.Env[Any, Any]], *, one_hot: bool) -> Facts:
    """Make one environment, ask it and close it.

    Args:
        label: what messages call it.
        make: makes it.
        one_hot: show MiniGrid's view as one-hot planes.

    Raises:
        ValueError: it cannot be made, or has a space that an agent cannot take.
    """
    try:
        env = make()
    except Exception as error:
        raise ValueError(f"{label} cannot be made: {type(error).__name__}: {error}") from error
    try:
        action = env.action_space
        if not isinstance(action, spaces.Discrete | spaces.Box | spaces.MultiDiscrete):
            raise ValueError(f"{label}: the action space is {action}; Discrete, Box or MultiDiscrete is expected")
        if isinstance(action, spaces.MultiDiscrete) and np.any(action.start):
            raise ValueError(f"{label}: the action space is {action}; a MultiDiscrete must count from 0")
        minigrid, space = is_minigrid(env), env.observation_space
        limits = [env.spec.max_episode_steps if env.spec else None]
        early = getattr(env.unwrapped, "max_steps", None)
        trials = TEXT_TRIALS if any(map(_is_text, _parts(space).values())) else 1
        seen = [env.reset(seed=trial)[0] for trial in range(trials)]
        # Some levels of BabyAI set a new limit at every reset: no limit that could be told beforehand.
        limits.append(early if early == getattr(env.unwrapped, "max_steps", None) else None)
        known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
        fields = _fields(label, space, seen, minigrid and one_hot)
        success: Literal["reward", "is_success", "success"] | None = "reward" if minigrid else None
        if not minigrid:
            action.seed(0)
            info = env.step(action.sample())[4]
            success = "is_success" if "is_success" in info else "success" if "success" in info else None
        drawable = minigrid or env.render_mode == "rgb_array"
        names = _names(env, action)
        return Facts(fields, _shown(space, fields), action, names, success, min(known, default=None), drawable)
    finally:
        env.close()


def _names(env: gymnasium.Env[Any, Any], action: spaces.Space[Any]) -> tuple[str, ...]:
    """Return the names of actions where the environment has them as MiniGrid does: an enumeration, `actions`."""
    named = getattr(env.unwrapped, "actions", None)
    if not isinstance(named, EnumType) or not isinstance(action, spaces.Discrete):
        return ()
    members: list[Any] = list(named)
    numbers = list(range(int(action.start), int(action.start + action.n)))
    return tuple(each.name for each in members) if members == numbers else ()


def _parts(space: spaces.Space[Any]) -> dict[str | None, spaces.Space[Any]]:
    """Return the parts of a space by key; a space that is no Dict is one part, without a key."""
    return dict(space.items()) if isinstance(space, spaces.Dict) else {None: space}


def _is_text(space: spaces.Space[Any]) -> bool:
    return space.dtype is not None and space.dtype.kind == "U"


def _fields(label: str, space: spaces.Space[Any], seen: Sequence[Any], planes: bool) -> tuple[Field, ...]:
    fields = tuple(
        _field(label, key, part, [obs if key is None else obs[key] for obs in seen], planes and key == "image")
        for key, part in _parts(space).items()
    )
    if all(part.shape == (0,) for part in fields):
        raise ValueError(f"{label}: the observation space is {space}; nothing in it can be shown to an agent")
    return fields


def _field(label: str, key: str | None, space: spaces.Space[Any], seen: Sequence[Any], planes: bool) -> Field:
    """Say how a part of an observation is kept and shown."""
    match space:
        case spaces.Box() if planes:
            return Field(key, space.shape, space.dtype, space.shape, np.dtype(np.int64), MINIGRID_PLANES)
        case spaces.Box():
            kept = np.uint8 if space.dtype == np.uint8 else np.float32
            return Field(key, space.shape, space.dtype, space.shape, np.dtype(kept))
        case spaces.Discrete():
            return Field(key, (), space.dtype, (1,), np.dtype(np.int64), (int(space.n),), int(space.start) or None)
        case spaces.MultiDiscrete() if space.nvec.ndim == 1:
            choices = tuple(map(int, space.nvec))
            return Field(
                key,
                space.shape,
                space.dtype,
                space.shape,
                np.dtype(np.int64),
                choices,
                space.start if space.start.any() else None,
            )
        case spaces.MultiBinary():
            return Field(key, space.shape, space.dtype, space.shape, np.dtype(np.float32))
    if _is_text(space):
        return _text_field(label, key, space, seen)
    raise ValueError(
        f"{label}: {key or 'the observation space'} is {space}; Box, Discrete, MultiDiscrete with one axis, "
        "MultiBinary, or a Dict of these is expected"
    )


def _text_field(label: str, key: str | None, space: Any, seen: Sequence[str]) -> Field:
    blanks = getattr(space, "ordered_placeholders", None)
    if blanks:
        ways = itertools.product(*(range(len(words)) for words in blanks))
        texts = {space.mission_func(*(words[i] for words, i in zip(blanks, way, strict=True))): way for way in ways}
    elif len(set(seen)) == 1:
        texts = {seen[0]: ()}
    else:
        raise ValueError(
            f"{label}: {key or 'the observation'} is a text that changes freely, such as {seen[0]!r} and {seen[1]!r}; "
            "wrap the environment so that it shows numbers"
        )
    choices = tuple(len(words) for words in blanks or ())
    return Field(key, (), np.dtype(object), (len(choices),), np.dtype(np.int64), choices, None, texts)


def _shown(space: spaces.Space[Any], fields: Sequence[Field]) -> spaces.Space[Any]:
    """Return the space of what the agent sees."""
    boxes: dict[str | None, spaces.Box] = {}
    for part in fields:
        given = _parts(space)[part.key]
        if part.choices:
            boxes[part.key] = spaces.Box(0.0, 1.0, (*part.shape[:-1], sum(part.choices)), np.float32)
        elif isinstance(given, spaces.Box):
            boxes[part.key] = spaces.Box(given.low, given.high, given.shape, part.dtype.type)
        elif part.shape != (0,):
            boxes[part.key] = spaces.Box(0.0, 1.0, part.shape, np.float32)
    return boxes[None] if None in boxes else spaces.Dict({str(key): box for key, box in boxes.items()})
