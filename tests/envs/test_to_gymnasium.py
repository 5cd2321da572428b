"""The Gymnasium twins pass Gymnasium's own checker and play the episodes of the native environment."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from mnemic.envs import ENVS, make_config
from mnemic.envs.picture import Cell, Picture, to_rgb, to_text
from mnemic.envs.to_gymnasium import register, to_gymnasium_id

NATIVE = sorted(ENVS)
MAZE = "mnemic/EndlessTMaze-v0"


def same(found, expected):
    """Compare observations or infos, types of their leaves included."""
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(same(found[name], part) for name, part in expected.items())
    if isinstance(expected, np.ndarray) and expected.dtype == object:
        return all(same(a, b) for a, b in zip(found, expected, strict=True))
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


def row_of(obs, row):
    return {name: part[row].numpy() for name, part in obs.items()} if isinstance(obs, dict) else obs[row].numpy()


def all_of(obs):
    return {name: part.numpy() for name, part in obs.items()} if isinstance(obs, dict) else obs.numpy()


def test_ids():
    assert to_gymnasium_id("endless-tmaze") == MAZE
    assert to_gymnasium_id("dark-key-to-door") == "mnemic/DarkKeyToDoor-v0"
    assert to_gymnasium_id("tmaze") == "mnemic/TMaze-v0"
    assert {to_gymnasium_id(name) for name in (*NATIVE, "trials")} == {
        id for id in gymnasium.registry if id.startswith("mnemic/")
    }
    register()  # once more does no harm and warns of nothing


@pytest.mark.parametrize("name", NATIVE)
def test_gymnasiums_own_checker(name):
    check_env(gymnasium.make(to_gymnasium_id(name)).unwrapped)


@pytest.mark.parametrize("name", NATIVE)
def test_the_single_twin_plays_the_native_episodes(name):
    env, twin = make_config(name).build(1, 11), gymnasium.make(to_gymnasium_id(name), disable_env_checker=True)
    state, step = env.reset()
    obs, info = twin.reset(seed=11)
    generator, episodes = torch.Generator().manual_seed(0), 0
    for _ in range(250):
        assert same(obs, row_of(step.obs, 0))
        assert obs in twin.observation_space
        assert info == {"trial_start": bool(step.trial_start)}
        over = False
        while not over and episodes < 20:
            action = torch.randint(int(twin.action_space.n), (1,), generator=generator)
            state, step = env.step(state, action)
            obs, reward, terminated, truncated, info = twin.step(action.item())
            over = terminated or truncated
            assert same(obs, row_of(step.final_obs, 0))
            assert (reward, terminated, truncated) == (step.reward.item(), bool(step.terminated), bool(step.truncated))
            assert info == {k: v.item() for k, v in step.info.items()} | {"trial_start": False}
        episodes += 1
        obs, info = twin.reset()
        if episodes == 20:
            break
    assert episodes == 20


@pytest.mark.parametrize("name", NATIVE)
def test_the_vector_twin_plays_the_native_episodes(name):
    env, twin = make_config(name).build(16, 11), gymnasium.make_vec(to_gymnasium_id(name), num_envs=16)
    assert twin.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    state, step = env.reset()
    obs, infos = twin.reset(seed=11)
    assert same(obs, all_of(step.obs))
    assert obs in twin.observation_space
    assert infos["trial_start"].all()
    generator, episodes = torch.Generator().manual_seed(0), 0
    for _ in range(150):
        action = torch.randint(int(twin.single_action_space.n), (16,), generator=generator)
        state, step = env.step(state, action)
        obs, reward, terminated, truncated, infos = twin.step(action.numpy())
        over = step.episode_start.numpy()
        episodes += over.sum()
        assert same(obs, all_of(step.obs))
        assert same(reward, step.reward.double().numpy())
        assert same(terminated, step.terminated.numpy())
        assert same(truncated, step.truncated.numpy())
        assert same(infos["trial_start"], step.trial_start.numpy())
        assert ("final_obs" in infos) == ("final_info" in infos) == over.any()
        if over.any():
            assert same(infos["_final_obs"], over)
            assert [part is not None for part in infos["final_obs"]] == over.tolist()
            for row in np.flatnonzero(over):
                assert same(infos["final_obs"][row], row_of(step.final_obs, row))
                for key, figure in step.info.items():
                    assert infos["final_info"][key][row] == figure[row].item()
    assert episodes > 0
    twin.close()


@pytest.mark.parametrize("name", NATIVE)
def test_infos_are_laid_out_as_gymnasiums_own_vector_does_it(name):
    """One row of each: their SyncVectorEnv seeds row i with seed + i, ours with a function of seed and i."""
    id = to_gymnasium_id(name)
    ours = gymnasium.make_vec(id, num_envs=1, vectorization_mode="vector_entry_point")
    theirs = gymnasium.make_vec(
        id, num_envs=1, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert all(same(a, b) for a, b in zip(ours.reset(seed=3), theirs.reset(seed=3), strict=True))
    ours.action_space.seed(0)
    episodes = 0
    while episodes < 3:
        action = ours.action_space.sample()
        found, expected = ours.step(action), theirs.step(action)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        episodes += int((found[2] | found[3]).sum())


def test_options_go_through():
    twin = gymnasium.make(MAZE, length=2, corridors=1)
    assert twin.unwrapped._config == make_config("endless-tmaze", length=2, corridors=1)


def test_reset_in_mid_episode_begins_something_new_and_a_seed_repeats():
    twin = gymnasium.make_vec(MAZE, num_envs=64, length=5, corridors=1)
    first, second, third = (twin.reset(seed=seed)[0] for seed in (4, None, 4))
    assert np.array_equal(first, third)
    assert not np.array_equal(first, second)
    single = gymnasium.make(MAZE, length=5, corridors=1)
    cues = set()
    for _ in range(20):
        obs, info = single.reset()
        single.step(0)
        cues.add(obs.tobytes())
        assert info == {"trial_start": True}
    assert len(cues) == 2


def test_mistakes():
    twin = gymnasium.make(MAZE, disable_env_checker=True).unwrapped
    with pytest.raises(ValueError, match=r"endless-tmaze.*no episode is open"):
        twin.step(0)
    twin.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 9 in row 0"):
        twin.step(9)
    with pytest.raises(ValueError, match=r"actions of type torch.float64"):
        twin.step(0.5)
    with pytest.raises(ValueError, match="choose one of ansi, rgb_array"):
        type(twin)("endless-tmaze", render_mode="human")
    vector = gymnasium.make_vec(MAZE, num_envs=2)
    with pytest.raises(ValueError, match="no episode is open"):
        vector.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="one integer for all rows"):
        vector.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="rows restart by themselves"):
        vector.reset(options={"reset_mask": np.ones(2, bool)})


def test_pictures_as_text_and_as_pixels():
    red, blue = Cell("a", (255, 0, 0)), Cell("b", (0, 0, 255))
    picture = Picture([[red, blue, blue], [blue, red, red]], "below")
    assert to_text(picture) == "abb\nbaa\nbelow"
    assert to_text(Picture([[red]], "")) == "a"
    assert to_text(Picture([[blue]], ""), colour=True) == "\x1b[38;2;0;0;255mb\x1b[0m"
    image = to_rgb(picture, scale=4)
    assert image.shape == (8, 12, 3)
    assert image.dtype == np.uint8
    assert (image[:4, :4] == (255, 0, 0)).all()
    assert (image[:4, 4:] == (0, 0, 255)).all()
    assert (image[4:, :4] == (0, 0, 255)).all()


def test_render():
    vector = gymnasium.make_vec(MAZE, num_envs=2, render_mode="rgb_array")
    assert vector.render() is None
    vector.reset(seed=0)
    images = vector.render()
    assert len(images) == 2
    assert images[0].dtype == np.uint8
    single = gymnasium.make(MAZE, render_mode="ansi")
    single.reset(seed=0)
    assert "\x1b[38;2;" in single.render()


def test_registering_imports_no_other_adapter():
    heavy = "{'torchrl', 'minigrid', 'stable_baselines3', 'mnemic.envs.from_gymnasium', 'mnemic.envs.to_torchrl'}"
    subprocess.run(
        [sys.executable, "-c", f"import sys, mnemic.envs; assert not {heavy} & set(sys.modules)"], check=True
    )


def test_stable_baselines_trains_on_one():
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", gymnasium.make(MAZE, length=2, corridors=1), n_steps=64, batch_size=32, n_epochs=2)
    before = [weight.clone() for weight in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
