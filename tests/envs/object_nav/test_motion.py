"""How far up and down the agent of object navigation can look, and whether it slides: by option and by preset."""

import math

import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.object_nav import ObjectNavConfig

FORWARD, UP, DOWN = 1, 4, 5
SMALL = {"size": 8, "houses": 1, "max_rooms": 3, "max_things": 25, "kinds": 4}


def tilts(config: ObjectNavConfig, actions: list[int]) -> list[float]:
    """The pitch at the start and after each action, in degrees, as the agent is told it."""
    env = config.build(1, 0)
    state, step = env.reset()
    told = [step]
    for action in actions:
        state, step = env.step(state, torch.tensor([action]))
        told.append(step)
    return [90 * each.obs["pose"][0, 4].item() for each in told]


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, [0, 30, 30, 0, -30, -60, -60, -30]),
        ({"min_tilt": -45, "max_tilt": 15}, [0, 15, 15, -15, -45, -45, -45, -15]),
        ({"min_tilt": 20, "max_tilt": 40}, [20, 40, 40, 20, 20, 20, 20, 40]),
    ],
)
def test_a_look_ends_at_the_tilts_and_an_episode_begins_as_level_as_they_let_it(
    options: dict[str, float], want: list[float]
) -> None:
    found = tilts(ObjectNavConfig(**SMALL, **options), [UP, UP, DOWN, DOWN, DOWN, DOWN, UP])
    assert found == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("preset", ["relic", "memo"])
def test_the_tilts_of_the_papers_are_those_of_their_camera(preset: str) -> None:
    """The code clamps the point it looks at, 1.25 m from the foot, to 20 and 100 degrees from upright; the camera is
    1.2 m above the foot and 0.25 m ahead of it."""

    def pitch(degrees: float) -> float:
        ahead, up = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        return math.degrees(math.atan2(1.25 * up - 1.2, 1.25 * ahead - 0.25))

    config = ObjectNavConfig(preset=preset, **SMALL)
    full = config.resolved()
    assert (full.min_tilt, full.max_tilt) == (round(pitch(100)), round(pitch(20)))
    assert full.sliding
    assert full.look == 30
    assert tilts(config, [DOWN, DOWN, UP, UP]) == pytest.approx([-8, -38, -55, -25, -8], abs=1e-3)


def test_an_agent_that_does_not_slide_gets_stuck_where_another_goes_on() -> None:
    """Ten steps ahead from the same places: nobody gets further than one that slides, and some not as far."""
    walked = []
    for sliding in (True, False):
        env = make_config("object-nav", **SMALL, sliding=sliding).build(32, 0)
        state, _ = env.reset()
        for _ in range(10):
            state, _ = env.step(state, torch.full((32,), FORWARD))
        walked.append(state.task.walked_B)
    slid_B, stopped_B = walked
    assert (stopped_B <= slid_B + 1e-4).all()
    assert (stopped_B < slid_B - 0.2).sum() > 8
    assert torch.equal(slid_B > 2.499, stopped_B > 2.499)
    assert (stopped_B > 2.499).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_tilt": 40}, "motion: tilts go from 40 to 30.0; degrees from -90 to 90, the lowest first, are expected"),
        ({"min_tilt": -91}, r"min_tilt is -91; it must lie in -90\.\.90"),
        ({"max_tilt": "up"}, "max_tilt is 'up'; it must be a finite number"),
    ],
)
def test_tilts_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^object-nav: {message}"):
        make_config("object-nav", **options)
