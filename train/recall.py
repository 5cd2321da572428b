"""An auxiliary loss that asks a memory what the task hides: a map, a goal, a cue, the cards before this one.

While acting, a window keeps what `Env.hidden` says. While learning, linear heads answer it from the features that the
policy's own heads read, and the mean cross-entropy of all answers is added to the loss of PPO. What a row has not been
told since its trial began is not asked: nobody can know it. The heads belong to training: a policy is saved without.

With a critic of its own, only the actor's memory is asked.

Source: auxiliary predictions from the features of a recurrent actor-critic, with labels that the simulator knows:
Mirowski et al. 2016 (arXiv 1611.03673; depth, loop closure). Departure: what is asked is what must be remembered.

Shapes: T time, B rows, R some of them, D features, K contents of a thing: the present one first, then those before it
that the task still asks for; C values that it can have, N answers of all moments and rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..agents.losses import Loss
from ..envs import ENVS
from ..envs.step import Env, Hidden


class Thing(NamedTuple):
    """Something hidden, as it is in B rows at a moment."""

    value: Tensor  # (B, K) int64
    told: Tensor  # (B, K) bool: the row has been told since its trial began
    turn: Tensor  # (B,) int64, of the present content


def asked(env: Env, names: Sequence[str] = ()) -> dict[str, Hidden]:
    """Return what a task hides when it begins: what is named of it, or all.

    Raises:
        ValueError: it says of nothing that it hides it, or not of what is named.
    """
    if found := env.hidden(*env.reset()):
        if unknown := [name for name in names if name not in found]:
            raise ValueError(
                f"ppo: recall asks for {unknown[0]!r}, and {env.config.label} hides {', '.join(found)}; choose of these"
            )
        return {name: found[name] for name in names or found}
    known = [name for name, config in ENVS.items() if type(config().build(1, 0)).hidden is not Env.hidden]
    raise ValueError(
        f"ppo: recall_weight asks for what the task hides, and {env.config.label} does not say what that is; "
        f"leave it at 0, or take one of {', '.join(known)}, or trials of them"
    )


def begin(hidden: dict[str, Hidden], names: Collection[str], trial_start_B: Tensor) -> dict[str, Thing]:
    """Return what there is to remember at the first moment of all, of what is named."""
    nothing = {}
    for name, thing in ((name, hidden[name]) for name in names):
        value_BK = thing.value[:, None].repeat(1, thing.back + 1)
        nothing[name] = Thing(value_BK, torch.zeros_like(value_BK, dtype=torch.bool), thing.turn)
    return follow(nothing, hidden, trial_start_B)


def follow(before: dict[str, Thing], hidden: dict[str, Hidden], trial_start_B: Tensor) -> dict[str, Thing]:
    """Return what there is to remember at the next moment.

    A content begins with another number (`turn`) or another value. Where it begins without being shown, as a cube that
    becomes the target while the map is hidden, it counts as told if the one before it did: the row was told in another
    way. A task that keeps count itself (`Hidden.told`) is believed.
    """
    now = {}
    for name, (value_BK, told_BK, turn_B) in before.items():
        thing = hidden[name]
        new_B = ((thing.turn != turn_B) | (thing.value != value_BK[:, 0])) & ~trial_start_B
        value_BK, told_BK = (
            torch.where(new_B[:, None], torch.cat([part_BK[:, :1], part_BK[:, :-1]], 1), part_BK)
            for part_BK in (value_BK, told_BK & ~trial_start_B[:, None])
        )
        now[name] = Thing(
            torch.cat([thing.value[:, None], value_BK[:, 1:]], 1),
            torch.cat([_told(thing, told_BK[:, 0])[:, None], told_BK[:, 1:]], 1),
            thing.turn,
        )
    return now


def _told(thing: Hidden, before_B: Tensor) -> Tensor:
    return before_B | thing.shown if thing.told is None else thing.told


class Recall(nn.Module):
    """A linear head for each hidden thing; at first every value is as likely.

    Args:
        width: D.
        hidden: what is asked, by name.
    """

    def __init__(self, width: int, hidden: dict[str, Hidden]) -> None:
        super().__init__()
        self.sizes = {name: (thing.back + 1, thing.values) for name, thing in hidden.items()}
        self.out = nn.Linear(width, sum(contents * values for contents, values in self.sizes.values()))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, y: Tensor) -> dict[str, Tensor]:
        """Return logits by name, (..., K, C), from features (..., D), or more, of which the first D are read."""
        parts = self.out(y[..., : self.out.in_features]).split([k * c for k, c in self.sizes.values()], -1)
        return {name: part.unflatten(-1, size) for (name, size), part in zip(self.sizes.items(), parts, strict=True)}

    def added_to(
        self,
        loss: Loss,
        weight: float,
        y_TRD: Tensor,
        hidden: dict[str, Thing],
        average: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> Loss:
        """Return a loss with `weight` times the mean cross-entropy of all that has been told, and its figures.

        `recall` is that mean, `recall_accuracy` the share of it whose likeliest value is right; both are 0 where
        nothing has been told. Over many processes, each of them leaves its part of the mean of all.
        """
        wrong, right, told = [], [], []
        for name, logits_TRKC in self(y_TRD).items():
            thing = hidden[name]
            wrong.append(F.cross_entropy(logits_TRKC.flatten(0, 2), thing.value.flatten(), reduction="none"))
            right.append((logits_TRKC.argmax(-1) == thing.value).flatten())
            told.append(thing.told.flatten())
        told_N = torch.cat(told).float()
        share = told_N.mean()
        if average is not None:
            average([share])
        share = share.clamp(min=1e-12)
        missed = (torch.cat(wrong) * told_N).mean() / share
        hit = (torch.cat(right) * told_N).mean() / share
        figures = {"recall": missed.detach().clone(), "recall_accuracy": hit}
        return Loss(loss.total + weight * missed, loss.figures | figures)
