"""Trials: any task as meta-RL. An agent plays the same task again and again, and what it learns counts from then on.

A trial is K episodes or H steps of one task, the next trial another task. One task means one draw: maze, cue, goal,
start, and what happens by chance in an episode (a cube that jumps) are the same in every episode of a trial, so that
the same actions give the same episode. Memory lives through the trial and forgets at its start.

Shapes: B rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from .native import NativeEnv, NativeState, Outcome, pick
from .picture import Picture
from .random import Stream
from .step import Env, EnvConfig, Hidden, Obs, Oracle, Step
from .tmaze import TMazeConfig

EPISODES = 5  # of a trial, where nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class TrialsConfig(EnvConfig):
    """Trials of many episodes of one task."""

    name: ClassVar[str] = "trials"
    summary: ClassVar[str] = "any environment in trials of many episodes of one task, such as trials:tmaze (meta-RL)"

    task: EnvConfig = field(default_factory=TMazeConfig)
    """The task and its options."""
    episodes: int = 0
    """Episodes of a trial; it ends with the last one. 0: as `steps` says, or 5 where both are 0."""
    steps: int = 0
    """Steps of a trial; the episode that runs then is truncated. 0: as `episodes` says."""

    def __post_init__(self) -> None:
        """Refuse a trial that would end in two ways."""
        self.require_whole("episodes", 0)
        self.require_whole("steps", 0)
        if self.episodes and self.steps:
            self.refuse(f"episodes is {self.episodes} and steps is {self.steps}; a trial ends by one: leave one 0")
        if isinstance(self.task, TrialsConfig):
            self.refuse("a trial holds episodes and no trials; write trials: once")

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.name}:{self.task.label}"

    @property
    def most_episodes(self) -> int:
        """Episodes after which a trial is over; 0 where its steps decide."""
        return self.episodes or (0 if self.steps else EPISODES)

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make `batch` trials.

        Raises:
            ValueError: the task has trials of its own, or cannot be begun again.
        """
        return self.build_part(range(batch), seed, device)

    def build_part(self, rows: range, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make some rows of a larger batch: each does what it would do in the whole."""
        # Only here, so that Gymnasium's worker processes and their parts are loaded by those who need them.
        from .from_gymnasium import GymConfig, GymnasiumEnv

        if isinstance(self.task, GymConfig):
            return GymnasiumEnv(self.task, len(rows), seed, device, rows.start, trials=self)
        task = self.task.build(len(rows), seed, device)
        if not isinstance(task, NativeEnv):
            self.refuse("only the tasks of this package and Gymnasium's can be begun again as they were")
        if task.many_episodes:
            self.refuse(f"{self.task.label} has trials of many episodes of its own; use it as it is, with its options")
        env = Trials(self, task)
        env.first_row = rows.start
        return env

    def oracle(self) -> Oracle | None:
        """Return the task's player, which plays each episode for itself and learns nothing from the one before."""
        player = self.task.oracle()
        return None if player is None else EachEpisode(player)


class Trial(NamedTuple):
    """B trials of a task."""

    task: Any  # the task's own
    origin: Tensor  # (B,) int64: the clock of the stream when the trial began, from which every episode is drawn
    began: Tensor  # (B,) int64: its clock when the episode began
    place: Tensor  # (B,) int64: episodes of the trial that are over


class Trials(NativeEnv):
    """B trials of a native task: its actions, observations and rewards as they are.

    Every episode of a trial draws from the stream as it stood when the trial began. Where a trial ends by its steps,
    the episode that runs then is truncated, unless it terminates in that step.

    Args:
        config: the options.
        task: the environment whose episodes are played; of its rows nothing but their number counts.
    """

    def __init__(self, config: TrialsConfig, task: NativeEnv) -> None:
        super().__init__(
            config,
            task.batch,
            task.seed,
            task.device,
            action_space=spaces.Discrete(task.actions),
            observation_space=task.observation_space,
            episode_steps=task.episode_steps,
            trial_steps=config.steps or config.most_episodes * task.episode_steps,
        )
        self.task, self.action_names, self.episodes = task, task.action_names, config.most_episodes
        self.trial_clock = config.steps or None

    def begin(self, stream: Stream) -> Trial:
        """Draw new tasks."""
        return Trial(self.task.begin(stream), stream.clock, stream.clock, torch.zeros_like(stream.clock))

    def renew(self, task: Trial, stream: Stream, over_B: Tensor, trial_over_B: Tensor) -> Trial:
        """Draw the same task once more, or a new one where the trial is over."""
        origin_B = torch.where(trial_over_B, stream.clock, task.origin)
        fresh = Trial(
            task=self.task.begin(Stream(stream.key, origin_B)),
            origin=origin_B,
            began=stream.clock,
            place=torch.where(trial_over_B, 0, task.place + 1),
        )
        renewed: Trial = pick(over_B, fresh, task)
        return renewed

    def trial_over(self, task: Trial, over_B: Tensor, trial_step_B: Tensor) -> Tensor:
        """Say which rows have played the last step, or the last episode, of their trial."""
        if self.trial_clock is not None:
            return trial_step_B >= self.trial_clock
        return over_B & (task.place + 1 >= self.episodes)

    def advance(self, task: Trial, action_B: Tensor, stream: Stream) -> tuple[Trial, Outcome]:
        """Take one action in the task; what it draws is what it drew in the trial's other episodes."""
        moment_B = self.task.moment(task.task, stream.clock - 1 - task.began)
        drawn = Stream(stream.key, task.origin + 1 + moment_B)
        after, outcome = self.task.advance(task.task, action_B, drawn)
        return task._replace(task=after), outcome

    def observe(self, task: Trial, episode_step_B: Tensor) -> Obs:
        """Show what the task shows: which episode it is, the agent has to know by itself."""
        return self.task.observe(task.task, episode_step_B)

    def hidden(self, state: NativeState, step: Step) -> dict[str, Hidden]:
        """Return what the task hides."""
        return self.task.hidden(state._replace(task=state.task.task), step)

    def draw(self, state: NativeState, row: int) -> Picture:
        """Return the picture of the task, and where in the trial it stands."""
        trial: Trial = state.task
        picture = self.task.draw(state._replace(task=trial.task), row)
        place = f"episode {int(trial.place[row]) + 1}"
        if self.trial_clock is None:
            place += f" of {self.episodes}"
        else:
            place += f", {self.trial_clock - int(state.trial_step[row])} steps of the trial left"
        return replace(picture, caption=f"{place}: {picture.caption}" if picture.caption else place)


class EachEpisode(Oracle):
    """Plays each episode of a trial as the task's own player does, which forgets everything at its start."""

    def __init__(self, player: Oracle) -> None:
        self.player = player

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        return self.player.act(obs, reward_B, episode_start_B, episode_start_B)
