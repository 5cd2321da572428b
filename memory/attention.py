"""What the cores with attention heads share: the options, and the weights of a layer.

Shapes: B rows, P tokens, D features, H heads, K = D / H, N keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..kernels.rotary_heads import rotary_heads
from ..kernels.segment_attention import angles
from .core import MemoryConfig


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(MemoryConfig):
    """The options of a core with attention heads. Its layers are pre-norm blocks with an MLP unless told otherwise."""

    rotary: ClassVar[bool] = False

    residual: Literal["none", "add", "gate"] = "add"
    """How a layer joins the stream: its output replaces it, is added to it, or enters through a GRU gate (GTrXL)."""
    mlp: int = 2
    """Hidden width of the gated MLP after each layer, as a multiple of `width`; 0 for none."""
    heads: int = 4
    """Attention heads; they share `width` evenly."""

    def __post_init__(self) -> None:
        """Refuse heads that cannot share the width, or whose share has no pairs to rotate."""
        super().__post_init__()
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"memory {self.name}: {self.heads} heads cannot share a width of {self.width} evenly")
        if self.rotary and self.width // self.heads % 2:
            raise ValueError(
                f"memory {self.name}: a width of {self.width} over {self.heads} heads is {self.width // self.heads} "
                "per head; rotary positions need an even number"
            )


def shares(query_BHK: Tensor, key_BHNK: Tensor, seen_BN: Tensor, sink_HK: Tensor | None = None) -> Tensor:
    """Return the share of attention of every key, (B, N), mean over heads; a sink takes what is missing to 1."""
    query_BHK = query_BHK * query_BHK.shape[-1] ** -0.5
    score_BHN = torch.einsum("bhk,bhnk->bhn", query_BHK, key_BHNK.to(query_BHK.dtype))
    score_BHN = torch.where(seen_BN[:, None], score_BHN, -torch.inf)
    if sink_HK is not None:
        score_BHN = torch.cat([score_BHN, (query_BHK * sink_HK.to(query_BHK.dtype)).sum(-1, keepdim=True)], -1)
    return score_BHN.softmax(-1)[..., : key_BHNK.shape[2]].mean(1)


class Heads(nn.Module):
    """The weights of an attention layer: queries, keys and values of the tokens, with rotary positions; the way out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def turn(self, position_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of positions (B, P) or (1, P), as `forward` wants them."""
        return angles(position_BP, self.out.in_features // self.heads, self.out.weight.dtype)

    def forward(
        self, x_BPD: Tensor, turn: tuple[Tensor, Tensor], past_B2HNK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the queries (B, H, P, K), and keys and values behind those of the past (B, 2, H, N + P, K)."""
        projected_BP3HK = self.project(x_BPD).unflatten(-1, (3, self.heads, -1))
        return rotary_heads(projected_BP3HK, past_B2HNK, *turn)

    def join(self, read_BHPK: Tensor) -> Tensor:
        """Return what the heads have read as one output, (B, P, D)."""
        y_BPD: Tensor = self.out(read_BHPK.transpose(1, 2).flatten(-2))
        return y_BPD
