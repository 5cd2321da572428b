"""Steps per second of the native environments alone: actions are drawn beforehand, nothing else runs.

The floor is what must cross the device's memory in a step: the state is read and written once, what the step returns is
written once, the action is read once. On a GPU the steps are compiled where the environment can be, and recorded in a
CUDA graph, as in training.

Shapes: T steps, B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..envs.native import NativeEnv
from ..envs.step import EnvConfig
from ..kernels.measure import median_seconds
from ..memory.core import from_parts, parts


class EnvSpeed(NamedTuple):
    """How fast an environment steps."""

    steps_per_second: float
    bytes: float  # per step of a row, at least
    how: str  # eager, or what was done to it


def env_speed(config: EnvConfig, batch: int, device: torch.device, *, steps: int = 64, budget: float = 1.0) -> EnvSpeed:
    """Step `batch` rows with random actions; the median over windows of `steps` steps.

    Raises:
        ValueError: the environment is not native.
    """
    env = config.build(batch, 0, device)
    if not isinstance(env, NativeEnv):
        env.close()
        raise ValueError(f"{config.label} is no native environment")
    generator = torch.Generator(device).manual_seed(0)
    action_TB = torch.randint(env.actions, (steps, batch), generator=generator, device=device)
    state, _ = env.reset()
    state, _ = env.step(state, action_TB[0])
    floor = _floor(state, action_TB[-1], env.step(state, action_TB[-1]))
    run, how = (_eager(env, state, action_TB), "eager")
    if device.type == "cuda":
        run, how = _captured(env, state, action_TB)
    seconds = median_seconds(run, device, budget)
    return EnvSpeed(steps * batch / seconds, floor / batch, how)


def _floor(state: Any, action_B: Tensor, after: Any) -> int:
    """Return the bytes of all that is read and all that is new after a step; what is the same tensor counts once."""
    read, written = ({part.data_ptr(): part.nbytes for part in parts(each).values()} for each in (state, after))
    return sum(read.values()) + action_B.nbytes + sum(size for place, size in written.items() if place not in read)


def _eager(env: NativeEnv, state: Any, action_TB: Tensor) -> Callable[[], Any]:
    def run() -> None:
        nonlocal state
        for action_B in action_TB:
            state, _ = env.move(state, action_B)

    return run


def _captured(env: NativeEnv, state: Any, action_TB: Tensor) -> tuple[Callable[[], Any], str]:
    """Return steps in a CUDA graph that goes on from where its last replay ended, compiled where that works."""
    how = "compiled, CUDA graph"
    env.compile()
    try:
        env.move(state, action_TB[0])
    except Exception:  # a compiler has many ways to fail
        how = "CUDA graph; not compiled"
        env.uncompile()

    kept = {name: part.clone() for name, part in parts(state).items()}

    def steps() -> None:
        now = from_parts(state, kept)
        for action_B in action_TB:
            now, _ = env.move(now, action_B)
        for name, part in parts(now).items():
            kept[name].copy_(part)

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        steps()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()
    return graph.replay, how
