"""Homes made from a seed: rooms, furniture and things to find, as solids that a ray caster and Habitat both show."""

from .generate import HouseConfig, generate, split_seed
from .house import KINDS, MATERIALS, Door, House, Instance, Material, Room, Solids
from .navigable import geodesic_field, viewpoints
from .top_down import top_down

__all__ = [
    "KINDS",
    "MATERIALS",
    "Door",
    "House",
    "HouseConfig",
    "Instance",
    "Material",
    "Room",
    "Solids",
    "generate",
    "geodesic_field",
    "split_seed",
    "top_down",
    "viewpoints",
]
