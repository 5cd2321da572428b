"""What a long life does to a state: its size by the steps of a memory that is never emptied.

A recurrent memory that training never taught to forget can work up to the lengths of training and fail beyond them,
when some of its units outgrow what they were there ("state collapse", Stuffed Mamba, arXiv 2410.07145). So no part
should ever be more than twice as large as its largest inside the range of training.

Shapes: T steps, B rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...agents.policy import Policy
from ...envs.step import EnvConfig
from ...memory.core import State, parts
from .play import play

RULE = 2.0
"""How much larger than inside the range of training a part may get."""


@dataclass(frozen=True)
class Norm:
    """The size of one part of the state, or of the output, step by step."""

    name: str
    rms_T: NDArray[np.float64]
    """Root mean square over rows and entries."""
    trained: int
    """Steps of the range of training."""

    @property
    def ratio(self) -> float:
        """The largest outside the range of training over the largest inside; NaN without steps outside."""
        inside, outside = self.rms_T[: self.trained], self.rms_T[self.trained :]
        if not len(outside):
            return math.nan
        if not np.isfinite(self.rms_T).all():
            return math.inf
        highest = float(outside.max())
        return highest / float(inside.max()) if inside.max() > 0 else (math.inf if highest > 0 else 1.0)

    @property
    def collapses(self) -> bool:
        """Whether the rule is broken."""
        return self.ratio > RULE


@dataclass(frozen=True)
class Life:
    """What was seen in a long life."""

    norms: list[Norm]
    reward_T: NDArray[np.float64]
    """The mean reward of each step over rows; that of the action before it."""
    trained: int

    def rewards(self) -> tuple[float, float]:
        """Return the mean reward of a step inside the range of training and outside; NaN where there is none."""
        inside, outside = self.reward_T[1 : self.trained], self.reward_T[self.trained :]
        return tuple(float(part.mean()) if len(part) else math.nan for part in (inside, outside))  # type: ignore[return-value]


def live(
    policy: Policy,
    env_config: EnvConfig,
    *,
    steps: int,
    rows: int,
    trained: int,
    seed: int = 0,
    greedy: bool = True,
    device: torch.device | str = "cpu",
    tell: Callable[[int], None] = lambda steps: None,
) -> Life:
    """Let an agent play trial after trial with a memory that is emptied only once, before the first step.

    Args:
        policy: acts; not changed.
        env_config: the task.
        steps: of each row.
        rows: side by side.
        trained: steps of the longest trials of training.
        seed: other seeds give other tasks.
        greedy: the most likely action; False: actions are drawn.
        device: where the environments live.
        tell: called now and then with the steps so far.
    """
    names, sizes, rewards = [], [], []
    options = {"seed": seed, "greedy": greedy, "device": device}
    for number, moment in enumerate(play(policy, env_config, steps=steps, rows=rows, forget=False, **options)):  # type: ignore[arg-type]
        found = {"output": moment.said_BD} | real_parts(moment.memory)
        names = list(found)
        sizes.append(torch.stack([rms(part) for part in found.values()]))
        rewards.append(moment.step.reward.double().mean())
        if number % 16 == 0:
            tell(number)
    sizes_TP = torch.stack(sizes).cpu().numpy()
    norms = [Norm(name, sizes_T, trained) for name, sizes_T in zip(names, sizes_TP.T, strict=True)]
    return Life(norms, torch.stack(rewards).cpu().numpy(), trained)


def real_parts(memory: State) -> dict[str, Tensor]:
    """Return the parts of a memory that are numbers with a point, by name; complex ones as pairs."""
    named = {name: torch.view_as_real(part) if part.is_complex() else part for name, part in parts(memory).items()}
    return {name: part for name, part in named.items() if part.is_floating_point() and part.numel()}


def rms(part: Tensor) -> Tensor:
    """Return the root mean square of all numbers, in float64."""
    return part.double().square().mean().sqrt()
