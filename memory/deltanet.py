"""DeltaNet, gated or not, with one or several writes in a step: a memory that erases what it knew of a key.

Shapes: T time, B rows, D features, G matrices, K width of queries and keys, V width of values, N writes of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.delta_rule import delta_product, delta_rule
from .core import State
from .matrix import MatrixConfig, MatrixLayer, MatrixState, unless, wide
from .stack import EPS


class DeltaNet(MatrixLayer):
    """S = a (I - beta k k^T) S + beta k v^T, and y = S^T q, with keys and queries of length 1.

    So beta says how much of what was known of a key is replaced by its new value: none at 0, all at 1; from 1 to 2 what
    was known is turned round (an eigenvalue below 0), by which a memory can swap and count. a, the gate, lets all of it
    fade at once. With several writes in a step the gate acts once.

    Sources: Schlag et al. 2021 (arXiv 2102.11174), section 4.2; Yang et al. 2024, "Parallelizing Linear Transformers
    with the Delta Rule" (arXiv 2406.06484), for silu and the length of 1; Yang et al. 2024, "Gated Delta Networks"
    (arXiv 2412.06464), for the gate and the gated way out that comes with it; Grazzi et al. 2024, "Unlocking
    State-Tracking in Linear RNNs Through Negative Eigenvalues" (arXiv 2411.12537), for beta up to 2; Siems et al. 2025,
    "DeltaProduct" (arXiv 2502.10297), for several writes. Departures: a = sigmoid(w x + b) with b = `gate_bias`, in
    place of the discretised decay of Mamba-2; a convolution is optional, stands before the projections of queries and
    keys, and leaves values alone.
    """

    keeps = "decay"

    def __init__(self, config: DeltaNetConfig, memories: int = 1) -> None:
        gated = config.gate == "scalar"
        super().__init__(config, memories, writes=config.steps, gate="silu" if gated else "none")
        self.beta_max, matrices = config.beta_max, memories * config.heads
        self.beta = nn.Linear(config.width, config.steps * matrices)
        nn.init.zeros_(self.beta.bias)
        self.decay = nn.Linear(config.width, matrices) if gated else None
        if self.decay is not None:
            nn.init.constant_(self.decay.bias, config.gate_bias)

    def recur(
        self, x_TBD: Tensor, heard_TBD: Tensor, state: MatrixState, start_TB: Tensor, active_TBG: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Fade, erase and write, and read after each step."""
        query_TBGK = unit(F.silu(self.queries(heard_TBD)))
        key = unit(F.silu(self.split(self.key(heard_TBD))))
        value = self.split(self.value(x_TBD))
        beta = unless(active_TBG, self._beta(x_TBD), 0.0)
        # Rounding may make a key of few bits too long: then beta shrinks, or what is turned round would grow.
        beta = beta / wide(key.detach()).square().sum(-1).clamp(min=1)
        log_decay_TBG = None if self.decay is None else unless(active_TBG, F.logsigmoid(wide(self.decay(x_TBD))), 0.0)
        run = delta_rule if self.writes == 1 else delta_product
        read_TBGV, last_BGKV = run(query_TBGK, key, value, beta, log_decay_TBG, state.memory_BGKV, start_TB)
        return read_TBGV, last_BGKV, ()

    def touches(self) -> int:
        """Return how often a step goes through a matrix: to look a key up and to write, each time; and to read."""
        return 2 * self.writes + 1

    def gates(self, x_BD: Tensor, state: MatrixState, start_B: Tensor) -> dict[str, Tensor]:
        """Return beta, of every write and head, and the decay, if there is one, of every head."""
        found = {"beta": self._beta(x_BD[None])[0]}
        if self.writes > 1:
            found["beta"] = found["beta"].transpose(0, 1).flatten(1)
        return found if self.decay is None else found | {"decay": wide(self.decay(x_BD)).sigmoid()}

    def _beta(self, x_TBD: Tensor) -> Tensor:
        return self.beta_max * wide(self.split(self.beta(x_TBD))[..., 0]).sigmoid()


def unit(x: Tensor) -> Tensor:
    """Return vectors of length 1, and shorter ones where there is next to nothing to lengthen."""
    long = wide(x)
    return (long * (long.square().sum(-1, keepdim=True) + EPS).rsqrt()).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class DeltaNetConfig(MatrixConfig):
    """A memory of key-value products that erases what it knew of a key when it writes it again."""

    name: ClassVar[str] = "deltanet"
    summary: ClassVar[str] = "delta rule: what was known of a key is erased as it is written again; constant memory"

    gate: Literal["none", "scalar"] = "none"
    """Whether memory fades: not, or by a factor for each head that the step decides (gated DeltaNet)."""
    gate_bias: float = 4.0
    """What the bias of that gate begins at: sigmoid of it is kept in a step at first, 0.98 at 4."""
    beta_max: float = 1.0
    """The most a write can do: 1 replaces what was known of the key, 2 turns it round (negative eigenvalues)."""
    steps: int = 1
    """Writes in a step, one after the other, each with a key, a value and a beta of its own (DeltaProduct)."""

    def __post_init__(self) -> None:
        """Refuse a beta by which memory would grow, and steps that write nothing."""
        super().__post_init__()
        if not 0 < self.beta_max <= 2:
            raise ValueError(
                f"memory {self.name}: beta_max is {self.beta_max}; give 1 to replace or 2 to turn round: "
                "above 2 memory grows without bound, and at 0 nothing is written"
            )
        if self.steps < 1:
            raise ValueError(f"memory {self.name}: steps is {self.steps}; a step writes at least once")

    def layer(self, memories: int = 1) -> MatrixLayer:
        """Make one layer."""
        return DeltaNet(self, memories)
