"""Generalised advantage estimation and V-trace, where an end by the rules and an end by the clock are two things.

Shapes: T time, B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import Backend, Op

__all__ = ["OP", "gae", "vtrace"]

OP = Op(
    "gae",
    __name__,
    {
        "triton": Backend("one pass over memory, tiles of time composed by a scan", triton=True),
        "reference": Backend("step by step, the definition"),
    },
)


@torch.no_grad()
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
    """Return the advantages (T, B), in float32, without a gradient.

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

    Raises:
        ValueError: sizes that do not fit each other, or flags that are not bool.
    """
    window = (reward_TB, value_TB, next_value_TB, terminated_TB, done_TB)
    _check("gae", window)
    advantage_TB: Tensor = OP.pick(backend, reward_TB).gae(*window, gamma, lam)
    return advantage_TB


@torch.no_grad()
def vtrace(
    log_ratio_TB: Tensor,
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    terminated_TB: Tensor,
    done_TB: Tensor,
    gamma: float,
    lam: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what values should have been, and advantages, for data of an older policy; both (T, B), in float32.

    With rho = min(rho_bar, ratio), c = lam * min(c_bar, ratio) and delta as for `gae`, the correction of a value is
    v[t] = rho[t] * delta[t] + gamma * c[t] * v[t+1], where nothing follows the end of an episode; the targets are
    value + v, and the advantages rho[t] * (delta[t] + gamma * v[t+1]). With ratios of 1, v is what `gae` returns.
    Source: Espeholt et al. 2018, "IMPALA" (arXiv 1802.01561), section 4, equation 1 and remark 2.

    Args:
        log_ratio_TB: log-probability of each action now, less that at the time it was taken.
        reward_TB: as for `gae`.
        value_TB: as for `gae`.
        next_value_TB: as for `gae`.
        terminated_TB: as for `gae`.
        done_TB: as for `gae`.
        gamma: the discount of a step.
        lam: from 0 (one step) to 1 (all of them).
        rho_bar: the highest weight of an error; it sets which policy's values are learned.
        c_bar: the highest weight of what follows a step; it sets how fast they are.
        backend: a name of `OP.backends`, or None for the fastest that fits.

    Raises:
        ValueError: sizes that do not fit each other, or flags that are not bool.
    """
    window = (log_ratio_TB, reward_TB, value_TB, next_value_TB, terminated_TB, done_TB)
    _check("vtrace", window)
    found = OP.pick(backend, reward_TB).vtrace(*window, gamma, lam, rho_bar, c_bar)
    target_TB, advantage_TB = found
    return target_TB, advantage_TB


def _check(name: str, window: tuple[Tensor, ...]) -> None:
    if window[0].ndim != 2 or any(part.shape != window[0].shape for part in window):
        came = ", ".join(str(tuple(part.shape)) for part in window)
        raise ValueError(f"{name}: {came} came; they are all (T, B)")
    for part in window[-2:]:
        if part.dtype != torch.bool:
            raise ValueError(f"{name}: a flag is {part.dtype}; give torch.bool")
