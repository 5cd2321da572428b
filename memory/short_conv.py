"""A short causal convolution of each feature over the steps of a trial, with a memory of its own.

Shapes: T time, B rows, D features, C taps: the step itself and C - 1 before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShortConv(nn.Module):
    """silu of a weighted sum of the last C inputs of the trial, feature by feature; what lies before a start is 0.

    So what a step is stored under can tell of the steps just before it. The language models of this family have one
    with 4 taps: DeltaNet (arXiv 2406.06484), xLSTM (arXiv 2405.04517), Titans (arXiv 2501.00663) with an ablation.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight_CD = nn.Parameter(torch.empty(taps, width).uniform_(-1, 1) * taps**-0.5)

    def initial_state(self, batch: int) -> Tensor:
        """Return the inputs of rows without a past, (B, C - 1, D): zeros."""
        taps, width = self.weight_CD.shape
        return self.weight_CD.new_zeros(batch, taps - 1, width)

    def forward(self, x_TBD: Tensor, past_BCD: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
        """Return what T steps become, (T, B, D), and the last inputs of each row's trial."""
        steps, back = len(x_TBD), past_BCD.shape[1]
        joint = torch.cat([past_BCD.transpose(0, 1).to(x_TBD.dtype), x_TBD])
        trial_TB = F.pad(start_TB.long(), (0, 0, back, 0)).cumsum(0)
        y_TBD = self.weight_CD[0].to(x_TBD.dtype) * x_TBD
        for before in range(1, back + 1):
            then = slice(back - before, back - before + steps)
            known_TB1 = (trial_TB[then] == trial_TB[back:])[..., None]
            y_TBD = y_TBD + self.weight_CD[before].to(x_TBD.dtype) * torch.where(known_TB1, joint[then], 0)
        last = slice(steps, None)
        kept_CBD = torch.where((trial_TB[last] == trial_TB[-1])[..., None], joint[last], 0)
        return F.silu(y_TBD), kept_CBD.transpose(0, 1).to(past_BCD.dtype)
