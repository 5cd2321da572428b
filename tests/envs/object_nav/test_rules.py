"""The rules of object navigation, by hand in a house with one thing and one wall, and the oracle in real ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mnemic.envs import make_config
from mnemic.envs.houses import KINDS, House, Instance
from mnemic.envs.houses.house import as_solids
from mnemic.envs.native import NativeState
from mnemic.envs.object_nav import ObjectNav, ObjectNavConfig
from mnemic.envs.object_nav import env as env_module
from mnemic.envs.object_nav.prepare import Terms, survey
from mnemic.envs.object_nav.world import make_world
from mnemic.envs.oracle import play_trials
from mnemic.envs.simulator import Pose
from mnemic.envs.tmaze import TMazeConfig
from mnemic.eval.protocol import play_rule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STOP, FORWARD, LEFT, RIGHT, UP, DOWN = range(6)
SMALL = ObjectNavConfig(size=16, houses=3, max_rooms=3, max_things=25, episode_steps=200, trial_steps=600)
CUBE = (5.0, 1.25, 2.0)  # at the height of the eye


def bare_house() -> House:
    """A hall of 6 m by 6 m, a cube in it, and 1 m in front of the cube a wall of 2 m."""
    floor = (0, 3.0, -0.05, 3.0, 3.0, 0.05, 3.0, 0.0, 0, 0)
    cube = (0, *CUBE, 0.2, 0.2, 0.2, 0.0, 1, 1)
    wall = (0, 4.0, 1.3, 2.0, 0.05, 1.3, 1.0, 0.0, 2, 0)
    free_IJ = np.ones((60, 60), dtype=bool)
    free_IJ[9:31, 38:42] = free_IJ[17:23, 47:53] = False
    thing = Instance(1, "mug", 0, CUBE, (0.2, 0.2, 0.2), range(1, 2), None)
    return House(0, (6.0, 2.6, 6.0), as_solids([floor, cube, wall]), (), (), (thing,), 0.1, free_IJ)


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> ObjectNav:
    return built(monkeypatch, ObjectNavConfig(size=32))


def built(monkeypatch: pytest.MonkeyPatch, config: ObjectNavConfig, batch: int = 1) -> ObjectNav:
    terms = Terms(houses=config.house_config(), radius=config.success_radius, too_many=config.too_many)
    prepared = survey(bare_house(), terms)
    monkeypatch.setattr(env_module, "world", lambda options, device: make_world([prepared], options, device))
    return config.build(batch, 0, DEVICE)


def put(env: ObjectNav, state: NativeState, x: float, z: float, degrees: float) -> NativeState:
    """Begin the episode there."""
    pose = Pose(torch.tensor([[x, 0.0, z]]), torch.tensor([math.radians(degrees)]), torch.zeros(1))
    agents = env.simulator.place(torch.zeros(1, dtype=torch.int64), pose)
    distance_B = env.simulator.geodesic(agents, env.world.way_FC, state.task.field_B)
    task = state.task._replace(
        agents=agents,
        start_B3=agents.pose.position_B3,
        heading_B=agents.pose.yaw_B,
        distance_B=distance_B,
        shortest_B=distance_B,
    )
    return state._replace(task=env.look(task, state.episode_step)[0])


def act(env: ObjectNav, state: NativeState, action: int):
    return env.step(state, torch.full((env.batch,), action, device=env.device))


@pytest.mark.parametrize(
    ("x", "z", "degrees", "found"),
    [
        (5.0, 3.9, 0, True),  # near, and looks at it
        (5.0, 3.9, 30, True),
        (5.0, 3.9, 90, False),  # looks past it
        (5.0, 3.9, 180, False),
        (5.0, 4.1, 0, False),  # sees it from too far away
        (5.0, 5.5, 0, False),
        (3.5, 2.0, -90, False),  # near, with the wall between
    ],
)
def test_a_goal_is_found_by_a_stop_that_is_near_and_sees_it(
    hall: ObjectNav, x: float, z: float, degrees: float, found: bool
) -> None:
    state = put(hall, hall.reset()[0], x, z, degrees)
    assert bool(state.task.in_view_B) == found
    _, step = act(hall, state, STOP)
    assert bool(step.terminated) and bool(step.episode_start) and not bool(step.truncated)  # noqa: PT018
    assert bool(step.info["success"]) == found
    assert step.reward.item() == pytest.approx(-0.003 + 2.0 * found)
    assert step.info["spl"].item() == found  # where it stands it has made no detour
    for action in (FORWARD, LEFT, RIGHT, UP, DOWN):
        _, step = act(hall, state, action)
        assert not bool(step.episode_start)
        assert not bool(step.info["success"])


def test_a_stop_that_finds_nothing_can_cost_and_need_not_end_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong_stop in ("ends", "stays"):
        env = built(monkeypatch, ObjectNavConfig(size=32, wrong_stop=wrong_stop, wrong_reward=-0.5))
        state, step = act(env, put(env, env.reset()[0], 5.0, 3.9, 90), STOP)
        assert step.reward.item() == pytest.approx(-0.503)
        assert bool(step.terminated) == (wrong_stop == "ends")
        _, step = act(env, put(env, state, 5.0, 3.9, 0), STOP)
        assert step.reward.item() == pytest.approx(2 - 0.003)
        assert bool(step.terminated)


def test_the_goal_must_be_seen_from_where_stop_is_called(hall: ObjectNav) -> None:
    state = put(hall, hall.reset()[0], 5.0, 3.9, 60)
    state, _ = act(hall, state, LEFT)  # now it is out of the picture
    assert not bool(act(hall, state, STOP)[1].info["success"])
    state, _ = act(hall, state, RIGHT)
    state, _ = act(hall, state, RIGHT)
    assert bool(act(hall, state, STOP)[1].info["success"])


def test_more_of_it_has_to_be_seen_where_more_pixels_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1.5 m the cube's near face is 0.4 m of 2.6 m: 0.4 / 2.6 of 32 pixels are 4.9, so 25 pixels or so."""
    found = []
    for pixels in (10, 16 * 64, 36 * 64):
        env = built(monkeypatch, ObjectNavConfig(size=32, success_pixels=pixels))
        found.append(bool(put(env, env.reset()[0], 5.0, 3.5, 0).task.in_view_B))
    assert found == [True, True, False]
    assert [ObjectNavConfig(size=size).least_pixels for size in (16, 64, 128, 256, 512)] == [1, 1, 3, 10, 40]


def test_what_is_paid_is_how_much_shorter_the_way_became(hall: ObjectNav) -> None:
    """The viewpoints lie within 2 m of the cube, but for half a cell's diagonal; straight ahead the way is a line."""
    state = put(hall, hall.reset()[0], 5.05, 5.55, 0)
    began = state.task.distance_B.item()
    assert began == pytest.approx(3.55 - 2.0, abs=0.15)
    total = 0.0
    for _ in range(4):
        state, step = act(hall, state, FORWARD)
        assert step.reward.item() == pytest.approx(0.25 - 0.003, abs=0.02)
        total += step.reward.item()
    assert total == pytest.approx(began - step.info["distance_to_goal"].item() - 4 * 0.003, abs=1e-5)
    state, step = act(hall, state, LEFT)
    assert step.reward.item() == pytest.approx(-0.003)
    assert step.info["distance_to_goal"].item() == pytest.approx(began - total - 4 * 0.003, abs=1e-5)


def test_spl_is_the_shortest_way_over_the_one_walked(hall: ObjectNav) -> None:
    state = put(hall, hall.reset()[0], 5.05, 5.55, 0)
    shortest = state.task.distance_B.item()
    around = [LEFT] * 6 + [FORWARD] + [LEFT] * 6 + [FORWARD]  # a step away and back
    for action in (*around, *[FORWARD] * 7):
        state, step = act(hall, state, action)
        assert step.info["spl"].item() == 0
    _, step = act(hall, state, STOP)
    assert bool(step.info["success"])
    assert step.info["spl"].item() == pytest.approx(shortest / (9 * 0.25), abs=1e-3)


def test_a_pose_is_told_as_seen_from_the_start(hall: ObjectNav) -> None:
    state, step = hall.reset()
    assert step.obs["pose"].tolist() == [[0, 0, 1, 0, 0]]
    state = put(hall, state, 2.0, 4.0, 60)
    told = []
    for action in (FORWARD, FORWARD, LEFT, LEFT, LEFT, FORWARD, RIGHT, UP):
        state, step = act(hall, state, action)
        told.append(step.obs["pose"][0].tolist())
    assert told[1] == pytest.approx([0, -0.05, 1, 0, 0], abs=1e-6)
    assert told[4] == pytest.approx([0, -0.05, 0, 1, 0], abs=1e-6)  # a quarter turn to the left
    assert told[5] == pytest.approx([-0.025, -0.05, 0, 1, 0], abs=1e-6)
    half = math.sqrt(0.75)
    assert told[7] == pytest.approx([-0.025, -0.05, 0.5, half, 1 / 3], abs=1e-6)
    goal_K = step.obs["goal"][0]
    assert goal_K.sum() == 1
    assert KINDS[int(goal_K.argmax())] == "mug"


@pytest.mark.parametrize("pose", ["episode", "trial"])
def test_coordinates_are_of_the_episode_or_of_the_trial(monkeypatch: pytest.MonkeyPatch, pose: str) -> None:
    env = built(monkeypatch, ObjectNavConfig(size=32, pose=pose))
    state = put(env, env.reset()[0], 5.0, 3.9, 30)
    began, heading = state.task.start_B3, state.task.heading_B
    state, step = act(env, state, STOP)  # the next episode is somewhere else in the same house
    assert bool(step.episode_start)
    there = state.task.agents.pose
    if pose == "episode":
        assert step.obs["pose"].tolist() == [[0, 0, 1, 0, 0]]
    else:
        away_3 = (there.position_B3 - began)[0] / 10
        right, behind = (math.cos(heading), -math.sin(heading)), (math.sin(heading), math.cos(heading))
        turned = (there.yaw_B - heading).item()
        expected = [float(away_3[0] * x + away_3[2] * z) for x, z in (right, behind)]
        assert step.obs["pose"][0].tolist() == pytest.approx(
            [*expected, math.cos(turned), math.sin(turned), 0], abs=1e-6
        )
        assert step.obs["pose"][0, :2].abs().max() > 0.01
    while not bool(step.trial_start):
        state, step = act(env, state, LEFT)
    assert step.obs["pose"].tolist() == [[0, 0, 1, 0, 0]]


def test_a_mask_shows_the_goal_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    env = built(monkeypatch, ObjectNavConfig(size=32, sensors="depth,mask"))
    state = put(env, env.reset()[0], 5.0, 3.9, 0)
    _, step = act(env, act(env, state, LEFT)[0], RIGHT)
    assert sorted(step.obs) == ["depth", "goal", "mask", "pose"]
    mask_IJ = step.obs["mask"][0, :, :, 0]
    assert mask_IJ.unique().tolist() == [0, 1]
    near_IJ = (step.obs["depth"][0, :, :, 0] - 1.7 / 20).abs() < 1e-4  # the face of the cube
    assert torch.equal(mask_IJ.bool(), near_IJ)
    task = state.task._replace(target_B=state.task.target_B + 1)
    assert env.look(task, state.episode_step)[1]["mask"].max() == 0  # it is a mug, and no longer asked for


@pytest.mark.parametrize(
    ("x", "z", "degrees", "sector", "band"),
    [
        (5.0, 3.9, 0, 0, 0),  # ahead, at 1.9 m
        (5.0, 3.9, 30, 1, 0),  # a turn to the right
        (5.0, 3.9, 330, 11, 0),
        (5.0, 3.9, 180, 6, 0),
        (5.0, 4.1, 0, 0, 1),
        (2.5, 2.0, 0, 3, 1),  # on the right
        (5.0, 5.9, 90, 3, 1),
        (0.5, 2.0, 0, 3, 2),
    ],
)
def test_a_bearing_is_the_turn_that_faces_the_goal_and_how_far_it_is(
    hall: ObjectNav, x: float, z: float, degrees: float, sector: int, band: int
) -> None:
    state = put(hall, hall.reset()[0], x, z, degrees)
    found = hall.hidden(state, hall.reset()[1])
    assert found["bearing"].value.tolist() == [sector * 4 + band]
    assert found["bearing"].values == 48


def test_a_place_stays_where_it_is_while_the_agent_moves(hall: ObjectNav) -> None:
    """3 m behind the start and 1.25 m to its left, in cells of 1.5 m of which 8 lie on either side."""
    state = put(hall, hall.reset()[0], 3.75, 5.0, 180)
    step = hall.reset()[1]
    for action in (LEFT, FORWARD, RIGHT, FORWARD):
        place = hall.hidden(state, step)["place"]
        assert (place.value.tolist(), place.values) == ([(8 + 2) * 16 + 8 - 1], 256)
        state, step = act(hall, state, action)


def test_depth_is_the_share_of_what_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    env = built(monkeypatch, ObjectNavConfig(size=32, sensors="rgb,depth", far=10.0))
    state = put(env, env.reset()[0], 5.0, 3.75, 0)
    _, step = act(env, act(env, state, LEFT)[0], RIGHT)
    depth_IJ = step.obs["depth"][0, :, :, 0]
    assert depth_IJ[16, 16].item() == pytest.approx(0.155, abs=1e-5)
    assert depth_IJ[:10, 12:].max() == 0  # to the right of the wall and above the cube nothing is in reach
    assert step.obs["rgb"].shape == (1, 32, 32, 3)


def test_an_episode_is_truncated_at_its_cap_and_shows_what_was_seen_last() -> None:
    env = replace(SMALL, episode_steps=5, trial_steps=15).build(4, 0, DEVICE)
    state, step = env.reset()
    for t in range(1, 31):
        before = state
        state, step = act(env, state, LEFT)
        assert step.truncated.tolist() == [t % 5 == 0] * 4
        assert step.trial_start.tolist() == [t % 15 == 0] * 4
        assert not step.terminated.any()
        if t % 5 == 0:
            agents, _ = env.simulator.move(before.task.agents, torch.full((4,), LEFT, device=env.device))
            assert torch.equal(step.final_obs["rgb"], env.simulator.render(agents)["rgb"])
            assert torch.equal(step.obs["rgb"], env.simulator.render(state.task.agents)["rgb"])
            assert torch.equal(step.final_obs["goal"].argmax(1), before.task.target_B)
            assert (step.obs["pose"] == torch.tensor([0.0, 0, 1, 0, 0], device=env.device)).all()
            assert (step.final_obs["pose"] != step.obs["pose"]).any(1).all()


def test_some_rows_stop_and_the_others_go_on() -> None:
    env = SMALL.build(6, 1, DEVICE)
    state, _ = env.reset()
    state, before = act(env, state, LEFT)
    stops_B = torch.tensor([True, False, False, True, False, True], device=env.device)
    after, step = env.step(state, torch.where(stops_B, STOP, FORWARD))
    assert torch.equal(step.episode_start, stops_B)
    assert torch.equal(step.final_obs["rgb"][stops_B], before.obs["rgb"][stops_B])  # a stop moves nothing
    assert torch.equal(step.final_obs["rgb"][~stops_B], step.obs["rgb"][~stops_B])
    moved = after.task.agents.pose.position_B3[~stops_B] - state.task.agents.pose.position_B3[~stops_B]
    assert (moved.norm(dim=1) < 0.26).all()


def test_a_trial_is_one_house_and_the_next_another() -> None:
    env = replace(SMALL, episode_steps=4, trial_steps=12).build(8, 0, DEVICE)
    state, _ = env.reset()
    houses, goals = [state.task.agents.house_B], [state.task.target_B]
    for _ in range(36):
        state, step = act(env, state, RIGHT)
        houses.append(state.task.agents.house_B)
        goals.append(state.task.target_B)
        assert torch.equal(houses[-1] != houses[-2], step.trial_start)
    assert len(torch.stack(houses).unique()) == 3
    assert len(torch.stack(goals[:12])[:, 0].unique()) > 1


def test_goals_are_drawn_evenly_over_the_kinds_of_the_house() -> None:
    env = replace(SMALL, houses=1, size=8, episode_steps=1, trial_steps=50).build(96, 0, DEVICE)
    kinds = {thing.goal for thing in env.world.prepared[0].house.things}
    state, _ = env.reset()
    drawn = []
    for _ in range(20):
        state, _ = act(env, state, STOP)
        drawn.append(state.task.target_B)
    counts = torch.stack(drawn).flatten().bincount(minlength=len(KINDS)).cpu()
    assert set(counts.nonzero().flatten().tolist()) <= kinds
    many = counts[counts > 0].double()
    assert len(many) == int(env.world.goals_H[0])
    assert ((many / many.mean() - 1).abs() < 0.4).all()


def test_rewards_add_up_to_the_way_that_was_made() -> None:
    env = SMALL.build(8, 2, DEVICE)
    state, _ = env.reset()
    began_B, total_B = state.task.distance_B, torch.zeros(8, device=env.device)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        action_B = torch.randint(FORWARD, DOWN + 1, (8,), generator=generator).to(env.device)
        state, step = env.step(state, action_B)
        total_B = total_B + step.reward
    torch.testing.assert_close(total_B, began_B - step.info["distance_to_goal"] - 60 * 0.003, rtol=0, atol=1e-4)


def test_the_oracle_finds_everything_by_nearly_the_shortest_way() -> None:
    config = replace(SMALL, size=32)
    played = play_rule(config.oracle(), config, episodes=64, rows=8, device=DEVICE, max_steps=150)
    success, spl = (torch.tensor(played.info[name]) for name in ("success", "spl"))
    assert len(success) >= 40
    assert success.mean() >= 0.98
    assert spl.mean() > 0.9
    assert spl.max() <= 1


def test_trials_of_the_oracle_and_of_chance() -> None:
    config = replace(SMALL, episode_steps=60, trial_steps=60)
    oracle = play_trials(config, config.oracle(), batch=4, device=DEVICE)
    assert (oracle.episodes >= 1).all()

    def chance(obs: dict[str, Tensor], reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        return torch.arange(len(reward_B), device=reward_B.device) % 6

    assert oracle.returns.mean() > play_trials(config, chance, batch=4, device=DEVICE).returns.mean() + 1
    with pytest.raises(TypeError, match="cannot play tmaze"):
        play_trials(TMazeConfig(), config.oracle(), batch=1)


def test_starts_are_as_far_away_as_asked_for() -> None:
    for low, high in ((0.0, 1.5), (3.0, 4.0)):
        env = replace(SMALL, min_start=low, max_start=high, episode_steps=1, trial_steps=4).build(16, 0, DEVICE)
        state, _ = env.reset()
        begun = [state.task.shortest_B]
        for _ in range(8):
            state, _ = act(env, state, LEFT)
            begun.append(state.task.shortest_B)
        inside = (torch.stack(begun) >= low) & (torch.stack(begun) <= high)
        assert inside.float().mean() > 0.9  # a small house may have no such place


def test_in_the_small_preset_no_goal_is_in_view_where_an_episode_begins() -> None:
    begun = []
    for config in (SMALL, replace(SMALL, min_start=0.0)):
        state, _ = replace(config, size=32).build(200, 0, DEVICE).reset()
        begun.append(state.task)
    assert not begun[0].in_view_B.any()
    assert begun[0].shortest_B.min() >= 0.5
    assert begun[1].in_view_B.any()
    assert (begun[1].shortest_B == 0).any()


def test_the_presets_are_those_of_the_papers() -> None:
    memo, relic = (ObjectNavConfig(preset=name).resolved() for name in ("memo", "relic"))
    assert (memo.slack, relic.slack) == (-0.003, -0.001)
    for paper in (memo, relic):
        assert (paper.size, paper.hfov, paper.trial_steps, paper.episode_steps) == (256, 90, 4096, 500)
        assert (paper.success_radius, paper.least_pixels, paper.success_reward) == (2.0, 10, 2.0)
        assert paper.goal_kinds == tuple(range(20))
        assert paper.min_start == 0
    assert ObjectNavConfig(preset="memo", size=64).resolved().size == 64
    assert ObjectNavConfig(goals="large", kinds=3).goal_kinds == (20, 21, 22)


def test_validation_is_by_the_rules_of_the_papers_in_other_houses() -> None:
    easy = ObjectNavConfig(houses=1000, wrong_stop="stays", wrong_reward=-0.1, max_start=3.0)
    judged = easy.validation()
    assert judged == ObjectNavConfig(houses=128, split="validation", max_start=3.0)
    assert not set(judged.seeds) & set(easy.seeds)
    test = replace(easy, split="test")
    assert (judged.validation(), test.validation()) == (judged, test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "large"}, "preset is 'large'; choose one of small, relic, memo"),
        ({"houses": 0}, "houses is 0; it must be a whole number of at least 1"),
        ({"split": "dev"}, "split is 'dev'; choose one of train, validation, test"),
        ({"sensors": "lidar"}, "sensors is 'lidar'; choose one of"),
        ({"pose": "house"}, "pose is 'house'; choose one of episode, trial"),
        ({"goals": "small"}, "goals is 'small'; choose one of"),
        ({"size": 0}, "size is 0"),
        ({"slack": 0.1}, "slack is 0.1"),
        ({"wrong_reward": 1.0}, "wrong_reward is 1"),
        ({"wrong_stop": "goes"}, "wrong_stop is 'goes'; choose one of ends, stays"),
        ({"hfov": 180}, "view: hfov is 180"),
        ({"far": 0}, "view: far is 0"),
        ({"far": math.inf}, "far is inf; it must be a finite number"),
        ({"turn": 0}, "motion: turn is 0"),
        ({"max_rooms": 9}, "houses: rooms are 3 to 9"),
        ({"thing_scale": "big"}, "houses: thing_scale is 'big'; a number from 0.5 to 2.0 is expected"),
        ({"min_things": 20.5}, "houses: min_things is 20.5; a whole number is expected"),
        ({"hfov": "wide"}, "hfov is 'wide'; it must be a finite number"),
        ({"turn": None}, "turn is None; it must be a finite number"),
        ({"trial_steps": 100}, "trial_steps is 100 and episode_steps is 500; a trial must be at least as long"),
        ({"min_start": 3, "max_start": 2}, "min_start is 3 and max_start is 2; make max_start larger"),
        ({"success_radius": 0.1}, "success_radius is 0.1; it must lie in 0.5..10"),
    ],
)
def test_bad_options_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_config("object-nav", **options)
    assert str(caught.value).startswith("object-nav: ")
    assert "\n" not in str(caught.value)


def test_houses_without_a_goal_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"^object-nav: none of 3 houses has a goal of 28 kinds; take more"):
        replace(SMALL, too_many=1).build(1, 0)
