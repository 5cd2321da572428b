"""Acting in recorded spans: as many steps in one CUDA graph as a core can take before it has to settle.

For windows in which no final observation is evaluated, since that needs the memory as it was at an end; and so for
windows of any length, which one graph could not hold.

Shapes: T time, B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..agents.graph import Graph, rehearse, write
from ..agents.policy import Policy
from ..envs.step import Env
from ..memory.core import map_state
from .rollout import Acting, Film, Moment, Window, act_once, copied, kept, window_of

LONGEST = 256
"""Steps in one graph: more take long to record, and save nothing more."""


class SpanGraph:
    """`collect` where only the end of the window is bootstrapped from, in spans of steps.

    The host looks once a span, where the core settles: how long the next one may be.
    """

    def __init__(self, env: Env, policy: Policy, acting: Acting, length: int, generator: torch.Generator) -> None:
        self._env, self._policy, self._generator = env, policy, generator
        self._length, self._settles = length, policy.core.settles
        core, self.acting = policy.core, Acting(*copied(acting))
        self._span = min(length, LONGEST)
        if self._settles:
            self._span = min(self._span, int(core.slack(core.initial_state(1)).min()))

        def settle() -> None:
            write(self.acting.memory, core.settle(self.acting.memory))

        def slack() -> Tensor:
            return core.slack(self.acting.memory).min()

        @torch.no_grad()
        def value() -> Tensor:
            return policy.advance(self.acting.inputs, copied(self.acting.memory))[0].value

        def one_step() -> None:
            write(self.acting, acting)  # no step may follow one that was not settled
            self._steps(1)

        rehearse(one_step, generator)
        if self._settles:
            rehearse(settle)
            rehearse(slack)
        write(self.acting, acting)
        rehearse(value)
        self._one = Graph(lambda: self._steps(1), generator)
        self._many = Graph(lambda: self._steps(self._span), generator) if self._span > 1 else self._one
        self._value = Graph(value)
        if self._settles:
            self._settle, self._slack = Graph(settle), Graph(slack)

    def fits(self, env: Env, policy: Policy, generator: torch.Generator) -> bool:
        """Say whether it was recorded for these."""
        return env is self._env and policy is self._policy and generator is self._generator

    def __call__(self, acting: Acting) -> tuple[Window, Acting]:
        """Act from where one stands: what the last call returned, or anything else, which is copied."""
        if acting is not self.acting:
            write(self.acting, acting)
        memory_at_start, seen, left = copied(self.acting.memory), [], self._length
        while left:
            free = min(left, self._free(left))
            left -= free
            many, single = divmod(free, self._span)
            seen += [copied(graph.replay()) for graph in [self._many] * many + [self._one] * single]
        self._free(0)
        together: Moment = map_state(lambda *some: torch.cat(some), *seen)
        value_next_TB = torch.cat([together.value[1:], self._value.replay()[None]])
        return window_of(together, memory_at_start, value_next_TB), self.acting

    def _steps(self, count: int) -> Moment:
        """Act for some steps, and return their moments, each tensor (count, B, ...)."""
        now, seen, film = self.acting, list[Moment](), Film(self.acting.inputs.obs, count)
        for t in range(count):
            moment = act_once(self._env, self._policy, now, self._generator, self._policy.advance)
            now = moment.acting
            film.take(t, moment.inputs.obs)
            seen.append(kept(moment))
        together: Moment = map_state(lambda *some: torch.stack(some), *seen)
        together = together._replace(inputs=together.inputs._replace(obs=film.first(count)))
        write(self.acting, now)  # over what the first moment was told
        return together

    def _free(self, most: int) -> int:
        """Settle what must be settled, and return how many steps can be taken without another look."""
        if not self._settles:
            return most
        while not (slack := int(self._slack.replay())):
            self._settle.replay()
        return slack
