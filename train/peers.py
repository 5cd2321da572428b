"""The other side of `mnemic bench train`: sb3-contrib and TorchRL, each training our task by its own means, on the CPU.

Both get the rows, window, passes, minibatches and LSTM width of our configuration, one LSTM for actor and critic, and
an encoder of one linear layer. sb3-contrib also comes once with its own defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import Compose, EnvBase, GymWrapper, InitTracker, SerialEnv, TransformedEnv
from torchrl.modules import LSTMModule, ProbabilisticActor, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from ..envs import config_to_dict
from ..envs.step import Env
from ..envs.to_gymnasium import to_gymnasium_id
from ..envs.to_torchrl import TorchRLTwin
from .config import TrainConfig

Turn = Callable[[], float]  # trains for one turn and returns its steps per second


def sb3_turns(config: TrainConfig, windows: int) -> dict[str, Turn]:
    """Return turns of sb3-contrib's RecurrentPPO: with its usual environments, with ours, and with its own defaults."""
    ppo, width = config.ppo, config.memory.width
    same: dict[str, Any] = {
        "n_steps": ppo.window,
        "batch_size": ppo.batch_steps // ppo.minibatches,
        "n_epochs": ppo.epochs,
        "policy_kwargs": {
            "lstm_hidden_size": width,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": [width],
        },
    }
    own: dict[str, Any] = {"policy_kwargs": {"lstm_hidden_size": width}}

    def turns_of(rows: VecEnv, options: dict[str, Any]) -> Turn:
        model = RecurrentPPO("MlpLstmPolicy", rows, device="cpu", **options)
        steps = windows * model.n_steps * rows.num_envs

        def turn() -> float:
            began = time.perf_counter()
            model.learn(steps, reset_num_timesteps=False)
            return steps / (time.perf_counter() - began)

        return turn

    name, options = _twin(config)
    return {
        "sb3-contrib, our settings, its DummyVecEnv": turns_of(_sb3_rows(name, options, ppo.rows), same),
        "sb3-contrib, our settings, our batched environment": turns_of(
            BatchedVecEnv(config.env.build(ppo.rows, config.seed)), same
        ),
        "sb3-contrib, its defaults, 8 environments": turns_of(_sb3_rows(name, options, 8), own),
    }


def _twin(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    options = config_to_dict(config.env)
    return to_gymnasium_id(options.pop("name")), options


def _sb3_rows(name: str, options: dict[str, Any], rows: int) -> VecEnv:
    return DummyVecEnv([lambda: gymnasium.make(name, **options) for _ in range(rows)])


class BatchedVecEnv(VecEnv):
    """One of our batched environments, as Stable-Baselines3 wants many: nothing but arrays passes between them."""

    def __init__(self, env: Env) -> None:
        super().__init__(env.batch, env.observation_space, env.action_space)
        self._env = env

    def reset(self) -> np.ndarray[Any, Any]:
        """Begin anew."""
        self._state, step = self._env.reset()
        return _array(step.obs)

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._action_B = torch.as_tensor(actions, dtype=torch.int64)

    def step_wait(self) -> tuple[Any, ...]:
        """Take the actions."""
        self._state, step = self._env.step(self._state, self._action_B)
        info: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in step.episode_start.nonzero()[:, 0].tolist():
            info[row] = {
                "terminal_observation": _array(step.final_obs)[row],
                "TimeLimit.truncated": bool(step.truncated[row]),
            }
        return _array(step.obs), step.reward.numpy(), step.episode_start.numpy(), info

    def close(self) -> None:
        """Nothing lives elsewhere."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return None for each row: there is no environment object per row."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: there is no environment object per row."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **options: Any) -> list[Any]:
        """Refuse: there is no environment object per row."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Say no for each row."""
        return [False] * self.num_envs


def _array(obs: Any) -> np.ndarray[Any, Any]:
    assert isinstance(obs, torch.Tensor)
    found: np.ndarray[Any, Any] = obs.numpy()
    return found


def torchrl_turns(config: TrainConfig, windows: int) -> dict[str, Turn]:
    """Return turns of TorchRL: with its usual environments, and with our batched one."""
    rows, (name, options) = config.ppo.rows, _twin(config)

    def gymnasium_rows() -> EnvBase:
        return SerialEnv(rows, lambda: GymWrapper(gymnasium.make(name, **options), categorical_action_encoding=True))

    native = config.env.build(rows, config.seed)
    return {
        "TorchRL, its SerialEnv of GymWrapper": _torchrl_turn(config, gymnasium_rows(), windows),
        "TorchRL, our batched environment": _torchrl_turn(config, TorchRLTwin(native), windows),  # type: ignore[arg-type]
    }


def _torchrl_turn(config: TrainConfig, rows: EnvBase, windows: int) -> Turn:
    """Return a turn of PPO made of TorchRL's own parts: collector, LSTMModule, GAE and ClipPPOLoss."""
    ppo, width = config.ppo, config.memory.width
    lstm = LSTMModule(width, width, in_key="embed", out_key="features")
    env = TransformedEnv(rows, Compose(InitTracker()))
    env.append_transform(lstm.make_tensordict_primer())
    size = env.observation_spec["observation"].shape[-1]
    actions = env.action_spec.space.n

    encoder = TensorDictModule(nn.Sequential(nn.Linear(size, width), nn.ReLU()), ["observation"], ["embed"])
    logits = TensorDictModule(nn.Linear(width, actions), ["features"], ["logits"])
    value = TensorDictModule(nn.Linear(width, 1), ["features"], ["state_value"])
    body = TensorDictSequential(encoder, lstm)
    actor = ProbabilisticActor(
        TensorDictSequential(body, logits),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
        spec=env.action_spec,
    )
    critic = TensorDictSequential(body, value)
    advantage = GAE(gamma=ppo.gamma, lmbda=ppo.gae_lambda, value_network=critic, shifted=True, deactivate_vmap=True)
    loss = ClipPPOLoss(actor, critic, clip_epsilon=ppo.clip, entropy_coeff=ppo.entropy_weight)
    optimizer = torch.optim.Adam(loss.parameters(), lr=ppo.learning_rate)
    collector = Collector(env, actor, frames_per_batch=ppo.batch_steps, total_frames=-1)
    batches = iter(collector)

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(windows):
            batch = next(batches)
            with set_recurrent_mode(True):
                with torch.no_grad():
                    advantage(batch)
                for _ in range(ppo.epochs):
                    for index in torch.randperm(ppo.rows).chunk(ppo.minibatches):
                        losses = loss(batch[index])
                        optimizer.zero_grad()
                        sum(losses[key] for key in _LOSSES).backward()
                        nn.utils.clip_grad_norm_(loss.parameters(), ppo.max_grad_norm)
                        optimizer.step()
        return windows * ppo.batch_steps / (time.perf_counter() - began)

    return turn


_LOSSES: Sequence[str] = ("loss_objective", "loss_critic", "loss_entropy")
