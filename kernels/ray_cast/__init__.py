"""Depth, labels and colours that cameras see in houses of simple solids, each camera in a house of its own.

Shapes: B cameras, I rows and J columns of pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, Op
from .scene import Scene, Seen, Solids, View, pack
from .texture import PATTERNS, material

__all__ = ["OP", "PATTERNS", "Scene", "Seen", "Solids", "View", "material", "pack", "ray_cast"]

OP = Op(
    "ray_cast",
    __name__,
    {
        "triton": Backend("the rays of a tile of pixels meet the solids in its frustum", triton=True),
        "numba": Backend("faces and round solids are drawn from near to far, row by row, on CPUs"),
        "reference": Backend("every ray meets every solid, the definition"),
    },
)


@torch.no_grad()
def ray_cast(
    scene: Scene,
    house_B: Tensor,
    eye_B3: Tensor,
    yaw_B: Tensor,
    pitch_B: Tensor,
    view: View,
    backend: str | None = None,
) -> Seen:
    """Return what every camera sees of its house. `reference.ray_cast` is the definition.

    A surface is seen from both sides: an eye inside a solid sees it from within.

    Args:
        scene: the houses.
        house_B: (B,) whole: the house of each camera.
        eye_B3: (B, 3) float: where it is, metres.
        yaw_B: (B,) radians, counter-clockwise seen from above; 0 looks along -z.
        pitch_B: (B,) radians, up.
        view: the camera that all have.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Raises:
        ValueError: shapes or devices that do not fit each other, a view that cannot be, or a backend that cannot run.
    """
    view.check()
    batch = len(house_B)
    shapes = [tuple(part.shape) for part in (house_B, eye_B3, yaw_B, pitch_B)]
    if shapes != [(batch,), (batch, 3), (batch,), (batch,)]:
        raise ValueError(f"ray_cast: {shapes} came; house (B,), eye (B, 3), yaw (B,) and pitch (B,) are expected")
    devices = {str(part.device) for part in (house_B, eye_B3, yaw_B, pitch_B, scene.place_N8)}
    if len(devices) > 1:
        raise ValueError(
            f"ray_cast: cameras and houses are on {' and '.join(sorted(devices))}; move them to one device, "
            "houses with scene.to(device)"
        )
    yaw_B, pitch_B = yaw_B.to(eye_B3.dtype), pitch_B.to(eye_B3.dtype)
    found: Seen = OP.pick(backend, eye_B3).ray_cast(scene, house_B, eye_B3, yaw_B, pitch_B, view)
    return found
