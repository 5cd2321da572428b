import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnemic.envs.houses import KINDS, MATERIALS, House, HouseConfig, furniture, generate, split_seed
from mnemic.envs.houses.furnish import PASSAGE, Ground, _before, apart
from mnemic.envs.houses.furniture import FURNISHINGS
from mnemic.envs.houses.house import BOX, Room
from mnemic.envs.houses.navigable import pieces, viewpoints
from mnemic.envs.houses.parts import Draw
from mnemic.envs.houses.parts import bounds as row_bounds
from mnemic.envs.houses.plan import DOOR_HEIGHT, LEAF, WALL
from mnemic.envs.houses.things import THINGS

SEEDS = tuple(range(24))
house = cache(generate)


def bounds(house: House) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and greatest corner of each solid, (S, 3)."""
    solids = house.solids
    half, yaw = solids.half_S3.double(), solids.yaw_S.double()
    wide = half[:, 0] * yaw.cos().abs() + half[:, 2] * yaw.sin().abs()
    deep = half[:, 0] * yaw.sin().abs() + half[:, 2] * yaw.cos().abs()
    reach = torch.stack([wide, half[:, 1], deep], 1)
    return (solids.centre_S3 - reach).numpy(), (solids.centre_S3 + reach).numpy()


def a_room() -> Ground:
    return Ground(0, Room("living", (0.0, 0.0), (4.0, 4.0)), [])


def test_the_seed_decides_everything() -> None:
    once, again, other = generate(5), generate(5), generate(6)
    assert all(torch.equal(a, b) for a, b in zip(once.solids, again.solids, strict=True))
    assert (once.rooms, once.doors, once.instances) == (again.rooms, again.doors, again.instances)
    assert np.array_equal(once.navigable_IJ, again.navigable_IJ)
    assert once.rooms != other.rooms


def test_a_house_stays_what_it_was() -> None:
    """Figures of one house: whoever changes them makes other houses, and old results no longer hold."""
    known = house(0)
    assert known.size == (7.5, 2.6, 11.2)
    assert [room.kind for room in known.rooms] == ["bedroom", "bath", "bedroom", "study", "living", "kitchen"]
    assert (len(known.solids.kind_S), len(known.things), int(known.navigable_IJ.sum())) == (296, 32, 4745)
    assert float(known.solids.centre_S3.double().sum()) == pytest.approx(3046.4169, abs=1e-2)


@pytest.mark.parametrize("seed", SEEDS)
def test_rooms_tile_the_plan_and_doors_join_them(seed: int) -> None:
    plan = house(seed)
    assert 3 <= len(plan.rooms) <= 8
    assert {room.kind for room in plan.rooms} >= {"living", "kitchen"}
    assert {room.kind for room in plan.rooms} <= set(FURNISHINGS)
    area = sum((room.size[0] + WALL) * (room.size[1] + WALL) for room in plan.rooms)
    assert area == pytest.approx(plan.size[0] * plan.size[2])
    joined = {0}
    for _ in plan.rooms:
        joined |= {room for door in plan.doors if joined & set(door.rooms) for room in door.rooms}
    assert joined == set(range(len(plan.rooms)))
    for door in plan.doors:
        extents = sorted(high - low for low, high in zip(door.low, door.high, strict=True))
        assert extents[0] == pytest.approx(WALL)
        assert extents[1] >= LEAF - 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_doorways_are_open_and_have_lintels(seed: int) -> None:
    plan = house(seed)
    low_S3, high_S3 = bounds(plan)
    for door in plan.doors:
        inside = (low_S3[:, [0, 2]] < np.array(door.high) - 1e-4) & (high_S3[:, [0, 2]] > np.array(door.low) + 1e-4)
        there = inside.all(1) & (high_S3[:, 1] > 0.02) & (low_S3[:, 1] < plan.size[1] - 0.01)
        assert there.sum() == 2, "the lintels of the two rooms"
        assert low_S3[there, 1] == pytest.approx(DOOR_HEIGHT, abs=1e-4)
        middle = [(a + b) / 2 / plan.cell for a, b in zip(door.low, door.high, strict=True)]
        assert plan.navigable_IJ[int(middle[1]), int(middle[0])]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_inside_anything_else(seed: int) -> None:
    plan = house(seed)
    low_S3, high_S3 = bounds(plan)
    owner_S = plan.solids.semantic_S.numpy()
    flat_S = (owner_S == 0) & (high_S3[:, 1] < 0.02)  # floors and rugs
    overlap = np.minimum(high_S3[:, None], high_S3) - np.maximum(low_S3[:, None], low_S3)
    overlap = (overlap > 1e-3).all(-1) & (owner_S[:, None] != owner_S) & ~flat_S[:, None] & ~flat_S
    assert not overlap.any()
    assert (low_S3[:, [0, 2]] > -1e-4).all()
    assert (high_S3[:, [0, 2]] < np.array([plan.size[0], plan.size[2]]) + 1e-4).all()


@pytest.mark.parametrize(("gap", "after"), [(0.1, 0.1), (0.2, 0.1), (0.3, 0.4), (0.34, 0.39), (0.4, 0.4)])
def test_armchairs_leave_no_gap_that_is_hardly_one(gap: float, after: float) -> None:
    ground, armchair, chair = a_room(), furniture.armchair(Draw(0)), furniture.chair(Draw(0))
    other = ground.stand(chair, 2.0 + (armchair.width + chair.width) / 2 + gap, 3.58, 0.0, None)
    standing = ground.stand(armchair, 2.0, 3.58, 0.0, _before(armchair, 2.0, 3.58, 0.0))
    ground.step_aside(standing)
    assert apart(standing.rect, other.rect) == pytest.approx(after)
    assert standing.z == 3.58, "it stays at its wall"
    assert ground.taken == [other.rect, standing.rect]
    assert ground.kept == [_before(armchair, standing.x, standing.z, 0.0)]
    (x, _, z), (half_x, _, half_z) = row_bounds(standing.rows)
    assert (x - half_x, z - half_z, x + half_x, z + half_z) == pytest.approx(standing.rect, abs=1e-4)


def test_an_armchair_that_cannot_step_aside_stays() -> None:
    ground, armchair, chair = a_room(), furniture.armchair(Draw(0)), furniture.chair(Draw(0))
    for side in (-1, 1):
        ground.stand(chair, 2.0 + side * ((armchair.width + chair.width) / 2 + 0.2), 3.58, 0.0, None)
    standing = ground.stand(armchair, 2.0, 3.58, 0.0, _before(armchair, 2.0, 3.58, 0.0))
    ground.step_aside(standing)
    assert (standing.x, standing.z) == (2.0, 3.58)
    assert standing.rect in ground.taken
    assert len(ground.kept) == 1


def test_a_house_has_its_armchair_out_of_the_way() -> None:
    """Of this one a third of the ways led through a gap of 0.30 m between the two."""
    known = generate(split_seed("validation", 3))
    (chair,), (table,) = ([one for one in known.instances if one.kind == kind] for kind in ("armchair", "coffee_table"))
    corners = [
        [one.centre[axis] + side * one.half[axis] for side in (-1, 1) for axis in (0, 2)] for one in (chair, table)
    ]
    assert apart(*map(tuple, corners)) >= PASSAGE[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_instances_say_where_their_solids_are(seed: int) -> None:
    plan = house(seed)
    low_S3, high_S3 = bounds(plan)
    owner_S = plan.solids.semantic_S.numpy()
    assert sorted(set(owner_S.tolist())) == list(range(len(plan.instances) + 1))
    for number, instance in enumerate(plan.instances, start=1):
        assert instance.id == number
        assert np.array_equal(np.flatnonzero(owner_S == number), np.r_[instance.solids])
        low, high = low_S3[instance.solids].min(0), high_S3[instance.solids].max(0)
        assert np.allclose(low, np.subtract(instance.centre, instance.half), atol=1e-4)
        assert np.allclose(high, np.add(instance.centre, instance.half), atol=1e-4)
        room = plan.rooms[instance.room]
        assert (low[[0, 2]] >= np.array(room.low) - 1e-4).all()
        assert (high[[0, 2]] <= np.array(room.high) + 1e-4).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_thing_rests_on_something(seed: int) -> None:
    plan = house(seed)
    low_S3, high_S3 = bounds(plan)
    for thing in plan.things:
        bottom = thing.centre[1] - thing.half[1]
        under = np.abs(high_S3[:, 1] - bottom) < 2e-3
        middle = np.array([thing.centre[0], thing.centre[2]])
        under &= ((low_S3[:, [0, 2]] < middle) & (high_S3[:, [0, 2]] > middle)).all(1)
        assert under.any(), thing


@pytest.mark.parametrize("seed", SEEDS)
def test_the_floor_is_one_piece_with_a_part_in_every_room(seed: int) -> None:
    plan = house(seed)
    assert pieces(plan.navigable_IJ).max() == 1
    i, j = np.nonzero(plan.navigable_IJ)
    at = np.stack([(j + 0.5) * plan.cell, (i + 0.5) * plan.cell], 1)
    for room in plan.rooms:
        here = ((at > np.array(room.low)) & (at < np.array(room.high))).all(1)
        assert here.sum() * plan.cell**2 >= 1.0
    # No solid is nearer than the agent's radius: turned boxes count with the boxes around them where they are far.
    low_S3, high_S3 = bounds(plan)
    straight_S = (plan.solids.kind_S.numpy() == BOX) & (plan.solids.yaw_S.numpy() == 0)
    stands_S = straight_S & (low_S3[:, 1] < HouseConfig().agent_height) & (high_S3[:, 1] > 0.05)
    for low, high in zip(low_S3[stands_S][:, [0, 2]], high_S3[stands_S][:, [0, 2]], strict=True):
        away = np.maximum(np.maximum(low - at, at - high), 0.0)
        assert (np.hypot(*away.T) > HouseConfig().agent_radius - 1e-4).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_thing_is_seen_from_a_viewpoint(seed: int) -> None:
    plan = house(seed)
    assert 25 <= len(plan.things) <= 40
    for thing in plan.things:
        assert thing.viewpoint is not None
        x, z = thing.viewpoint
        assert np.hypot(x - thing.centre[0], z - thing.centre[2]) <= 2.0
        assert viewpoints(plan, thing)[int(z / plan.cell), int(x / plan.cell)]


def test_all_kinds_come_up_and_look_different() -> None:
    assert set(THINGS) == set(KINDS)
    assert {thing.kind for seed in SEEDS for thing in house(seed).things} == set(KINDS)
    assert all(1 <= len(parts) <= 5 for parts in THINGS.values())
    looks = [frozenset((part.kind, part.material) for part in parts) for parts in THINGS.values()]
    assert len(set(looks)) == len(looks)


def test_all_kinds_of_rooms_and_furniture_come_up() -> None:
    draw = Draw(0)
    makers = {make for makers in FURNISHINGS.values() for make, _ in makers}
    wanted = {make(draw).kind for make in makers} | {"chair", "nightstand", "coffee_table"}
    houses = [generate(seed, HouseConfig(min_rooms=8)) for seed in range(12)]
    assert {thing.kind for made in houses for thing in made.instances if thing.goal is None} == wanted
    assert {room.kind for made in houses for room in made.rooms} == set(FURNISHINGS)
    assert all(len(made.rooms) == 8 for made in houses)


def test_materials_are_named_by_their_place() -> None:
    numbers = house(1).solids.material_S
    assert int(numbers.min()) >= 0
    assert int(numbers.max()) < len(MATERIALS)


def test_options_are_heeded() -> None:
    empty = generate(3, HouseConfig(fullness=0.0, min_things=5, max_things=5, windows=False, wall_height=3.0))
    full = generate(3, HouseConfig(min_things=5, max_things=5))
    assert len(empty.things) == len(full.things) == 5
    assert len(empty.instances) < len(full.instances)
    assert empty.size[1] == 3.0
    glass = next(place for place, material in enumerate(MATERIALS) if material.name == "glass")
    mirrors = sum(instance.kind == "washbasin" for instance in empty.instances)
    assert int((empty.solids.material_S == glass).sum()) == mirrors
    wide = generate(3, HouseConfig(agent_radius=0.2, cell=0.05))
    assert wide.navigable_IJ.sum() * 0.05**2 < full.navigable_IJ.sum() * 0.1**2
    large = generate(3, HouseConfig(room_area=20.0))
    assert large.size[0] * large.size[2] > 1.2 * full.size[0] * full.size[2]


def test_splits_share_no_house() -> None:
    seeds = {split: {split_seed(split, index) for index in range(100)} for split in ("train", "validation", "test")}
    assert all(len(found) == 100 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_rooms": 2}, "rooms are 2 to 8; give min_rooms <= max_rooms within 3 to 8"),
        ({"min_rooms": 5, "max_rooms": 4}, "rooms are 5 to 4"),
        ({"min_rooms": 3.5}, "min_rooms is 3.5; a whole number is expected"),
        ({"max_things": "40"}, "max_things is '40'; a whole number is expected"),
        ({"eye_height": "high"}, "eye_height is 'high'; a number from 0.2 to 2.0 is expected"),
        ({"min_things": 41}, "things are 41 to 40; give min_things <= max_things"),
        ({"room_area": 5.0}, "room_area is 5.0; a number from 9.0 to 40.0 is expected"),
        ({"wall_height": 2.0}, "wall_height is 2.0"),
        ({"thing_scale": float("nan")}, "thing_scale is nan"),
        ({"fullness": 1.5}, "fullness is 1.5"),
        ({"agent_radius": 0.5}, "agent_radius is 0.5"),
        ({"agent_height": 3.0}, "agent_height is 3.0"),
        ({"eye_height": 0.0}, "eye_height is 0.0"),
        ({"cell": 0.0}, "cell is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^houses: {message}"):
        HouseConfig(**options)


def test_wrong_seeds_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^houses: seed is -1; a whole number from 0 is expected"):
        generate(-1)
    with pytest.raises(ValueError, match=r"^houses: unknown split 'dev'; choose one of train, validation, test"):
        split_seed("dev", 0)
    with pytest.raises(ValueError, match=r"^houses: index is -2"):
        split_seed("test", -2)


def test_the_page_lists_every_option() -> None:
    page = (Path(__file__).parents[3] / "docs" / "houses.md").read_text()
    table = {name for line in page.splitlines() if line.startswith("| `") for name in re.findall("`(.*?)`", line)}
    assert table == {field.name for field in fields(HouseConfig)}


@pytest.mark.parametrize("radius", [0.1, 0.2])
@pytest.mark.parametrize("cell", [0.05, 0.1])
def test_small_and_full_houses_can_be_made(radius: float, cell: float) -> None:
    for seed in range(4):
        config = HouseConfig(min_rooms=8, room_area=9.0, agent_radius=radius, cell=cell, min_things=40)
        made = generate(seed, config)
        assert pieces(made.navigable_IJ).max() == 1
        assert len(made.things) >= 25
