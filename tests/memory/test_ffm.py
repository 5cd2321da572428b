"""FFM against its sum over time, its published rates, and windows on which the published form overflows."""

import math

import pytest
import torch

from mnemic.memory.ffm import FFM, decays


def test_the_memory_is_a_sum_over_time() -> None:
    """S_t = sum over s of gamma^(t-s) n_s g_s, with gamma = exp(-a + i b)."""
    torch.manual_seed(0)
    layer = FFM(3, 2, 2, "memoroid").double()
    x = torch.randn(7, 1, 3).double()
    _, state = layer.unroll(x, layer.initial_state(1), torch.zeros(7, 1, dtype=torch.bool))
    new, gate = layer.before(x[:, 0])[:, :4].chunk(2, -1)
    log_gamma = torch.complex(-layer.log_decay.exp()[:, None].expand(2, 2), layer.turn.expand(2, 2))
    age = torch.arange(6, -1, -1).double()
    want = torch.einsum(
        "tmc,tm->mc", (age[:, None, None] * log_gamma).exp(), (new * gate.sigmoid()).to(log_gamma.dtype)
    )
    torch.testing.assert_close(torch.view_as_complex(state.hidden)[0], want.flatten(), rtol=1e-9, atol=1e-10)


def test_the_published_rates() -> None:
    """709.78 / 1024 - 0.02 = 0.673 at the fast end; at the slow one 1 % is left after 1,024 steps."""
    fast, slow = decays("torch", 2).tolist()
    assert fast == pytest.approx(0.67315, abs=1e-4)
    assert math.exp(-slow * 1024) == pytest.approx(0.01)
    assert decays("memoroid", 3).tolist() == pytest.approx([0.1, 0.0500005, 1e-6])
    assert (2 * math.pi / FFM(3, 2, 3, "torch").turn).tolist() == pytest.approx([1, 512.5, 1024])


def test_what_is_kept_is_the_decay() -> None:
    layer = FFM(3, 2, 2, "torch")
    kept = layer.gates(torch.randn(1, 3), layer.initial_state(1), torch.tensor([False]))["kept"][0]
    fast, slow = (math.exp(-each) for each in decays("torch", 2).tolist())
    assert kept.tolist() == pytest.approx([fast, fast, slow, slow])


def test_a_shut_gate_lets_the_input_pass() -> None:
    layer = FFM(2, 1, 1, "torch")
    with torch.no_grad():
        layer.before.weight.zero_()
        layer.before.weight[4:] = torch.eye(2)
        layer.before.bias.copy_(torch.tensor([0.0, 0.0, -100.0, -100.0, 0.0, 0.0]))
    x = torch.tensor([[3.0, -4.0]])
    y, _ = layer.step(x, layer.initial_state(1), torch.tensor([False]))
    assert torch.equal(y, x)
    assert not layer.gates(x, layer.initial_state(1), torch.tensor([False]))["output"].any()


def test_decays_that_overflow_the_published_form_do_not_here() -> None:
    """With a decay of 5 per step, exp(5 * 4000) is beyond double precision; the scan never forms it."""
    layer = FFM(2, 1, 1, "torch")
    with torch.no_grad():
        layer.log_decay.fill_(math.log(5))
        y, state = layer.unroll(torch.randn(4000, 1, 2), layer.initial_state(1), torch.zeros(4000, 1, dtype=torch.bool))
    assert y.isfinite().all()
    assert state.hidden.abs().sum() > 0
