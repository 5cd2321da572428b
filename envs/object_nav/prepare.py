"""Houses with what an episode needs to know of them: which kinds can be goals, and how far it is to each.

A house of 6 to 8 rooms takes about 9 ms on one core, and each kind that can be a goal 1 ms: 0.2 for the places from
where its things are seen, 0.8 for the ways to them. Many are made by several processes. What a process has made it
keeps, so that training and evaluation share it.

Shapes: I and J cells of the floor's grid, N of them navigable, K kinds.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..houses import House, HouseConfig, Instance, generate, geodesic_field, viewpoints
from ..houses.house import KINDS
from ..progress import shown

MANY = 200
"""From so many houses on, several processes make them, and a bar shows how far they are."""
KEPT = 2048
"""Houses that a process keeps, at about a quarter of a megabyte each."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What houses are like, and what makes a thing a goal."""

    houses: HouseConfig
    radius: float
    """How near a thing must be, metres."""
    too_many: int
    """A kind with so many instances is no goal."""
    kinds: tuple[int, ...] = tuple(range(len(KINDS)))
    """Which kinds can be goals, by their places in `KINDS`."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A house and the ways to its goals."""

    house: House
    kind_K: np.ndarray
    """(K,) int64: the kinds that can be goals, in order."""
    way_KN: np.ndarray
    """(K, N) float16, metres: from each navigable cell to the nearest viewpoint of an instance. The rounding is at most
    8 mm up to 32 m."""

    def field(self) -> np.ndarray:
        """Return the ways on the grid of the floor, (K, I, J) float16; infinite where nobody can be."""
        found = np.full((len(self.kind_K), *self.house.navigable_IJ.shape), np.inf, dtype=np.float16)
        found[:, self.house.navigable_IJ] = self.way_KN
        return found


_KEPT: OrderedDict[tuple[int, Terms], Prepared] = OrderedDict()


def prepare(seeds: Sequence[int], terms: Terms) -> list[Prepared]:
    """Return the houses of some seeds. Many new ones are made by processes, which need the usual `__main__` guard."""
    new = [seed for seed in dict.fromkeys(seeds) if (seed, terms) not in _KEPT]
    made = dict(zip(new, shown(_make(new, terms), "making houses", len(new), MANY), strict=True))
    found = [made[seed] if seed in made else _KEPT[seed, terms] for seed in seeds]
    for seed, one in zip(seeds, found, strict=True):
        _KEPT[seed, terms] = one
        _KEPT.move_to_end((seed, terms))
    while len(_KEPT) > KEPT:
        _KEPT.popitem(last=False)
    return found


def prepare_one(seed: int, terms: Terms) -> Prepared:
    """Make the house of a seed, and find the ways to its goals."""
    return survey(generate(seed, terms.houses), terms)


def survey(house: House, terms: Terms) -> Prepared:
    """Find the ways to the goals of a house: of `kinds`, those with fewer than `too_many` instances and a viewpoint."""
    reach, eye_height = reach_of(terms.radius, house.cell), terms.houses.eye_height
    return ways_to(house, terms.kinds, terms.too_many, lambda thing: viewpoints(house, thing, reach, eye_height))


def reach_of(radius: float, cell: float) -> float:
    """Return how far a viewpoint can be: half the diagonal of a cell less, so that it is near with all of its cell."""
    return radius - math.sqrt(0.5) * cell


def ways_to(house: House, kinds: Collection[int], too_many: int, views: Callable[[Instance], np.ndarray]) -> Prepared:
    """Find the ways to the goals of a house.

    Args:
        house: where they are.
        kinds: the kinds that can be goals.
        too_many: a kind with so many instances is no goal.
        views: the viewpoints of a thing, (I, J) bool; a kind without any is no goal.
    """
    things: dict[int, list[Instance]] = {}
    for thing in house.things:
        if thing.goal is not None and thing.goal in kinds:
            things.setdefault(thing.goal, []).append(thing)
    seen = {}
    for kind in sorted(things):
        if len(things[kind]) < too_many:
            found = [views(thing) for thing in things[kind]]
            if np.any(found):
                seen[kind] = np.any(found, axis=0)
    goals_KIJ = np.stack(list(seen.values())) if seen else np.zeros((0, *house.navigable_IJ.shape), dtype=bool)
    way_KIJ = geodesic_field(house.navigable_IJ, goals_KIJ, house.cell) if seen else goals_KIJ
    return Prepared(house, np.array(list(seen), dtype=np.int64), way_KIJ[:, house.navigable_IJ].astype(np.float16))


def _make(seeds: Sequence[int], terms: Terms) -> Iterator[Prepared]:
    workers = min(len(os.sched_getaffinity(0)), len(seeds) // (MANY // 2))
    if len(seeds) < MANY or workers < 2 or multiprocessing.current_process().daemon:
        yield from (prepare_one(seed, terms) for seed in seeds)
        return
    # Once here, so that what is compiled at its first use is there for all.
    yield prepare_one(seeds[0], terms)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context) as pool:
        # As bytes: tensors would be passed as files, of which a process cannot have many open.
        yield from map(pickle.loads, pool.map(partial(_packed, terms=terms), seeds[1:], chunksize=8))


def _packed(seed: int, terms: Terms) -> bytes:
    return pickle.dumps(prepare_one(seed, terms))
