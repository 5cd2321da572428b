"""All kernels measured: finds the `bench.py` of every kernel folder, and goes on where a case breaks.

What one case says of a kernel is a `Timing` for each backend and peer; what breaks, in the check of a case, in one of
its backends or peers, or before there is a case, is a `Failure` in its place.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import torch

from .measure import Case, Timing, time_one


class Failure(NamedTuple):
    """What could not be measured, and why, in one line."""

    op: str
    size: str
    name: str
    reason: str


def names() -> list[str]:
    """Return the kernels that can be measured: the folders with a `bench.py`."""
    package = importlib.import_module(__package__ or "")
    folders = [found.name for found in pkgutil.iter_modules(package.__path__) if found.ispkg]
    return [name for name in folders if importlib.util.find_spec(f".{name}.bench", __package__) is not None]


def survey(
    kernels: Sequence[str],
    device: torch.device,
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
    module: Callable[[str], ModuleType] | None = None,
) -> Iterator[Timing | Failure]:
    """Measure kernels, case after case.

    Args:
        kernels: names of kernel folders.
        device: where they run.
        quick: few and small cases, less time for each.
        say: told what comes next.
        module: returns the benchmark of a kernel; None: its `bench.py`.
    """
    for kernel in kernels:
        say(kernel)
        try:
            bench = module(kernel) if module else importlib.import_module(f".{kernel}.bench", __package__)
            cases = iter(bench.cases(device, quick=quick))
        except Exception as error:  # whatever breaks is a row of its own, and the rest goes on
            yield Failure(kernel, "", "", reason(error))
            continue
        while True:
            try:
                case = next(cases, None)
            except Exception as error:
                yield Failure(kernel, "", "", reason(error))
                break
            if case is None:
                break
            say(f"{case.op}: {case.size}")
            yield from _measured(case, device, 0.1 if quick else 0.3)
            del case
            _tidy(device)


def _measured(case: Case, device: torch.device, budget: float) -> Iterator[Timing | Failure]:
    try:
        case.check()
    except Exception as error:
        yield Failure(case.op, case.size, "", f"the check failed, nothing was timed: {reason(error)}")
        return
    for peer, runs in ((False, case.ours), (True, case.peers)):
        for name in runs:
            try:
                yield time_one(case, name, device, peer=peer, budget=budget)
            except Exception as error:
                yield Failure(case.op, case.size, name, reason(error))
                _tidy(device)


def reason(error: Exception) -> str:
    """Return an error in one line, not too long."""
    words = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    kind = "" if isinstance(error, ValueError) and words else f"{type(error).__name__}: "
    return kind + (words if len(words) <= 200 else f"{words[:200]} …")


def _tidy(device: torch.device) -> None:
    """Give back the memory of the last case, so that it is not counted, or missing, in the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
