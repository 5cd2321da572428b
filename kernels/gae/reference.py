"""Generalised advantage estimation, one step at a time.

Shapes: T time, B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    terminated_TB: Tensor,
    done_TB: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Add up the errors from the last step to the first; see `mnemic.kernels.gae.gae`."""
    next_value_TB = torch.where(terminated_TB, 0.0, next_value_TB.float())
    delta_TB = reward_TB.float() + gamma * next_value_TB - value_TB.float()
    advantage_TB = torch.empty_like(delta_TB)
    follows_B = torch.zeros_like(delta_TB[0])
    for t in range(len(delta_TB) - 1, -1, -1):
        follows_B = delta_TB[t] + gamma * lam * torch.where(done_TB[t], 0.0, follows_B)
        advantage_TB[t] = follows_B
    return advantage_TB


def vtrace(
    log_ratio_TB: Tensor,
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    terminated_TB: Tensor,
    done_TB: Tensor,
    gamma: float,
    lam: float,
    rho_bar: float,
    c_bar: float,
) -> tuple[Tensor, Tensor]:
    """Add up the weighted errors from the last step to the first; see `mnemic.kernels.gae.vtrace`."""
    value_TB, ratio_TB = value_TB.float(), log_ratio_TB.float().exp()
    rho_TB, c_TB = ratio_TB.clamp(max=rho_bar), lam * ratio_TB.clamp(max=c_bar)
    delta_TB = reward_TB.float() + gamma * torch.where(terminated_TB, 0.0, next_value_TB.float()) - value_TB
    target_TB, advantage_TB = torch.empty_like(delta_TB), torch.empty_like(delta_TB)
    follows_B = torch.zeros_like(delta_TB[0])
    for t in range(len(delta_TB) - 1, -1, -1):
        follows_B = torch.where(done_TB[t], 0.0, follows_B)
        advantage_TB[t] = rho_TB[t] * (delta_TB[t] + gamma * follows_B)
        follows_B = rho_TB[t] * delta_TB[t] + gamma * c_TB[t] * follows_B
        target_TB[t] = value_TB[t] + follows_B
    return target_TB, advantage_TB
