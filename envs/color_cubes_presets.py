"""The named settings of Color-Cubes: the three of its paper, and a ladder of eight rungs between nothing and all of it.

Each rung adds one thing that memory has to do, so the first one that a core falls off says what it cannot do:

- `observed`: nothing is hidden. Falls: it does not learn the task at all.
- `latched`: the cubes are hidden, and one cell that a perfect memory would hold is told. Falls: it cannot use one.
- `distractors`: one target, which has to be held among cubes that stay. Falls: it cannot hold.
- `jumps`: the others jump, and each jump shows the map again. Falls: what is new disturbs what is held.
- `medium`: three targets, one after the other. Falls: it holds, and cannot overwrite.
- `ordered`: no colours after the first frame, but a list in an order that stays. Falls: it cannot keep that order.
- `extreme`: no colours and no order. Falls: it cannot carry a colour from the cell that emptied to the one that filled.
- `many`: several cubes jump at once. What then is lost nobody can know, and the oracle says how much is left.
"""

from __future__ import annotations

from typing import Any

_ONE: dict[str, Any] = {
    "cubes": 1,
    "phases": 1,
    "teleport": 0.0,
    "movers": "one",
    "update_colours": True,
    "encoding": "unordered",
    "reveal": "events",
    "target_shown": "assigned",
    "latch": False,
}
_MEDIUM = _ONE | {"cubes": 3, "phases": 3, "teleport": 0.1}
_EXTREME = _MEDIUM | {"update_colours": False}

PRESETS: dict[str, dict[str, Any]] = {
    "trivial": _ONE,
    "observed": _MEDIUM | {"reveal": "always", "target_shown": "always"},
    "latched": _MEDIUM | {"latch": True},
    "distractors": _ONE | {"cubes": 3},
    "jumps": _ONE | {"cubes": 3, "teleport": 0.1},
    "medium": _MEDIUM,
    "ordered": _EXTREME | {"encoding": "ordered"},
    "extreme": _EXTREME,
    "many": _EXTREME | {"movers": "many"},
}

LADDER = ("observed", "latched", "distractors", "jumps", "medium", "ordered", "extreme", "many")
"""The rungs, from the lowest."""
