"""A player of object navigation that knows the house: the ceiling of success and of the way.

Shapes: B rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..simulator.base import FORWARD, STOP
from ..step import Env, Obs, Oracle
from .env import ObjectNav, Search
from .way import way

PATIENCE = 40
"""Steps after which a row that gets no nearer does something by chance now and then."""


class ObjectNavOracle(Oracle):
    """Walks down the distance field, faces the nearest goal and stops once it is in view.

    It is told what no agent is: the map, where all things are, and whether `stop` would succeed. It looks one step
    ahead, so its way is the shortest but for the size of steps and turns.
    """

    def __init__(self) -> None:
        self.nearest_B = torch.empty(0)

    def peek(self, env: Env, state: Any) -> None:
        """Look at where everything is."""
        if not isinstance(env, ObjectNav):
            raise TypeError(f"a player of object navigation cannot play {env.config.label}")
        if len(self.nearest_B) != env.batch:
            self.nearest_B = torch.full((env.batch,), math.inf, device=env.device)
            self.waited_B = torch.zeros(env.batch, dtype=torch.int64, device=env.device)
            self.generator = torch.Generator(env.device).manual_seed(0)
        self.env, self.task = env, state.task

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        task: Search = self.task
        nearer_B = episode_start_B | (task.distance_B < self.nearest_B)
        self.nearest_B = torch.where(nearer_B, task.distance_B, self.nearest_B)
        self.waited_B = torch.where(nearer_B, 0, self.waited_B + 1)
        action_B = way(self.env, task)
        drawn_B = torch.rand(len(action_B), generator=self.generator, device=action_B.device)
        by_chance_B = (self.waited_B > PATIENCE) & (drawn_B < 0.5)
        action_B = torch.where(by_chance_B, FORWARD + (drawn_B * 2 * 3).long(), action_B)
        return torch.where(task.in_view_B, STOP, action_B)
