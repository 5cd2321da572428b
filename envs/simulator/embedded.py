"""The simulator of this package: thousands of agents at once, rays cast into solids, floors as grids of cells.

An agent is an upright cylinder whose centre stays in the navigable cells of its house, in whose middles there is room
for its radius: at the edge of one it can be nearer to a wall, by up to half the diagonal of a cell.
A step is made in pieces shorter than a cell, each first along x and then along z, and what a piece would leave the
cells by is not done: so an agent slides along a wall by as much of its step as points along it, never cuts a corner,
and from wherever it gets there is a way to wherever there was one. Without sliding it stops before the first piece that
would leave the cells.

`move`, `spawn`, `render` and `geodesic` do not look at their tensors on a CUDA device, and their sizes do not depend
on what happens, so that a CUDA graph can hold them.

Shapes: B agents, H houses, I rows and J columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.ray_cast import Scene, View, material, pack, ray_cast
from ..houses import MATERIALS, House
from .base import FORWARD, SENSORS, Agents, Motion, Pose
from .floors import Floors


class Embedded(Floors):
    """Houses on a device."""

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
        cells = sorted({house.cell for house in houses})
        if len(cells) > 1:
            raise ValueError(f"simulator: floors have cells of {cells} m; make all houses with the same `cell`")
        if unknown := [name for name in sensors if name not in SENSORS]:
            raise ValueError(f"simulator: unknown sensor {unknown[0]!r}; choose of {', '.join(SENSORS)}")
        self._lay([house.navigable_IJ for house in houses], cells[0] if cells else 0.0, device)
        self.view, self.motion, self.sensors = view or View(64, 64), motion or Motion(), tuple(sensors)
        self.view.check()
        rows = [material(made.first, made.second, made.pattern, made.scale) for made in MATERIALS]
        self.scene = pack([house.solids for house in houses], rows, device)
        # House 0 of this one has no solids.
        self._with_nothing = self.scene._replace(first_H1=torch.cat([self.scene.first_H1[:1], self.scene.first_H1]))
        self._eye_3 = torch.tensor([0.0, self.motion.eye_height, 0.0], device=device)

    def move(self, agents: Agents, action_B: Tensor) -> tuple[Agents, Tensor]:
        """Let every agent do something."""
        house_B, position_B3 = agents.house_B, agents.pose.position_B3
        yaw_B, pitch_B = self._turned(agents.pose, action_B)

        length_B = (action_B == FORWARD).float() * self.motion.forward
        x_B, y_B, z_B = position_B3.unbind(1)
        step_x_B, step_z_B = -yaw_B.sin() * length_B, -yaw_B.cos() * length_B
        full_x_B, full_z_B = x_B + step_x_B, z_B + step_z_B
        hit_B = torch.zeros_like(action_B, dtype=torch.bool)
        pieces = max(1, math.ceil(2 * self.motion.forward / self.cell - 1e-6))
        for _ in range(pieces):
            next_x_B, next_z_B = x_B + step_x_B / pieces, z_B + step_z_B / pieces
            free_x_B = self._is_free(house_B, next_x_B, z_B)
            if self.motion.sliding:
                x_B = torch.where(free_x_B, next_x_B, x_B)
                free_z_B = self._is_free(house_B, x_B, next_z_B)
                z_B, hit_B = torch.where(free_z_B, next_z_B, z_B), hit_B | ~(free_x_B & free_z_B)
            else:
                hit_B = hit_B | ~(free_x_B & self._is_free(house_B, next_x_B, next_z_B))
                x_B, z_B = torch.where(hit_B, x_B, next_x_B), torch.where(hit_B, z_B, next_z_B)
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

    def _seen(self, scene: Scene, house_B: Tensor, pose: Pose) -> dict[str, Tensor]:
        seen = ray_cast(scene, house_B, pose.position_B3 + self._eye_3, pose.yaw_B, pose.pitch_B, self.view)
        by_name = {"rgb": seen.rgb_BIJ3, "depth": seen.depth_BIJ, "semantic": seen.semantic_BIJ}
        return {name: by_name[name] for name in self.sensors}
