"""The cores gru and lstm: what they are made of, and the registry they stand in."""

import pytest
import torch
from torch import nn

from mnemic.memory import MEMORIES, config_from_dict, config_to_dict, make_config
from mnemic.memory.rnn import GRU, LSTM, GRUConfig, GRUState, LSTMConfig, LSTMState


@pytest.mark.parametrize(("core", "gates"), [(GRU(12, heads=3), 3), (LSTM(12, heads=3), 4)], ids=["gru", "lstm"])
def test_recurrent_weights_begin_orthogonal_for_each_gate_and_head(core: GRU | LSTM, gates: int) -> None:
    blocks = core.recurrent
    assert blocks.shape == (gates, 3, 4, 4)
    torch.testing.assert_close(blocks @ blocks.mT, torch.eye(4).expand_as(blocks), rtol=0, atol=1e-5)
    assert not torch.equal(blocks[0, 0], blocks[0, 1])


def test_the_forget_bias_is_on_the_forget_gate_alone() -> None:
    """With inputs of 0 the first step writes i * tanh(0) = 0, so that a cell of 1 is left at sigmoid(bias)."""
    core = LSTM(2, forget_bias=3.0)
    state = LSTMState(torch.zeros(1, 2), torch.ones(1, 2))
    _, after = core.step(torch.zeros(1, 2), state, torch.tensor([False]))
    torch.testing.assert_close(after.cell, torch.sigmoid(torch.tensor(3.0)).expand(1, 2))
    assert core.bias.detach().tolist() == [0, 0, 3, 3, 0, 0, 0, 0]


def test_the_plain_core_is_the_one_of_torch() -> None:
    core, theirs = LSTMConfig(width=6).build(), nn.LSTM(6, 6)
    layer = core.layers[0]
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(layer.input_weight)
        theirs.weight_hh_l0.copy_(layer.recurrent.flatten(0, 2))
        theirs.bias_ih_l0.copy_(layer.bias)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(9, 3, 6)
    y, ((hidden, cell),) = core.unroll(x, core.initial_state(3), torch.zeros(9, 3, dtype=torch.bool))
    want, (want_hidden, want_cell) = theirs(x)
    for got, expected in ((y, want), (hidden, want_hidden[0]), (cell, want_cell[0])):
        torch.testing.assert_close(got, expected)


def test_heads_hear_their_own_units_only() -> None:
    core = GRU(8, heads=2)
    hidden = torch.randn(1, 8, requires_grad=True)
    y, _ = core.step(torch.randn(1, 8), GRUState(hidden), torch.tensor([False]))
    (gradient,) = torch.autograd.grad(y[0, :4].sum(), hidden)
    assert gradient[0, :4].all()
    assert not gradient[0, 4:].any()


def test_state_bytes() -> None:
    assert GRUConfig(width=64, depth=2).build().state_bytes(7) == 2 * 64 * 4
    assert LSTMConfig(width=64).build().state_bytes(7) == 2 * 64 * 4


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_mixed_precision_keeps_the_memory_in_the_type_of_the_weights(name: str) -> None:
    core = make_config(name, width=8, residual="gate", mlp=1).build()
    x = torch.randn(5, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, (state,) = core.unroll(x, core.initial_state(3), torch.zeros(5, 3, dtype=torch.bool))
        _, (after,) = core.step(x[0], (state,), torch.zeros(3, dtype=torch.bool))
    y.float().sum().backward()
    assert {part.dtype for part in (*state, *after)} == {torch.float32}
    assert x.grad.isfinite().all()


def test_heads_that_cannot_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="memory gru: 3 heads cannot share a width of 64 evenly"):
        make_config("gru", heads=3)
    with pytest.raises(ValueError, match="memory lstm: 0 heads"):
        make_config("lstm", heads=0)


@pytest.mark.parametrize("name", MEMORIES)
def test_a_configuration_survives_being_written_down(name: str) -> None:
    config = make_config(name, width=16, depth=2)
    assert config.name == name
    assert config_to_dict(config)["name"] == name
    assert config_from_dict(config_to_dict(config)) == config


def test_unknown_names_get_the_choices_closest_first() -> None:
    with pytest.raises(ValueError, match=r"unknown memory 'gruu'; choose one of gru, "):
        make_config("gruu")
    with pytest.raises(ValueError, match=r"memory lstm has no option 'forget'; it has forget_bias, "):
        make_config("lstm", forget=1.0)
    with pytest.raises(ValueError, match="needs a name"):
        config_from_dict({"width": 8})


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_the_gates_are_those_that_the_step_uses(name, heads):
    """From the gates and the step's output the rest of the recurrence follows: h = (1 - z) n + z h, c = f c + i g."""
    torch.manual_seed(0)
    layer = make_config(name, width=8, heads=heads).build().double().layers[0]
    x, start = torch.randn(4, 8).double(), torch.tensor([True, False, False, False])
    state = type(layer.initial_state(4))(*(torch.randn(4, 8).double() for _ in layer.initial_state(4)))
    gates, (y, after) = layer.gates(x, state, start), layer.step(x, state, start)
    if name == "gru":
        kept = state.hidden.masked_fill(start[:, None], 0)
        candidate = (y - gates["update"] * kept) / (1 - gates["update"])
        assert candidate.abs().max() <= 1
    else:
        assert torch.allclose(y, gates["output"] * after.cell.tanh())
        entry = after.cell - gates["forget"] * state.cell.masked_fill(start[:, None], 0)
        assert (entry / gates["input"]).abs().max() <= 1
