"""Scenes of a dataset of Habitat with the things of an episode file in them, as houses of object navigation.

From where a thing is seen is asked of Habitat itself: a cell of the floor is one of its viewpoints if it lies within
the radius as a whole, and enough pixels of it are in the picture that the agent would stop with: from the middle of the
cell, by its camera, turned and tilted towards the thing as nearly as whole turns and looks can. These pictures take
time, so what they say is kept in the user's folder of caches.

Shapes: N navigable cells of a floor, E things of a placement, P pictures.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..habitat import Habitat, Placement, Workers, read_episodes, scene
from ..habitat.cache import caches
from ..houses import House, Instance
from ..houses.house import as_solids
from ..progress import shown
from ..simulator import Agents, Pose
from .config import ObjectNavConfig
from .prepare import Prepared, reach_of, ways_to

LOG = logging.getLogger(__name__)
PIXELS = 1 << 22
"""Of pictures that are asked for at once."""


def open_placements(
    config: ObjectNavConfig, sensors: tuple[str, ...], device: torch.device
) -> tuple[list[Prepared], Habitat]:
    """Open the scenes of a configuration's placements and find the ways to what lies in them.

    Placements without a goal that can be reached are left out, and a line in the log counts them.

    Args:
        config: with `dataset` and `placements`.
        sensors: of the simulator; "semantic" must be one.
        device: where what it returns lives.

    Raises:
        ValueError: a file, a scene or an object is missing, no goal can be reached, or habitat-sim cannot be used.
    """
    file = config.placements if config.split == "train" else config.validation_placements or config.placements
    every = read_episodes(file)
    placements = every[config.first_house : config.first_house + config.houses]
    if not placements:
        config.refuse(f"first_house is {config.first_house}, and {file} has {len(every)} placements, from 0")
    if config.objects:
        placements = [it._replace(folders=tuple(config.objects.split(","))) for it in placements]
    simulator = Habitat.of_dataset(
        config.dataset,
        placements,
        device,
        view=config.view(),
        motion=config.motion(),
        sensors=sensors,
        radius=config.agent_radius,
        cell=config.cell,
        workers=workers_of(config, device),
    )
    try:
        found = _survey(simulator, placements, config)
        kinds = set(config.goal_kinds)
        kept = [number for number, one in enumerate(found) if kinds & set(one.kind_K.tolist())]
        if not kept:
            config.refuse(
                f"in none of {len(found)} placements of {file} can a goal of {len(kinds)} kinds be reached and seen; "
                "take more kinds or placements, or see whether file and dataset belong together"
            )
        if len(kept) < len(found):
            left_out = len(found) - len(kept)
            LOG.warning("object-nav: %d of %d placements are left out: no goal to reach", left_out, len(found))
            simulator.keep(kept)
    except BaseException:
        simulator.close()
        raise
    return [found[number] for number in kept], simulator


def workers_of(config: ObjectNavConfig, device: torch.device) -> Workers:
    """Return the workers of a configuration: where no other GPU is named, they draw on that of the device."""
    gpu = config.habitat_gpu
    if gpu == 0 and device.type == "cuda":
        gpu = torch.cuda.current_device() if device.index is None else device.index
    return Workers(python=config.habitat_python or None, count=config.habitat_workers, gpu=gpu)


def kind_of(name: str) -> str:
    """Return the kind of an object: its name without the number that those of YCB have."""
    number, _, rest = name.partition("_")
    return rest if number.isdigit() else name


def _survey(simulator: Habitat, placements: list[Placement], config: ObjectNavConfig) -> list[Prepared]:
    """Find the ways in all placements, those of the same scene one after the other."""
    order = sorted(range(len(placements)), key=lambda number: placements[number].scene)
    found: dict[int, Prepared] = {}

    def one_by_one() -> Iterator[None]:
        for number in order:
            house = _house(simulator, number, placements[number])
            seen_EN = _kept(simulator, number, placements[number], house, config)

            def views(thing: Instance, house: House = house, seen_EN: np.ndarray = seen_EN) -> np.ndarray:
                mask = np.zeros_like(house.navigable_IJ)
                mask[house.navigable_IJ] = seen_EN[thing.id - 1]
                return mask

            found[number] = ways_to(house, config.goal_kinds, config.too_many, views)
            yield

    for _ in shown(one_by_one(), "looking for things", len(order), 2):
        pass
    return [found[number] for number in range(len(placements))]


def _house(simulator: Habitat, number: int, placement: Placement) -> House:
    """Return a placement as a house: its floor and its things, from the smallest x and z of the floor; no solids."""
    free_IJ = simulator.free_HC[number].view(simulator.grid).cpu().numpy()
    i, j = np.nonzero(free_IJ)
    free_IJ = free_IJ[: i.max() + 1, : j.max() + 1].copy()  # the grid is that of the largest floor
    origin = simulator.origin_H3[number].cpu().numpy()
    instances = []
    for index, thing in enumerate(placement.things):
        x, y, z = (np.array(thing.position) - origin).tolist()
        instances.append(Instance(index + 1, kind_of(thing.name), 0, (x, y, z), (0.0,) * 3, range(0), None))
    size = (free_IJ.shape[1] * simulator.cell, 0.0, free_IJ.shape[0] * simulator.cell)
    return House(number, size, as_solids([]), (), (), tuple(instances), simulator.cell, free_IJ)


def _kept(simulator: Habitat, number: int, placement: Placement, house: House, config: ObjectNavConfig) -> np.ndarray:
    """Return what `_seen` says, from an earlier time if it was asked then."""
    parts = [repr((placement.scene, placement.things, config.view(), config.motion(), config.success_radius)).encode()]
    parts += [repr((config.least_pixels, house.cell, simulator.origin_H3[number].tolist())).encode()]
    parts += [house.navigable_IJ.tobytes(), repr(house.navigable_IJ.shape).encode()]
    # Files of another revision of the dataset, or of this code, say something else.
    parts += [_contents(path) for path in (config.dataset, *simulator.files[number], __file__, str(scene.__file__))]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]
    file = caches("placements") / f"{digest}.npy"
    shape = len(placement.things), int(house.navigable_IJ.sum())
    if file.exists():
        return np.unpackbits(np.load(file), axis=1, count=shape[1]).astype(bool)
    seen_EN = _seen(simulator, number, house, config)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.npy")
    np.save(part, np.packbits(seen_EN, axis=1))
    part.replace(file)
    return seen_EN


@lru_cache(maxsize=4096)
def _contents(path: str) -> bytes:
    file = Path(path).expanduser()
    return hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""


def _seen(simulator: Habitat, number: int, house: House, config: ObjectNavConfig) -> np.ndarray:
    """Return from which cells of a house which of its things are seen, (E, N) bool; what is no goal is not."""
    motion = simulator.motion
    turn, look, (low, high) = math.radians(motion.turn), math.radians(motion.look), motion.pitches
    i_N, j_N = np.nonzero(house.navigable_IJ)
    x_N, z_N = (j_N + 0.5) * house.cell, (i_N + 0.5) * house.cell
    things, reach = (
        [thing for thing in house.things if thing.goal is not None],
        reach_of(config.success_radius, house.cell),
    )
    near_EN = np.zeros((len(house.instances), len(i_N)), dtype=bool)
    asked = [np.zeros((0, 3), dtype=np.int64)]  # cells, turns and looks
    for thing in things:
        x, y, z = thing.centre
        flat_N = np.hypot(x - x_N, z - z_N)
        near = np.flatnonzero(flat_N <= reach)
        near_EN[thing.id - 1, near] = True
        yaw = np.arctan2(x_N[near] - x, z_N[near] - z)
        pitch = np.arctan2(y - motion.eye_height, flat_N[near])
        looks = np.rint(np.clip(pitch, low, high) / look)
        asked.append(np.stack([near, np.rint(yaw / turn), looks], 1).astype(np.int64))
    cell_P, turns_P, looks_P = np.unique(np.concatenate(asked), axis=0).T
    seen_EN = np.zeros_like(near_EN)
    at_once = max(1, PIXELS // (simulator.view.height * simulator.view.width))
    for start in range(0, len(cell_P), at_once):
        cell_B = cell_P[start : start + at_once]
        position_B3 = torch.from_numpy(np.stack([x_N[cell_B], np.zeros(len(cell_B)), z_N[cell_B]], 1)).float()
        position_B3 = position_B3.to(simulator.device) + simulator.origin_H3[number]
        yaw_B, pitch_B = (torch.from_numpy(part[start : start + at_once]).float() for part in (turns_P, looks_P))
        pose = Pose(
            position_B3, (yaw_B * turn).to(simulator.device), (pitch_B * look).clamp(low, high).to(simulator.device)
        )
        agents = Agents(torch.full((len(cell_B),), number, device=simulator.device), pose)
        all_B = torch.ones(len(cell_B), dtype=torch.bool, device=simulator.device)
        ids_BP = simulator.render_some(agents, all_B, ("semantic",))["semantic"].flatten(1).long()
        pixels_BE = torch.zeros(len(cell_B), 1 + len(house.instances), device=simulator.device)
        pixels_BE.scatter_add_(1, ids_BP, torch.ones_like(ids_BP, dtype=torch.float32))
        enough_EB = (pixels_BE[:, 1:] >= config.least_pixels).T.cpu().numpy()
        for e, b in np.argwhere(enough_EB).tolist():
            seen_EN[e, cell_B[b]] |= near_EN[e, cell_B[b]]
    return seen_EN
