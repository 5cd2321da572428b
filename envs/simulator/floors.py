"""Floors as grids of cells: who can be where, where agents begin, and how far they have to go.

Shapes: B agents, H houses, I rows (along z) and J columns (along x) of the largest floor, C = I J cells, F distance
fields, K fields of one house, N navigable cells of the house with the most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .base import DOWN, LEFT, RIGHT, UP, Agents, Pose, Simulator


class Floors(Simulator):
    """A simulator whose houses have floors of equal cells.

    Nothing here looks at tensors on a CUDA device.

    Attributes:
        cell: side of the cells of all floors, metres.
        grid: I and J.
        free_HC: (H, C) bool: where agents can be.
        origin_H3: (H, 3) float32, metres: the smallest x and z of each floor, and its height, in the coordinates of
            agents: 0, except in scenes of others (`Habitat.of_dataset`).
        device: where everything lives.
    """

    cell: float
    grid: tuple[int, int]
    free_HC: Tensor
    origin_H3: Tensor
    device: torch.device

    def _lay(self, free_HIJ: Sequence[np.ndarray], cell: float, device: torch.device | str) -> None:
        """Take over floors, (I, J) bool each, of sizes of their own.

        Raises:
            ValueError: there is no floor, or one without a navigable cell.
        """
        if not free_HIJ:
            raise ValueError("simulator: no house came; at least one is expected")
        for number, free_IJ in enumerate(free_HIJ):
            if not free_IJ.any():
                raise ValueError(f"simulator: house {number} has no navigable floor; leave it out")
        self.houses, self.cell, self.device = len(free_HIJ), cell, torch.device(device)
        self.grid = max(free_IJ.shape[0] for free_IJ in free_HIJ), max(free_IJ.shape[1] for free_IJ in free_HIJ)
        free_HC = np.stack([self._padded(free_IJ, False) for free_IJ in free_HIJ]).reshape(self.houses, -1)
        self.free_HC = torch.from_numpy(free_HC).to(device)
        self.origin_H3 = torch.zeros(self.houses, 3, device=device)
        self._count_H = self.free_HC.sum(1)
        order_HC = np.argsort(~free_HC, axis=1, kind="stable")[:, : int(free_HC.sum(1).max())]
        self._cell_HN = torch.from_numpy(order_HC.astype(np.int32)).to(device)

    def pad(self, field_KIJ: np.ndarray) -> Tensor:
        """Return distance fields of one house, as of `geodesic_field`, on the grid of the largest: (K, C) float32.

        Raises:
            ValueError: the fields are not of a house of this simulator.
        """
        if field_KIJ.ndim != 3 or field_KIJ.shape[1] > self.grid[0] or field_KIJ.shape[2] > self.grid[1]:
            raise ValueError(f"simulator: fields are {field_KIJ.shape}; (fields, I, J) within {self.grid} are expected")
        padded = np.stack([self._padded(field, np.float32(np.inf)) for field in field_KIJ])
        return torch.from_numpy(padded.reshape(len(padded), -1)).to(self.device)

    def place(self, house_B: Tensor, pose: Pose) -> Agents:
        """Put agents somewhere."""
        house_B = house_B.to(self.device, torch.int64)
        position_B3, yaw_B, pitch_B = (part.to(self.device, torch.float32) for part in pose)
        if ((house_B < 0) | (house_B >= self.houses)).any():
            wrong = house_B[(house_B < 0) | (house_B >= self.houses)][0]
            raise ValueError(f"simulator: there is no house {int(wrong)}; there are {self.houses}, from 0")
        stuck_B = ~self._is_free(house_B, position_B3[:, 0], position_B3[:, 2])
        if stuck_B.any():
            row = int(stuck_B.nonzero()[0])
            at = ", ".join(f"{part:.2f}" for part in position_B3[row].tolist())
            raise ValueError(
                f"simulator: agent {row} cannot stand at ({at}) in house {int(house_B[row])}: the place is not "
                "navigable; take one with `spawn`"
            )
        return Agents(house_B, Pose(position_B3, wrapped(yaw_B), pitch_B.clamp(*self.motion.pitches)))

    def spawn(self, house_B: Tensor, number_B2: Tensor) -> Agents:
        """Return agents in the middles of navigable cells, all equally likely, that look as level as they can.

        Args:
            house_B: (B,) int64.
            number_B2: (B, 2) float32 in [0, 1), as of `envs.random.Stream.uniform`: they decide on cell and yaw. Yaws
                are multiples of a turn.
        """
        count_B = self._count_H[house_B]
        cell_B = self._cell_HN[house_B, (number_B2[:, 0].double() * count_B).long().clamp(max=count_B - 1)]
        x_B = (cell_B % self.grid[1] + 0.5) * self.cell
        z_B = (torch.div(cell_B, self.grid[1], rounding_mode="floor") + 0.5) * self.cell
        turns = max(1, int(360 / self.motion.turn))
        yaw_B = (number_B2[:, 1] * turns).floor() * math.radians(self.motion.turn)
        position_B3 = torch.stack([x_B, torch.zeros_like(x_B), z_B], 1).float()
        return Agents(house_B, Pose(position_B3, wrapped(yaw_B), torch.full_like(yaw_B, self.motion.level)))

    def geodesic(self, agents: Agents, field_FC: Tensor, which_B: Tensor) -> Tensor:
        """Return the length of the way to the nearest goal: by the best of the nine cells at and around each agent."""
        x_B11, _, z_B11 = agents.pose.position_B3[:, :, None, None].unbind(1)
        around_3 = torch.arange(-1, 2, device=self.device)
        i_B31 = (z_B11 / self.cell).floor().long() + around_3[:, None]
        j_B13 = (x_B11 / self.cell).floor().long() + around_3
        inside_B33, cell_B33 = self._cell(i_B31, j_B13)
        to_x_B13, to_z_B31 = (j_B13 + 0.5) * self.cell - x_B11, (i_B31 + 0.5) * self.cell - z_B11
        field_B33 = field_FC[which_B[:, None, None], cell_B33]
        way_B33 = field_B33 + (to_x_B13 * to_x_B13 + to_z_B31 * to_z_B31).sqrt()
        way_B33 = torch.where(inside_B33, way_B33, torch.inf)
        # Where both cells between are shut, two cells touch at a corner, which no way leads past. An agent whose own
        # cell has no way, as can be on a navmesh, takes what there is.
        between_B33 = torch.minimum(way_B33[:, :, 1:2], way_B33[:, 1:2])
        taken_B33 = (between_B33 < torch.inf) | (way_B33[:, 1:2, 1:2] == torch.inf)
        # At a goal the way is 0, not the way to the middle of its cell.
        there_B = inside_B33[:, 1, 1] & (field_B33[:, 1, 1] == 0)
        return torch.where(there_B, 0.0, torch.where(taken_B33, way_B33, torch.inf).amin((1, 2)))

    def _turned(self, pose: Pose, action_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return yaws and pitches after an action."""
        turn_B = (action_B == LEFT).float() - (action_B == RIGHT).float()
        look_B = (action_B == UP).float() - (action_B == DOWN).float()
        yaw_B = wrapped(pose.yaw_B + turn_B * math.radians(self.motion.turn))
        pitch_B = (pose.pitch_B + look_B * math.radians(self.motion.look)).clamp(*self.motion.pitches)
        return yaw_B, pitch_B

    def _padded(self, part_IJ: np.ndarray, fill: bool | np.float32) -> np.ndarray:
        high, wide = (whole - part for whole, part in zip(self.grid, part_IJ.shape, strict=True))
        return np.pad(part_IJ, ((0, high), (0, wide)), constant_values=fill)

    def _cell(self, i_B: Tensor, j_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether cells are on the grid, and their numbers, 0 where they are not."""
        inside_B = (i_B >= 0) & (i_B < self.grid[0]) & (j_B >= 0) & (j_B < self.grid[1])
        return inside_B, (i_B * self.grid[1] + j_B) * inside_B

    def _is_free(self, house_B: Tensor, x_B: Tensor, z_B: Tensor) -> Tensor:
        """Say whether points of the floor are navigable."""
        inside_B, cell_B = self._cell((z_B / self.cell).floor().long(), (x_B / self.cell).floor().long())
        return inside_B & self.free_HC[house_B, cell_B]

    def _nearest(self, reach: int) -> Tensor:
        """Return the free cell nearest to each cell, (H, C) int32, as far as some cells; farther ones have any."""
        free_HIJ = self.free_HC.cpu().numpy().reshape(self.houses, *self.grid)
        cells = np.arange(self.grid[0] * self.grid[1]).reshape(self.grid)
        near_HIJ = np.where(free_HIJ, cells, -1)
        steps = [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
        for _ in range(reach):
            wide = np.pad(near_HIJ, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
            for di, dj in steps:
                beside = wide[:, 1 + di : 1 + di + self.grid[0], 1 + dj : 1 + dj + self.grid[1]]
                near_HIJ = np.where(near_HIJ < 0, beside, near_HIJ)
        any_H11 = near_HIJ.reshape(self.houses, -1).max(1)[:, None, None]
        near_HIJ = np.where(near_HIJ < 0, any_H11, near_HIJ)
        return torch.from_numpy(near_HIJ.reshape(self.houses, -1).astype(np.int32)).to(self.device)


def wrapped(yaw_B: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return (yaw_B + math.pi).remainder(2 * math.pi) - math.pi
