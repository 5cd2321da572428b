"""Whole trials played by an oracle, or by any other rule: what a task pays to whom.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .step import Env, EnvConfig, Obs, Oracle, Step

Rule = Callable[[Obs, Tensor, Tensor, Tensor], Tensor]  # as `Oracle.act`


def player(rule: Rule | Oracle, env: Env) -> Callable[[Any, Step], Tensor]:
    """Return what acts in an environment, from its state and what it said last."""

    def act(state: Any, step: Step) -> Tensor:
        told = step.obs, step.reward, step.episode_start, step.trial_start
        if not isinstance(rule, Oracle):
            return rule(*told)
        rule.peek(env, state)
        return rule.act(*told)

    return act


class Trials(NamedTuple):
    """One trial per row, the first."""

    returns: Tensor  # (B,) float64: sum of rewards
    steps: Tensor  # (B,) int64
    episodes: Tensor  # (B,) int64: episodes that ended in the trial
    info: dict[str, Tensor]  # (B,) float64: mean over the episodes of the trial


def play_trials(
    config: EnvConfig, rule: Rule | Oracle, *, batch: int, seed: int = 0, device: torch.device | str = "cpu"
) -> Trials:
    """Play the first trial of every row to its end.

    Args:
        config: the task.
        rule: an oracle, or a function like its `act`.
        batch: trials.
        seed: of the environment.
        device: where to play.

    Raises:
        ValueError: the task does not say when its trials end.
    """
    env = config.build(batch, seed, device)
    try:
        if env.trial_steps is None:
            config.refuse("nobody knows when its trials end, so they cannot be played to the end")
        act = player(rule, env)
        state, step = env.reset()
        playing_B = torch.ones(batch, dtype=torch.bool, device=env.device)
        returns_B = torch.zeros(batch, dtype=torch.float64, device=env.device)
        steps_B, episodes_B = returns_B.long(), returns_B.long()
        sums: dict[str, Tensor] = {}
        for _ in range(env.trial_steps):
            state, step = env.step(state, act(state, step))
            returns_B = returns_B + step.reward.double() * playing_B
            steps_B, ended_B = steps_B + playing_B, playing_B & step.episode_start
            episodes_B = episodes_B + ended_B
            sums = {name: sums.get(name, 0) + part.double() * ended_B for name, part in step.info.items()}
            playing_B = playing_B & ~step.trial_start
            if not bool(playing_B.any()):
                break
    finally:
        env.close()
    return Trials(returns_B, steps_B, episodes_B, {name: part / episodes_B for name, part in sums.items()})
