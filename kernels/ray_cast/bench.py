"""How fast rays are cast: cameras in many houses of about 200 solids, in frames of 64 x 64.

Shapes: B cameras, S solids.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..measure import Case, Run
from . import OP, Scene, Seen, View, material, pack, ray_cast
from .scene import BOX, CYLINDER, SPHERE

VIEW = View(64, 64, 90.0)
CHECKED = 64
"""Cameras that are compared with the definition."""
Point = tuple[float, float, float]
SIDE = 4.0
"""Of a room, metres."""

MATERIALS = [
    material((0.92, 0.90, 0.84), (0.5, 0.5, 0.5), "plain", 1.0),
    material((0.70, 0.50, 0.32), (0.45, 0.30, 0.18), "planks", 0.12),
    material((0.72, 0.34, 0.26), (0.80, 0.78, 0.74), "bricks", 0.25),
    material((0.90, 0.90, 0.92), (0.30, 0.36, 0.44), "checker", 0.4),
    material((0.30, 0.45, 0.65), (0.85, 0.85, 0.80), "stripes", 0.1),
    material((0.35, 0.50, 0.30), (0.55, 0.65, 0.40), "noise", 0.03),
    material((0.80, 0.20, 0.15), (0.5, 0.5, 0.5), "plain", 1.0),
    material((0.95, 0.75, 0.15), (0.5, 0.5, 0.5), "plain", 1.0),
]
"""What the rooms are made of."""


class Rooms(NamedTuple):
    """The solids of a house."""

    kind_S: Tensor
    centre_S3: Tensor
    half_S3: Tensor
    yaw_S: Tensor
    material_S: Tensor
    semantic_S: Tensor


def rooms(seed: int, across: int = 3, pieces: int = 3) -> Rooms:
    """Return a square house of across x across rooms with doors between all neighbours, furnished at random.

    Args:
        seed: decides the furniture.
        across: rooms of a side; a room is 4 m wide.
        pieces: tables and cupboards of a room, each with something on it.
    """
    draw = random.Random(seed)
    rows: list[tuple[float, ...]] = []

    def put(kind: int, centre: Point, half: Point, made: int, yaw: float = 0.0, label: int = 0) -> None:
        rows.append((kind, *centre, *half, yaw, made, label))

    things = 0
    for room_x in range(across):
        for room_z in range(across):
            x, z = (room_x + 0.5) * SIDE, (room_z + 0.5) * SIDE
            put(BOX, (x, -0.05, z), (SIDE / 2, 0.05, SIDE / 2), draw.choice((1, 3, 5)))
            put(BOX, (x, 2.65, z), (SIDE / 2, 0.05, SIDE / 2), 0)
            for _ in range(pieces):
                # Near a wall, so that the middle of the room is free.
                turn, off = draw.uniform(0, 2 * math.pi), 1.55
                at = x + off * max(-1, min(1, 1.3 * math.cos(turn))), z + off * max(-1, min(1, 1.3 * math.sin(turn)))
                yaw, things = draw.uniform(0, math.pi), things + 2
                top = draw.uniform(0.45, 0.9)
                if draw.random() < 0.5:
                    put(BOX, (at[0], top - 0.02, at[1]), (0.3, 0.02, 0.25), 1, yaw, things)
                    for leg_x, leg_z in ((-0.25, -0.2), (0.25, -0.2), (-0.25, 0.2), (0.25, 0.2)):
                        leg = (
                            at[0] + math.cos(yaw) * leg_x + math.sin(yaw) * leg_z,
                            top / 2 - 0.02,
                            at[1] - math.sin(yaw) * leg_x + math.cos(yaw) * leg_z,
                        )
                        put(CYLINDER, leg, (0.025, top / 2 - 0.02, 0.025), 0, 0.0, things)
                else:
                    put(BOX, (at[0], top / 2, at[1]), (0.3, top / 2, 0.25), draw.choice((1, 4)), yaw, things)
                size = draw.uniform(0.05, 0.12)
                kind, made = draw.choice((BOX, CYLINDER, SPHERE)), draw.choice((4, 6, 7))
                put(kind, (at[0], top + size, at[1]), (size, size, size), made, yaw, things + 1)
    for line in range(across + 1):
        for part in range(across):
            place, along, made = line * SIDE, (part + 0.5) * SIDE, draw.choice((0, 0, 2))
            if line in (0, across):
                walls = [(along, 1.3, SIDE / 2, 1.3)]
            else:  # a door of 0.9 m x 2.05 m
                walls = [
                    (along - 1.225, 1.3, 0.775, 1.3),
                    (along + 1.225, 1.3, 0.775, 1.3),
                    (along, 2.325, 0.45, 0.275),
                ]
            for middle, y, half, high in walls:
                put(BOX, (place, y, middle), (0.06, high, half), made)
                put(BOX, (middle, y, place), (half, high, 0.06), made)
    table = torch.tensor(rows)
    whole = table[:, [0, 8, 9]].long()
    return Rooms(whole[:, 0].to(torch.int8), table[:, 1:4], table[:, 4:7], table[:, 7], whole[:, 1], whole[:, 2])


def cameras(batch: int, houses: int, across: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return house, eye, yaw and pitch of cameras in the middle of rooms, 0.88 m above the floor."""
    draw = torch.Generator().manual_seed(0)
    room_B2 = torch.randint(across, (batch, 2), generator=draw)
    spot_B2 = (room_B2 + 0.35 + 0.3 * torch.rand(batch, 2, generator=draw)) * SIDE
    eye_B3 = torch.stack([spot_B2[:, 0], torch.full((batch,), 0.88), spot_B2[:, 1]], 1)
    yaw_B = torch.randint(12, (batch,), generator=draw) * (math.pi / 6)
    pitch_B = (torch.randint(3, (batch,), generator=draw) - 1) * (math.pi / 6)
    return torch.arange(batch) % houses, eye_B3, yaw_B, pitch_B


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield what is measured."""
    houses, batch = (16, 64) if device.type != "cuda" else (1024, 8192)
    if device.type == "cuda" and not quick:
        batch *= 2
    scene = pack([rooms(seed) for seed in range(houses)], MATERIALS, device)
    house_B, eye_B3, yaw_B, pitch_B = (part.to(device) for part in cameras(batch, houses))
    at = (house_B, eye_B3, yaw_B, pitch_B)
    ours: dict[str, Run] = {
        name: partial(ray_cast, scene, *at, VIEW, name)
        for name in OP.backends
        if not OP.refusal(name, eye_B3) and (name != "reference" or device.type != "cuda")
    }
    size = f"B={batch} in {houses} houses of up to {scene.most} solids, {VIEW.height}x{VIEW.width}"
    # Depth, label and colour are written; of the houses, little is read.
    pixels = batch * VIEW.height * VIEW.width
    yield Case("ray_cast", size, ours, partial(_check, scene, at, list(ours)), {}, pixels * 11, pixels * 900)


def _check(scene: Scene, at: tuple[Tensor, Tensor, Tensor, Tensor], names: list[str]) -> None:
    """Compare some cameras with the definition in float64."""
    house_B, eye_B3, yaw_B, pitch_B = (part[:CHECKED] for part in at)
    want = ray_cast(scene, house_B, eye_B3.double(), yaw_B, pitch_B, VIEW, "reference")
    for name in names:
        seen = ray_cast(scene, *at, VIEW, name)
        compare(Seen(*(part[:CHECKED] for part in seen)), want)


def compare(got: Seen, want: Seen, ties: float = 2e-3) -> None:
    """Refuse pictures that differ by more than the last digits, but for a share of pixels on edges, which may be ties.

    Raises:
        AssertionError: with how many pixels differ in what.
    """
    apart = (got.depth_BIJ - want.depth_BIJ).abs() > 1e-4 * want.depth_BIJ
    named = got.semantic_BIJ != want.semantic_BIJ
    coloured = ((got.rgb_BIJ3.int() - want.rgb_BIJ3.int()).abs() > 1).any(-1)
    for name, wrong, allowed in (("depth", apart, ties), ("label", named, ties), ("colour", coloured, 5 * ties)):
        found = wrong.float().mean().item()
        assert found <= allowed, f"{name} differs in {found:.2%} of the pixels"
