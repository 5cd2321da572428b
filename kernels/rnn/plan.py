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


# From many small programs, which are fast, to few large ones, which read the weights fewer times. A plan with 128 units
# is for heads that one program can have alone: it need not wait for others.
FORWARD = [
    Choice(16, 32, 4, 3, True, 1),
    Choice(16, 64, 4, 3, True, 1),
    Choice(16, 128, 8, 2, True, 2),
    Choice(32, 64, 4, 3, True, 2),
    Choice(128, 64, 8, 3, False, 1),
]
BACKWARD = [
    Choice(16, 32, 4, 3, True, 1),
    Choice(16, 64, 4, 3, True, 1),
    Choice(16, 128, 4, 3, True, 2),
    Choice(64, 32, 4, 3, True, 2),
    Choice(128, 64, 8, 2, False, 1),
]
# In float32 the weights are twice as large.
FORWARD_FLOAT32 = [
    Choice(16, 32, 4, 3, True, 2),
    Choice(32, 64, 4, 3, True, 1),
    Choice(64, 32, 4, 3, True, 2),
    Choice(32, 64, 4, 3, True, 4),
    Choice(128, 64, 8, 3, False, 1),
]
BACKWARD_FLOAT32 = [
    Choice(16, 32, 4, 3, True, 2),
    Choice(32, 64, 4, 3, True, 1),
    Choice(64, 32, 4, 3, True, 2),
    Choice(128, 64, 8, 2, False, 1),
]


@cache
def plan(
    cell: str,
    forward: bool,
    batch: int,
    heads: int,
    units: int,
    gates: int,
    size: int,
    precision: str,
    device: torch.device,
) -> Plan:
    """Return how to cut the work of a launch; `size` is that of a number in bytes."""
    padded = max(16, 1 << (units - 1).bit_length())
    keys = min(padded, 128 // size)
    if device.type != "cuda":
        return Plan(16, padded, keys, 4, 1)
    choices = (FORWARD if forward else BACKWARD) if size < 4 else (FORWARD_FLOAT32 if forward else BACKWARD_FLOAT32)
    has = torch.cuda.get_device_properties(device)
    for choice in choices:
        programs = -(-batch // choice.rows) * -(-units // choice.units) * heads
        if programs <= choice.at_once * has.multi_processor_count and (
            choice.units <= 64 or 64 < units <= choice.units
        ):
            break
    # Where registers or the memory of the chip would not hold that many numbers, less at a time is faster.
    precise = size == 4 and precision == "tf32x3"
    if (gates == 4 and choice.rows > 32) or (precise and choice.rows > 64) or (cell == "slstm" and choice.units > 64):
        choice = Choice(32, 64, 4, 3, True, 2)
    if gates == 4 and choice.units > 64:
        choice = choice._replace(warps=8, stages=2)
    per_stage = keys * size * ((1 if forward else gates) * choice.rows + gates * choice.units)
    memory = getattr(has, "shared_memory_per_block_optin", 101376) - 2048
    stages = max(1, min(choice.stages, memory // per_stage))
    return Plan(choice.rows, min(choice.units, padded), keys, choice.warps, stages, choice.early)
