"""How a device computes, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute on a device in some precision; the setting of torch stands again afterwards.

    Products of float32 matrices are full float32 ("float32"), or round what they multiply to 10 bits ("tf32",
    "bfloat16"), which only GPUs do.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Stopwatch:
    """Seconds between laps, as the device takes them: the host runs ahead of a GPU and knows nothing of its time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps = [self._now()]

    def lap(self) -> None:
        """End a lap and begin the next."""
        self._laps.append(self._now())

    def seconds(self) -> list[float]:
        """Return the seconds of each lap; waits for the device."""
        ends = zip(self._laps, self._laps[1:], strict=False)
        if self._device.type != "cuda":
            return [end - begin for begin, end in ends]
        self._laps[-1].synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in ends]

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
