"""The PPO loss (Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9).

Shapes: every tensor of a loss is (T, B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and ranges of the PPO loss."""

    clip: float = 0.2
    """The ratio of new to old probability counts only within 1 ± clip."""
    value_clip: float = 0.0
    """The value counts only within ± this of the value at the time of acting; 0 for no limit."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus."""
    normalise_advantage: bool = True
    """Give the advantages of a minibatch mean 0 and deviation 1."""


class Loss(NamedTuple):
    """The loss and the figures that tell how learning goes."""

    total: Tensor
    figures: dict[str, Tensor]


def ppo_loss(
    config: LossConfig,
    *,
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    old_log_prob: Tensor,
    old_value: Tensor,
    advantage: Tensor,
    entropy_weight: float | Tensor | None = None,
    moments: tuple[Tensor, Tensor] | None = None,
) -> Loss:
    """Return the loss of a minibatch, to be minimised.

    The target of the value is the old value plus the advantage (before it is normalised). The value loss is half the
    mean square. `moments` are the mean and the deviation that the advantage is normalised by; None: its own.
    `approx_kl` is the low-variance estimate mean(r - 1 - log r) of KL(old || new).
    """
    target = old_value + advantage
    if config.normalise_advantage:
        mean, deviation = moments or (advantage.mean(), advantage.std(correction=0))
        advantage = (advantage - mean) / (deviation + 1e-8)
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    error = (value - target).square()
    if config.value_clip:
        near = old_value + (value - old_value).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (near - target).square())
    value_loss = 0.5 * error.mean()
    entropy_mean = entropy.mean()
    weight = config.entropy_weight if entropy_weight is None else entropy_weight
    total = policy_loss + config.value_weight * value_loss - weight * entropy_mean
    with torch.no_grad():
        spread = target.var(correction=0)
        figures = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy_mean.detach(),
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": (clipped != ratio).float().mean(),
            "explained_variance": 1 - (target - value).var(correction=0) / (spread + 1e-8),
        }
    return Loss(total, figures)
