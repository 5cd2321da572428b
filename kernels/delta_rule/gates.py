"""Exponential input gates in a form that cannot overflow: what turns an mLSTM into a decay and a scale of its keys.

An mLSTM with log gates i and f has C = e^f C + e^i k v^T, and e^i has no bound. So C is kept as C e^-m, with m the log
of the largest weight of anything in it, and 0 at least: m_t = max(f_t + m_{t-1}, i_t, 0). Then neither is above 1:

    decay  e^(f_t + m_{t-1} - m_t)      scale of the key  e^(i_t - m_t)

Any m gives the same C, so nothing depends on m but rounding: no gradient goes through it, and it may be computed in any
order. The least m is 0 since a reader divides by max(|n . q|, 1), e^-m times which is max(|n e^-m . q|, e^-m): what is
small beside 1 may vanish, and a row that remembers nothing has m = 0. Source: Beck et al. 2024, "xLSTM" (arXiv
2405.04517), section 2.3 and appendix A.

Shapes: T time, B rows, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exponential_gates(
    log_in_TBH: Tensor, log_forget_TBH: Tensor, top_BH: Tensor, start_TB: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fold exponential gates into a decay of the memory and a scale of what is written.

    Args:
        log_in_TBH: the log of how much each step counts, (T, B, H), T >= 1; -inf for a step that writes nothing.
        log_forget_TBH: the log of how much is kept, (T, B, H), not above 0.
        top_BH: m before the first step, (B, H); 0 for a row that remembers nothing.
        start_TB: (T, B) bool; true where a row forgets everything before it takes that step.

    Returns:
        For each step (T, B, H), in the type of `log_in`: the log of the decay, which is not above 0 (but for rounding);
        the log of the scale, which is not either; and m, without a gradient: the last is what to carry on.
    """
    with torch.no_grad():
        top_TBH = _tops(log_in_TBH.clamp(min=0), log_forget_TBH, top_BH, start_TB)
    # The only m that was not made here is the first: what is kept in its scale does depend on it.
    before_TBH = torch.cat([top_BH[None].to(top_TBH.dtype), top_TBH[:-1]])
    before_TBH = torch.where(start_TB[..., None], 0, before_TBH)
    return log_forget_TBH + before_TBH - top_TBH, log_in_TBH - top_TBH, top_TBH


def _tops(entry_TBH: Tensor, decay_TBH: Tensor, top_BH: Tensor, start_TB: Tensor) -> Tensor:
    """Return m_t = max(decay_t + m_{t-1}, entry_t), in log2 T rounds: each doubles how far a step has looked back.

    What lies before a start is selected away, so that not even its rounding is left.
    """
    cut_TB1, shift = start_TB[..., None], 1
    while shift < len(entry_TBH):
        reached_TBH = torch.maximum(entry_TBH[shift:], entry_TBH[:-shift] + decay_TBH[shift:])
        reached_TBH = torch.where(cut_TB1[shift:], entry_TBH[shift:], reached_TBH)
        entry_TBH = torch.cat([entry_TBH[:shift], reached_TBH])
        decay_TBH = torch.cat([decay_TBH[:shift], decay_TBH[shift:] + decay_TBH[:-shift]])
        cut_TB1 = torch.cat([cut_TB1[:shift], cut_TB1[shift:] | cut_TB1[:-shift]])
        shift *= 2
    return torch.where(cut_TB1, entry_TBH, torch.maximum(entry_TBH, top_BH + decay_TBH))
