"""No memory: the floor that every other core must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .core import Core, MemoryConfig, State
from .stack import Stack


class NoMemory(Core):
    """A linear layer and a tanh, with an empty state: what the agent does depends on what it sees now."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(width, width)

    def initial_state(self, batch: int) -> State:
        """Return the empty state."""
        return ()

    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Look at this input alone."""
        return self.linear(x_BD).tanh(), state

    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        """Look at each input alone."""
        return self.linear(x_TBD).tanh(), state


@dataclass(frozen=True, kw_only=True)
class NoneConfig(MemoryConfig):
    """The memoryless floor."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "no memory: the floor that every other core must beat"

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [NoMemory(self.width) for _ in range(self.depth)])
