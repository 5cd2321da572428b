"""Puts furniture into rooms: along walls or in the middle, clear of doors, with room to stand in front of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from . import furniture
from .furniture import CLOTHS, FURNISHINGS, Piece
from .house import Door, Room
from .parts import Draw, Row, box, cylinder, place, turn

GAP = 0.03
"""Between a piece and the wall behind it, metres: pictures and windows are thinner."""
BEFORE = 0.5
"""Floor kept free in front of a piece, metres."""
DOORWAY = 0.8
"""Floor kept free on both sides of a door, metres."""
AROUND = 0.6
"""Floor kept free around a table in the middle of a room, metres."""
PASSAGE = 0.15, 0.36
"""Armchairs leave no gap of a width between these, metres: on cells of 0.1 m, and in the voxels of a navmesh, chance
would decide whether a way leads through it."""
ASIDE = 0.05, -0.05, 0.1, -0.1, 0.15, -0.15, 0.2, -0.2, 0.25, -0.25
"""How far they are moved along their walls then, metres: the first that helps."""
TRIES = 14

Rect = tuple[float, float, float, float]
"""Smallest x and z, greatest x and z."""


@dataclass
class Standing:
    """A piece at its place."""

    piece: Piece
    room: int
    x: float
    z: float
    yaw: float
    rect: Rect
    rows: list[Row]
    """Its solids, without an id."""
    used: dict[int, list[Rect]] = field(default_factory=dict)
    """What is taken of each of its tops, in the piece's own axes."""


def meets(one: Rect, other: Rect) -> bool:
    """Return whether two rectangles overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def apart(one: Rect, other: Rect) -> float:
    """Return how far two rectangles are from each other."""
    away_x = max(one[0] - other[2], other[0] - one[2], 0.0)
    away_z = max(one[1] - other[3], other[1] - one[3], 0.0)
    return math.hypot(away_x, away_z)


def _around(x: float, z: float, width: float, depth: float, more: float = 0.0) -> Rect:
    return (x - width / 2 - more, z - depth / 2 - more, x + width / 2 + more, z + depth / 2 + more)


class Ground:
    """The floor of a room, and what of it is taken."""

    def __init__(self, index: int, room: Room, doors: list[Door]) -> None:
        self.index, self.room = index, room
        self.whole: Rect = (*room.low, *room.high)
        self.doorways: list[Rect] = []
        for door in doors:
            if index in door.rooms:
                low, high = door.low, door.high
                across_x = high[0] - low[0] < high[1] - low[1]
                more_x, more_z = (DOORWAY, 0.05) if across_x else (0.05, DOORWAY)
                self.doorways.append((low[0] - more_x, low[1] - more_z, high[0] + more_x, high[1] + more_z))
        self.taken: list[Rect] = []
        self.kept: list[Rect] = []
        self.standing: list[Standing] = []

    def inside(self, rect: Rect) -> bool:
        """Return whether a rectangle is within the walls."""
        whole = self.whole
        return rect[0] >= whole[0] and rect[1] >= whole[1] and rect[2] <= whole[2] and rect[3] <= whole[3]

    def free(self, rect: Rect) -> bool:
        """Return whether a rectangle is within the walls and nothing needs it."""
        return self.inside(rect) and not any(meets(rect, other) for other in self.taken + self.doorways + self.kept)

    def stand(self, piece: Piece, x: float, z: float, yaw: float, before: Rect | None) -> Standing:
        """Put a piece down."""
        width, depth = _turned(piece, yaw)
        rows = place(piece.parts, x, 0.0, z, yaw, 1.0, 0)
        standing = Standing(piece, self.index, x, z, yaw, _around(x, z, width, depth), rows)
        self.taken.append(standing.rect)
        if before:
            self.kept.append(before)
        self.standing.append(standing)
        return standing

    def against_wall(self, draw: Draw, piece: Piece) -> Standing | None:
        """Find a place with the back to a wall."""
        for _ in range(TRIES):
            quarter = draw.whole(0, 3)
            yaw = quarter * math.pi / 2
            width, depth = _turned(piece, yaw)
            x0, z0, x1, z1 = self.whole
            room_x, room_z = x1 - x0 - width - 2 * GAP, z1 - z0 - depth - 2 * GAP
            # Half of the pieces go into a corner, which leaves more of the floor in one piece.
            along = float(draw.whole(0, 1)) if draw.chance(0.5) else draw.unit()
            if room_x < 0 or room_z < 0:
                continue
            # Turned by nothing a piece looks along -z, so that its back is at the greatest z.
            share_x, share_z = ((along, 1.0), (1.0, along), (along, 0.0), (0.0, along))[quarter]
            x = round(x0 + GAP + width / 2 + share_x * room_x, 3)
            z = round(z0 + GAP + depth / 2 + share_z * room_z, 3)
            before = _before(piece, x, z, yaw)
            if self.free(_around(x, z, width, depth, 0.01)) and self.inside(before):
                if any(meets(before, other) for other in self.taken):
                    continue
                return self.stand(piece, x, z, yaw, before)
        return None

    def in_the_middle(self, draw: Draw, piece: Piece) -> Standing | None:
        """Find a place with free floor all around."""
        for _ in range(TRIES):
            yaw = draw.whole(0, 1) * math.pi / 2
            width, depth = _turned(piece, yaw)
            x0, z0, x1, z1 = self.whole
            margin_x, margin_z = width / 2 + AROUND + 0.2, depth / 2 + AROUND + 0.2
            if x1 - x0 < 2 * margin_x or z1 - z0 < 2 * margin_z:
                continue
            x, z = draw.between(x0 + margin_x, x1 - margin_x), draw.between(z0 + margin_z, z1 - margin_z)
            x, z = round(x, 3), round(z, 3)
            around = _around(x, z, width, depth, AROUND)
            if self.free(_around(x, z, width, depth)) and not any(meets(around, other) for other in self.taken):
                return self.stand(piece, x, z, yaw, around)
        return None

    def step_aside(self, standing: Standing) -> None:
        """Move a piece along its wall, if that widens or shuts narrow gaps to coffee tables and chairs."""
        inner = [one.rect for one in self.standing if one.piece.kind in ("coffee_table", "chair")]

        def narrow(rect: Rect) -> bool:
            return any(PASSAGE[0] < apart(rect, other) < PASSAGE[1] for other in inner)

        if not narrow(standing.rect):
            return
        piece, yaw, before = standing.piece, standing.yaw, _before(standing.piece, standing.x, standing.z, standing.yaw)
        self.taken.remove(standing.rect)
        self.kept.remove(before)
        for aside in ASIDE:
            along_x, along_z = turn(aside, 0.0, yaw)
            x, z = round(standing.x + along_x, 3), round(standing.z + along_z, 3)
            rect, new = _around(x, z, *_turned(piece, yaw)), _before(piece, x, z, yaw)
            wide = (rect[0] - 0.01, rect[1] - 0.01, rect[2] + 0.01, rect[3] + 0.01)
            clear = self.free(wide) and self.inside(new) and not any(meets(new, other) for other in self.taken)
            if clear and not narrow(rect):
                standing.x, standing.z, standing.rect, before = x, z, rect, new
                standing.rows = place(piece.parts, x, 0.0, z, yaw, 1.0, 0)
                break
        self.taken.append(standing.rect)
        self.kept.append(before)

    def beside(
        self, host: Standing, piece: Piece, x: float, z: float, yaw: float, shared: bool = False
    ) -> Standing | None:
        """Put a piece at a point in the axes of another; where it is shared, the two may overlap, seen from above."""
        away_x, away_z = turn(x, z, host.yaw)
        x, z = round(host.x + away_x, 3), round(host.z + away_z, 3)
        yaw = (host.yaw + yaw) % (2 * math.pi)
        width, depth = _turned(piece, yaw)
        rect = _around(x, z, width, depth)
        if not self.inside(_around(x, z, width, depth, 0.01)):
            return None
        others = [other for other in self.taken if not (shared and other is host.rect)]
        if any(meets(rect, other) for other in others) or any(meets(rect, other) for other in self.doorways):
            return None
        return self.stand(piece, x, z, yaw, None)


def _turned(piece: Piece, yaw: float) -> tuple[float, float]:
    return (piece.depth, piece.width) if round(yaw / (math.pi / 2)) % 2 else (piece.width, piece.depth)


def _before(piece: Piece, x: float, z: float, yaw: float) -> Rect:
    away_x, away_z = turn(0.0, -(piece.depth + BEFORE) / 2, yaw)
    width, depth = (BEFORE, piece.width) if round(yaw / (math.pi / 2)) % 2 else (piece.width, BEFORE)
    return _around(x + away_x, z + away_z, width - 0.02, depth - 0.02)


def furnish(draw: Draw, ground: Ground, fullness: float) -> None:
    """Put into a room what its kind asks for.

    Args:
        draw: chance.
        ground: the room.
        fullness: scales how often a piece that a room can do without is there.
    """
    for make, share in FURNISHINGS[ground.room.kind]:
        if not draw.chance(share * fullness if share < 1 else 1.0):
            continue
        piece = make(draw)
        if piece.kind == "table":
            standing = ground.in_the_middle(draw, piece) or ground.against_wall(draw, piece)
        else:
            standing = ground.against_wall(draw, piece)
        if standing:
            _companions(draw, ground, standing)
    # Last, and without chance: nothing else in the house changes. Armchairs reach farthest into a room.
    for standing in ground.standing:
        if standing.piece.kind == "armchair":
            ground.step_aside(standing)


def _companions(draw: Draw, ground: Ground, host: Standing) -> None:
    piece = host.piece
    if piece.kind == "table":
        chair = furniture.chair(draw)
        out = piece.depth / 2 + 0.1
        for x in (-piece.width / 4 + 0.02, piece.width / 4 - 0.02):
            for z, yaw in ((out, 0.0), (-out, math.pi)):
                if draw.chance(0.85):
                    ground.beside(host, chair, x, z, yaw, shared=True)
    elif piece.kind == "desk":
        # The drawers stand where the first part does; the chair goes to the other side.
        free = -0.17 if piece.parts[0].x > 0 else 0.17
        ground.beside(host, furniture.chair(draw), free, -piece.depth / 2 - 0.1, math.pi, shared=True)
    elif piece.kind == "bed":
        stand = furniture.nightstand(draw)
        for side in (-1, 1):
            x = side * (piece.width + stand.width + 0.06) / 2
            ground.beside(host, stand, x, (piece.depth - stand.depth) / 2, 0.0)
    elif piece.kind == "sofa" and draw.chance(0.8):
        table = furniture.coffee_table(draw)
        ground.beside(host, table, 0.0, -(piece.depth + table.depth) / 2 - 0.42, 0.0)


def decorate(draw: Draw, ground: Ground, outer: list[bool], height: float, windows: bool) -> list[Row]:
    """Return what hangs on the walls, lies under the furniture and hangs from the ceiling of a room; it has no id.

    Args:
        draw: chance.
        ground: the room with its furniture.
        outer: whether the walls at the greatest z, greatest x, smallest z and smallest x have nothing behind them.
        height: of the room, metres.
        windows: whether outer walls have windows.
    """
    x0, z0, x1, z1 = ground.whole
    tall = [standing.rect for standing in ground.standing if any(p.y + p.half_y > 1.0 for p in standing.piece.parts)]
    rows = []
    for quarter in range(4):
        window = outer[quarter] and windows
        if not draw.chance(0.8 if window else 0.45):
            continue
        length = x1 - x0 if quarter % 2 == 0 else z1 - z0
        width = draw.between(0.9, 1.5) if window else draw.between(0.4, 0.9)
        if length < width + 0.6:
            continue
        along = draw.between(0.3 + width / 2, length - 0.3 - width / 2)
        yaw = quarter * math.pi / 2
        x, z = ((x0 + along, z1), (x1, z0 + along), (x0 + along, z0), (x0, z0 + along))[quarter]
        reach = _around(x, z, *((width, 0.9) if quarter % 2 == 0 else (0.9, width)))
        if any(meets(reach, other) for other in tall + ground.doorways):
            continue
        if window:
            parts = [
                box(0, 1.0, -0.006, width, 1.1, 0.012, "white_paint"),
                box(0, 1.06, -0.01, width - 0.12, 0.98, 0.02, "glass"),
            ]
        else:
            picture, tallness = draw.one(("picture_day", "picture_night", "picture_red")), draw.between(0.35, 0.6)
            parts = [box(0, 1.3, -0.006, width, tallness, 0.012, draw.one(("black", "gold", "white")))]
            parts.append(box(0, 1.34, -0.01, width - 0.08, tallness - 0.08, 0.02, picture))
        rows += place(parts, x, 0.0, z, yaw, 1.0, 0)
    middle_x, middle_z = (x0 + x1) / 2, (z0 + z1) / 2
    lamp = [cylinder(0, height - 0.06, 0, 0.2, 0.06, draw.one(("linen", "gold", "white", "teal")))]
    rows += place(lamp, middle_x, 0.0, middle_z, 0.0, 1.0, 0)
    if ground.room.kind in ("living", "bedroom", "study") and draw.chance(0.6):
        width, depth = draw.between(0.4, 0.65) * (x1 - x0), draw.between(0.4, 0.65) * (z1 - z0)
        rug = draw.one(("checked_cloth", "striped_cloth", "red_carpet", "green_carpet", *CLOTHS))
        rows += place([box(0, 0, 0, width, 0.012, depth, rug)], middle_x, 0.0, middle_z, 0.0, 1.0, 0)
    return rows
