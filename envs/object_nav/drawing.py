"""Pictures of object navigation for people: what the agent sees beside a map with its way and the goals.

Shapes: I and J cells of a floor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..grid import AGENT_COLOUR
from ..houses import KINDS, House, top_down
from ..picture import FLOOR, WALL, Cell, Picture
from ..simulator import Agents, Pose
from .world import World

if TYPE_CHECKING:
    from .env import Search

SIDE = 320
"""Pixels along a side of each of the two pictures."""
GOAL_COLOUR, WAY_COLOUR, START_COLOUR = (235, 0, 200), (40, 90, 230), (250, 250, 250)
BLOCK = 0.4
"""Side of a cell of the map that a terminal shows, metres."""
ARROWS = "↑↖←↙↓↘→↗"  # by eighths of a turn to the left


def draw(world: World, tasks: Sequence[Search], row: int, mask: bool) -> Picture:
    """Return the picture of a row.

    Args:
        world: the houses.
        tasks: the states of the episode so far, the last one now.
        row: which row.
        mask: whether the agent is shown where things of the kind to find are.
    """
    now = tasks[-1]
    number = int(now.agents.house_B[row])
    house, origin_3 = world.prepared[number].house, world.simulator.origin_H3[number]
    kind = KINDS[int(now.target_B[row])]
    goals = [(thing.centre[0], thing.centre[2]) for thing in house.things if thing.kind == kind]
    way = [(float(at[0]), float(at[2])) for at in (task.agents.pose.position_B3[row] - origin_3 for task in tasks)]
    yaw = float(now.agents.pose.yaw_B[row])
    view = first_person(world, now, row, mask)
    image = np.concatenate([view, way_map(house, way, yaw, goals)], 1)
    told = f"find {kind.replace('_', ' ')}, {float(now.distance_B[row]):.1f} m to go"
    caption = told + (", in view" if bool(now.in_view_B[row]) else "")
    return Picture(_cells(house, way[-1], yaw, goals), caption, image)


def first_person(world: World, task: Search, row: int, mask: bool) -> np.ndarray:
    """Return what the agent of a row sees, (SIDE, SIDE, 3) uint8: colours, or else depth, darker with distance.

    Without colours, what a mask shows has that of goals.
    """
    part, agents = slice(row, row + 1), task.agents
    seen = world.simulator.render(Agents(agents.house_B[part], Pose(*(each[part] for each in agents.pose))))
    if "rgb" in seen:
        small = _host(seen["rgb"])
    else:
        depth = _host(seen["depth"])
        # A depth of 0 is that of nothing in reach.
        near = np.where(depth > 0, 1 - depth / world.simulator.view.far, 0.0)
        small = np.repeat((near * 255).clip(0, 255).astype(np.uint8)[..., None], 3, -1)
        if mask:
            wanted_BE = world.kind_HE[agents.house_B[part]] == task.target_B[part, None]
            small[_host(wanted_BE)[_host(seen["semantic"])]] = GOAL_COLOUR
    at = np.arange(SIDE) * small.shape[0] // SIDE
    enlarged: np.ndarray = small[at][:, at]
    return enlarged


def way_map(
    house: House, way: Sequence[tuple[float, float]], yaw: float, goals: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Return a house from above with the goals, the way and the agent at its end, (SIDE, SIDE, 3) uint8.

    Args:
        house: what is drawn.
        way: (x, z) of every step.
        yaw: where the agent looks, radians.
        goals: (x, z) of every instance.
    """
    scale = max(1, int(SIDE / max(house.size[0], house.size[2])))
    image = np.full((SIDE, SIDE, 3), 24, dtype=np.uint8)
    plan = _plan(house, scale)[:SIDE, :SIDE]
    image[: plan.shape[0], : plan.shape[1]] = plan
    for x, z in goals:
        _disc(image, x * scale, z * scale, 6, (255, 255, 255))
        _disc(image, x * scale, z * scale, 4.5, GOAL_COLOUR)
    for (x0, z0), (x1, z1) in itertools.pairwise(way):
        for share in np.linspace(0, 1, 2 + int(scale * math.hypot(x1 - x0, z1 - z0))):
            _disc(image, (x0 + share * (x1 - x0)) * scale, (z0 + share * (z1 - z0)) * scale, 1.2, WAY_COLOUR)
    _disc(image, way[0][0] * scale, way[0][1] * scale, 3, START_COLOUR)
    x, z = way[-1][0] * scale, way[-1][1] * scale
    for ahead in range(13):
        _disc(image, x - math.sin(yaw) * ahead, z - math.cos(yaw) * ahead, 1.8, AGENT_COLOUR)
    _disc(image, x, z, 5, AGENT_COLOUR)
    return image


@lru_cache(maxsize=8)
def _plan(house: House, scale: int) -> np.ndarray:
    return top_down(house, scale)


def _host(part: Tensor) -> np.ndarray:
    found: np.ndarray = part[0].cpu().numpy()
    return found


def _disc(image: np.ndarray, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    low_i, low_j = max(0, int(y - radius)), max(0, int(x - radius))
    part = image[low_i : int(y + radius) + 2, low_j : int(x + radius) + 2]
    i, j = np.ogrid[: part.shape[0], : part.shape[1]]
    part[np.hypot(i + low_i + 0.5 - y, j + low_j + 0.5 - x) <= radius] = colour


def _cells(house: House, at: tuple[float, float], yaw: float, goals: Sequence[tuple[float, float]]) -> list[list[Cell]]:
    """Return the map of a terminal: the agent as an arrow, goals as G."""
    per = max(1, round(BLOCK / house.cell))
    lines, columns = (-(-count // per) for count in house.navigable_IJ.shape)
    free = np.zeros((lines * per, columns * per), dtype=bool)
    free[: house.navigable_IJ.shape[0], : house.navigable_IJ.shape[1]] = house.navigable_IJ
    free_IJ = free.reshape(lines, per, columns, per).max((1, 3))
    cells = [[FLOOR if free_IJ[i, j] else WALL for j in range(columns)] for i in range(lines)]
    block = per * house.cell

    def put(x: float, z: float, cell: Cell) -> None:
        cells[min(int(z / block), lines - 1)][min(int(x / block), columns - 1)] = cell

    for x, z in goals:
        put(x, z, Cell("G", GOAL_COLOUR))
    put(*at, Cell(ARROWS[round(yaw / (math.pi / 4)) % 8], AGENT_COLOUR))
    return cells
