"""CUDA graphs: work that is asked for again and again, recorded once and launched as one.

A graph runs on the tensors that it was recorded with: weights are read where they are, and what a step goes on from
lives in tensors that the graph itself overwrites. Nothing that is recorded may look at the device's data; a dry run
finds out whether anything does, before the recording, which would fail in worse ways.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from ..memory.core import parts
from .noise import plain

Output = TypeVar("Output")


class CaptureError(RuntimeError):
    """Something cannot be recorded in a CUDA graph; the message says why."""


class Graph(Generic[Output]):
    """A function without arguments, recorded once.

    Args:
        function: what to record. It is not run by this: call `rehearse` on it, or on a shorter form of it, before.
        generator: what it draws from, if it draws: every replay then goes on from where the generator stands.
        beside: another graph, which never runs at the same time, and whose memory this one may use too.

    Attributes:
        output: what the function returned; every replay writes it anew, in place.
    """

    def __init__(
        self,
        function: Callable[[], Output],
        generator: torch.Generator | None = None,
        beside: Graph[Output] | None = None,
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        if generator is not None:
            self._graph.register_generator_state(plain(generator))
        with _nothing_freed(), torch.cuda.graph(self._graph, pool=None if beside is None else beside._graph.pool()):
            self.output = function()

    def replay(self) -> Output:
        """Run what was recorded."""
        self._graph.replay()
        return self.output


def rehearse(function: Callable[[], Any], generator: torch.Generator | None = None) -> None:
    """Run a function as it will be recorded: compile and allocate what it needs, and see that it never looks.

    Raises:
        CaptureError: it waits for the device, so it cannot be recorded.
    """
    drawn = None if generator is None else generator.get_state()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            function()
            torch.cuda.synchronize()
            with _no_looks():
                function()
        torch.cuda.synchronize()
    finally:
        if generator is not None and drawn is not None:
            generator.set_state(drawn)


@contextmanager
def _nothing_freed() -> Iterator[None]:
    """Keep the garbage collector from freeing an older graph while one is recorded, which would spoil the recording."""
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _no_looks() -> Iterator[None]:
    """Let whatever waits for the device raise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise CaptureError(f"{_where(error)} waits for the device") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _where(error: BaseException) -> str:
    """Return the innermost line of this package that an error passed through."""
    here, trace = "it", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith(__name__.partition(".")[0] + "."):
            here = f"{name}, line {trace.tb_lineno},"
        trace = trace.tb_next
    return here


def write(old: Any, new: Any) -> None:
    """Write the numbers of one state into the tensors of another."""
    targets, sources = parts(old), parts(new)
    own = {part.data_ptr() for part in targets.values()}
    # A source may be another target, which must not be overwritten before it is read.
    read = {
        name: part.clone() if part.data_ptr() in own and part.data_ptr() != targets[name].data_ptr() else part
        for name, part in sources.items()
    }
    for name, part in targets.items():
        if read[name].data_ptr() != part.data_ptr():
            part.copy_(read[name])
