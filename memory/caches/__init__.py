"""Cache policies: what a core keeps when it acts for longer than its budget of entries lasts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .age import AgeConfig
from .blocks import BlocksConfig
from .config import CacheConfig
from .random import RandomConfig
from .resized import FullConfig, OldestSetsConfig, WindowConfig
from .sinks import SinksConfig
from .surprise import SurpriseConfig
from .thin import ThinConfig

__all__ = ["CACHES", "CacheConfig", "make_cache"]

CACHES: dict[str, type[CacheConfig]] = {
    "full": FullConfig,
    "window": WindowConfig,
    "oldest-sets": OldestSetsConfig,
    "sinks": SinksConfig,
    "surprise": SurpriseConfig,
    "thin": ThinConfig,
    "blocks": BlocksConfig,
    "age": AgeConfig,
    "random": RandomConfig,
}


def make_cache(name: str, **options: Any) -> CacheConfig:
    """Return a cache policy by name; its `apply` gives it to a core.

    Raises:
        ValueError: for an unknown name, an unknown option, or a value that the policy refuses.
    """
    if name not in CACHES:
        raise ValueError(f"unknown cache {name!r}; choose one of {', '.join(CACHES)}")
    known = [field.name for field in fields(CACHES[name])]
    for option in options:
        if option not in known:
            raise ValueError(f"cache {name} has no option {option!r}; it has {', '.join(known)}")
    return CACHES[name](**options)
