"""The entries that were surprising: what could not be predicted is worth remembering, for a while.

Source: Yao et al. 2024, SirLLM (arXiv 2405.12528), section 3, where a token's score is its negative log-likelihood.
Transferred to agents: a step's score is what `judge` is told, e.g. the size of its TD error or -log pi(action); a round
of the conversation is an episode of the trial, or a number of steps; one entry goes for each that comes.
Shapes: B rows, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .ledger import Ledger
from .rule import RankedConfig


class Scores(NamedTuple):
    """What is noted of each entry."""

    score_BS: Tensor
    """(B, S) float32: its surprise, decayed; 0 until it is judged."""


@dataclass(frozen=True, kw_only=True)
class SurpriseConfig(RankedConfig):
    """The first entries, the newest, and of the others those with the highest surprise, decayed by rounds.

    Noise is surprising too, and is kept as well as a cue is. Without judgements it is `sinks`.
    """

    name: ClassVar[str] = "surprise"
    summary: ClassVar[str] = "the most surprising entries, decayed, beside the first and the newest (SirLLM)"
    judges: ClassVar[bool] = True

    decay: float = 0.9
    """What every score is multiplied with at each round; 1 for none."""
    round_steps: int = 0
    """Steps of a round; 0: a round is an episode of the trial."""

    def __post_init__(self) -> None:
        """Refuse a decay outside 0 to 1, and negative rounds."""
        super().__post_init__()
        if not 0 <= self.decay <= 1:
            self.refuse(f"decay is {self.decay}; it must lie in 0 to 1")
        if self.round_steps < 0:
            self.refuse(f"round_steps is {self.round_steps}; it must be at least 0 (0: a round is an episode)")

    @property
    def episodic(self) -> bool:
        """Whether rounds are episodes."""
        return self.round_steps == 0 and self.decay < 1

    def blank(self, batch: int, slots: int, device: torch.device) -> Scores:
        """Return scores of 0."""
        return Scores(torch.zeros(batch, slots, device=device))

    def tick(self, marks: Scores, time_B: Tensor, episode_B: Tensor | None) -> Scores:
        """Decay all scores where a round begins."""
        if self.round_steps:
            begins_B = (time_B > 0) & (time_B % self.round_steps == 0)
        elif episode_B is not None:
            begins_B = episode_B
        else:
            return marks
        return Scores(torch.where(begins_B[:, None], self.decay * marks.score_BS, marks.score_BS))

    def born(self, marks: Scores, here_BS: Tensor, time_B: Tensor) -> Scores:
        """Begin with 0."""
        return Scores(torch.where(here_BS, 0.0, marks.score_BS))

    def judged(self, marks: Scores, here_BS: Tensor, surprise_B: Tensor) -> Scores:
        """Take the surprise as the score; one that is not a number counts as none."""
        surprise_B1 = surprise_B[:, None].to(marks.score_BS.dtype).nan_to_num(nan=0.0)
        return Scores(torch.where(here_BS, surprise_B1, marks.score_BS))

    def worth(self, ledger: Ledger) -> Tensor:
        """Return the scores."""
        score_BS: Tensor = ledger.marks.score_BS
        return score_BS
