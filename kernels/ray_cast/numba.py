"""Ray casting for CPUs, compiled by Numba: cameras are shared out to threads. `scanlines` has how one is drawn.

Shapes: B cameras, I rows and J columns of pixels.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from ..backend import installed
from .scene import Scene, Seen, View
from .texture import AMBIENT, DIRECT, LIGHT

PIXELS = 1 << 15
"""A thread is not worth waking for fewer."""
PARTS = 4
"""Cameras are cut into so many parts for each thread, which takes the next one when it is done with one."""


def refusal(like: Tensor) -> str | None:
    """Say why the backend cannot run, or return None."""
    if like.device.type != "cpu":
        return "it is for CPUs"
    if like.dtype != torch.float32:
        return "it computes in float32"
    return None if installed("numba") else "numba is not installed (`pip install numba`)"


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "ray_cast")


# A process that is forked has no threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def ray_cast(scene: Scene, house_B: Tensor, eye_B3: Tensor, yaw_B: Tensor, pitch_B: Tensor, view: View) -> Seen:
    """Return what `reference.ray_cast` returns."""
    from .scanlines import cast  # importing Numba takes its time

    batch, rows, columns = len(house_B), view.height, view.width
    seen = Seen(
        eye_B3.new_empty(batch, rows, columns),
        scene.label_N4.new_empty(batch, rows, columns),
        scene.label_N4.new_empty(batch, rows, columns, 3, dtype=torch.uint8),
    )
    houses = tuple(part.contiguous().numpy() for part in (scene.place_N8, scene.label_N4, scene.material_MK))
    camera = (scene.first_H1[house_B.long()], scene.first_H1[house_B.long() + 1], eye_B3, yaw_B, pitch_B)
    cameras = tuple(part.detach().contiguous().numpy() for part in camera)
    pictures = tuple(part.numpy() for part in seen)
    lens, sun = (view.slope, float(view.far)), (AMBIENT, DIRECT, *LIGHT)

    def draw(part: tuple[int, int]) -> None:
        cast(houses, cameras, lens, sun, part, pictures)

    threads = min(torch.get_num_threads(), batch, batch * rows * columns // PIXELS)
    if threads < 2:
        draw((0, batch))
        return seen
    parts = min(batch, threads * PARTS)
    list(_pool(threads).map(draw, [(batch * k // parts, batch * (k + 1) // parts) for k in range(parts)]))
    return seen
