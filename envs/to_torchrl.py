"""Native environments for TorchRL. Needs the optional extra `torchrl`.

TorchRL and the native side restart rows differently. A native step that ends an episode already holds the next one's
first observation; TorchRL wants the end first, under `next`, and asks for the new start later, through `reset` with a
mask `_reset`. So a step hands out `final_obs` and keeps the start back, and a reset hands it out:

=============================  ====================================================
`reset` of a row               what it gets
=============================  ====================================================
masked, its episode is over    the start kept back: no step is lost or played twice
masked, in mid-episode         a fresh trial
not masked                     nothing: it goes on where it was
any, and there is no mask      a fresh trial
=============================  ====================================================

So rollouts and collectors, which reset with a mask, walk through the very episodes that the native side plays, and
trials of many episodes stay whole. Rows that TorchRL skips (mask `_step`) stand still. Shapes: B rows.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from .native import NativeEnv, NativeState, pick
from .random import Stream
from .step import Obs


class TorchRLTwin(EnvBase):  # type: ignore[misc]
    """A native environment as a TorchRL one of batch size [B].

    Keys: `observation` (the parts by their own names, where it is a dictionary), `action` (B,) int64, `reward` (B, 1),
    `done`, `terminated`, `truncated` (B, 1) and, beside the observation, `episode_start` and `trial_start` (B, 1):
    the `is_init` of a memory is `trial_start`.

    Args:
        env: made by `config.build(B, seed, device)`. The twin keeps the state; `set_seed` builds it anew.

    Raises:
        ValueError: it is not native.
    """

    def __init__(self, env: NativeEnv) -> None:
        if not isinstance(env, NativeEnv):
            raise ValueError(f"{env.config.label} is not a native environment; TorchRL has GymEnv for Gymnasium's")
        super().__init__(device=env.device, batch_size=[env.batch])
        self._native = env
        self._now: NativeState | None = None
        flag = Categorical(2, shape=(env.batch, 1), dtype=torch.bool, device=env.device)
        parts = {name: _spec(box, env) for name, box in _named(env.observation_space).items()}
        starts = {name: flag.clone() for name in ("episode_start", "trial_start")}
        ends = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        shared = {"shape": (env.batch,), "device": env.device}
        self.observation_spec = Composite(parts | starts, **shared)
        self.action_spec = Categorical(env.actions, dtype=torch.int64, **shared)
        self.reward_spec = Unbounded(shape=(env.batch, 1), dtype=torch.float32, device=env.device)
        self.done_spec = Composite(ends, **shared)

    def _reset(self, tensordict: TensorDictBase | None = None, **options: Any) -> TensorDict:
        native, mask = self._native, None if tensordict is None else tensordict.get("_reset", None)
        asked_B = torch.ones(native.batch, dtype=torch.bool, device=native.device) if mask is None else mask.view(-1)
        if self._now is None:
            self._now = native.reset()[0]
            self._over_B = torch.zeros_like(asked_B)  # the episode is over, and the start of the next is kept back
            self._trial_over_B = torch.zeros_like(asked_B)  # and that start opens a trial
            fresh_B = asked_B
        else:
            fresh_B = asked_B if mask is None else asked_B & ~self._over_B
            self._now = _renewed(native, self._now, fresh_B)
        opens_trial_B = asked_B & (fresh_B | self._trial_over_B)
        self._over_B = self._over_B & ~asked_B
        obs, never_B = native.observe(self._now.task, self._now.episode_step), torch.zeros_like(asked_B)
        self._told = self._tell(obs, never_B, never_B, asked_B, opens_trial_B)
        return self._told.copy()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        if self._now is None:
            raise ValueError(f"{self._native.config.label}: no episode is open; call reset() first")
        mask = tensordict.get("_step", None)
        moving_B = torch.ones_like(self._over_B) if mask is None else mask.view(-1)
        self._refuse(moving_B & self._over_B)
        now, step = self._native.step(self._now, tensordict.get("action"))
        never_B = torch.zeros_like(moving_B)
        told = self._tell(step.final_obs, step.terminated, step.truncated, never_B, never_B)
        over_B, trial_over_B, reward_B = step.episode_start, step.trial_start, step.reward
        if mask is not None:
            now, told = pick(moving_B, now, self._now), torch.where(moving_B, told, self._told)
            over_B = torch.where(moving_B, over_B, self._over_B)
            trial_over_B = torch.where(moving_B, trial_over_B, self._trial_over_B)
            reward_B = torch.where(moving_B, reward_B, 0.0)
        self._now, self._told, self._over_B, self._trial_over_B = now, told, over_B, trial_over_B
        return told.copy().set("reward", reward_B[:, None])

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            native = self._native.config.build(self._native.batch, seed, self._native.device)
            assert isinstance(native, NativeEnv)
            self._native, self._now = native, None

    def _tell(
        self, obs: Obs, terminated_B: Tensor, truncated_B: Tensor, start_B: Tensor, trial_B: Tensor
    ) -> TensorDict:
        flags = {"terminated": terminated_B, "truncated": truncated_B, "done": terminated_B | truncated_B}
        flags |= {"episode_start": start_B, "trial_start": trial_B}
        told = _named(obs) | {name: flag_B[:, None] for name, flag_B in flags.items()}
        return TensorDict(told, batch_size=self.batch_size, device=self.device)

    def _refuse(self, lost_B: Tensor) -> None:
        """Stop where a row whose episode is over is stepped: the start of its next one would go unseen."""
        if lost_B.device.type != "cpu":
            torch._assert_async(~lost_B.any())
        elif bool(lost_B.any()):
            row = int(lost_B.nonzero()[0])
            raise ValueError(
                f"{self._native.config.label}: the episode of row {row} is over; reset it before the next step, "
                "as step_and_maybe_reset does"
            )


def _named(whole: Any) -> dict[str, Any]:
    """Return the parts of an observation or of its space by key."""
    if isinstance(whole, dict | spaces.Dict):
        return dict(whole.items())
    return {"observation": whole}


def _spec(box: spaces.Box, env: NativeEnv) -> Bounded:
    low, high = (torch.from_numpy(bound).expand(env.batch, *box.shape) for bound in (box.low, box.high))
    dtype = torch.from_numpy(box.low).dtype
    return Bounded(low=low, high=high, shape=(env.batch, *box.shape), dtype=dtype, device=env.device)


def _renewed(env: NativeEnv, state: NativeState, where_B: Tensor) -> NativeState:
    """Begin a fresh trial in some rows, at the next moment of their clocks, and leave the others as they are."""
    stream = Stream(state.stream.key, torch.where(where_B, state.stream.clock + 1, state.stream.clock))
    task = pick(where_B, env.begin(stream), state.task)
    kept_B = (~where_B).long()
    return NativeState(stream, state.episode_step * kept_B, state.trial_step * kept_B, task)
