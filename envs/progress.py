"""A bar that shows how far something is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def shown(made: Iterable[T], label: str, count: int, least: int = 1) -> Iterator[T]:
    """Pass on what is made one by one, with a bar where somebody looks.

    Args:
        made: what is waited for.
        label: what the bar is of.
        count: how many there will be.
        least: from how many on there is a bar.
    """
    quiet = count < least or not sys.stderr.isatty()
    yield from track(made, label, count, console=Console(stderr=True), transient=True, disable=quiet)
