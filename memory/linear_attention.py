"""Linear attention: a memory that adds what is written to it, read by features of the query; and Based.

Shapes: T time, B rows, D features, G matrices, K width of queries and keys, F features of a key, V width of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.delta_rule import delta_rule
from .core import Core, State
from .matrix import MatrixConfig, MatrixLayer, MatrixState
from .stack import EPS, Stack
from .transformer import AttentionLayer, Ring

Feature = Literal["elu", "relu", "taylor"]


def features(x: Tensor, kind: Feature) -> Tensor:
    """Return features (.., F) of (.., K), whose products stand for the exponential of attention: none is negative.

    elu: elu(x) + 1, Katharopoulos et al. 2020 (arXiv 2006.16236), equation 7. relu: Kasai et al. 2021 (arXiv
    2103.13076). taylor: with z = x . y / sqrt(K), the product is 1 + z + z^2 / 2, which is above 0: Arora et al. 2024,
    "Based" (arXiv 2402.18668); 1 + K + K (K + 1) / 2 features, each pair of numbers once.
    """
    if kind == "elu":
        return F.elu(x) + 1
    if kind == "relu":
        return F.relu(x)
    width = x.shape[-1]
    x = x * width**-0.25
    pairs = [x[..., i : i + 1] * x[..., i + 1 :] for i in range(width - 1)]
    return torch.cat([torch.ones_like(x[..., :1]), x, x * x * 0.5**0.5, *pairs], -1)


def feature_width(width: int, kind: Feature) -> int:
    """Return how many features so many numbers have."""
    return 1 + width + width * (width + 1) // 2 if kind == "taylor" else width


class LinearAttention(MatrixLayer):
    """S = S + phi(k) v^T, and y = S^T phi(q), divided by what the features of all keys add up to, if it is normalised.

    It cannot erase: what is written twice under one key is read as a mean, or as a sum. Without the normaliser sums
    grow for ever, so what is read is normed by its root mean square. Source: Katharopoulos et al. 2020 (arXiv
    2006.16236), section 3.3; Qin et al. 2022, "The Devil in Linear Transformer" (arXiv 2210.10340), for the norm in
    place of the normaliser.
    """

    def __init__(self, config: LinearAttentionConfig, memories: int = 1) -> None:
        self.kind, self.normalise = config.feature, config.normalise
        shape = (feature_width(config.key, config.feature), config.value + config.normalise)
        super().__init__(config, memories, shape=shape, norm=not config.normalise)

    def recur(
        self, x_TBD: Tensor, heard_TBD: Tensor, state: MatrixState, start_TB: Tensor, active_TBG: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Add what the steps write, and read after each."""
        query_TBGF = features(self.queries(heard_TBD), self.kind)
        key_TBGF = features(self.split(self.key(heard_TBD)), self.kind)
        if active_TBG is not None:
            key_TBGF = torch.where(active_TBG[..., None], key_TBGF, 0)
        value_TBGV = self.split(self.value(x_TBD))
        if self.normalise:
            # One more column, of ones: what is read of it is how much was written.
            value_TBGV = F.pad(value_TBGV, (0, 1), value=1.0)
        read_TBGV, last_BGFV = delta_rule(query_TBGF, key_TBGF, value_TBGV, None, None, state.memory_BGKV, start_TB)
        if self.normalise:
            read_TBGV = read_TBGV[..., :-1] / (read_TBGV[..., -1:] + EPS)
        return read_TBGV, last_BGFV, ()


class BasedState(NamedTuple):
    """What the two halves of a layer remember."""

    far: MatrixState
    near: Ring


class Based(Core):
    """Linear attention for all that was, and softmax attention for the last steps: the sum of both.

    Source: Arora et al. 2024 (arXiv 2402.18668). Departures: there, layers of either kind follow one another; here a
    layer has both, so that one layer is whole, and the window has rotary positions.
    """

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__(config.width)
        self.far = LinearAttention(config)
        self.near = AttentionLayer(config.width, config.heads, config.window)

    def initial_state(self, batch: int) -> BasedState:
        """Return both fresh memories."""
        return BasedState(self.far.initial_state(batch), self.near.initial_state(batch))

    def step(self, x_BD: Tensor, state: BasedState, start_B: Tensor) -> tuple[Tensor, BasedState]:
        """Take one step in both."""
        return self._both("step", x_BD, state, start_B)

    def unroll(self, x_TBD: Tensor, state: BasedState, start_TB: Tensor) -> tuple[Tensor, BasedState]:
        """Take T steps in both."""
        return self._both("unroll", x_TBD, state, start_TB)

    @torch.no_grad()
    def advance(self, x_BD: Tensor, state: BasedState, start_B: Tensor) -> tuple[Tensor, BasedState]:
        """Take one step in both, the window in place."""
        return self._both("advance", x_BD, state, start_B)

    def context_entries(self, steps: int) -> int:
        """Return how many steps the window holds."""
        return self.near.context_entries(steps)

    def flops_per_step(self, steps: int) -> float:
        """Return what both cost."""
        return self.far.flops_per_step(steps) + self.near.flops_per_step(steps)

    def _both(self, form: str, x: Tensor, state: BasedState, start: Tensor) -> tuple[Tensor, BasedState]:
        far, far_state = getattr(self.far, form)(x, state.far, start)
        near, near_state = getattr(self.near, form)(x, state.near, start)
        return far + near, BasedState(far_state, near_state)


@dataclass(frozen=True, kw_only=True)
class LinearAttentionConfig(MatrixConfig):
    """Attention without softmax, as a sum."""

    name: ClassVar[str] = "linear-attention"
    summary: ClassVar[str] = "attention without softmax, as a sum of key-value products: constant memory, never erases"

    feature: Feature = "elu"
    """What makes queries and keys positive: elu(x) + 1, relu(x), or the Taylor features of exp to the second order."""
    normalise: bool = True
    """Divide what is read by what the features of all keys add up to: a mean of values. Without: a norm of the sum."""
    window: int = 0
    """Last steps of the trial that softmax attention sees beside the sum, the step itself included; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse windows that no layer can have."""
        super().__post_init__()
        if self.window < 0:
            raise ValueError(f"memory {self.name}: window is {self.window}; give a number of steps, or 0 for none")
        if self.window and self.width // self.heads % 2:
            raise ValueError(
                f"memory {self.name}: a width of {self.width} over {self.heads} heads is {self.width // self.heads} "
                "per head; the rotary positions of a window need an even number"
            )

    def layer(self, memories: int = 1) -> LinearAttention:
        """Make one layer, without a window."""
        return LinearAttention(self, memories)

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [Based(self) for _ in range(self.depth)]) if self.window else super().build()


@dataclass(frozen=True, kw_only=True)
class BasedConfig(LinearAttentionConfig):
    """Linear attention with Taylor features beside softmax attention over a short window."""

    name: ClassVar[str] = "based"
    summary: ClassVar[str] = "linear attention with Taylor features of exp, beside exact attention to the last steps"

    feature: Feature = "taylor"
    """What makes queries and keys positive: elu(x) + 1, relu(x), or the Taylor features of exp to the second order."""
    window: int = 16
    """Last steps of the trial that softmax attention sees beside the sum, the step itself included; 0 for none."""
