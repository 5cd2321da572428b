"""Habitat as a simulator, in processes of an interpreter of its own: nothing here imports habitat-sim."""

from .simulator import Habitat, Workers

__all__ = ["Habitat", "Workers"]
