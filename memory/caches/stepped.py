"""What a core under a policy is: taken step by step, since what it keeps depends on what it kept before.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import Core, State


class SteppedCore(Core):
    """A core whose window is its steps, one after the other."""

    def unroll(
        self, x_TBD: Tensor, state: State, start_TB: Tensor, episode_TB: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Take T steps, one after the other."""
        told = () if episode_TB is None else (episode_TB,)
        outputs = []
        for x_BD, start_B, *episode in zip(x_TBD, start_TB, *told, strict=True):
            y_BD, state = self.step(x_BD, state, start_B, *episode)
            outputs.append(y_BD)
        return torch.stack(outputs), state
