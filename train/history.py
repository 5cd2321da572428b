"""The steps of the running trials before a window, which learning goes through again with the newest weights.

A trial may be longer than a window. What acting has in memory at a window's start was then made by older weights, and
no gradient reaches the steps that made it. So the steps themselves are kept, and learning unrolls [history, window]
from the memory at the history's start: where the history holds the whole trial, nothing is stale and nothing is cut
off. After an update the window joins the history, what no running trial needs is dropped, finished episodes may change
places, and acting goes on from the memory that the new weights make of it.

Sources: ReLIC (Elawady et al. 2024, arXiv 2410.02751), partial updates and shuffled episodes; Memo (arXiv 2510.19732).
Departures: rows may be at different steps of their trials; where a history is shorter than a trial, learning begins
with the memory that was there, made by the weights of the time when the history lost the steps before it.

A history is a `Window`: time-major, without the figures of episodes. Shapes: N steps of history and window together,
B rows, R some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..agents.encoder import Inputs
from ..agents.noise import draw
from ..agents.policy import Policy
from ..envs.step import Env
from ..memory.core import State, from_parts, map_state, parts, rows
from .config import PPOConfig
from .rollout import Acting, Window, copied


def check_trials(config: PPOConfig, env: Env) -> None:
    """Refuse a task whose trials do not end where `full_update` needs them to.

    Raises:
        ValueError: rows would get out of step, or a trial would end inside a window or begin before the history.
    """
    if not config.full_update:
        return
    trial = env.trial_clock  # what ends a trial ends it after so many steps, and nothing else does
    if trial is None:
        raise ValueError(
            f"ppo: full_update needs trials of one length, so that all rows end theirs together; those of "
            f"{env.config.label} end when they end"
        )
    if trial % config.window:
        raise ValueError(
            f"ppo: full_update needs a window that divides the trial; window is {config.window} and a trial of "
            f"{env.config.label} takes {trial} steps"
        )
    if config.recompute < trial - config.window:
        raise ValueError(
            f"ppo: full_update needs the whole trial; recompute is {config.recompute} and must be at least "
            f"{trial - config.window}, a trial of {env.config.label} less a window"
        )


def join(history: Window | None, window: Window) -> Window:
    """Return history and window as one."""
    if history is None:
        return window._replace(info_next={})
    pair = (history._replace(memory=()), window._replace(memory=(), info_next={}))
    joined: Window = map_state(lambda *both: torch.cat(both), *pair)
    return joined._replace(memory=history.memory)


def ends_together(window: Window) -> bool:
    """Say whether the trials of all rows end with the window: one look."""
    return bool(window.trial_over_next[-1].all())


@torch.no_grad()
def go_on(
    config: PPOConfig,
    policy: Policy,
    whole: Window,
    acting: Acting,
    generator: torch.Generator,
    least: Callable[[int], int] = int,
) -> Window | None:
    """Return the history of the next window, after an update, and refresh what acting goes on from, in place.

    Args:
        config: how much is kept, and what is done with it.
        policy: with its new weights.
        whole: history and window.
        acting: where acting stands after the window. Its memory is written to, and where episodes are shuffled the
            previous action and reward that it is told next.
        generator: draws the new order of episodes.
        least: replaces a number by the least of all processes that learn together.

    Returns:
        None where all rows begin a trial: then nothing is kept.
    """
    steps = len(whole.value)
    start_NB = torch.cat([whole.inputs.trial_start, whole.trial_over_next[-1:]])
    time_N1 = torch.arange(steps + 1, device=start_NB.device)[:, None]
    # The first step that a running trial needs.
    begun = least(int(torch.where(start_NB, time_N1, 0).amax(0).min()))
    drop = max(begun, steps - config.recompute)
    if drop == steps:
        return None
    at_once = start_NB.shape[1] // config.minibatches  # as many as learning holds
    if 0 < drop == begun or bool(start_NB[drop].all()):
        # What comes before the start of a running trial is not read, and one row without a past stands for all.
        memory = map_state(lambda part: part.expand(start_NB.shape[1], *part.shape[1:]), policy.initial_memory(1))
    elif drop == 0:
        memory = copied(whole.memory)
    else:
        first = map_state(lambda part: part[:drop], whole.inputs)
        passes = _passes(policy, first, whole.memory, at_once)
        memory = map_state(lambda *some: torch.cat(some), *(after for _, _, after in passes))
    kept: Window = map_state(lambda part: part[drop:].clone(), whole._replace(memory=()))
    kept = kept._replace(memory=memory)
    if config.shuffle:
        kept = shuffled(kept, acting.inputs, generator)
    return _refreshed(policy, kept, acting, config.cut_returns, at_once) if config.refresh else kept


def shuffled(kept: Window, following: Inputs, generator: torch.Generator) -> Window:
    """Return a window in which the finished episodes of each row's running trial have changed places.

    An episode moves as a block, with its rewards, actions and log-probabilities. Its first input tells the action and
    the reward that came before it, which are those of the episode that comes before it now; also in `following`, the
    inputs after the window, which are written to. The trial begins where it began. Episodes of earlier trials, the
    running episode, and one whose beginning is no longer there stay where they are.
    """
    inputs, (steps, batch) = kept.inputs, kept.value.shape
    time_N1 = torch.arange(steps, device=kept.value.device)[:, None]
    begun_B = torch.where(inputs.trial_start, time_N1, -1).amax(0)
    # When the episode of each step began, -1 before the first that does, and whether it has ended.
    block_NB = torch.where(inputs.episode_start | inputs.trial_start, time_N1, -1).cummax(0).values
    done_NB = kept.terminated_next | kept.truncated_next
    ended_NB = done_NB.int().flip(0).cummax(0).values.flip(0).bool()
    moves_NB = ended_NB & (block_NB >= begun_B.clamp(min=0)) & ~kept.trial_over_next[-1]
    # A stable sort keeps the steps of an episode in order, since they share one draw.
    drawn_BN = draw(torch.rand, (batch, steps), generator, generator.device).to(kept.value.device)
    place_NB = drawn_BN.t().gather(0, block_NB.clamp(min=0))
    order_NB = torch.where(moves_NB, place_NB, torch.where(ended_NB, -1.0, 2.0)).argsort(dim=0, stable=True)
    row_B = torch.arange(batch, device=order_NB.device)
    moved: Window = map_state(lambda part: part[order_NB, row_B], kept._replace(memory=()))
    told = moved.inputs._replace(
        action=torch.cat([inputs.action[:1], moved.action[:-1]]),
        reward=torch.cat([inputs.reward[:1], moved.reward_next[:-1]]),
        trial_start=inputs.trial_start,
    )
    following.action.copy_(moved.action[-1])
    following.reward.copy_(moved.reward_next[-1])
    return moved._replace(inputs=told, memory=kept.memory)


def _refreshed(policy: Policy, kept: Window, acting: Acting, cut_returns: bool, at_once: int) -> Window:
    """Let acting go on from the memory that the weights make of a window, in place, and return it with their values.

    What the final observation of an episode was worth stays as it was, and so do log-probabilities: those are of the
    policy that acted.
    """
    values, following = [], []
    for index_R, value_NR, memory in _passes(policy, kept.inputs, kept.memory, at_once):
        values.append(value_NR)
        following.append(policy.step(rows(acting.inputs, index_R), memory)[0].value)
        map_state(lambda old, new, index_R=index_R: old.index_copy_(0, index_R, new), acting.memory, memory)
    value_NB = torch.cat(values, 1)
    cut_NB = kept.truncated_next if cut_returns else kept.truncated_next & kept.trial_over_next
    next_NB = torch.cat([value_NB[1:], torch.cat(following)[None]])
    return kept._replace(value=value_NB, value_next=torch.where(cut_NB, kept.value_next, next_NB))


def _passes(policy: Policy, inputs: Inputs, memory: State, at_once: int) -> Iterator[tuple[Tensor, Tensor, State]]:
    """Unroll rows, so many at once, and return which, their values (N, R), and the memory after the last step."""
    for index_R in torch.split(torch.arange(inputs.reward.shape[1], device=inputs.reward.device), at_once):
        part = map_state(lambda part, index_R=index_R: part[:, index_R], inputs)
        output, after = policy.unroll(part, rows(memory, index_R))
        yield index_R, output.value, after


def contents(history: Window) -> dict[str, Tensor]:
    """Return the tensors of a history by name, the rows first, as a checkpoint keeps them."""
    by_row: Window = map_state(lambda part: part.movedim(1, 0).contiguous(), history._replace(memory=()))
    return parts(by_row._replace(memory=copied(history.memory)), "history")


def restored(found: dict[str, Tensor], acting: Acting) -> Window | None:
    """Return the history that `contents` gave, of a run that acts as told; None where there was none."""
    if "history.value" not in found:
        return None
    own: dict[str, Any] = {name: getattr(acting, name) for name in ("inputs", "memory", "hidden")}
    own |= {"action": acting.inputs.action, "info_next": {}}
    like = Window._make(own.get(name, acting.inputs.reward) for name in Window._fields)  # the structure is what counts
    by_row: Window = from_parts(like, found, "history")
    by_time: Window = map_state(lambda part: part.movedim(0, 1).contiguous(), by_row._replace(memory=()))
    return by_time._replace(memory=by_row.memory)
