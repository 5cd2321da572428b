"""Agents that move through houses and look at them: a small interface, and a simulator that needs nothing else."""

from .base import ACTIONS, Agents, Motion, Pose, Simulator
from .embedded import Embedded

__all__ = ["ACTIONS", "Agents", "Embedded", "Motion", "Pose", "Simulator"]
