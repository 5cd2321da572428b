"""Names that the user gives, and what to say about a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def by_likeness(name: str, choices: Iterable[str]) -> list[str]:
    """Return all choices, the closest to `name` first."""
    known = list(choices)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return near + [choice for choice in known if choice not in near]


def choose(what: str, name: str, choices: Iterable[str], *, more: str = "") -> str:
    """Return `name` if it is one of the choices.

    Raises:
        ValueError: it is not; the message lists the choices, the closest first.
    """
    known = list(choices)
    if name in known:
        return name
    listed = ", ".join(by_likeness(name, known))
    raise ValueError(f"unknown {what} {name!r}; choose one of {listed}" + (f"; {more}" if more else ""))
