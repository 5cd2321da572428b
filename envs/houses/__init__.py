"""Homes made from a seed: rooms, furniture and things to find, as solids that a ray caster and Habitat both show."""

from .house import KINDS, MATERIALS, Door, House, Instance, Material, Room, Solids

__all__ = ["KINDS", "MATERIALS", "Door", "House", "Instance", "Material", "Room", "Solids"]
