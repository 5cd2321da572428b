"""AGaLiTe against its equations written out, and against the exact product that it approximates."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory import make_config
from mnemic.memory.agalite import EPS, AGaLiTe, AGaLiTeConfig


def build(**options: Any) -> AGaLiTe:
    torch.manual_seed(0)
    core = AGaLiTeConfig(**{"width": 6, "heads": 2, **options}).build().layers[0].double()  # type: ignore[index,union-attr]
    assert isinstance(core, AGaLiTe)
    return core


def plain(core: AGaLiTe, x_TD: Tensor) -> Tensor:
    """One trial of GaLiTe, step by step, with a matrix for each head."""
    heads, head, expand, found = core.heads, x_TD.shape[1] // core.heads, core.expand, []
    matrix = [torch.zeros(head, head * expand, dtype=x_TD.dtype) for _ in range(heads)]
    total = [torch.zeros(head * expand, dtype=x_TD.dtype) for _ in range(heads)]
    for x in x_TD:
        q, k, v, b, g = core.project(x).view(5, heads, head)
        p_q, p_k, p_g = core.features(x).view(3, heads, expand)
        reads = []
        for h in range(heads):
            key = torch.outer(k[h].relu(), p_k[h].relu()).flatten()
            query = torch.outer(q[h].relu(), p_q[h].relu()).flatten()
            gate, value_gate = torch.outer(g[h].sigmoid(), p_g[h].sigmoid()).flatten(), b[h].sigmoid()
            matrix[h] = torch.outer(1 - value_gate, 1 - gate) * matrix[h] + torch.outer(value_gate * v[h], gate * key)
            total[h] = (1 - gate) * total[h] + gate * key
            reads.append(matrix[h] @ query / (total[h] @ query + EPS))
        found.append(core.out(torch.cat(reads)))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{"product": "exact"}, {"rank": 26}, {"rank": 25}], ids=["exact", "rank 26", "rank 25"]
)
def test_it_is_gated_linear_attention(options: dict[str, Any]) -> None:
    """With more than two steps of rank for every step of a trial, the approximate product is the exact one."""
    core, x = build(**options), torch.randn(20, 2, 6, dtype=torch.float64)
    start = torch.zeros(20, 2, dtype=torch.bool)
    start[[0, 12], 0] = start[[0, 8], 1] = True
    state, pieces = core.initial_state(2), []
    for x_part, start_part in zip(torch.split(x, [5, 15]), torch.split(start, [5, 15]), strict=True):
        y, state = core.unroll(x_part, state, start_part)
        pieces.append(y)
    got = torch.cat(pieces)
    for row, first, last in ((0, 0, 12), (0, 12, 20), (1, 0, 8), (1, 8, 20)):
        torch.testing.assert_close(got[first:last, row], plain(core, x[first:last, row]), rtol=1e-9, atol=1e-9)


def cosines(steps: int, **options: Any) -> Tensor:
    core = build(**options)
    return core._cosines(torch.arange(1, steps + 1)[:, None], core.out.weight)[:, 0]


def test_the_published_frequencies_are_one_at_a_rank_of_two() -> None:
    """-pi and pi have the same cosine, (-1)^t: the second trace is a copy of the first. The others differ."""
    sign = torch.tensor([-1.0, 1, -1, 1, -1]).double()
    torch.testing.assert_close(cosines(5, frequencies="published"), torch.stack([sign, sign], 1))
    torch.testing.assert_close(cosines(5), torch.stack([torch.ones(5).double(), sign], 1))
    torch.testing.assert_close(cosines(5, frequencies="published", rank=1), sign[:, None])


def test_published_frequencies_go_from_minus_pi_to_pi() -> None:
    want = torch.arange(1.0, 8)[:, None] * torch.linspace(-torch.pi, torch.pi, 5)
    torch.testing.assert_close(cosines(7, frequencies="published", rank=5), want.double().cos(), rtol=0, atol=1e-5)


def test_late_cosines_are_exact() -> None:
    core = build(rank=7)
    far = core._cosines(torch.arange(1, 8)[:, None] + 7 * 10**9, core.out.weight)
    assert torch.equal(far[:, 0], cosines(7, rank=7))


@pytest.mark.parametrize(("frequencies", "factor"), [("harmonic", 2.0), ("published", 0.5)])
@torch.no_grad()
def test_a_first_step_by_hand(frequencies: Any, factor: float) -> None:
    """s and the traces are c g k and c b v with c^2 = 1: the read is b v times R times the weight, 2 / R or 1 / 2 R."""
    core, x = build(frequencies=frequencies), torch.randn(1, 6, dtype=torch.float64)
    for layer, biases in ((core.project, 5 * [1.0]), (core.features, 3 * [1.0])):
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(biases).repeat_interleave(len(layer.bias) // len(biases)))
    y, _ = core.step(x, core.initial_state(1), torch.tensor([True]))
    # Every feature of key and query is 1, each gate sigmoid(1) squared, and there are 3 x 4 of them.
    gate = torch.sigmoid(torch.tensor(1.0)).double()
    total = 12 * gate**2
    want = core.out(torch.full((1, 6), (factor * gate * total / (total + EPS)).item()).double())
    torch.testing.assert_close(y, want)


def test_gates_are_those_of_keys_and_values() -> None:
    core, x = build(), torch.randn(3, 6, dtype=torch.float64)
    gates = core.gates(x, core.initial_state(3), torch.zeros(3, dtype=torch.bool))
    assert {name: tuple(gate.shape) for name, gate in gates.items()} == {"key": (3, 2, 12), "value": (3, 2, 3)}
    assert all(gate.min() > 0 and gate.max() < 1 for gate in gates.values())


@pytest.mark.parametrize("field", ["expand", "rank"])
def test_sizes_of_nothing_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"memory agalite: {field} is 0; it must be at least 1"):
        make_config("agalite", **{field: 0})
