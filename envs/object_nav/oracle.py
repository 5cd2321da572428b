"""A player of object navigation that knows the house: the ceiling of success and of the way.

Shapes: B rows, T headings.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..simulator import Agents
from ..simulator.base import DOWN, FORWARD, LEFT, RIGHT, STOP, UP
from ..step import Env, Obs, Oracle
from .env import ObjectNav, Search

TURN_COST = 0.01
"""Metres that a turn is taken for, so that of ways as short the one with fewer turns is taken."""
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
        action_B = torch.where(task.distance_B > 0, self._walk(task), self._face(task))
        drawn_B = torch.rand(len(action_B), generator=self.generator, device=action_B.device)
        by_chance_B = (self.waited_B > PATIENCE) & (drawn_B < 0.5)
        action_B = torch.where(by_chance_B, FORWARD + (drawn_B * 2 * 3).long(), action_B)
        return torch.where(task.in_view_B, STOP, action_B)

    def _walk(self, task: Search) -> Tensor:
        """Turn to the heading from which a step leads nearest to the goal, or take that step."""
        turn = math.radians(self.env.options.turn)
        turns = max(1, int(360 / self.env.options.turn))
        number_T = torch.arange(turns, device=task.distance_B.device)
        number_T = torch.where(number_T > turns // 2, number_T - turns, number_T)
        house_B, pose = task.agents

        def repeated(part: Tensor) -> Tensor:
            return part.repeat_interleave(turns, 0)

        yaw_BT = pose.yaw_B[:, None] + number_T * turn
        tried = Agents(
            repeated(house_B),
            pose._replace(
                position_B3=repeated(pose.position_B3), yaw_B=yaw_BT.flatten(), pitch_B=repeated(pose.pitch_B)
            ),
        )
        forward = torch.full_like(tried.house_B, FORWARD)
        after, _ = self.env.simulator.move(tried, forward)
        way_BT = self.env.simulator.geodesic(after, self.env.world.way_FC, repeated(task.field_B)).view(-1, turns)
        best_B = number_T[(way_BT + TURN_COST * number_T.abs()).argmin(1)]
        return torch.where(best_B == 0, FORWARD, torch.where(best_B > 0, LEFT, RIGHT))

    def _face(self, task: Search) -> Tensor:
        """Turn and tilt towards the nearest goal; where it is not seen for all that, go nearer."""
        world, motion = self.env.world, self.env.simulator.motion
        house_B, (position_B3, yaw_B, pitch_B) = task.agents
        place_BE3 = world.place_HE3[house_B]
        goal_BE = world.kind_HE[house_B] == task.target_B[:, None]
        away_BE3 = place_BE3 - position_B3[:, None]
        flat_BE = (away_BE3[..., 0].square() + away_BE3[..., 2].square()).sqrt()
        which_B = torch.where(goal_BE, flat_BE, torch.inf).argmin(1)
        row_B = torch.arange(len(which_B), device=which_B.device)
        x_B, y_B, z_B = away_BE3[row_B, which_B].unbind(1)
        aim_B = torch.atan2(-x_B, -z_B)
        turned_B = (aim_B - yaw_B + math.pi).remainder(2 * math.pi) - math.pi
        tilt_B = torch.atan2(y_B - motion.eye_height, flat_BE[row_B, which_B]).clamp(*motion.pitches) - pitch_B
        half_turn, half_look = math.radians(motion.turn) * 0.51, math.radians(motion.look) * 0.51
        action_B = torch.where(tilt_B > half_look, UP, torch.where(tilt_B < -half_look, DOWN, FORWARD))
        return torch.where(turned_B > half_turn, LEFT, torch.where(turned_B < -half_turn, RIGHT, action_B))
