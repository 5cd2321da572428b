"""Cylinders and spheres in `tiles`: tested by the planes through the sides of tiles, met as the definition does.

Shapes: P pairs of a tile and what touches it, C = 16 parts of a tile, Q pixels, R round solids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import texture
from .pairs import PARTS, Eyes, Pairs, Things, tile_of
from .reference import surface
from .scene import SPHERE, TINY, Scene, View


def rounds(scene: Scene, eyes: Eyes, view: View, camera_P: Tensor, solid_P: Tensor) -> tuple[Things, Pairs]:
    """Return cylinders and spheres with what their tests need, seen along the camera's yaw."""
    place_P8 = scene.place_N8.to(eyes.eye_B3.dtype).index_select(0, solid_P)
    away_P3 = place_P8[:, :3] - eyes.eye_B3.index_select(0, camera_P)
    turn_P, tilt_P = eyes.yaw_B[camera_P], eyes.pitch_B[camera_P]
    right = away_P3[:, 0] * turn_P.cos() - away_P3[:, 2] * turn_P.sin()
    ahead = -away_P3[:, 0] * turn_P.sin() - away_P3[:, 2] * turn_P.cos()
    up, level, rise = away_P3[:, 1], tilt_P.cos(), tilt_P.sin()
    ball = scene.label_N4[:, 0].index_select(0, solid_P) == SPHERE
    radius, half = place_P8[:, 3], torch.where(ball, 0.0, place_P8[:, 4])
    row_PK = torch.stack(
        [
            right,
            up,
            ahead,
            level,
            rise,
            radius,
            half,
            ball.to(right.dtype),
        ],
        1,
    )
    zero_P = torch.zeros_like(camera_P)
    pairs = Pairs(row_PK, torch.arange(len(camera_P), device=zero_P.device), camera_P, zero_P, zero_P)
    return Things(solid_P, camera_P, None), pairs


def cut(curved: Pairs, size: int, view: View, hidden_T: Tensor) -> Pairs:
    """Return the pairs of the parts with cylinders and spheres, by the planes through the parts' sides."""
    right, up, ahead, level, rise, radius, half, ball = curved.row_PK.t().contiguous()
    depth, height = ahead * level + up * rise, up * level - ahead * rise
    level, rise = torch.where(ball > 0, 1.0, level), torch.where(ball > 0, 0.0, rise)
    step = 2 * view.slope / view.width
    line = torch.arange(PARTS, device=curved.i_P.device)[:, None] * size
    i_4P, j_4P = curved.i_P + line, curved.j_P + line
    column_4P, row_4P = j_4P < view.width, i_4P < view.height
    for sign, pixel_4P in ((1, j_4P + size), (-1, j_4P)):
        x = (pixel_4P - view.width / 2) * step
        reach = radius * (1 + (x * level) ** 2).sqrt() + half * (x * rise).abs()
        column_4P &= sign * (right - x * depth) <= reach
    for sign, pixel_4P in ((1, i_4P), (-1, i_4P + size)):
        y = (view.height / 2 - pixel_4P) * step
        reach = radius * ((rise + y * level) ** 2 + ball).sqrt() + half * (level - y * rise).abs()
        row_4P &= sign * (height - y * depth) <= reach
    nearest = (depth - radius * level - half * rise.abs()).clamp(min=TINY)
    child_P, pair_P = (row_4P[:, None] & column_4P).flatten(0, 1).nonzero().unbind(1)
    part = curved.part(pair_P)
    part = part._replace(i_P=part.i_P + (child_P >> 2) * size, j_P=part.j_P + (child_P & 3) * size)
    seen_P = 1 / nearest.index_select(0, pair_P) >= hidden_T.index_select(0, tile_of(part, size, view))
    return part.part(seen_P.nonzero()[:, 0])


def meet(curved: Pairs, view: View) -> Tensor:
    """Return the inverse depths of round solids in the pixels of tiles, (C, P); 0 where they are missed."""
    right, up, ahead, level, rise, radius, half, ball = curved.row_PK.t().contiguous()
    step = 2 * view.slope / view.width
    child = torch.arange(PARTS**2, device=curved.i_P.device)[:, None]
    x = (curved.j_P + (child & 3) - (view.width - 1) / 2) * step
    y = ((view.height - 1) / 2 - curved.i_P - (child >> 2)) * step
    way_z, way_y = level - y * rise, rise + y * level
    lift, lifted = way_y * ball, up * ball
    per = 1 / (x * x + way_z * way_z + lift * lift).clamp(min=TINY)
    middle = (right * x + ahead * way_z + lifted * lift) * per
    foot_x, foot_z, foot_y = middle * x - right, middle * way_z - ahead, middle * lift - lifted
    room = (radius * radius - foot_x * foot_x - foot_z * foot_z - foot_y * foot_y) * per
    reach = room.clamp(min=0).sqrt()
    # The ends of a cylinder; those of a sphere are out of reach.
    per = 1 / torch.where(way_y.abs() < TINY, TINY, way_y)
    end = half + ball * 1e9
    one, other = (up - end) * per, (up + end) * per
    enter = torch.maximum(middle - reach, torch.minimum(one, other))
    leave = torch.minimum(middle + reach, torch.maximum(one, other))
    depth = torch.where(enter > 0, enter, leave)
    hit = (room >= 0) & (enter <= leave) & (leave > 0) & (depth <= view.far)
    return torch.where(hit, 1 / depth, 0.0)


def paint(scene: Scene, eyes: Eyes, view: View, things: Things, pairs: Pairs, near_CP: Tensor) -> Tensor:
    """Return the colours of round solids in the pixels of tiles, (C, P)."""
    colour_CP = torch.zeros_like(near_CP, dtype=torch.int32)
    child_Q, pair_Q = (near_CP > 0).nonzero().unbind(1)
    thing_Q = pairs.thing_P[pair_Q]
    solid_Q, camera_Q = things.solid_F[thing_Q], things.camera_F[thing_Q]
    step = 2 * view.slope / view.width
    x = (pairs.j_P[pair_Q] + (child_Q & 3) - (view.width - 1) / 2) * step
    y = ((view.height - 1) / 2 - pairs.i_P[pair_Q] - (child_Q >> 2)) * step
    turn, tilt = eyes.yaw_B[camera_Q], eyes.pitch_B[camera_Q]
    ahead, up = tilt.cos() - y * tilt.sin(), tilt.sin() + y * tilt.cos()
    way_3Q = torch.stack([x * turn.cos() - ahead * turn.sin(), up, -x * turn.sin() - ahead * turn.cos()])
    place_Q8, label_Q4 = scene.place_N8.to(near_CP.dtype)[solid_Q], scene.label_N4[solid_Q]
    u, v, normal = surface(place_Q8, label_Q4[:, 0], eyes.eye_B3[camera_Q], way_3Q, 1 / near_CP[child_Q, pair_Q])
    row_QK = scene.material_MK.to(near_CP.dtype)[label_Q4[:, 1].long()]
    red, green, blue = texture.colour(row_QK, u, v, texture.light(normal)).int().unbind(-1)
    colour_CP[child_Q, pair_Q] = red | green << 8 | blue << 16
    return colour_CP
