"""Darkroom: find an invisible goal, episode after episode in the same room; what one episode found, the next can use.

Source: Laskin et al., "In-context Reinforcement Learning with Algorithm Distillation" (arXiv 2210.14215), with the
numbers of ReLIC (arXiv 2410.02751): 10x10, start in the corner, 100 steps, goals split 80/20 for training and test.

Shapes: B rows, C cells, G goals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .grid import AGENT_COLOUR, MOVES, Grid
from .native import NativeEnv, Outcome
from .picture import Cell, Picture
from .random import Stream
from .step import EnvConfig, Hidden, Obs, Oracle, Step


@dataclass(frozen=True, kw_only=True)
class DarkroomConfig(EnvConfig):
    """Find an invisible goal and stay; a trial holds several episodes with the same goal."""

    name: ClassVar[str] = "darkroom"
    summary: ClassVar[str] = "an invisible goal, the same for all episodes of a trial (in-context RL)"

    size: int = 10
    """Cells along a side."""
    episode_steps: int = 100
    """Steps of an episode."""
    episodes: int = 5
    """Episodes in a trial: the goal stays, the agent goes back to the corner."""
    goals: Literal["train", "test", "all"] = "all"
    """Which cells can be the goal: 80 % of them, drawn by `split_seed`, the other 20 %, or all."""
    split_seed: int = 0
    """Decides which goals are for training."""

    def __post_init__(self) -> None:
        """Refuse a room without goals."""
        self.require_whole("size", 2)
        self.require_whole("episode_steps", 1)
        self.require_whole("episodes", 1)
        self.require_whole("split_seed", 0)
        self.require_choice("goals", ("train", "test", "all"))
        if self.goals == "test" and not self.goal_cells():
            self.refuse(f"20 % of {self.size}x{self.size} cells is less than one goal; make size at least 3")

    def goal_cells(self) -> list[int]:
        """Return the cells that can be the goal, in order; a cell is y * size + x."""
        cells = self.size * self.size
        order = Stream.seeded(self.split_seed, 1, "cpu").permutation(0, cells)[0].tolist()
        cut = -(-cells * 4 // 5)
        return sorted({"train": order[:cut], "test": order[cut:], "all": order}[self.goals])

    def best_return(self) -> float:
        """Return what a player that knows the goal from the start gets in a trial, on average over the goals."""
        steps = [max(1, cell // self.size + cell % self.size) for cell in self.goal_cells()]
        return self.episodes * sum(max(0, self.episode_steps + 1 - step) for step in steps) / len(steps)

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Darkroom:
        """Make `batch` rooms."""
        return Darkroom(self, batch, seed, device)

    def oracle(self) -> DarkroomOracle:
        """Return a player that looks through the room cell by cell, and then goes straight to the goal."""
        return DarkroomOracle(self)


class Room(NamedTuple):
    """B rooms."""

    cell: Tensor  # (B,) int64: where the agent is
    goal: Tensor  # (B,) int64
    found: Tensor  # (B,) bool: the agent was at the goal in this episode


class Darkroom(NativeEnv):
    """B dark rooms.

    Actions: 0 up, 1 down, 2 left, 3 right, 4 stay. The agent sees its x and y over the size, never the goal. Reward: 1
    for every step that ends on the goal. An episode only ends by its clock. `success`: the goal was reached.
    """

    action_names = MOVES

    def __init__(self, config: DarkroomConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(len(MOVES)),
            observation_space=spaces.Box(0.0, 1.0, (2,), np.float32),
            episode_steps=config.episode_steps,
            trial_steps=config.episodes * config.episode_steps,
        )
        self.grid = Grid(config.size, self.device)
        self._seen = self.grid.scaled()
        self._goals = torch.tensor(config.goal_cells(), device=self.device)

    def begin(self, stream: Stream) -> Room:
        """Draw the goals."""
        goal_B = self._goals[stream.integers(0, len(self._goals))]
        return Room(torch.zeros_like(goal_B), goal_B, torch.zeros_like(goal_B, dtype=torch.bool))

    def restart(self, task: Room, stream: Stream) -> Room:
        """Put the agents back into the corner."""
        return Room(torch.zeros_like(task.cell), task.goal, torch.zeros_like(task.found))

    def advance(self, task: Room, action_B: Tensor, stream: Stream) -> tuple[Room, Outcome]:
        """Move."""
        cell_B = self.grid.move(task.cell, action_B)
        there_B = cell_B == task.goal
        found_B = task.found | there_B
        outcome = Outcome(there_B.float(), torch.zeros_like(there_B), {"success": found_B})
        return Room(cell_B, task.goal, found_B), outcome

    def observe(self, task: Room, episode_step_B: Tensor) -> Tensor:
        """Show where the agent is."""
        return self._seen[task.cell]

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return the cell of the goal; a reward is what tells where it is."""
        task: Room = state.task
        found_B = (step.reward > 0) & ~step.trial_start
        return {"goal": Hidden(task.goal, self.grid.cells, shown=found_B, turn=torch.zeros_like(task.goal))}

    def draw(self, state: Any, row: int) -> Picture:
        """Return the room with its goal, which the agent does not see."""
        cell, goal, found = (int(part[row]) for part in state.task)
        things = {goal: Cell("G", (50, 160, 70)), cell: Cell("@", AGENT_COLOUR)}
        episode = int(state.trial_step[row]) // self.episode_steps + 1
        return Picture(self.grid.draw(things), f"episode {episode} of the trial, goal {'' if found else 'not '}found")


class DarkroomOracle(Oracle):
    """Goes to the nearest cell where it has not been in this trial; once a reward came, straight to that cell.

    From the corner this is a way through all cells, row by row, there and back, so the goal that lies at place i of
    that way (from 0) is found in step i + 1.
    """

    def __init__(self, config: DarkroomConfig) -> None:
        self.size = config.size
        self.batch = 0

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        if self.batch != len(obs):
            self.batch, self.grid = len(obs), Grid(self.size, obs.device)
            self.aim_B = self.goal_B = torch.full_like(trial_start_B, -1, dtype=torch.int64)
            self.been_BC = torch.zeros(self.batch, self.grid.cells, dtype=torch.bool, device=obs.device)
        # `aim_B` is the cell that the last action led to. The observation may already be of the next episode.
        self.goal_B = torch.where(reward_B > 0, self.aim_B, self.goal_B)
        self.goal_B = torch.where(trial_start_B, -1, self.goal_B)
        self.been_BC = self.been_BC & ~trial_start_B[:, None]
        cell_B = self.grid.cell_at(obs)
        wanted_B = torch.where(self.goal_B < 0, self.grid.nearest(cell_B, ~self.been_BC), self.goal_B)
        action_B = self.grid.toward(cell_B, wanted_B)
        self.aim_B = self.grid.move(cell_B, action_B)
        self.been_BC = self.been_BC.scatter(1, self.aim_B[:, None], True)
        return action_B
