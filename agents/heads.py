"""From features to actions: what a policy may do, as one distribution for each kind of action space.

Shapes: the functions of this file take any leading axes; A numbers that describe the distribution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from .noise import draw


class ActionHead(nn.Module, ABC):
    """A distribution over actions, described by A numbers that a linear layer gives."""

    size: int  # A

    @abstractmethod
    def sample(self, given: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw an action from each description (..., A)."""

    @abstractmethod
    def mode(self, given: Tensor) -> Tensor:
        """Return the most likely action of each description (..., A)."""

    @abstractmethod
    def log_prob(self, given: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability (density, for a continuous space) of each action, (...)."""

    @abstractmethod
    def entropy(self, given: Tensor) -> Tensor:
        """Return the entropy of each description in nats, (...)."""

    def judge(self, given: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each action and the entropy of each description: what learning asks for."""
        return self.log_prob(given, action), self.entropy(given)

    @abstractmethod
    def blank(self, batch: int) -> Tensor:
        """Return actions that stand for none, for the input of a first step."""


class CategoricalHead(ActionHead):
    """One choice out of A; the description is the logits."""

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        self.size = int(space.n)

    def sample(self, given: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw by the Gumbel trick: the largest logit after adding -log(-log(u))."""
        noise = draw(torch.rand, given.shape, generator, given.device)
        return (given.float() - torch.log(-torch.log(noise.clamp_(1e-20, 1 - 1e-7)))).argmax(-1)

    def mode(self, given: Tensor) -> Tensor:
        """Return the largest logit."""
        return given.argmax(-1)

    def log_prob(self, given: Tensor, action: Tensor) -> Tensor:
        """Return the log-softmax at the action."""
        return _chosen(F.log_softmax(given.float(), -1), action)

    def entropy(self, given: Tensor) -> Tensor:
        """Return -sum p log p."""
        return _entropy(F.log_softmax(given.float(), -1))

    def judge(self, given: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, from one log-softmax."""
        log_p = F.log_softmax(given.float(), -1)
        return _chosen(log_p, action), _entropy(log_p)

    def blank(self, batch: int) -> Tensor:
        """Return zeros."""
        return torch.zeros(batch, dtype=torch.int64)


def _chosen(log_p: Tensor, action: Tensor) -> Tensor:
    return log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


class GaussianHead(ActionHead):
    """A vector of independent normals; the description is the means, and the spread is a parameter of its own."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.size = space.shape[0]
        self.log_std = nn.Parameter(torch.zeros(self.size))

    def sample(self, given: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw mean + std * noise."""
        noise = draw(torch.randn, given.shape, generator, given.device)
        return given.float() + self.log_std.exp() * noise

    def mode(self, given: Tensor) -> Tensor:
        """Return the mean."""
        return given.float()

    def log_prob(self, given: Tensor, action: Tensor) -> Tensor:
        """Return the log-density, summed over the vector."""
        score = (action - given.float()) / self.log_std.exp()
        return (-0.5 * score.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, given: Tensor) -> Tensor:
        """Return the entropy, which depends on the spread alone."""
        total = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return total.expand(given.shape[:-1])

    def blank(self, batch: int) -> Tensor:
        """Return zeros."""
        return torch.zeros(batch, self.size)


def build_head(space: spaces.Space[object]) -> ActionHead:
    """Return the head for an action space.

    Raises:
        ValueError: a space that is neither Discrete nor a Box of one axis.
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalHead(space)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return GaussianHead(space)
    raise ValueError(f"the action space is {space}; a policy takes Discrete, or Box with one axis")
