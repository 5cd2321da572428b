"""How fast workers are beside others with as many processes: `python -m mnemic.envs.habitat.bench --help`.

All step agents at random in the same house and see it with the same sensors. Loops of plain habitat-sim wait for
nobody; habitat-lab's `VectorEnv` waits for a step of all its processes, which have one agent each. Of the workers,
every step of all agents is waited for too, and what they see is returned as tensors.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...kernels.ray_cast import View
from ..houses import HouseConfig, generate, split_seed
from ..houses.export import NAVMESH, scene_name
from ..random import Stream
from ..simulator.base import SENSORS
from . import plain, vector_env
from .cache import exported
from .pool import last_line
from .simulator import Habitat, Workers


def plain_speed(workers: Workers, sensors: tuple[str, ...], size: int, seconds: float) -> float:
    """Return the frames per second of plain loops, all together."""
    setup = _setup(workers, sensors, size, seconds)
    setups = [setup | {"seed": seed} for seed in range(workers.count)]
    return _speed("plain habitat-sim", workers.python, Path(plain.__file__), setups)


def vector_env_speed(python: str, workers: Workers, sensors: tuple[str, ...], size: int, seconds: float) -> float:
    """Return the frames per second of habitat-lab's `VectorEnv` with as many processes, run by an interpreter of it."""
    setup = _setup(workers, sensors, size, seconds)
    return _speed("habitat-lab", python, Path(vector_env.__file__), [setup | {"count": workers.count}])


def _setup(workers: Workers, sensors: tuple[str, ...], size: int, seconds: float) -> dict[str, Any]:
    house = generate(split_seed("validation", 0))
    dataset = exported([house], HouseConfig(), None)
    i, j = np.argwhere(house.navigable_IJ)[0]
    return {
        "dataset": str(dataset),
        "scene": scene_name(house.seed),
        "navmesh": str(dataset.parent / NAVMESH),
        "gpu": workers.gpu,
        "sensors": sensors,
        "size": [size, size],
        "seconds": seconds,
        "start": [(j + 0.5) * house.cell, 0.0, (i + 0.5) * house.cell],
    }


def _speed(what: str, python: str | None, script: Path, setups: list[dict[str, Any]]) -> float:
    """Run a script once for each of some set-ups, all at once, and return the sum of what they report."""
    command = [python or sys.executable, str(script)]
    with ExitStack() as stack:
        loops, logs = [], []
        for setup in setups:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            words, pipe = [*command, json.dumps(setup)], subprocess.PIPE
            try:
                loop = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=log, text=True)
            except OSError as error:
                raise ValueError(f"habitat: {command[0]} cannot be run ({error.strerror})") from None
            stack.enter_context(loop)
            stack.callback(loop.kill)
            loops.append(loop)
            logs.append(log)

        def after(word: str, number: int) -> str:
            for line in loops[number].stdout or ():
                if line.startswith(word):
                    return line.removeprefix(word)
            logs[number].seek(0)
            raise ValueError(f"habitat: {command[0]} cannot run {what}: {last_line(logs[number].read())}")

        for number in range(len(loops)):
            after(plain.READY, number)
        for loop in loops:
            if loop.stdin:
                loop.stdin.write("\n")
                loop.stdin.flush()
        return sum(float(after(plain.SPEED, number)) for number in range(len(loops)))


def worker_speed(workers: Workers, sensors: tuple[str, ...], size: int, seconds: float, agents: int) -> float:
    """Return the frames per second of workers with some agents each, in the same house."""
    batch = agents * workers.count
    house = generate(split_seed("validation", 0))
    sim = Habitat([house], view=View(size, size, far=1000.0), sensors=sensors, workers=workers)
    try:
        stream = Stream.seeded(0, batch, "cpu")
        now = sim.spawn(torch.zeros(batch, dtype=torch.int64), stream.uniform(0, 2))
        action_TB = torch.tensor([1, 1, 2, 3])[torch.randint(4, (1000, batch))]
        sim.render(now)
        steps, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            now, _ = sim.move(now, action_TB[steps % 1000])
            sim.render(now)
            steps += 1
        return steps * batch / (time.perf_counter() - begun)
    finally:
        sim.close()


def measure(workers: Workers, lab_python: str, sensors: tuple[str, ...], size: int, seconds: float) -> None:
    """Measure all by turns and print their frames per second."""
    of_all = sensors, size, seconds
    others = {"plain habitat-sim": partial(plain_speed, workers, *of_all)}
    if lab_python:
        others["VectorEnv"] = partial(vector_env_speed, lab_python, workers, *of_all)
    for turn in range(3):
        # The workers first: they say what is wrong with what they are given.
        speeds = {}
        for agents in (1, 8, 32):
            speeds[agents] = worker_speed(workers, *of_all, agents)
            print(f"turn {turn}: workers of {agents} agents {speeds[agents]:,.0f} frames/s", flush=True)
        for name, speed in others.items():
            base = speed()
            ratios = ", ".join(f"{mine / base:.2f} ({agents})" for agents, mine in speeds.items())
            print(f"turn {turn}: {name} {base:,.0f} frames/s, of which workers have {ratios}", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a mistake, after one line about it."""
    parser = argparse.ArgumentParser(description="frames per second of the workers beside others")
    parser.add_argument("--python", help="the interpreter that has habitat-sim; this one if left out")
    parser.add_argument("--lab-python", default="", help="one with habitat-lab, whose VectorEnv is measured too")
    parser.add_argument("--gpu", type=int, default=0, help="the number of a GPU, -1 for none")
    parser.add_argument("--workers", type=int, default=2, help="how many processes")
    parser.add_argument("--sensors", default="rgb,depth", help=f"of {', '.join(SENSORS)}")
    parser.add_argument("--size", type=int, default=64, help="pixels along a side")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    options = parser.parse_args(words)
    try:
        if not options.seconds > 0:
            raise ValueError(f"--seconds is {options.seconds:g}; a number above 0 is expected")
        workers = Workers(python=options.python, gpu=options.gpu, count=options.workers)
        sensors = tuple(options.sensors.split(","))
        if options.lab_python and "semantic" in sensors:
            raise ValueError("--sensors has semantic, which habitat-lab's task lacks; leave it or --lab-python out")
        measure(workers, options.lab_python, sensors, options.size, options.seconds)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
