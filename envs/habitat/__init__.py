"""Habitat as a simulator, in processes of an interpreter of its own: nothing here imports habitat-sim."""

from .episodes import Placement, read_episodes
from .simulator import Habitat, Workers

__all__ = ["Habitat", "Placement", "Workers", "read_episodes"]
