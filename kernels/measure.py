"""How kernels are measured: medians on a warm device, beside what the device can do at best.

A kernel's `bench.py` yields cases; `measure` times one after its check has passed: no timing without a right result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One size of one kernel."""

    op: str
    size: str
    """For people, such as `forward, T=1024 B=4096 D=256, bfloat16`."""
    ours: dict[str, Run]
    """What is timed, by backend."""
    check: Run
    """Raises where a backend that is timed does not return what the definition returns."""
    peers: dict[str, Run] = field(default_factory=dict)
    """What others need for the same, by name."""
    bytes: int = 0
    """The fewest bytes that must cross the device's memory: inputs read once, outputs written once."""
    flops: int = 0
    """The arithmetic that must be done."""


class Timing(NamedTuple):
    """What was measured of one backend or peer."""

    op: str
    size: str
    name: str
    peer: bool
    seconds: float
    bytes_per_second: float
    flops_per_second: float
    peak_bytes: int
    """Memory that a run takes beside its inputs; 0 on a CPU, where it is not counted."""


def measure(case: Case, device: torch.device, *, budget: float = 0.3) -> list[Timing]:
    """Check a case and time all of it, each for about `budget` seconds."""
    case.check()
    ours = [time_one(case, name, device, peer=False, budget=budget) for name in case.ours]
    return ours + [time_one(case, name, device, peer=True, budget=budget) for name in case.peers]


def time_one(case: Case, name: str, device: torch.device, *, peer: bool, budget: float = 0.3) -> Timing:
    """Time one backend or one peer of a case."""
    run = (case.peers if peer else case.ours)[name]
    seconds, peak = median_seconds(run, device, budget), peak_bytes(run, device)
    return Timing(case.op, case.size, name, peer, seconds, case.bytes / seconds, case.flops / seconds, peak)


def median_seconds(run: Run, device: torch.device, budget: float = 0.3) -> float:
    """Return the median time of a run, warm: events on a GPU, the clock elsewhere. At least 5 runs, at most 200."""
    run()
    first = _once(run, device)
    times = [_once(run, device) for _ in range(max(5, min(200, int(budget / max(first, 1e-6)))))]
    return statistics.median(times)


def _once(run: Run, device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def peak_bytes(run: Run, device: torch.device) -> int:
    """Return the memory that a run takes at its peak beside what is there before it; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes per second, read and written, of the largest copies: what a kernel can reach at best."""
    numbers = 1 << (29 if device.type == "cuda" else 25)
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / median_seconds(lambda: target.copy_(source), device)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a large matrix product in a type."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: left @ right, device)
