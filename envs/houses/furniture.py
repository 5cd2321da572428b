"""Pieces of furniture: their parts, the ground they stand on, and where things can be put on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .parts import Draw, Part, ball, box, cylinder

WOODS = ("dark_wood", "light_wood", "red_wood", "white_paint")
CLOTHS = ("blue_cloth", "green_cloth", "ochre_cloth", "grey_cloth", "plum_cloth")
COVERS = ("checked_cloth", "striped_cloth", *CLOTHS)


class Top(NamedTuple):
    """A level place on a piece, in its own axes."""

    x0: float
    z0: float
    x1: float
    z1: float
    y: float
    headroom: float


class Piece(NamedTuple):
    """A piece of furniture whose front is at -z; the middle of its ground is the origin."""

    kind: str
    width: float
    depth: float
    parts: tuple[Part, ...]
    tops: tuple[Top, ...] = ()


def _legs(width: float, depth: float, height: float, thick: float, material: str) -> list[Part]:
    x, z = width / 2 - thick, depth / 2 - thick
    return [box(a, 0, b, thick, height, thick, material) for a in (-x, x) for b in (-z, z)]


def _inner(width: float, depth: float, y: float, headroom: float = 1.0, rim: float = 0.04) -> Top:
    return Top(-width / 2 + rim, -depth / 2 + rim, width / 2 - rim, depth / 2 - rim, y, headroom)


def _table(kind: str, width: float, depth: float, height: float, wood: str) -> Piece:
    top = box(0, height - 0.04, 0, width, 0.04, depth, wood)
    return Piece(
        kind, width, depth, (*_legs(width, depth, height - 0.04, 0.06, wood), top), (_inner(width, depth, height),)
    )


def dining_table(draw: Draw) -> Piece:
    """A table for four or six."""
    return _table("table", draw.between(1.2, 1.7), draw.between(0.8, 0.95), 0.75, draw.one(WOODS))


def coffee_table(draw: Draw) -> Piece:
    """A low table."""
    if draw.chance(0.4):
        radius, wood = draw.between(0.32, 0.42), draw.one(WOODS)
        parts = (
            cylinder(0, 0, 0, radius * 0.6, 0.03, wood),
            cylinder(0, 0.03, 0, 0.05, 0.36, wood),
            cylinder(0, 0.39, 0, radius, 0.04, wood),
        )
        return Piece(
            "coffee_table", 2 * radius, 2 * radius, parts, (_inner(1.4 * radius, 1.4 * radius, 0.43, rim=0.02),)
        )
    return _table("coffee_table", draw.between(0.8, 1.1), draw.between(0.45, 0.6), 0.42, draw.one(WOODS))


def desk(draw: Draw) -> Piece:
    """A desk with drawers on one side."""
    width, depth, wood = draw.between(1.1, 1.5), 0.62, draw.one(WOODS)
    side = draw.one((-1, 1))
    parts = (
        box(side * (width / 2 - 0.22), 0, 0.02, 0.38, 0.71, depth - 0.08, wood),
        box(-side * (width / 2 - 0.04), 0, 0.02, 0.05, 0.71, depth - 0.08, wood),
        box(0, 0.71, 0, width, 0.04, depth, wood),
    )
    return Piece("desk", width, depth, parts, (_inner(width, depth, 0.75),))


def console(draw: Draw) -> Piece:
    """A narrow table for a hall."""
    return _table("console", draw.between(0.8, 1.1), 0.3, 0.8, draw.one(WOODS))


def nightstand(draw: Draw) -> Piece:
    """A small chest beside a bed."""
    wood = draw.one(WOODS)
    parts = (
        box(0, 0, 0, 0.44, 0.5, 0.4, wood),
        box(0, 0.28, -0.2, 0.36, 0.16, 0.02, "white_paint" if wood != "white_paint" else "slate"),
        box(0, 0.5, 0, 0.48, 0.03, 0.44, wood),
    )
    return Piece("nightstand", 0.48, 0.44, parts, (_inner(0.48, 0.44, 0.53),))


def drawers(draw: Draw) -> Piece:
    """A chest of drawers."""
    width, wood, front = draw.between(0.8, 1.2), draw.one(WOODS), draw.one(WOODS)
    fronts = [box(0, y, -0.21, width - 0.08, 0.24, 0.03, front) for y in (0.06, 0.33, 0.6)]
    body = (box(0, 0, 0.01, width, 0.86, 0.41, wood), *fronts, box(0, 0.86, 0, width + 0.02, 0.03, 0.45, wood))
    return Piece("drawers", width + 0.02, 0.45, body, (_inner(width, 0.45, 0.89),))


def tv_stand(draw: Draw) -> Piece:
    """A low board with a television on it."""
    width, wood = draw.between(1.3, 1.7), draw.one(WOODS)
    parts = (
        box(0, 0, 0, width, 0.45, 0.42, wood),
        box(0, 0.45, 0.05, 0.3, 0.06, 0.16, "black"),
        box(0, 0.51, 0.05, 0.95, 0.56, 0.05, "black"),
        box(0, 0.54, 0.02, 0.89, 0.50, 0.012, "screen"),
    )
    edge = width / 2 - 0.04
    ends = (Top(-edge, -0.17, -0.5, 0.17, 0.45, 1.0), Top(0.5, -0.17, edge, 0.17, 0.45, 1.0))
    return Piece("tv_stand", width, 0.42, parts, ends)


def shelves(draw: Draw) -> Piece:
    """An open bookcase: things stand on its boards."""
    width, depth, wood = draw.between(0.8, 1.1), 0.32, draw.one(WOODS)
    levels, gap = 4, 0.42
    height = levels * gap + 0.03
    parts = [box(side * (width / 2 - 0.0125), 0, 0, 0.025, height, depth, wood) for side in (-1, 1)]
    parts.append(box(0, 0, depth / 2 - 0.01, width - 0.05, height, 0.02, wood))
    parts += [box(0, level * gap, -0.01, width - 0.05, 0.03, depth - 0.02, wood) for level in range(levels + 1)]
    tops = []
    for level in range(levels):
        y = level * gap + 0.03
        if draw.chance(0.35):
            # A row of books fills one end.
            long = draw.between(0.25, 0.45) * width
            side = draw.one((-1, 1))
            parts.append(
                box(side * (width / 2 - 0.03 - long / 2), y, 0.03, long, draw.between(0.22, 0.32), 0.2, "spines")
            )
            free = width / 2 - 0.05 - long
            low, high = (-width / 2 + 0.05, free) if side > 0 else (-free, width / 2 - 0.05)
        else:
            low, high = -width / 2 + 0.05, width / 2 - 0.05
        tops.append(Top(low, -depth / 2 + 0.02, high, depth / 2 - 0.04, y, gap - 0.05))
    return Piece("shelves", width, depth, tuple(parts), tuple(tops))


def cupboard(draw: Draw) -> Piece:
    """A closed, tall cupboard."""
    width, wood, front = draw.between(0.9, 1.6), draw.one(WOODS), draw.one(WOODS)
    doors = [box(side * width / 4, 0.08, -0.28, width / 2 - 0.03, 1.86, 0.03, front) for side in (-1, 1)]
    knobs = [box(side * 0.06, 0.95, -0.297, 0.025, 0.14, 0.012, "steel") for side in (-1, 1)]
    return Piece("cupboard", width, 0.61, (box(0, 0, 0.01, width, 2.0, 0.57, wood), *doors, *knobs))


def sofa(draw: Draw) -> Piece:
    """A sofa with cushions."""
    width, depth, cloth = draw.between(1.6, 2.2), 0.85, draw.one(CLOTHS)
    seat = width - 0.36
    parts = (
        box(0, 0.06, 0, width - 0.36, 0.36, depth, cloth),
        box(0, 0.42, 0.3, width - 0.36, 0.42, 0.25, cloth),
        *(box(side * (width / 2 - 0.09), 0, 0, 0.18, 0.6, depth, cloth) for side in (-1, 1)),
        box(-seat / 4, 0.43, 0.1, 0.38, 0.3, 0.14, draw.one(COVERS)),
    )
    return Piece("sofa", width, depth, parts, (Top(0.0, -0.38, seat / 2 - 0.04, 0.1, 0.42, 1.0),))


def armchair(draw: Draw) -> Piece:
    """A chair to lean back in."""
    cloth = draw.one(CLOTHS)
    parts = (
        box(0, 0.06, 0, 0.5, 0.36, 0.78, cloth),
        box(0, 0.42, 0.28, 0.5, 0.44, 0.22, cloth),
        *(box(side * 0.32, 0, 0, 0.14, 0.58, 0.78, cloth) for side in (-1, 1)),
    )
    return Piece("armchair", 0.78, 0.78, parts, (Top(-0.2, -0.35, 0.2, 0.1, 0.42, 1.0),))


def chair(draw: Draw) -> Piece:
    """A chair whose seat goes under a table."""
    wood = draw.one(WOODS)
    parts = (
        *_legs(0.42, 0.42, 0.43, 0.04, wood),
        box(0, 0.43, 0, 0.42, 0.04, 0.42, draw.one((wood, *CLOTHS))),
        box(0, 0.47, 0.19, 0.40, 0.43, 0.03, wood),
    )
    return Piece("chair", 0.42, 0.42, parts)


def bed(draw: Draw) -> Piece:
    """A bed, its head at the wall."""
    width, depth, wood = draw.one((0.95, 1.5, 1.7)), 2.05, draw.one(WOODS)
    pillows = [0.0] if width < 1 else [-width / 4, width / 4]
    parts = (
        box(0, 0, 0, width, 0.3, depth, wood),
        box(0, 0.3, -0.03, width - 0.06, 0.18, depth - 0.12, "linen"),
        box(0, 0.48, -0.3, width - 0.02, 0.05, depth - 0.66, draw.one(COVERS)),
        box(0, 0.3, depth / 2 - 0.03, width + 0.04, 0.7, 0.06, wood),
        *(box(x, 0.48, depth / 2 - 0.36, 0.55, 0.1, 0.32, "white_paint") for x in pillows),
    )
    return Piece("bed", width + 0.04, depth, parts, (Top(-width / 2 + 0.1, -0.9, width / 2 - 0.1, 0.0, 0.53, 1.0),))


def counter(draw: Draw) -> Piece:
    """A kitchen's counter with a sink or a stove, and cupboards above it."""
    width, wood, front = draw.between(1.8, 2.6), draw.one(WOODS), draw.one(WOODS)
    slab, stove = draw.one(("marble", "slate", "light_wood")), draw.chance(0.5)
    side = draw.one((-1, 1))
    at = side * (width / 2 - 0.45)
    parts = [
        box(0, 0, 0.03, width, 0.1, 0.5, "slate"),
        box(0, 0.1, 0.01, width, 0.76, 0.56, wood),
        box(0, 0.86, 0, width, 0.04, 0.62, slab),
    ]
    doors = max(2, round(width / 0.55))
    for door in range(doors):
        x = -width / 2 + (door + 0.5) * width / doors
        parts.append(box(x, 0.13, -0.28, width / doors - 0.04, 0.68, 0.03, front))
    if stove:
        parts.append(box(at, 0.9, 0.0, 0.56, 0.01, 0.5, "black"))
        parts += [cylinder(at + x, 0.91, z, 0.08, 0.006, "grey") for x in (-0.14, 0.14) for z in (-0.12, 0.12)]
    else:
        parts.append(box(at, 0.9, 0.0, 0.5, 0.012, 0.42, "steel"))
        parts.append(cylinder(at, 0.9, 0.24, 0.02, 0.26, "steel"))
        parts.append(box(at, 1.12, 0.16, 0.03, 0.03, 0.16, "steel"))
    if draw.chance(0.7):
        parts.append(box(0, 1.5, 0.14, width, 0.6, 0.34, wood))
        parts += [
            box(-width / 2 + (door + 0.5) * width / doors, 1.53, -0.04, width / doors - 0.04, 0.54, 0.02, front)
            for door in range(doors)
        ]
    low, high = (-width / 2 + 0.04, at - 0.3) if side > 0 else (at + 0.3, width / 2 - 0.04)
    return Piece("counter", width, 0.62, tuple(parts), (Top(low, -0.28, high, 0.2, 0.9, 0.55),))


def fridge(draw: Draw) -> Piece:
    """A fridge with two doors."""
    paint = draw.one(("steel", "white_paint", "slate"))
    parts = (
        box(0, 0, 0.02, 0.62, 1.7, 0.58, paint),
        box(0, 0.06, -0.29, 0.6, 0.98, 0.05, paint),
        box(0, 1.07, -0.29, 0.6, 0.6, 0.05, paint),
        box(-0.25, 0.6, -0.325, 0.03, 0.35, 0.02, "black"),
        box(-0.25, 1.15, -0.325, 0.03, 0.3, 0.02, "black"),
    )
    return Piece("fridge", 0.62, 0.67, parts)


def bathtub(draw: Draw) -> Piece:
    """A tub with water in it."""
    width = draw.between(1.5, 1.7)
    parts = (
        box(0, 0, 0, width, 0.48, 0.72, "porcelain"),
        *(box(0, 0.48, z, width, 0.07, 0.08, "porcelain") for z in (-0.32, 0.32)),
        *(box(x, 0.48, 0, 0.08, 0.07, 0.56, "porcelain") for x in (-width / 2 + 0.04, width / 2 - 0.04)),
        box(0, 0.48, 0, width - 0.16, 0.02, 0.56, "cyan"),
    )
    return Piece("bathtub", width, 0.72, parts)


def toilet(draw: Draw) -> Piece:
    """A toilet with its cistern."""
    lid = draw.one(("white_paint", "black", "light_wood"))
    parts = (
        box(0, 0, 0.05, 0.22, 0.38, 0.4, "porcelain"),
        cylinder(0, 0.3, -0.1, 0.19, 0.11, "porcelain"),
        cylinder(0, 0.41, -0.1, 0.2, 0.025, lid),
        box(0, 0.38, 0.24, 0.4, 0.42, 0.18, "porcelain"),
    )
    return Piece("toilet", 0.4, 0.66, parts, (Top(-0.17, 0.17, 0.17, 0.31, 0.8, 1.0),))


def washbasin(draw: Draw) -> Piece:
    """A basin on a cupboard, with a mirror."""
    wood = draw.one(WOODS)
    parts = (
        box(0, 0, 0.02, 0.8, 0.78, 0.44, wood),
        box(0, 0.78, 0, 0.86, 0.06, 0.5, "porcelain"),
        box(0.12, 0.84, -0.02, 0.44, 0.03, 0.34, "cyan"),
        cylinder(0.12, 0.84, 0.19, 0.018, 0.2, "steel"),
        box(0, 1.15, 0.24, 0.7, 0.75, 0.02, "glass"),
    )
    return Piece("washbasin", 0.86, 0.5, parts, (Top(-0.41, -0.2, -0.12, 0.2, 0.84, 1.0),))


def washing_machine(draw: Draw) -> Piece:
    """A white box that looks at you with one eye."""
    parts = (
        box(0, 0, 0.01, 0.6, 0.86, 0.58, "white_paint"),
        box(0, 0.72, -0.285, 0.54, 0.1, 0.01, draw.one(("slate", "blue", "grey"))),
        box(0, 0.22, -0.285, 0.36, 0.36, 0.01, "steel"),
        box(0, 0.28, -0.295, 0.24, 0.24, 0.01, "screen"),
    )
    return Piece("washing_machine", 0.6, 0.6, parts, (_inner(0.6, 0.58, 0.86),))


def bench(draw: Draw) -> Piece:
    """A low bench for shoes."""
    return _table("bench", draw.between(0.8, 1.2), 0.32, 0.42, draw.one(WOODS))


def floor_lamp(draw: Draw) -> Piece:
    """A lamp as high as a person."""
    shade = draw.one(("linen", "ochre_cloth", "red", "teal"))
    parts = (
        cylinder(0, 0, 0, 0.14, 0.03, "black"),
        cylinder(0, 0.03, 0, 0.02, 1.4, "black"),
        cylinder(0, 1.4, 0, 0.18, 0.28, shade),
    )
    return Piece("floor_lamp", 0.36, 0.36, parts)


def tree(draw: Draw) -> Piece:
    """A tall plant in a pot."""
    parts = (
        cylinder(0, 0, 0, 0.17, 0.32, draw.one(("white_paint", "slate", "ochre_cloth"))),
        cylinder(0, 0.32, 0, 0.03, 0.6, "brown"),
        ball(0, 0.75, 0, 0.22, "green"),
        ball(0.03, 1.08, 0.02, 0.17, "green"),
    )
    return Piece("tree", 0.44, 0.44, parts)


Maker = Callable[[Draw], Piece]

FURNISHINGS: dict[str, tuple[tuple[Maker, float], ...]] = {
    "kitchen": ((counter, 1.0), (fridge, 1.0), (dining_table, 0.9), (drawers, 0.3), (shelves, 0.5), (cupboard, 0.3)),
    "living": (
        (sofa, 1.0),
        (tv_stand, 0.9),
        (shelves, 0.9),
        (armchair, 0.8),
        (dining_table, 0.5),
        (drawers, 0.5),
        (floor_lamp, 0.6),
        (tree, 0.5),
        (armchair, 0.4),
    ),
    "bedroom": ((bed, 1.0), (cupboard, 0.9), (drawers, 0.6), (desk, 0.4), (shelves, 0.4), (armchair, 0.3), (tree, 0.2)),
    "bath": ((bathtub, 0.8), (toilet, 1.0), (washbasin, 1.0), (washing_machine, 0.7)),
    "study": (
        (desk, 1.0),
        (shelves, 1.0),
        (shelves, 0.7),
        (armchair, 0.6),
        (cupboard, 0.4),
        (floor_lamp, 0.4),
        (drawers, 0.4),
    ),
    "hall": ((console, 0.9), (bench, 0.7), (shelves, 0.3), (tree, 0.3)),
}
"""What stands in a room of a kind, in the order in which it finds its place, and how often."""
