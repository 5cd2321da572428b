"""Generalised advantage estimation, where an end by the rules and an end by the clock are two things.

Shapes: T time, B rows.
"""

from __future__ import annotations

from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "gae"]

OP = Op("gae", __name__, {"reference": Backend("step by step, the definition")})


def gae(
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    terminated_TB: Tensor,
    done_TB: Tensor,
    gamma: float,
    lam: float,
    backend: str | None = None,
) -> Tensor:
    """Return the advantages (T, B), in float32.

    delta = reward + gamma * next_value * (1 - terminated) - value, and the advantage is the sum of the deltas from
    there to the end of the episode, each step further discounted by gamma * lam.
    Source: Schulman et al. 2016, equation 16.

    Args:
        reward_TB: the rewards of the steps.
        value_TB: the values of what was seen before each step.
        next_value_TB: the values of what followed, the final observation where an episode ended.
        terminated_TB: bool, the episode ended by the rules: nothing follows, whatever `next_value` says.
        done_TB: bool, the episode ended by the rules or by the clock: no later delta counts.
        gamma: the discount of a step.
        lam: from 0 (one step) to 1 (all of them).
        backend: a name of `OP.backends`, or None for the fastest that fits.
    """
    window = (reward_TB, value_TB, next_value_TB, terminated_TB, done_TB)
    advantage_TB: Tensor = OP.pick(backend, reward_TB).gae(*window, gamma, lam)
    return advantage_TB
