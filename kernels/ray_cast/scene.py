"""What rays are cast into and what comes back: houses packed into one table of solids, and a pinhole camera.

Coordinates are metres, right-handed, y up; yaw is counter-clockwise seen from above and 0 looks along -z; pitch is up.

Shapes: N solids of all houses, S solids of one, H houses, M materials, B cameras, I rows and J columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .texture import COLUMNS

BOX, CYLINDER, SPHERE = range(3)
TINY = 1e-20
"""In place of a direction's part that is 0: a quotient by it is far beyond any house, and 0 by it is 0."""


class Solids(Protocol):
    """The solids of one house."""

    @property
    def kind_S(self) -> Tensor:
        """(S,) whole: 0 box, 1 upright cylinder, 2 sphere."""

    @property
    def centre_S3(self) -> Tensor:
        """(S, 3) float, metres."""

    @property
    def half_S3(self) -> Tensor:
        """(S, 3) float, metres: half extents; radius, half height, radius; three times the radius."""

    @property
    def yaw_S(self) -> Tensor:
        """(S,) float, radians: how far a box is turned."""

    @property
    def material_S(self) -> Tensor:
        """(S,) whole: a row of the materials."""

    @property
    def semantic_S(self) -> Tensor:
        """(S,) whole: what a semantic picture shows."""


class Scene(NamedTuple):
    """Houses, one behind the other."""

    place_N8: Tensor
    """(N, 8) float32: centre (3), half extents (3), cosine and sine of the yaw."""
    label_N4: Tensor
    """(N, 4) int32: kind, material, semantic id, and 1 for a box that is not turned."""
    first_H1: Tensor
    """(H + 1,) int32: where each house begins, and the end."""
    material_MK: Tensor
    """(M, 16) float32: rows as of `texture.material`."""
    most: int
    """Solids of the largest house."""

    def to(self, device: torch.device | str) -> Scene:
        """Return it on a device."""
        place_N8, label_N4, first_H1, material_MK = (part.to(device) for part in self[:4])
        return Scene(place_N8, label_N4, first_H1, material_MK, self.most)


class View(NamedTuple):
    """A pinhole camera with square pixels, whose centres lie at i + 0.5."""

    height: int
    width: int
    hfov: float = 90.0
    """Degrees from the left edge to the right."""
    far: float = 100.0
    """The greatest depth, metres; what is beyond it is not seen."""

    @property
    def slope(self) -> float:
        """The tangent of half the field of view."""
        return math.tan(math.radians(self.hfov) / 2)

    def check(self) -> None:
        """Refuse what is no camera.

        Raises:
            ValueError: a size below 1, a field of view outside (0, 180), or nothing in reach.
        """
        if self.height < 1 or self.width < 1:
            raise ValueError(f"view: {self.height} x {self.width} pixels; at least 1 x 1 are expected")
        if not 0 < self.hfov < 180:
            raise ValueError(f"view: hfov is {self.hfov}; degrees between 0 and 180 are expected")
        if not self.far > 0:
            raise ValueError(f"view: far is {self.far}; metres above 0 are expected")


class Seen(NamedTuple):
    """What B cameras see; 0 everywhere where nothing is hit."""

    depth_BIJ: Tensor
    """(B, I, J) float: metres along the optical axis."""
    semantic_BIJ: Tensor
    """(B, I, J) int32."""
    rgb_BIJ3: Tensor
    """(B, I, J, 3) uint8."""


def pack(houses: Sequence[Solids], materials: Sequence[Sequence[float]], device: torch.device | str = "cpu") -> Scene:
    """Put houses into one table.

    Args:
        houses: the solids of each.
        materials: rows of `texture.material`, which all houses share.
        device: where it goes.

    Raises:
        ValueError: no house, a house without solids, or a kind, size or material that cannot be.
    """
    if not houses:
        raise ValueError("pack: no house came; at least one is expected")
    sizes = [len(house.kind_S) for house in houses]
    if min(sizes) == 0:
        raise ValueError(f"pack: house {sizes.index(0)} has no solids; at least one is expected")
    kind_N, material_N, semantic_N = (
        torch.cat([getattr(house, name) for house in houses]).cpu().int()
        for name in ("kind_S", "material_S", "semantic_S")
    )
    centre_N3, half_N3, yaw_N = (
        torch.cat([getattr(house, name) for house in houses]).cpu().double()
        for name in ("centre_S3", "half_S3", "yaw_S")
    )
    table_MK = torch.tensor([list(row) for row in materials], dtype=torch.float32)
    if table_MK.ndim != 2 or table_MK.shape[1] != COLUMNS:
        raise ValueError(f"pack: materials are {tuple(table_MK.shape)}; rows of texture.material are expected")
    if len(wrong := kind_N[(kind_N < BOX) | (kind_N > SPHERE)]):
        raise ValueError(f"pack: a kind is {int(wrong[0])}; 0 box, 1 cylinder and 2 sphere are known")
    if len(wrong := material_N[(material_N < 0) | (material_N >= len(table_MK))]):
        raise ValueError(f"pack: a solid has material {int(wrong[0])}; there are {len(table_MK)}, from 0")
    if not (half_N3 > 0).all() or not centre_N3.isfinite().all():
        raise ValueError(
            "pack: a solid has no extent or no place; half extents above 0 and finite centres are expected"
        )
    # Quarter turns are exact, so that a turned wall is as flat as another.
    turn_N2 = torch.stack([yaw_N.cos(), yaw_N.sin()], 1)
    turn_N2 = torch.where(turn_N2.abs() < 1e-7, 0.0, turn_N2)
    straight_N = (kind_N == BOX) & (turn_N2[:, 0] == 1)
    turn_N2 = torch.where((kind_N == BOX)[:, None], turn_N2, turn_N2.new_tensor([1.0, 0.0]))
    first_H1 = torch.tensor([0, *sizes]).cumsum(0).int()
    label_N4 = torch.stack([kind_N, material_N, semantic_N, straight_N.int()], 1)
    place_N8 = torch.cat([centre_N3, half_N3, turn_N2], 1).float()
    return Scene(place_N8, label_N4, first_H1, table_MK, max(sizes)).to(device)


def rays(yaw_B: Tensor, pitch_B: Tensor, view: View) -> Tensor:
    """Return the direction of each pixel, (3, B, I, J), of length 1 along the optical axis: its factor is the depth."""
    step = 2 * view.slope / view.width
    x_J = (torch.arange(view.width, device=yaw_B.device, dtype=yaw_B.dtype) - (view.width - 1) / 2) * step
    y_I1 = ((view.height - 1) / 2 - torch.arange(view.height, device=yaw_B.device, dtype=yaw_B.dtype))[:, None] * step
    turn_B, side_B = yaw_B.cos()[:, None, None], yaw_B.sin()[:, None, None]
    level_B, rise_B = pitch_B.cos()[:, None, None], pitch_B.sin()[:, None, None]
    ahead = (level_B - y_I1 * rise_B).expand(-1, -1, view.width)
    up = (rise_B + y_I1 * level_B).expand(-1, -1, view.width)
    return torch.stack([x_J * turn_B - ahead * side_B, up, -x_J * side_B - ahead * turn_B])
