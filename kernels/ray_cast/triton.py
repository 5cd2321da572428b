"""Ray casting in Triton: a tile of pixels first drops the solids outside its frustum, then its rays meet the rest.

Why tiles and not a walk of each ray over a grid of the floor: a walk makes neighbouring rays wait for each other and
fetch different solids, while the rays of a tile fetch the same solid once, as scalars, and never diverge. What a ray
costs, counted in operations of one lane, in houses of 200 solids at 64 x 64 and 90 degrees:

  culling     256 solids x about 80 per tile of 256 rays        80
  meeting     about 20 solids in a tile's frustum x 25 to 45   700
  surface     normal, texture, colour, once                    120
  total       about 900 operations, 11 bytes written, under 1 byte read from memory

4.1e9 rays a second (a million frames of 64 x 64) are thus 3.7e12 operations and 45 GB a second: an eighth of the 3e13
operations that the lanes of an H100 can issue, and 2 % of its memory's bandwidth. Brute force over 200 solids would be
6,000 operations a ray, most of what the device has.

Shapes: S solids that are looked at at once, P pixels of a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .scene import Scene, Seen, View
from .texture import AMBIENT, DIRECT, LIGHT

TILE = 16
"""Pixels of a tile's side."""
MOST = 1 << 15
"""Solids of one house, at most: lists hold 16-bit numbers."""


def refusal(like: Tensor) -> str | None:
    """Say why the kernel cannot run, or return None."""
    return "it computes in float32" if like.dtype != torch.float32 else None


@triton.jit
def _axes(yaw, pitch, camera):
    """Return the sine and cosine of the camera's yaw and pitch."""
    turn, tilt = tl.load(yaw + camera), tl.load(pitch + camera)
    return tl.cos(turn), tl.sin(turn), tl.cos(tilt), tl.sin(tilt)


@triton.jit
def _beyond(x, y, z, half_x, half_y, half_z, cosine, sine, normal_x, normal_y, normal_z):
    """Say which boxes lie wholly on the side of a plane through the eye that its normal points to."""
    reach = tl.abs(cosine * normal_x - sine * normal_z) * half_x + tl.abs(normal_y) * half_y
    reach += tl.abs(sine * normal_x + cosine * normal_z) * half_z
    return normal_x * x + normal_y * y + normal_z * z > reach


@triton.jit
def _cull(
    place, first, house, eye, yaw, pitch, listed, counted,
    rows, columns, tiles_across, tiles, most, step, far, TILE: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    camera, tile = program // tiles, (program % tiles).to(tl.int32)
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = _axes(yaw, pitch, camera)
    # The frustum goes half a pixel beyond the outer rays, which rounding does not reach.
    left = (tile % tiles_across * TILE - columns * 0.5) * step
    right = left + TILE * step
    top = (rows * 0.5 - tile // tiles_across * TILE) * step
    bottom = top - TILE * step
    ahead_x, ahead_y, ahead_z = -sin_yaw * cos_pitch, sin_pitch, -cos_yaw * cos_pitch
    up_x, up_y, up_z = sin_yaw * sin_pitch, cos_pitch, cos_yaw * sin_pitch
    which = tl.load(house + camera)
    begin, end = tl.load(first + which), tl.load(first + which + 1)
    eye_x, eye_y, eye_z = tl.load(eye + camera * 3), tl.load(eye + camera * 3 + 1), tl.load(eye + camera * 3 + 2)
    offset_S = tl.arange(0, BLOCK_S)
    count = 0
    for at in range(0, end - begin, BLOCK_S):
        solid_S = begin + at + offset_S
        real_S = solid_S < end
        from_S = place + solid_S * 8
        x_S = tl.load(from_S, real_S, other=0.0) - eye_x
        y_S = tl.load(from_S + 1, real_S, other=0.0) - eye_y
        z_S = tl.load(from_S + 2, real_S, other=0.0) - eye_z
        half_x = tl.load(from_S + 3, real_S, other=0.0)
        half_y = tl.load(from_S + 4, real_S, other=0.0)
        half_z = tl.load(from_S + 5, real_S, other=0.0)
        cos_S = tl.load(from_S + 6, real_S, other=1.0)
        sin_S = tl.load(from_S + 7, real_S, other=0.0)
        out_S = ~real_S
        out_S |= _beyond(
            x_S, y_S, z_S, half_x, half_y, half_z, cos_S, sin_S,
            cos_yaw - right * ahead_x, -right * ahead_y, -sin_yaw - right * ahead_z,
        )  # fmt: skip
        out_S |= _beyond(
            x_S, y_S, z_S, half_x, half_y, half_z, cos_S, sin_S,
            left * ahead_x - cos_yaw, left * ahead_y, left * ahead_z + sin_yaw,
        )  # fmt: skip
        out_S |= _beyond(
            x_S, y_S, z_S, half_x, half_y, half_z, cos_S, sin_S,
            up_x - top * ahead_x, up_y - top * ahead_y, up_z - top * ahead_z,
        )  # fmt: skip
        out_S |= _beyond(
            x_S, y_S, z_S, half_x, half_y, half_z, cos_S, sin_S,
            bottom * ahead_x - up_x, bottom * ahead_y - up_y, bottom * ahead_z - up_z,
        )  # fmt: skip
        out_S |= _beyond(x_S, y_S, z_S, half_x, half_y, half_z, cos_S, sin_S, -ahead_x, -ahead_y, -ahead_z)
        out_S |= _beyond(
            x_S - far * ahead_x, y_S - far * ahead_y, z_S - far * ahead_z, half_x, half_y, half_z, cos_S, sin_S,
            ahead_x, ahead_y, ahead_z,
        )  # fmt: skip
        in_S = (~out_S).to(tl.int32)
        slot_S = count + tl.cumsum(in_S, 0) - 1
        tl.store(listed + program * most + slot_S, (at + offset_S).to(tl.int16), in_S != 0)
        count += tl.sum(in_S, 0)
    tl.store(counted + program, count)


@triton.jit
def _slab(at, way, half):
    """Return the depths between two parallel faces."""
    per = 1.0 / tl.where(tl.abs(way) < 1e-20, 1e-20, way)
    one, other = (-half - at) * per, (half - at) * per
    return tl.minimum(one, other), tl.maximum(one, other)


@triton.jit
def _angle(y, x):
    """Return what `texture.angle` does."""
    wide, high = tl.abs(x), tl.abs(y)
    ratio = tl.minimum(wide, high) / tl.maximum(tl.maximum(wide, high), 1e-20)
    square = ratio * ratio
    turn = ratio * (
        0.9998660 + square * (-0.3302995 + square * (0.1801410 + square * (-0.0851330 + square * 0.0208351)))
    )
    turn = tl.where(high > wide, 1.5707964 - turn, turn)
    turn = tl.where(x < 0, 3.1415927 - turn, turn)
    return tl.where(y < 0, -turn, turn)


@triton.jit
def _share(row, u, v):
    """Return what `texture.share` does; `row` points to rows of materials."""
    v *= tl.load(row + 7)
    line = tl.floor(v)
    u = u * tl.load(row + 6) + line * tl.load(row + 8)
    cell = tl.floor(u)
    odd = (line * tl.load(row + 11) + cell * tl.load(row + 12)).to(tl.int32) & 1
    bits = (cell.to(tl.int32) * 7919 + line.to(tl.int32) * 6007) & 0x7FFF
    bits = ((bits * 30011) >> 7) & 0x7FFF
    bits = ((bits * 24593) >> 6) & 0xFF
    mixed = odd.to(tl.float32) * tl.load(row + 13) + bits.to(tl.float32) * (1 / 255.0) * tl.load(row + 14)
    return tl.where((u - cell < tl.load(row + 9)) | (v - line < tl.load(row + 10)), 1.0, mixed)


@triton.jit
def _cast(
    place, label, first, material, house, eye, yaw, pitch, listed, counted, depth, semantic, rgb,
    rows, columns, tiles_across, tiles, most, step, far,
    AMBIENT: tl.constexpr, DIRECT: tl.constexpr, LIGHT_X: tl.constexpr, LIGHT_Y: tl.constexpr, LIGHT_Z: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    camera, tile = program // tiles, (program % tiles).to(tl.int32)
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = _axes(yaw, pitch, camera)
    eye_x, eye_y, eye_z = tl.load(eye + camera * 3), tl.load(eye + camera * 3 + 1), tl.load(eye + camera * 3 + 2)
    begin = tl.load(first + tl.load(house + camera))

    offset_P = tl.arange(0, TILE * TILE)
    i_P, j_P = tile // tiles_across * TILE + offset_P // TILE, tile % tiles_across * TILE + offset_P % TILE
    right_P = (j_P - (columns - 1) * 0.5) * step
    up_P = ((rows - 1) * 0.5 - i_P) * step
    ahead_P = cos_pitch - up_P * sin_pitch
    way_x, way_y = right_P * cos_yaw - ahead_P * sin_yaw, sin_pitch + up_P * cos_pitch
    way_z = -right_P * sin_yaw - ahead_P * cos_yaw
    # Not turned boxes share these.
    per_x = 1.0 / tl.where(tl.abs(way_x) < 1e-20, 1e-20, way_x)
    per_y = 1.0 / tl.where(tl.abs(way_y) < 1e-20, 1e-20, way_y)
    per_z = 1.0 / tl.where(tl.abs(way_z) < 1e-20, 1e-20, way_z)

    best_P = tl.zeros([TILE * TILE], tl.float32) + float("inf")
    who_P = tl.zeros([TILE * TILE], tl.int32) - 1
    count = tl.load(counted + program)
    for k in range(0, count):
        solid = begin + tl.load(listed + program * most + k).to(tl.int32)
        at = place + solid * 8
        x, y, z = eye_x - tl.load(at), eye_y - tl.load(at + 1), eye_z - tl.load(at + 2)
        half_x, half_y, half_z = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
        kind, straight = tl.load(label + solid * 4), tl.load(label + solid * 4 + 3)
        one, other = (-half_y - y) * per_y, (half_y - y) * per_y
        enter_P, leave_P = tl.minimum(one, other), tl.maximum(one, other)
        if straight != 0:
            one, other = (-half_x - x) * per_x, (half_x - x) * per_x
            enter_P, leave_P = tl.maximum(enter_P, tl.minimum(one, other)), tl.minimum(leave_P, tl.maximum(one, other))
            one, other = (-half_z - z) * per_z, (half_z - z) * per_z
            enter_P, leave_P = tl.maximum(enter_P, tl.minimum(one, other)), tl.minimum(leave_P, tl.maximum(one, other))
        elif kind == 0:
            cosine, sine = tl.load(at + 6), tl.load(at + 7)
            one, other = _slab(cosine * x - sine * z, cosine * way_x - sine * way_z, half_x)
            enter_P, leave_P = tl.maximum(enter_P, one), tl.minimum(leave_P, other)
            one, other = _slab(sine * x + cosine * z, sine * way_x + cosine * way_z, half_z)
            enter_P, leave_P = tl.maximum(enter_P, one), tl.minimum(leave_P, other)
        else:
            ball = (kind == 2).to(tl.float32)
            lift, lifted = way_y * ball, y * ball
            per = 1.0 / tl.maximum(way_x * way_x + way_z * way_z + lift * lift, 1e-20)
            middle = -(x * way_x + z * way_z + lifted * lift) * per
            foot_x, foot_z, foot_y = x + middle * way_x, z + middle * way_z, lifted + middle * lift
            room = (half_x * half_x - foot_x * foot_x - foot_z * foot_z - foot_y * foot_y) * per
            reach = tl.sqrt(tl.maximum(room, 0.0))
            # The slab above is for the ends of a cylinder; a sphere has none.
            one = tl.where(room < 0, float("inf"), middle - reach)
            enter_P = tl.where(kind == 2, one, tl.maximum(enter_P, one))
            leave_P = tl.where(kind == 2, middle + reach, tl.minimum(leave_P, middle + reach))
        found_P = tl.where(enter_P > 0, enter_P, leave_P)
        nearer_P = (enter_P <= leave_P) & (leave_P > 0) & (found_P <= far) & (found_P < best_P)
        best_P = tl.where(nearer_P, found_P, best_P)
        who_P = tl.where(nearer_P, solid, who_P)

    hit_P = who_P >= 0
    depth_P = tl.where(hit_P, best_P, 0.0)
    who_P = tl.where(hit_P, who_P, begin)
    at = place + who_P * 8
    kind_P = tl.load(label + who_P * 4)
    x_P = eye_x + depth_P * way_x - tl.load(at)
    y_P = eye_y + depth_P * way_y - tl.load(at + 1)
    z_P = eye_z + depth_P * way_z - tl.load(at + 2)
    half_x, half_y, half_z = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
    cos_P, sin_P = tl.load(at + 6), tl.load(at + 7)
    x_P, z_P = cos_P * x_P - sin_P * z_P, sin_P * x_P + cos_P * z_P
    out_x, out_y, out_z = tl.abs(x_P) - half_x, tl.abs(y_P) - half_y, tl.abs(z_P) - half_z
    box, ball = kind_P == 0, kind_P == 2
    span = tl.maximum(tl.sqrt(x_P * x_P + z_P * z_P + tl.where(ball, y_P * y_P, 0.0)), 1e-20)
    on_end = tl.where(box, (out_y >= out_x) & (out_y >= out_z), (kind_P == 1) & (out_y > span - half_x))
    on_x = box & ~on_end & (out_x >= out_z)
    on_side = ~box & ~on_end
    around = (_angle(z_P, x_P) + 3.1415927) * half_x
    u_P = tl.where(on_side, around, tl.where(on_x, z_P + half_z, x_P + half_x))
    v_P = tl.where(on_end, z_P + half_z, y_P + half_y)
    sign_x, sign_y = tl.where(x_P < 0, -1.0, 1.0), tl.where(y_P < 0, -1.0, 1.0)
    sign_z = tl.where(z_P < 0, -1.0, 1.0)
    normal_x = tl.where(on_side, x_P / span, tl.where(on_x, sign_x, 0.0))
    normal_z = tl.where(on_side, z_P / span, tl.where(on_x | on_end, 0.0, sign_z))
    normal_y = tl.where(on_end, sign_y, tl.where(ball, y_P / span, 0.0))
    normal_x, normal_z = cos_P * normal_x + sin_P * normal_z, cos_P * normal_z - sin_P * normal_x
    away = tl.where(normal_x * way_x + normal_y * way_y + normal_z * way_z > 0, -DIRECT, DIRECT)
    shade = AMBIENT + away * (normal_x * LIGHT_X + normal_y * LIGHT_Y + normal_z * LIGHT_Z)

    inside = (i_P < rows) & (j_P < columns)
    pixel = camera * rows * columns + i_P * columns + j_P
    tl.store(depth + pixel, depth_P, inside)
    tl.store(semantic + pixel, tl.where(hit_P, tl.load(label + who_P * 4 + 2), 0), inside)
    row = material + tl.load(label + who_P * 4 + 1) * 16
    share = _share(row, u_P, v_P)
    for part in tl.static_range(3):
        value = (tl.load(row + part) + share * tl.load(row + part + 3)) * shade + 0.5
        value = tl.where(hit_P, tl.minimum(tl.maximum(value, 0.0), 255.0), 0.0)
        tl.store(rgb + pixel * 3 + part, value.to(tl.int32).to(tl.uint8), inside)


def ray_cast(scene: Scene, house_B: Tensor, eye_B3: Tensor, yaw_B: Tensor, pitch_B: Tensor, view: View) -> Seen:
    """Return what `reference.ray_cast` returns. The sizes do not depend on what is seen: a CUDA graph can hold it."""
    if scene.most > MOST:
        raise ValueError(f"ray_cast: a house has {scene.most} solids; triton takes up to {MOST}: backend='reference'")
    batch, rows, columns = len(house_B), view.height, view.width
    across, down = -(-columns // TILE), -(-rows // TILE)
    tiles = across * down
    device = eye_B3.device
    listed = torch.empty(batch * tiles, scene.most, dtype=torch.int16, device=device)
    counted = torch.empty(batch * tiles, dtype=torch.int32, device=device)
    depth_BIJ = torch.empty(batch, rows, columns, dtype=torch.float32, device=device)
    semantic_BIJ = torch.empty(batch, rows, columns, dtype=torch.int32, device=device)
    rgb_BIJ3 = torch.empty(batch, rows, columns, 3, dtype=torch.uint8, device=device)
    camera = [part.contiguous() for part in (house_B, eye_B3, yaw_B, pitch_B)]
    sizes = (rows, columns, across, tiles, scene.most, 2 * view.slope / columns, float(view.far))
    if batch:
        block = min(512, 1 << (scene.most - 1).bit_length())
        _cull[(batch * tiles,)](
            scene.place_N8, scene.first_H1, *camera, listed, counted, *sizes, TILE=TILE, BLOCK_S=block, num_warps=4
        )
        _cast[(batch * tiles,)](
            scene.place_N8, scene.label_N4, scene.first_H1, scene.material_MK, *camera, listed, counted,
            depth_BIJ, semantic_BIJ, rgb_BIJ3, *sizes,
            AMBIENT=AMBIENT, DIRECT=DIRECT, LIGHT_X=LIGHT[0], LIGHT_Y=LIGHT[1], LIGHT_Z=LIGHT[2],
            TILE=TILE, num_warps=4,
        )  # fmt: skip
    return Seen(depth_BIJ, semantic_BIJ, rgb_BIJ3)
