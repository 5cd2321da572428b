"""Players of Color-Cubes: one keeps the map up to date from what frames show, the other remembers nothing.

Shapes: B rows, C cells, N cubes (in the order of their colours).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .grid import STAY, Grid
from .step import Obs, Oracle


class Belief(NamedTuple):
    """What the oracle remembers of B grids."""

    own: Tensor  # (B,) int64: its own cell
    cell: Tensor  # (B, N) int64: where it thinks the cubes are
    order: Tensor  # (B, N) int64: the colours in the order of the list
    target: Tensor  # (B,) int64
    excluded: Tensor  # (B, C) bool: cells where the target cannot be in this phase


class ColorCubesOracle(Oracle):
    """Remembers where each colour is; without colours, matches cells that became empty with cells that became full.

    Where several cubes jumped at once it cannot know which is which and takes them in any order. If the cube that it
    takes for the target jumps or is not collected, it was another one, and it goes to the nearest that may still be it.
    """

    def __init__(self, layout: dict[str, slice], *, size: int, cubes: int, interact: bool, step_reward: float) -> None:
        self.layout, self.size, self.cubes, self.interact = layout, size, cubes, interact
        self.least_for_target = step_reward + 0.5  # the target pays 1 more than any other step, or still more
        self.belief: Belief | None = None

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        if self.belief is None or len(self.belief.own) != len(obs):
            self.belief, self.grid = self._blank(obs), Grid(self.size, obs.device)
        self.belief = self._look(obs, self.belief, trial_start_B, reward_B > self.least_for_target)
        own_B, cell_BN, _, target_B, excluded_BC = self.belief
        wanted_B = cell_BN.gather(1, target_B[:, None]).squeeze(1)
        was_wrong_B = excluded_BC.gather(1, wanted_B[:, None]).squeeze(1)
        candidates_BC = one_hot(cell_BN, self.grid.cells).sum(1).bool() & ~excluded_BC
        wanted_B = torch.where(was_wrong_B, self.grid.nearest(own_B, candidates_BC), wanted_B)
        action_B = self.grid.toward(own_B, wanted_B)
        own_B = self.grid.move(own_B, action_B)
        tests_B = action_B == STAY if self.interact else torch.ones_like(trial_start_B)
        excluded_BC = excluded_BC | one_hot(own_B, self.grid.cells).bool() & tests_B[:, None]
        self.belief = self.belief._replace(own=own_B, excluded=excluded_BC)
        return action_B

    def _blank(self, obs: Tensor) -> Belief:
        zero_B = torch.zeros(len(obs), dtype=torch.int64, device=obs.device)
        zero_BN = zero_B[:, None].expand(-1, self.cubes)
        return Belief(zero_B, zero_BN, zero_BN, zero_B, torch.zeros(len(obs), self.size**2, device=obs.device).bool())

    def _look(self, obs: Tensor, belief: Belief, trial_start_B: Tensor, paid_B: Tensor) -> Belief:
        """Bring the belief up to date with a frame."""
        seen = {name: obs[:, part] for name, part in self.layout.items()}
        own_B = torch.where(seen["own"].any(1), seen["own"].argmax(1), belief.own)
        new_phase_B, collected_B = trial_start_B | paid_B, paid_B & ~trial_start_B
        order_BN = belief.order
        if "listed" in seen:
            names_BNN = seen["names"].reshape(-1, self.cubes, self.cubes)
            order_BN = torch.where(names_BNN.any(2), names_BNN.argmax(2), order_BN)
            listed_BNC = seen["listed"].reshape(len(obs), self.cubes, -1)
            # From the order of the list to that of the colours.
            where_BNC = torch.zeros_like(listed_BNC).scatter(1, order_BN[:, :, None].expand_as(listed_BNC), listed_BNC)
            cell_BN = torch.where(where_BNC.any(2), where_BNC.argmax(2), belief.cell)
        else:
            coloured_BNC = seen["coloured"].reshape(len(obs), self.cubes, -1)
            tracked_BN = self._track(belief, seen["full"].bool(), collected_B)
            cell_BN = torch.where(coloured_BNC.any(2), coloured_BNC.argmax(2), tracked_BN)
        target_B = torch.where(new_phase_B, seen["target"].argmax(1), belief.target)
        # A cube that is where it was not before has jumped, so it is not the target.
        jumped_BN = (cell_BN != belief.cell)[:, :, None]
        jumped_BC = (one_hot(cell_BN, self.grid.cells) * jumped_BN).sum(1).bool()
        excluded_BC = (belief.excluded | jumped_BC) & ~new_phase_B[:, None]
        return Belief(own_B, cell_BN, order_BN, target_B, excluded_BC)

    def _track(self, belief: Belief, full_BC: Tensor, collected_B: Tensor) -> Tensor:
        """Return the cells of all cubes after a frame that shows cells without colours, (B, N)."""
        old_BC = one_hot(belief.cell, self.grid.cells).sum(1).bool()
        target_BN = one_hot(belief.target, self.cubes).bool()
        # What was collected was the target, even if another cube was thought to be here: these two change places.
        thought_B = belief.cell.gather(1, belief.target[:, None])
        corrected_BN = torch.where(belief.cell == belief.own[:, None], thought_B, belief.cell)
        corrected_BN = torch.where(target_BN, belief.own[:, None], corrected_BN)
        cell_BN = torch.where(collected_B[:, None], corrected_BN, belief.cell)
        gone_BN = ~full_BC.gather(1, cell_BN) & full_BC.any(1, keepdim=True)
        gone_BN = torch.where(collected_B[:, None], target_BN, gone_BN)
        new_BC = full_BC & ~old_BC
        # The i-th cube that is gone is taken for the one in the i-th cell that is new.
        rank_BN, rank_BC = gone_BN.cumsum(1), new_BC.cumsum(1)
        same_BNC = (rank_BN[:, :, None] == rank_BC[:, None, :]) & new_BC[:, None, :] & gone_BN[:, :, None]
        return torch.where(same_BNC.any(2), same_BNC.long().argmax(2), cell_BN)


class ColorCubesMemoryless(Oracle):
    """Walks to the target while a frame tells its cell, else through all cells, row by row, there and back.

    It remembers nothing but its last action, which an agent without memory may be told too: it says in which direction
    it goes. What it reaches is a floor: a score that needs no memory.
    """

    def __init__(self, layout: dict[str, slice], *, size: int, cubes: int) -> None:
        self.layout, self.size, self.cubes = layout, size, cubes
        self.action_B = torch.empty(0, dtype=torch.int64)

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        if len(self.action_B) != len(obs):
            self.action_B, self.grid = (
                torch.zeros(len(obs), dtype=torch.int64, device=obs.device),
                Grid(self.size, obs.device),
            )
        own_B = obs[:, self.layout["own"]].argmax(1)
        # Where it came from lies opposite to its last move, unless that ran into the border.
        from_B = self.grid.move(own_B, self.action_B ^ 1)
        back_B = self.grid.before(own_B, from_B) & ~trial_start_B
        goal_B = self.grid.sweep(own_B, back_B)
        told_BC = self._told(obs)
        goal_B = torch.where(told_BC.any(1), told_BC.argmax(1), goal_B)
        self.action_B = self.grid.toward(own_B, goal_B)
        return self.action_B

    def _told(self, obs: Tensor) -> Tensor:
        """Return the target's cell as far as this frame alone tells it, one-hot or zeros, (B, C)."""
        seen = {name: obs[:, part] for name, part in self.layout.items()}
        if "latch" in seen:
            return seen["latch"]
        target_BN = seen["target"]
        if "listed" in seen:
            place_BN = torch.einsum("bln,bn->bl", seen["names"].reshape(-1, self.cubes, self.cubes), target_BN)
            return torch.einsum("blc,bl->bc", seen["listed"].reshape(len(obs), self.cubes, -1), place_BN)
        return torch.einsum("bnc,bn->bc", seen["coloured"].reshape(len(obs), self.cubes, -1), target_BN)
