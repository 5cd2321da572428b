"""The next action of a player that knows the house.

Shapes: B rows, E ids of instances, T headings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..simulator import Agents
from ..simulator.base import DOWN, FORWARD, LEFT, RIGHT, STOP, UP

if TYPE_CHECKING:
    from .env import ObjectNav, Search

TURN_COST = 0.01
"""Metres that a turn is taken for, so that of ways as short the one with fewer turns is taken."""


def way(env: ObjectNav, task: Search) -> Tensor:
    """Return the next action of a player that knows the house, (B,) int64."""
    action_B = torch.where(task.distance_B > 0, _walk(env, task), _face(env, task))
    return torch.where(task.in_view_B, STOP, action_B)


def _walk(env: ObjectNav, task: Search) -> Tensor:
    """Turn to the heading from which a step leads nearest to the goal, or take that step."""
    turn = math.radians(env.options.turn)
    turns = max(1, int(360 / env.options.turn))
    number_T = torch.arange(turns, device=task.distance_B.device)
    number_T = torch.where(number_T > turns // 2, number_T - turns, number_T)
    house_B, pose = task.agents

    def repeated(part: Tensor) -> Tensor:
        return part.repeat_interleave(turns, 0)

    yaw_BT = pose.yaw_B[:, None] + number_T * turn
    tried = Agents(
        repeated(house_B),
        pose._replace(position_B3=repeated(pose.position_B3), yaw_B=yaw_BT.flatten(), pitch_B=repeated(pose.pitch_B)),
    )
    forward = torch.full_like(tried.house_B, FORWARD)
    after, _ = env.simulator.move(tried, forward)
    way_BT = env.simulator.geodesic(after, env.world.way_FC, repeated(task.field_B)).view(-1, turns)
    best_B = number_T[(way_BT + TURN_COST * number_T.abs()).argmin(1)]
    return torch.where(best_B == 0, FORWARD, torch.where(best_B > 0, LEFT, RIGHT))


def _face(env: ObjectNav, task: Search) -> Tensor:
    """Turn and tilt towards the nearest goal; where it is not seen for all that, go nearer."""
    world, motion = env.world, env.simulator.motion
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
