"""What an environment returns, and what it owes: batched, tensor in, tensor out, restarting by itself.

Shapes: B rows, each an environment of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from gymnasium import spaces
from torch import Tensor

from .picture import Picture

Obs = Tensor | dict[str, Tensor]  # (B, ...) or a dictionary of such


class Step(NamedTuple):
    """What B environments say after a step. Where an episode ended, `obs` already belongs to the next one."""

    obs: Obs
    """What the agent sees now, (B, ...)."""
    reward: Tensor
    """(B,) float32: the reward of the action just taken; 0 after `reset`."""
    terminated: Tensor
    """(B,) bool: the action ended the episode by the rules; nothing is worth anything after it."""
    truncated: Tensor
    """(B,) bool: the clock ended the episode; what `final_obs` is worth is still to be counted."""
    episode_start: Tensor
    """(B,) bool: `obs` opens an episode. An input to the policy."""
    trial_start: Tensor
    """(B,) bool: `obs` opens a trial: memory forgets. A trial is one episode, or many of one task."""
    final_obs: Obs
    """What the agent saw last: where an episode ended its last observation, elsewhere the same as `obs`."""
    info: dict[str, Tensor]
    """(B,) figures of the episode, which count where it ended: `success`, bool, wherever a task can be solved.

    Empty after `reset`.
    """


class Hidden(NamedTuple):
    """Something that a task shows now and then and does not show now: what a probe looks for in a memory."""

    value: Tensor
    """(B,) int64 in 0..values-1: what it is at this moment, whether the agent has been told or not."""
    values: int
    """How many it can have."""
    shown: Tensor
    """(B,) bool: what the agent is told at this moment says it, alone or with what was told before."""
    turn: Tensor
    """(B,) int64: with another number, or another value, a new content has taken the place of the old one."""
    back: int = 0
    """How many contents before this one the task still asks for."""
    told: Tensor | None = None
    """(B,) bool: whether the agent has been told, where the task keeps count of it; None: it follows from the others.
    With such a count `value` may change in every step, as a direction does, so probes do not look for it."""


class Env(ABC):
    """B environments in one. `reset` and `step` are functions of the state they are given: the object keeps none.

    The exception is an environment that lives in another process (`resumable` is false): there `state` is empty.

    Attributes:
        config: the options it was made from.
        batch: B.
        seed: with the row number, all that its randomness depends on.
        first_row: the number of its first row, where it is a part of a larger batch.
        device: where its tensors live.
        observation_space: of one row, without the batch.
        action_space: of one row, without the batch.
        action_names: what its actions are called, by number; empty where they have no names.
        episode_steps: after how many steps an episode is truncated; None if never or unknown.
        trial_steps: the most steps that a trial can take; None if unknown.
        trial_clock: after how many steps a trial is cut off, wherever its episode stands; None: a trial ends with an
            episode that ends by itself.
        many_episodes: a trial may hold many episodes.
    """

    resumable: ClassVar[bool] = True
    on_device: ClassVar[bool] = False
    """`move` is there, a step without checks that never looks at its tensors, so that a CUDA graph can hold it; and
    episodes are truncated by the clocks of `episode_steps` and `trial_clock` alone."""

    config: EnvConfig
    batch: int
    seed: int
    first_row: int = 0
    device: torch.device
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    action_names: tuple[str, ...] = ()
    episode_steps: int | None
    trial_steps: int | None
    trial_clock: int | None = None
    many_episodes: bool = False

    @property
    def longest_episode(self) -> int | None:
        """The most steps that an episode can take, by its own clock or that of its trial; None if unknown."""
        clocks = [steps for steps in (self.episode_steps, self.trial_clock) if steps is not None]
        return min(clocks, default=None)

    @property
    def cut_below(self) -> float:
        """Where an episode is truncated together with its trial after fewer steps than this, it is no whole one.

        The clock of the trial cut it short; its own clock would have let it go on.
        """
        if self.trial_clock is None:
            return 0.0
        return math.inf if self.episode_steps is None else float(self.episode_steps)

    @abstractmethod
    def reset(self) -> tuple[Any, Step]:
        """Return the state of B fresh trials and what the agent sees."""

    @abstractmethod
    def step(self, state: Any, action_B: Tensor) -> tuple[Any, Step]:
        """Take one action in every row, (B,) int64 if discrete, and begin anew the rows whose episode ended."""

    def move(self, state: Any, action_B: Tensor) -> tuple[Any, Step]:
        """Take a step with actions that are known to be good. Here: as `step`, which checks them."""
        return self.step(state, action_B)

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return what there is to remember, by name; it is never shown to an agent. Here: nothing that is known.

        The names are the same at every moment. The host does not look.

        Args:
            state: of the environments.
            step: what `reset` or `step` returned with it.
        """
        return {}

    def draw(self, state: Any, row: int) -> Picture:
        """Return a picture of one row."""
        raise ValueError(f"{self.config.label} cannot be drawn")

    def draw_episode(self, states: Sequence[Any], row: int) -> Picture:
        """Return a picture of one row in the last of the states since its episode began. Here: as `draw`."""
        return self.draw(states[-1], row)

    def close(self) -> None:  # noqa: B027 - most have nothing outside
        """Give back what lives outside this process."""


class Oracle(ABC):
    """Plays B rows of a task by rule, from no more than an agent is told; what it remembers, it keeps itself.

    What it reaches is reachable: a reference for agents, and a test of the task. One that looks at more (`peek`) says
    so, and what it reaches is a ceiling.
    """

    def peek(self, env: Env, state: Any) -> None:  # noqa: B027 - most look at nothing
        """Be shown everything, before each `act`. Here: looks at nothing."""

    @abstractmethod
    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,) int64.

        Args:
            obs: what the agent sees, (B, ...).
            reward_B: (B,) the reward of the last action.
            episode_start_B: (B,) bool: `obs` opens an episode.
            trial_start_B: (B,) bool: `obs` opens a trial; these rows are forgotten. All are true in the first call.
        """


@dataclass(frozen=True, kw_only=True)
class EnvConfig(ABC):
    """The options of an environment. `name` and `summary` are what the registry and `mnemic list envs` show."""

    name: ClassVar[str]
    summary: ClassVar[str]
    draws: ClassVar[bool] = False
    """What the agent sees is drawn: a step costs a thousand times what it costs elsewhere."""

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name

    @abstractmethod
    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make `batch` environments."""

    def build_part(self, rows: range, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make some rows of a larger batch: each does what it would do in the whole."""
        env = self.build(len(rows), seed, device)
        env.first_row = rows.start
        return env

    def validation(self) -> EnvConfig:
        """Return the task that says how good an agent is which trains on this one. Here: the same.

        Evaluations play it while training goes on, and so do the commands that look at a run, unless told otherwise.
        """
        return self

    def oracle(self) -> Oracle | None:
        """Return a player by rule, with nothing in its memory; None where there is none."""
        return None

    def memoryless(self) -> Oracle | None:
        """Return a player by rule that remembers nothing but its last action; None where there is none.

        What it reaches is a floor: an agent has to be above it before its memory is worth anything.
        """
        return None

    def refuse(self, reason: str) -> NoReturn:
        """Say that no environment can have these options.

        Raises:
            ValueError: always, with the environment's name before the reason.
        """
        raise ValueError(f"{self.label}: {reason}")

    def require_choice(self, field: str, choices: tuple[str, ...]) -> None:
        """Refuse a word that is none of the choices."""
        if (came := getattr(self, field)) not in choices:
            self.refuse(f"{field} is {came!r}; choose one of {', '.join(choices)}")

    def require_whole(self, field: str, least: int) -> None:
        """Refuse what is no whole number of at least `least`."""
        came = getattr(self, field)
        if not isinstance(came, int) or isinstance(came, bool) or came < least:
            self.refuse(f"{field} is {came!r}; it must be a whole number of at least {least}")

    def require_number(self, field: str, low: float = -math.inf, high: float = math.inf) -> None:
        """Refuse what is no finite number in low..high."""
        came = getattr(self, field)
        if not isinstance(came, int | float) or isinstance(came, bool) or not math.isfinite(came):
            self.refuse(f"{field} is {came!r}; it must be a finite number")
        if not low <= came <= high:
            self.refuse(f"{field} is {came!r}; it must lie in {low:g}..{high:g}")
