"""The TorchRL twin plays the episodes of the native environment: none lost, none twice."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("torchrl")

from torchrl.envs import check_env_specs

from mnemic.envs import ENVS, make_config
from mnemic.envs.from_gymnasium import GymConfig
from mnemic.envs.native import NativeEnv, Outcome
from mnemic.envs.step import EnvConfig
from mnemic.envs.to_torchrl import TorchRLTwin

NATIVE = [*sorted(ENVS), "trials:tmaze"]


class Place(NamedTuple):
    task: torch.Tensor  # (B,) which task of many
    episode: torch.Tensor  # (B,) of the trial
    lives: torch.Tensor  # (B,) steps left


class Lives(NativeEnv):
    """Episodes of random length, two keys to look at, trials of 12 steps; action 1 costs an extra life."""

    def __init__(self, config, batch, seed, device, trial_steps):
        box = spaces.Box(0, 2**20, (1,), np.float32)
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(2),
            observation_space=spaces.Dict(task=box, now=spaces.Box(-2, 2**20, (2,), np.float32)),
            episode_steps=4,
            trial_steps=trial_steps,
        )

    def begin(self, stream):
        zero_B = torch.zeros_like(stream.key)
        return Place(stream.integers(0, 2**20), zero_B, 1 + stream.integers(1, 6))

    def restart(self, task, stream):
        return Place(task.task, task.episode + 1, 1 + stream.integers(100, 6))

    def advance(self, task, action_B, stream):
        lives_B = task.lives - 1 - action_B
        terminated_B = lives_B <= 0
        return task._replace(lives=lives_B), Outcome(lives_B.float(), terminated_B, {"success": terminated_B})

    def observe(self, task, episode_step_B):
        return {
            "task": task.task[:, None].float(),
            "now": torch.stack([task.lives.float(), (episode_step_B + 100 * task.episode).float()], 1),
        }


@dataclass(frozen=True, kw_only=True)
class LivesConfig(EnvConfig):
    name: ClassVar[str] = "lives"
    summary: ClassVar[str] = "a toy"

    trial_steps: int | None = None

    def build(self, batch, seed, device="cpu"):
        return Lives(self, batch, seed, device, self.trial_steps)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("break_when_any_done", [True, False])
def test_specs(name, break_when_any_done):
    check_env_specs(TorchRLTwin(make_config(name).build(3, 0)), break_when_any_done=break_when_any_done)


@pytest.mark.parametrize("trial_steps", [None, 12])
def test_specs_of_a_dictionary(trial_steps):
    twin = TorchRLTwin(LivesConfig(trial_steps=trial_steps).build(3, 0))
    check_env_specs(twin, break_when_any_done=False)
    check_env_specs(twin, break_when_any_done=True, seed=3)


def parts(obs):
    return obs if isinstance(obs, dict) else {"observation": obs}


@pytest.mark.parametrize("config", [LivesConfig(), LivesConfig(trial_steps=12), *map(make_config, NATIVE)], ids=str)
def test_a_rollout_is_that_of_the_native_environment(config):
    env, twin = config.build(4, 5), TorchRLTwin(config.build(4, 5))
    torch.manual_seed(0)
    played = twin.rollout(60, break_when_any_done=False)
    assert played.batch_size == (4, 60)
    state, step = env.reset()
    for now in played.unbind(1):
        for name, part in parts(step.obs).items():
            assert torch.equal(now[name], part)
        assert torch.equal(now["episode_start"][:, 0], step.episode_start)
        assert torch.equal(now["trial_start"][:, 0], step.trial_start)
        state, step = env.step(state, now["action"])
        after = now["next"]
        for name, part in parts(step.final_obs).items():
            assert torch.equal(after[name], part)
        assert torch.equal(after["reward"][:, 0], step.reward)
        assert torch.equal(after["terminated"][:, 0], step.terminated)
        assert torch.equal(after["truncated"][:, 0], step.truncated)
        assert torch.equal(after["done"][:, 0], step.episode_start)
        assert not after["episode_start"].any()
        assert not after["trial_start"].any()
    if isinstance(config, LivesConfig):
        assert played["next", "terminated"].any()
        assert played["next", "truncated"].any()
        starts = played["episode_start"].sum() - played["trial_start"].sum()
        assert (starts > 0) == (config.trial_steps is not None)


def test_the_seed_decides_everything():
    twin = TorchRLTwin(LivesConfig().build(4, 5))
    found = []
    for seed in (5, 5, 6):
        twin.set_seed(seed)
        torch.manual_seed(0)
        found.append(twin.rollout(20, break_when_any_done=False))
    assert (found[0] == found[1]).all()
    assert not (found[0]["task"] == found[2]["task"]).any()


def test_a_reset_without_a_mask_begins_fresh_trials():
    twin = TorchRLTwin(LivesConfig(trial_steps=12).build(4, 5))
    first, second = twin.reset(), twin.reset()
    assert not (first["task"] == second["task"]).any()
    assert second["trial_start"].all()


def test_a_reset_in_mid_episode_begins_a_fresh_trial_in_the_masked_rows_only():
    twin = TorchRLTwin(LivesConfig(trial_steps=12).build(64, 5))
    begun = twin.reset()
    now = twin.step(begun.clone().set("action", torch.zeros(64, dtype=torch.int64)))["next"]
    over, mask = now["done"].clone(), torch.arange(64)[:, None] % 2 == 0
    asked = mask | over
    assert over.any()
    assert not over.all()
    again = twin.reset(now.clone().set("_reset", asked))
    fresh = asked & ~over
    assert torch.equal(again["trial_start"], fresh)
    assert torch.equal(again["episode_start"], asked)
    assert torch.equal(again["task"] == begun["task"], ~fresh)
    assert torch.equal(again["now"][:, 1:], torch.where(over, 100.0, torch.where(fresh, 0.0, 1.0)))


def test_a_row_that_is_over_is_not_stepped():
    twin = TorchRLTwin(LivesConfig().build(64, 5))
    action = torch.ones(64, dtype=torch.int64)
    over = twin.step(twin.reset().set("action", action))["next"]
    row = int(over["done"][:, 0].nonzero()[0])
    with pytest.raises(ValueError, match=f"lives: the episode of row {row} is over; reset it"):
        twin.step(over.set("action", action))


def test_a_row_that_is_over_waits_until_it_is_reset():
    env, twin = LivesConfig().build(64, 5), TorchRLTwin(LivesConfig().build(64, 5))
    action = torch.ones(64, dtype=torch.int64)
    _, expected = env.step(env.reset()[0], action)
    now = twin.step(twin.reset().set("action", action))["next"]
    over = now["done"].clone()
    early = over & (over.cumsum(0) <= 2)
    assert early.sum() == 2 < over.sum()
    now = twin.reset(now.clone().set("_reset", early))
    with pytest.raises(ValueError, match="is over; reset it"):
        twin.step(now.clone().set("action", action))
    now["done"], now["terminated"] = over & ~early, over & ~early
    now = twin.reset(now.set("_reset", over & ~early))
    for name, part in expected.obs.items():
        assert torch.equal(now[name], part)


def test_a_skipped_row_goes_on_where_it_stood():
    env, twin = LivesConfig().build(8, 5), TorchRLTwin(LivesConfig().build(8, 5))
    action, moving = torch.zeros(8, dtype=torch.int64), torch.arange(8) % 2 == 0
    begun = twin.reset()
    now = twin.step(begun.clone().set("action", action).set("_step", moving))["next"]
    _, one = env.step(env.reset()[0], action)
    for name, part in one.final_obs.items():
        assert torch.equal(now[name], torch.where(moving[:, None], part, begun[name]))
    assert torch.equal(now["reward"][:, 0], torch.where(moving, one.reward, 0.0))
    assert torch.equal(now["done"][:, 0], one.episode_start & moving)
    now = twin.step(now.clone().set("action", action).set("_step", ~moving))["next"]
    for name, part in one.final_obs.items():
        assert torch.equal(now[name], part)


def test_rows_that_are_skipped_stand_still():
    env = TorchRLTwin(LivesConfig().build(8, 5))
    torch.manual_seed(0)
    played = env.rollout(10, break_when_any_done=False, break_when_all_done=True)
    done = played["next", "done"][..., 0]
    lengths = (~done).sum(1) + 1  # an episode of 4 steps at most, and then the row waits for the others
    assert 1 < played.shape[1] <= 4
    assert done[:, -1].all()
    assert lengths.min() < lengths.max()
    steps = played["next", "now"][..., 1]
    assert torch.equal(steps, torch.minimum(torch.arange(1, played.shape[1] + 1), lengths[:, None]).float())


def test_only_native_environments():
    gym = GymConfig(id="CartPole-v1", workers=1).build(2, 0)
    with pytest.raises(ValueError, match="gym:CartPole-v1 is not a native environment"):
        TorchRLTwin(gym)
    gym.close()
