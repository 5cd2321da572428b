"""An agent at its task, moment by moment, with what its memory core takes, holds and says.

Shapes: B rows, D features of the core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...agents.policy import Policy
from ...envs.step import Env, EnvConfig, Step
from ...memory.core import State, map_state
from ..protocol import EVAL_SEED, check_fit
from ..turns import told


class Moment(NamedTuple):
    """One step of B rows, before the environments answer. It holds until the next is asked for."""

    env: Env
    state: Any
    """Of the environments."""
    step: Step
    """What they said last."""
    forgets_B: Tensor
    """(B,) bool: the memory was emptied before this step."""
    given_BD: Tensor
    """What the core takes in."""
    said_BD: Tensor
    """What the core says, the features that the heads read."""
    memory: State
    """After this step."""
    gates: dict[str, Tensor]
    """How open the gates of this step were, if they were asked for."""


@torch.no_grad()
def play(
    policy: Policy,
    env_config: EnvConfig,
    *,
    steps: int,
    rows: int,
    seed: int = 0,
    greedy: bool = True,
    device: torch.device | str = "cpu",
    forget: bool = True,
    gates: bool = False,
) -> Iterator[Moment]:
    """Yield `steps` moments of `rows` rows, one trial after another.

    Args:
        policy: acts; not changed.
        env_config: the task.
        steps: of each row.
        rows: side by side.
        seed: other seeds give other tasks; the same tasks as those of `play_episodes`.
        greedy: the most likely action; False: actions are drawn.
        device: where the environments live.
        forget: memory is emptied where a trial starts. False: at the first step alone, and then it lives on.
        gates: ask the core for its gates too.

    Raises:
        ValueError: the task shows or takes something else than what the policy was made for.
    """
    env = env_config.build(rows, seed ^ EVAL_SEED, device)
    try:
        check_fit(policy, env)
        core, head = policy.core, policy.head
        generator = torch.Generator(env.device).manual_seed(seed)
        state, step = env.reset()
        inputs = told(step, head.blank(rows).to(env.device))
        memory = map_state(torch.clone, policy.initial_memory(rows))  # its own, since it may be written to
        for number in range(steps):
            if number and not forget:
                inputs = inputs._replace(trial_start=torch.zeros_like(inputs.trial_start))
            given_BD, *flags = policy.told(policy.look(inputs))
            opened = core.gates(given_BD, memory, flags[0]) if gates else {}
            said_BD, memory = core.advance(given_BD, memory, *flags)
            while core.settles and bool(core.unsettled(memory).any()):
                memory = core.settle(memory)
            yield Moment(env, state, step, inputs.trial_start, given_BD, said_BD, memory, opened)
            output = policy.say(said_BD)
            action_B = head.mode(output.action) if greedy else head.sample(output.action, generator)
            state, step = env.step(state, action_B)
            inputs = told(step, action_B)
    finally:
        env.close()


def longest_trial(env_config: EnvConfig) -> int | None:
    """Return the most steps that a trial of a task can take; None if unknown."""
    env = env_config.build(1, 0)
    try:
        return env.trial_steps
    finally:
        env.close()
