"""The plan of a home: a rectangle cut into rooms, doors between them, and the walls that are left."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from .house import Door, Room
from .parts import Draw, Row, box, place

WALL = 0.12
"""Thickness of a wall, metres. Each room has its own half of it, in its own material."""
DOOR_HEIGHT = 2.05
SHORTEST = 2.5
"""The least extent of a room that is not a corridor, with half of its walls."""
FRAME = 0.25
"""The least wall beside a door."""
LEAF = 0.9
"""The least width of a door."""


class Cut(NamedTuple):
    """A rectangle of the plan, from the middle of one wall to the middle of another, metres."""

    x0: float
    z0: float
    x1: float
    z1: float

    @property
    def area(self) -> float:
        """Square metres."""
        return (self.x1 - self.x0) * (self.z1 - self.z0)


class Edge(NamedTuple):
    """The stretch of wall that two rooms share."""

    first: int
    second: int
    along_x: bool
    at: float
    """Where the wall is, across it."""
    low: float
    high: float


def cut_rooms(draw: Draw, rooms: int, area: float) -> tuple[list[Cut], bool]:
    """Return the rooms of a plan, and whether the first is a corridor with the others on its two sides."""
    if rooms >= 5 and draw.chance(0.5):
        return _along_corridor(draw, rooms, area), True
    while True:
        ratio = draw.between(1.0, 1.5)
        width = _tenths((rooms * area * ratio) ** 0.5)
        depth = _tenths(rooms * area / width)
        whole = Cut(0.0, 0.0, *((width, depth) if draw.chance(0.5) else (depth, width)))
        cuts = _split(draw, whole, rooms)
        if cuts:
            return cuts, False
        area *= 1.03


def _tenths(length: float) -> float:
    return round(round(length * 10) / 10, 1)


def _split(draw: Draw, cut: Cut, rooms: int) -> list[Cut] | None:
    if rooms == 1:
        return [cut]
    width, depth = cut.x1 - cut.x0, cut.z1 - cut.z0
    part = draw.whole(1, rooms - 1) if rooms < 4 else draw.whole(rooms // 2 - 1, rooms - rooms // 2 + 1)
    share = part / rooms + draw.between(-0.06, 0.06)
    across_x = width > depth if max(width, depth) > 1.25 * min(width, depth) else draw.chance(0.5)
    for along in (across_x, not across_x):
        length = width if along else depth
        at = _tenths(length * share)
        if at < SHORTEST or length - at < SHORTEST:
            continue
        if along:
            one, other = cut._replace(x1=_tenths(cut.x0 + at)), cut._replace(x0=_tenths(cut.x0 + at))
        else:
            one, other = cut._replace(z1=_tenths(cut.z0 + at)), cut._replace(z0=_tenths(cut.z0 + at))
        first, second = _split(draw, one, part), _split(draw, other, rooms - part)
        if first and second:
            return first + second
    return None


def _along_corridor(draw: Draw, rooms: int, area: float) -> list[Cut]:
    sides = (rooms - 1) // 2, rooms - 1 - (rooms - 1) // 2
    hall = _tenths(draw.between(1.3, 1.6))
    depths = [_tenths(draw.between(0.85, 1.15) * area**0.5) for _ in sides]
    length = _tenths(max(area * (rooms - 1) / sum(depths), (SHORTEST + 0.4) * max(sides)))
    near = depths[0]
    cuts = [Cut(0.0, near, length, _tenths(near + hall))]
    for side, number in enumerate(sides):
        low, high = (0.0, near) if side == 0 else (_tenths(near + hall), _tenths(near + hall + depths[1]))
        spare = length - number * SHORTEST
        weights = [draw.between(0.4, 1.0) for _ in range(number)]
        ends = [0.0]
        for weight in weights:
            ends.append(_tenths(ends[-1] + SHORTEST + spare * weight / sum(weights)))
        ends[-1] = length
        cuts += [Cut(a, low, b, high) for a, b in pairwise(ends)]
    if draw.chance(0.5):
        return cuts
    return [Cut(cut.z0, cut.x0, cut.z1, cut.x1) for cut in cuts]


def edges(cuts: list[Cut]) -> list[Edge]:
    """Return the walls between rooms that have room for a door."""
    found = []
    for first, one in enumerate(cuts):
        for second in range(first + 1, len(cuts)):
            other = cuts[second]
            for at, along_x in ((one.x1, False), (one.x0, False), (one.z1, True), (one.z0, True)):
                facing = (other.x0, other.x1) if not along_x else (other.z0, other.z1)
                if at not in facing:
                    continue
                if along_x:
                    low, high = max(one.x0, other.x0), min(one.x1, other.x1)
                else:
                    low, high = max(one.z0, other.z0), min(one.z1, other.z1)
                if high - low >= LEAF + 2 * FRAME + WALL:
                    found.append(Edge(first, second, along_x, at, low, high))
    return found


def name_rooms(draw: Draw, cuts: list[Cut], corridor: bool) -> list[str]:
    """Return the kind of each room: large ones to live and cook in, the smallest to bathe in."""
    kinds = [""] * len(cuts)
    by_size = sorted(range(len(cuts)), key=lambda room: (-cuts[room].area, room))
    if corridor:
        kinds[0] = "hall"
        by_size.remove(0)
    kinds[by_size.pop(0)] = "living"
    if len(by_size) >= 3:
        kinds[by_size.pop()] = "bath"
    if len(by_size) >= 5 and draw.chance(0.6):
        kinds[by_size.pop()] = "hall"
    kinds[by_size.pop(draw.whole(0, min(1, len(by_size) - 1)))] = "kitchen"
    wanted = ["bedroom", "study", "bedroom", "bedroom", "study", "bedroom"]
    for room, kind in zip(by_size, wanted, strict=False):
        kinds[room] = kind
    return kinds


def hang_doors(draw: Draw, cuts: list[Cut], kinds: list[str]) -> list[Door]:
    """Return doors that join all rooms, and some more so that there is more than one way."""
    weighed = []
    for edge in edges(cuts):
        pair = {kinds[edge.first], kinds[edge.second]}
        weight = draw.unit() - 0.8 * ("hall" in pair) - 0.3 * ("living" in pair) + 0.6 * ("bath" in pair)
        weighed.append((weight, edge))
    doors, group = [], list(range(len(cuts)))
    for _, edge in sorted(weighed):
        first, second = group[edge.first], group[edge.second]
        pair = {kinds[edge.first], kinds[edge.second]}
        if first == second and not (draw.chance(0.3) and "bath" not in pair):
            continue
        group = [first if one == second else one for one in group]
        room = edge.high - edge.low - 2 * FRAME - WALL
        wide = pair <= {"living", "kitchen", "hall"} and draw.chance(0.6)
        width = round(min(room, draw.between(1.3, 2.0) if wide else draw.between(LEAF, 1.05)), 2)
        start = round(edge.low + FRAME + WALL / 2 + draw.unit() * (room - width), 2)
        low, high = (start, edge.at - WALL / 2), (round(start + width, 2), edge.at + WALL / 2)
        if not edge.along_x:
            low, high = (low[1], low[0]), (high[1], high[0])
        doors.append(Door((edge.first, edge.second), low, high))
    return doors


def as_room(cut: Cut, kind: str) -> Room:
    """Return the floor between the walls."""
    half = WALL / 2
    return Room(
        kind, (round(cut.x0 + half, 3), round(cut.z0 + half, 3)), (round(cut.x1 - half, 3), round(cut.z1 - half, 3))
    )


def build(cut: Cut, room: int, doors: list[Door], height: float, floor: str, paint: str) -> list[Row]:
    """Return a room's floor and its half of the walls around it, with openings and lintels.

    Walls along x run the whole length, those along z between them, so that no two of them overlap.
    """
    half = WALL / 2
    rows = []
    middle_x, middle_z = (cut.x0 + cut.x1) / 2, (cut.z0 + cut.z1) / 2
    slab = box(0, -0.1, 0, cut.x1 - cut.x0, 0.1, cut.z1 - cut.z0, floor)
    rows += place([slab], middle_x, 0, middle_z, 0, 1, 0)
    for along_x, wall in ((True, cut.z0), (True, cut.z1), (False, cut.x0), (False, cut.x1)):
        inward = half / 2 if wall in (cut.z0, cut.x0) else -half / 2
        start, end = (cut.x0, cut.x1) if along_x else (cut.z0 + half, cut.z1 - half)
        openings = sorted(
            _opening(door, along_x) for door in doors if room in door.rooms and _in_wall(door, along_x, wall)
        )
        at = start
        for low, high in [*openings, (end, end)]:
            pieces = [(at, low, 0.0, height), (low, high, DOOR_HEIGHT, height)]
            for one, other, bottom, top in pieces:
                if other - one < 1e-6:
                    continue
                width, depth = (other - one, half) if along_x else (half, other - one)
                x, z = (one + other) / 2, wall + inward
                part = box(0, 0, 0, width, top - bottom, depth, paint)
                rows += place([part], *((x, bottom, z) if along_x else (z, bottom, x)), 0, 1, 0)
            at = high
    return rows


def _in_wall(door: Door, along_x: bool, wall: float) -> bool:
    axis = 1 if along_x else 0
    low, high = door.low[axis], door.high[axis]
    return abs((low + high) / 2 - wall) < 1e-6 and high - low < WALL + 1e-6


def _opening(door: Door, along_x: bool) -> tuple[float, float]:
    axis = 0 if along_x else 1
    return door.low[axis], door.high[axis]
