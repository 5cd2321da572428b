"""A linear probe: logistic regression from what a core holds to what there was to remember.

Whatever it finds, one layer of weights can read. Source: Alain and Bengio 2016 (arXiv 1610.01644), with an L2 penalty.
Shapes: N samples, F features, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTY = 1e-3
"""Times half the squared weights, added to the mean cross-entropy; features have a standard deviation of 1."""


class Probe(NamedTuple):
    """A trained probe."""

    middle_F: Tensor
    scale_F: Tensor
    weight_CF: Tensor
    bias_C: Tensor

    def __call__(self, x_NF: Tensor) -> Tensor:
        """Return the likeliest class of each sample, (N,) int64."""
        return F.linear((x_NF - self.middle_F) / self.scale_F, self.weight_CF, self.bias_C).argmax(1)


def fit(x_NF: Tensor, label_N: Tensor, classes: int, *, steps: int = 100) -> Probe:
    """Train a probe, always to the same weights.

    Features that do not vary count for nothing, and numbers that are not finite count as 0.

    Args:
        x_NF: float32.
        label_N: int64 in 0..classes-1.
        classes: C.
        steps: of L-BFGS, at most.
    """
    x_NF = x_NF.nan_to_num(0.0, 0.0, 0.0)
    middle_F, spread_F = x_NF.mean(0), x_NF.std(0, correction=0)
    varies_F = spread_F > 1e-6 * (1 + middle_F.abs())
    scale_F = torch.where(varies_F, spread_F, torch.inf)  # divided by it, the feature is 0
    scaled_NF = (x_NF - middle_F) / scale_F
    # Classes in proportion to how often they come: a probe that sees nothing then says the most frequent one.
    count_C = torch.bincount(label_N, minlength=classes).float()
    weight_CF = torch.zeros(classes, x_NF.shape[1], requires_grad=True)
    bias_C = ((count_C + 0.5) / (count_C + 0.5).sum()).log().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight_CF, bias_C], max_iter=steps, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(scaled_NF, weight_CF, bias_C), label_N)
        value = value + 0.5 * PENALTY * weight_CF.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return Probe(middle_F, scale_F, weight_CF.detach(), bias_C.detach())
