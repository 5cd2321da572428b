"""minGRU by hand, and why it needs no logarithms."""

import torch

from mnemic.memory.mingru import MinGRU


def _unit(candidate: str, gate: float, new: float) -> MinGRU:
    """One unit: z = sigmoid(`gate`), and the candidate gets `new` times the input."""
    layer = MinGRU(1, candidate, hold=0.0)
    layer.project.weight.data.copy_(torch.tensor([[0.0], [new]]))
    layer.project.bias.data.copy_(torch.tensor([gate, 0.0]))
    return layer


def _run(layer: MinGRU, x: list[float], start: list[bool] | None = None) -> list[float]:
    start_T1 = torch.tensor(start or [False] * len(x))[:, None]
    y, _ = layer.unroll(torch.tensor(x).view(-1, 1, 1), layer.initial_state(1), start_T1)
    return [round(each, 6) for each in y.flatten().tolist()]


def test_by_hand() -> None:
    """z = 1/2: 0 and 2 are halved together to 1, then 1 and -4 to -1.5; with a start only the half of -4 is left."""
    linear = _unit("linear", 0.0, 1.0)
    assert _run(linear, [2.0, -4.0]) == [1.0, -1.5]
    assert _run(linear, [2.0, -4.0], [False, True]) == [1.0, -2.0]
    # g(2) = 2.5 and g(0) = 0.5: 1.25, then (1.25 + 0.5) / 2.
    assert _run(_unit("positive", 0.0, 1.0), [2.0, 0.0]) == [1.25, 0.875]


def test_a_candidate_below_zero_is_a_sigmoid() -> None:
    assert _run(_unit("positive", 0.0, 1.0), [-100.0]) == [0.0]


def test_what_would_underflow_in_products_does_not_here() -> None:
    """1 - z = 2e-9 at each of 1,000 steps: the product over time is 0 in any float, the memory is the newest input."""
    assert _run(_unit("linear", 20.0, 1.0), [float(t) for t in range(1000)])[-1] == 999.0


def test_a_gate_that_hardly_opens_is_no_gate_that_never_does() -> None:
    """z = 2e-9 is lost beside 1 in float32, but not in what comes in."""
    assert 2.0e-9 < MinGRU.moves(_unit("linear", -20.0, 1.0), torch.ones(1, 1, 1)).add_TBS.item() < 2.1e-9


def test_hold_spreads_the_gate() -> None:
    layer = MinGRU(3, "positive", hold=2.0)
    assert layer.project.bias.tolist() == [0.0, -1.0, -2.0, 0.0, 0.0, 0.0]
    gate = layer.gates(torch.zeros(1, 3), layer.initial_state(1), torch.tensor([False]))["update"]
    torch.testing.assert_close(gate[0], torch.sigmoid(torch.tensor([0.0, -1.0, -2.0])))
