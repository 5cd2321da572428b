"""Acting: a window of T steps in B rows, with the memory at its start stored once.

Shapes: T time, B rows, A numbers that describe an action distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..agents.encoder import Inputs
from ..agents.policy import Policy
from ..envs.step import Env, Step
from ..memory.core import State, map_state, rows


class Acting(NamedTuple):
    """Where B environments and their agent stand between two steps: everything that acting goes on from."""

    env_state: Any
    inputs: Inputs  # what the policy is told next
    memory: State


class Window(NamedTuple):
    """What acting leaves for learning. `*_next` belong to the moment after the action of the same t."""

    inputs: Inputs  # (T, B, ...)
    memory: State  # of B rows, before the first step
    action: Tensor  # (T, B, ...)
    log_prob: Tensor  # (T, B)
    value: Tensor  # (T, B)
    reward_next: Tensor  # (T, B)
    terminated_next: Tensor  # (T, B) bool
    truncated_next: Tensor  # (T, B) bool
    trial_over_next: Tensor  # (T, B) bool
    value_next: Tensor  # (T, B): what the state after the action is worth, of the old episode where one was cut off
    info_next: dict[str, Tensor]  # (T, B)


def start(env: Env, policy: Policy) -> Acting:
    """Reset the environments and empty the memory."""
    env_state, step = env.reset()
    inputs = _inputs(step, policy.head.blank(env.batch).to(env.device))
    return _plain(Acting(env_state, inputs, policy.initial_memory(env.batch)))


@torch.no_grad()
def collect(
    env: Env,
    policy: Policy,
    acting: Acting,
    length: int,
    generator: torch.Generator,
    cut_returns: bool,
    *,
    enough: Callable[[int], bool] | None = None,
) -> tuple[Window, Acting]:
    """Act for `length` steps in every row.

    Where an episode is truncated (with `cut_returns` false: where it is truncated because its trial is over) the
    return goes on with the value of the final observation, from the memory as it was then. `enough` may end the window
    early: it is asked before each step but the first, with the steps that have been taken.
    """
    memory_at_start = acting.memory
    inputs_T, action_T, log_prob_T, value_T, step_T = [], [], [], [], []
    last_T: list[tuple[Tensor, Tensor]] = []  # where an episode was cut off, and what its end is worth
    for t in range(length):
        if t and enough is not None and enough(t):
            break
        output, memory = policy.step(acting.inputs, acting.memory)
        action = policy.head.sample(output.action, generator)
        env_state, step = env.step(acting.env_state, action)
        inputs_T.append(acting.inputs)
        action_T.append(action)
        log_prob_T.append(policy.head.log_prob(output.action, action))
        value_T.append(output.value)
        step_T.append(step)
        cut_off_B = step.truncated if cut_returns else step.truncated & step.trial_start
        last_T.append((cut_off_B, _final_value(policy, step, action, memory, cut_off_B)))
        acting = Acting(env_state, _inputs(step, action), memory)
    value_T.append(policy.step(acting.inputs, acting.memory)[0].value)
    value_next_T = [torch.where(cut, last, v) for (cut, last), v in zip(last_T, value_T[1:], strict=True)]
    window = Window(
        inputs=_stack(inputs_T),
        memory=memory_at_start,
        action=_stack(action_T),
        log_prob=_stack(log_prob_T),
        value=_stack(value_T[:-1]),
        reward_next=_stack([step.reward for step in step_T]),
        terminated_next=_stack([step.terminated for step in step_T]),
        truncated_next=_stack([step.truncated for step in step_T]),
        trial_over_next=_stack([step.trial_start for step in step_T]),
        value_next=_stack(value_next_T),
        info_next=_stack([step.info for step in step_T]),
    )
    return window, _plain(acting)


def rows_of(window: Window, index: Tensor) -> Window:
    """Return some rows of a window."""
    picked = map_state(lambda part: part[:, index], window._replace(memory=()))
    return cast(Window, picked._replace(memory=rows(window.memory, index)))


def _plain(acting: Acting) -> Acting:
    """Copy what the policy goes on from, so that it lies in memory as it does after a checkpoint was read.

    The same numbers with other strides may take another path through a product, and end in other last bits.
    """
    inputs, memory = map_state(lambda part: part.clone(memory_format=torch.contiguous_format), acting[1:])
    return Acting(acting.env_state, Inputs(*inputs), memory)


def _inputs(step: Step, action: Tensor) -> Inputs:
    return Inputs(step.obs, action, step.reward, step.episode_start, step.trial_start)


def _final_value(policy: Policy, step: Step, action: Tensor, memory: State, cut_off_B: Tensor) -> Tensor:
    """Return what the final observations are worth where episodes were cut off, and zero elsewhere, (B,)."""
    if cut_off_B.device.type == "cpu":
        index = cut_off_B.nonzero().squeeze(1)
        if len(index) == 0:
            return torch.zeros_like(step.reward)
    else:  # no look at the device's data: every row is evaluated
        index = torch.arange(len(cut_off_B), device=cut_off_B.device)
    false = torch.zeros_like(index, dtype=torch.bool)
    inputs = Inputs(rows(step.final_obs, index), action[index], step.reward[index], false, false)
    value = policy.step(inputs, rows(memory, index))[0].value
    return torch.zeros_like(step.reward).index_copy(0, index, value)


def _stack(parts: Sequence[Any]) -> Any:
    return map_state(lambda *tensors: torch.stack(tensors), *parts)
