"""What an environment returns, and what it owes: batched, tensor in, tensor out, restarting by itself.

Shapes: B rows, each an environment of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

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


class Env(ABC):
    """B environments in one. `reset` and `step` are functions of the state they are given: the object keeps none.

    The exception is an environment that lives in another process (`resumable` is false): there `state` is empty.

    Attributes:
        config: the options it was made from.
        batch: B.
        seed: with the row number, all that its randomness depends on.
        device: where its tensors live.
        observation_space: of one row, without the batch.
        action_space: of one row, without the batch.
        episode_steps: after how many steps an episode is truncated; None if never or unknown.
        trial_steps: the most steps that a trial can take; None if unknown.
    """

    resumable: ClassVar[bool] = True

    config: EnvConfig
    batch: int
    seed: int
    device: torch.device
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    episode_steps: int | None
    trial_steps: int | None

    @abstractmethod
    def reset(self) -> tuple[Any, Step]:
        """Return the state of B fresh trials and what the agent sees."""

    @abstractmethod
    def step(self, state: Any, action_B: Tensor) -> tuple[Any, Step]:
        """Take one action in every row, (B,) int64 for a discrete space, and begin anew the rows whose episode ended."""

    def draw(self, state: Any, row: int) -> Picture:
        """Return a picture of one row."""
        raise ValueError(f"{self.config.label} cannot be drawn")

    def close(self) -> None:
        """Give back what lives outside this process."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig(ABC):
    """The options of an environment. `name` and `summary` are what the registry and `mnemic list envs` show."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name

    @abstractmethod
    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make `batch` environments."""
