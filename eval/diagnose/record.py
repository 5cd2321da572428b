"""A recording of an agent: what there was to remember, and what could be read off its core, step by step.

Shapes: T steps, B rows, F numbers that a probe reads, U units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...agents.policy import Policy
from ...envs.step import EnvConfig
from ...memory.core import Core
from .norms import real_parts
from .play import Moment, play

Read = Literal["auto", "output", "state", "both"]
SOURCES = ("input", "output", "state")
MOST_BYTES = 4e9  # of a recording


@dataclass(frozen=True)
class Track:
    """Something hidden, as it was at every moment."""

    value_TB: NDArray[np.int64]
    shown_TB: NDArray[np.bool_]
    turn_TB: NDArray[np.int64]
    values: int
    back: int


@dataclass
class Recording:
    """What was seen."""

    starts_TB: NDArray[np.bool_]
    """Memory was emptied before this step."""
    tracks: dict[str, Track]
    """By the name of what is hidden."""
    features: dict[str, Tensor]
    """By source: what a probe reads, (T, B, F) float32. `input` is what the core takes in, and so the control."""
    units: dict[str, Tensor]
    """By source: numbers of the core as they are, (T, B, U) float32; of a large state, some of them."""
    kept: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """By gate: the mean logarithm of the share that a step keeps, by unit."""
    state_units: int = 0
    """Floating-point numbers in the state of a row."""


def record(
    policy: Policy,
    env_config: EnvConfig,
    *,
    steps: int,
    rows: int,
    seed: int = 0,
    greedy: bool = True,
    device: torch.device | str = "cpu",
    read: Read = "auto",
    project: int = 256,
) -> Recording:
    """Let an agent play and keep what a probe needs.

    Args:
        policy: acts; not changed.
        env_config: the task.
        steps: of each row.
        rows: side by side.
        seed: other seeds give other tasks.
        greedy: the most likely action; False: actions are drawn.
        device: where the environments live.
        read: what stands for what the agent remembers: the core's output, its state, or both. auto: both, but of a
            core that keeps entries (a cache) the output alone.
        project: a state of more numbers than this is projected onto so many random directions.

    Raises:
        ValueError: there is no state to read, or the recording would be too large.
    """
    found = sum(part.numel() for part in real_parts(policy.initial_memory(1)).values())
    wanted = sources(policy.core, found, read)
    _check_size(steps * rows * (2 * policy.core.width + 2 * min(found, project) * ("state" in wanted)))
    taken, starts = _Taken(found, project, seed), []
    tracks: dict[str, list[list[Tensor]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    logs: dict[str, Tensor] = {}
    signs = kept_signs(policy.core)
    options = {"seed": seed, "greedy": greedy, "device": device}
    for moment in play(policy, env_config, steps=steps, rows=rows, gates=bool(signs), **options):  # type: ignore[arg-type]
        starts.append(moment.forgets_B)
        for name, hidden in moment.env.hidden(moment.state, moment.step).items():
            if hidden.told is not None:
                continue
            tracks.setdefault(name, [[], [], []])
            sizes[name] = hidden.values, hidden.back
            for kept, part in zip(tracks[name], (hidden.value, hidden.shown, hidden.turn), strict=True):
                kept.append(part)
        taken.take(moment, wanted)
        for name, gate in moment.gates.items():
            sign = signs.get(name.rpartition(".")[2])
            if sign is not None:
                share = gate if sign > 0 else 1 - gate
                stays_B1 = ~moment.forgets_B[:, None]  # where memory was emptied, nothing was there to keep
                log_BU = share.double().clamp(1e-9).log().flatten(1)
                logs[name] = logs.get(name, 0.0) + (log_BU * stays_B1).sum(0)
    starts_TB = _stacked(starts)
    return Recording(
        starts_TB,
        {
            name: Track(_stacked(value), _stacked(shown), _stacked(turn), *sizes[name])
            for name, (value, shown, turn) in tracks.items()
        },
        {name: torch.stack(taken.features[name]).cpu() for name in wanted},
        {name: torch.stack(found_).cpu() for name, found_ in taken.units.items()},
        {name: (total.cpu() / max(int((~starts_TB).sum()), 1)).numpy() for name, total in logs.items()},
        found,
    )


def sources(core: Core, state_units: int, read: Read) -> list[str]:
    """Return what is read, the control among it.

    Raises:
        ValueError: the state is asked for, and there is none.
    """
    if read == "state" and not state_units:
        raise ValueError("the memory has no state that a probe could read; use --read output")
    caches = core.context_entries(1) > 0
    state = read == "state" or (state_units > 0 and (read == "both" or (read == "auto" and not caches)))
    return ["input", *["output"] * (read != "state"), *["state"] * state]


def kept_signs(core: Core) -> dict[str, int]:
    """Return which gates say what share of a unit is kept (1), or replaced (-1), by their names without the layer."""
    named = {each.keeps for each in core.modules() if isinstance(each, Core) and each.keeps}
    return {name.lstrip("-"): -1 if name.startswith("-") else 1 for name in named}


class _Taken:
    """What is read off each moment: features of every source, and units of output and state."""

    def __init__(self, state_units: int, project: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.features: dict[str, list[Tensor]] = {name: [] for name in SOURCES}
        self.units: dict[str, list[Tensor]] = {}
        self._directions_UF = self._chosen_U = None
        if state_units > project:
            self._directions_UF = torch.randn(state_units, project, generator=generator) / math.sqrt(state_units)
            self._chosen_U = torch.randperm(state_units, generator=generator)[:project].sort().values

    def take(self, moment: Moment, wanted: list[str]) -> None:
        """Read; what is kept are copies, since a core may write into the memory that it is given."""
        self.features["input"].append(moment.given_BD.float().clone())
        if "output" in wanted:
            self._add("output", moment.said_BD.float().clone())
        if "state" not in wanted:
            return
        state_BU = torch.cat([part.float().flatten(1) for part in real_parts(moment.memory).values()], 1)
        if self._directions_UF is None or self._chosen_U is None:
            self._add("state", state_BU)
            return
        self._directions_UF = self._directions_UF.to(state_BU.device)
        self._chosen_U = self._chosen_U.to(state_BU.device)
        self._add("state", state_BU @ self._directions_UF, state_BU[:, self._chosen_U])

    def _add(self, name: str, features_BF: Tensor, units_BU: Tensor | None = None) -> None:
        self.features[name].append(features_BF)
        self.units.setdefault(name, []).append(features_BF if units_BU is None else units_BU)


def _stacked(found: list[Tensor]) -> NDArray[Any]:
    numbers: NDArray[Any] = torch.stack(found).cpu().numpy()
    return numbers


def _check_size(numbers: int) -> None:
    if 4 * numbers > MOST_BYTES:
        raise ValueError(
            f"the recording would take {4e-9 * numbers:,.1f} GB, of {MOST_BYTES / 1e9:.0f}; "
            "take fewer --steps or --rows, or a smaller --project"
        )
