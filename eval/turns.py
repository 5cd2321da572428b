"""One step of an agent in two halves: the policy acts, which is timed, and the environments answer, which is not.

On a GPU each half is recorded as a CUDA graph, and what a step goes on from lives in tensors that the graphs overwrite.
Elsewhere the same functions run as they are written.

Shapes: B rows, F sums.
"""

from __future__ import annotations

import time
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ..agents.encoder import Inputs
from ..agents.graph import Graph, rehearse, write
from ..agents.policy import Policy
from ..envs.step import Env, Step
from ..memory.core import State, map_state

Surprise = Literal["td", "logprob"]


class Mind(NamedTuple):
    """What the policy goes on from."""

    inputs: Inputs  # what it is told
    memory: State
    value_B: Tensor  # what it expected at the step before


class Actor:
    """The policy's half: from what it is told to an action, with everything that its memory has to do for it.

    Args:
        policy: acts; not changed.
        inputs: what it is told first.
        memory: what it remembers; None: nothing. It is given up.
        greedy: the most likely action; False: actions are drawn.
        generator: what they are drawn from.
        surprise: what a memory that ranks its entries is told after each step. `td`: |r + gamma V - V of the step
            before|, where r is the reward told at this step; the step before a trial expected 0 and paid 0. `logprob`:
            -log of the probability of the action.
        gamma: the discount of `td`.
        capture: record the step where the policy lives on a GPU.

    Attributes:
        action_B: what it did last.
        how: in words, how steps are taken.
    """

    action_B: Tensor

    def __init__(
        self,
        policy: Policy,
        inputs: Inputs,
        *,
        memory: State | None = None,
        greedy: bool = True,
        generator: torch.Generator | None = None,
        surprise: Surprise = "td",
        gamma: float = 0.99,
        capture: bool = True,
    ) -> None:
        self._policy, self._greedy, self._generator = policy, greedy, generator
        self._surprise, self._gamma = surprise, gamma
        self._core: Any = policy.core
        self._judges = bool(getattr(policy.core, "judges", False))
        batch, cuda = len(inputs.trial_start), policy.device.type == "cuda"
        if memory is None:
            memory = map_state(torch.clone, policy.initial_memory(batch))
        # Tensors of their own, since they are written to.
        self.mind = Mind(map_state(torch.clone, inputs), memory, torch.zeros(batch, device=policy.device))
        self._cuda = cuda
        self._graphs: tuple[Graph[Tensor], Graph[None] | None, Graph[Tensor] | None] | None = None
        self.how = "step by step"
        if capture and cuda:
            try:
                self._graphs = self._record()
                self.how = "recorded as CUDA graphs"
            except RuntimeError as error:
                self.how += f", since it cannot be recorded: {' '.join(str(error).split())[:200]}"

    @property
    def recorded(self) -> bool:
        """Say whether steps are replayed; what the actor goes on from must then be written in place."""
        return self._graphs is not None

    @torch.no_grad()
    def __call__(self) -> float:
        """Act, and return the seconds that it took, from idle device to idle device."""
        self._wait()
        began = time.perf_counter()
        if self._graphs is None:
            self.action_B, self.mind = self._act(self.mind)
            while self._core.settles and bool(self._core.unsettled(self.mind.memory).any()):
                self.mind = self.mind._replace(memory=self._core.settle(self.mind.memory))
        else:
            act, settle, unsettled = self._graphs
            self.action_B = act.replay()
            while settle and unsettled and bool(unsettled.replay()):
                settle.replay()
        self._wait()
        return time.perf_counter() - began

    def tell(self, inputs: Inputs) -> None:
        """Say what the environments answered."""
        if self.recorded:
            write(self.mind.inputs, inputs)
        else:
            self.mind = self.mind._replace(inputs=inputs)

    @torch.no_grad()
    def _act(self, mind: Mind) -> tuple[Tensor, Mind]:
        head, inputs = self._policy.head, mind.inputs
        output, memory = self._policy.advance(self._policy.look(inputs), mind.memory)
        action_B = head.mode(output.action) if self._greedy else head.sample(output.action, self._generator)
        if self._judges and self._surprise == "td":
            known_B = ~inputs.trial_start
            before_B = (inputs.reward - mind.value_B) * known_B
            memory = self._core.judge(memory, (before_B + self._gamma * output.value).abs())
        elif self._judges:
            memory = self._core.judge(memory, -head.log_prob(output.action, action_B))
        return action_B, Mind(inputs, memory, output.value)

    def _record(self) -> tuple[Graph[Tensor], Graph[None] | None, Graph[Tensor] | None]:
        """Record a step, and what may be left to do after it. Where that fails, the memory is as it was."""
        begin = cast(Mind, map_state(torch.clone, self.mind))

        def act() -> Tensor:
            action_B, after = self._act(self.mind)
            write(self.mind, after)
            return action_B

        def rehearsal() -> None:
            write(self.mind, begin)  # no step may follow one that was not settled
            act()

        def settle() -> None:
            write(self.mind.memory, self._core.settle(self.mind.memory))

        def unsettled() -> Tensor:
            left: Tensor = self._core.unsettled(self.mind.memory).any()
            return left

        drawn = None if self._greedy else self._generator
        try:
            rehearse(rehearsal, drawn)
            if self._core.settles:
                rehearse(settle)
                rehearse(unsettled)
        finally:
            write(self.mind, begin)
        if not self._core.settles:
            return Graph(act, drawn), None, None
        return Graph(act, drawn), Graph(settle), Graph(unsettled)

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._policy.device)


class Tally(NamedTuple):
    """What is counted in every row."""

    return_B: Tensor  # of the running episode, float64
    trial_step_B: Tensor  # steps since the trial began, int64
    sums_FB: Tensor  # since they were last taken, float64: reward, episodes, their returns, their successes


class World:
    """The environments' half: they answer the actor's action, and what happens is counted on their device.

    Args:
        env: answers.
        state: of the environments, after `reset`.
        actor: is told.

    Attributes:
        has_success: whether the task says when an episode is a success; known after the first step.
    """

    has_success = False

    def __init__(self, env: Env, state: Any, actor: Actor) -> None:
        self._env, self._actor, self._state = env, actor, state
        zero_B = torch.zeros(env.batch, dtype=torch.float64, device=env.device)
        self.tally = Tally(zero_B, zero_B.long(), zero_B.repeat(4, 1))
        self._graph: Graph[None] | None = None
        self._to_record = actor.recorded and env.on_device

    def __call__(self) -> None:
        """Answer what the actor did last."""
        if self._to_record:  # not before there is an action
            self._graph, self._to_record = self._record(), False
        if self._graph is not None:
            self._graph.replay()
            return
        self._state, inputs, self.tally = self._answer(self._state, self.tally)
        self._actor.tell(inputs)

    def take_sums(self) -> Tensor:
        """Return the sums since they were last taken, (F, B) on the host, and begin anew."""
        taken = self.tally.sums_FB.to("cpu", copy=True)
        self.tally.sums_FB.zero_()
        return taken

    @torch.no_grad()
    def _answer(self, state: Any, tally: Tally) -> tuple[Any, Inputs, Tally]:
        action_B = self._actor.action_B
        state, step = self._env.move(state, action_B)
        over_B, return_B = step.episode_start, tally.return_B + step.reward
        self.has_success = "success" in step.info
        success_B = step.info["success"] if self.has_success else torch.zeros_like(over_B)
        said = torch.stack([step.reward.double(), over_B.double(), return_B * over_B, (success_B * over_B).double()])
        counted = Tally(
            torch.where(over_B, 0.0, return_B),
            torch.where(step.trial_start, 0, tally.trial_step_B + 1),
            tally.sums_FB + said,
        )
        return state, told(step, action_B), counted

    def _record(self) -> Graph[None] | None:
        """Record an answer; None where it cannot be. Nothing has moved then."""
        self._state = map_state(torch.clone, self._state)
        here = (self._state, self._actor.mind.inputs, self.tally)
        begin = map_state(torch.clone, here)

        def answer() -> None:
            write(here, self._answer(self._state, self.tally))

        try:
            rehearse(answer)
        except RuntimeError as error:
            self._actor.how += f"; environments step by step: {' '.join(str(error).split())[:200]}"
            return None
        finally:
            write(here, begin)
        return Graph(answer)


def told(step: Step, action_B: Tensor) -> Inputs:
    """Return what the policy is told after a step."""
    return Inputs(step.obs, action_B, step.reward, step.episode_start, step.trial_start)
