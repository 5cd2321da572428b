"""What a simulator of agents in houses owes: to place, to move, to render, and to say how far it is.

Coordinates are Habitat's: metres, right-handed, y up, floors at y = 0. A yaw is in radians, counter-clockwise seen from
above, and 0 looks along -z; a pitch is up. Where agents are is a value that goes in and comes out.

Shapes: B agents, I rows and J columns of pixels, F distance fields, C cells of a floor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels.ray_cast import View

ACTIONS = ("stop", "forward", "left", "right", "up", "down")
"""What an agent can do, by number; `stop` moves nothing."""
STOP, FORWARD, LEFT, RIGHT, UP, DOWN = range(6)
SENSORS = ("rgb", "depth", "semantic")


class Pose(NamedTuple):
    """Where agents are and where they look."""

    position_B3: Tensor
    """(B, 3) float32: their feet, metres."""
    yaw_B: Tensor
    """(B,) float32, radians in [-pi, pi)."""
    pitch_B: Tensor
    """(B,) float32, radians."""


class Agents(NamedTuple):
    """All that a simulator knows of B agents."""

    house_B: Tensor
    """(B,) int64: the house of each."""
    pose: Pose


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How agents move; the defaults are those of ReLIC's and Memo's navigation."""

    forward: float = 0.25
    """Metres of a step."""
    turn: float = 30.0
    """Degrees of `left` and `right`."""
    look: float = 30.0
    """Degrees of `up` and `down`."""
    highest: float = 30.0
    """How far up an agent can look, degrees."""
    lowest: float = -60.0
    """How far down, degrees."""
    sliding: bool = True
    """Whether an agent that meets an obstacle slides along it; it stops there otherwise."""
    eye_height: float = 1.25
    """Of the camera above the feet, metres."""

    def __post_init__(self) -> None:
        """Refuse what no agent can do."""
        if not 0 < self.forward <= 1:
            raise ValueError(f"motion: forward is {self.forward}; metres above 0, up to 1, are expected")
        if not 0 < self.turn <= 180 or not 0 < self.look <= 90:
            raise ValueError(
                f"motion: turn is {self.turn} and look {self.look}; degrees up to 180 and 90 are expected, above 0"
            )
        if not -90 <= self.lowest <= self.highest <= 90:
            raise ValueError(
                f"motion: tilts go from {self.lowest} to {self.highest}; degrees from -90 to 90, the lowest first, are "
                "expected"
            )
        if not self.eye_height > 0:
            raise ValueError(f"motion: eye_height is {self.eye_height}; metres above 0 are expected")

    @property
    def pitches(self) -> tuple[float, float]:
        """The lowest and the highest pitch, radians."""
        return math.radians(self.lowest), math.radians(self.highest)

    @property
    def level(self) -> float:
        """The pitch that is nearest to the horizon, radians."""
        low, high = self.pitches
        return min(max(0.0, low), high)


class Simulator(ABC):
    """Houses with agents in them.

    Attributes:
        houses: how many there are.
        motion: how agents move.
        view: the camera of all agents.
        sensors: what `render` returns, of `SENSORS`.
    """

    houses: int
    motion: Motion
    view: View
    sensors: tuple[str, ...]

    @abstractmethod
    def place(self, house_B: Tensor, pose: Pose) -> Agents:
        """Put agents somewhere.

        Args:
            house_B: (B,) whole: the house of each.
            pose: where; feet on the floor.

        Raises:
            ValueError: there is no such house, or no one can stand there.
        """

    @abstractmethod
    def move(self, agents: Agents, action_B: Tensor) -> tuple[Agents, Tensor]:
        """Let every agent do something; one that meets an obstacle slides along it, or stops there (`Motion.sliding`).

        Args:
            agents: where they are.
            action_B: (B,) int64, numbers of `ACTIONS`.

        Returns:
            where they are then, and (B,) bool: whether an obstacle kept them from the full step.
        """

    @abstractmethod
    def render(self, agents: Agents) -> dict[str, Tensor]:
        """Return what agents see, by sensor.

        `rgb` is (B, I, J, 3) uint8; `depth` (B, I, J) float32, metres along the optical axis, 0 where nothing is in
        reach; `semantic` (B, I, J) int32, the id of an instance of the house or 0.
        """

    def render_some(self, agents: Agents, which_B: Tensor) -> dict[str, Tensor]:
        """Return what some agents see, as `render`; what stands in the rows of the others does not count.

        Here: what they see. A simulator that can leave pictures out has less to do.

        Args:
            agents: where all are.
            which_B: (B,) bool.
        """
        return self.render(agents)

    def lost(self, agents: Agents) -> Tensor:
        """Return whose episode something went wrong with since this was asked last, (B,) bool: it is to be truncated.

        Here: for nobody.
        """
        return torch.zeros_like(agents.house_B, dtype=torch.bool)

    @abstractmethod
    def geodesic(self, agents: Agents, field_FC: Tensor, which_B: Tensor) -> Tensor:
        """Return the length of the way to the nearest goal, (B,) float32, metres; infinite where there is none.

        Args:
            agents: where they are.
            field_FC: (F, C) float, metres: for a house and a set of goals, the length of the way from each cell.
            which_B: (B,) int64: the field of each agent.
        """
