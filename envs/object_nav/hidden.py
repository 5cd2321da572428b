"""What a memory can know of a goal: where the nearest one stands that has been in the picture in this trial.

It is for the auxiliary loss (`--ppo.recall-weight`), which asks for it once it has been seen; an agent is never told.

Shapes: B rows, E ids of instances.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..simulator import ACTIONS
from ..step import Hidden
from .way import way

if TYPE_CHECKING:
    from .env import ObjectNav, Search

SECTORS = 12
"""Directions, as many as there are turns of 30 degrees; the first lies ahead."""
BANDS = (2.0, 4.0, 8.0)
"""Where the next distance begins, metres."""
CELLS, CELL = 16, 1.5
"""Cells along a side of the map, and their side in metres; what lies farther off counts to those at the edge."""


def hidden(env: ObjectNav, task: Search) -> dict[str, Hidden]:
    """Return where the goal is: its `bearing`, seen from the agent; its `place`, as poses are told; the `way` there.

    The way is the next action of a player that knows the house.
    """
    world = env.world
    house_B, (position_B3, yaw_B, _) = task.agents
    wanted_BE = world.kind_HE[house_B] == task.target_B[:, None]
    seen_BE = wanted_BE & task.seen_BE
    told_B = seen_BE.any(1)
    far_BE = (world.place_HE3[house_B] - position_B3[:, None])[..., ::2].square().sum(-1)
    nearest_B = far_BE.masked_fill(~torch.where(told_B[:, None], seen_BE, wanted_BE), math.inf).argmin(1)
    there_B3 = world.place_HE3[house_B, nearest_B]

    right_B, behind_B = offset(there_B3, position_B3, yaw_B)
    angle_B = torch.atan2(right_B, -behind_B) / (2 * math.pi / SECTORS)
    away_B = (right_B.square() + behind_B.square()).sqrt()
    band_B = sum((away_B >= edge).long() for edge in BANDS)
    bearing_B = angle_B.round().long() % SECTORS * (len(BANDS) + 1) + band_B

    column_B, row_B = (
        (part_B / CELL + CELLS / 2).floor().long().clamp(0, CELLS - 1)
        for part_B in offset(there_B3, task.start_B3, task.heading_B)
    )
    return {
        "bearing": Hidden(bearing_B, SECTORS * (len(BANDS) + 1), told_B, task.target_B, told=told_B),
        "place": Hidden(row_B * CELLS + column_B, CELLS * CELLS, told_B, task.target_B, told=told_B),
        "way": Hidden(way(env, task), len(ACTIONS), told_B, task.target_B, told=told_B),
    }


def offset(there_B3: Tensor, here_B3: Tensor, yaw_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far places are to the right of others and behind them, metres, for who looks along a yaw there."""
    x_B, _, z_B = (there_B3 - here_B3).unbind(1)
    cos_B, sin_B = yaw_B.cos(), yaw_B.sin()
    return x_B * cos_B - z_B * sin_B, x_B * sin_B + z_B * cos_B
