"""Repeat Previous: cards are shown one by one; say the suit of the card that was shown k cards ago.

Source: POPGym (arXiv 2303.01859). Memory as a delay line: every card has to be kept, in order, for k steps.

Shapes: B rows, C cards in the deck, K cards remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .native import NativeEnv, Outcome
from .picture import Cell, Picture
from .random import Stream
from .step import EnvConfig, Hidden, Obs, Oracle, Step

SUITS = 4
CARDS = 52  # in a deck
SUIT_CELLS = (
    Cell("♠", (40, 40, 46)),
    Cell("♥", (205, 40, 50)),
    Cell("♣", (40, 120, 60)),
    Cell("♦", (220, 130, 40)),
)


@dataclass(frozen=True, kw_only=True)
class RepeatPreviousConfig(EnvConfig):
    """Say the suit of the card that was shown k cards ago. POPGym has k 4, 32, 64 with 1, 2, 3 decks."""

    name: ClassVar[str] = "repeat-previous"
    summary: ClassVar[str] = "name the suit of the card shown k cards ago (POPGym)"

    k: int = 4
    """How many cards ago."""
    decks: int = 1
    """Decks of 52 cards, shuffled together and shown to the last card."""

    def __post_init__(self) -> None:
        """Refuse a k beyond the cards."""
        self.require_whole("k", 1)
        self.require_whole("decks", 1)
        if self.k >= self.cards:
            self.refuse(f"k is {self.k} and there are {self.cards} cards; make k less than the cards, or add decks")

    @property
    def cards(self) -> int:
        """Cards in an episode."""
        return CARDS * self.decks

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> RepeatPrevious:
        """Make `batch` games."""
        return RepeatPrevious(self, batch, seed, device)

    def oracle(self) -> RepeatPreviousOracle:
        """Return a player that is always right and so gets 1."""
        return RepeatPreviousOracle(self)


class Deck(NamedTuple):
    """B games."""

    suit: Tensor  # (B, C) int64: suits in the order in which they are shown
    shown: Tensor  # (B,) int64: cards before the one on the table
    right: Tensor  # (B,) int64: right answers


class RepeatPrevious(NativeEnv):
    """B games of Repeat Previous.

    Actions: a suit, 0 to 3. The agent sees the suit of the card on the table, one-hot, (4,); after the last card
    nothing. The answer to card t is the suit of card t - k: 1/(cards - k) if right, minus that if wrong; the first k
    answers do not count. An episode takes as many steps as there are cards. `success`: every answer right.
    """

    action_names = ("spades", "hearts", "clubs", "diamonds")

    def __init__(self, config: RepeatPreviousConfig, batch: int, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(SUITS),
            observation_space=spaces.Box(0.0, 1.0, (SUITS,), np.float32),
            episode_steps=config.cards,
        )
        self.k, self.cards, self.counted = config.k, config.cards, config.cards - config.k
        self._seen = torch.cat([torch.eye(SUITS), torch.zeros(1, SUITS)]).to(self.device)
        # Looked up, not divided in each step: devices do not divide by a number with equal bits.
        self._reward = (torch.tensor([0.0, -1.0, 1.0]) / self.counted).to(self.device)
        self._share = (torch.arange(self.counted + 1) / self.counted).to(self.device)

    def begin(self, stream: Stream) -> Deck:
        """Shuffle the cards; a suit is a card's number modulo 4."""
        suit_BC = stream.permutation(0, self.cards) % SUITS
        zero_B = torch.zeros_like(suit_BC[:, 0])
        return Deck(suit_BC, zero_B, zero_B)

    def advance(self, task: Deck, action_B: Tensor, stream: Stream) -> tuple[Deck, Outcome]:
        """Judge the answer and show the next card."""
        asked_B = (task.shown - self.k).clamp(min=0)
        wanted_B = task.suit.gather(1, asked_B[:, None]).squeeze(1)
        counts_B = task.shown >= self.k
        right_B = counts_B & (action_B == wanted_B)
        deck = Deck(task.suit, task.shown + 1, task.right + right_B)
        reward_B = self._reward[counts_B.long() + right_B]
        info = {"success": deck.right == self.counted, "accuracy": self._share[deck.right]}
        return deck, Outcome(reward_B, deck.shown == self.cards, info)

    def observe(self, task: Deck, episode_step_B: Tensor) -> Tensor:
        """Show the suit of the card on the table."""
        suit_B = task.suit.gather(1, task.shown.clamp(max=self.cards - 1)[:, None]).squeeze(1)
        return self._seen[torch.where(task.shown < self.cards, suit_B, SUITS)]

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        """Return the suit of the card on the table, of which the task asks for the k before it too."""
        task: Deck = state.task
        suit_B = task.suit.gather(1, task.shown.clamp(max=self.cards - 1)[:, None]).squeeze(1)
        return {"suit": Hidden(suit_B, SUITS, shown=task.shown < self.cards, turn=task.shown, back=self.k)}

    def draw(self, state: Any, row: int) -> Picture:
        """Return the last k + 1 cards that were shown; the agent sees the rightmost and is asked for the leftmost."""
        shown = int(state.task.shown[row])
        suits = state.task.suit[row].tolist()
        blank = Cell(" ", (250, 250, 250))
        cells = [SUIT_CELLS[suits[t]] if 0 <= t < self.cards else blank for t in range(shown - self.k, shown + 1)]
        return Picture([cells], f"card {shown + 1} of {self.cards}, {int(state.task.right[row])} right")


class RepeatPreviousOracle(Oracle):
    """Remembers the last k suits in order."""

    def __init__(self, config: RepeatPreviousConfig) -> None:
        self.k = config.k
        self.last_BK = torch.empty(0, config.k, dtype=torch.int64)

    def act(self, obs: Obs, reward_B: Tensor, episode_start_B: Tensor, trial_start_B: Tensor) -> Tensor:
        """Return the next action of every row, (B,)."""
        assert isinstance(obs, Tensor)
        if len(self.last_BK) != len(obs):
            self.last_BK = torch.zeros(len(obs), self.k, dtype=torch.int64, device=obs.device)
        last_BK = torch.where(trial_start_B[:, None], 0, self.last_BK)
        answer_B = last_BK[:, 0]
        self.last_BK = torch.cat([last_BK[:, 1:], obs.argmax(1, keepdim=True)], 1)
        return answer_B
