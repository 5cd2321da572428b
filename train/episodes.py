"""Returns, lengths and success of the episodes that a run finishes.

Everything is added up where the window lives, and a look at the means is one small transfer: a window on a GPU may end
a hundred thousand episodes.

Shapes: T time, B rows, N = T * B, P places of an episode in its trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .rollout import Window

OF_EPISODE = ("episode_return", "episode_length")
OF_TRIAL = ("trial_return", "episode")


class Totals(NamedTuple):
    """What ended in one window, added up, so that windows of several processes can be put together."""

    sums: dict[str, tuple[float, int]]  # by TensorBoard tag: the sum, and of how many
    many: bool  # whether a trial has been seen to hold more than one episode


def means(totals: Sequence[Totals]) -> dict[str, float]:
    """Return the mean of everything that ended in any of the windows, by TensorBoard tag."""
    many = any(part.many for part in totals)
    found: dict[str, float] = {}
    for tag in dict.fromkeys(tag for part in totals for tag in part.sums):
        sums, counts = zip(*(part.sums[tag] for part in totals if tag in part.sums), strict=True)
        if many or not tag.startswith("trial/"):
            found[tag] = sum(sums) / sum(counts)
    return found


class Finished:
    """What ended in one window.

    Args:
        sums: what had been added up at each step of the window, the step included, each (T, B) float64.
        done_TB: where an episode ended.
        over_TB: where a trial ended with it.
        info: figures of the task, each (T, B).
    """

    def __init__(self, sums: dict[str, Tensor], done_TB: Tensor, over_TB: Tensor, info: dict[str, Tensor]) -> None:
        self._sums, self._done_TB, self._over_TB, self._info = sums, done_TB, over_TB, info

    @property
    def episode_returns(self) -> list[float]:
        """The return of every episode, in order of their ends."""
        return self._listed(self._sums["episode_return"], self._done_TB)

    @property
    def episode_lengths(self) -> list[int]:
        """The steps of every episode, in the same order."""
        return [int(length) for length in self._listed(self._sums["episode_length"], self._done_TB)]

    @property
    def trial_returns(self) -> list[float]:
        """The return of every trial."""
        return self._listed(self._sums["trial_return"], self._over_TB)

    @property
    def by_episode(self) -> dict[int, list[float]]:
        """The returns of episodes by their place in the trial, from 0."""
        found: dict[int, list[float]] = {}
        places = self._listed(self._sums["episode"], self._done_TB)
        for place, value in zip(places, self.episode_returns, strict=True):
            found.setdefault(int(place), []).append(value)
        return found

    @property
    def info(self) -> dict[str, list[float]]:
        """The figures of every episode, by name."""
        found = {name: self._listed(part.double(), self._done_TB) for name, part in self._info.items()}
        return {name: values for name, values in found.items() if values}

    def totals(self) -> Totals:
        """Return the sums and the numbers of what ended; a second look is needed where trials hold many episodes."""
        done_TB, over_TB, place_TB = self._done_TB, self._over_TB, self._sums["episode"]
        named = {
            "charts/episodic_return": self._sums["episode_return"],
            "charts/episodic_length": self._sums["episode_length"],
        }
        named |= {f"{'charts' if name == 'success' else 'task'}/{name}": part for name, part in self._info.items()}
        sums = [torch.where(done_TB, part.double(), 0).sum() for part in named.values()]
        trials = [torch.where(over_TB, self._sums["trial_return"], 0).sum(), over_TB.sum()]
        last = torch.where(done_TB, place_TB, 0).max()
        inside = (done_TB & ~over_TB).any()
        *found, trial_sum, trial_count, highest, goes_on, count = torch.stack(
            [*sums, *trials, last, inside, done_TB.sum()]
        ).tolist()
        by_tag = {tag: (total, int(count)) for tag, total in zip(named, found, strict=True)}
        by_tag["trial/return"] = trial_sum, int(trial_count)
        places = self._by_place(int(highest)) if highest else [(found[0], int(count))]
        by_tag |= {f"trial/return_episode_{place}": each for place, each in enumerate(places)}
        return Totals({tag: each for tag, each in by_tag.items() if each[1]}, bool(highest or goes_on))

    def means(self) -> dict[str, float]:
        """Return the mean of everything that ended, by TensorBoard tag."""
        return means([self.totals()])

    def _by_place(self, highest: int) -> list[tuple[float, int]]:
        """Return sum and number of the returns of the episodes at each place of a trial."""
        # Not `index_add`: where many numbers go to one place, as here, a GPU adds them up one after the other.
        done_TB, return_TB = self._done_TB, self._sums["episode_return"]
        place_N = self._sums["episode"][done_TB].long()
        sum_P = torch.bincount(place_N, return_TB[done_TB], highest + 1)
        count_P = torch.bincount(place_N, minlength=highest + 1)
        return [(total, int(count)) for total, count in torch.stack([sum_P, count_P.double()], 1).tolist()]

    def _listed(self, part_TB: Tensor, where_TB: Tensor) -> list[float]:
        return part_TB[where_TB].tolist()


class EpisodeMeter:
    """Follows B rows through their episodes and trials, window after window.

    `state` holds all of it, as tensors, so that a run can be resumed.
    """

    def __init__(self, batch: int) -> None:
        zeros = torch.zeros(batch, dtype=torch.float64)
        self.state = {name: zeros.clone() for name in (*OF_EPISODE, *OF_TRIAL)}

    def update(self, window: Window) -> Finished:
        """Take in a window and return what ended in it."""
        done_TB = window.terminated_next | window.truncated_next
        over_TB = window.trial_over_next & done_TB
        reward_TB = window.reward_next.double()
        before = {name: part.to(reward_TB.device) for name, part in self.state.items()}
        one_TB, zero_1B = torch.ones_like(reward_TB), torch.zeros_like(reward_TB[:1])
        # An episode's place is the number of those that ended before it in its trial: an end counts from the next step.
        ended_TB = (done_TB & ~over_TB).double()
        added = {
            "episode_return": reward_TB,
            "episode_length": one_TB,
            "trial_return": reward_TB,
            "episode": torch.cat([zero_1B, ended_TB[:-1]]),
        }
        sums: dict[str, Tensor] = {}
        for name, part_TB in added.items():
            end_TB = done_TB if name in OF_EPISODE else over_TB
            sums[name] = _since(end_TB, part_TB, before[name])
            left_B = sums[name][-1] + ended_TB[-1] if name == "episode" else sums[name][-1]
            self.state[name] = torch.where(end_TB[-1], 0, left_B)
        return Finished(sums, done_TB, over_TB, window.info_next)


def _since(end_TB: Tensor, part_TB: Tensor, before_B: Tensor) -> Tensor:
    """Add up from the step after the last end, and before the first end from what there was before, (T, B).

    In steps of 1, 2, 4, ..: no sum ever holds numbers from beyond an end, which would not cancel to the last bit.
    """
    first_TB = torch.cat([torch.zeros_like(end_TB[:1]), end_TB[:-1]])
    sum_TB = torch.cat([part_TB[:1] + before_B, part_TB[1:]])
    reach = 1
    while reach < len(sum_TB):
        more_TB = torch.where(first_TB[reach:], 0, sum_TB[:-reach])
        sum_TB = torch.cat([sum_TB[:reach], sum_TB[reach:] + more_TB])
        first_TB = torch.cat([first_TB[:reach], first_TB[reach:] | first_TB[:-reach]])
        reach *= 2
    return sum_TB
