"""How the fused kernels cut their work, by size: a table of what was fastest on an H100, so that nothing is tuned."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch


class Plan(NamedTuple):
    """How a launch cuts its work."""

    rows: int
    units: int
    keys: int
    """Units of the step before that are taken at a time."""
    warps: int
    stages: int
    early: bool = True
    """Load what a step needs of its own before what it hears is ready: faster where registers suffice."""


class Choice(NamedTuple):
    """A plan, but for the keys, and how many of its programs a multiprocessor should run at once."""

    rows: int
    units: int
    warps: int
    stages: int
    early: bool
    at_once: int


# From many small programs, which are fast, to few large ones, which read the weights fewer times.
FORWARD = [
    Choice(16, 32, 4, 3, True, 4),
    Choice(32, 64, 4, 3, True, 2),
    Choice(128, 64, 8, 3, False, 1),
]
BACKWARD = [
    Choice(16, 32, 4, 3, True, 4),
    Choice(32, 64, 4, 3, True, 2),
    Choice(128, 64, 8, 2, False, 1),
]


@cache
def plan(forward: bool, batch: int, heads: int, units: int, size: int, device: torch.device) -> Plan:
    """Return how to cut the work of a launch; `size` is that of a number in bytes."""
    padded = max(16, 1 << (units - 1).bit_length())
    keys = min(padded, 128 // size)
    if device.type != "cuda":
        return Plan(16, padded, keys, 4, 1)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    for choice in FORWARD if forward else BACKWARD:
        programs = -(-batch // choice.rows) * -(-units // choice.units) * heads
        if programs <= choice.at_once * processors:
            break
    return Plan(choice.rows, min(choice.units, padded), keys, choice.warps, choice.stages, choice.early)
