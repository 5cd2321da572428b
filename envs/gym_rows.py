"""Gymnasium environments as rows of shared arrays: in this process, or in a few others with many rows in each.

Nothing here needs torch. Gymnasium's own AsyncVectorEnv runs one environment per process; with more rows than cores,
a light environment then spends most of its time on switching between processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple, NoReturn

import cloudpickle  # type: ignore[import-untyped]
import gymnasium
import numpy as np
from gymnasium import spaces

from .gym_draw import draw

Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]  # the shape and type of every array by name


@dataclass(frozen=True)
class Field:
    """One part of an observation, and how a row of an array keeps it.

    Numbers that stand for choices are kept as they are; the parent makes them one-hot for all rows at once.
    """

    key: str | None
    """Its key in the environment's dictionary; None where it is the whole observation."""
    promised: tuple[int, ...]
    """The shape that the environment's space promises."""
    given: np.dtype[Any]
    """The type that the environment's space promises; another of the same kind, such as float64, passes."""
    shape: tuple[int, ...]
    """What a row keeps; the last axis holds the choices, where they are choices."""
    dtype: np.dtype[Any]
    """In which type."""
    choices: tuple[int, ...] = ()
    """How many values each number along the last axis can take; empty where they are not choices."""
    start: Any = None
    """What the first choice is called, where it is not 0."""
    texts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For a text, the choices that stand for each one; a text that never changes has none and is not kept."""

    @property
    def name(self) -> str:
        """What messages and arrays call it."""
        return "observation" if self.key is None else self.key

    def read(self, obs: Any) -> Any:
        """Return what a row keeps of an observation.

        Raises:
            ValueError: it is not what the environment's space promised.
        """
        if self.key is not None:
            if not isinstance(obs, dict) or self.key not in obs:
                raise ValueError(f"the observation has no {self.key!r}, which its space promises")
            obs = obs[self.key]
        if self.texts:
            if obs not in self.texts:
                raise ValueError(f"{self.name} is {obs!r}; a text that changes freely cannot be shown to an agent")
            return self.texts[obs]
        array = np.asarray(obs)
        if array.dtype != self.given and not np.can_cast(array.dtype, self.given, "same_kind"):
            raise ValueError(f"{self.name} has type {array.dtype}; its space promises {self.given}")
        if array.shape != self.promised:
            raise ValueError(f"{self.name} has shape {array.shape}; its space promises {self.promised}")
        return array if self.start is None else array - self.start


class Extent(NamedTuple):
    """What a row has played of a trial, or the most that it plays of one; 0 episodes or steps are then no limit."""

    episodes: int = 0
    steps: int = 0


class Plan(NamedTuple):
    """What every process has to know about the environments."""

    label: str
    make: Callable[[], gymnasium.Env[Any, Any]]
    seed: int
    first_row: int  # the number of row 0 in the batch that this is a part of
    fields: tuple[Field, ...]
    action_space: spaces.Space[Any]
    success: Literal["reward", "is_success", "success"] | None  # where it is read from
    trial: Extent | None = None  # the most that is played with one seed; None: one episode, the next draws on

    def layout(self, batch: int) -> Layout:
        """Return the arrays that the rows share."""
        arrays: Layout = {
            f"{when}.{part.name}": ((batch, *part.shape), part.dtype)
            for when in ("obs", "final")
            for part in self.fields
            if part.shape != (0,)
        }
        arrays["action"] = ((batch, *(self.action_space.shape or ())), np.dtype(self.action_space.dtype))
        arrays["reward"] = ((batch,), np.dtype(np.float32))
        flags = ("terminated", "truncated", "trial_over", "success")
        return arrays | {name: ((batch,), np.dtype(np.bool_)) for name in flags}


def cores() -> int:
    """Return how many cores are this process's: torchrun says how many processes it has started on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def row_seed(seed: int, row: int, trial: int = 0) -> int:
    """Return the seed of a row, or of one of its trials, of 31 bits: a function of these numbers alone."""
    return int(np.random.SeedSequence([seed, row, trial]).generate_state(1)[0]) >> 1


def _views(layout: Layout, memory: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.frombuffer(memory[name], dtype).reshape(shape) for name, (shape, dtype) in layout.items()}


def _memory(layout: Layout, allocate: Callable[[int], Any]) -> dict[str, Any]:
    return {name: allocate(int(np.prod(shape)) * dtype.itemsize) for name, (shape, dtype) in layout.items()}


class Rows:
    """Some rows of a batch, stepped one after the other; actions come and everything goes through `arrays`.

    A row whose episode ended is reset in the same step: `obs` holds its first observation, `final` its last one. With
    trials it is reset with the seed of its trial, so that the same episode begins again as far as a seed decides that.
    """

    def __init__(self, plan: Plan, batch: int, rows: Sequence[int], memory: Mapping[str, Any] | None = None) -> None:
        layout = plan.layout(batch)
        self.plan = plan
        self.arrays = _views(layout, _memory(layout, bytearray) if memory is None else memory)
        self.kept = {
            when: [(part, self.arrays.get(f"{when}.{part.name}")) for part in plan.fields] for when in ("obs", "final")
        }
        self.envs: dict[int, gymnasium.Env[Any, Any]] = {}
        self.trials: dict[int, int] = {}  # by row, how many are over
        self.played: dict[int, Extent] = {}  # by row, of the trial that runs
        for row in rows:
            self.envs[row] = self._try(row, plan.make)

    @property
    def open(self) -> bool:
        """Say whether `close` is still to come."""
        return bool(self.envs)

    def call(self, command: str, row: int | None = None) -> Any:
        """Do `reset`, `step`, `close`, or `draw` for one row.

        Raises:
            ValueError: an observation is not what its space promised, or a row cannot be drawn.
            RuntimeError: an environment raised. Both name the environment and the row.
        """
        return getattr(self, command)() if row is None else getattr(self, command)(row)

    def reset(self) -> None:
        """Begin every row from its own seed."""
        self.trials = dict.fromkeys(self.envs, 0)
        self.played = dict.fromkeys(self.envs, Extent())
        for row in self.envs:
            self._keep("obs", row, self._begun(row))

    def _begun(self, row: int) -> Any:
        """Return the first observation of a trial."""
        seed = row_seed(self.plan.seed, self.plan.first_row + row, self.trials[row])
        return self._try(row, self.envs[row].reset, seed=seed)[0]

    def step(self) -> None:
        """Take the action of every row."""
        arrays, success = self.arrays, self.plan.success
        space = self.plan.action_space
        actions = arrays["action"]
        # A list of plain integers is quicker to make and to compare with than numpy scalars.
        listed = (actions + space.start).tolist() if isinstance(space, spaces.Discrete) else None
        for row, env in self.envs.items():
            action = actions[row].copy() if listed is None else listed[row]
            obs, reward, terminated, truncated, info = self._try(row, env.step, action)
            if self.plan.trial is not None:
                truncated = self._counted(row, self.plan.trial, terminated, truncated)
            arrays["reward"][row] = reward
            arrays["terminated"][row] = terminated
            arrays["truncated"][row] = truncated
            if success is not None:
                arrays["success"][row] = (
                    terminated and reward > 0 if success == "reward" else bool(info.get(success, False))
                )
            if terminated or truncated:
                self._keep("final", row, obs)
                obs = self._try(row, env.reset)[0] if self.plan.trial is None else self._begun(row)
            self._keep("obs", row, obs)

    def _counted(self, row: int, most: Extent, terminated: bool, truncated: bool) -> bool:
        """Count a step of a trial, note whether it was the last one, and return whether it truncates the episode."""
        episodes, steps = self.played[row]
        steps += 1
        truncated = truncated or steps == most.steps
        episodes += terminated or truncated
        over = most.episodes <= episodes if most.episodes else most.steps <= steps
        self.trials[row] += over
        self.played[row] = Extent() if over else Extent(episodes, steps)
        self.arrays["trial_over"][row] = over
        return truncated

    def draw(self, row: int) -> Any:
        """Return a picture of one row."""
        try:
            return draw(self.envs[row])
        except ValueError as error:
            raise ValueError(f"{self.plan.label}: {error}") from None

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs.values():
            env.close()
        self.envs = {}

    def _keep(self, when: str, row: int, obs: Any) -> None:
        try:
            for part, array in self.kept[when]:
                value = part.read(obs)
                if array is not None:
                    array[row] = value
        except ValueError as error:
            raise ValueError(f"{self.plan.label}: row {row}: {error}") from None

    def _try(self, row: int, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RuntimeError(
                f"{self.plan.label}: row {row}: the environment raised {type(error).__name__}: {error} "
                f"({where.filename}, line {where.lineno})"
            ) from error


class Workers:
    """The same as `Rows`, with the rows shared out over processes.

    The processes come from a fork server, so they start quickly, own no GPU and no thread of the parent. They leave
    when told to, when the parent dies and when this object is collected; the shared arrays have no name in the system
    and vanish with the last process that holds them. They need the usual `if __name__ == "__main__":` in a script.

    Args:
        plan: the environments.
        batch: rows.
        count: processes.
        preload: modules that the fork server imports once, for all processes.
    """

    def __init__(self, plan: Plan, batch: int, count: int, preload: Sequence[str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *preload])
        packed = cloudpickle.dumps(plan)
        memory = _memory(plan.layout(batch), lambda size: context.RawArray("B", size))
        self.label = plan.label
        self.arrays = _views(plan.layout(batch), memory)
        self.parts = [range(batch * i // count, batch * (i + 1) // count) for i in range(count)]
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        self.close = weakref.finalize(self, _stop, self.pipes, self.processes)
        # Ctrl-C is the parent's to handle. Children inherit the blocked signal, so none of them can die of it with a
        # traceback before it gets to ignore it.
        resource_tracker.ensure_running()  # here, since it unblocks the signal when it starts
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for rows in self.parts:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, packed, batch, rows, memory), daemon=True)
                process.start()
                theirs.close()
                self.pipes.append(ours)
                self.processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        try:
            self._gather(range(count))
        except BaseException:
            self.close()
            raise

    @property
    def open(self) -> bool:
        """Say whether `close` is still to come."""
        return self.close.alive

    def call(self, command: str, row: int | None = None) -> Any:
        """Do `reset` or `step` in all processes, or `draw` for one row.

        Raises:
            ValueError: as `Rows.call`.
            RuntimeError: as `Rows.call`, or a process died. After either the rest is of no use: close it.
        """
        asked = [i for i, rows in enumerate(self.parts) if row is None or row in rows]
        for i in asked:
            try:
                self.pipes[i].send((command, row))
            except OSError:
                self._died(i)
        return self._gather(asked)

    def _gather(self, asked: Sequence[int]) -> Any:
        result = None
        for i in asked:
            try:
                outcome, result = self.pipes[i].recv()
            except (EOFError, OSError):
                self._died(i)
            if outcome != "done":
                text = result if result.startswith(self.label) else f"{self.label}: {result}"
                raise ValueError(text) if outcome == "ValueError" else RuntimeError(text)
        return result

    def _died(self, i: int) -> NoReturn:
        process, rows = self.processes[i], self.parts[i]
        process.join(1)
        raise RuntimeError(
            f"{self.label}: the process of rows {rows[0]} to {rows[-1]} died (exit code {process.exitcode})"
        )


def _stop(pipes: list[Connection], processes: list[BaseProcess]) -> None:
    for pipe in pipes:
        # Where the process is gone already there is nobody to tell.
        with contextlib.suppress(OSError):
            pipe.send(("close", None))
    for pipe, process in zip(pipes, processes, strict=True):
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        pipe.close()


def _serve(pipe: Connection, plan: bytes, batch: int, rows: range, memory: Mapping[str, Any]) -> None:
    """Answer the parent until it says `close` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        mine = Rows(_unpacked(plan), batch, rows, memory)
        command, row, result = "start", None, None
        while command != "close":
            pipe.send(("done", result))
            command, row = pipe.recv()
            result = mine.call(command, row)
    except (EOFError, ConnectionError):  # the parent is gone
        return
    except (ValueError, RuntimeError) as error:
        pipe.send((type(error).__name__, str(error)))


def _unpacked(plan: bytes) -> Plan:
    try:
        unpacked: Plan = pickle.loads(plan)
    except Exception as error:
        raise RuntimeError(
            f"the environment cannot be found in another process ({type(error).__name__}: {error}); "
            "define it in a module that can be imported, or use workers=1"
        ) from error
    return unpacked
