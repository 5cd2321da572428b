"""Processes that render with habitat-sim: they are started, asked, restarted when they die or hang, and always ended.

Nothing is left behind whatever happens: the memory that is shared has no name and goes with the last process that maps
it, and a worker ends when the pipe that only this process holds open does (`worker.end_with`), also when this process
is killed by force.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import worker
from .worker import Block

LOG = logging.getLogger(__name__)
TRIES = 3
"""How often a request is made before what kills its workers is given up on."""
INSTALL = "install habitat-sim 0.3.3 there or name an interpreter that has it, as docs/habitat.md says"


Request = tuple[Mapping[str, Any], Mapping[str, np.ndarray]]
"""What a worker is asked for, and what the first rows of its block are to have, by name."""


class Died(Exception):
    """A worker ended, with an exit code (by itself) or by a signal, or does not answer."""

    def __init__(self, how: str, by_itself: bool = False) -> None:
        super().__init__(how)
        self.by_itself = by_itself


class Worker:
    """One process and the memory that it shares with this one.

    Args:
        python: the interpreter.
        setup: as of `worker.Server`.
        timeout: seconds that an answer may take, from the request or from the last scene that was opened for it.
    """

    def __init__(self, python: str, setup: dict[str, Any], timeout: float) -> None:
        self.python, self.setup, self.timeout = python, setup, timeout
        self.start()

    def start(self) -> None:
        """Start the process, which then loads its parts; `ready` waits for that."""
        ours, theirs = socket.socketpair()
        lifeline, end = os.pipe()
        self._file, self._log = _nameless(), _nameless()
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        if self.python == sys.executable:
            environment = dict(os.environ)
        # Where Mesa draws, workers are the threads: its own would only wait for each other.
        defaults = {"MAGNUM_LOG": "quiet", "HABITAT_SIM_LOG": "quiet", "GLOG_minloglevel": "2", "LP_NUM_THREADS": "0"}
        handed = (theirs.fileno(), self._file, lifeline)
        try:
            self._process = subprocess.Popen(
                [self.python, str(Path(worker.__file__)), *map(str, handed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=handed,
                env=defaults | environment,
                start_new_session=True,  # Ctrl-C is for this process, which ends its workers
            )
        except OSError as error:
            _close(ours, end, self._file, self._log)
            raise ValueError(f"habitat: {self.python} cannot be run ({error.strerror}); {INSTALL}") from None
        finally:
            theirs.close()
            os.close(lifeline)
        self._channel, self._unread, self._is_ready = ours, b"", False
        self._end = weakref.finalize(self, _end, self._process, ours, end, self._file, self._log)
        size = self.setup["size"]
        self.block = Block(self._file, self.setup["rows"], size[0], size[1], tuple(self.setup["sensors"]))
        self.send(self.setup)

    def ready(self) -> None:
        """Wait until the process has what it needs.

        Raises:
            ValueError: it never will, for the reason that it gives.
            Died: it is gone, or has taken too long.
        """
        if self._is_ready:
            return
        try:
            self.receive()
        except Died as died:
            said = self.said()
            if any(word in said for word in ("EGL", "WindowlessContext", "OpenGL", "libGL")):
                raise ValueError(
                    f"habitat: no OpenGL on GPU {self.setup['gpu']} ({last_line(said)}); install the driver's EGL "
                    "libraries, or draw without a GPU: --env.habitat-gpu -1 (in Python, gpu=-1), with Mesa "
                    "(Debian: libegl1 libgl1-mesa-dri)"
                ) from None
            if died.by_itself:
                raise ValueError(f"habitat: {self.python} {died} ({last_line(said)}); {INSTALL}") from None
            raise
        self._is_ready = True

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask for something."""
        self._until = time.monotonic() + self.timeout
        with contextlib.suppress(OSError):  # `receive` says that it is gone
            self._channel.settimeout(self.timeout)
            self._channel.sendall((json.dumps(request) + "\n").encode())

    def receive(self) -> Any:
        """Wait for the answer to what was asked last.

        Raises:
            ValueError: the worker says that it cannot be done.
            Died: it is gone, or has taken too long.
        """
        answer = self._line()
        while "opened" in answer:  # a scene, and the next may take as long
            self._until = time.monotonic() + self.timeout
            answer = self._line()
        if "error" in answer:
            if answer["missing"]:
                raise ValueError(f"habitat: {self.python} cannot import habitat_sim ({answer['error']}); {INSTALL}")
            raise ValueError(f"habitat: {answer['error']}")
        return answer["done"]

    def _line(self) -> Any:
        while b"\n" not in self._unread:
            # Also when the time is up: the answer may have come while another worker was waited for.
            left = max(0.0, self._until - time.monotonic())
            if not select.select([self._channel], [], [], left)[0]:
                raise Died(f"did not answer within {self.timeout:g} s")
            try:
                more = self._channel.recv(1 << 16)
            except OSError:
                more = b""
            if not more:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)
                code = self._process.returncode
                raise Died(f"ended with {_outcome(code)}", by_itself=code is not None and code >= 0)
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def fit(self, rows: int) -> None:
        """Make room for more rows; the worker is told with the next request, before it."""
        if rows <= self.block.rows:
            return
        self.setup = self.setup | {"rows": max(rows, 2 * self.block.rows)}
        size = self.setup["size"]
        self.block = Block(self._file, self.setup["rows"], size[0], size[1], tuple(self.setup["sensors"]))
        self.send({"do": "rows", "rows": self.setup["rows"]})
        self.receive()

    def said(self) -> str:
        """Return the last lines that the process wrote to its standard error."""
        size = os.fstat(self._log).st_size
        last = os.pread(self._log, 4000, max(0, size - 4000)).decode(errors="replace")
        return last if size <= 4000 else last.partition("\n")[2]

    def restart(self) -> None:
        """End the process and start another."""
        self.close()
        self.start()

    def close(self) -> None:
        """End the process."""
        self._end()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid


class Pool:
    """Workers, and what is asked of them at once.

    Attributes:
        workers: all of them.
        restarts: how many died or hung, and were replaced.
    """

    def __init__(self, python: str, setups: Sequence[dict[str, Any]], timeout: float) -> None:
        """Start a worker for each setup.

        Raises:
            ValueError: one cannot start, and why; none is left running then.
        """
        self.workers: list[Worker] = []
        self.restarts = 0
        self._closed = False
        try:
            for setup in setups:
                self.workers.append(Worker(python, setup, timeout))
            for number, each in enumerate(self.workers):
                try:
                    each.ready()
                except Died as died:
                    raise ValueError(
                        f"habitat: worker {number} {died}, when it began: {last_line(each.said())}"
                    ) from None
        except BaseException:
            self.close()
            raise

    def ask(
        self, requests: Mapping[int, tuple[Mapping[str, Any], Mapping[str, Any]]]
    ) -> tuple[dict[int, Any], set[int]]:
        """Let workers do something, all at once.

        Args:
            requests: by the number of the worker.

        Returns:
            the answers, and which workers had to be restarted.

        Raises:
            ValueError: a worker says that it cannot be done.
            RuntimeError: workers die of a request again and again, or have been ended.
        """
        if self._closed:
            raise RuntimeError("habitat: its workers have been ended; open the simulator again")
        answers: dict[int, Any] = {}
        restarted: set[int] = set()
        waiting = dict(requests)
        for attempt in range(1, TRIES + 1):
            # Words, not exceptions, which would hold their frames, and so the memory of workers that are gone.
            dead: dict[int, str] = {}
            failed: list[str] = []
            asked = [number for number in waiting if self._send(number, *waiting[number], dead, failed)]
            for number in asked:
                try:
                    answers[number] = self.workers[number].receive()
                except Died as died:
                    dead[number] = str(died)
                except ValueError as error:
                    failed.append(str(error))
            # Only now that all answers have been read, or they would be taken for those to the next requests.
            if failed:
                raise ValueError(failed[0])
            for number, reason in dead.items():
                self._replace(number, reason, attempt)
            restarted |= set(dead)
            waiting = {number: waiting[number] for number in dead}
            if not waiting:
                break
        return answers, restarted

    def _send(
        self,
        number: int,
        request: Mapping[str, Any],
        rows: Mapping[str, np.ndarray],
        dead: dict[int, str],
        failed: list[str],
    ) -> bool:
        """Make a request and say whether an answer is to come; what went wrong is noted."""
        it = self.workers[number]
        try:
            it.ready()
            it.fit(int(request.get("rows", 0)))
        except Died as died:
            dead[number] = str(died)
            return False
        except ValueError as error:
            failed.append(str(error))
            return False
        for name, values in rows.items():
            it.block.arrays[name][: len(values)] = values
        it.send(request)
        return True

    def _replace(self, number: int, died: str, attempt: int) -> None:
        it = self.workers[number]
        said = last_line(it.said())
        self.restarts += 1
        if attempt == TRIES:
            self.close()
            raise RuntimeError(f"habitat: worker {number} {died}, {TRIES} times at the same request: {said}")
        LOG.warning("habitat: worker %d %s and is restarted, restart %d in all: %s", number, died, self.restarts, said)
        it.restart()

    def close(self) -> None:
        """End all workers."""
        self._closed = True
        for each in self.workers:
            each.close()


def _nameless() -> int:
    """Return a descriptor of memory that no folder lists."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mnemic")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _end(process: subprocess.Popen[bytes], channel: socket.socket, *descriptors: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    _close(channel, *descriptors)


def _close(channel: socket.socket, *descriptors: int) -> None:
    channel.close()
    for descriptor in descriptors:
        os.close(descriptor)


def _outcome(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"


def last_line(said: str) -> str:
    """Return the last line that says something; that there is no light from the surroundings is meant to be so."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "IBL" not in line and "of none" not in line]
    return lines[-1][:300] if lines else "it said nothing"
