"""Rotary positions: the angle between a query and a key tells how many steps lie between them.

Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864), section 3.2; pairs are (i, i + K/2), as in LLaMA.
Shapes: K width of a head, `...` any leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10_000.0


def angles(position: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (..., K/2) for integer positions (...).

    The angles are made in float64: in float32 those of a position of a million are off by hundredths of a radian.
    Types below float32 get float32, for the same reason.
    """
    pair = torch.arange(0, width, 2, dtype=torch.float64, device=position.device)
    angle = position[..., None] * BASE ** (-pair / width)
    dtype = torch.promote_types(dtype, torch.float32)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of features of x (..., K) by its angle."""
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1).to(x.dtype)
