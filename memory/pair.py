"""Two memories side by side, each with half of the features: for an actor and a critic that share nothing.

Shapes: T time, B rows, D features of both together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .core import Core, State


class PairState(NamedTuple):
    """What both remember."""

    actor: State
    critic: State


class Pair(Core):
    """Two cores that see and say different features: the first half of D is the actor's, the rest the critic's."""

    def __init__(self, actor: Core, critic: Core) -> None:
        super().__init__(actor.width + critic.width)
        self.actor, self.critic = actor, critic
        self.settles = actor.settles or critic.settles
        self.judges = actor.judges or critic.judges
        self.draws_plans = actor.draws_plans or critic.draws_plans
        self.episodic = actor.episodic or critic.episodic

    def initial_state(self, batch: int) -> PairState:
        """Return both fresh memories."""
        return PairState(self.actor.initial_state(batch), self.critic.initial_state(batch))

    def step(self, x_BD: Tensor, state: PairState, start_B: Tensor, *episode: Tensor) -> tuple[Tensor, PairState]:
        """Take one step in both."""
        return self._run("step", x_BD, state, start_B, *episode)

    def unroll(self, x_TBD: Tensor, state: PairState, start_TB: Tensor, *episode: Tensor) -> tuple[Tensor, PairState]:
        """Take T steps in both."""
        return self._run("unroll", x_TBD, state, start_TB, *episode)

    def plan(self, state: PairState, start_TB: Tensor, *episode: Tensor) -> Hashable:
        """Return the plans of both."""
        return tuple(core.plan(part, start_TB, *_told(core, episode)) for core, part in self._both(state))

    def follow(self, x_TBD: Tensor, state: PairState, start_TB: Tensor, *rest: Any) -> tuple[Tensor, PairState]:
        """Follow both plans, which are the last of what is given."""
        *episode, plan = rest
        pairs = zip(self._both(state), self._halves(x_TBD), plan, strict=True)
        results = [
            core.follow(half, part, start_TB, *_told(core, episode), own)  # type: ignore[call-arg]
            for (core, part), half, own in pairs
        ]
        return torch.cat([y for y, _ in results], -1), PairState(*(after for _, after in results))

    @torch.no_grad()
    def advance(self, x_BD: Tensor, state: PairState, start_B: Tensor, *episode: Tensor) -> tuple[Tensor, PairState]:
        """Take one step in both, as each acts."""
        return self._run("advance", x_BD, state, start_B, *episode)

    def check_episodes(self, steps: int | None) -> None:
        """Refuse what either refuses."""
        self.actor.check_episodes(steps)
        self.critic.check_episodes(steps)

    def unsettled(self, state: PairState) -> Tensor:
        """Return the rows in which either has work left."""
        left = [core.unsettled(part) for core, part in self._both(state) if core.settles]
        return torch.stack(left).any(0)

    def slack(self, state: PairState) -> Tensor:
        """Return the smaller slack of the two."""
        return torch.stack([core.slack(part) for core, part in self._both(state) if core.settles]).amin(0)

    def settle(self, state: PairState) -> PairState:
        """Settle both."""
        return PairState(*(core.settle(part) for core, part in self._both(state)))

    def judge(self, state: PairState, surprise_B: Tensor) -> PairState:
        """Tell both."""
        return PairState(*(core.judge(part, surprise_B) for core, part in self._both(state)))

    def gates(self, x_BD: Tensor, state: PairState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the gates of both, each named by whose they are."""
        found: dict[str, Tensor] = {}
        for name, (core, part), half_BD in zip(PairState._fields, self._both(state), self._halves(x_BD), strict=True):
            found |= {f"{name}.{gate}": open_ for gate, open_ in core.gates(half_BD, part, start_B).items()}
        return found

    def attends(self, x_BD: Tensor, state: PairState, start_B: Tensor, *episode: Tensor) -> Tensor | None:
        """Return what the actor attends to."""
        told = _told(self.actor, episode)
        return self.actor.attends(self._halves(x_BD)[0], state.actor, start_B, *told)

    def state_bytes(self, steps: int) -> int:
        """Return the sum of both."""
        return self.actor.state_bytes(steps) + self.critic.state_bytes(steps)

    def context_entries(self, steps: int) -> int:
        """Return the sum of both."""
        return self.actor.context_entries(steps) + self.critic.context_entries(steps)

    def flops_per_step(self, steps: int) -> float:
        """Return the sum of both."""
        return self.actor.flops_per_step(steps) + self.critic.flops_per_step(steps)

    def settling_flops(self, steps: int) -> float:
        """Return the sum of both."""
        return self.actor.settling_flops(steps) + self.critic.settling_flops(steps)

    def _both(self, state: PairState) -> list[tuple[Core, State]]:
        return [(self.actor, state.actor), (self.critic, state.critic)]

    def _halves(self, x: Tensor) -> tuple[Tensor, ...]:
        return x[..., : self.actor.width], x[..., self.actor.width :]

    def _run(self, form: str, x: Tensor, state: PairState, start: Tensor, *episode: Tensor) -> tuple[Tensor, PairState]:
        pairs = zip(self._both(state), self._halves(x), strict=True)
        results = [getattr(core, form)(half, part, start, *_told(core, episode)) for (core, part), half in pairs]
        return torch.cat([y for y, _ in results], -1), PairState(*(after for _, after in results))


def _told(core: Core, episode: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return what a core is told of episodes."""
    return episode if core.episodic else ()
