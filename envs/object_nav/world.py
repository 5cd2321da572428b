"""All that trials of one configuration share on a device: the simulator, and tables of goals, ways and things.

The ways are the largest: F fields of C cells, float16. A house has about 20 kinds that can be goals, and the grid of
the largest of many houses about 20,000 cells, so 1,024 houses take 0.8 GB; 16 houses take 11 MB. float32 would take
twice that and be at most 8 mm more exact.

Shapes: H houses, F distance fields, C cells of the largest floor, G goals of the house with most, E ids of instances of
the house with most, 0 for none included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..habitat import Habitat
from ..houses import House
from ..simulator import Embedded
from .config import ObjectNavConfig
from .placements import open_placements, workers_of
from .prepare import Prepared, Terms, prepare


@dataclass(frozen=True, eq=False)
class World:
    """Houses on a device; nothing of it changes."""

    prepared: tuple[Prepared, ...]
    simulator: Embedded | Habitat
    way_FC: Tensor
    """(F, C) float16, metres: from each cell to the nearest viewpoint; see `Simulator.geodesic`."""
    goals_H: Tensor
    """(H,) int64: how many kinds can be goals."""
    goal_HG: Tensor
    """(H, G) int64: which they are."""
    first_H: Tensor
    """(H,) int64: the field of the first of them; the others follow."""
    kind_HE: Tensor
    """(H, E) int64: the kind of each instance, -1 for what is no thing to find."""
    place_HE3: Tensor
    """(H, E, 3) float32: the middle of each instance, metres, in the coordinates of agents."""


_WORLDS: WeakValueDictionary[Any, World] = WeakValueDictionary()


def drawn(config: ObjectNavConfig) -> tuple[str, ...]:
    """Return the sensors of the simulator."""
    return (*(name for name in config.sensors.split(",") if name != "mask"), "semantic")


def make_simulator(houses: Sequence[House], config: ObjectNavConfig, device: torch.device) -> Embedded | Habitat:
    """Return the simulator that agents move in, in generated houses: the one place that says which.

    Raises:
        ValueError: habitat-sim cannot be used, and what to do.
    """
    sensors = drawn(config)
    view, motion = config.view(), config.motion()
    if config.simulator == "embedded":
        return Embedded(houses, device, view=view, motion=motion, sensors=sensors)
    made_with, workers = config.house_config(), workers_of(config, device)
    return Habitat(houses, device, view=view, motion=motion, sensors=sensors, config=made_with, workers=workers)


def world(config: ObjectNavConfig, device: torch.device) -> World:
    """Return the world of a configuration, in the embedded simulator the same as long as someone holds it.

    Raises:
        ValueError: no house has a goal, a file of a dataset is missing, or habitat-sim cannot be used.
    """
    if config.dataset:
        prepared, simulator = open_placements(config, drawn(config), device)
        return make_world(prepared, config, device, simulator)
    houses, kinds = config.house_config(), config.goal_kinds
    terms = Terms(houses=houses, radius=config.success_radius, too_many=config.too_many, kinds=kinds)
    key = (config.seeds, terms, config.view(), config.motion(), config.sensors, device)
    shared = config.simulator == "embedded"  # Habitat's workers are those of one environment, which closes them
    if (found := _WORLDS.get(key) if shared else None) is None:
        prepared = [one for one in prepare(config.seeds, terms) if len(one.kind_K)]
        if not prepared:
            config.refuse(
                f"none of {config.houses} houses has a goal of {len(kinds)} kinds; take more kinds, or more houses"
            )
        found = make_world(prepared, config, device)
        if shared:
            _WORLDS[key] = found
    return found


def make_world(
    prepared: Sequence[Prepared],
    config: ObjectNavConfig,
    device: torch.device,
    simulator: Embedded | Habitat | None = None,
) -> World:
    """Put houses that have goals on a device, in a simulator that has them or a new one."""
    simulator = simulator or make_simulator([one.house for one in prepared], config, device)
    origin_H3 = simulator.origin_H3.cpu()
    allowed = set(config.goal_kinds)
    goals = [[k for k, kind in enumerate(one.kind_K.tolist()) if kind in allowed] for one in prepared]
    count = [len(mine) for mine in goals]
    goal_HG = torch.zeros(len(prepared), max(count), dtype=torch.int64)
    ids = 1 + max(len(one.house.instances) for one in prepared)
    kind_HE = torch.full((len(prepared), ids), -1)
    place_HE3 = torch.zeros(len(prepared), ids, 3)
    fields = []
    for h, (one, mine) in enumerate(zip(prepared, goals, strict=True)):
        goal_HG[h, : len(mine)] = torch.from_numpy(one.kind_K[mine])
        fields.append(simulator.pad(one.field()[mine]).half())
        for instance in one.house.instances:
            kind_HE[h, instance.id] = -1 if instance.goal is None else instance.goal
            place_HE3[h, instance.id] = torch.tensor(instance.centre) + origin_H3[h]
    goals_H = torch.tensor(count)
    return World(
        prepared=tuple(prepared),
        simulator=simulator,
        way_FC=torch.cat(fields),
        goals_H=goals_H.to(device),
        goal_HG=goal_HG.to(device),
        first_H=(goals_H.cumsum(0) - goals_H).to(device),
        kind_HE=kind_HE.to(device),
        place_HE3=place_HE3.to(device),
    )
