"""What an episode of Color-Cubes says about memory: how straight the ways were, and who went to where a cube was.

Exactly, for a step of the agent, with the target as it was before the step:

- the *old cell* of a cube is the one that it stood on before it last jumped in this episode, by itself or because it
  was collected; a cube that has not jumped has none;
- a *stale visit* is a step onto the old cell of the target that does not come nearer to the target. An agent that goes
  there acts on a map that was overwritten since, for every jump was shown;
- a *stale step* comes nearer to the old cell of the target and goes away from the target: on its way to such a visit;
- a *wrong visit* is a step onto the cell of another cube that does not come nearer to the target: the agent has the
  colours mixed up, or walks at random;
- a *reveal* is a frame after the first one that showed where a cube went.

A step that comes nearer to the target is never held against an agent, so a player that knows the map has 0 of all
three, wherever the old cell lies. Wandering makes some of each by chance: compare with `mnemic eval random`.

Shapes: B rows, N cubes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .grid import Grid


class Tally(NamedTuple):
    """What has been counted in the episodes of B rows, all int64."""

    steps: Tensor  # (B,)
    old: Tensor  # (B, N) the old cell of each cube; where it has none, the cell that it stands on
    reveals: Tensor  # (B,)
    stale_visits: Tensor  # (B,)
    stale_steps: Tensor  # (B,)
    wrong_visits: Tensor  # (B,)

    @classmethod
    def nothing(cls, cell_BN: Tensor) -> Tally:
        """Begin to count where the cubes stand."""
        zero_B = torch.zeros_like(cell_BN[:, 0])
        return cls(zero_B, cell_BN, zero_B, zero_B, zero_B, zero_B)

    def after(
        self,
        grid: Grid,
        *,
        was_B: Tensor,
        own_B: Tensor,
        target_B: Tensor,
        cell_BN: Tensor,
        moved_BN: Tensor,
    ) -> Tally:
        """Count one step.

        Args:
            grid: where it happens.
            was_B: the agent's cell before the step.
            own_B: and after it.
            target_B: the target before the step.
            cell_BN: the cells of the cubes before the step.
            moved_BN: which cubes jumped in it.
        """
        goal_B = cell_BN.gather(1, target_B[:, None]).squeeze(1)
        old_B = self.old.gather(1, target_B[:, None]).squeeze(1)
        before_B, now_B = grid.distance(was_B, goal_B), grid.distance(own_B, goal_B)
        walked_B, astray_B = own_B != was_B, now_B >= before_B
        has_old_B = old_B != goal_B
        back_B = grid.distance(own_B, old_B) < grid.distance(was_B, old_B)
        # The target itself cannot be among these: who steps onto it has come nearer.
        on_cube_B = (cell_BN == own_B[:, None]).any(1)
        return Tally(
            steps=self.steps + 1,
            old=torch.where(moved_BN, cell_BN, self.old),
            reveals=self.reveals + moved_BN.any(1),
            stale_visits=self.stale_visits + (walked_B & astray_B & has_old_B & (own_B == old_B)),
            stale_steps=self.stale_steps + (has_old_B & back_B & (now_B > before_B)),
            wrong_visits=self.wrong_visits + (walked_B & astray_B & on_cube_B),
        )

    def figures(self, phase_B: Tensor, shortest: float) -> dict[str, Tensor]:
        """Return the figures of the episode so far.

        `pace` is the number of steps for each phase solved, as a multiple of what a phase takes on average by the
        shortest way; where none is solved, all steps count as those of one.

        Args:
            phase_B: phases solved.
            shortest: steps of a phase on average, by the shortest way.
        """
        return {
            "pace": self.steps.float() / (phase_B.clamp(min=1).float() * shortest),
            "reveals": self.reveals,
            "stale_visits": self.stale_visits,
            "stale_steps": self.stale_steps,
            "wrong_visits": self.wrong_visits,
        }
