"""The simulator of this package: thousands of agents at once, rays cast into solids, floors as grids of cells.

An agent is an upright cylinder whose centre stays in the navigable cells of its house, which leave room for its radius.
A step is made in pieces shorter than a cell, each first along x and then along z, and what a piece would leave the
cells by is not done: so an agent slides along a wall by as much of its step as points along it, never cuts a corner,
and from wherever it gets there is a way to wherever there was one.

`move`, `spawn`, `render` and `geodesic` do not look at their tensors on a CUDA device, and their sizes do not depend
on what happens, so that a CUDA graph can hold them.

Shapes: B agents, H houses, I rows (along z) and J columns (along x) of the largest floor, C = I J cells, F distance
fields, N navigable cells of the house with the most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...kernels.ray_cast import Scene, View, material, pack, ray_cast
from ..houses import MATERIALS, House
from .base import DOWN, FORWARD, LEFT, RIGHT, SENSORS, UP, Agents, Motion, Pose, Simulator

TURN = 2 * math.pi


class Embedded(Simulator):
    """Houses on a device.

    Attributes:
        cell: side of the cells of all floors, metres.
        grid: I and J.
        free_HC: (H, C) bool: where agents can be.
    """

    def __init__(
        self,
        houses: Sequence[House],
        device: torch.device | str = "cpu",
        *,
        view: View | None = None,
        motion: Motion | None = None,
        sensors: Sequence[str] = SENSORS,
    ) -> None:
        """Load houses.

        Args:
            houses: all houses, in the order of their numbers.
            device: where everything lives.
            view: the camera; None: 64 x 64 pixels, 90 degrees.
            motion: how agents move; None: the defaults.
            sensors: what `render` returns, of `SENSORS`.

        Raises:
            ValueError: no house, houses with cells of different sizes or without floor, or an unknown sensor.
        """
        if not houses:
            raise ValueError("simulator: no house came; at least one is expected")
        cells = sorted({house.cell for house in houses})
        if len(cells) > 1:
            raise ValueError(f"simulator: floors have cells of {cells} m; make all houses with the same `cell`")
        if unknown := [name for name in sensors if name not in SENSORS]:
            raise ValueError(f"simulator: unknown sensor {unknown[0]!r}; choose of {', '.join(SENSORS)}")
        for number, house in enumerate(houses):
            if not house.navigable_IJ.any():
                raise ValueError(f"simulator: house {number} has no navigable floor; leave it out")
        self.houses, self.cell, self.device = len(houses), cells[0], torch.device(device)
        self.view, self.motion, self.sensors = view or View(64, 64), motion or Motion(), tuple(sensors)
        self.view.check()
        rows = [material(made.first, made.second, made.pattern, made.scale) for made in MATERIALS]
        self.scene = pack([house.solids for house in houses], rows, device)
        # House 0 of this one has no solids.
        self._with_nothing = self.scene._replace(first_H1=torch.cat([self.scene.first_H1[:1], self.scene.first_H1]))
        self.grid = (
            max(house.navigable_IJ.shape[0] for house in houses),
            max(house.navigable_IJ.shape[1] for house in houses),
        )
        free_HIJ = np.stack([self._padded(house.navigable_IJ, False) for house in houses])
        free_HC = free_HIJ.reshape(len(houses), -1)
        self.free_HC = torch.from_numpy(free_HC).to(device)
        self._eye_3 = torch.tensor([0.0, self.motion.eye_height, 0.0], device=device)
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
        return Agents(house_B, Pose(position_B3, _wrapped(yaw_B), pitch_B.clamp(*self.motion.pitches)))

    def spawn(self, house_B: Tensor, number_B2: Tensor) -> Agents:
        """Return agents in the middles of navigable cells, all equally likely, that look ahead.

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
        return Agents(house_B, Pose(position_B3, _wrapped(yaw_B), torch.zeros_like(yaw_B)))

    def move(self, agents: Agents, action_B: Tensor) -> tuple[Agents, Tensor]:
        """Let every agent do something."""
        house_B, (position_B3, yaw_B, pitch_B) = agents
        turn_B = (action_B == LEFT).float() - (action_B == RIGHT).float()
        look_B = (action_B == UP).float() - (action_B == DOWN).float()
        yaw_B = _wrapped(yaw_B + turn_B * math.radians(self.motion.turn))
        pitch_B = (pitch_B + look_B * math.radians(self.motion.look)).clamp(*self.motion.pitches)

        length_B = (action_B == FORWARD).float() * self.motion.forward
        x_B, y_B, z_B = position_B3.unbind(1)
        step_x_B, step_z_B = -yaw_B.sin() * length_B, -yaw_B.cos() * length_B
        full_x_B, full_z_B = x_B + step_x_B, z_B + step_z_B
        hit_B = torch.zeros_like(action_B, dtype=torch.bool)
        pieces = max(1, math.ceil(2 * self.motion.forward / self.cell - 1e-6))
        for _ in range(pieces):
            next_B = x_B + step_x_B / pieces
            free_B = self._is_free(house_B, next_B, z_B)
            x_B, hit_B = torch.where(free_B, next_B, x_B), hit_B | ~free_B
            next_B = z_B + step_z_B / pieces
            free_B = self._is_free(house_B, x_B, next_B)
            z_B, hit_B = torch.where(free_B, next_B, z_B), hit_B | ~free_B
        # A free step is exactly a step, whatever the sum of its pieces; rounding may put its end into another cell.
        exact_B = ~hit_B & self._is_free(house_B, full_x_B, full_z_B)
        x_B, z_B = torch.where(exact_B, full_x_B, x_B), torch.where(exact_B, full_z_B, z_B)
        return Agents(house_B, Pose(torch.stack([x_B, y_B, z_B], 1), yaw_B, pitch_B)), hit_B

    def render(self, agents: Agents) -> dict[str, Tensor]:
        """Return what agents see, by sensor."""
        return self._seen(self.scene, agents.house_B, agents.pose)

    def render_some(self, agents: Agents, which_B: Tensor) -> dict[str, Tensor]:
        """Return what some agents see, and 0 for the others, which cost next to nothing."""
        if self.device.type != "cpu":
            # The others look at a house of nothing, so that no size depends on how many they are.
            return self._seen(self._with_nothing, torch.where(which_B, agents.house_B + 1, 0), agents.pose)
        row_K = which_B.nonzero()[:, 0]
        some = self._seen(self.scene, agents.house_B[row_K], Pose(*(part[row_K] for part in agents.pose)))
        return {
            name: part.new_zeros(len(which_B), *part.shape[1:]).index_copy(0, row_K, part)
            for name, part in some.items()
        }

    def geodesic(self, agents: Agents, field_FC: Tensor, which_B: Tensor) -> Tensor:
        """Return the length of the way to the nearest goal: by the best of the nine cells at and around each agent."""
        x_B, _, z_B = agents.pose.position_B3.unbind(1)
        i_B, j_B = (z_B / self.cell).floor().long(), (x_B / self.cell).floor().long()
        ways = []
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                inside_B, cell_B = self._cell(i_B + di, j_B + dj)
                # Only the corners of two cells touch: a way past them would be one through them.
                to_x_B, to_z_B = (j_B + (dj + 0.5)) * self.cell - x_B, (i_B + (di + 0.5)) * self.cell - z_B
                way_B = field_FC[which_B, cell_B] + (to_x_B * to_x_B + to_z_B * to_z_B).sqrt()
                ways.append(torch.where(inside_B, way_B, torch.inf))
        # At a goal the way is 0, not the way to the middle of its cell.
        inside_B, cell_B = self._cell(i_B, j_B)
        there_B = inside_B & (field_FC[which_B, cell_B] == 0)
        return torch.where(there_B, 0.0, torch.stack(ways).amin(0))

    def _seen(self, scene: Scene, house_B: Tensor, pose: Pose) -> dict[str, Tensor]:
        seen = ray_cast(scene, house_B, pose.position_B3 + self._eye_3, pose.yaw_B, pose.pitch_B, self.view)
        by_name = {"rgb": seen.rgb_BIJ3, "depth": seen.depth_BIJ, "semantic": seen.semantic_BIJ}
        return {name: by_name[name] for name in self.sensors}

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


def _wrapped(yaw_B: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return (yaw_B + math.pi).remainder(TURN) - math.pi
