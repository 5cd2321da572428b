"""Object navigation: find one thing after another in the same house."""

from .config import ObjectNavConfig
from .env import ObjectNav, Search
from .oracle import ObjectNavOracle

__all__ = ["ObjectNav", "ObjectNavConfig", "ObjectNavOracle", "Search"]
