"""Pictures drawn row by row into a buffer of inverse depths, compiled by Numba: the loops of `numba`.

In a pinhole picture the inverse of the depth of a plane is linear in the pixel's row and column, and so are the place
on the plane times that inverse and the distances to the sides of a rectangle. So a face of a box fills one span of each
row, whose ends are linear in the row too. Solids are drawn from near to far; the buffer's least value in each block of
8 x 8 pixels says which of them are hidden wholly and need not be drawn. Every pixel keeps its nearest thing, and gets
its colour once, in runs of pixels that show the same one.

Numbers of solids and cameras are float64, those of pixels float32. Rows of the buffer are longer than the picture's,
so that runs can be drawn in whole vectors: what a run writes beyond its end, the next one replaces.

Shapes: B cameras, N solids of all houses, T things (faces and round solids), I rows and J columns of pixels, K numbers.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiled import compiled
from .scene import BOX, CYLINDER, SPHERE, TINY

SLACK = 1e-5
"""Faces reach so far beyond their edges, metres: rounding must not open a gap between two that meet."""
CLOSE = 0.05
"""Of solids that come nearer than this, metres along the optical axis, it is not asked which pixels they may fill."""
BLOCK = 8
"""Pixels of a side of the blocks whose farthest depth is kept."""
DRAWN = 12
"""Solids that are drawn before the farthest depths are looked up again."""
LANES = 8
"""Pixels of a run are coloured in multiples of this."""
FACES = 6
"""Things of a solid, at most; that many numbers belong to each solid in the frustum, in the order of the house."""
ORIGIN = 64
"""Functions in a row start from multiples of this, so that faces in one plane are at one depth to the last digit."""
SHADE = 15
"""The column of a face with its light. Before it are five functions, each by column, by row, and at the first pixel:
the inverse depth, and what is above 0 between the four sides, of which the first and third are u and v times it."""


@compiled
def cast(scene, cameras, view, sun, part, seen):
    """Draw some cameras.

    Args:
        scene: place_N8, label_N4 and material_MK, as in `Scene`.
        cameras: first_B and last_B, the solids of the house of each, int32; eye_B3, yaw_B and pitch_B, float32.
        view: the tangent of half the field of view, and the greatest depth, metres.
        sun: how much light comes from everywhere, how much from one place, and where that is, x, y and z.
        part: the first camera, and the one after the last.
        seen: depth_BIJ, semantic_BIJ and rgb_BIJ3, which are written.
    """
    place_N8, _, _ = scene
    first_B, last_B, eye_B3, yaw_B, pitch_B = cameras
    depth_BIJ, semantic_BIJ, rgb_BIJ3 = seen
    rows, columns = depth_BIJ.shape[1], depth_BIJ.shape[2]
    step = 2 * view[0] / columns
    lens = (step, -(columns - 1) / 2 * step, (rows - 1) / 2 * step, view[0], view[0] * rows / columns, view[1])
    most = 1
    for b in range(part[0], part[1]):
        most = max(most, last_B[b] - first_B[b])
    wide = (columns // LANES + 2) * LANES
    near_IJ, who_IJ = np.empty((rows, wide), np.float32), np.empty((rows, wide), np.int32)
    farthest = np.empty(((rows + BLOCK - 1) // BLOCK, (columns + BLOCK - 1) // BLOCK), np.float32)
    picture = near_IJ, who_IJ, np.arange(wide).astype(np.float32), np.empty((2, rows))
    word_J = np.empty(wide, np.int32)
    found = np.empty(most), np.empty(most, np.int64), np.empty((most, 3, 4)), np.empty((most, 4), np.int64)
    thing_TK = np.empty((FACES * most, SHADE + 1))
    for b in range(part[0], part[1]):
        x, y, z, yaw, pitch = eye_B3[b, 0], eye_B3[b, 1], eye_B3[b, 2], float(yaw_B[b]), float(pitch_B[b])
        eye = (float(x), float(y), float(z), math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch))
        near_IJ[:], who_IJ[:], farthest[:] = 0, -1, 0
        count = _find(place_N8, first_B[b], last_B[b], eye, lens, rows, columns, found)
        _draw(scene, eye, lens, sun, found, count, thing_TK, picture, farthest, columns)
        for i in range(rows):
            _paint(i, scene, eye, lens, sun, found[1], thing_TK, picture, word_J, semantic_BIJ[b, i])
            for j in range(columns):
                near, word = near_IJ[i, j], word_J[j]
                depth_BIJ[b, i, j] = np.float32(1) / near if near > 0 else np.float32(0)
                rgb_BIJ3[b, i, j, 0], rgb_BIJ3[b, i, j, 1], rgb_BIJ3[b, i, j, 2] = word, word >> 8, word >> 16


@compiled
def _find(place_N8, first, last, eye, lens, rows, columns, found):
    """Write the solids in the frustum: the least depth, the number, the turned box and the frame; return how many."""
    depth_S, solid_S, box_S34, rect_S4 = found
    count = 0
    for solid in range(first, last):
        place_8, box_34 = place_N8[solid], box_S34[count]
        _turn(place_8, eye, box_34)
        depth = _depth(place_8, box_34, lens)
        if depth < math.inf:
            depth_S[count], solid_S[count] = depth, solid
            _frame(place_8, box_34, depth, lens, rows, columns, rect_S4[count])
            count += 1
    return count


@compiled
def _draw(scene, eye, lens, sun, found, count, thing_TK, picture, farthest, columns):
    """Draw solids from near to far, without those that are hidden by then; write their faces."""
    place_N8, label_N4, _ = scene
    depth_S, solid_S, box_S34, rect_S4 = found
    axis_35, drawn = np.empty((3, 5)), 0
    for s in np.argsort(depth_S[:count], kind="mergesort"):
        rect_4, solid = rect_S4[s], solid_S[s]
        if _hidden(rect_4, depth_S[s], farthest):
            continue
        first = FACES * s
        if label_N4[solid, 0] == BOX:
            for t in range(first, _faces(place_N8[solid], box_S34[s], lens, sun, axis_35, thing_TK, first)):
                _draw_face(thing_TK[t], t, rect_4, lens, picture)
        else:
            _draw_round(place_N8[solid], label_N4[solid, 0] == SPHERE, first, rect_4, eye, lens, picture)
        drawn += 1
        if drawn % DRAWN == 0:
            _look_up(picture[0], columns, farthest)


@compiled
def _turn(place_8, eye, box_34):
    """Write a solid as the camera sees it: its middle and its axes of length 1, by right, up and ahead, (3, 4)."""
    eye_x, eye_y, eye_z, cos_yaw, sin_yaw, level, rise = eye
    x, y, z = place_8[0] - eye_x, place_8[1] - eye_y, place_8[2] - eye_z
    ahead = -x * sin_yaw - z * cos_yaw
    box_34[0, 0] = x * cos_yaw - z * sin_yaw
    box_34[1, 0], box_34[2, 0] = y * level - ahead * rise, y * rise + ahead * level
    # The camera's yaw seen from the box.
    cosine, sine = float(place_8[6]), float(place_8[7])
    cos, sin = cos_yaw * cosine + sin_yaw * sine, sin_yaw * cosine - cos_yaw * sine
    box_34[0, 1], box_34[1, 1], box_34[2, 1] = cos, rise * sin, -level * sin
    box_34[0, 2], box_34[1, 2], box_34[2, 2] = 0.0, level, rise
    box_34[0, 3], box_34[1, 3], box_34[2, 3] = -sin, rise * cos, -level * cos


@compiled
def _depth(place_8, box_34, lens):
    """Return the least depth of the box around a solid, or infinity where it is outside the frustum."""
    depth, reach = box_34[2, 0], 0.0
    for axis in range(3):
        reach += abs(box_34[2, 1 + axis]) * place_8[3 + axis]
    if depth + reach <= 0 or depth - reach > lens[5]:
        return math.inf
    for side in range(2):
        slope = lens[3 + side]
        for sign in (-1.0, 1.0):
            beyond, across = sign * box_34[side, 0] - slope * depth, 0.0
            for axis in range(3):
                across += abs(sign * box_34[side, 1 + axis] - slope * box_34[2, 1 + axis]) * place_8[3 + axis]
            if beyond > across:
                return math.inf
    return depth - reach


@compiled
def _pixel(place, most):
    """Return a number of a pixel within 0 and `most`, 0 for no number."""
    if not place > 0:
        return 0
    return most if place > most else int(place)


@compiled
def _frame(place_8, box_34, least, lens, rows, columns, rect_4):
    """Write the rows and columns, from and up to, that the box around a solid may fill."""
    rect_4[0], rect_4[1], rect_4[2], rect_4[3] = 0, rows, 0, columns
    if least < CLOSE:
        return
    left, right, low, high = math.inf, -math.inf, math.inf, -math.inf
    for corner in range(8):
        x, y, depth = box_34[0, 0], box_34[1, 0], box_34[2, 0]
        for axis in range(3):
            half = float(place_8[3 + axis]) if corner >> axis & 1 else -float(place_8[3 + axis])
            x += box_34[0, 1 + axis] * half
            y += box_34[1, 1 + axis] * half
            depth += box_34[2, 1 + axis] * half
        per = 1 / depth
        left, right = min(left, x * per), max(right, x * per)
        low, high = min(low, y * per), max(high, y * per)
    # From half a pixel before to half a pixel behind.
    per_step = 1 / lens[0]
    rect_4[0], rect_4[1] = _pixel((lens[2] - high) * per_step, rows), _pixel((lens[2] - low) * per_step + 2, rows)
    rect_4[2] = _pixel((left - lens[1]) * per_step, columns)
    rect_4[3] = _pixel((right - lens[1]) * per_step + 2, columns)


@compiled
def _hidden(rect_4, least, farthest):
    """Say whether what is drawn in a frame is nearer everywhere than a depth."""
    if least <= 0:
        return False
    if rect_4[0] >= rect_4[1] or rect_4[2] >= rect_4[3]:
        return True
    near = (1 + 1e-5) / least
    for i in range(rect_4[0] // BLOCK, (rect_4[1] - 1) // BLOCK + 1):
        for j in range(rect_4[2] // BLOCK, (rect_4[3] - 1) // BLOCK + 1):
            if farthest[i, j] <= near:
                return False
    return True


@compiled
def _look_up(near_IJ, columns, farthest):
    """Write the least inverse depth of each block."""
    for block_i in range(farthest.shape[0]):
        for block_j in range(farthest.shape[1]):
            least = np.float32(np.inf)
            for i in range(block_i * BLOCK, min((block_i + 1) * BLOCK, near_IJ.shape[0])):
                for j in range(block_j * BLOCK, min((block_j + 1) * BLOCK, columns)):
                    least = min(least, near_IJ[i, j])
            farthest[block_i, block_j] = least


@compiled
def _faces(place_8, box_34, lens, sun, axis_35, thing_TK, t):
    """Write the faces of a box that look at the eye, or all from within, as things from `t` on; return the next one."""
    # Where the eye is along each axis, half the extent, and of a ray the part by column, by row and at the first pixel.
    at, size, way = axis_35[:, 0], axis_35[:, 1], axis_35[:, 2:]
    within = True
    for axis in range(3):
        x, y, z = box_34[0, 1 + axis], box_34[1, 1 + axis], box_34[2, 1 + axis]
        at[axis] = -(box_34[0, 0] * x + box_34[1, 0] * y + box_34[2, 0] * z)
        way[axis, 0], way[axis, 1], way[axis, 2] = x * lens[0], -y * lens[0], x * lens[1] + y * lens[2] + z
        size[axis] = place_8[3 + axis]
        within &= abs(at[axis]) <= size[axis]
    for axis in range(3):
        # The surface's own axes, as `reference.surface` has them.
        side_u, side_v = (2 if axis == 0 else 0), (2 if axis == 1 else 1)
        for sign in (-1.0, 1.0):
            gap = sign * size[axis] - at[axis]
            if (sign * gap <= 0) if within else (sign * gap >= 0):
                continue
            for k in range(3):
                inverse = way[axis, k] / gap
                thing_TK[t, k] = inverse
                for f, side in ((1, side_u), (2, side_v)):
                    low = (size[side] + at[side] + SLACK) * inverse + way[side, k]
                    thing_TK[t, 6 * f - 3 + k] = low
                    thing_TK[t, 6 * f + k] = 2 * (size[side] + SLACK) * inverse - low
            # Towards the eye, which is the other way where the eye is within.
            normal = -sign if within else sign
            x, y, z = normal * (axis == 0), normal * (axis == 1), normal * (axis == 2)
            x, z = place_8[6] * x + place_8[7] * z, place_8[6] * z - place_8[7] * x
            thing_TK[t, SHADE] = sun[0] + sun[1] * (x * sun[2] + y * sun[3] + z * sun[4])
            t += 1
    return t


@compiled
def _draw_face(face_K, t, rect_4, lens, picture):
    """Draw a face: in each row, from the last of the places where it begins to the first of those where it ends."""
    near_IJ, who_IJ, ramp_J, span_2I = picture
    begin, end = rect_4[0], rect_4[1]
    low_I, high_I = span_2I[0], span_2I[1]
    low_I[begin:end] = rect_4[2]
    high_I[begin:end] = rect_4[3] - 1
    for f in range(SHADE // 3):
        across, down, rest = face_K[3 * f], face_K[3 * f + 1], face_K[3 * f + 2]
        if f == 0:
            rest -= 1 / lens[5]
        if abs(across) < TINY:
            across = TINY
        slope, start = -down / across, -rest / across
        if across > 0:
            for i in range(begin, end):
                low_I[i] = max(low_I[i], slope * i + start)
        else:
            for i in range(begin, end):
                high_I[i] = min(high_I[i], slope * i + start)
    slope = np.float32(face_K[0])
    for i in range(begin, end):
        if not low_I[i] <= high_I[i]:
            continue
        begin_j, end_j = math.ceil(low_I[i]), math.floor(high_I[i]) + 1
        origin = begin_j // ORIGIN * ORIGIN
        start = np.float32(face_K[0] * origin + face_K[1] * i + face_K[2])
        near_J, who_J = near_IJ[i, begin_j:end_j], who_IJ[i, begin_j:end_j]
        offset_J = ramp_J[begin_j - origin : end_j - origin]
        for k in range(near_J.size):
            near = start + slope * offset_J[k]
            # Of solids at one depth the first, as in the definition.
            nearer = (near > near_J[k]) | ((near == near_J[k]) & (t < who_J[k]))
            near_J[k] = near if nearer else near_J[k]
            who_J[k] = t if nearer else who_J[k]


@compiled
def _draw_round(place_8, ball, t, rect_4, eye, lens, picture):
    """Draw a cylinder or a sphere: every ray of its frame meets it as in `reference.meet`, in the camera's yaw."""
    near_IJ, who_IJ, ramp_J, _ = picture
    eye_x, eye_y, eye_z, cos_yaw, sin_yaw, level, rise = eye
    x, up, z = place_8[0] - eye_x, place_8[1] - eye_y, place_8[2] - eye_z
    right, ahead = np.float32(x * cos_yaw - z * sin_yaw), np.float32(-x * sin_yaw - z * cos_yaw)
    # The ends of a sphere are out of reach.
    radius, half, far = place_8[3], 1e9 if ball else float(place_8[4]), np.float32(lens[5])
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(TINY)
    step, start = np.float32(lens[0]), np.float32(lens[1] + rect_4[2] * lens[0])
    for i in range(rect_4[0], rect_4[1]):
        y = lens[2] - i * lens[0]
        way_z, way_y = level - y * rise, rise + y * level
        lift, lifted = np.float32(way_y if ball else 0.0), np.float32(up if ball else 0.0)
        per_y = 1 / (way_y if abs(way_y) >= TINY else TINY)
        ends = (up - half) * per_y, (up + half) * per_y
        first, last = np.float32(min(ends[0], ends[1])), np.float32(max(ends[0], ends[1]))
        forward = np.float32(way_z)
        square, product = forward * forward + lift * lift, ahead * forward + lifted * lift
        near_J, who_J = near_IJ[i, rect_4[2] : rect_4[3]], who_IJ[i, rect_4[2] : rect_4[3]]
        for k in range(near_J.size):
            x = start + step * ramp_J[k]
            per = one / max(x * x + square, tiny)
            middle = (right * x + product) * per
            foot_x, foot_z, foot_y = middle * x - right, middle * forward - ahead, middle * lift - lifted
            room = (radius * radius - foot_x * foot_x - foot_z * foot_z - foot_y * foot_y) * per
            reach = math.sqrt(max(room, zero))
            enter, leave = max(middle - reach, first), min(middle + reach, last)
            depth = enter if enter > zero else leave
            near = one / depth
            hit = (room >= zero) & (enter <= leave) & (leave > zero) & (depth <= far)
            hit &= (near > near_J[k]) | ((near == near_J[k]) & (t < who_J[k]))
            near_J[k] = near if hit else near_J[k]
            who_J[k] = t if hit else who_J[k]


@compiled
def _paint(i, scene, eye, lens, sun, solid_S, thing_TK, picture, word_J, semantic_J):
    """Write the labels and colours of a row, run by run; a colour is a word, red in its lowest byte."""
    place_N8, label_N4, material_MK = scene
    near_J, who_J, ramp_J = picture[0][i], picture[1][i], picture[2]
    begin, columns = 0, semantic_J.size
    while begin < columns:
        t, end = who_J[begin], begin + 1
        while end < columns and who_J[end] == t:
            end += 1
        if t < 0:
            word_J[begin:end], semantic_J[begin:end] = 0, 0
        else:
            solid = solid_S[t // FACES]
            kind, material, label = label_N4[solid, 0], label_N4[solid, 1], label_N4[solid, 2]
            semantic_J[begin:end] = label
            whole = begin + (end - begin + LANES - 1) // LANES * LANES
            if kind == BOX:
                near_K, word_K = near_J[begin:whole], word_J[begin:whole]
                _paint_face(thing_TK[t], i, begin, material_MK[material], ramp_J, near_K, word_K)
            else:
                near_K, word_K = near_J[begin:end], word_J[begin:end]
                _paint_round(place_N8[solid], kind, i, begin, eye, lens, sun, material_MK[material], near_K, word_K)
        begin = end


@compiled
def _paint_face(face_K, i, j, material_K, ramp_J, near_J, word_J):
    """Write the colours of a run of a face."""
    shade, half = np.float32(face_K[SHADE]), np.float32(0.5)
    red, green, blue = material_K[0] * shade + half, material_K[1] * shade + half, material_K[2] * shade + half
    more_red, more_green, more_blue = material_K[3] * shade, material_K[4] * shade, material_K[5] * shade
    if material_K[9] == 0 and material_K[10] == 0 and material_K[13] == 0 and material_K[14] == 0:
        word_J[:] = int(red) | int(green) << 8 | int(blue) << 16
        return
    u, more_u = np.float32(face_K[3] * j + face_K[4] * i + face_K[5]), np.float32(face_K[3])
    v, more_v = np.float32(face_K[9] * j + face_K[10] * i + face_K[11]), np.float32(face_K[9])
    pattern = _pattern(material_K)
    for k in range(near_J.size):
        far = np.float32(1) / near_J[k]
        share = _share(pattern, (u + more_u * ramp_J[k]) * far, (v + more_v * ramp_J[k]) * far)
        word_J[k] = _word(red + share * more_red, green + share * more_green, blue + share * more_blue)


@compiled
def _word(red, green, blue):
    """Return three bytes as one word."""
    return np.int32(red) | np.int32(green) << np.int32(8) | np.int32(blue) << np.int32(16)


@compiled
def _pattern(material_K):
    """Return what `_share` takes of a material, as numbers: loops would load it for each pixel."""
    return (
        material_K[6], material_K[7], material_K[8], material_K[9], material_K[10],
        material_K[11], material_K[12], material_K[13], material_K[14] * np.float32(1 / 255.0),
    )  # fmt: skip


@compiled
def _share(pattern, u, v):
    """Return what `texture.share` does."""
    per_width, per_height, shift, joint_u, joint_v, rows, columns, parity, drawn = pattern
    v = v * per_height
    line = np.floor(v)
    u = u * per_width + line * shift
    cell = np.floor(u)
    odd = np.int32(line * rows + cell * columns) & np.int32(1)
    bits = np.int32(np.int32(cell) * 7919 + np.int32(line) * 6007) & np.int32(0x7FFF)
    bits = np.int32(np.int32(bits * 30011) >> 7) & np.int32(0x7FFF)
    bits = np.int32(np.int32(bits * 24593) >> 6) & np.int32(0xFF)
    mixed = np.float32(odd) * parity + np.float32(bits) * drawn
    return np.float32(1) if (u - cell < joint_u) | (v - line < joint_v) else mixed


@compiled
def _paint_round(place_8, kind, i, j, eye, lens, sun, material_K, near_J, word_J):
    """Write the colours of a run of a cylinder or a sphere, which is hit as in `reference.surface`."""
    eye_x, eye_y, eye_z, cos_yaw, sin_yaw, level, rise = eye
    up = lens[2] - i * lens[0]
    ahead, way_y = level - up * rise, rise + up * level
    radius, high = float(place_8[3]), float(place_8[4])
    for k in range(near_J.size):
        right, depth = lens[1] + (j + k) * lens[0], 1.0 / near_J[k]
        way_x, way_z = right * cos_yaw - ahead * sin_yaw, -right * sin_yaw - ahead * cos_yaw
        x, z = eye_x + depth * way_x - place_8[0], eye_z + depth * way_z - place_8[2]
        y = eye_y + depth * way_y - place_8[1]
        rise_y = y if kind == SPHERE else 0.0
        span = max(math.sqrt(x * x + z * z + rise_y * rise_y), TINY)
        if kind == CYLINDER and abs(y) - high > span - radius:
            u, v = x + radius, z + radius
            normal_x, normal_y, normal_z = 0.0, -1.0 if y < 0 else 1.0, 0.0
        else:
            u, v = (math.atan2(z, x) + math.pi) * radius, y + high
            normal_x, normal_y, normal_z = x / span, rise_y / span, z / span
        away = -sun[1] if normal_x * way_x + normal_y * way_y + normal_z * way_z > 0 else sun[1]
        shade = sun[0] + away * (normal_x * sun[2] + normal_y * sun[3] + normal_z * sun[4])
        share = _share(_pattern(material_K), np.float32(u), np.float32(v))
        word_J[k] = _word(
            (material_K[0] + share * material_K[3]) * shade + 0.5,
            (material_K[1] + share * material_K[4]) * shade + 0.5,
            (material_K[2] + share * material_K[5]) * shade + 0.5,
        )
