"""Returns, lengths and success of the episodes that a run finishes.

Shapes: T time, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .rollout import Window


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


@dataclass
class Finished:
    """What ended in one window."""

    episode_returns: list[float] = field(default_factory=list)
    episode_lengths: list[int] = field(default_factory=list)
    trial_returns: list[float] = field(default_factory=list)
    by_episode: dict[int, list[float]] = field(default_factory=dict)  # return by place of the episode in its trial
    info: dict[str, list[float]] = field(default_factory=dict)
    many: bool = False  # whether a trial has been seen to hold more than one episode

    def totals(self) -> Totals:
        """Return the sums and the numbers of what ended."""
        named: dict[str, list[float]] = {
            "charts/episodic_return": self.episode_returns,
            "charts/episodic_length": [float(length) for length in self.episode_lengths],
        }
        named |= {f"{'charts' if name == 'success' else 'task'}/{name}": values for name, values in self.info.items()}
        named["trial/return"] = self.trial_returns
        named |= {f"trial/return_episode_{place}": v for place, v in sorted(self.by_episode.items())}
        return Totals({tag: (float(np.sum(v)), len(v)) for tag, v in named.items() if v}, self.many)

    def means(self) -> dict[str, float]:
        """Return the mean of everything that ended, by TensorBoard tag."""
        return means([self.totals()])


class EpisodeMeter:
    """Follows B rows through their episodes and trials, window after window.

    `state` holds all of it, as tensors, so that a run can be resumed.
    """

    def __init__(self, batch: int) -> None:
        zeros = torch.zeros(batch, dtype=torch.float64)
        self.state = {name: zeros.clone() for name in ("episode_return", "episode_length", "trial_return", "episode")}

    def update(self, window: Window) -> Finished:
        """Take in a window and return what ended in it."""
        reward = _numpy(window.reward_next)
        trial_over = _numpy(window.trial_over_next)
        done = _numpy(window.terminated_next | window.truncated_next)
        info = {name: _numpy(part) for name, part in window.info_next.items()}
        s = {name: part.numpy() for name, part in self.state.items()}
        found = Finished()
        for t in range(len(reward)):
            s["episode_return"] += reward[t]
            s["trial_return"] += reward[t]
            s["episode_length"] += 1
            ended = done[t].nonzero()[0]
            if len(ended) == 0:
                continue
            returns = s["episode_return"][ended].tolist()
            found.episode_returns += returns
            found.episode_lengths += s["episode_length"][ended].astype(int).tolist()
            for place, value in zip(s["episode"][ended].astype(int).tolist(), returns, strict=True):
                found.by_episode.setdefault(place, []).append(value)
            for name, part in info.items():
                found.info.setdefault(name, []).extend(part[t][ended].astype(float).tolist())
            over = trial_over[t].nonzero()[0]
            found.many |= bool(s["episode"][ended].any()) or len(over) < len(ended)
            found.trial_returns += s["trial_return"][over].tolist()
            s["episode"][ended] += 1
            for name in ("episode_return", "episode_length"):
                s[name][ended] = 0
            for name in ("trial_return", "episode"):
                s[name][over] = 0
        return found


def _numpy(part: Tensor) -> np.ndarray[Any, Any]:
    return part.cpu().numpy()
