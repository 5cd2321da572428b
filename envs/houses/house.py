"""What a house is: solids with materials, and which of them are the rooms, the furniture and the things to find.

Coordinates are Habitat's: metres, right-handed, y up, floors at y = 0. A yaw is in radians, counter-clockwise seen from
above, and 0 looks along -z. A plan is the (x, z) of a house seen from above.

Shapes: S solids of a house, I rows (along z) and J columns (along x) of the grid of its floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .materials import MATERIALS, Material

__all__ = ["BOX", "CYLINDER", "KINDS", "MATERIALS", "SPHERE", "Door", "House", "Instance", "Material", "Room", "Solids"]

BOX, CYLINDER, SPHERE = range(3)

KINDS = (
    "master_chef_can",
    "cracker_box",
    "sugar_box",
    "tomato_soup_can",
    "tuna_fish_can",
    "pudding_box",
    "gelatin_box",
    "potted_meat_can",
    "banana",
    "strawberry",
    "apple",
    "lemon",
    "peach",
    "pear",
    "orange",
    "plum",
    "bleach_cleanser",
    "bowl",
    "mug",
    "sponge",
    "pitcher",
    "vase",
    "plant",
    "lamp",
    "ball",
    "teddy",
    "clock",
    "books",
)
"""The kinds of things to find; a goal is one of them, by its place here. The first twenty are those of the YCB set that
object navigation in HSSD looks for (ReLIC, arXiv 2410.02751; Memo, arXiv 2510.19732)."""


class Solids(NamedTuple):
    """The solids of one house."""

    kind_S: Tensor
    """(S,) int8: `BOX`, `CYLINDER` (upright) or `SPHERE`."""
    centre_S3: Tensor
    """(S, 3) float32, metres."""
    half_S3: Tensor
    """(S, 3) float32, metres: half extents of a box; radius, half height, radius; three times the radius."""
    yaw_S: Tensor
    """(S,) float32, radians: how far a box is turned; 0 of the others."""
    material_S: Tensor
    """(S,) int64: a place in `MATERIALS`."""
    semantic_S: Tensor
    """(S,) int64: the id of the instance that it belongs to, 0 for the building itself."""


@dataclass(frozen=True)
class Instance:
    """A thing or a piece of furniture, made of one solid or several."""

    id: int
    """Its number in a semantic picture, from 1: the house has it at `instances[id - 1]`."""
    kind: str
    """One of `KINDS`, or a kind of furniture."""
    room: int
    """Where it is: a place in the house's rooms."""
    centre: tuple[float, float, float]
    """The middle of its bounds, metres."""
    half: tuple[float, float, float]
    """Half extents of its bounds, which are not turned."""
    solids: range
    """Its solids."""
    viewpoint: tuple[float, float] | None
    """A point (x, z) of the navigable floor, at most 2 m away, that sees its middle; of things to find only."""

    @property
    def goal(self) -> int | None:
        """Its place in `KINDS`, if it is a thing to find."""
        return KINDS.index(self.kind) if self.kind in KINDS else None


@dataclass(frozen=True)
class Room:
    """A rectangle of floor between walls."""

    kind: str
    low: tuple[float, float]
    """Smallest (x, z), metres."""
    high: tuple[float, float]
    """Greatest (x, z)."""

    @property
    def size(self) -> tuple[float, float]:
        """Its extents along x and z."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]


@dataclass(frozen=True)
class Door:
    """An opening between two rooms, from the floor to a lintel."""

    rooms: tuple[int, int]
    low: tuple[float, float]
    """Smallest (x, z) of the opening within the wall, metres."""
    high: tuple[float, float]
    """Greatest (x, z)."""


@dataclass(frozen=True, eq=False)
class House:
    """A home: what is seen of it, what is in it, and where its floor can be walked on."""

    seed: int
    size: tuple[float, float, float]
    """Extents along x, y and z, metres; the smallest x and z are 0."""
    solids: Solids
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    instances: tuple[Instance, ...]
    """Things to find first, then furniture."""
    cell: float
    """Side of the cells of the floor's grid, metres; the centre of cell (i, j) is ((j + 0.5) cell, (i + 0.5) cell)."""
    navigable_IJ: np.ndarray
    """(I, J) bool: in the middle of which cells the centre of an agent can be; one connected piece."""

    @property
    def things(self) -> tuple[Instance, ...]:
        """Return the instances that can be goals."""
        return tuple(instance for instance in self.instances if instance.goal is not None)


def as_solids(rows: list[tuple[int, float, float, float, float, float, float, float, int, int]]) -> Solids:
    """Return solids from rows of kind, centre, half extents, yaw, material and semantic id."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 10)
    numbers = torch.from_numpy(table.astype(np.float32))
    labels = torch.from_numpy(table[:, [0, 8, 9]].astype(np.int64))
    return Solids(
        kind_S=labels[:, 0].to(torch.int8),
        centre_S3=numbers[:, 1:4].contiguous(),
        half_S3=numbers[:, 4:7].contiguous(),
        yaw_S=numbers[:, 7].contiguous(),
        material_S=labels[:, 1].contiguous(),
        semantic_S=labels[:, 2].contiguous(),
    )
