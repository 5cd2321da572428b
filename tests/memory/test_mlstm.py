"""mLSTM against its plain recurrence, with gates that float64 can hold and with gates that nothing can."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnemic.memory.laws import LAWS, Scale
from mnemic.memory.mlstm import MLSTM, MLSTMConfig


def never(steps: int, batch: int = 1) -> Tensor:
    return torch.zeros(steps, batch, dtype=torch.bool)


def lively(scale: float = 1.0) -> MLSTM:
    """A layer whose gates hear the input, which they do not at first."""
    torch.manual_seed(0)
    layer = MLSTM(MLSTMConfig(width=6, heads=2, key_width=4, value_width=5))
    for gate in (layer.gate_in, layer.gate_forget):
        nn.init.normal_(gate.weight, std=scale)
    return layer


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_it_is_its_plain_recurrence(scale: float) -> None:
    """C = f C + e^i k v^T, n = f n + e^i k, y = C^T q / max(|n . q|, 1), without any scale; starts in between."""
    layer = lively(scale).double()
    x, start = torch.randn(60, 6, dtype=torch.float64), torch.rand(60) < 0.1
    query, key = layer.query(x).view(60, 2, 4), layer.key(x).view(60, 2, 4) / 2
    value, entry, forget = layer.value(x).view(60, 2, 5), layer.gate_in(x).exp(), layer.gate_forget(x).sigmoid()
    cell, total, want = torch.zeros(2, 4, 5).double(), torch.zeros(2, 4).double(), []
    for t in range(60):
        if start[t]:
            cell, total = torch.zeros_like(cell), torch.zeros_like(total)
        cell = forget[t][:, None, None] * cell + entry[t][:, None, None] * key[t][..., None] * value[t][:, None]
        total = forget[t][:, None] * total + entry[t][:, None] * key[t]
        read = (query[t][..., None] * cell).sum(1) / (query[t] * total).sum(1, True).abs().clamp(min=1)
        normed = F.rms_norm(read, (5,), eps=1e-6).flatten()
        want.append(layer.out(normed * layer.out_gate(x[t]).sigmoid()))  # type: ignore[misc]
    got, _ = layer.unroll(x[:, None], layer.initial_state(1), start[:, None])
    # A sum n . q is divided by with 1e-6 more, in the scale of the memory.
    torch.testing.assert_close(got[:, 0], torch.stack(want), rtol=1e-4, atol=1e-4)


def by_hand() -> MLSTM:
    """One head and two features: the first is the value, the second the log of the input gate; keys are constant."""
    layer = MLSTM(MLSTMConfig(width=3, heads=1, key_width=1, value_width=1)).double()
    with torch.no_grad():
        layer.query.weight.copy_(torch.tensor([[0.0, 0, 1]]))
        layer.key.weight.copy_(torch.tensor([[0.0, 0, 1]]))
        layer.value.weight.copy_(torch.tensor([[1.0, 0, 0]]))
        layer.gate_in.weight.copy_(torch.tensor([[0.0, 1, 0]]))
        layer.gate_in.bias.zero_()
        layer.gate_forget.bias.fill_(1e3)  # all is kept
    return layer


def read(layer: MLSTM, steps: list[list[float]]) -> list[float]:
    """What is read, before norm and gate."""
    x = torch.tensor([[*step, 1.0] for step in steps], dtype=torch.float64)[:, None]
    with torch.no_grad():
        found, _, _ = layer.recur(x, x, layer.initial_state(1), never(len(steps)), None)
    return found.flatten().tolist()


def test_weighted_means_by_hand() -> None:
    """Values 1, 5, 9 that count e^1, e^2, e^3; and one that counts e^-3, less than 1: it is divided by 1."""
    found = read(by_hand(), [[1, 1], [5, 2], [9, 3]])
    e = math.e
    want = [1, (e + 5 * e**2) / (e + e**2), (e + 5 * e**2 + 9 * e**3) / (e + e**2 + e**3)]
    assert found == pytest.approx(want, rel=1e-5)
    assert read(by_hand(), [[8, -3]]) == pytest.approx([8 * e**-3], rel=1e-5)


@pytest.mark.parametrize("gate", [800.0, 1e5])
def test_one_step_outweighs_all_before_it(gate: float) -> None:
    """e^800 is not a number; 3 is overwritten by 7 in one step, and what comes later does not matter."""
    assert read(by_hand(), [[3, 0], [3, 10], [7, gate], [3, 0], [3, 10]])[2:] == pytest.approx([7, 7, 7], rel=1e-5)


def test_a_gate_that_is_shut_writes_nothing() -> None:
    assert read(by_hand(), [[3, 5], [7, -1e5], [7, -1e30]]) == pytest.approx([3, 3, 3], rel=1e-5)


def test_gates_begin_as_they_are_said_to() -> None:
    layer = MLSTM(MLSTMConfig(forget_bias=3.0, forget_bias_last=6.0))
    state = layer.initial_state(2)
    gates = layer.gates(torch.randn(2, 64), state, never(1, 2)[0])
    torch.testing.assert_close(gates["forget"][0], torch.tensor([3.0, 4, 5, 6]).sigmoid())
    assert torch.equal(gates["forget"][0], gates["forget"][1])
    assert state.top_BG.shape == (2, 4)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_laws_hold_for_gates_that_hear(scale: float, law: str) -> None:
    LAWS[law](lambda: lively(scale), Scale(far=300, stream=300))
