"""Pictures of Gymnasium environments: MiniGrid cell by cell, others from their own image."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from .picture import FLOOR, WALL, Cell, Picture

LONGEST = 48  # cells along the longer side of a picture made from an image
GLYPHS = {"wall": "█", "floor": "·", "door": "D", "key": "k", "ball": "●", "box": "□", "goal": "G", "lava": "~"}
AGENT = ("▶", "▼", "◀", "▲")  # by direction
AGENT_COLOUR = (220, 40, 40)


def is_minigrid(env: gymnasium.Env[Any, Any]) -> bool:
    """Say whether an environment is one of MiniGrid's or BabyAI's, without importing them."""
    return any(base.__module__ == "minigrid.minigrid_env" for base in type(env.unwrapped).__mro__)


def draw(env: gymnasium.Env[Any, Any]) -> Picture:
    """Return a picture of an environment as it stands.

    Raises:
        ValueError: it is not MiniGrid's and gives no image.
    """
    if is_minigrid(env):
        return _grid(env.unwrapped)
    image = env.render() if env.render_mode == "rgb_array" else None
    if not isinstance(image, np.ndarray) or image.ndim != 3:
        raise ValueError("it cannot be drawn, since it gives no image (render mode rgb_array)")
    return Picture(_shrunk(image), "")


def _grid(env: Any) -> Picture:
    from minigrid.core.constants import COLORS

    cells = []
    for y in range(env.height):
        line = []
        for x in range(env.width):
            thing = env.grid.get(x, y)
            if (x, y) == tuple(env.agent_pos):
                line.append(Cell(AGENT[env.agent_dir], AGENT_COLOUR))
            elif thing is None:
                line.append(FLOOR)
            elif thing.type == "wall":
                line.append(WALL)
            else:
                red, green, blue = (int(part) for part in COLORS[thing.color])
                line.append(Cell(GLYPHS.get(thing.type, "?"), (red, green, blue)))
        cells.append(line)
    return Picture(cells, str(env.mission))


def _shrunk(image: np.ndarray) -> list[list[Cell]]:
    """Average an image (height, width, 3) over squares, and make a cell of each."""
    side = -(-max(image.shape[:2]) // LONGEST)
    tops, lefts = (np.arange(0, length, side) for length in image.shape[:2])
    total = np.add.reduceat(np.add.reduceat(image[..., :3].astype(np.float64), tops, 0), lefts, 1)
    heights, widths = (
        np.diff(np.append(edges, length)) for edges, length in ((tops, image.shape[0]), (lefts, image.shape[1]))
    )
    mean = (total / (heights[:, None] * widths)[..., None]).round().astype(int)
    return [[Cell("█", (red, green, blue)) for red, green, blue in line] for line in mean.tolist()]
