"""FFM, Fast and Forgetful Memory: traces that fade and turn, at rates that are learned and the same for every input.

Source: Morad et al. 2023 (arXiv 2310.04128), section 4, and its public code (torch, and that of "memoroids", arXiv
2402.09900). The torch code sums gamma^(T-t) x_t over a window of T steps and multiplies by gamma^(t-T) afterwards,
which overflows: so it computes in double precision, bounds decays by a window of 1,024 steps and cuts longer ones. The
scan here multiplies by gamma alone, |gamma| < 1: float32 does, at any length, and any decay is allowed.
Departure: what is learned is the logarithm of a decay, where the code learns the decay and clamps it below 0, so that
one step of the optimiser cannot wipe out the slowest traces.
Shapes: T time, B rows, D features, M traces, C contexts, S = M C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import Core, MemoryConfig
from .scanned import Moves, Scanned, ScanState, widened
from .stack import Stack

Rates = Literal["torch", "memoroid"]

LONGEST = 1024
"""Steps of the longest period, in both codes; in the torch code also of the longest window."""


def decays(init: Rates, count: int) -> Tensor:
    """Return the decays per step that traces begin with, (M,), evenly spaced.

    `torch`: from what a window of 1,024 steps allows in double precision, less two margins of 0.01, to 1 % being left
    after 1,024 steps. `memoroid`: from 0.1 to almost none.
    """
    ends = (0.1, 1e-6)
    if init == "torch":
        ends = math.log(torch.finfo(torch.float64).max) / LONGEST - 0.02, -math.log(0.01) / LONGEST
    return torch.linspace(*ends, count, dtype=torch.float64)


class FFM(Scanned):
    """S' = Gamma S + (n * g_in) 1^T, Gamma = exp(-a_m + i b_c); y = g_out * LN(W [Re S', Im S']) + (1 - g_out) * skip.

    n, g_in = sigmoid(.), g_out = sigmoid(.) and skip are linear in x.
    """

    def __init__(self, width: int, traces: int, contexts: int, init: Rates) -> None:
        super().__init__(width, traces * contexts, is_complex=True)
        self.split = [traces, traces, 2 * width]
        self.log_decay = nn.Parameter(decays(init, traces).log().float())
        self.turn = nn.Parameter(2 * math.pi / torch.linspace(1, LONGEST, contexts))
        self.before = nn.Linear(width, 2 * (traces + width))
        self.after = nn.Linear(2 * self.size, width)

    def moves(self, x_TBD: Tensor) -> Moves:
        """Return Gamma, (1, 1, M C), and the new traces in every context; output gate and skip are put aside."""
        new_TBM, gate_TBM, aside_TB2D = self.before(x_TBD).split(self.split, -1)
        fade_M1, turn_C = -widened(self.log_decay).exp()[:, None], widened(self.turn)
        gamma_MC = torch.complex(fade_M1.expand(-1, len(turn_C)), turn_C.expand(len(fade_M1), -1)).exp()
        new_TBM = widened(new_TBM * gate_TBM.sigmoid())
        new_TBMC = torch.complex(new_TBM, torch.zeros_like(new_TBM))[..., None].expand(*new_TBM.shape, len(turn_C))
        return Moves(gamma_MC.view(1, 1, -1), new_TBMC.flatten(-2), aside_TB2D)

    def read(self, aside_TBA: Tensor, hidden_TBS: Tensor) -> Tensor:
        """Return the traces, mixed and normed, as far as the output gate is open, and the input as far as not."""
        gate_TBD, skip_TBD = aside_TBA.chunk(2, -1)
        gate_TBD = gate_TBD.sigmoid()
        mixed_TBD = self.after(torch.view_as_real(hidden_TBS).flatten(-2).to(aside_TBA.dtype))
        return F.layer_norm(mixed_TBD, (self.width,)).to(gate_TBD.dtype) * gate_TBD + skip_TBD * (1 - gate_TBD)

    def gates(self, x_BD: Tensor, state: ScanState, start_B: Tensor) -> dict[str, Tensor]:
        """Return the input gate (B, M), the output gate (B, D), and |Gamma| as `kept`, (B, M C)."""
        _, entry_BM, aside_B2D = self.before(x_BD).split(self.split, -1)
        return super().gates(x_BD, state, start_B) | {
            "input": entry_BM.sigmoid(),
            "output": aside_B2D[:, : self.width].sigmoid(),
        }


@dataclass(frozen=True, kw_only=True)
class FFMConfig(MemoryConfig):
    """Traces that fade and turn."""

    name: ClassVar[str] = "ffm"
    summary: ClassVar[str] = "Fast and Forgetful Memory: traces that fade and turn at learned rates, gates in and out"

    traces: int = 32
    """Traces, each with a decay of its own."""
    contexts: int = 4
    """Complex numbers that a trace is kept in, each turning at a rate of its own."""
    init: Literal["torch", "memoroid"] = "torch"
    """Decays per step at first: 0.67 to 0.0045 as in the torch code, or 0.1 to 0.000001 as in that of memoroids."""

    def __post_init__(self) -> None:
        """Refuse a layer without memory."""
        super().__post_init__()
        for field in ("traces", "contexts"):
            if getattr(self, field) < 1:
                raise ValueError(f"memory ffm: {field} is {getattr(self, field)}; it must be at least 1")

    def build(self) -> Core:
        """Make the core."""
        return Stack(self, [FFM(self.width, self.traces, self.contexts, self.init) for _ in range(self.depth)])
