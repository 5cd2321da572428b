"""Acting: a window of T steps in B rows, with the memory at its start stored once.

Shapes: T time, B rows, R some of them, A numbers that describe an action distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..agents.encoder import Inputs, Obs
from ..agents.policy import Output, Policy
from ..envs.step import Env, Step
from ..memory.core import State, map_state, rows, select
from .recall import begin, follow


class Acting(NamedTuple):
    """Where B environments and their agent stand between two steps: everything that acting goes on from."""

    env_state: Any
    inputs: Inputs  # what the policy is told next
    memory: State
    hidden: State = ()  # by name, a `Thing` of B rows: what the next inputs leave to be remembered, where that is asked


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
    hidden: State = ()  # by name, a `Thing` (T, B, ...), where that is asked


def start(env: Env, policy: Policy, *, recall: Collection[str] = ()) -> Acting:
    """Reset the environments and empty the memory; of what the task hides, acting keeps what `recall` names."""
    env_state, step = env.reset()
    inputs = policy.look(_inputs(step, policy.head.blank(env.batch).to(env.device)))
    hidden = begin(env.hidden(env_state, step), recall, step.trial_start) if recall else ()
    return _plain(Acting(env_state, inputs, policy.initial_memory(env.batch), hidden))


class Moment(NamedTuple):
    """One step of all rows: what the policy was told, did and thought, and where that led."""

    inputs: Inputs
    action: Tensor
    log_prob: Tensor
    value: Tensor
    step: Step  # what the environments said to the action
    acting: Acting  # what acting goes on from
    hidden: State  # of the moment of the inputs


@torch.no_grad()
def act_once(
    env: Env,
    policy: Policy,
    acting: Acting,
    generator: torch.Generator,
    take: Callable[[Inputs, State], tuple[Output, State]],
) -> Moment:
    """Act for one step; `take` is `policy.step` or `policy.advance`. Only the first may look at the device's data."""
    inputs = acting.inputs
    output, memory = take(inputs, acting.memory)
    action = policy.head.sample(output.action, generator)
    env_state, step = env.move(acting.env_state, action)
    log_prob = policy.head.log_prob(output.action, action)
    hidden = acting.hidden and follow(acting.hidden, env.hidden(env_state, step), step.trial_start)
    following = Acting(env_state, policy.look(_inputs(step, action)), memory, hidden)
    return Moment(inputs, action, log_prob, output.value, step, following, acting.hidden)


@torch.no_grad()
def collect(
    env: Env,
    policy: Policy,
    acting: Acting,
    length: int,
    generator: torch.Generator,
    cut_returns: bool,
    *,
    look: bool | None = None,
    once: Callable[[Acting], Moment] | None = None,
    stop: bool = False,
    enough: Callable[[int], bool] | None = None,
) -> tuple[Window, Acting]:
    """Act for `length` steps in every row.

    Where an episode is truncated (with `cut_returns` false: where it is truncated because its trial is over) the
    return goes on with the value of the final observation, from the memory as it was then.

    Args:
        env: where to act.
        policy: who acts.
        acting: where both stand.
        length: T.
        generator: what actions are drawn from.
        cut_returns: as above.
        look: find truncated rows by looking at them (`_Looked`), or never look (`_Held`), for cores that leave nothing
            to settle. None: look where that costs nothing, on a CPU, and where it must be.
        once: takes one step in the place of `act_once`.
        stop: with `cut_returns` false, a trial that is over is worth nothing more: no final observation is evaluated.
        enough: ends the window early; it is asked before each step but the first, with the steps that were taken.
    """
    if look is None:
        look = env.device.type == "cpu" or policy.core.settles
    take = policy.step if look else policy.advance
    step_once = once or partial(act_once, env, policy, generator=generator, take=take)
    ends: _Looked | _Held | None = None
    if cut_returns or not stop:
        ends = _Looked(policy) if look else _Held(policy, env, cut_returns)
    # Who advances gives its memory up, so what is needed later is copied.
    given_up = not look or once is not None
    memory_at_start = copied(acting.memory) if given_up else acting.memory
    film, seen = Film(acting.inputs.obs, length), list[Moment]()
    for t in range(length):
        if t and enough is not None and enough(t):
            break
        now = step_once(acting)
        acting, step = now.acting, now.step
        if ends is not None:
            cut_off_B = step.truncated if cut_returns else step.truncated & step.trial_start
            ends.note(step, now.action, acting.memory, cut_off_B)
        film.take(t, now.inputs.obs)
        seen.append(kept(now))
    value_after = take(acting.inputs, copied(acting.memory) if given_up else acting.memory)[0].value
    value_T = [*(now.value for now in seen[1:]), value_after]
    value_next_TB = torch.stack(value_T if ends is None else ends.values(value_T))
    together: Moment = map_state(lambda *some: torch.stack(some), *seen)
    together = together._replace(inputs=together.inputs._replace(obs=film.first(len(seen))))
    return window_of(together, memory_at_start, value_next_TB), _plain(acting)


def kept(moment: Moment) -> Moment:
    """Return what a window keeps of a moment beside what was seen: not the memory of each step, which would be much."""
    inputs, step = moment.inputs._replace(obs=()), moment.step._replace(obs=(), final_obs=())  # type: ignore[arg-type]
    return moment._replace(inputs=inputs, step=step, acting=())  # type: ignore[arg-type]


class Film:
    """What was seen in a window of up to T steps.

    Images and grids are written where they will lie, since stacked at the end they would be held twice; small vectors
    are stacked, which is one launch in the place of T.
    """

    def __init__(self, obs: Obs, length: int) -> None:
        self.frames = map_state(lambda part: part.new_empty(length if part.ndim > 3 else 0, *part.shape), obs)
        self.vectors: list[State] = []

    def take(self, t: int, obs: Obs) -> None:
        """Take in step number t."""

        def write(film: Tensor, part: Tensor) -> Tensor:
            return film[t].copy_(part) if len(film) else part

        self.vectors.append(map_state(write, self.frames, obs))

    def first(self, steps: int) -> Obs:
        """Return what was seen in the first steps, (steps, B, ...)."""

        def whole(film: Tensor, *some: Tensor) -> Tensor:
            return film[:steps] if len(film) else torch.stack(some)

        seen: Obs = map_state(whole, self.frames, *self.vectors)
        return seen


def window_of(seen: Moment, memory_at_start: State, value_next_TB: Tensor) -> Window:
    """Return the window of T moments, each of whose tensors is (T, B, ...)."""
    return Window(
        inputs=seen.inputs,
        memory=memory_at_start,
        action=seen.action,
        log_prob=seen.log_prob,
        value=seen.value,
        reward_next=seen.step.reward,
        terminated_next=seen.step.terminated,
        truncated_next=seen.step.truncated,
        trial_over_next=seen.step.trial_start,
        value_next=value_next_TB,
        info_next=seen.step.info,
        hidden=seen.hidden,
    )


class _Looked:
    """What final observations are worth, for the rows whose episode was cut off and no others.

    Where rows are out of step some are cut off in nearly every step. So they wait for each other, until together they
    are as many as the batch: a policy takes hardly longer for many rows than for a few.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.last_T: list[tuple[Tensor, Tensor]] = []  # where episodes were cut off, and what their ends are worth
        self.waiting: list[tuple[int, Tensor, State]] = []  # the step, which rows, and their last moment

    def note(self, step: Step, action: Tensor, memory: State, cut_off_B: Tensor) -> None:
        """Take in what followed an action, and the memory that the policy had then."""
        index = cut_off_B.nonzero().squeeze(1)
        if len(index):
            self.waiting.append((len(self.last_T), index, rows((_final_inputs(step, action), memory), index)))
        self.last_T.append((cut_off_B, torch.zeros_like(step.reward)))
        if sum(len(index) for _, index, _ in self.waiting) >= len(cut_off_B):
            self._evaluate()

    def values(self, value_T: list[Tensor]) -> list[Tensor]:
        """Put what final observations are worth in the place of the values of what came after them."""
        self._evaluate()
        return [torch.where(cut, last, value) for (cut, last), value in zip(self.last_T, value_T, strict=True)]

    def _evaluate(self) -> None:
        if not self.waiting:
            return
        inputs, memory = map_state(lambda *some: torch.cat(some), *(moment for _, _, moment in self.waiting))
        value_N = self.policy.step(self.policy.look(inputs), memory)[0].value
        found = value_N.split([len(index) for _, index, _ in self.waiting])  # type: ignore[no-untyped-call]
        for (t, index, _), value in zip(self.waiting, found, strict=True):
            cut_off_B, last_B = self.last_T[t]
            self.last_T[t] = cut_off_B, last_B.index_copy(0, index, value)
        self.waiting = []


class _Held:
    """The same without a look at which rows were cut off: what a GPU does not have to wait for.

    A clock cuts a row off at most once in as many steps as it runs. So each row holds its last cut, and all rows are
    evaluated together once in so many steps, which is exact and costs little. An episode and a trial have clocks of
    their own, which can strike one right after the other. Where no clock is known, every step is evaluated.
    """

    def __init__(self, policy: Policy, env: Env, cut_returns: bool) -> None:
        episode = (env.episode_steps if env.on_device else None) or 1
        trial = (env.trial_clock if env.on_device else None) or episode
        self.apart = cut_returns and trial != episode
        spans = [trial, episode] if self.apart else [episode if cut_returns else trial]
        self.clocks = [_Clock(policy, span) for span in spans]

    def note(self, step: Step, action: Tensor, memory: State, cut_off_B: Tensor) -> None:
        """Take in what followed an action, and the memory that the policy had then."""
        cuts = [cut_off_B & step.trial_start, cut_off_B & ~step.trial_start] if self.apart else [cut_off_B]
        for clock, cut_B in zip(self.clocks, cuts, strict=True):
            clock.note(cut_B, (_final_inputs(step, action), memory))

    def values(self, value_T: list[Tensor]) -> list[Tensor]:
        """Put what final observations are worth in the place of the values of what came after them."""
        for clock in self.clocks:
            clock.evaluate()
            value_T = [torch.where(cut, last, value) for (cut, last), value in zip(clock.last_T, value_T, strict=True)]
        return value_T


class _Clock:
    """What cuts rows off at most once in `span` steps, and the moments when it last did."""

    def __init__(self, policy: Policy, span: int) -> None:
        self.policy, self.span = policy, span
        self.held: tuple[Inputs, State] | None = None
        self.cut_T: list[Tensor] = []  # since the last evaluation
        self.last_T: list[tuple[Tensor, Tensor]] = []

    def note(self, cut_B: Tensor, moment: tuple[Inputs, State]) -> None:
        # A copy, since the memory that the policy goes on with may be written to.
        self.held = copied(moment) if self.held is None else select(cut_B, moment, self.held)
        self.cut_T.append(cut_B)
        if len(self.cut_T) == self.span:
            self.evaluate()

    def evaluate(self) -> None:
        if self.held is not None:  # rows that were not cut off hold anything; their values are not read
            inputs, memory = self.held
            value_B = self.policy.advance(self.policy.look(inputs), memory)[0].value
            self.last_T += [(cut_B, value_B) for cut_B in self.cut_T]
            self.held, self.cut_T = None, []


class Part(NamedTuple):
    """What learning reads of some rows of a window, beside their advantages."""

    inputs: Inputs  # (T, R, ...)
    memory: State  # of R rows, before the first step
    action: Tensor  # (T, R, ...), as the next two without the steps that are only gone through
    log_prob: Tensor  # (T, R)
    value: Tensor  # (T, R)
    hidden: State  # (T, R, ...)


def rows_of(window: Window, index: Tensor, skip: int = 0) -> Part:
    """Return some rows of a window, R of them; what is judged begins after the first `skip` steps."""
    judged = map_state(lambda part: part[skip:], (window.action, window.log_prob, window.value, window.hidden))
    inputs, *others = map_state(lambda part: part[:, index], (window.inputs, *judged))
    return Part(inputs, rows(window.memory, index), *others)


def _plain(acting: Acting) -> Acting:
    """Copy what the policy goes on from, so that it lies in memory as it does after a checkpoint was read.

    The same numbers with other strides may take another path through a product, and end in other last bits.
    """
    return acting._replace(inputs=copied(acting.inputs), memory=copied(acting.memory))


def copied(state: State) -> State:
    """Return the same numbers in tensors of their own, laid out plainly."""
    return map_state(lambda part: part.clone(memory_format=torch.contiguous_format), state)


def _inputs(step: Step, action: Tensor) -> Inputs:
    return Inputs(step.obs, action, step.reward, step.episode_start, step.trial_start)


def _final_inputs(step: Step, action: Tensor) -> Inputs:
    """Return what the policy would be told next, had no new episode begun; few of these are ever looked at."""
    false_B = torch.zeros_like(step.trial_start)
    return Inputs(step.final_obs, action, step.reward, false_B, false_B)
