"""Passive T-Maze: a cue, a long corridor in which every step is forward, and one turn at its end.

Source: "When Do Transformers Shine in RL?" (arXiv 2307.03864), in the form that Memo (arXiv 2510.19732) uses. It asks
for one bit, kept for as long as one likes, and for nothing else.

Shapes: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .grid import AGENT_COLOUR
from .native import NativeEnv, Outcome
from .picture import FLOOR, WALL, Cell, Picture
from .random import Stream
from .step import EnvConfig, Hidden, Obs, Oracle, Step

FORWARD, UP, BACK, DOWN = range(4)
WIDEST = 40  # cells of a drawn corridor; longer ones are drawn to scale


@dataclass(frozen=True, kw_only=True)
class TMazeConfig(EnvConfig):
    """See a cue once, walk, and turn as it said."""

    name: ClassVar[str] = "tmaze"
    summary: ClassVar[str] = "one cue, a corridor as long as you like, one turn at its end (passive T-Maze)"

    length: int = 100
    """Steps from the cue to the junction (H); an episode takes one more."""

    def __post_init__(self) -> None:
        """Refuse a corridor without cells."""
        self.require_whole("length", 1)

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> TMaze:
        """Make `batch` mazes."""
        return TMaze(self, batch, seed, device)

    def oracle(self) -> TMazeOracle:
        """Return a player that gets 1 in every episode."""
        return TMazeOracle()


class Walk(NamedTuple):
    """Where B agents are."""

    goal: Tensor  # (B,) int64: -1 or 1
    x: Tensor  # (B,) int64: steps from the start
    y: Tensor  # (B,) int64: 0 in the corridor, -1 or 1 after the turn
    time: Tensor  # (B,) int64: steps of the episode


class TMaze(NativeEnv):
    """B passive T-mazes.

    Actions: 0 forward, 1 up, 2 back, 3 down. The agent sees two numbers: [0, goal] at the first step, with the goal -1
    (down) or 1 (up); [0, 0] in the corridor; [1, y] at the junction, with y 0 before the turn.
    An episode ends after length + 1 steps, so an agent that lost a step never reaches the junction in time to turn.
    Reward: -1/length for every action that is not forward, after the first step and before the last; 1 with the last
    step on the goal's side, else 0.
    """

    action_names = ("forward", "up", "back", "down")

    def __init__(self, config: TMazeConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(4),
            observation_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
            episode_steps=config.length + 1,
        )
        self.length = config.length
        self._dx = torch.tensor([1, 0, -1, 0], device=self.device)
        self._dy = torch.tensor([0, 1, 0, -1], device=self.device)

    def begin(self, stream: Stream) -> Walk:
        """Draw the goals."""
        goal_B = 2 * stream.integers(0, 2) - 1
        zero_B = torch.zeros_like(goal_B)
        return Walk(goal_B, zero_B, zero_B, zero_B)

    def advance(self, task: Walk, action_B: Tensor, stream: Stream) -> tuple[Walk, Outcome]:
        """Walk, or turn at the junction."""
        y_B = torch.where(task.x == self.length, self._dy[action_B], 0)
        x_B = (task.x + self._dx[action_B]).clamp(0, self.length)
        last_B = task.time == self.length
        success_B = last_B & (y_B == task.goal)
        slow_B = (action_B != FORWARD) & (task.time > 0) & ~last_B
        reward_B = success_B.float() - slow_B.float() * (1 / self.length)
        return Walk(task.goal, x_B, y_B, task.time + 1), Outcome(reward_B, last_B, {"success": success_B})

    def observe(self, task: Walk, episode_step_B: Tensor) -> Tensor:
        """Show the goal at first, then only whether this is the junction, and the side."""
        junction_B = task.x == self.length
        return torch.stack([junction_B, torch.where(task.time == 0, task.goal, task.y)], 1).float()

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return the goal: 0 down, 1 up."""
        task: Walk = state.task
        goal_B = (task.goal + 1) // 2
        return {"goal": Hidden(goal_B, 2, shown=task.time == 0, turn=torch.zeros_like(goal_B))}

    def draw(self, state: Any, row: int) -> Picture:
        """Return the corridor with the goal at one side of its end."""
        goal, x, y, time = (int(part[row]) for part in state.task)
        end = min(self.length, WIDEST)
        lines = [[WALL] * (end + 3) for _ in range(5)]
        lines[2][1 : end + 2] = [FLOOR] * (end + 1)
        lines[1][end + 1] = lines[3][end + 1] = FLOOR
        lines[2 - goal][end + 1] = Cell("G", (50, 160, 70))
        lines[2 - y][1 + x * end // self.length] = Cell("@", AGENT_COLOUR)
        return Picture(lines, f"step {time} of {self.length + 1}")


class TMazeOracle(Oracle):
    """Remembers the goal and turns to it at the junction."""

    def __init__(self) -> None:
        self.goal_B = torch.empty(0)

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        self.goal_B = obs[:, 1] if len(self.goal_B) != len(obs) else torch.where(trial_start_B, obs[:, 1], self.goal_B)
        turn_B = torch.where(self.goal_B > 0, UP, DOWN)
        return torch.where(obs[:, 0] > 0, turn_B, FORWARD)
