"""Batched tasks written in tensor code: a task says how it begins, moves and looks; episodes and trials are kept here.

Shapes: B rows.
"""

from __future__ import annotations

from abc import abstractmethod
from types import FunctionType, MethodType
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from .random import Stream
from .step import Env, EnvConfig, Obs, Step


class Outcome(NamedTuple):
    """What one action did in B rows."""

    reward: Tensor  # (B,) float32
    terminated: Tensor  # (B,) bool
    info: dict[str, Tensor]  # (B,) figures of the episode so far, `success` among them where the task has it
    lost: Tensor | None = None  # (B,) bool: whose episode is cut off for a reason outside the task; None: nobody's


class NativeState(NamedTuple):
    """The whole state of B environments."""

    stream: Stream
    episode_step: Tensor  # (B,) int64: steps since the episode began
    trial_step: Tensor  # (B,) int64: steps since the trial began
    task: Any  # the task's own named tuple of (B, ...) tensors


def pick(where_B: Tensor, new: Any, old: Any) -> Any:
    """Take `new` in the rows that say so and `old` elsewhere, in every tensor of a task state or an observation."""
    if isinstance(old, Tensor):
        return torch.where(where_B.view(-1, *[1] * (old.ndim - 1)), new, old)
    if isinstance(old, dict):
        return {name: pick(where_B, new[name], part) for name, part in old.items()}
    return type(old)(*(pick(where_B, n, o) for n, o in zip(new, old, strict=True)))


class NativeEnv(Env):
    """A task in tensor code. Subclasses give the spaces and four functions: `begin`, `restart`, `advance`, `observe`.

    Args:
        config: the options.
        batch: rows.
        seed: any integer in 0..2^64-1.
        device: where the tensors live.
        action_space: discrete.
        observation_space: of one row.
        episode_steps: an episode is truncated after so many steps.
        trial_steps: a trial of one task holds episodes until so many steps have passed; None: each episode is a trial.
    """

    on_device: ClassVar[bool] = True
    fused: ClassVar[tuple[str, ...]] = ("_move_rows",)
    """Methods that `compile` turns into a few kernels each, with the same bits; `object-nav` to the last digits."""

    def __init__(
        self,
        config: EnvConfig,
        batch: int,
        seed: int,
        device: torch.device | str,
        *,
        action_space: spaces.Discrete,
        observation_space: spaces.Space[Any],
        episode_steps: int,
        trial_steps: int | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"{config.label}: a batch of {batch} rows was asked for; it takes at least 1")
        self.config, self.batch, self.seed, self.device = config, batch, seed, torch.device(device)
        self.action_space, self.observation_space = action_space, observation_space
        self.actions = int(action_space.n)
        self.episode_steps: int = episode_steps
        self.many_episodes = trial_steps is not None
        self.trial_steps: int = episode_steps if trial_steps is None else trial_steps
        self.trial_clock = trial_steps
        # A host that can look without waiting saves the work of a restart that no row needs.
        self._looks = self.device.type == "cpu"

    @abstractmethod
    def begin(self, stream: Stream) -> Any:
        """Draw a new task for every row, ready for its first episode. Slots 0 to 99 of the stream are yours."""

    def restart(self, task: Any, stream: Stream) -> Any:
        """Open the next episode of the same task, where a trial has many. Slots 100 to 199 are yours.

        Here: the task as it stands.
        """
        return task

    def trial_over(self, task: Any, over_B: Tensor, trial_step_B: Tensor) -> Tensor:
        """Say which trials are over, where a trial has many episodes, (B,) bool. Here: those whose clock has run out.

        Args:
            task: after the action.
            over_B: (B,) bool: the episode is over by itself.
            trial_step_B: (B,) int64: steps of the trial.
        """
        return trial_step_B >= self.trial_steps

    def renew(self, task: Any, stream: Stream, over_B: Tensor, trial_over_B: Tensor) -> Any:
        """Open the next episode in the rows whose episode is over: of a new task where the trial is over too."""
        if self.many_episodes:
            task = pick(over_B, self.restart(task, stream), task)
        return pick(trial_over_B, self.begin(stream), task)

    @abstractmethod
    def advance(self, task: Any, action_B: Tensor, stream: Stream) -> tuple[Any, Outcome]:
        """Take one action in every row. Slots 200 to 299 of the stream are yours."""

    def moment(self, task: Any, episode_step_B: Tensor) -> Tensor:
        """Return what the draws of the next `advance` belong to, (B,) int64, where a task is played again and again.

        What is drawn at the same moment is the same in every episode of the task. Here: the step of the episode. A
        task whose draws belong to something else (to a place, say, reached early or late) returns a number of that;
        it must never be larger than the steps so far.
        """
        return episode_step_B

    @abstractmethod
    def observe(self, task: Any, episode_step_B: Tensor) -> Obs:
        """Say what the agent sees."""

    def look(self, task: Any, episode_step_B: Tensor) -> tuple[Any, Obs]:
        """Say what the agent sees, and note in the task what follows from that. Here: nothing does."""
        return task, self.observe(task, episode_step_B)

    def turn_over(
        self, task: Any, stream: Stream, episode_step_B: Tensor, over_B: Tensor, trial_over_B: Tensor
    ) -> tuple[Any, Obs, Obs]:
        """Renew the rows whose episode is over: return the task, what was seen last and what is seen now.

        Here the agent looks twice, before and after. A task whose pictures are dear can do with fewer.

        Args:
            task: after the action.
            stream: for `renew`.
            episode_step_B: (B,) int64: steps of the episode, the action's included.
            over_B: (B,) bool: the episode is over.
            trial_over_B: (B,) bool: the trial is over too.
        """
        task, final_obs = self.look(task, episode_step_B)
        if self._looks and not bool(over_B.any()):
            return task, final_obs, final_obs
        task = self.renew(task, stream, over_B, trial_over_B)
        task, obs = self.look(task, torch.where(over_B, 0, episode_step_B))
        return task, final_obs, obs

    def reset(self) -> tuple[NativeState, Step]:
        """Return the state of B fresh trials and what the agent sees."""
        stream = Stream.seeded(self.seed, self.batch, self.device, self.first_row)
        zero_B = torch.zeros(self.batch, dtype=torch.int64, device=self.device)
        false_B = torch.zeros(self.batch, dtype=torch.bool, device=self.device)
        task, obs = self.look(self.begin(stream), zero_B)
        step = Step(obs, zero_B.float(), false_B, false_B, ~false_B, ~false_B, obs, {})
        return NativeState(stream, zero_B, zero_B, task), step

    def step(self, state: NativeState, action_B: Tensor) -> tuple[NativeState, Step]:
        """Take one action in every row, (B,) int64, and begin anew the rows whose episode ended.

        Raises:
            ValueError: an action of the wrong shape, type or value; on a GPU a value outside the space stops the
                device instead, since looking at it would make every step wait.
        """
        self._check(action_B)
        return self._move_rows(state, action_B)

    def move(self, state: NativeState, action_B: Tensor) -> tuple[NativeState, Step]:
        """Take a step as `step` does, with actions that are known to be good: they are not looked at."""
        return self._move_rows(state, action_B)

    def compile(self) -> None:
        """Let steps run as a few fused kernels from now on, with the same bits, or what `fused` says.

        The next step compiles, which takes seconds, and raises what the compiler raises; `uncompile` undoes it.
        """
        self._looks = False
        # Sorting in a kernel of one's own takes half a minute to compile; torch's own is as good.
        options: dict[str, Any] = {"triton.persistent_reductions": False}
        for name in self.fused:
            # A code object of its own: torch counts compilations by it, and gives up after a few.
            function = getattr(type(self), name)
            own = FunctionType(
                function.__code__.replace(), function.__globals__, name, function.__defaults__, function.__closure__
            )
            setattr(self, name, torch.compile(MethodType(own, self), fullgraph=True, dynamic=False, options=options))

    def uncompile(self) -> None:
        """Let steps run as they are written."""
        self._looks = self.device.type == "cpu"
        for name in self.fused:
            vars(self).pop(name, None)

    def _move_rows(self, state: NativeState, action_B: Tensor) -> tuple[NativeState, Step]:
        stream = Stream(state.stream.key, state.stream.clock + 1)
        task, outcome = self.advance(state.task, action_B, stream)
        episode_step_B, trial_step_B = state.episode_step + 1, state.trial_step + 1
        terminated_B = outcome.terminated
        over_B = terminated_B | (episode_step_B >= self.episode_steps)
        if outcome.lost is not None:
            over_B = over_B | outcome.lost
        if self.many_episodes:
            trial_over_B = self.trial_over(task, over_B, trial_step_B)
            over_B = over_B | trial_over_B
        else:
            trial_over_B = over_B
        task, final_obs, obs = self.turn_over(task, stream, episode_step_B, over_B, trial_over_B)
        episode_step_B = torch.where(over_B, 0, episode_step_B)
        trial_step_B = torch.where(trial_over_B, 0, trial_step_B)
        truncated_B = over_B & ~terminated_B
        step = Step(obs, outcome.reward, terminated_B, truncated_B, over_B, trial_over_B, final_obs, outcome.info)
        return NativeState(stream, episode_step_B, trial_step_B, task), step

    def _check(self, action_B: Tensor) -> None:
        name = self.config.label
        if action_B.shape != (self.batch,):
            raise ValueError(
                f"{name}: actions of shape {tuple(action_B.shape)} came; ({self.batch},) is expected, one per row"
            )
        if action_B.dtype != torch.int64:
            raise ValueError(f"{name}: actions of type {action_B.dtype} came; torch.int64 is expected")
        inside_B = (action_B >= 0) & (action_B < self.actions)
        if self.device.type != "cpu":
            torch._assert_async(inside_B.all())
        elif not bool(inside_B.all()):
            row = int((~inside_B).nonzero()[0])
            raise ValueError(f"{name}: action {int(action_B[row])} in row {row}; it takes 0 to {self.actions - 1}")
