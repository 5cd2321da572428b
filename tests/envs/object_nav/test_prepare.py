"""Houses with their goals: checked against the functions they come from, shared, and made by many processes alike."""

import gc
import os
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnemic.envs.houses import HouseConfig, geodesic_field, viewpoints
from mnemic.envs.object_nav import ObjectNavConfig, prepare
from mnemic.envs.object_nav.prepare import Terms

HOUSES = HouseConfig(max_rooms=3, max_things=25)
SMALL = ObjectNavConfig(size=8, houses=2, max_rooms=3, max_things=25)


def terms(radius: float = 2.0, too_many: int = 10) -> Terms:
    return Terms(houses=HOUSES, radius=radius, too_many=too_many)


def test_ways_lead_to_viewpoints_of_any_instance() -> None:
    made = prepare.prepare_one(4, terms())
    house = made.house
    names = {thing.goal for thing in house.things}
    assert set(made.kind_K.tolist()) <= names
    assert sorted(made.kind_K.tolist()) == made.kind_K.tolist()
    for k in (0, len(made.kind_K) - 1):
        things = [thing for thing in house.things if thing.goal == made.kind_K[k]]
        reach = 2.0 - 0.1 * 2**-0.5
        seen_IJ = np.any([viewpoints(house, thing, reach) for thing in things], axis=0)
        want_IJ = geodesic_field(house.navigable_IJ, seen_IJ[None], house.cell)[0]
        field_IJ = made.field()[k].astype(np.float32)
        assert np.array_equal(field_IJ == 0, seen_IJ)
        assert np.array_equal(np.isinf(field_IJ), ~house.navigable_IJ)
        free = house.navigable_IJ
        assert np.abs(field_IJ[free] - want_IJ[free]).max() <= 0.008


def test_a_viewpoints_whole_cell_is_within_the_radius() -> None:
    env = SMALL.build(1, 0)
    world = env.world
    for h, made in enumerate(world.prepared):
        lines, columns = world.simulator.grid
        for g in range(int(world.goals_H[h])):
            cell = (world.way_FC[world.first_H[h] + g] == 0).nonzero()[:, 0]
            i, j = cell // columns, cell % columns
            assert int(i.max()) < lines
            things = [t for t in made.house.things if t.goal == int(world.goal_HG[h, g])]
            corners = [((j + dj) * 0.1, (i + di) * 0.1) for di in (0, 1) for dj in (0, 1)]
            farthest = [
                torch.stack([torch.hypot(x - t.centre[0], z - t.centre[2]) for x, z in corners]).amax(0) for t in things
            ]
            assert torch.stack(farthest).amin(0).max() <= 2.0 + 1e-4


def test_a_kind_with_too_many_instances_is_no_goal() -> None:
    every, few = prepare.prepare_one(4, terms()), prepare.prepare_one(4, terms(too_many=2))
    count = {kind: sum(thing.goal == kind for thing in every.house.things) for kind in every.kind_K.tolist()}
    assert few.kind_K.tolist() == [kind for kind, many in count.items() if many == 1]
    assert len(few.kind_K) < len(every.kind_K)


def test_only_the_kinds_that_are_asked_for_are_goals() -> None:
    every = prepare.prepare_one(4, terms())
    some = prepare.prepare_one(4, replace(terms(), kinds=(*every.kind_K[1::2].tolist(), 99)))
    assert np.array_equal(some.kind_K, every.kind_K[1::2])
    assert np.array_equal(some.way_KN, every.way_KN[1::2])


def test_what_was_made_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare.prepare([7, 9], terms())
    monkeypatch.setattr(prepare, "prepare_one", lambda seed, terms: pytest.fail("made again"))
    assert all(a is b for a, b in zip(prepare.prepare([9, 7], terms()), first[::-1], strict=True))


def test_no_more_is_kept_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_KEPT", type(prepare._KEPT)())
    monkeypatch.setattr(prepare, "KEPT", 2)
    assert [made.house.seed for made in prepare.prepare([1, 2, 1, 3], terms())] == [1, 2, 1, 3]
    assert [seed for seed, _ in prepare._KEPT] == [1, 3]


def test_a_world_is_shared_while_someone_holds_it() -> None:
    one, other = SMALL.build(2, 0), SMALL.build(5, 1)
    assert one.world is other.world
    assert ObjectNavConfig(size=9, houses=2, max_rooms=3, max_things=25).build(1, 0).world is not one.world
    seen = weakref.ref(one.world)
    del one, other
    gc.collect()
    assert seen() is None


def test_processes_make_the_same_houses(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [prepare.prepare_one(seed, terms()) for seed in range(4)]
    monkeypatch.setattr(prepare, "_KEPT", type(prepare._KEPT)())
    monkeypatch.setattr(prepare, "MANY", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    for one, other in zip(prepare.prepare(range(4), terms()), alone, strict=True):
        assert one.house.seed == other.house.seed
        assert all(torch.equal(a, b) for a, b in zip(one.house.solids, other.house.solids, strict=True))
        assert np.array_equal(one.kind_K, other.kind_K)
        assert np.array_equal(one.way_KN, other.way_KN)
