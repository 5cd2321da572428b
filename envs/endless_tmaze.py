"""Endless T-Maze: a chain of corridors, each with a cue at its start that says which way to turn at its end.

Source: "Memory Retention Is Not Enough to Master Memory Tasks in RL" (arXiv 2601.15086). Each new cue makes the old
one worthless, so memory must be overwritten, not only kept.

Shapes: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .grid import AGENT_COLOUR
from .native import NativeEnv, Outcome
from .picture import FLOOR, WALL, Cell, Picture
from .random import Stream
from .step import EnvConfig, Hidden, Obs, Oracle, Step

FORWARD, LEFT, RIGHT = range(3)
CUES = (Cell("◀", (50, 110, 220)), Cell("▶", (230, 140, 30)))


class Rewards(NamedTuple):
    """What the four things that an action can be are worth."""

    correct: float
    wrong: float
    idle: float
    forward: float


REWARDS = {
    "dev": Rewards(correct=1.0, wrong=-0.01, idle=-0.01, forward=0.0),
    "paper": Rewards(correct=1.0, wrong=-1.0, idle=-0.01, forward=-0.01),
}


@dataclass(frozen=True, kw_only=True)
class EndlessTMazeConfig(EnvConfig):
    """Turn at the end of each corridor as the cue at its start said."""

    name: ClassVar[str] = "endless-tmaze"
    summary: ClassVar[str] = "corridors in a row, each with a new cue that says where to turn at its end"

    length: int = 5
    """Steps from a cue to its junction; with uniform sampling the longest."""
    corridors: int = 3
    """Junctions to pass."""
    sampling: Literal["fixed", "uniform"] = "fixed"
    """All corridors are of this length, or each is drawn anew; nothing marks the junction then."""
    min_length: int = 1
    """The shortest corridor of uniform sampling; 0 for half of `length`."""
    rewards: Literal["dev", "paper"] = "dev"
    """Rewards of the authors' code (wrong -0.01, forward 0) or of their paper (wrong -1, forward -0.01)."""
    correct: float | None = None
    """Reward of the right turn at a junction; None: as `rewards` says (1)."""
    wrong: float | None = None
    """Reward of anything else at a junction, which ends the episode; None: as `rewards` says."""
    idle: float | None = None
    """Reward of a turn inside a corridor, which does not move; None: as `rewards` says (-0.01)."""
    forward: float | None = None
    """Reward of a step forward inside a corridor; None: as `rewards` says."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        self.require_whole("length", 1)
        self.require_whole("corridors", 1)
        self.require_whole("min_length", 0)
        self.require_choice("sampling", ("fixed", "uniform"))
        self.require_choice("rewards", tuple(REWARDS))
        for field in Rewards._fields:
            if getattr(self, field) is not None:
                self.require_number(field)
        if self.min_length > self.length:
            self.refuse(f"min_length is {self.min_length} and length is {self.length}; make min_length at most length")

    @property
    def worth(self) -> Rewards:
        """The rewards that count: those given, the others from the preset."""
        preset = REWARDS[self.rewards]
        given = {field: getattr(self, field) for field in Rewards._fields}
        return preset._replace(**{field: value for field, value in given.items() if value is not None})

    @property
    def shortest(self) -> int:
        """The shortest corridor there is."""
        if self.sampling == "fixed":
            return self.length
        return self.min_length or max(1, self.length // 2)

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return 6 * (self.length + 1) * self.corridors

    def best_return(self) -> float:
        """Return what the oracle gets on average: every turn right, and each cell that may be a junction tried once."""
        steps = (self.shortest + self.length) / 2
        return self.corridors * (
            self.worth.correct + steps * self.worth.forward + (steps - self.shortest) * self.worth.idle
        )

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> EndlessTMaze:
        """Make `batch` mazes."""
        return EndlessTMaze(self, batch, seed, device)

    def oracle(self) -> EndlessTMazeOracle:
        """Return a player that never turns the wrong way."""
        return EndlessTMazeOracle(self)

    def memoryless(self) -> EndlessTMazeMemoryless:
        """Return a player that always turns left: it passes a junction with probability 1/2, and all with 1/2^n."""
        return EndlessTMazeMemoryless(self)


class Corridor(NamedTuple):
    """Where B agents are."""

    position: Tensor  # (B,) int64: steps from the cue
    length: Tensor  # (B,) int64: position of the junction
    cue: Tensor  # (B,) int64: 0 left, 1 right
    passed: Tensor  # (B,) int64: corridors behind the agent


class EndlessTMaze(NativeEnv):
    """B endless T-mazes.

    Actions: 0 forward, 1 left, 2 right. The agent sees three numbers: its position over the longest length, and at a
    cue's cell only, 1 in the second (left) or third (right). It does not see that it is at a junction.
    In a corridor a turn does not move it. At a junction the cue's turn leads to the next corridor, or to success after
    the last; anything else ends the episode.
    """

    action_names = ("forward", "left", "right")

    def __init__(self, config: EndlessTMazeConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(3),
            observation_space=spaces.Box(0.0, 1.0, (3,), np.float32),
            episode_steps=config.horizon,
        )
        self.corridors, self.shortest = config.corridors, config.shortest
        self.lengths = config.length - config.shortest + 1
        worth = config.worth
        self._reward = torch.tensor([worth.idle, worth.forward, worth.wrong, worth.correct], device=self.device)
        seen = torch.zeros(config.length + 1, 2, 3)
        seen[:, :, 0] = (torch.arange(config.length + 1) / config.length)[:, None]
        seen[0, 0, 1] = seen[0, 1, 2] = 1.0
        self._seen = seen.to(self.device)

    def _corridor(self, stream: Stream, slot: int) -> tuple[Tensor, Tensor]:
        """Draw lengths and cues, with one draw for both."""
        drawn_B = stream.integers(slot, 2 * self.lengths)
        return self.shortest + (drawn_B >> 1), drawn_B & 1

    def begin(self, stream: Stream) -> Corridor:
        """Put every agent at its first cue."""
        length_B, cue_B = self._corridor(stream, 0)
        zero_B = torch.zeros_like(cue_B)
        return Corridor(zero_B, length_B, cue_B, zero_B)

    def advance(self, task: Corridor, action_B: Tensor, stream: Stream) -> tuple[Corridor, Outcome]:
        """Walk, or turn."""
        junction_B = task.position == task.length
        forward_B = action_B == FORWARD
        right_B = junction_B & (action_B == task.cue + 1)
        good_B = torch.where(junction_B, right_B, forward_B)
        length_B, cue_B = self._corridor(stream, 200)
        passed_B = task.passed + right_B
        success_B = passed_B >= self.corridors
        walked_B = task.position + (good_B & ~junction_B)
        moved = Corridor(
            torch.where(right_B, 0, walked_B),
            torch.where(right_B, length_B, task.length),
            torch.where(right_B, cue_B, task.cue),
            passed_B,
        )
        reward_B = self._reward[2 * junction_B + good_B.long()]
        over_B = success_B | (junction_B & ~right_B)
        return moved, Outcome(reward_B, over_B, {"success": success_B, "corridors": passed_B})

    def moment(self, task: Corridor, episode_step_B: Tensor) -> Tensor:
        """Return the corridor: the next one is the same whenever it is reached."""
        return task.passed

    def observe(self, task: Corridor, episode_step_B: Tensor) -> Tensor:
        """Show the position, and the cue where it stands."""
        return self._seen[task.position, task.cue]

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return the cue of the corridor: 0 left, 1 right."""
        task: Corridor = state.task
        return {"cue": Hidden(task.cue, 2, shown=task.position == 0, turn=task.passed)}

    def draw(self, state: Any, row: int) -> Picture:
        """Return the corridor from its cue to its junction."""
        position, length, cue, passed = (int(part[row]) for part in state.task)
        width = length + 3
        lines = [[WALL] * width for _ in range(5)]
        lines[2][1 : length + 2] = [FLOOR] * (length + 1)
        lines[1][length + 1] = lines[3][length + 1] = FLOOR
        lines[2][1] = CUES[cue]
        lines[2][position + 1] = Cell("@", AGENT_COLOUR)
        word = ("left", "right")[cue]
        return Picture(lines, f"corridor {min(passed + 1, self.corridors)} of {self.corridors}, cue {word}")


class EndlessTMazeOracle(Oracle):
    """Remembers the cue; where lengths differ, tries the turn once in every cell that may be the junction, then steps.

    That is optimal: a step forward at a junction would end the episode, and a turn inside a corridor costs little.
    """

    def __init__(self, config: EndlessTMazeConfig) -> None:
        self.longest, self.shortest = config.length, config.shortest
        self.turn_B = self.position_B = torch.empty(0, dtype=torch.int64)

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        position_B = (obs[:, 0] * self.longest).round().long()
        if len(self.turn_B) != len(obs):
            self.turn_B = self.position_B = torch.zeros_like(position_B)
        turn_B = torch.where(trial_start_B, 0, self.turn_B)
        seen_B = obs[:, 1] + 2 * obs[:, 2]
        self.turn_B = torch.where(seen_B > 0, seen_B.long(), turn_B)
        tried_B = (position_B == self.position_B) & ~trial_start_B
        self.position_B = position_B
        may_be_B = position_B >= self.shortest
        turns_B = may_be_B & (~tried_B | (position_B == self.longest))
        return torch.where(turns_B, self.turn_B, FORWARD)


class EndlessTMazeMemoryless(Oracle):
    """Turns left wherever there may be a junction; where lengths differ, a turn that led nowhere says it was none.

    Nobody can do better without memory: a cue is seen once, and the step that follows tells nothing of it.
    """

    def __init__(self, config: EndlessTMazeConfig) -> None:
        self.longest, self.shortest = config.length, config.shortest
        self.turned_B = torch.empty(0, dtype=torch.bool)

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        position_B = (obs[:, 0] * self.longest).round().long()
        if len(self.turned_B) != len(obs):
            self.turned_B = torch.zeros_like(trial_start_B)
        tried_B = self.turned_B & ~trial_start_B & (position_B != self.longest)
        self.turned_B = (position_B >= self.shortest) & ~tried_B
        return torch.where(self.turned_B, LEFT, FORWARD)
