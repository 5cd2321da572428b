"""Fresh episodes, played by a policy that no longer learns, or by a rule.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from ..agents.encoder import Inputs
from ..agents.policy import Policy
from ..envs.oracle import Rule, player
from ..envs.step import Env, EnvConfig, Oracle, Step

MOST_ROWS = 256
EVAL_SEED = 0x5EED_0F_E7A1  # keeps evaluation away from the tasks that training with the same seed has seen


@dataclass
class Played:
    """What was seen in an evaluation: one entry per episode, in no special order.

    Every row plays the same number of trials or more, and only whole ones, so that long episodes are not left out.
    """

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """The place of the episode in its trial, from 0."""
    whole: list[bool] = field(default_factory=list)
    """Whether the episode is whole: not a trial's last one that the clock of the trial cut short."""
    trials: list[tuple[int, int]] = field(default_factory=list)
    """The trial of the episode: its row, and its number in the row."""
    trial_returns: list[float] = field(default_factory=list)
    gains: dict[str, list[float]] = field(default_factory=dict)
    """By figure (`return`, `success`), for each trial with two whole episodes or more: its last minus its first."""
    info: dict[str, list[float]] = field(default_factory=dict)
    rates: set[str] = field(default_factory=set)
    """The names in `info` that are true or false."""
    steps: int = 0
    """Steps of each row."""


@torch.no_grad()
def play_episodes(
    policy: Policy,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int = 0,
    rows: int | None = None,
    greedy: bool = True,
    device: torch.device | str = "cpu",
    max_steps: int | None = None,
) -> Played:
    """Play whole trials until `episodes` episodes have been seen.

    Args:
        policy: acts; not changed.
        env_config: the task.
        episodes: how many at least. Each row plays trials until they hold ceil(episodes / rows) episodes.
        seed: other seeds give other tasks.
        rows: side by side; None chooses.
        greedy: the most likely action; False: actions are drawn.
        device: where the environments live.
        max_steps: stop after so many steps of each row; trials that have not ended by then are left out, but for their
            whole episodes.

    Raises:
        ValueError: the task shows or takes something else than what the policy was made for.
    """
    rows = rows or min(episodes, MOST_ROWS)
    env = env_config.build(rows, seed ^ EVAL_SEED, device)
    try:
        check_fit(policy, env)
        act = _by_policy(policy, env, torch.Generator(env.device).manual_seed(seed), greedy)
        return _play(act, env, -(-episodes // rows), max_steps)
    finally:
        env.close()


@torch.no_grad()
def play_rule(
    rule: Rule | Oracle | None,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int = 0,
    rows: int | None = None,
    device: torch.device | str = "cpu",
    max_steps: int | None = None,
) -> Played:
    """Play the same trials as `play_episodes` by a rule.

    Args:
        rule: an oracle, or a function like its `act`; None: every action is as likely as any other.
        env_config: the task.
        episodes: as in `play_episodes`, and so the others.
        seed: other seeds give other tasks.
        rows: side by side; None chooses.
        device: where the environments live.
        max_steps: stop after so many steps of each row.

    Raises:
        ValueError: actions are to be drawn from a space that has no bounds.
    """
    rows = rows or min(episodes, MOST_ROWS)
    env = env_config.build(rows, seed ^ EVAL_SEED, device)
    try:
        if rule is not None:
            return _play(player(rule, env), env, -(-episodes // rows), max_steps)
        draw = at_random(env, torch.Generator(env.device).manual_seed(seed))
        return _play(lambda _, step: draw(step), env, -(-episodes // rows), max_steps)
    finally:
        env.close()


def _by_policy(policy: Policy, env: Env, generator: torch.Generator, greedy: bool) -> Callable[[Any, Step], Tensor]:
    action_B = policy.head.blank(env.batch).to(env.device)
    memory = policy.initial_memory(env.batch)

    def act(_: Any, step: Step) -> Tensor:
        nonlocal action_B, memory
        inputs = Inputs(step.obs, action_B, step.reward, step.episode_start, step.trial_start)
        output, memory = policy.step(policy.look(inputs), memory)
        action_B = policy.head.mode(output.action) if greedy else policy.head.sample(output.action, generator)
        return action_B

    return act


def at_random(env: Env, generator: torch.Generator) -> Callable[[Step], Tensor]:
    """Return a player that draws every action evenly.

    Raises:
        ValueError: the actions have no bounds.
    """
    space, device = env.action_space, env.device
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            env.config.refuse(f"its actions are {space}, which has no bounds, so none can be drawn evenly")
        low, high = (torch.from_numpy(bound).to(device) for bound in (space.low, space.high))
        span = high - low
    else:
        low = torch.zeros((), dtype=torch.int64, device=device)
        span = torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec, device=device)  # type: ignore[attr-defined]
    shape = (env.batch, *(space.shape or ()))

    def act(step: Step) -> Tensor:
        drawn = torch.rand(shape, generator=generator, device=device) * span
        return low + drawn.to(low.dtype)

    return act


def _play(act: Callable[[Any, Step], Tensor], env: Env, quota: int, max_steps: int | None) -> Played:
    """Play until every row has ended the trial in which it saw its `quota`-th episode."""
    played = Played()
    state, step = env.reset()
    return_B, trial_return_B, nothing_B = (
        torch.zeros(env.batch, dtype=torch.float64, device=env.device) for _ in range(3)
    )
    length_B, place_B, seen_B, trial_B, whole_B = (
        torch.zeros(env.batch, dtype=torch.int64, device=env.device) for _ in range(5)
    )
    first: dict[str, Tensor] = {}  # by figure, what the trial's first whole episode reached
    last: dict[str, Tensor] = {}  # and what its latest one did
    active_B = torch.ones(env.batch, dtype=torch.bool, device=env.device)
    while bool(active_B.any()) and (max_steps is None or played.steps < max_steps):
        state, step = env.step(state, act(state, step))
        played.steps += 1
        return_B += step.reward
        trial_return_B += step.reward
        length_B += 1
        if not bool(step.episode_start.any()):
            continue
        counts_B = step.episode_start & active_B
        over_B = step.trial_start & active_B
        played.returns += return_B[counts_B].tolist()
        played.lengths += length_B[counts_B].tolist()
        played.places += place_B[counts_B].tolist()
        ends_whole_B = step.episode_start & ~(step.trial_start & step.truncated & (length_B < env.cut_below))
        played.whole += ends_whole_B[counts_B].tolist()
        played.trials += zip(counts_B.nonzero().squeeze(1).tolist(), trial_B[counts_B].tolist(), strict=True)
        played.trial_returns += trial_return_B[over_B].tolist()
        for name, part in step.info.items():
            played.info.setdefault(name, []).extend(part[counts_B].double().tolist())
        played.rates |= {name for name, part in step.info.items() if part.dtype == torch.bool}
        whole_B += ends_whole_B
        reached = {"return": return_B} | {name: step.info[name].double() for name in ("success",) if name in step.info}
        for name, part_B in reached.items():
            first[name] = torch.where(ends_whole_B & (place_B == 0), part_B, first.get(name, nothing_B))
            last[name] = torch.where(ends_whole_B, part_B, last.get(name, nothing_B))
            learnt_B = over_B & (whole_B >= 2)
            played.gains.setdefault(name, []).extend((last[name] - first[name])[learnt_B].tolist())
        seen_B += step.episode_start
        trial_B += step.trial_start
        active_B = active_B & ~(step.trial_start & (seen_B >= quota))
        place_B = torch.where(step.trial_start, 0, place_B + step.episode_start)
        return_B = torch.where(step.episode_start, 0.0, return_B)
        length_B = torch.where(step.episode_start, 0, length_B)
        trial_return_B, whole_B = (torch.where(step.trial_start, 0, part) for part in (trial_return_B, whole_B))
    return played


def gain_name(figure: str) -> str:
    """Return what the gain of a figure is called: `gain` of the return, `success_gain` of the success."""
    return "gain" if figure == "return" else f"{figure}_gain"


def evaluate(policy: Policy, env_config: EnvConfig, *, episodes: int, seed: int) -> dict[str, float]:
    """Play greedily and return the means of `return`, `length` and every figure that the task gives, as `success`."""
    played = play_episodes(policy, env_config, episodes=episodes, seed=seed, device=policy.device)
    named = {"return": played.returns, "length": [float(n) for n in played.lengths], **played.info}
    if any(played.places):
        named["trial_return"] = played.trial_returns
        named |= {gain_name(name): gains for name, gains in played.gains.items()}
    return {name: sum(values) / len(values) for name, values in named.items() if values}


def check_fit(policy: Policy, env: Env) -> None:
    """Refuse a task that shows or takes something else than what the policy was made for, or has longer episodes.

    Raises:
        ValueError: it does; the message says what.
    """
    for what, made_for, found in (
        ("shows", policy.observation_space, env.observation_space),
        ("takes", policy.action_space, env.action_space),
    ):
        if _form(made_for) != _form(found):
            raise ValueError(
                f"{env.config.label} {what} {_form(found)}, and the policy was made for {_form(made_for)}; "
                "keep the options that change it as they were in training"
            )
    policy.check_episodes(env.longest_episode)


def _form(space: spaces.Space[Any]) -> str:
    """Say what must not differ between two spaces; the bounds of numbers may."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{name}: {_form(part)}" for name, part in sorted(space.spaces.items())) + "}"
    if isinstance(space, spaces.Discrete):
        return f"{space.n} actions"
    return f"{space.dtype} of shape {space.shape}"
