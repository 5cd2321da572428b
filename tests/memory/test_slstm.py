"""sLSTM by hand, and its layer against the equations."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnemic.memory.laws import LAWS, Scale
from mnemic.memory.slstm import SLSTM, SLSTMConfig


def never(steps: int, batch: int = 1) -> Tensor:
    return torch.zeros(steps, batch, dtype=torch.bool)


def lively() -> SLSTM:
    """A layer whose units hear each other, which they do not at first."""
    torch.manual_seed(0)
    layer = SLSTM(SLSTMConfig(width=6, heads=2))
    torch.nn.init.normal_(layer.recurrent)
    return layer


def test_it_is_its_equations() -> None:
    """In two heads of three units, from the start of a trial."""
    layer = lively().double()
    x = torch.randn(30, 6, dtype=torch.float64)
    hidden, cell, total, top = torch.zeros(4, 6, dtype=torch.float64)
    top = top - torch.inf
    want = []
    for t in range(30):
        heard = torch.stack([torch.block_diag(*gate) @ hidden for gate in layer.recurrent])
        entry, hold, z, o = (F.linear(x[t], layer.input_weight, layer.bias).view(4, 6) + heard).unbind()
        before, top = top, torch.maximum(entry, F.logsigmoid(hold) + top)
        into, keep = (entry - top).exp(), (F.logsigmoid(hold) + before - top).exp()
        cell, total = keep * cell + into * z.tanh(), (keep * total + into).clamp(min=1)
        hidden = o.sigmoid() * cell / total
        want.append(F.rms_norm(hidden.view(2, 3), (3,), eps=1e-6).flatten())
    got, state = layer.unroll(x[:, None], layer.initial_state(1), never(30))
    torch.testing.assert_close(got[:, 0], torch.stack(want), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.hidden[0], hidden, rtol=1e-9, atol=1e-9)


def test_a_mean_by_hand() -> None:
    """One unit that keeps all and leaves all: tanh 1 counts e^2, tanh -2 counts e^1: their weighted mean."""
    layer = SLSTM(SLSTMConfig(width=1, heads=1)).double()
    with torch.no_grad():
        layer.input_weight.zero_()
        layer.bias.copy_(torch.tensor([0.0, 1e3, 0.0, 1e3]))
    state = layer.initial_state(1)
    for entry, value in ((2.0, 1.0), (1.0, -2.0)):
        with torch.no_grad():
            layer.bias[0], layer.bias[2] = entry, value
            _, state = layer.step(torch.zeros(1, 1).double(), state, never(1)[0])
    want = (math.exp(2) * math.tanh(1) + math.e * math.tanh(-2)) / (math.exp(2) + math.e)
    assert state.hidden.item() == pytest.approx(want)


def test_gates_begin_as_they_are_said_to() -> None:
    layer = SLSTM(SLSTMConfig(width=8, heads=2, forget_bias=3.0, forget_bias_last=6.0))
    with torch.no_grad():
        layer.input_weight.zero_()
    gates = layer.gates(torch.randn(1, 8), layer.initial_state(1), never(1)[0])
    torch.testing.assert_close(gates["forget"][0], torch.tensor([3.0, 4, 5, 6]).sigmoid().repeat(2))
    assert (gates["output"] == 0.5).all()


def test_gates_hear_the_units() -> None:
    """What `gates` says is what a step does: o c / n."""
    layer = lively()
    state = layer.initial_state(3)
    _, state = layer.unroll(torch.randn(5, 3, 6), state, never(5, 3))
    x, start = torch.randn(3, 6), torch.tensor([False, True, False])
    gates = layer.gates(x, state, start)
    _, after = layer.step(x, state, start)
    torch.testing.assert_close(gates["output"] * after.cell / after.normaliser, after.hidden)


@pytest.mark.parametrize("law", LAWS)
def test_laws_hold_for_units_that_hear(law: str) -> None:
    LAWS[law](lively, Scale(far=300, stream=300))
