"""Episodic cores under the laws: their inputs tell where episodes begin.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from torch import Tensor

from .core import Core, State


class Told(Core):
    """An episodic core that finds in its inputs where episodes begin: at random, and at the same steps in any form."""

    def __init__(self, core: Core) -> None:
        super().__init__(core.width)
        self.core, self.settles = core, core.settles

    def initial_state(self, batch: int) -> State:
        """Return the fresh memory of the core."""
        return self.core.initial_state(batch)

    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Take one step."""
        return self._run("step", x_BD, state, start_B)

    def advance(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Take one step as a loop that acts does."""
        return self._run("advance", x_BD, state, start_B)

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        """Take T steps."""
        return self._run("unroll", x_TBD, state, start_TB)

    def unsettled(self, state: State) -> Tensor:
        """Return which rows have work left."""
        return self.core.unsettled(state)

    def settle(self, state: State) -> State:
        """Settle the core."""
        return self.core.settle(state)

    def state_bytes(self, steps: int) -> int:
        """Return the bytes of the core."""
        return self.core.state_bytes(steps)

    def _run(self, form: str, x: Tensor, state: State, start: Tensor) -> tuple[Tensor, State]:
        found: tuple[Tensor, State] = getattr(self.core, form)(x, state, start, start | (x[..., 0] > 1))
        return found


def told(core: Core) -> Core:
    """Return a core that takes starts of trials alone."""
    return Told(core) if core.episodic else core
