"""Pictures for people: the view beside the map, the way, and the goals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnemic.envs.object_nav import ObjectNavConfig
from mnemic.envs.object_nav.drawing import (
    AGENT_COLOUR,
    GOAL_COLOUR,
    SIDE,
    START_COLOUR,
    WAY_COLOUR,
    first_person,
    way_map,
)
from mnemic.envs.picture import to_rgb, to_text

SMALL = ObjectNavConfig(size=16, houses=2, max_rooms=3, max_things=25)
FORWARD, LEFT = 1, 2


def is_painted(image: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    return tuple(image[int(y), int(x)].tolist()) == colour


def test_the_map_shows_goals_way_and_agent() -> None:
    house = SMALL.build(1, 0).world.prepared[0].house
    scale = int(SIDE / max(house.size[0], house.size[2]))
    image = way_map(house, [(1.0, 1.0), (3.0, 1.0), (3.0, 2.0)], -math.pi / 2, [(2.0, 3.0)])
    assert image.shape == (SIDE, SIDE, 3)
    assert is_painted(image, 2.0 * scale, 3.0 * scale, GOAL_COLOUR)
    assert is_painted(image, 2.0 * scale, 1.0 * scale, WAY_COLOUR)
    assert is_painted(image, 1.0 * scale, 1.0 * scale, START_COLOUR)
    assert is_painted(image, 3.0 * scale, 2.0 * scale, AGENT_COLOUR)
    assert is_painted(image, 3.0 * scale + 10, 2.0 * scale, AGENT_COLOUR)  # looks to +x
    assert not is_painted(image, 3.0 * scale - 10, 2.0 * scale, AGENT_COLOUR)


@pytest.mark.parametrize("sensors", ["rgb", "depth"])
def test_an_episode_is_drawn(sensors: str) -> None:
    env = ObjectNavConfig(size=16, houses=2, max_rooms=3, max_things=25, sensors=sensors).build(3, 0)
    state, step = env.reset()
    states = [state]
    for action in (FORWARD, FORWARD, LEFT):
        state, step = env.step(state, torch.full((3,), action))
        states.append(state)
    picture = env.draw_episode(states, 1)
    image = to_rgb(picture)
    assert image.shape == (SIDE, 2 * SIDE, 3)
    assert image.dtype == np.uint8
    if sensors == "rgb":
        assert np.array_equal(
            image[SIDE // 32 :: SIDE // 16, SIDE // 32 : SIDE : SIDE // 16], step.obs["rgb"][1].numpy()
        )
    text = to_text(picture)
    assert "G" in text
    assert sum(text.count(arrow) for arrow in "↑↖←↙↓↘→↗") == 1
    assert picture.caption.startswith("find ")
    assert picture.caption.partition(" m to go")[0].endswith(f"{state.task.distance_B[1].item():.1f}")
    alone = to_rgb(env.draw(state, 1))
    assert (alone != image).any()  # without the way
    assert np.array_equal(alone[:, :SIDE], image[:, :SIDE])


def test_a_depth_is_drawn_darker_with_distance_and_black_where_nothing_is_in_reach() -> None:
    env = replace(SMALL, sensors="depth", far=2.0).build(8, 0)
    state, step = env.reset()
    depth_IJ = step.obs["depth"][..., 0].numpy()
    for row in range(8):
        drawn_IJ = first_person(env.world, state.task, row, False)[:: SIDE // 16, :: SIDE // 16, 0]
        seen_IJ = depth_IJ[row] > 0
        assert not drawn_IJ[~seen_IJ].any()
        assert np.abs(drawn_IJ[seen_IJ] - 255 * (1 - depth_IJ[row][seen_IJ])).max() <= 1
    assert (depth_IJ == 0).any()


def test_without_colours_a_mask_is_painted() -> None:
    env = replace(SMALL, sensors="depth,mask").build(8, 0)
    state, step = env.reset()
    seen = torch.zeros(8)
    for _ in range(12):  # a full turn
        state, step = env.step(state, torch.full((8,), LEFT))
        for row in range(8):
            mask_IJ = step.obs["mask"][row, :, :, 0].bool().numpy()
            drawn_IJ3 = first_person(env.world, state.task, row, True)[:: SIDE // 16, :: SIDE // 16]
            assert np.array_equal((drawn_IJ3 == GOAL_COLOUR).all(-1), mask_IJ)
            seen[row] += mask_IJ.sum()
    assert (seen > 0).any()
