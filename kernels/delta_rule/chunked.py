"""The delta rule by matrix products over chunks of time, the memory carried from chunk to chunk.

Inside a chunk the writes u solve a triangular system (I + A) u = r: the WY form of Yang et al. 2024, "Parallelizing
Linear Transformers with the Delta Rule over Sequence Length" (arXiv 2406.06484), section 3.2. Decays are exponentials
of sums of log decays between two steps, never above 1. First derivatives only.

Forgetting is exact: what was forgotten is selected away. Matrix products multiply it by 0 all the same, so steps with
an infinity or a NaN are taken out of them, and outputs that such a step reaches are made NaN.
Shapes: C steps of a chunk, J the same steps as keys, T time, B rows, H heads, K width of keys, V width of values,
D is 1 or K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import compute_type

CHUNK = 32
CHUNK_BY_KEY = 16
"""Of decays for each key dimension: pairs of steps have K decays."""
HUGE = 1e18
"""Sums of products of numbers up to this are finite in float32."""


def delta_rule(
    query_TBHK: Tensor,
    key_TBHK: Tensor,
    value_TBHV: Tensor,
    beta_TBH: Tensor | None,
    log_decay: Tensor | None,
    state_BHKV: Tensor,
    start_TB: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return what `reference.delta_rule` returns."""
    wide = compute_type(state_BHKV, value_TBHV)
    by_key = log_decay is not None and log_decay.ndim == 4
    if log_decay is not None and not by_key:
        log_decay = log_decay[..., None]
    last_BHKV, reads = state_BHKV.to(wide), []
    chunk = CHUNK_BY_KEY if by_key else CHUNK
    for first in range(0, len(start_TB), chunk):
        query_BHCK, key_BHCK, value_BHCV, beta_BHC1, log_BHCD = (
            None if part is None else part[first : first + chunk].to(wide).permute(1, 2, 0, 3)
            for part in (query_TBHK, key_TBHK, value_TBHV, None if beta_TBH is None else beta_TBH[..., None], log_decay)
        )
        assert query_BHCK is not None
        assert key_BHCK is not None
        assert value_BHCV is not None
        start_BC = start_TB[first : first + chunk].t()
        y_BHCV, last_BHKV = _chunk(query_BHCK, key_BHCK, value_BHCV, beta_BHC1, log_BHCD, last_BHKV, start_BC)
        reads.append(y_BHCV.permute(2, 0, 1, 3).to(value_TBHV.dtype))
    return torch.cat(reads), last_BHKV.to(state_BHKV.dtype)


def _chunk(
    query_BHCK: Tensor,
    key_BHCK: Tensor,
    value_BHCV: Tensor,
    beta_BHC1: Tensor | None,
    log_BHCD: Tensor | None,
    state_BHKV: Tensor,
    start_BC: Tensor,
) -> tuple[Tensor, Tensor]:
    steps = start_BC.shape[1]
    trial_BC = start_BC.cumsum(1)
    step_C = torch.arange(steps, device=start_BC.device)
    earlier_CJ = step_C[:, None] > step_C
    seen_B1CJ = ((trial_BC[:, :, None] == trial_BC[:, None]) & (step_C[:, None] >= step_C))[:, None]
    carried_B1C1 = (trial_BC == 0)[:, None, :, None]

    # What is not finite is taken out of all products, and said at the end.
    asks_BHC1, sound_BHC1 = _finite(query_BHCK), _finite(key_BHCK) & _finite(value_BHCV)
    if beta_BHC1 is not None:
        sound_BHC1 = sound_BHC1 & beta_BHC1.isfinite()
        beta_BHC1 = torch.where(sound_BHC1, beta_BHC1, 0)
    if log_BHCD is not None:
        log_BHCD = torch.where(start_BC[:, None, :, None], 0, log_BHCD)
        sound_BHC1 = sound_BHC1 & (log_BHCD < torch.inf).all(-1, True)
        log_BHCD = torch.where(sound_BHC1, log_BHCD, 0)
    whole_BH11 = _finite(state_BHKV.flatten(2))[..., None]
    query_BHCK = torch.where(asks_BHC1, query_BHCK, 0)
    key_BHCK, write_BHCV = torch.where(sound_BHC1, key_BHCK, 0), torch.where(sound_BHC1, value_BHCV, 0)
    state_BHKV = torch.where(whole_BH11, state_BHKV, 0)

    if log_BHCD is None:
        pair_BHCJD, carry_BHCD = seen_B1CJ[..., None].to(key_BHCK.dtype), carried_B1C1.to(key_BHCK.dtype)
    else:
        # Sums between two steps hold nothing from before the first: not even rounding reaches over a start.
        between_BHCJD = torch.where(earlier_CJ[..., None], log_BHCD[:, :, :, None], 0).cumsum(2)
        pair_BHCJD = torch.where(seen_B1CJ[..., None], between_BHCJD, -torch.inf).exp()
        carry_BHCD = torch.where(carried_B1C1, log_BHCD.cumsum(2), -torch.inf).exp()

    if beta_BHC1 is not None:
        A_BHCJ = (beta_BHC1 * _alike(key_BHCK, key_BHCK, pair_BHCJD)).clamp(-HUGE, HUGE)
        A_BHCJ = torch.where(seen_B1CJ & earlier_CJ, A_BHCJ, 0)
        write_BHCV = beta_BHC1 * (write_BHCV - (carry_BHCD * key_BHCK) @ state_BHKV)
        write_BHCV = _solve(A_BHCJ, write_BHCV.clamp(-HUGE, HUGE))
    attend_BHCJ = torch.where(seen_B1CJ, _alike(query_BHCK, key_BHCK, pair_BHCJD), 0)
    y_BHCV = (carry_BHCD * query_BHCK) @ state_BHKV + attend_BHCJ @ write_BHCV
    last_BHKV = carry_BHCD[:, :, -1, :, None] * state_BHKV
    last_BHKV = last_BHKV + (pair_BHCJD[:, :, -1] * key_BHCK).transpose(-1, -2) @ write_BHCV

    broken_BHC1 = seen_B1CJ.float() @ (~sound_BHC1).float() > 0
    broken_BHC1 = broken_BHC1 | (carried_B1C1 & ~whole_BH11)
    y_BHCV = torch.where(broken_BHC1 | ~asks_BHC1, torch.nan, y_BHCV)
    return y_BHCV, torch.where(broken_BHC1[:, :, -1:], torch.nan, last_BHKV)


def _finite(x_BHCK: Tensor) -> Tensor:
    # A sum with an infinity or a NaN in it is one.
    return x_BHCK.detach().sum(-1, keepdim=True).isfinite()


def _alike(left_BHCK: Tensor, right_BHJK: Tensor, pair_BHCJD: Tensor) -> Tensor:
    if pair_BHCJD.shape[-1] == 1:
        return pair_BHCJD[..., 0] * (left_BHCK @ right_BHJK.transpose(-1, -2))
    return (left_BHCK[:, :, :, None] * right_BHJK[:, :, None] * pair_BHCJD).sum(-1)


def _solve(A_BHCJ: Tensor, right_BHCV: Tensor) -> Tensor:
    """Return (I + A)^-1 right for a strictly lower triangular A.

    The inverses of diagonal blocks are joined to those of blocks twice as large: as stable as substitution.
    """
    steps = A_BHCJ.shape[-1]
    step_C = torch.arange(steps, device=A_BHCJ.device)
    with torch.no_grad():
        inverse_BHCJ = torch.eye(steps, dtype=A_BHCJ.dtype, device=A_BHCJ.device)
        for level in range((steps - 1).bit_length()):
            near_CJ = (step_C[:, None] >> (level + 1)) == (step_C >> (level + 1))
            joint_BHCJ = torch.where(near_CJ & ((step_C[:, None] >> level) != (step_C >> level)), A_BHCJ, 0)
            if level:
                joint_BHCJ = (joint_BHCJ @ inverse_BHCJ).clamp(-HUGE, HUGE)
                joint_BHCJ = (inverse_BHCJ @ joint_BHCJ).clamp(-HUGE, HUGE)
            inverse_BHCJ = inverse_BHCJ - joint_BHCJ
        solved_BHCV = inverse_BHCJ @ right_BHCV
    if not (A_BHCJ.requires_grad or right_BHCV.requires_grad):
        return solved_BHCV
    # The same value once more, with the derivative of the solution: d u = (I + A)^-1 (d right - d A u).
    return inverse_BHCJ @ (right_BHCV - (A_BHCJ - A_BHCJ.detach()) @ solved_BHCV)
