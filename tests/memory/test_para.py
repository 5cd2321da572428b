"""The cores paragru and paralstm: what they are made of, and that their units hear only themselves."""

import pytest
import torch

from mnemic.memory import make_config
from mnemic.memory.para import ParaGRU, ParaLSTM

NAMES = ["paragru", "paralstm"]


@pytest.mark.parametrize("core", [ParaGRU(128, heads=4), ParaLSTM(128, heads=4)], ids=NAMES)
def test_weights_begin_as_in_the_paper(core: ParaGRU | ParaLSTM) -> None:
    assert core.input_weight.shape == (3, 4, 32, 32)
    assert core.input_weight.abs().max() <= (6 / 64) ** 0.5
    assert 0.8 < core.recurrent.std() / (2 / (5 * 128) ** 0.5) < 1.2
    assert not core.bias[1:].any()


def test_the_gate_that_keeps_is_spread() -> None:
    assert torch.equal(ParaGRU(3, hold=2.0).bias[0].detach(), torch.tensor([0.0, -1.0, -2.0]))
    assert torch.equal(ParaLSTM(3, hold=2.0).bias[0].detach(), torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("name", NAMES)
def test_units_hear_only_themselves_and_their_head(name: str) -> None:
    layer = make_config(name, width=8, heads=2).build().layers[0]
    state = type(layer.initial_state(1))(*(torch.randn(1, 8, requires_grad=True) for _ in layer.initial_state(1)))
    x = torch.randn(1, 8, requires_grad=True)
    y, _ = layer.step(x, state, torch.tensor([False]))
    d_x, *d_state = torch.autograd.grad(y[0, 5], [x, *state])
    assert [bool(part) for part in d_x[0]] == [False] * 4 + [True] * 4
    for part in d_state:
        assert part[0].nonzero()[:, 0].tolist() == [5]


@pytest.mark.parametrize("name", NAMES)
def test_the_gates_are_those_that_the_step_uses(name: str) -> None:
    """From the gates and what the step returns follows the candidate: h' = (1 - z) h + z n, c' = f c + (1 - f) n."""
    torch.manual_seed(0)
    layer = make_config(name, width=8, heads=2).build().double().layers[0]
    x, start = torch.randn(4, 8).double(), torch.tensor([True, False, False, False])
    state = type(layer.initial_state(4))(*(torch.randn(4, 8).double() for _ in layer.initial_state(4)))
    gates, (y, after) = layer.gates(x, state, start), layer.step(x, state, start)
    if name == "paragru":
        kept, part, keep = state.hidden, y, 1 - gates["update"]
        assert set(gates) == {"update", "reset"}
    else:
        kept, part, keep = state.cell, after.cell, gates["forget"]
        assert torch.allclose(y, gates["output"] * after.cell.tanh())
    candidate = (part - keep * kept.masked_fill(start[:, None], 0)) / (1 - keep)
    assert candidate.abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_keeps_the_memory_in_the_type_of_the_weights(name: str) -> None:
    core = make_config(name, width=8, heads=2, residual="gate", mlp=1).build()
    x = torch.randn(5, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, (state,) = core.unroll(x, core.initial_state(3), torch.zeros(5, 3, dtype=torch.bool))
        _, (after,) = core.step(x[0], (state,), torch.zeros(3, dtype=torch.bool))
    y.float().sum().backward()
    assert {part.dtype for part in (*state, *after)} == {torch.float32}
    assert x.grad.isfinite().all()


def test_heads_that_cannot_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="memory paragru: 3 heads cannot share a width of 64 evenly"):
        make_config("paragru", heads=3)
