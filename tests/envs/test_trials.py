"""Trials of any task: one draw again and again, for exactly so many episodes or steps, then another."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check

from mnemic.envs import ENVS, config_from_dict, config_to_dict, laws, make_config
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.from_gymnasium import GymConfig
from mnemic.envs.gym_rows import row_seed
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text
from mnemic.envs.repeat_previous import RepeatPreviousConfig
from mnemic.envs.tmaze import TMazeConfig
from mnemic.envs.to_gymnasium import GymnasiumTwin, VectorTwin
from mnemic.envs.trials import TrialsConfig

TASKS = {
    "endless-tmaze": {"length": 3, "corridors": 2, "sampling": "uniform"},
    "color-cubes": {"preset": "extreme", "teleport": 0.5, "size": 3, "phases": 2, "horizon": 30},
    "tmaze": {"length": 4},
    "repeat-previous": {"k": 2},
}
CARTPOLE = {"task": {"workers": 1}}
GYM = [
    ("trials:gym:CartPole-v1", CARTPOLE | {"episodes": 2}),
    ("trials:gym:CartPole-v1", CARTPOLE | {"steps": 30}),
    ("trials:gym:MiniGrid-MemoryS7-v0", {"episodes": 2, "task": {"workers": 2, "max_episode_steps": 9}}),
]


def episodes_of(env, steps, action_of=None):
    """All that was said in each whole episode, by (row, trial, place), where actions depend on row and step alone."""
    actions = laws.actions(env, 200) if action_of is None else action_of
    state, step = env.reset()
    found, place, trial = {}, [0] * env.batch, [0] * env.batch
    running, clock = [[] for _ in range(env.batch)], [0] * env.batch
    first = [row_of(step.obs, row) for row in range(env.batch)]
    for _ in range(steps):
        state, step = env.step(state, torch.stack([actions[clock[row], row] for row in range(env.batch)]))
        for row in range(env.batch):
            last = (row_of(step.final_obs, row), float(step.reward[row]), bool(step.terminated[row]))
            running[row].append(last)
            clock[row] += 1
            if step.episode_start[row]:
                found[row, trial[row], place[row]] = [first[row], *running[row]]
                first[row], running[row], clock[row] = row_of(step.obs, row), [], 0
                place[row] += 1
            if step.trial_start[row]:
                trial[row], place[row] = trial[row] + 1, 0
    return found


def row_of(obs, row):
    if isinstance(obs, dict):
        return {name: part[row].tolist() for name, part in obs.items()}
    return obs[row].tolist()


@pytest.mark.parametrize("name", TASKS)
def test_episodes_of_a_trial_are_the_same_and_trials_differ(name):
    env = make_config(f"trials:{name}", episodes=3, task=TASKS[name]).build(6, 2)
    found = episodes_of(env, 400)
    trials = {(row, trial) for row, trial, place in found if place == 2}
    assert len(trials) >= 12
    for row, trial in trials:
        assert found[row, trial, 0] == found[row, trial, 1] == found[row, trial, 2]
    # The same actions in the next trial: another draw, in some rows at least.
    assert any(found[row, trial, 0] != found[row, trial - 1, 0] for row, trial in trials if trial)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "endless-tmaze"])
def test_the_first_episode_is_that_of_the_task_alone(name):
    task = make_config(name, **TASKS[name])
    alone, found = (episodes_of(config.build(6, 2), 100) for config in (task, TrialsConfig(task=task)))
    for row in range(6):
        assert found[row, 0, 0] == alone[row, 0, 0]


def test_the_next_corridor_is_the_same_whenever_it_is_reached():
    env = TrialsConfig(task=EndlessTMazeConfig(length=2, corridors=4), episodes=2).build(50, 0)
    state, step = env.reset()
    cues = torch.zeros(2, 50, 4, dtype=torch.int64)
    for episode in range(2):
        for corridor in range(4):
            maze = state.task.task
            cues[episode, :, corridor] = maze.cue
            idle = torch.ones(50, dtype=torch.int64)
            for _ in range(episode * corridor):  # later and later in the second episode
                state, step = env.step(state, idle)
            for action in (0 * idle, 0 * idle, maze.cue + 1):
                state, step = env.step(state, action)
        assert step.info["success"].all()
        assert bool(step.trial_start.all()) == (episode == 1)
    assert torch.equal(cues[0], cues[1])
    assert 0.3 < cues[0].float().mean() < 0.7  # and corridors differ from each other


@pytest.mark.parametrize(("name", "steps"), [("tmaze", 12), ("color-cubes", 17), ("endless-tmaze", 9)])
def test_a_trial_of_steps_takes_exactly_so_many(name, steps):
    env = make_config(f"trials:{name}", steps=steps, task=TASKS[name]).build(6, 0)
    assert (env.trial_steps, env.trial_clock) == (steps, steps)
    assert env.cut_below == env.episode_steps == make_config(name, **TASKS[name]).build(1, 0).episode_steps
    assert env.longest_episode == min(steps, env.episode_steps)  # whichever clock comes first
    state, step = env.reset()
    for t, action in enumerate(laws.actions(env, 4 * steps), start=1):
        state, step = env.step(state, action)
        assert torch.equal(step.trial_start, torch.full((6,), t % steps == 0))
        if t % steps == 0:
            assert torch.equal(step.truncated, ~step.terminated)
            assert step.truncated.any()


def test_a_trial_of_episodes_ends_with_the_last_one_and_keeps_how_it_ended():
    env = make_config("trials:color-cubes", episodes=3, task=TASKS["color-cubes"] | {"horizon": 18}).build(8, 0)
    assert (env.trial_steps, env.trial_clock, env.cut_below) == (3 * 18, None, 0)
    assert env.longest_episode == 18
    state, step = env.reset()
    ended, kinds = torch.zeros(8, dtype=torch.int64), set()
    for action in laws.actions(env, 300):
        state, step = env.step(state, action)
        ended += step.episode_start
        assert torch.equal(step.trial_start, step.episode_start & (ended % 3 == 0))
        kinds |= set(zip(step.terminated.tolist(), step.trial_start.tolist(), strict=True))
    assert len(kinds) == 4
    assert ended.min() >= 9


def test_the_player_of_the_task_plays_each_episode():
    for config, episodes in (
        (TrialsConfig(task=TMazeConfig(length=5), episodes=4), 4),
        (TrialsConfig(task=RepeatPreviousConfig(k=3)), 5),
        (TrialsConfig(task=EndlessTMazeConfig(length=4, sampling="uniform"), episodes=2), 2),
    ):
        found = play_trials(config, config.oracle().act, batch=40)
        assert (found.episodes == episodes).all()
        assert (found.info["success"] == 1).all()
    assert make_config("trials:gym:CartPole-v1").oracle() is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "trials:tmaze",
            {"episodes": 2, "steps": 20},
            "^trials:tmaze: episodes is 2 and steps is 20; a trial ends by one",
        ),
        ("trials:tmaze", {"episodes": -1}, "^trials:tmaze: episodes is -1; it must be a whole number of at least 0"),
        ("trials:tmaze", {"steps": 1.5}, "^trials:tmaze: steps is 1.5"),
        ("trials:tmaze", {"length": 3}, "^trials: unknown option length; the options are task, episodes, steps"),
        ("trials:tmaze", {"task": {"lenght": 3}}, "^tmaze: unknown option lenght"),
        ("trials:trials:tmaze", {}, "write trials: once"),
        ("trials:tmase", {}, "unknown environment 'tmase'; choose one of tmaze"),
        ("trials:dark-key-to-door", {}, "dark-key-to-door has trials of many episodes of its own"),
        ("trials:darkroom", {"steps": 5}, "darkroom has trials of many episodes of its own"),
        ("trials:object-nav", {}, "object-nav has trials of many episodes of its own"),
        ("trials:gym:Nowhere-v0", {}, "unknown Gymnasium id 'Nowhere-v0'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_config(name, **options).build(2, 0)
    assert "\n" not in str(caught.value)


def test_every_task_is_wrapped_or_refused():
    assert set(TASKS) | {"dark-key-to-door", "darkroom", "object-nav"} == set(ENVS)


@pytest.mark.parametrize("name", ["trials:tmaze", "trials:gym:MiniGrid-MemoryS7-v0"])
def test_there_and_back_from_plain_data(name):
    config = make_config(name, steps=40)
    plain = config_to_dict(config)
    assert plain["name"] == "trials"
    assert plain["task"]["name"] == name.split(":")[1]
    assert config_from_dict(plain) == config
    for damaged, message in (
        ({"task": {"name": "tmaze"}}, "tmaze: length missing"),
        ({"task": 3}, "trials: task is 3"),
        ({"task": {}}, "needs a name"),
    ):
        with pytest.raises(ValueError, match=message):
            config_from_dict(plain | damaged)


def test_the_picture_says_where_in_the_trial_it_is():
    env = TrialsConfig(task=TMazeConfig(length=3), episodes=2).build(1, 0)
    state, _ = env.reset()
    for _ in range(5):
        state, _ = env.step(state, torch.tensor([0]))
    assert to_text(env.draw(state, 0)).endswith("episode 2 of 2: step 1 of 4")
    env = TrialsConfig(task=TMazeConfig(length=3), steps=7).build(1, 0)
    assert to_text(env.draw(state, 0)).endswith("episode 2, 2 steps of the trial left: step 1 of 4")


@pytest.mark.parametrize(("name", "options"), GYM, ids=["episodes", "steps", "processes"])
def test_gymnasium_environments_keep_the_laws(name, options):
    laws.check_env(make_config(name, **options))


@pytest.mark.parametrize(("name", "options"), GYM, ids=["episodes", "steps", "processes"])
def test_gymnasium_begins_a_trial_with_one_seed(name, options):
    env = make_config(name, **options).build(3, 7)
    try:
        found = episodes_of(env, 150)
    finally:
        env.close()
    again = [(row, trial, place) for row, trial, place in found if place]
    assert len(again) > 5
    for row, trial, place in again:
        whole, seen = found[row, trial, 0], found[row, trial, place]
        assert seen == whole[: len(seen)]  # what the clock of the trial cut off is a beginning
    assert any(found[row, trial, 0] != found[row, 0, 0] for row, trial, place in found if trial)
    alone = gymnasium.make(name.removeprefix("trials:gym:"))
    obs, _ = alone.reset(seed=row_seed(7, 1))
    if isinstance(obs, np.ndarray):
        assert found[1, 0, 0][0] == obs.tolist()


def test_gymnasium_trials_end_exactly():
    by_episodes, by_steps = (
        TrialsConfig(task=GymConfig(id="CartPole-v1", workers=1), **length).build(4, 0)
        for length in ({"episodes": 3}, {"steps": 25})
    )
    assert (by_episodes.trial_steps, by_episodes.trial_clock) == (1500, None)
    assert (by_steps.trial_steps, by_steps.trial_clock, by_steps.cut_below) == (25, 25, 500)
    state, _ = by_episodes.reset()
    ended = torch.zeros(4, dtype=torch.int64)
    for action in laws.actions(by_episodes, 200):
        state, step = by_episodes.step(state, action)
        ended += step.episode_start
        assert torch.equal(step.trial_start, step.episode_start & (ended % 3 == 0))
        assert torch.equal(step.terminated, step.episode_start)
    state, _ = by_steps.reset()
    for t, action in enumerate(laws.actions(by_steps, 100), start=1):
        state, step = by_steps.step(state, action)
        assert torch.equal(step.trial_start, torch.full((4,), t % 25 == 0))
        assert torch.equal(step.truncated, step.trial_start & ~step.terminated)


def test_the_seed_of_a_first_trial_is_that_of_the_row():
    for seed in (0, 7, 2**40):
        assert row_seed(seed, 3) == int(np.random.SeedSequence([seed, 3]).generate_state(1)[0]) >> 1
    assert len({row_seed(7, row, trial) for row in range(20) for trial in range(20)}) == 400


def test_the_gymnasium_twins_play_trials():
    gymnasium_check(gymnasium.make("mnemic/Trials-v0", episodes=2, task={"length": 3}).unwrapped)
    cubes = gymnasium.make("mnemic/Trials-v0", name="trials:color-cubes", steps=9, task={"size": 3})
    assert cubes.reset(seed=0)[0].shape == make_config("color-cubes", size=3).build(1, 0).observation_space.shape
    config = TrialsConfig(task=TMazeConfig(length=3), episodes=2)
    env, twin, many = config.build(1, 5), GymnasiumTwin(config), VectorTwin(config, num_envs=1)
    state, step = env.reset()
    obs, info = twin.reset(seed=5)
    many.reset(seed=5)
    for t in range(1, 25):
        state, step = env.step(state, torch.tensor([1]))
        obs, reward, terminated, truncated, _ = twin.step(1)
        assert np.array_equal(obs, step.final_obs[0].numpy())
        assert (reward, terminated, truncated) == (float(step.reward), bool(step.terminated), bool(step.truncated))
        assert many.step(np.array([1]))[4]["trial_start"].tolist() == step.trial_start.tolist()
        if terminated:
            obs, info = twin.reset()
            assert np.array_equal(obs, step.obs[0].numpy())
            assert info["trial_start"] == bool(step.trial_start) == (t % 8 == 0)
