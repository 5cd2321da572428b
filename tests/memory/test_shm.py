"""SHM by hand, and what its drawn rows owe to acting, learning and chance."""

import pytest
import torch

from mnemic.memory.core import rows
from mnemic.memory.shm import LARGEST, SHM, SHMState


def _layer(kind: str = "random", ceiling: float = 2.0, seed: int = 0, width: int = 4, size: int = 3) -> SHM:
    torch.manual_seed(0)
    return SHM(width, size, kind, seed, ceiling).double()


def _state(layer: SHM, age: list[int]) -> SHMState:
    return SHMState(torch.randn(len(age), layer.size, layer.size).double(), torch.tensor(age))


def test_by_hand() -> None:
    """M = 2, C = 1 + tanh(theta v_c), eta = 1/2, v = 3, k = q = 1 (less 1e-5): 2 C + 1.5."""
    layer = _layer("constant", width=2, size=1)
    with torch.no_grad():
        layer.table.fill_(0.5)
        # LN(1, -1) = (1, -1): rows are key, query, value, v_c, eta.
        layer.project.weight.copy_(torch.tensor([[1.0, 0], [1, 0], [3, 0], [-2, 0], [0, 0]]))
        state = SHMState(torch.tensor([[[2.0]]]).double(), torch.tensor([9]))
        _, after = layer.step(torch.tensor([[1.0, -1.0]]).double(), state, torch.tensor([False]))
        _, fresh = layer.step(torch.tensor([[1.0, -1.0]]).double(), state, torch.tensor([True]))
    assert after.memory.item() == pytest.approx(2 * (1 - 0.761594156) + 1.5, rel=1e-4)
    assert fresh.memory.item() == pytest.approx(1.5, rel=1e-4)
    assert (after.age.item(), fresh.age.item()) == (10, 1)


def test_acting_and_learning_draw_the_same_rows_wherever_a_window_begins() -> None:
    layer, state = _layer(), _state(_layer(), [5, 70])
    x, start = torch.randn(9, 2, 4).double(), torch.zeros(9, 2, dtype=torch.bool)
    start[3, 1] = True
    whole, after = layer.unroll(x, state, start)
    assert after.age.tolist() == [14, 6]
    for t in range(9):
        y, state = layer.step(x[t], state, start[t])
        torch.testing.assert_close(y, whole[t], rtol=1e-9, atol=1e-10)
    again, _ = layer.unroll(x[3:, 1:], rows(layer.initial_state(2), slice(1)), torch.zeros(6, 1, dtype=torch.bool))
    torch.testing.assert_close(again[:, 0], whole[3:, 1], rtol=1e-9, atol=1e-10)


def test_rows_are_drawn_evenly_and_by_seed() -> None:
    """12,800 draws of 128 rows: 100 each, give or take 5 standard deviations of 10; one does not tell the next."""
    drawn = _layer().drawn(torch.arange(12_800))
    assert drawn.bincount(minlength=128).min() > 50
    assert drawn.bincount(minlength=128).max() < 150
    follows = (drawn[1:] == drawn[:-1]).double().mean()
    assert follows < 3 / 128
    other = _layer(seed=1).drawn(torch.arange(12_800))
    assert (drawn == other).double().mean() < 3 / 128


def test_the_constant_row_is_one() -> None:
    layer = _layer("constant")
    assert layer.table.shape == (1, 3)
    assert not layer.drawn(torch.arange(1000)).any()


@pytest.mark.parametrize("ceiling", [2.0, 1.0])
def test_a_constant_row_and_a_constant_input_grow_without_bound_unless_there_is_a_ceiling(ceiling: float) -> None:
    layer = _layer("constant", ceiling)
    with torch.no_grad():
        layer.table.fill_(1.0)
        layer.project.weight[:12] = torch.tensor([1.0, 0, 0, 0])  # keys, values and v_c are above 0
        x = torch.tensor([1.0, -1.0, 0.0, 0.0]).double().expand(500, 1, 4)
        y, state = layer.unroll(x, layer.initial_state(1), torch.zeros(500, 1, dtype=torch.bool))
        for x_BD in x[:100]:
            y, state = layer.step(x_BD, state, torch.tensor([False]))
    assert y.isfinite().all()
    assert state.memory.max() == LARGEST if ceiling == 2 else 1 < state.memory.max() < 1e4


def test_the_gates_are_those_that_the_step_uses() -> None:
    layer = _layer()
    state, x, start = _state(layer, [3, 4]), torch.randn(2, 4).double(), torch.tensor([False, True])
    gates = layer.gates(x, state, start)
    _, after = layer.step(x, state, start)
    _, empty = layer.step(x, state._replace(memory=torch.zeros_like(state.memory)), start)
    kept = torch.where(start[:, None, None], 0, state.memory)
    torch.testing.assert_close(after.memory, 2 * gates["keep"] * kept + empty.memory)
    assert gates["write"].shape == (2, 1)
