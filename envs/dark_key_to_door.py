"""Dark Key-To-Door: find an invisible key, then an invisible door, again and again in the same room.

Source: the room of Memo (arXiv 2510.19732) and AMAGO (arXiv 2310.09971): 9x9, 50 steps an episode, 500 steps a trial.

Departures: an episode is truncated after exactly `episode_steps` (the published code counts one step more).

Shapes: B rows, C cells, F numbers in an observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

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
class DarkKeyToDoorConfig(EnvConfig):
    """Find the key, then the door; a trial holds many episodes in the same room, and its return is what counts."""

    name: ClassVar[str] = "dark-key-to-door"
    summary: ClassVar[str] = "an invisible key, then an invisible door, the same for all episodes of a trial"

    size: int = 9
    """Cells along a side."""
    episode_steps: int = 50
    """Steps after which an episode is truncated."""
    trial_steps: int = 500
    """Steps of a trial; the door, or the clock of the episode, puts the agent back to the start of the same room."""
    show_key: bool = True
    """Show whether the agent has the key."""
    show_time: bool = True
    """Show how much of the episode has passed."""

    def __post_init__(self) -> None:
        """Refuse a trial that is shorter than an episode."""
        self.require_whole("size", 2)
        self.require_whole("episode_steps", 1)
        self.require_whole("trial_steps", 1)
        if self.trial_steps < self.episode_steps:
            self.refuse(
                f"trial_steps is {self.trial_steps} and episode_steps is {self.episode_steps}; "
                "a trial must be at least as long as an episode"
            )

    def best_return(self) -> float:
        """Return what a player that knows key and door from the start gets in a trial: the mean over all rooms."""
        cell = torch.arange(self.size * self.size)
        x, y = cell % self.size, cell // self.size
        # A step is needed to take the key where one starts, and to use the door where the key was.
        steps = ((x[:, None] - x).abs() + (y[:, None] - y).abs()).clamp(min=1)
        blocks, left = divmod(self.trial_steps, self.episode_steps)
        total = 0
        for start_to_key in steps:
            key = start_to_key[:, None]
            both = key + steps  # by key and door
            rounds = 2 * (self.trial_steps // both) + (self.trial_steps % both >= key).long()
            # An episode too short for the door still pays for the key.
            only_key = blocks * (key <= self.episode_steps).long() + (key <= left).long()
            total += int(torch.where(both <= self.episode_steps, rounds, only_key).sum())
        return total / len(cell) ** 3

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> DarkKeyToDoor:
        """Make `batch` rooms."""
        return DarkKeyToDoor(self, batch, seed, device)

    def oracle(self) -> DarkKeyToDoorOracle:
        """Return a player that looks for key and door in the nearest cells it has not tried, and then uses them."""
        return DarkKeyToDoorOracle(self)


class Room(NamedTuple):
    """B rooms."""

    cell: Tensor  # (B,) int64: where the agent is
    start: Tensor  # (B,) int64
    key: Tensor  # (B,) int64
    door: Tensor  # (B,) int64
    has_key: Tensor  # (B,) bool


class DarkKeyToDoor(NativeEnv):
    """B dark rooms with a key and a door.

    Actions: 0 up, 1 down, 2 left, 3 right, 4 stay. The agent sees [x/size, y/size, has_key, t/episode_steps], the last
    two unless hidden. Start, key and door are drawn for each trial and may coincide. Reward: 1 for a step that ends at
    the key without having it, and 1 for a step that ends at the door with the key in hand since an earlier step, which
    ends the episode. `success`: the door was reached.
    """

    action_names = MOVES

    def __init__(self, config: DarkKeyToDoorConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(len(MOVES)),
            observation_space=spaces.Box(0.0, 1.0, (2 + config.show_key + config.show_time,), np.float32),
            episode_steps=config.episode_steps,
            trial_steps=config.trial_steps,
        )
        self.grid = Grid(config.size, self.device)
        self.show_key, self.show_time = config.show_key, config.show_time
        self._seen = self.grid.scaled()
        # Looked up, not divided in each step: devices do not divide by a number with equal bits.
        self._time = (torch.arange(config.episode_steps + 1) / config.episode_steps)[:, None].to(self.device)

    def begin(self, stream: Stream) -> Room:
        """Draw the rooms."""
        start_B, key_B, door_B = stream.integers(0, self.grid.cells, 3).unbind(1)
        return Room(start_B, start_B, key_B, door_B, torch.zeros_like(start_B, dtype=torch.bool))

    def restart(self, task: Room, stream: Stream) -> Room:
        """Put the agents back to the start, without the key."""
        return task._replace(cell=task.start, has_key=torch.zeros_like(task.has_key))

    def advance(self, task: Room, action_B: Tensor, stream: Stream) -> tuple[Room, Outcome]:
        """Move, and take the key or use the door."""
        cell_B = self.grid.move(task.cell, action_B)
        key_B = (cell_B == task.key) & ~task.has_key
        door_B = (cell_B == task.door) & task.has_key
        outcome = Outcome((key_B | door_B).float(), door_B, {"success": door_B})
        return task._replace(cell=cell_B, has_key=task.has_key | key_B), outcome

    def observe(self, task: Room, episode_step_B: Tensor) -> Tensor:
        """Show where the agent is and, unless hidden, the key in its hand and the time."""
        parts = [self._seen[task.cell]]
        if self.show_key:
            parts.append(task.has_key[:, None].float())
        if self.show_time:
            parts.append(self._time[episode_step_B])
        return torch.cat(parts, 1)

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return the cells of key and door; a reward is what tells where they are."""
        task: Room = state.task
        door_B = step.info.get("success", torch.zeros_like(task.has_key))
        found_B, same_B = (step.reward > 0) & ~step.trial_start, torch.zeros_like(task.key)
        return {
            "key": Hidden(task.key, self.grid.cells, shown=found_B & ~door_B, turn=same_B),
            "door": Hidden(task.door, self.grid.cells, shown=found_B & door_B, turn=same_B),
        }

    def draw(self, state: Any, row: int) -> Picture:
        """Return the room with its key and door, which the agent does not see."""
        cell, _, key, door, has_key = (int(part[row]) for part in state.task)
        things = {door: Cell("D", (150, 90, 40))}
        if not has_key:
            things[key] = Cell("k", (215, 170, 20))
        things[cell] = Cell("&" if has_key else "@", AGENT_COLOUR)
        left = self.trial_steps - int(state.trial_step[row])
        return Picture(
            self.grid.draw(things), f"{'with' if has_key else 'without'} the key, {left} steps of the trial left"
        )


class DarkKeyToDoorOracle(Oracle):
    """Tries the nearest cell that may hold what it needs next, and goes straight to what it has found in the trial.

    It neither plans its search nor weighs a longer look in one episode against rewards in later ones, so it is a
    level to beat, not a bound; the bound is `best_return`.
    """

    def __init__(self, config: DarkKeyToDoorConfig) -> None:
        self.size = config.size
        self.batch = 0

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        if self.batch != len(obs):
            self.batch, self.grid = len(obs), Grid(self.size, obs.device)
            self.aim_B = self.key_B = self.door_B = torch.full_like(trial_start_B, -1, dtype=torch.int64)
            self.has_key_B = torch.zeros_like(trial_start_B)
            self.no_key_BC = torch.zeros(self.batch, self.grid.cells, dtype=torch.bool, device=obs.device)
            self.no_door_BC = self.no_key_BC
        self._learn(reward_B > 0, trial_start_B)
        self.has_key_B = (self.has_key_B | (reward_B > 0)) & ~episode_start_B
        cell_B = self.grid.cell_at(obs[:, :2])
        found_B = torch.where(self.has_key_B, self.door_B, self.key_B)
        not_BC = torch.where(self.has_key_B[:, None], self.no_door_BC, self.no_key_BC)
        wanted_B = torch.where(found_B < 0, self.grid.nearest(cell_B, ~not_BC), found_B)
        action_B = self.grid.toward(cell_B, wanted_B)
        self.aim_B = self.grid.move(cell_B, action_B)
        return action_B

    def _learn(self, paid_B: Tensor, trial_start_B: Tensor) -> None:
        """Note what the last action found at the cell it led to; the observation may be of the next episode already."""
        self.key_B = torch.where(paid_B & ~self.has_key_B, self.aim_B, self.key_B)
        self.door_B = torch.where(paid_B & self.has_key_B, self.aim_B, self.door_B)
        tried_BC = torch.nn.functional.one_hot(self.aim_B.clamp(min=0), self.grid.cells).bool()
        self.no_key_BC = self.no_key_BC | tried_BC & (~paid_B & ~self.has_key_B)[:, None]
        self.no_door_BC = self.no_door_BC | tried_BC & (~paid_B & self.has_key_B)[:, None]
        self.key_B, self.door_B = (torch.where(trial_start_B, -1, known_B) for known_B in (self.key_B, self.door_B))
        self.no_key_BC, self.no_door_BC = (
            not_BC & ~trial_start_B[:, None] for not_BC in (self.no_key_BC, self.no_door_BC)
        )
