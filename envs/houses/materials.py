"""The materials of houses: two colours in a pattern of a scale."""

from __future__ import annotations

from typing import NamedTuple

Colour = tuple[float, float, float]


class Material(NamedTuple):
    """What a surface looks like: a function of the place on it, without an image."""

    name: str
    first: Colour
    """Red, green and blue in 0..1."""
    second: Colour
    """Likewise; a plain material does not show it."""
    pattern: str
    """plain, checker, stripes, bricks, planks or noise."""
    scale: float
    """The width of a cell of the pattern (bricks: the length of one; planks: the width of one), metres."""


def _plain(name: str, red: float, green: float, blue: float) -> Material:
    return Material(name, (red, green, blue), (red, green, blue), "plain", 1.0)


FLOORS = (
    Material("oak", (0.72, 0.55, 0.36), (0.58, 0.42, 0.26), "planks", 0.14),
    Material("walnut", (0.45, 0.30, 0.20), (0.34, 0.22, 0.14), "planks", 0.12),
    Material("ash", (0.82, 0.76, 0.66), (0.70, 0.63, 0.53), "planks", 0.18),
    Material("white_tiles", (0.90, 0.90, 0.88), (0.35, 0.37, 0.40), "checker", 0.30),
    Material("blue_tiles", (0.84, 0.88, 0.92), (0.36, 0.52, 0.70), "checker", 0.20),
    Material("terracotta", (0.76, 0.45, 0.32), (0.62, 0.34, 0.24), "checker", 0.35),
    Material("grey_carpet", (0.55, 0.55, 0.57), (0.45, 0.45, 0.48), "noise", 0.06),
    Material("green_carpet", (0.40, 0.50, 0.38), (0.31, 0.41, 0.30), "noise", 0.06),
    Material("red_carpet", (0.56, 0.27, 0.26), (0.46, 0.20, 0.20), "noise", 0.06),
)
WALLS = (
    Material("white_wall", (0.93, 0.92, 0.89), (0.91, 0.90, 0.86), "noise", 0.10),
    Material("cream_wall", (0.93, 0.87, 0.73), (0.90, 0.84, 0.69), "noise", 0.10),
    Material("sky_wall", (0.70, 0.82, 0.91), (0.67, 0.79, 0.89), "noise", 0.10),
    Material("mint_wall", (0.74, 0.88, 0.79), (0.71, 0.85, 0.76), "noise", 0.10),
    Material("rose_wall", (0.91, 0.76, 0.76), (0.89, 0.73, 0.73), "noise", 0.10),
    Material("lilac_wall", (0.79, 0.74, 0.88), (0.76, 0.71, 0.86), "noise", 0.10),
    Material("striped_wall", (0.90, 0.88, 0.80), (0.66, 0.73, 0.66), "stripes", 0.16),
    Material("gold_stripes", (0.93, 0.88, 0.74), (0.86, 0.74, 0.48), "stripes", 0.10),
    Material("brick_wall", (0.66, 0.34, 0.27), (0.80, 0.77, 0.72), "bricks", 0.24),
    Material("grey_bricks", (0.62, 0.62, 0.63), (0.84, 0.84, 0.83), "bricks", 0.30),
    Material("tiled_wall", (0.88, 0.92, 0.93), (0.66, 0.78, 0.82), "checker", 0.15),
    Material("panels", (0.62, 0.47, 0.32), (0.52, 0.38, 0.25), "stripes", 0.12),
)
SURFACES = (
    Material("ceiling", (0.97, 0.97, 0.95), (0.95, 0.95, 0.93), "noise", 0.25),
    Material("dark_wood", (0.36, 0.23, 0.14), (0.29, 0.18, 0.11), "planks", 0.06),
    Material("light_wood", (0.78, 0.62, 0.42), (0.70, 0.53, 0.34), "planks", 0.06),
    Material("red_wood", (0.55, 0.27, 0.17), (0.46, 0.21, 0.13), "planks", 0.06),
    Material("white_paint", (0.92, 0.92, 0.91), (0.88, 0.88, 0.87), "noise", 0.20),
    Material("marble", (0.88, 0.88, 0.90), (0.70, 0.71, 0.75), "noise", 0.05),
    Material("slate", (0.28, 0.30, 0.33), (0.23, 0.25, 0.28), "noise", 0.05),
    Material("blue_cloth", (0.24, 0.36, 0.58), (0.19, 0.30, 0.50), "noise", 0.03),
    Material("green_cloth", (0.30, 0.46, 0.32), (0.25, 0.40, 0.27), "noise", 0.03),
    Material("ochre_cloth", (0.76, 0.58, 0.24), (0.68, 0.51, 0.20), "noise", 0.03),
    Material("grey_cloth", (0.48, 0.49, 0.52), (0.42, 0.43, 0.46), "noise", 0.03),
    Material("plum_cloth", (0.48, 0.25, 0.42), (0.41, 0.20, 0.36), "noise", 0.03),
    Material("linen", (0.92, 0.90, 0.86), (0.86, 0.84, 0.79), "noise", 0.03),
    Material("checked_cloth", (0.90, 0.88, 0.84), (0.70, 0.26, 0.24), "checker", 0.08),
    Material("striped_cloth", (0.88, 0.88, 0.90), (0.28, 0.40, 0.62), "stripes", 0.07),
    Material("glass", (0.68, 0.84, 0.96), (0.76, 0.89, 0.98), "stripes", 0.40),
    Material("screen", (0.08, 0.09, 0.11), (0.11, 0.13, 0.16), "stripes", 0.30),
    Material("steel", (0.72, 0.74, 0.77), (0.65, 0.67, 0.70), "stripes", 0.02),
    Material("spines", (0.62, 0.22, 0.20), (0.20, 0.34, 0.52), "stripes", 0.035),
    Material("porcelain", (0.96, 0.96, 0.97), (0.93, 0.93, 0.95), "noise", 0.20),
    Material("picture_day", (0.52, 0.74, 0.90), (0.34, 0.58, 0.30), "checker", 0.25),
    Material("picture_night", (0.14, 0.17, 0.36), (0.86, 0.72, 0.34), "checker", 0.18),
    Material("picture_red", (0.78, 0.22, 0.20), (0.95, 0.90, 0.82), "stripes", 0.12),
)
COLOURS = (
    _plain("red", 0.85, 0.10, 0.10),
    _plain("orange", 0.98, 0.52, 0.05),
    _plain("yellow", 0.98, 0.86, 0.10),
    _plain("lime", 0.55, 0.85, 0.15),
    _plain("green", 0.10, 0.55, 0.18),
    _plain("teal", 0.05, 0.62, 0.62),
    _plain("cyan", 0.20, 0.85, 0.95),
    _plain("blue", 0.12, 0.25, 0.85),
    _plain("purple", 0.52, 0.15, 0.75),
    _plain("magenta", 0.92, 0.15, 0.65),
    _plain("pink", 0.98, 0.62, 0.75),
    _plain("brown", 0.45, 0.27, 0.12),
    _plain("tan", 0.80, 0.62, 0.40),
    _plain("black", 0.07, 0.07, 0.08),
    _plain("grey", 0.50, 0.50, 0.52),
    _plain("white", 0.97, 0.97, 0.97),
    _plain("gold", 0.85, 0.65, 0.15),
    _plain("wine", 0.38, 0.05, 0.14),
    Material("beach_ball", (0.95, 0.20, 0.20), (0.98, 0.98, 0.98), "stripes", 0.06),
    Material("toy_blocks", (0.15, 0.40, 0.90), (0.98, 0.86, 0.10), "checker", 0.05),
    Material("label", (0.90, 0.15, 0.12), (0.98, 0.96, 0.90), "stripes", 0.05),
)

MATERIALS: tuple[Material, ...] = FLOORS + WALLS + SURFACES + COLOURS
"""All of them; a solid names one by its place."""

INDEX = {material.name: place for place, material in enumerate(MATERIALS)}
"""The place of each by its name."""
