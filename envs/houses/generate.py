"""Makes a house from a seed: a plan, furniture, and things to find that can be reached and seen.

What is made is checked while it is made. Furniture that cuts a room off is taken out again, and a thing stays only
where it can be seen from a point of the navigable floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .furnish import Ground, decorate, furnish
from .house import House, Instance, as_solids
from .materials import WALLS
from .navigable import as_table, free_floor, pieces
from .parts import Draw, Row, bounds, box, place
from .plan import as_room, build, cut_rooms, hang_doors, name_rooms
from .stock import Eyes, Thing, on_floors, on_furniture

SPLITS = ("train", "validation", "test")
WARM = ("oak", "walnut", "ash", "grey_carpet", "green_carpet", "red_carpet")
ROOM_FLOORS = {
    "living": WARM,
    "bedroom": WARM,
    "study": WARM,
    "kitchen": ("white_tiles", "terracotta", "oak"),
    "bath": ("white_tiles", "blue_tiles"),
    "hall": ("terracotta", "ash", "walnut"),
}
ROOM_WALLS = {"kitchen": ("tiled_wall", "cream_wall", "mint_wall", "brick_wall"), "bath": ("tiled_wall", "sky_wall")}
ON_THE_FLOOR = 0.15
"""The share of things that stand on the floor."""
ROOM_TO_STAND = 1.0
"""How much of every room's floor has to be in reach, square metres."""
CUT_OFF = 0.5
"""How much of a room's free floor may be out of reach, between furniture, square metres."""


@dataclass(frozen=True, kw_only=True)
class HouseConfig:
    """What houses are like."""

    min_rooms: int = 3
    """The fewest rooms."""
    max_rooms: int = 8
    """The most."""
    room_area: float = 14.0
    """Square metres of a room, on average."""
    wall_height: float = 2.6
    """From the floor to the ceiling, metres."""
    min_things: int = 25
    """The fewest things to find that a house is meant to have; a very small one can have less."""
    max_things: int = 40
    """The most."""
    thing_scale: float = 1.5
    """Size of things over that of life, so that cameras of few pixels see them."""
    fullness: float = 1.0
    """How often furniture that a room can do without is there: 0 never, 1 as usual."""
    windows: bool = True
    """Whether outer walls have windows."""
    agent_radius: float = 0.1
    """Of whom the floor is navigable for, metres."""
    agent_height: float = 1.5
    """What hangs higher is not in the way, metres."""
    eye_height: float = 1.25
    """From where a thing has to be seen, metres above the floor."""
    cell: float = 0.1
    """Side of a cell of the floor's grid, metres."""

    def __post_init__(self) -> None:
        """Refuse what no house can be."""
        for name in ("min_rooms", "max_rooms", "min_things", "max_things"):
            count = getattr(self, name)
            if not isinstance(count, int):
                self.refuse(f"{name} is {count!r}; a whole number is expected")
        if not 3 <= self.min_rooms <= self.max_rooms <= 8:
            self.refuse(f"rooms are {self.min_rooms} to {self.max_rooms}; give min_rooms <= max_rooms within 3 to 8")
        if not 0 <= self.min_things <= self.max_things <= 200:
            self.refuse(f"things are {self.min_things} to {self.max_things}; give min_things <= max_things up to 200")
        for name, low, high in (
            ("room_area", 9.0, 40.0),
            ("wall_height", 2.4, 4.0),
            ("thing_scale", 0.5, 2.0),
            ("fullness", 0.0, 1.0),
            ("agent_radius", 0.05, 0.25),
            ("agent_height", 0.3, 2.0),
            ("eye_height", 0.2, 2.0),
            ("cell", 0.02, 0.2),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                self.refuse(f"{name} is {value!r}; a number from {low} to {high} is expected")

    def refuse(self, why: str) -> None:
        """Raise an error with the name of what is configured."""
        raise ValueError(f"houses: {why}")


def split_seed(split: Literal["train", "validation", "test"], index: int) -> int:
    """Return the seed of house `index` of a split; no two splits share one.

    Raises:
        ValueError: there is no such split, or the index is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"houses: unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"houses: index is {index}; a whole number from 0 is expected")
    return len(SPLITS) * index + SPLITS.index(split)


def generate(seed: int, config: HouseConfig | None = None) -> House:
    """Return the house of a seed: the same on every machine.

    Args:
        seed: from 0, as of `split_seed`.
        config: what houses are like.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"houses: seed is {seed}; a whole number from 0 is expected")
    return _Builder(seed, config or HouseConfig()).house()


class _Builder:
    """A house while it is made."""

    def __init__(self, seed: int, config: HouseConfig) -> None:
        self.seed, self.config = seed, config
        self.draw = draw = Draw(seed)
        self.cuts, corridor = cut_rooms(draw, draw.whole(config.min_rooms, config.max_rooms), config.room_area)
        kinds = name_rooms(draw, self.cuts, corridor)
        self.doors = hang_doors(draw, self.cuts, kinds)
        self.rooms = [as_room(cut, kind) for cut, kind in zip(self.cuts, kinds, strict=True)]
        self.plan = max(cut.x1 for cut in self.cuts), max(cut.z1 for cut in self.cuts)
        self.shell = self._shell()
        self.grounds = [Ground(index, room, self.doors) for index, room in enumerate(self.rooms)]

    def house(self) -> House:
        """Furnish it, put things into it, number everything, and return it."""
        config, draw = self.config, self.draw
        for ground in self.grounds:
            furnish(draw, ground, config.fullness)
        wanted = draw.whole(config.min_things, config.max_things)
        self.things = on_floors(draw, self.grounds, round(ON_THE_FLOOR * wanted), config.thing_scale)
        self.shell += self._decoration()
        navigable_IJ = self._keep_open()
        spare = wanted // 5
        self.things += on_furniture(draw, self.grounds, wanted + spare - len(self.things), config.thing_scale)
        seen = self._seen(navigable_IJ, wanted)
        standing = len(self.things)
        self.things = [thing for thing, _ in seen]
        if len(seen) < standing:
            # A thing that stood on the floor may be gone, and what it stood on can be walked on.
            navigable_IJ = self._floor() == 1
        return self._numbered(seen, navigable_IJ)

    def _shell(self) -> list[Row]:
        rows = []
        walls = [material.name for material in WALLS]
        for index, (cut, room) in enumerate(zip(self.cuts, self.rooms, strict=True)):
            floor = self.draw.one(ROOM_FLOORS[room.kind])
            paint = self.draw.one(ROOM_WALLS.get(room.kind, walls))
            rows += build(cut, index, self.doors, self.config.wall_height, floor, paint)
        x, z = self.plan
        ceiling = box(0, 0, 0, x, 0.1, z, "ceiling")
        return rows + place([ceiling], x / 2, self.config.wall_height, z / 2, 0, 1, 0)

    def _decoration(self) -> list[Row]:
        rows, (x, z) = [], self.plan
        for ground, cut in zip(self.grounds, self.cuts, strict=True):
            outer = [cut.z1 == z, cut.x1 == x, cut.z0 == 0, cut.x0 == 0]
            rows += decorate(self.draw, ground, outer, self.config.wall_height, self.config.windows)
        return rows

    def _furniture(self) -> list[Row]:
        return [row for ground in self.grounds for standing in ground.standing for row in standing.rows]

    def _floor(self) -> np.ndarray:
        """Return where the floor can be walked on, in pieces, (I, J)."""
        config = self.config
        rows = self.shell + self._furniture() + [row for thing in self.things for row in thing.rows]
        return pieces(free_floor(self.plan, rows, config.cell, config.agent_radius, config.agent_height))

    def _keep_open(self) -> np.ndarray:
        """Take out what stands in the way until the floor of every room hangs together with that of all others."""
        while True:
            piece_IJ = self._floor()
            shut = 0
            for ground in self.grounds:
                reached, cut_off = self._reach(ground, piece_IJ)
                if reached < ROOM_TO_STAND:
                    self._clear_doors(ground)
                elif cut_off > CUT_OFF:
                    self._clear(ground)
                else:
                    continue
                shut += 1
            if not shut:
                main: np.ndarray = piece_IJ == 1
                return main

    def _reach(self, ground: Ground, piece_IJ: np.ndarray) -> tuple[float, float]:
        """Return how much of a room's free floor belongs to the largest piece of all, and how much does not."""
        cell = self.config.cell
        (x0, z0), (x1, z1) = ground.room.low, ground.room.high
        room_IJ = piece_IJ[int(z0 / cell) : int(z1 / cell) + 1, int(x0 / cell) : int(x1 / cell) + 1]
        return int((room_IJ == 1).sum()) * cell * cell, int((room_IJ > 1).sum()) * cell * cell

    def _clear(self, ground: Ground) -> None:
        """Take out what came last into a room, things first."""
        here = [thing for thing in self.things if thing.room == ground.index]
        if here:
            self.things.remove(here[-1])
        else:
            ground.standing.pop()

    def _clear_doors(self, ground: Ground) -> None:
        """Take out what stands nearest to a door of a room, on either side of it, things first."""
        doors = [door for door in self.doors if ground.index in door.rooms]
        rooms = {room for door in doors for room in door.rooms}
        here = [thing for thing in self.things if thing.room in rooms]
        if here:
            self.things.remove(here[-1])
            return
        found = []
        for door in doors:
            x, z = (door.low[0] + door.high[0]) / 2, (door.low[1] + door.high[1]) / 2
            for other in (self.grounds[room] for room in door.rooms):
                for place_of, standing in enumerate(other.standing):
                    x0, z0, x1, z1 = standing.rect
                    away = max(x0 - x, x - x1, 0.0) + max(z0 - z, z - z1, 0.0)
                    found.append((away, other.index, place_of))
        _, room, place_of = min(found)
        self.grounds[room].standing.pop(place_of)

    def _seen(self, navigable_IJ: np.ndarray, wanted: int) -> list[tuple[Thing, tuple[float, float]]]:
        """Return the things that are seen from somewhere, up to a number, each with a point from where."""
        eyes = Eyes(navigable_IJ, self.config.cell, self.config.eye_height)
        rows = self.shell + self._furniture()
        first = len(rows)
        rows = rows + [row for thing in self.things for row in thing.rows]
        table = as_table(np.array([row[1:8] for row in rows]))
        seen: list[tuple[Thing, tuple[float, float]]] = []
        for thing in self.things:
            own = np.arange(first, first + len(thing.rows))
            first += len(thing.rows)
            viewpoint = eyes.viewpoint(bounds(thing.rows)[0], np.delete(table, own, axis=0))
            if viewpoint and len(seen) < wanted:
                seen.append((thing, viewpoint))
        return seen

    def _numbered(self, seen: list[tuple[Thing, tuple[float, float]]], navigable_IJ: np.ndarray) -> House:
        rows, instances = list(self.shell), list[Instance]()

        def add(kind: str, room: int, own: list[Row], viewpoint: tuple[float, float] | None) -> None:
            number = len(instances) + 1
            centre, half = bounds(own)
            solids = range(len(rows), len(rows) + len(own))
            rows.extend((*row[:-1], number) for row in own)
            instances.append(Instance(number, kind, room, centre, half, solids, viewpoint))

        for thing, viewpoint in seen:
            add(thing.kind, thing.room, thing.rows, viewpoint)
        for ground in self.grounds:
            for standing in ground.standing:
                add(standing.piece.kind, ground.index, standing.rows, None)
        return House(
            seed=self.seed,
            size=(self.plan[0], self.config.wall_height, self.plan[1]),
            solids=as_solids(rows),
            rooms=tuple(self.rooms),
            doors=tuple(self.doors),
            instances=tuple(instances),
            cell=self.config.cell,
            navigable_IJ=navigable_IJ,
        )
