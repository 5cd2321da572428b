"""Returns, lengths and success of the episodes that a run finishes.

Everything is added up where the window lives, and a look at the means is one small transfer: a window on a GPU may end
a hundred thousand episodes.

Shapes: T time, B rows, N episodes that ended, K figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .rollout import Window

OF_EPISODE = ("episode_return", "episode_length")
OF_TRIAL = ("trial_return", "episode")
# What the episode before this one reached, and the first one, if there was one in the trial; where not, anything.
BEFORE, FIRST = (tuple(f"{place}_{name}" for name in ("return", "success")) for place in ("before", "first"))
MOST_PLACES = 50  # episodes of a trial with figures of their own; a long trial can hold hundreds


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
        sums: what had been added up at each step of the window, the step included, by name (`EpisodeMeter.state`),
            each (T, B) float64.
        done_TB: where an episode ended.
        over_TB: where a trial ended with it.
        cut_TB: where the clock of the trial cut that episode short.
        info: figures of the task, each (T, B).
    """

    def __init__(
        self, sums: dict[str, Tensor], done_TB: Tensor, over_TB: Tensor, cut_TB: Tensor, info: dict[str, Tensor]
    ) -> None:
        self._sums, self._done_TB, self._over_TB, self._cut_TB, self._info = sums, done_TB, over_TB, cut_TB, info

    def totals(self) -> Totals:
        """Return the sums and the numbers of what ended; a second look is needed where trials hold many episodes.

        A trial's last episode that the clock of the trial cut short is no whole one, and counts at no place. The gain
        of a trial is what its last whole episode reached minus what its first one did; it takes two whole ones.
        """
        done_TB, over_TB, place_TB = self._done_TB, self._over_TB, self._sums["episode"]
        named = {
            "charts/episodic_return": self._sums["episode_return"],
            "charts/episodic_length": self._sums["episode_length"],
        }
        named |= {f"{'charts' if name == 'success' else 'task'}/{name}": part for name, part in self._info.items()}
        learnt_TB = over_TB & (place_TB - self._cut_TB.double() >= 1)
        gains = {"trial/gain": self._gain("return", self._sums["episode_return"])}
        if "success" in self._info:
            gains["trial/success_gain"] = self._gain("success", self._info["success"].double())
        of_trials = {"trial/return": (over_TB, self._sums["trial_return"])}
        of_trials |= {tag: (learnt_TB, part) for tag, part in gains.items()}
        wanted = {tag: (done_TB, part.double()) for tag, part in named.items()} | of_trials
        sums = [torch.where(where_TB, part, 0).sum() for where_TB, part in wanted.values()]
        last = torch.where(done_TB, place_TB, 0).max()
        inside, cut = (done_TB & ~over_TB).any(), self._cut_TB.any()
        found = torch.stack([*sums, last, inside, cut, done_TB.sum(), over_TB.sum(), learnt_TB.sum()]).tolist()
        *totals, highest, goes_on, cut_short, episodes, trials, learnt = found
        counts = [episodes] * len(named) + [trials] + [learnt] * len(gains)
        by_tag = {tag: (total, int(n)) for tag, total, n in zip(wanted, totals, counts, strict=True)}
        of_all = {"return": by_tag["charts/episodic_return"]}
        if "success" in self._info:
            of_all["success"] = by_tag["charts/success"]
        places = {name: [each] for name, each in of_all.items()}
        if highest or cut_short:
            places = self._by_place(int(highest))
        for name, by_place in places.items():
            by_tag |= {f"trial/{name}_episode_{place}": each for place, each in enumerate(by_place[:MOST_PLACES])}
        return Totals({tag: each for tag, each in by_tag.items() if each[1]}, bool(highest or goes_on))

    def _gain(self, name: str, last_TB: Tensor) -> Tensor:
        """Return the last whole episode minus the first one, where a trial ended, (T, B)."""
        return torch.where(self._cut_TB, self._sums[f"before_{name}"], last_TB) - self._sums[f"first_{name}"]

    def _by_place(self, highest: int) -> dict[str, list[tuple[float, int]]]:
        """Return sum and number of what the whole episodes at each place of a trial reached, by name."""
        # Not `index_add`: where many numbers go to one place, as here, a GPU adds them up one after the other.
        whole_TB = self._done_TB & ~self._cut_TB
        reached = {"return": self._sums["episode_return"]}
        if "success" in self._info:
            reached["success"] = self._info["success"].double()
        place_N = self._sums["episode"][whole_TB].long()
        sums = [torch.bincount(place_N, part[whole_TB], highest + 1) for part in reached.values()]
        *found, counts = torch.stack([*sums, torch.bincount(place_N, minlength=highest + 1).double()]).tolist()
        whole = [int(count) for count in counts]
        return {name: list(zip(totals, whole, strict=True)) for name, totals in zip(reached, found, strict=True)}


class EpisodeMeter:
    """Follows B rows through their episodes and trials, window after window.

    `state` holds all of it, as tensors, so that a run can be resumed.

    Args:
        batch: B.
        cut_below: an episode that is truncated with its trial after fewer steps is no whole one (`Env.cut_below`).
    """

    def __init__(self, batch: int, cut_below: float = 0.0) -> None:
        zeros = torch.zeros(batch, dtype=torch.float64)
        self.state = {name: zeros.clone() for name in (*OF_EPISODE, *OF_TRIAL, *BEFORE, *FIRST)}
        self.cut_below = cut_below

    def update(self, window: Window) -> Finished:
        """Take in a window and return what ended in it."""
        done_TB = window.terminated_next | window.truncated_next
        over_TB = window.trial_over_next & done_TB
        reward_TB = window.reward_next.double()
        self.state = {name: part.to(reward_TB.device) for name, part in self.state.items()}
        one_TB, zero_1B = torch.ones_like(reward_TB), torch.zeros_like(reward_TB[:1])
        # An episode's place is the number of those that ended before it in its trial: an end counts from the next step.
        goes_on_TB = done_TB & ~over_TB
        place_TB = torch.cat([zero_1B, goes_on_TB[:-1].double()])
        nothing_B = torch.zeros_like(goes_on_TB[-1])
        sums = self._follow(OF_EPISODE, done_TB, [reward_TB, one_TB], [nothing_B, nothing_B])
        sums |= self._follow(OF_TRIAL, over_TB, [reward_TB, place_TB], [nothing_B, goes_on_TB[-1]])
        success_TB = window.info_next["success"].double() if "success" in window.info_next else torch.zeros_like(one_TB)
        reached = [sums["episode_return"], success_TB]
        sums |= self._hold(BEFORE, goes_on_TB, reached)
        sums |= self._hold(FIRST, goes_on_TB & (sums["episode"] == 0), reached)
        cut_TB = over_TB & window.truncated_next & (sums["episode_length"] < self.cut_below)
        return Finished(sums, done_TB, over_TB, cut_TB, window.info_next)

    def _follow(
        self, names: Sequence[str], end_TB: Tensor, added: list[Tensor], left: list[Tensor]
    ) -> dict[str, Tensor]:
        """Add figures up from end to end, each (T, B); what is `left` counts from the next window on."""
        sum_TKB = _since(end_TB[:, None], torch.stack(added, 1), torch.stack([self.state[name] for name in names]))
        for name, last_B, left_B in zip(names, sum_TKB[-1], left, strict=True):
            self.state[name] = torch.where(end_TB[-1], 0, last_B) + left_B
        return dict(zip(names, sum_TKB.unbind(1), strict=True))

    def _hold(self, names: Sequence[str], where_TB: Tensor, parts: list[Tensor]) -> dict[str, Tensor]:
        """Return what figures were at the latest step before this one that `where_TB` names, each (T, B)."""
        if where_TB.device.type == "cpu" and not bool(where_TB.any()):  # as always where an episode is a trial
            return {name: self.state[name].expand_as(part_TB) for name, part_TB in zip(names, parts, strict=True)}
        step_T = torch.arange(1, len(where_TB) + 1, device=where_TB.device)
        named_TB = torch.where(where_TB, step_T[:, None], 0)
        latest_TB = torch.cat([torch.zeros_like(named_TB[:1]), named_TB]).cummax(0).values  # 0: in an earlier window
        held = {}
        for name, part_TB in zip(names, parts, strict=True):
            seen_TB = torch.cat([self.state[name][None], part_TB]).gather(0, latest_TB)
            held[name], self.state[name] = seen_TB[:-1], seen_TB[-1].clone()
        return held


def _since(end_T1B: Tensor, part_TKB: Tensor, before_KB: Tensor) -> Tensor:
    """Add up from the step after the last end, and before the first end from what there was before, (T, K, B).

    In steps of 1, 2, 4, ..: no sum ever holds numbers from beyond an end, which would not cancel to the last bit.
    """
    first_T1B = torch.cat([torch.zeros_like(end_T1B[:1]), end_T1B[:-1]])
    sum_TKB = torch.cat([part_TKB[:1] + before_KB, part_TKB[1:]])
    reach = 1
    while reach < len(sum_TKB):
        more_TKB = torch.where(first_T1B[reach:], 0, sum_TKB[:-reach])
        sum_TKB = torch.cat([sum_TKB[:reach], sum_TKB[reach:] + more_TKB])
        first_T1B = torch.cat([first_T1B[:reach], first_T1B[reach:] | first_T1B[:-reach]])
        reach *= 2
    return sum_TKB
