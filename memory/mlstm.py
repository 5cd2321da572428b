"""mLSTM: the matrix memory of xLSTM, with an exponential input gate, a forget gate and a normaliser.

Shapes: T time, B rows, D features, G matrices, K width of queries and keys, V width of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.delta_rule import delta_rule, exponential_gates
from .core import State
from .matrix import MatrixConfig, MatrixLayer, MatrixState, unless, wide
from .stack import EPS


class MLSTM(MatrixLayer):
    """C = f C + e^i k v^T, n = f n + e^i k, and y = C^T q / max(|n . q|, 1), with f = sigmoid.

    A step that matters outweighs all that came before it, since e^i has no bound; `exponential_gates` keeps C and n in
    a scale in which nothing overflows.

    Source: Beck et al. 2024, "xLSTM" (arXiv 2405.04517), section 2.3; the layer around it (norm of each head, sigmoid
    gate, way out, the MLP after it) as in Beck et al. 2025, "xLSTM 7B" (arXiv 2503.13427). Gates begin without weights,
    so that all steps are alike at first; the biases of the forget gate are spread over the heads. Departures: gates are
    not capped, the convolution of the first paper is optional, and its skip is left out.
    """

    keeps = "kept"

    def __init__(self, config: MLSTMConfig, memories: int = 1) -> None:
        super().__init__(config, memories, shape=(config.key, config.value + 1), gate="sigmoid")
        matrices = memories * config.heads
        self.gate_in, self.gate_forget = nn.Linear(config.width, matrices), nn.Linear(config.width, matrices)
        for gate in (self.gate_in, self.gate_forget):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.gate_in.bias, std=0.1)
        with torch.no_grad():
            self.gate_forget.bias.copy_(
                torch.linspace(config.forget_bias, config.forget_bias_last, config.heads).repeat(memories)
            )

    def initial_top(self, memory_BGKV: Tensor) -> Tensor:
        """Return zeros, as `exponential_gates` has it."""
        return memory_BGKV[:, :, 0, 0].clone()

    def recur(
        self, x_TBD: Tensor, heard_TBD: Tensor, state: MatrixState, start_TB: Tensor, active_TBG: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Fade and write, and read after each step."""
        query_TBGK = self.queries(heard_TBD)
        key_TBGK = self.split(self.key(heard_TBD)) * query_TBGK.shape[-1] ** -0.5
        log_in_TBG = unless(active_TBG, wide(self.gate_in(x_TBD)), -torch.inf)
        log_forget_TBG = unless(active_TBG, F.logsigmoid(wide(self.gate_forget(x_TBD))), 0.0)
        log_decay_TBG, log_scale_TBG, top_TBG = exponential_gates(log_in_TBG, log_forget_TBG, state.top_BG, start_TB)
        key_TBGK = (key_TBGK * log_scale_TBG.exp()[..., None]).to(key_TBGK.dtype)
        # One more column, of ones: what is read of it is n . q.
        value_TBGV = F.pad(self.split(self.value(x_TBD)), (0, 1), value=1.0)
        read_TBGV, last_BGKV = delta_rule(
            query_TBGK, key_TBGK, value_TBGV, None, log_decay_TBG, state.memory_BGKV, start_TB
        )
        total_TBG1 = torch.maximum(wide(read_TBGV[..., -1:]).abs(), (-top_TBG[..., None]).exp())
        return wide(read_TBGV[..., :-1]) / (total_TBG1 + EPS), last_BGKV, top_TBG[-1]

    def gates(self, x_BD: Tensor, state: MatrixState, start_B: Tensor) -> dict[str, Tensor]:
        """Return, of every head, the share of the step in the scale of the memory, and what is kept of what was."""
        log_in_BG, log_forget_BG = wide(self.gate_in(x_BD)), F.logsigmoid(wide(self.gate_forget(x_BD)))
        decay, scale, _ = exponential_gates(log_in_BG[None], log_forget_BG[None], state.top_BG, start_B[None])
        return {"input": scale[0].exp(), "forget": log_forget_BG.exp(), "kept": decay[0].exp()}


@dataclass(frozen=True, kw_only=True)
class MLSTMConfig(MatrixConfig):
    """The matrix memory of xLSTM."""

    name: ClassVar[str] = "mlstm"
    summary: ClassVar[str] = "matrix memory of xLSTM: an exponential input gate lets one step outweigh all before it"

    forget_bias: float = 3.0
    """What the bias of the forget gate begins at in the first head: the higher, the longer it holds on at first."""
    forget_bias_last: float = 6.0
    """The same in the last head; the heads between are spread evenly."""

    def layer(self, memories: int = 1) -> MLSTM:
        """Make one layer."""
        return MLSTM(self, memories)
