"""An agent learns to learn: where the answer is never shown, later episodes of a trial are better than its first."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mnemic.agents.checkpoint import load_policy
from mnemic.envs.native import NativeEnv, Outcome
from mnemic.envs.step import EnvConfig
from mnemic.envs.trials import TrialsConfig
from mnemic.eval.protocol import evaluate
from mnemic.memory import make_config
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.loop import train
from mnemic.train.run import RunFolder


class Arm(NamedTuple):
    pays: Tensor  # (B,) int64


@dataclass(frozen=True, kw_only=True)
class ArmsConfig(EnvConfig):
    """One of two arms pays; an episode is one pull."""

    name: ClassVar[str] = "arms"
    summary: ClassVar[str] = "a bandit"

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> "Arms":
        return Arms(self, batch, seed, device)


class Arms(NativeEnv):
    def __init__(self, config, batch, seed, device):
        see = spaces.Box(0, 1, (1,))
        super().__init__(
            config, batch, seed, device, action_space=spaces.Discrete(2), observation_space=see, episode_steps=2
        )

    def begin(self, stream):
        return Arm(stream.integers(0, 2))

    def advance(self, task, action_B, stream):
        right_B = action_B == task.pays
        return task, Outcome(right_B.float(), torch.ones_like(right_B), {"success": right_B})

    def observe(self, task, episode_step_B):
        return torch.zeros(self.batch, 1)


def test_an_agent_learns_within_a_trial(tmp_path):
    """The first pull is a guess, all others can be right: return 0.5 + 3 in a trial of four, a gain of 0.5."""
    config = TrainConfig(
        env=TrialsConfig(task=ArmsConfig(), episodes=4),
        memory=make_config("gru", width=16),
        ppo=PPOConfig(rows=64, window=8, minibatches=2, epochs=2, learning_rate=5e-3, cut_returns=False),
        evaluation=EvalConfig(every=0),
        steps=64 * 8 * 40,
        threads=1,
    )
    folder = RunFolder.create(tmp_path / "run", config)
    train(config, folder, partial(evaluate, env_config=config.env), quiet=True)
    figures = evaluate(load_policy(folder.last() / "policy"), config.env, episodes=2000, seed=1)
    assert figures["success_gain"] == pytest.approx(0.5, abs=0.06)
    assert figures["gain"] == figures["success_gain"]
    assert figures["trial_return"] == pytest.approx(3.5, abs=0.1)
