"""Diagonal state spaces: S5 and S4D, which are sampled from continuous time, and the LRU, which is not.

The line that they end. HiPPO (Gu et al. 2020, arXiv 2008.07669) asks how a state x' = A x + B u keeps the best
polynomial of all it has heard, and answers with a matrix A. LSSL (Gu et al. 2021, arXiv 2110.13985) makes a layer of
it: x' = A x + B u, y = C x + D u for each feature, GELU, a linear mix. S4 (arXiv 2111.00396) makes that quick, since A
is a normal matrix plus one of rank 1. DSS and S4D (Gu et al. 2022, arXiv 2206.11893) drop the rank 1 and lose little:
what is left is diagonal, one number per mode. S5 (Smith et al. 2023, arXiv 2208.04933) lets all features share one
state, and takes a scan in the place of a convolution, which can forget where a row starts (Lu et al. 2023, arXiv
2303.03982, who made it a memory of agents). LRU (Orvieto et al. 2023, arXiv 2303.06349) shows that the good start, not
the continuous time, is what counts.

None of them can be told to forget: how long a mode holds is learned, but the same for every input.

Departures: the real part of a mode is -exp(a) and so stays below 0, where S5's may pass it unless clipped; all weights
learn at one rate, where the sources give modes and time steps a smaller one without weight decay. The norm and the
residual around a layer are those of every core here (`memory/stack.py`); no dropout.
Shapes: T time, B rows, D features, P complex modes, S of them in all, N = 2 P.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import Core, MemoryConfig, count_parameters
from .scanned import Moves, Scanned, widened
from .stack import Stack

Modes = Literal["hippo", "lin", "inv"]


def modes(init: Modes, count: int) -> Tensor:
    """Return `count` complex numbers, (P,), which stand for themselves and their conjugates: N modes in all.

    `hippo` is the spectrum of the normal part of HiPPO-LegS, -1/2 and the skew matrix whose entries below the diagonal
    are -sqrt((2n+1)(2k+1)) / 2; `lin` and `inv` are S4D-Lin and S4D-Inv (arXiv 2206.11893, section 4).
    """
    n_P, size = torch.arange(count, dtype=torch.float64), 2 * count
    if init == "lin":
        turn_P = math.pi * n_P
    elif init == "inv":
        turn_P = size / math.pi * (size / (2 * n_P + 1) - 1)
    else:
        root_N = (2 * torch.arange(size, dtype=torch.float64) + 1).sqrt()
        below_NN = torch.tril(-root_N[:, None] * root_N / 2, -1)
        turn_P = torch.linalg.eigvalsh(-1j * (below_NN - below_NN.T))[count:]
    return torch.complex(torch.full_like(turn_P, -0.5), turn_P)


def expm1(z: Tensor) -> Tensor:
    """Return exp(z) - 1 of complex numbers, exact near 0."""
    grow, turn = z.real, z.imag
    real = torch.expm1(grow) * turn.cos() - 2 * (turn / 2).sin() ** 2
    return torch.complex(real, grow.exp() * turn.sin())


class StateSpace(Scanned):
    """A layer of complex modes that turn and fade; then y = C h + D x, GELU and a GLU that mixes the features."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__(width, size, is_complex=True)
        self.skip = nn.Parameter(torch.randn(width))
        self.mix = nn.Linear(width, 2 * width)

    @abstractmethod
    def out(self, hidden_TBS2: Tensor) -> Tensor:
        """Return C h, (T, B, D), from real and imaginary parts (T, B, S, 2) in the type of the inputs."""

    def read(self, aside_TBA: Tensor, hidden_TBS: Tensor) -> Tensor:
        """Return what the layer makes of its input and the modes."""
        y_TBD = self.out(torch.view_as_real(hidden_TBS).to(aside_TBA.dtype)) + self.skip * aside_TBA
        return F.glu(self.mix(F.gelu(y_TBD)), -1)


def _normal(*shape: int, deviation: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * deviation)


def _into(x_TBD: Tensor, weight_P2D: Tensor) -> Tensor:
    """Return complex products (T, B, P), as real ones."""
    pairs = F.linear(x_TBD, weight_P2D.flatten(0, 1).to(x_TBD.dtype))
    return torch.view_as_complex(widened(pairs).view(*x_TBD.shape[:-1], -1, 2))


class _Sampled(StateSpace):
    """Modes in continuous time, held between two steps (zero-order hold): a = exp(dt L), b = (a - 1) / L B x."""

    def __init__(self, width: int, mode: Tensor, steps: tuple[int, ...], dt: tuple[float, float]) -> None:
        super().__init__(width, mode.numel())
        self.log_fade = nn.Parameter((-mode.real).log().float())
        self.turn = nn.Parameter(mode.imag.float())
        low, high = map(math.log, dt)
        self.log_dt = nn.Parameter(low + (high - low) * torch.rand(steps))

    def sampled(self) -> tuple[Tensor, Tensor]:
        """Return a and (a - 1) / L of each mode."""
        mode = torch.complex(-widened(self.log_fade).exp(), widened(self.turn))
        spun = mode * widened(self.log_dt).exp()
        return spun.exp(), expm1(spun) / mode


class S5(_Sampled):
    """One state for all features. Source: Smith et al. 2023 (arXiv 2208.04933), sections 3 and 4; one block.

    B and C are drawn for the N modes of the undiagonalised system (B of variance 1 / N as in the code for agents, C
    too) and turned into those of the diagonal one. The basis is unitary and its vectors come in conjugate pairs, so
    that is to draw each number of the half that is kept independently, with half the variance in either part of B.
    """

    def __init__(self, width: int, count: int, init: Modes, dt: tuple[float, float]) -> None:
        super().__init__(width, modes(init, count), (count,), dt)
        self.into = _normal(count, 2, width, deviation=(4 * count) ** -0.5)
        self.out_of = _normal(width, 2 * count, deviation=(2 * count) ** -0.5)

    def moves(self, x_TBD: Tensor) -> Moves:
        """Return the modes, (1, 1, P), and what comes in."""
        a_P, held_P = self.sampled()
        into_PD = held_P[:, None] * torch.complex(*widened(self.into).unbind(1))
        return Moves(a_P[None, None], _into(x_TBD, torch.view_as_real(into_PD).movedim(-1, 1)), x_TBD)

    def out(self, hidden_TBS2: Tensor) -> Tensor:
        """Return 2 Re(C h): the modes that are not kept are conjugates. The weights of Im h are -Im C."""
        return 2 * F.linear(hidden_TBS2.flatten(-2), self.out_of)


class S4D(_Sampled):
    """A state of its own for each feature. Source: Gu et al. 2022 (arXiv 2206.11893), sections 3 and 4.

    B is 1: only its products with C count.
    """

    def __init__(self, width: int, count: int, init: Modes, dt: tuple[float, float]) -> None:
        super().__init__(width, modes(init, count).expand(width, -1), (width, 1), dt)
        self.out_of = _normal(width, 2 * count, deviation=0.5**0.5)

    def moves(self, x_TBD: Tensor) -> Moves:
        """Return the modes of all features, (1, 1, D P), and what comes in."""
        a_DP, held_DP = self.sampled()
        return Moves(a_DP.view(1, 1, -1), (widened(x_TBD)[..., None] * held_DP).flatten(-2), x_TBD)

    def out(self, hidden_TBS2: Tensor) -> Tensor:
        """Return 2 Re(C h), by feature."""
        hidden_TBDN = hidden_TBS2.reshape(*hidden_TBS2.shape[:2], self.width, -1)
        return 2 * torch.einsum("tbdn,dn->tbd", hidden_TBDN, self.out_of)

    def flops_per_step(self, steps: int) -> float:
        """Return what reading and mixing cost, and ten per mode: the recurrence, and its input times the hold."""
        return 2.0 * (count_parameters(self.mix) + self.out_of.numel()) + 10.0 * self.size


class LRU(StateSpace):
    """A linear recurrent unit: modes exp(-exp(nu) + i exp(theta)), their input scaled by gamma.

    Source: Orvieto et al. 2023 (arXiv 2303.06349), section 3 and appendix A. It is S5 without continuous time and
    without conjugate pairs: modes begin evenly over a ring of the unit disk, gamma = sqrt(1 - |mode|^2) keeps what they
    hold of one size whatever their reach, and y = Re(C h).
    """

    def __init__(self, width: int, count: int, ring: tuple[float, float], phase: float) -> None:
        super().__init__(width, count)
        even = torch.rand(2, count).clamp(1e-6, 1 - 1e-6)
        inner, outer = ring
        square_P = inner**2 + even[0] * (outer**2 - inner**2)
        self.nu = nn.Parameter((-square_P.log() / 2).log())
        self.theta = nn.Parameter((phase * even[1]).log())
        self.log_gamma = nn.Parameter((1 - square_P).log() / 2)
        self.into = _normal(count, 2, width, deviation=(2 * width) ** -0.5)
        self.out_of = _normal(width, 2 * count, deviation=count**-0.5)

    def moves(self, x_TBD: Tensor) -> Moves:
        """Return the modes, (1, 1, P), and what comes in."""
        spun_P = torch.complex(-widened(self.nu).exp(), widened(self.theta).exp())
        into_P2D = widened(self.into) * widened(self.log_gamma).exp()[:, None, None]
        return Moves(spun_P.exp()[None, None], _into(x_TBD, into_P2D), x_TBD)

    def out(self, hidden_TBS2: Tensor) -> Tensor:
        """Return Re(C h). The weights of Im h are -Im C."""
        return F.linear(hidden_TBS2.flatten(-2), self.out_of)


@dataclass(frozen=True, kw_only=True)
class StateSpaceConfig(MemoryConfig):
    """The options of a diagonal state space. As in the sources, its layers have a norm before and a residual."""

    residual: Literal["none", "add", "gate"] = "add"
    """How a layer joins the stream: its output replaces it, is added to it, or enters through a GRU gate (GTrXL)."""
    modes: int = 32
    """Complex numbers that a layer remembers; of `s4d`, per feature."""

    def __post_init__(self) -> None:
        """Refuse a layer without memory."""
        super().__post_init__()
        if self.modes < 1:
            raise ValueError(f"memory {self.name}: modes is {self.modes}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SampledConfig(StateSpaceConfig):
    """The options of a state space in continuous time."""

    init: Modes = "hippo"
    """Where modes begin: the normal part of HiPPO-LegS, or the even (S4D-Lin) or inverse (S4D-Inv) frequencies."""
    dt_min: float = 0.001
    """The shortest time that a step begins to stand for; the reach of a mode is about 2 / dt steps."""
    dt_max: float = 0.1
    """The longest; steps are drawn evenly in logarithm between both."""

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        super().__post_init__()
        if not 0 < self.dt_min <= self.dt_max < math.inf:
            raise ValueError(
                f"memory {self.name}: dt_min is {self.dt_min} and dt_max {self.dt_max}; give 0 < dt_min <= dt_max"
            )


@dataclass(frozen=True, kw_only=True)
class S5Config(SampledConfig):
    """A diagonal state space that all features share."""

    name: ClassVar[str] = "s5"
    summary: ClassVar[str] = "diagonal state space (S5): modes that turn and fade, a window is one scan"

    def build(self) -> Core:
        """Make the core."""
        dt = self.dt_min, self.dt_max
        return Stack(self, [S5(self.width, self.modes, self.init, dt) for _ in range(self.depth)])


@dataclass(frozen=True, kw_only=True)
class S4DConfig(SampledConfig):
    """A diagonal state space for each feature."""

    name: ClassVar[str] = "s4d"
    summary: ClassVar[str] = "diagonal state space (S4D) for each feature: a larger state than s5"

    def build(self) -> Core:
        """Make the core."""
        dt = self.dt_min, self.dt_max
        return Stack(self, [S4D(self.width, self.modes, self.init, dt) for _ in range(self.depth)])


@dataclass(frozen=True, kw_only=True)
class LRUConfig(StateSpaceConfig):
    """A linear recurrent unit."""

    name: ClassVar[str] = "lru"
    summary: ClassVar[str] = "linear recurrent unit: S5 without continuous time, modes begin over a ring"

    r_min: float = 0.0
    """Inner radius of the ring in which modes begin; the reach of a mode of radius r is about 1 / (1 - r) steps."""
    r_max: float = 1.0
    """Outer radius of the ring."""
    phase: float = 2 * math.pi
    """Modes begin to turn by up to so much a step, in radians."""

    def __post_init__(self) -> None:
        """Refuse a ring outside the unit disk, and a phase that is none."""
        super().__post_init__()
        if not 0 <= self.r_min <= self.r_max <= 1 or not self.r_max or self.r_min == 1:
            raise ValueError(
                f"memory lru: a ring from {self.r_min} to {self.r_max}; give 0 <= r_min <= r_max <= 1, "
                "r_min below 1 and r_max above 0"
            )
        if not 0 < self.phase < math.inf:
            raise ValueError(f"memory lru: phase is {self.phase}; it must be above 0, in radians")

    def build(self) -> Core:
        """Make the core."""
        ring = self.r_min, self.r_max
        return Stack(self, [LRU(self.width, self.modes, ring, self.phase) for _ in range(self.depth)])
