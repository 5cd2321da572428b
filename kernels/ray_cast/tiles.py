"""Ray casting in PyTorch operations, for CPUs: by faces and tiles in place of rays and solids.

In a pinhole picture the inverse of the depth of a plane is linear in the pixel's row and column, and so are the place
on the plane times that inverse and the distances to the sides of a rectangle. So a face of a box is five linear
functions, known over a whole tile by its middle and its slopes: whether the face misses the tile, covers it, and how
near it is. A picture is cut into 4 x 4 tiles, these again, down to pixels; each tile keeps the
faces that touch it and are not wholly behind one that covers it (Warnock 1969). Of 200 solids, two or so faces are left
in a tile of 4 x 4 pixels, and only those are computed for each pixel. `rounds` has what is not a box.

A column of pixels does not help beyond that: with a pitch its rays lie in a plane that is not upright.

Shapes: B cameras, S solids of the largest house, P pairs of a tile and what touches it, C = 16 parts of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import rounds, texture
from .pairs import PARTS, Eyes, Pairs, Things, inside, tile_of
from .reference import local
from .scene import BOX, Scene, Seen, View

AT_ONCE = 1 << 18
"""Pixels of the cameras that are worked on at once: what is in between stays in a CPU's caches."""
BLOCK = 4096
"""Pairs whose pixels are worked on at once."""
SLACK = 1e-5
"""Faces reach so far beyond their edges, metres: rounding must not open a gap between two that meet."""


def refusal(like: Tensor) -> str | None:
    """Say why the backend cannot run, or return None."""
    return None if like.device.type == "cpu" else "it is for CPUs"


def ray_cast(scene: Scene, house_B: Tensor, eye_B3: Tensor, yaw_B: Tensor, pitch_B: Tensor, view: View) -> Seen:
    """Return what `reference.ray_cast` returns."""
    batch, rows, columns = len(house_B), view.height, view.width
    # Whole tiles are written, and cropped at the end.
    high, wide = -(-rows // PARTS) * PARTS, -(-columns // PARTS) * PARTS
    depth_BIJ = eye_B3.new_empty(batch, high, wide)
    label_BIJ = scene.label_N4.new_empty(batch, high, wide)
    words_BIW = scene.label_N4.new_empty(batch, high, wide * 3 // 4)
    at_once = max(1, AT_ONCE // (rows * columns))
    for first in range(0, batch, at_once):
        part = slice(first, first + at_once)
        eyes = Eyes(house_B[part], eye_B3[part], yaw_B[part], pitch_B[part])
        _cast(scene, eyes, view, (depth_BIJ[part], label_BIJ[part], words_BIW[part]))
    rgb_BIJ3 = words_BIW.view(torch.uint8).view(batch, high, wide, 3)
    return Seen(*(part[:, :rows, :columns].contiguous() for part in (depth_BIJ, label_BIJ, rgb_BIJ3)))


def _cast(scene: Scene, eyes: Eyes, view: View, out: tuple[Tensor, ...]) -> None:
    """Write depths, labels and colours, these four pixels in three words."""
    size = PARTS
    while size < max(view.height, view.width):
        size *= PARTS
    camera_P, solid_P = _candidates(scene, eyes, view)
    flat_P = scene.label_N4[:, 0].index_select(0, solid_P) == BOX
    faces, flat = _faces(scene, eyes, view, camera_P[flat_P], solid_P[flat_P])
    balls, curved = rounds.rounds(scene, eyes, view, camera_P[~flat_P], solid_P[~flat_P])
    while size > PARTS:
        size //= PARTS
        flat, curved = _cut(flat, curved, size, view, len(eyes.house_B))
    _pixels(scene, eyes, view, (faces, flat), (balls, curved), out)


def _candidates(scene: Scene, eyes: Eyes, view: View) -> tuple[Tensor, Tensor]:
    """Return the cameras and the solids in their frustums, by the box around each solid."""
    first_B = scene.first_H1.long()[eyes.house_B.long()]
    count_B = scene.first_H1.long()[eyes.house_B.long() + 1] - first_B
    offset_S = torch.arange(scene.most, device=first_B.device)
    real_BS = offset_S < count_B[:, None]
    solid_BS = torch.where(real_BS, first_B[:, None] + offset_S, first_B[:, None])
    place = scene.place_N8.to(eyes.eye_B3.dtype).index_select(0, solid_BS.flatten())
    place_8BS = place.t().contiguous().view(8, *solid_BS.shape)
    away = [place_8BS[axis] - eyes.eye_B3[:, axis, None] for axis in range(3)]
    half_x, half_y, half_z, cosine, sine = place_8BS[3:]
    cos_yaw, sin_yaw = eyes.yaw_B.cos()[:, None], eyes.yaw_B.sin()[:, None]
    cos_pitch, sin_pitch = eyes.pitch_B.cos()[:, None], eyes.pitch_B.sin()[:, None]
    right = (cos_yaw, torch.zeros_like(cos_yaw), -sin_yaw)
    up = (sin_yaw * sin_pitch, cos_pitch, cos_yaw * sin_pitch)
    ahead = (-sin_yaw * cos_pitch, sin_pitch, -cos_yaw * cos_pitch)
    # How far from the eye along each axis of the camera, and how far the turned box reaches by each of its own.
    x, y, z = (
        (
            away[0] * normal[0] + away[1] * normal[1] + away[2] * normal[2],
            (cosine * normal[0] - sine * normal[2]) * half_x,
            normal[1] * half_y,
            (sine * normal[0] + cosine * normal[2]) * half_z,
        )
        for normal in (right, up, ahead)
    )
    kept_BS = real_BS & (z[0] + z[1].abs() + z[2].abs() + z[3].abs() > 0)
    kept_BS &= z[0] - z[1].abs() - z[2].abs() - z[3].abs() < view.far
    wide, high = view.slope, view.slope * view.height / view.width
    for sideways, slope in ((x, wide), (x, -wide), (y, high), (y, -high)):
        sign = 1 if slope > 0 else -1
        beyond, *reach = (sign * (a - slope * b) for a, b in zip(sideways, z, strict=True))
        kept_BS &= beyond <= reach[0].abs() + reach[1].abs() + reach[2].abs()
    at = kept_BS.flatten().nonzero()[:, 0]
    return at // scene.most, solid_BS.flatten().index_select(0, at)


def _faces(scene: Scene, eyes: Eyes, view: View, camera_P: Tensor, solid_P: Tensor) -> tuple[Things, Pairs]:
    """Return the faces of boxes that look at the eye, as linear functions of the column and row of a pixel.

    A pixel's ray goes right * column + up * row + ahead in the axes of the box; a face is met at the depth where its
    distance is used up by the part of the ray along its normal. See the module for what is linear.
    """
    place_P8 = scene.place_N8.to(eyes.eye_B3.dtype).index_select(0, solid_P)
    away_P3 = eyes.eye_B3.index_select(0, camera_P) - place_P8[:, :3]
    x_P, z_P = local(place_P8, away_P3[:, 0], away_P3[:, 2])
    at_P3 = torch.stack([x_P, away_P3[:, 1], z_P], 1)
    half_P3 = place_P8[:, 3:6]
    way_P33 = _ways(place_P8, eyes, view, camera_P)

    within_P1 = (at_P3.abs() <= half_P3).all(1, keepdim=True)
    upper_P3 = (at_P3 > half_P3) | (within_P1 & (at_P3 < half_P3))
    lower_P3 = (at_P3 < -half_P3) | (within_P1 & (at_P3 > -half_P3))
    pair_F, face_F = torch.cat([upper_P3, lower_P3], 1).nonzero().unbind(1)
    axis_F, sign_F = face_F % 3, 1 - 2 * (face_F // 3)
    # The surface's own axes, as `reference.surface` has them.
    u_F, v_F = axis_F.new_tensor([2, 0, 0])[axis_F], axis_F.new_tensor([1, 2, 1])[axis_F]
    n_F, u_F, v_F = (pair_F * 3 + which for which in (axis_F, u_F, v_F))
    at, half, way = at_P3.flatten(), half_P3.flatten(), way_P33.flatten(0, 1)
    gap_F = sign_F * half[n_F] - at[n_F]
    inverse_F3 = way[n_F] / gap_F[:, None]
    rows = [inverse_F3]
    for side in (u_F, v_F):
        low_F3 = (half[side] + at[side] + SLACK)[:, None] * inverse_F3 + way[side]
        rows += [low_F3, (2 * half[side] + 2 * SLACK)[:, None] * inverse_F3 - low_F3]
    row_F15 = torch.stack(rows, 1).flatten(1)

    camera_F, solid_F = camera_P[pair_F], solid_P[pair_F]
    place_F8 = place_P8[pair_F]
    # Towards the eye, which is the other way where the eye is within.
    towards_F = torch.where(within_P1[:, 0], -1, 1)[pair_F] * sign_F
    flat_3F = [(axis_F == axis) * towards_F for axis in range(3)]
    normal_x = place_F8[:, 6] * flat_3F[0] + place_F8[:, 7] * flat_3F[2]
    normal_z = place_F8[:, 6] * flat_3F[2] - place_F8[:, 7] * flat_3F[0]
    zero_F = torch.zeros_like(camera_F)
    things = Things(solid_F, camera_F, torch.stack([normal_x, flat_3F[1].to(normal_x.dtype), normal_z]))
    return things, Pairs(row_F15, torch.arange(len(camera_F), device=zero_F.device), camera_F, zero_F, zero_F)


def _ways(place_P8: Tensor, eyes: Eyes, view: View, camera_P: Tensor) -> Tensor:
    """Return the rays in the axes of solids, (P, axis, 3): by column, by row, and at the first pixel."""
    turn_P, tilt_P = eyes.yaw_B[camera_P], eyes.pitch_B[camera_P]
    cos_yaw, sin_yaw, level, rise = turn_P.cos(), turn_P.sin(), tilt_P.cos(), tilt_P.sin()
    cosine, sine = place_P8[:, 6], place_P8[:, 7]
    # The camera's yaw seen from the box.
    cos_P, sin_P = cos_yaw * cosine + sin_yaw * sine, sin_yaw * cosine - cos_yaw * sine
    zero = torch.zeros_like(cos_P)
    x = torch.stack([cos_P, rise * sin_P, -level * sin_P], 1)
    y = torch.stack([zero, level, rise], 1)
    z = torch.stack([-sin_P, rise * cos_P, -level * cos_P], 1)
    way_P33 = torch.stack([x, y, z], 1)
    step = 2 * view.slope / view.width
    left, top = -(view.width - 1) / 2 * step, (view.height - 1) / 2 * step
    first_P3 = way_P33[..., 0] * left + way_P33[..., 1] * top + way_P33[..., 2]
    return torch.stack([way_P33[..., 0] * step, way_P33[..., 1] * -step, first_P3], 2)


def _spread(pairs: Pairs, size: int, functions: Sequence[int] = range(5)) -> Tensor:
    """Return functions of faces in the middles of the parts of their tiles, (functions, C, P)."""
    row_3FP = pairs.row_PK.view(-1, 5, 3)[:, list(functions)].permute(2, 1, 0).contiguous()
    line = torch.arange(PARTS, device=pairs.i_P.device, dtype=row_3FP.dtype)[:, None] * size + (size - 1) / 2
    column_F4P = row_3FP[2][:, None] + row_3FP[0][:, None] * line
    row_F4P = row_3FP[1][:, None] * line
    return (row_F4P[:, :, None] + column_F4P[:, None]).flatten(1, 2)


def _least(value_5CP: Tensor) -> Tensor:
    """Return the least of the four functions that are above 0 on a face."""
    return torch.minimum(torch.minimum(value_5CP[1], value_5CP[2]), torch.minimum(value_5CP[3], value_5CP[4]))


def _cut(flat: Pairs, curved: Pairs, size: int, view: View, batch: int) -> tuple[Pairs, Pairs]:
    """Return the pairs of the parts, `size` pixels wide, of all tiles, without what is not seen there."""
    value_5CP = _spread(flat, size)
    reach_P5 = flat.row_PK.view(-1, 5, 3)[:, :, :2].abs().sum(2) * ((size - 1) / 2)
    value_5CP += reach_P5.t().contiguous()[:, None]
    kept_CP = torch.minimum(_least(value_5CP), value_5CP[0] - 1 / view.far) >= 0
    if (inside_CP := inside(flat, size, view)) is not None:
        kept_CP &= inside_CP
    child_P, pair_P = kept_CP.nonzero().unbind(1)
    part = Pairs(
        flat.row_PK,
        flat.thing_P,
        flat.camera_P.index_select(0, pair_P),
        flat.i_P.index_select(0, pair_P) + (child_P >> 2) * size,
        flat.j_P.index_select(0, pair_P) + (child_P & 3) * size,
    )
    # What covers a tile hides what is behind its farthest corner there.
    high_5P = value_5CP.flatten(1).index_select(1, child_P * len(flat.i_P) + pair_P)
    low_5P = high_5P - 2 * reach_P5.index_select(0, pair_P).t()
    tile_P = tile_of(part, size, view)
    hidden_T = low_5P.new_zeros(batch * -(-view.height // size) * -(-view.width // size))
    hidden_T.scatter_reduce_(0, tile_P, low_5P[0] * (low_5P.amin(0) >= 0), "amax")
    hidden_T *= 1 - 1e-5
    seen_P = (high_5P[0] >= hidden_T.index_select(0, tile_P)).nonzero()[:, 0]
    pair_P = pair_P.index_select(0, seen_P)
    i_P, j_P = part.i_P.index_select(0, seen_P), part.j_P.index_select(0, seen_P)
    return _moved(flat, pair_P, i_P, j_P), rounds.cut(curved, size, view, hidden_T)


def _moved(flat: Pairs, pair_P: Tensor, i_P: Tensor, j_P: Tensor) -> Pairs:
    """Return pairs of parts, whose functions start at the first pixels of the parts."""
    part = flat.part(pair_P)
    row_P53 = part.row_PK.view(-1, 5, 3)
    row_P53[..., 2] += row_P53[..., 0] * (j_P - part.j_P)[:, None] + row_P53[..., 1] * (i_P - part.i_P)[:, None]
    return part._replace(i_P=i_P, j_P=j_P)


def _pixels(
    scene: Scene,
    eyes: Eyes,
    view: View,
    faces: tuple[Things, Pairs],
    balls: tuple[Things, Pairs],
    out: tuple[Tensor, ...],
) -> None:
    """Write the pictures: in each pixel the nearest of what touches its tile."""
    (_, flat), (_, curved) = faces, balls
    near_CP = torch.cat([_near(flat.part(block_P), view) for block_P in _blocks(len(flat.i_P), flat.i_P)], 1)
    near_CR = rounds.meet(curved, view)
    batch = len(eyes.house_B)
    across, down = -(-view.width // PARTS), -(-view.height // PARTS)
    tiles = batch * down * across
    best_CT = near_CP.new_zeros(PARTS**2, tiles)
    found = [(pairs, near, tile_of(pairs, PARTS, view)) for pairs, near in ((flat, near_CP), (curved, near_CR))]
    for _, near, tile in found:
        best_CT.scatter_reduce_(1, tile.expand_as(near), near, "amax")

    # One place more takes what is not seen.
    depth_CT = near_CP.new_zeros(PARTS**2, tiles + 1)
    label_CT, colour_CT = (torch.zeros_like(depth_CT, dtype=torch.int32) for _ in range(2))
    for (things, _), (pairs, near, tile) in zip((faces, balls), found, strict=True):
        won = (near == best_CT.index_select(1, tile)) & (near > 0)
        # The last to be written stays: of solids at one depth the first, as in the definition.
        some_P = won.any(0).nonzero()[:, 0].flip(0)
        pairs, near, won, tile = (pairs.part(some_P), near[:, some_P], won[:, some_P], tile[some_P])
        to_CP = tiles - won * (tiles - tile)
        label_P = scene.label_N4[:, 2].index_select(0, things.solid_F.index_select(0, pairs.thing_P))
        depth_CT.scatter_(1, to_CP, near.reciprocal())
        label_CT.scatter_(1, to_CP, label_P.expand_as(near))
        if things.normal_3F is None:
            colour_CT.scatter_(1, to_CP, rounds.paint(scene, eyes, view, things, pairs, near * won))
            continue
        row_FK = _shaded(scene, things, near.dtype)
        for block_P in _blocks(len(some_P), some_P):
            colour_CT.scatter_(1, to_CP[:, block_P], _paint(row_FK, pairs.part(block_P)))
    # Four colours of three bytes are three words.
    one, two, three, four = colour_CT.view(PARTS, PARTS, -1).unbind(1)
    words = torch.stack([one | two << 24, two >> 8 | three << 16, three >> 16 | four << 8], 1)
    for to, parts in zip(out, (depth_CT, label_CT, words), strict=True):
        parts = parts.reshape(PARTS, -1, tiles + 1)[..., :-1].reshape(PARTS, -1, batch, down, across)
        # (row, column, camera, tile down, tile across) in the order of a picture.
        to.view(batch, down, PARTS, across, -1).copy_(parts.permute(2, 3, 0, 4, 1))


def _blocks(count: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return numbers of pairs in blocks whose pixels stay in a CPU's cache."""
    return torch.split(torch.arange(count, device=like.device), BLOCK)


def _near(flat: Pairs, view: View) -> Tensor:
    """Return the inverse depths of faces in the pixels of their tiles, (C, P); 0 where they are missed."""
    value_5CP = _spread(flat, 1)
    touch_CP = torch.minimum(_least(value_5CP), value_5CP[0] - 1 / view.far)
    # Products in place of selections, here and below: those cost a CPU many times more.
    return value_5CP[0] * (touch_CP >= 0)


def _shaded(scene: Scene, things: Things, dtype: torch.dtype) -> Tensor:
    """Return the materials of faces with their colours in the light, (F, K)."""
    assert things.normal_3F is not None
    material_F = scene.label_N4[:, 1].index_select(0, things.solid_F)
    row_FK = scene.material_MK.to(dtype).index_select(0, material_F)
    row_FK[:, :6] *= texture.light(things.normal_3F.unbind(0))[:, None]
    return row_FK


def _paint(row_FK: Tensor, pairs: Pairs) -> Tensor:
    """Return the colours of faces in the pixels of their tiles, (C, P), a byte for each part of a colour."""
    row_KP = row_FK.index_select(0, pairs.thing_P).t().contiguous()
    near_CP, u_CP, v_CP = _spread(pairs, 1, (0, 1, 3))
    far_CP = near_CP.reciprocal_()
    share_CP = texture.share(row_KP[6:15].unbind(0), u_CP.mul_(far_CP), v_CP.mul_(far_CP))
    red, green, blue = (torch.addcmul(row_KP[k] + 0.5, share_CP, row_KP[3 + k]).to(torch.int32) for k in range(3))
    colour_CP: Tensor = red | green << 8 | blue << 16
    return colour_CP
