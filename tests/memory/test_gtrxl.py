"""GTrXL against attention written out pair by pair, and what follows from keeping inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention.rotary import BASE
from mnemic.memory import make_config
from mnemic.memory.core import parts
from mnemic.memory.gtrxl import GTrXLConfig, PastAttention
from mnemic.memory.stack import Block


def build(width: int = 8, **options: Any) -> PastAttention:
    torch.manual_seed(0)
    core = GTrXLConfig(width=width, heads=2, **options).build().layers[0].double()  # type: ignore[index,union-attr]
    assert isinstance(core, PastAttention)
    for name, part in core.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(part)
    return core


def waves(place: int, width: int) -> Tensor:
    frequency = BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.cat([(place * frequency).sin(), (place * frequency).cos()])


def plain(core: PastAttention, x_TD: Tensor) -> Tensor:
    """One row and one trial, one pair of steps after the other."""
    steps, width = x_TD.shape
    heads, head, found = core.heads, width // core.heads, []
    for t in range(steps):
        seen = range(max(0, t - core.context), t + core.current)
        read = torch.zeros(heads, head, dtype=x_TD.dtype)
        for h in range(heads):
            scores, values = [], []
            query = core.query(x_TD[t]).view(heads, head)[h]
            for s in seen:
                entry = x_TD[s]
                if core.positions == "learned":
                    entry = entry + core.table_PD[min(s, len(core.table_PD) - 1)]
                if core.positions == "sinusoidal":
                    entry = entry + waves(s, width)
                key, value = core.key_and_value(entry).view(2, heads, head)[:, h]
                if core.positions == "relative":
                    # The four terms of Transformer-XL.
                    place = core.position_key[h] @ waves(t - s, head)
                    scores.append((query + core.content_bias[h]) @ key + (query + core.position_bias[h]) @ place)
                else:
                    scores.append(query @ key)
                values.append(value)
            if scores:
                read[h] = (torch.stack(scores) / head**0.5).softmax(0) @ torch.stack(values)
        found.append(core.out(read.flatten()))
    return torch.stack(found)


@pytest.mark.parametrize("current", [True, False])
@pytest.mark.parametrize("positions", ["relative", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("context", [1, 5, 40])
@torch.no_grad()
def test_rows_at_different_steps_see_their_own_trials(context: int, positions: str, current: bool) -> None:
    core = build(context=context, positions=positions, current=current, trial_positions=12)
    x = torch.randn(20, 3, 8, dtype=torch.float64)
    start = torch.zeros(20, 3, dtype=torch.bool)
    starts = [[0], [0, 11], [0, 3, 4, 15]]
    for row, at in enumerate(starts):
        start[at, row] = True
    state, pieces = core.initial_state(3), []
    for x_part, start_part in zip(torch.split(x, [7, 1, 12]), torch.split(start, [7, 1, 12]), strict=True):
        y, state = core.unroll(x_part, state, start_part)
        pieces.append(y)
    got = torch.cat(pieces)
    for row, at in enumerate(starts):
        for first, last in zip(at, [*at[1:], 20], strict=True):
            torch.testing.assert_close(got[first:last, row], plain(core, x[first:last, row]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["step", "unroll"])
def test_without_its_own_step_a_first_query_reads_nothing(form: str) -> None:
    core = build(current=False)
    x, start = torch.randn(1, 2, 8, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    if form == "step":
        y, _ = core.step(x[0], core.initial_state(2), start[0])
    else:
        y, _ = core.unroll(x, core.initial_state(2), start)
    assert not y.any()


@pytest.mark.parametrize("gradient", [True, False])
def test_gradients_into_the_past_are_a_choice_and_weights_learn_either_way(gradient: bool) -> None:
    core = build(current=False, past_gradient=gradient, context=4)
    x = torch.randn(6, 1, 8, dtype=torch.float64, requires_grad=True)
    y, _ = core.unroll(x, core.initial_state(1), torch.zeros(6, 1, dtype=torch.bool))
    d_x, d_weight = torch.autograd.grad(y[-1].sum(), [x, core.key_and_value.weight])
    assert d_x.flatten(1).any(1).tolist() == [False, *[gradient] * 4, True]
    assert d_weight.any()


def test_what_was_kept_before_the_window_teaches_the_weights_of_keys() -> None:
    """A cache of keys and values would be data. Here a step of the window learns how to look at steps before it."""
    core = build(current=False, context=4)
    x, start = torch.randn(5, 1, 8, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.bool)
    _, state = core.unroll(x[:4], core.initial_state(1), start[:4])
    state = state._replace(past_BSD=state.past_BSD.detach())
    y, _ = core.unroll(x[4:], state, start[4:])
    (d_weight,) = torch.autograd.grad(y.sum(), core.key_and_value.weight)
    assert d_weight[:8].any()
    assert d_weight[8:].any()


@torch.no_grad()
def test_far_into_a_trial_it_computes_the_same() -> None:
    core = build(context=4)
    x, start = torch.randn(9, 1, 8, dtype=torch.float64), torch.zeros(9, 1, dtype=torch.bool)
    near, _ = core.unroll(x, core.initial_state(1), start)
    fresh = core.initial_state(1)
    far, after = core.unroll(x, fresh._replace(seen_B=fresh.seen_B + 10**9), start)
    assert torch.equal(far[4:], near[4:])
    assert parts(after)["seen_B"].item() == 10**9 + 9


@pytest.mark.parametrize("bias", [2.0, 0.0, 0.2])
def test_gates_begin_at_their_bias(bias: float) -> None:
    """With nothing in stream and layer, the update gate is sigmoid(-bias)."""
    block = Block(GTrXLConfig(width=4, heads=2, residual_bias=bias))
    gates = block.gates(torch.zeros(3, 4), torch.zeros(3, 4))
    assert set(gates) == {"residual", "mlp"}
    for gate in gates.values():
        torch.testing.assert_close(gate, torch.sigmoid(-torch.full((3, 4), bias)))


def test_gates_are_what_blocks_do() -> None:
    """Where the gate is at 1 the candidate is all that is left, where it is at 0 the stream is."""
    core = GTrXLConfig(width=4, heads=2, mlp=0, residual_bias=0.0).build()
    gate = core.blocks[0].gate  # type: ignore[index,union-attr]
    x, start = torch.randn(3, 4), torch.zeros(3, dtype=torch.bool)
    for bias, open_ in ((-60.0, 1.0), (60.0, 0.0)):
        torch.nn.init.constant_(gate.bias, bias)  # type: ignore[union-attr,arg-type]
        gates = core.gates(x, core.initial_state(3), start)
        torch.testing.assert_close(gates["0.residual"], torch.full((3, 4), open_))
    y, _ = core.step(x, core.initial_state(3), start)
    torch.testing.assert_close(y, core.norm(x))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 0}, "context is 0; it must be at least 1"),
        ({"width": 6, "heads": 2}, "positions relative need an even number of features, not 3"),
        ({"width": 3, "heads": 1, "positions": "sinusoidal"}, "positions sinusoidal need an even number"),
        ({"past_gradient": False}, "cannot see its own step, which has one; add --memory.no-current"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"memory gtrxl: .*{said}"):
        make_config("gtrxl", **options)


def test_longer_episodes_than_the_table_are_refused() -> None:
    core = make_config("gtrxl", positions="learned", trial_positions=6).build()
    for fits in (None, 6):
        core.check_episodes(fits)
    with pytest.raises(ValueError, match=r"up to 7 steps, and the memory has positions for 6; train with --memory.tri"):
        core.check_episodes(7)
    make_config("gtrxl").build().check_episodes(10**9)
