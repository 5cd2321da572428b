"""The definition of ray casting: every ray meets every solid of its house, in the type of the eye.

Every solid is convex, so that a ray is in it from one distance to another. What it shows is where it goes in or, if the
eye is inside, where it comes out. Distances are depths: a ray has length 1 along the optical axis.

Shapes: B cameras, I rows and J columns of pixels, S solids of the largest house, P = I J pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .scene import BOX, CYLINDER, SPHERE, TINY, Scene, Seen, View, rays
from .texture import angle, colour, light

AT_ONCE = 1 << 22
"""Meetings of a ray and a solid that are held at once."""


def ray_cast(scene: Scene, house_B: Tensor, eye_B3: Tensor, yaw_B: Tensor, pitch_B: Tensor, view: View) -> Seen:
    """Return what `mnemic.kernels.ray_cast.ray_cast` says."""
    batch, size = len(house_B), (view.height, view.width)
    at_once = max(1, AT_ONCE // (view.height * view.width * scene.most))
    parts = []
    for first in range(0, max(1, batch), at_once):
        rows = slice(first, first + at_once)
        way_3BP = rays(yaw_B[rows], pitch_B[rows], view).flatten(2)
        parts.append(_cast(scene, house_B[rows], eye_B3[rows], way_3BP, view.far))
    depth_BP, semantic_BP, rgb_BP3 = (torch.cat(part) for part in zip(*parts, strict=True))
    return Seen(depth_BP.view(batch, *size), semantic_BP.view(batch, *size), rgb_BP3.view(batch, *size, 3))


def _cast(scene: Scene, house_B: Tensor, eye_B3: Tensor, way_3BP: Tensor, far: float) -> tuple[Tensor, Tensor, Tensor]:
    first_B, last_B = scene.first_H1[house_B.long()].long(), scene.first_H1[house_B.long() + 1].long()
    solid_BS = first_B[:, None] + torch.arange(scene.most, device=house_B.device)
    real_BS = solid_BS < last_B[:, None]
    solid_BS = torch.where(real_BS, solid_BS, first_B[:, None])
    place_BSC = scene.place_N8.to(eye_B3.dtype)[solid_BS]
    kind_BS = scene.label_N4[solid_BS, 0]
    enter_BSP, leave_BSP = meet(place_BSC[:, :, None], kind_BS[:, :, None], eye_B3[:, None, None], way_3BP[:, :, None])
    depth_BSP = torch.where(enter_BSP > 0, enter_BSP, leave_BSP)
    hit_BSP = (enter_BSP <= leave_BSP) & (leave_BSP > 0) & (depth_BSP <= far) & real_BS[:, :, None]
    depth_BSP = torch.where(hit_BSP, depth_BSP, torch.inf)
    depth_BP, which_BP = depth_BSP.min(1)
    hit_BP = depth_BP < torch.inf
    depth_BP = torch.where(hit_BP, depth_BP, 0.0)
    solid_BP = solid_BS.gather(1, which_BP)
    label_BP4 = scene.label_N4[solid_BP]
    place_BP8 = scene.place_N8.to(eye_B3.dtype)[solid_BP]
    u_BP, v_BP, normal = surface(place_BP8, label_BP4[..., 0], eye_B3[:, None], way_3BP, depth_BP)
    rgb_BP3 = colour(scene.material_MK.to(eye_B3.dtype)[label_BP4[..., 1].long()], u_BP, v_BP, light(normal))
    zero = torch.zeros_like(label_BP4[..., 2])
    return depth_BP, torch.where(hit_BP, label_BP4[..., 2], zero), torch.where(hit_BP[..., None], rgb_BP3, 0)


def local(place: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a direction of the world into the axes of solids."""
    return place[..., 6] * x - place[..., 7] * z, place[..., 7] * x + place[..., 6] * z


def meet(place: Tensor, kind: Tensor, eye: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """Return the depths where rays enter and leave solids; a ray that misses leaves before it enters.

    Args:
        place: (..., 8) of the solids.
        kind: of the solids.
        eye: (..., 3).
        way: (3, ...) directions.
    """
    away = eye - place[..., :3]
    half_x, half_y, half_z = place[..., 3:6].unbind(-1)
    x, z = local(place, away[..., 0], away[..., 2])
    y = away[..., 1]
    way_x, way_z = local(place, way[0], way[2])
    way_y = torch.where(way[1].abs() < TINY, TINY, way[1])

    enter_x, leave_x = _slab(x, way_x, half_x)
    enter_y, leave_y = _slab(y, way_y, half_y)
    enter_z, leave_z = _slab(z, way_z, half_z)
    flat_enter, flat_leave = torch.maximum(enter_x, enter_z), torch.minimum(leave_x, leave_z)

    # Round ones: the foot of the perpendicular first, so that near and far solids lose the same digits.
    ball = kind == SPHERE
    lift, lifted = torch.where(ball, way_y, 0.0), torch.where(ball, y, 0.0)
    square = (way_x * way_x + way_z * way_z + lift * lift).clamp(min=TINY)
    middle = -(x * way_x + z * way_z + lifted * lift) / square
    foot_x, foot_z, foot_y = x + middle * way_x, z + middle * way_z, lifted + middle * lift
    room = (half_x * half_x - foot_x * foot_x - foot_z * foot_z - foot_y * foot_y) / square
    reach = room.clamp(min=0).sqrt()
    missed = room < 0
    round_enter = torch.where(missed, torch.inf, middle - reach)
    round_leave = torch.where(missed, -torch.inf, middle + reach)

    enter = torch.where(kind == BOX, flat_enter, round_enter)
    leave = torch.where(kind == BOX, flat_leave, round_leave)
    enter = torch.where(ball, enter, torch.maximum(enter, enter_y))
    leave = torch.where(ball, leave, torch.minimum(leave, leave_y))
    return enter, leave


def _slab(at: Tensor, way: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    way = torch.where(way.abs() < TINY, TINY, way)
    one, other = (-half - at) / way, (half - at) / way
    return torch.minimum(one, other), torch.maximum(one, other)


def surface(
    place: Tensor, kind: Tensor, eye: Tensor, way: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return where on its surface a solid is hit, (u, v) in metres, and the normal there, towards the eye.

    A box's face counts u and v from its corner, along (z, y), (x, z) or (x, y); a cylinder's side and a sphere count u
    around and v up; the ends of a cylinder count along (x, z).
    """
    point = [eye[..., axis] + depth * way[axis] - place[..., axis] for axis in range(3)]
    half_x, half_y, half_z = place[..., 3:6].unbind(-1)
    x, z = local(place, point[0], point[2])
    y = point[1]
    # The face is the one that the point is nearest to being outside of.
    out_x, out_y, out_z = x.abs() - half_x, y.abs() - half_y, z.abs() - half_z
    box, ball = kind == BOX, kind == SPHERE
    span = (x * x + z * z + torch.where(ball, y * y, 0.0)).sqrt().clamp(min=TINY)
    on_end = torch.where(box, (out_y >= out_x) & (out_y >= out_z), (kind == CYLINDER) & (out_y > span - half_x))
    on_x = box & ~on_end & (out_x >= out_z)
    on_side = ~box & ~on_end

    around = (angle(z, x) + torch.pi) * half_x
    u = torch.where(on_side, around, torch.where(on_x, z + half_z, x + half_x))
    v = torch.where(on_end, z + half_z, y + half_y)

    zero, sign = torch.zeros_like(x), torch.where(x < 0, -1.0, 1.0)
    normal_x = torch.where(on_side, x / span, torch.where(on_x, sign, zero))
    normal_z = torch.where(on_side, z / span, torch.where(on_x | on_end, zero, torch.where(z < 0, -1.0, 1.0)))
    normal_y = torch.where(on_end, torch.where(y < 0, -1.0, 1.0), torch.where(ball, y / span, zero))
    world_x = place[..., 6] * normal_x + place[..., 7] * normal_z
    world_z = place[..., 6] * normal_z - place[..., 7] * normal_x
    away = torch.where(world_x * way[0] + normal_y * way[1] + world_z * way[2] > 0, -1.0, 1.0)
    return u, v, (world_x * away, normal_y * away, world_z * away)
