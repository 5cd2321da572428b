"""Mixture of memories: each step writes to some of several matrices, and one that all share; over any matrix memory.

Shapes: T time, B rows, D features, M memories, E of which a router chooses among.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import Core, count_parameters
from .deltanet import DeltaNetConfig
from .linear_attention import LinearAttentionConfig
from .matrix import MatrixConfig, MatrixLayer, MatrixState, Routing
from .mlstm import MLSTMConfig
from .stack import Stack


class Mixture(Core):
    """A matrix layer with several memories, and the router that says which of them a step writes to and reads.

    The router's scores go through a softmax; the best are written to, and what is read of each counts by its score,
    where the scores of the chosen add up to 1. Others stay as they are. The shared memory is always written and read.

    Source: Du et al. 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories" (arXiv 2502.13685), section 3. As
    there, memories have keys, values and gates of their own and share queries. Departures: no loss that balances the
    router; memories with a normaliser are mixed after it; a convolution hears all steps and not those of one memory.
    All memories are computed at each step, and those that are not chosen are told to stay.
    """

    def __init__(self, layer: MatrixLayer, memories: int, active: int) -> None:
        super().__init__(layer.width)
        self.layer, self.active = layer, active
        self.router = nn.Linear(layer.width, memories, bias=False)

    def initial_state(self, batch: int) -> MatrixState:
        """Return empty memories."""
        return self.layer.initial_state(batch)

    def step(self, x_BD: Tensor, state: MatrixState, start_B: Tensor) -> tuple[Tensor, MatrixState]:
        """Take one step in the memories it is led to."""
        return self.layer.step(x_BD, state, start_B, self._route(x_BD[None]))

    def unroll(self, x_TBD: Tensor, state: MatrixState, start_TB: Tensor) -> tuple[Tensor, MatrixState]:
        """Take T steps, each in the memories it is led to."""
        return self.layer.unroll(x_TBD, state, start_TB, self._route(x_TBD))

    def gates(self, x_BD: Tensor, state: MatrixState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the gates of all memories, chosen or not, and how much each that is chosen counts, (B, M)."""
        return self.layer.gates(x_BD, state, start_B) | {"weight": self._route(x_BD[None]).weight_TBM[0]}

    def flops_per_step(self, steps: int) -> float:
        """Return what router and layer cost."""
        return 2.0 * count_parameters(self.router) + self.layer.flops_per_step(steps)

    def _route(self, x_TBD: Tensor) -> Routing:
        score_TBE = self.router(x_TBD).softmax(-1)
        best, index = score_TBE.topk(self.active, -1)
        weight_TBM = torch.zeros_like(score_TBE).scatter(-1, index, best / best.sum(-1, keepdim=True))
        active_TBM = torch.zeros_like(score_TBE, dtype=torch.bool).scatter(-1, index, value=True)
        # The shared memory, if there is one, is the last.
        more = self.layer.memories - score_TBE.shape[-1]
        return Routing(F.pad(active_TBM, (0, more), value=True), F.pad(weight_TBM, (0, more), value=1.0))


@dataclass(frozen=True, kw_only=True)
class MoMConfig(DeltaNetConfig):
    """Several memories, of which a step uses some. The options of `deltanet` are those of its rule."""

    name: ClassVar[str] = "mom"
    summary: ClassVar[str] = "mixture of memories: each step writes to some of several matrices, so that they mix less"

    gate: Literal["none", "scalar"] = "scalar"
    """Whether memory fades: not, or by a factor for each head that the step decides (gated DeltaNet)."""
    rule: Literal["deltanet", "linear-attention", "mlstm"] = "deltanet"
    """How a memory is written and read: as in this core, which has its own options but for those of `deltanet`."""
    memories: int = 4
    """Memories that a router chooses among."""
    active: int = 2
    """Memories of these that a step writes to and reads."""
    shared: bool = True
    """One more memory that every step writes to and reads."""

    def __post_init__(self) -> None:
        """Refuse to choose more memories than there are, and options that the rule does not have."""
        super().__post_init__()
        if not 1 <= self.active <= self.memories:
            raise ValueError(
                f"memory {self.name}: active is {self.active}; give 1 to {self.memories}, the number of memories"
            )
        if self.rule != "deltanet":
            for field in ("gate", "gate_bias", "beta_max", "steps"):
                if getattr(self, field) != type(self).__dataclass_fields__[field].default:
                    raise ValueError(
                        f"memory {self.name}: {field} is {getattr(self, field)}, and the rule {self.rule} has no "
                        f"such option; choose the rule deltanet, or leave {field} out"
                    )

    def layer(self, memories: int = 1) -> MatrixLayer:
        """Make one layer of the rule."""
        kind: type[MatrixConfig] = RULES[self.rule]
        own = {field.name for field in fields(kind)}
        return kind(**{name: value for name, value in asdict(self).items() if name in own}).layer(memories)

    def build(self) -> Core:
        """Make the core."""
        layers = [self.layer(self.memories + self.shared) for _ in range(self.depth)]
        return Stack(self, [Mixture(layer, self.memories, self.active) for layer in layers])


RULES: dict[str, type[MatrixConfig]] = {
    "deltanet": DeltaNetConfig,
    "linear-attention": LinearAttentionConfig,
    "mlstm": MLSTMConfig,
}
