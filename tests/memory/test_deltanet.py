"""DeltaNet by hand: what a write replaces, what it turns round, what fades; and several writes in a step."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnemic.memory import make_config
from mnemic.memory.deltanet import DeltaNet, DeltaNetConfig, unit


def never(steps: int, batch: int = 1) -> Tensor:
    return torch.zeros(steps, batch, dtype=torch.bool)


def by_hand(beta: float = 1.0, **options: object) -> DeltaNet:
    """A layer of four features: the first two are the key and the query, the last two the value; beta is constant."""
    config = DeltaNetConfig(width=4, heads=1, key_width=2, value_width=2, **options)  # type: ignore[arg-type]
    layer = DeltaNet(config).double()
    eye = torch.eye(4, dtype=torch.float64)
    with torch.no_grad():
        layer.query.weight.copy_(1e3 * eye[:2])
        layer.key.weight.copy_(1e3 * eye[:2].repeat(layer.writes, 1))
        layer.value.weight.copy_(eye[2:].repeat(layer.writes, 1))
        share = beta / config.beta_max
        layer.beta.weight.zero_()
        layer.beta.bias.fill_(1e3 if share == 1 else math.log(share / (1 - share)))
    return layer


def memories(layer: DeltaNet, *steps: list[float]) -> list[list[list[float]]]:
    state, found = layer.initial_state(1), []
    with torch.no_grad():
        for x in steps:
            _, state = layer.step(torch.tensor([x], dtype=torch.float64), state, never(1)[0])
            found.append(state.memory_BGKV[0, 0].tolist())
    return found


def test_one_write_overwrites_exactly() -> None:
    """7 and -2 under the first key, 1 and 1 under the second, then 5 and 3 under the first."""
    first, second, third = memories(by_hand(), [1, 0, 7, -2], [0, 1, 1, 1], [1, 0, 5, 3])
    torch.testing.assert_close(first, [[7.0, -2.0], [0.0, 0.0]], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second, [[7.0, -2.0], [1.0, 1.0]], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(third, [[5.0, 3.0], [1.0, 1.0]], rtol=1e-9, atol=1e-9)


def test_half_a_beta_goes_half_of_the_way() -> None:
    """From 0 to 8: 4, 6, 7."""
    found = memories(by_hand(0.5), *[[1, 0, 8, 0]] * 3)
    torch.testing.assert_close([part[0][0] for part in found], [4.0, 6.0, 7.0], rtol=1e-9, atol=1e-9)


def test_beta_of_two_turns_round() -> None:
    """With a value of 0, what was known of the key changes its sign, and the rest stays: an eigenvalue of -1."""
    layer = by_hand(2.0, beta_max=2.0)
    found = memories(layer, [1, 0, 3, 1], [0, 1, 2, 2], [1, 0, 0, 0], [1, 0, 0, 0])
    torch.testing.assert_close(found[1], [[6.0, 2.0], [4.0, 4.0]], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[2], [[-6.0, -2.0], [4.0, 4.0]], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[3], found[1], rtol=1e-8, atol=1e-8)


def test_a_gate_lets_all_of_it_fade() -> None:
    layer = by_hand(gate="scalar")
    assert layer.decay is not None
    with torch.no_grad():
        layer.decay.weight.zero_()
        layer.decay.bias.zero_()  # half stays
    _, second = memories(layer, [1, 0, 8, 4], [0, 1, 2, 2])
    torch.testing.assert_close(second, [[4.0, 2.0], [2.0, 2.0]], rtol=1e-9, atol=1e-9)


def test_a_gate_begins_open() -> None:
    layer = DeltaNet(DeltaNetConfig(gate="scalar", gate_bias=4.0))
    gates = layer.gates(torch.zeros(2, 64), layer.initial_state(2), never(1, 2)[0])
    assert gates["decay"].shape == gates["beta"].shape == (2, 4)
    torch.testing.assert_close(gates["decay"], torch.full((2, 4), 1 / (1 + math.exp(-4))))
    torch.testing.assert_close(gates["beta"], torch.full((2, 4), 0.5))


def test_a_step_reads_what_it_has_just_written() -> None:
    """The query is the key: with beta 1 the value itself leaves, normed."""
    layer = by_hand()
    with torch.no_grad():
        layer.out.weight.copy_(torch.eye(4, dtype=torch.float64)[:, :2])
    y, _ = layer.step(torch.tensor([[1.0, 0, 3, 4]], dtype=torch.float64), layer.initial_state(1), never(1)[0])
    rms = math.sqrt((9 + 16) / 2)
    torch.testing.assert_close(y[0], torch.tensor([3 / rms, 4 / rms, 0, 0], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gate", ["none", "scalar"])
def test_several_writes_are_several_matrices(gate: str) -> None:
    """The whole layer against its equations, one write after the other, in two heads."""
    torch.manual_seed(0)
    config = DeltaNetConfig(width=8, heads=2, key_width=3, value_width=5, gate=gate, beta_max=2.0, steps=3)
    layer = DeltaNet(config).double()
    x = torch.randn(30, 8, dtype=torch.float64)
    query = unit(F.silu(layer.query(x).view(30, 2, 3)))
    key = unit(F.silu(layer.key(x).view(30, 3, 2, 3)))
    value, beta = layer.value(x).view(30, 3, 2, 5), 2 * layer.beta(x).view(30, 3, 2).sigmoid()
    held, want = torch.zeros(2, 3, 5, dtype=torch.float64), []
    for t in range(30):
        if layer.decay is not None:
            held = layer.decay(x[t]).sigmoid()[:, None, None] * held
        for n in range(3):
            known = torch.einsum("hk,hkv->hv", key[t, n], held)
            held = held + torch.einsum("hk,hv->hkv", key[t, n], beta[t, n][:, None] * (value[t, n] - known))
        read = F.rms_norm(torch.einsum("hk,hkv->hv", query[t], held), (5,), eps=1e-6).flatten()
        if layer.out_gate is not None:
            read = read * F.silu(layer.out_gate(x[t]))
        want.append(layer.out(read))
    got, state = layer.unroll(x[:, None], layer.initial_state(1), never(30))
    torch.testing.assert_close(got[:, 0], torch.stack(want), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.memory_BGKV[0], held, rtol=1e-9, atol=1e-9)


def test_parity_needs_a_beta_above_one() -> None:
    """One number that changes its sign at every 1 and stays at every 0: what no gate between 0 and 1 can do."""
    layer = by_hand(beta_max=2.0)
    with torch.no_grad():
        layer.beta.weight.copy_(torch.tensor([[0.0, 1e3, 0, 0]]))  # the second feature says: turn round
        layer.beta.bias.fill_(-500.0)
        layer.key.weight.copy_(torch.tensor([[1e3, 0, 0, 0], [0, 0, 0, 0]]))
    bits = [1, 0, 1, 1, 1, 0, 0, 1, 0, 1]
    state = layer.initial_state(1)
    state.memory_BGKV[0, 0, 0, 0] = 1.0
    for count, bit in enumerate(bits, 1):
        _, state = layer.step(torch.tensor([[1.0, bit, 0, 0]], dtype=torch.float64), state, never(1)[0])
        want = (-1.0) ** sum(bits[:count])
        assert state.memory_BGKV[0, 0, 0, 0].item() == pytest.approx(want, abs=1e-6)


def test_reflections_in_few_bits_do_not_grow() -> None:
    """Keys of bfloat16 are not quite of length 1; ten thousand times turned round, memory is no larger."""
    torch.manual_seed(0)
    config = DeltaNetConfig(width=16, heads=1, beta_max=2.0)
    layer = DeltaNet(config)
    with torch.no_grad():
        layer.beta.bias.fill_(100.0)
        layer.value.weight.zero_()
    layer = layer.bfloat16()
    state = layer.initial_state(1)
    state.memory_BGKV.normal_()
    before = state.memory_BGKV.norm()
    with torch.no_grad():
        for _ in range(10):
            x = torch.randn(1, 1, 16, dtype=torch.bfloat16).expand(1000, 1, 16)
            _, state = layer.unroll(x, state, never(1000))
    assert state.memory_BGKV.norm() <= before * 1.01


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beta_max is 2.5; give 1 to replace or 2 to turn round"):
        make_config("deltanet", beta_max=2.5)
    with pytest.raises(ValueError, match="steps is 0; a step writes at least once"):
        make_config("deltanet", steps=0)
