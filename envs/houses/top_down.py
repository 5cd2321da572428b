"""A house seen from above, without its ceiling: the map that a player's way is drawn on."""

from __future__ import annotations

import math

import numpy as np

from .house import BOX, House
from .materials import MATERIALS

ABOVE = 2.0
"""What begins higher is left out: ceiling, lintels, lamps; metres."""
OUTSIDE = 24
"""How grey it is where there is no house, and the walls are, in 0..255."""

FLOOR = 190
"""How grey a floor is of which nothing else is known."""


def top_down(house: House, scale: int = 40) -> np.ndarray:
    """Return a picture of a house from above, (height, width, 3) uint8, x to the right and z down.

    The point (x, z) is at column x * scale and row z * scale. Of a house without solids the navigable floor is drawn.

    Args:
        house: what is drawn.
        scale: pixels of a metre.

    Raises:
        ValueError: the scale is below 1.
    """
    if scale < 1:
        raise ValueError(f"top_down: scale is {scale}; at least 1 pixel of a metre is expected")
    width, _, depth = house.size
    image = np.full((round(depth * scale), round(width * scale), 3), OUTSIDE, dtype=np.uint8)
    x_J, z_I = (np.arange(image.shape[1]) + 0.5) / scale, (np.arange(image.shape[0]) + 0.5) / scale
    solids = house.solids
    if not len(solids.kind_S):
        i_I, j_J = (z_I / house.cell).astype(int), (x_J / house.cell).astype(int)
        image[house.navigable_IJ[i_I][:, j_J]] = FLOOR
        return image
    kinds, yaws, materials = solids.kind_S.tolist(), solids.yaw_S.tolist(), solids.material_S.tolist()
    centres, halves, ids = solids.centre_S3.tolist(), solids.half_S3.tolist(), solids.semantic_S.tolist()
    tops = [centre[1] + half[1] for centre, half in zip(centres, halves, strict=True)]
    rim = 1.0 / scale
    for solid in sorted(range(len(kinds)), key=tops.__getitem__):
        (x, y, z), (half_x, half_y, half_z) = centres[solid], halves[solid]
        if y - half_y >= ABOVE:
            continue
        reach = math.hypot(half_x, half_z) if yaws[solid] else 0.0
        reach_x, reach_z = max(half_x, reach), max(half_z, reach)
        j = slice(max(0, int((x - reach_x) * scale)), max(0, math.ceil((x + reach_x) * scale)))
        i = slice(max(0, int((z - reach_z) * scale)), max(0, math.ceil((z + reach_z) * scale)))
        away_x, away_z = x_J[None, j] - x, z_I[i, None] - z
        if kinds[solid] == BOX:
            cos, sin = math.cos(yaws[solid]), math.sin(yaws[solid])
            out = np.maximum(abs(away_x * cos - away_z * sin) - half_x, abs(away_x * sin + away_z * cos) - half_z)
        else:
            out = np.hypot(away_x, away_z) - half_x
        colour = np.array(MATERIALS[materials[solid]].first) * 255
        if tops[solid] >= house.size[1] - 1e-3 and not ids[solid]:
            colour = np.full(3, float(OUTSIDE))
        rimmed = ids[solid] > 0
        image[i, j][out <= 0] = (colour * (0.6 if rimmed else 1.0)).astype(np.uint8)
        if rimmed:
            image[i, j][out <= -rim] = colour.astype(np.uint8)
    return image
