"""Images on their way from environments to learning: held once, and looked at once by a frozen net."""

import sys
import types
import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.policy import Policy
from mnemic.envs.native import NativeEnv, Outcome
from mnemic.envs.random import Stream
from mnemic.envs.step import Env, EnvConfig, Obs
from mnemic.eval.diagnose.play import play
from mnemic.eval.protocol import play_episodes
from mnemic.eval.stream import play_stream
from mnemic.memory import make_config
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.loop import train
from mnemic.train.rollout import collect, start
from mnemic.train.run import RunFolder, Training, begin_from

ROWS, STEPS, EPISODE = 3, 12, 4


@dataclass(frozen=True, kw_only=True)
class CameraConfig(EnvConfig):
    """Shows noise in red, green and blue, in episodes of four steps."""

    name: ClassVar[str] = "camera"
    summary: ClassVar[str] = "a toy"

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        return Camera(self, batch, seed, device)


class Camera(NativeEnv):
    def __init__(self, config: EnvConfig, batch: int, seed: int, device: torch.device | str) -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(2),
            observation_space=spaces.Dict(
                {"rgb": spaces.Box(0, 255, (32, 32, 3), np.uint8), "depth": spaces.Box(0, 1, (32, 32, 1))}
            ),
            episode_steps=EPISODE,
            trial_steps=None,
        )
        self.shown: list[weakref.ref[Tensor]] = []

    def begin(self, stream: Stream) -> Tensor:
        return stream.integers(0, 200)

    def advance(self, task: Tensor, action_B: Tensor, stream: Stream) -> tuple[Tensor, Outcome]:
        never = torch.zeros_like(action_B, dtype=torch.bool)
        return task, Outcome(action_B.float(), never, {"success": action_B == 1})

    def observe(self, task: Tensor, episode_step_B: Tensor) -> Obs:
        rgb = (task + episode_step_B).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 32, 32, 3)
        return {"rgb": rgb, "depth": rgb[..., :1] / 255}

    def move(self, state: Any, action_B: Tensor) -> tuple[Any, Any]:
        state, step = super().move(state, action_B)
        self.shown += [weakref.ref(obs[name]) for obs in (step.obs, step.final_obs) for name in obs]
        return state, step


class Eye(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(32 * 32 * 3, 6), 0

    def forward(self, image: Tensor) -> Tensor:
        self.seen += len(image)
        return self.linear(image.flatten(1) / 255)


def open_eye() -> nn.Module:
    return Eye()


@pytest.fixture(autouse=True)
def eyes(monkeypatch):
    module = types.ModuleType("eyes")
    module.open_eye = open_eye
    monkeypatch.setitem(sys.modules, "eyes", module)
    return module


def policy_for(env, backbone="eyes:open_eye"):
    torch.manual_seed(0)
    config = EncoderConfig(backbone=backbone, channels=2)
    return Policy(config, make_config("gru", width=8), env.observation_space, env.action_space)


def looked(policy, act):
    before = policy.backbone.net.seen
    result = act()
    return result, policy.backbone.net.seen - before


@pytest.mark.parametrize("look", [True, False])
def test_acting_looks_once_at_each_observation_and_learning_at_none(look):
    """At the first ones, at those that follow each step, and at the last ones of episodes that were cut off."""
    env = CameraConfig().build(ROWS, 0)
    policy, generator = policy_for(env), torch.Generator().manual_seed(0)
    acting, seen = looked(policy, lambda: start(env, policy))
    assert seen == ROWS
    (window, _), seen = looked(policy, lambda: collect(env, policy, acting, STEPS, generator, True, look=look))
    assert seen == ROWS * STEPS + int(window.truncated_next.sum())
    assert window.truncated_next.sum() == ROWS * STEPS // EPISODE
    assert window.inputs.obs["rgb"].shape == (STEPS, ROWS, 6)
    assert window.inputs.obs["depth"].shape == (STEPS, ROWS, 32, 32, 1)
    _, seen = looked(policy, lambda: policy.unroll(window.inputs, window.memory))
    assert seen == 0


def test_looking_or_not_where_episodes_end_gives_the_same_values():
    windows = []
    for look in (True, False):
        env = CameraConfig().build(ROWS, 0)
        policy, generator = policy_for(env), torch.Generator().manual_seed(0)
        windows.append(collect(env, policy, start(env, policy), STEPS, generator, True, look=look)[0])
    torch.testing.assert_close(windows[0].value_next, windows[1].value_next)


def test_evaluation_streams_and_probes_look_once_too():
    config = CameraConfig()
    policy = policy_for(config.build(1, 0)).eval()
    _, seen = looked(policy, lambda: play_episodes(policy, config, episodes=6, rows=ROWS))
    assert seen == ROWS * 2 * EPISODE
    _, seen = looked(policy, lambda: play_stream(policy, config, steps=8, rows=ROWS, bins=2))
    assert ROWS * 8 <= seen <= ROWS * 8 + 8  # and at one image or so to count operations
    _, seen = looked(policy, lambda: list(play(policy, config, steps=5, rows=ROWS)))
    assert seen == ROWS * 5


def test_a_window_holds_its_images_once():
    """Those of the environment are given back at once: neither kept with every step, nor stacked at the end."""
    env = CameraConfig().build(ROWS, 0)
    policy, generator = policy_for(env, ""), torch.Generator().manual_seed(0)
    acting, alive, given = start(env, policy), [], []
    move = env.move

    def watched(state, action_B):
        state, step = move(state, action_B)
        alive.append(sum(reference() is not None for reference in env.shown))
        given.append(step.obs["rgb"][0, 0, 0, 0].item())
        return state, step

    env.move = watched
    first = acting.inputs.obs["rgb"][0, 0, 0, 0].item()
    window, _ = collect(env, policy, acting, STEPS, generator, True)
    assert max(alive) <= 3 * 4, "colour and depth, seen and seen last, of three steps at most"
    assert len(env.shown) == STEPS * 4
    assert window.inputs.obs["rgb"][:, 0, 0, 0, 0].tolist() == [first, *given[:-1]]
    assert window.inputs.obs["rgb"].dtype == torch.uint8


def test_a_window_that_ends_early_has_the_images_of_its_steps():
    env = CameraConfig().build(ROWS, 0)
    policy, generator = policy_for(env, ""), torch.Generator().manual_seed(0)
    window, _ = collect(env, policy, start(env, policy), STEPS, generator, True, enough=lambda steps: steps == 5)
    assert {len(part) for part in (*window.inputs.obs.values(), window.value)} == {5}


def config_of(**options):
    ppo = PPOConfig(schedule="constant", rows=4, window=6, minibatches=2, epochs=2, **options)
    memory, encoder = make_config("gru", width=8), EncoderConfig(backbone="eyes:open_eye", channels=2)
    return TrainConfig(
        env=CameraConfig(), memory=memory, encoder=encoder, ppo=ppo, steps=48, evaluation=EvalConfig(every=0)
    )


@pytest.mark.parametrize("net", ["light", "resnet18"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, toys, net):
    """Weights of convolutions, and what the optimiser keeps of them, lie in memory as a checkpoint lays them."""
    config = replace(config_of(), encoder=EncoderConfig(net=net, channels=4))
    for steps, name in ((48, "whole"), (24, "parted")):
        train(
            replace(config, steps=steps),
            RunFolder.create(tmp_path / name, config),
            toys.constant_evaluation,
            quiet=True,
        )
    train(config, RunFolder(tmp_path / "parted"), toys.constant_evaluation, resume=True, quiet=True)
    assert toys.checkpoint_bits(tmp_path / "parted") == toys.checkpoint_bits(tmp_path / "whole")


def test_a_run_is_resumed_with_its_backbone_and_refused_with_another(tmp_path, toys, eyes, monkeypatch):
    config = config_of(recompute=6)
    folder = RunFolder.create(tmp_path / "run", config)
    train(config, folder, toys.constant_evaluation, quiet=True)
    Training(config).restore(folder.last())

    def other() -> nn.Module:
        eye = Eye()
        nn.init.zeros_(eye.linear.weight)
        return eye

    monkeypatch.setattr(eyes, "open_eye", other)
    message = "backbone eyes:open_eye has other weights than when the policy learned; give it the same one"
    with pytest.raises(ValueError, match=message):
        Training(config).restore(folder.last())
    monkeypatch.setattr(RunFolder, "open", lambda path: (folder, config))
    with pytest.raises(ValueError, match=message):
        begin_from(policy_for(CameraConfig().build(1, 0)), tmp_path / "run")
