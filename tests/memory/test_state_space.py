"""Diagonal state spaces against continuous time, dense matrices and numbers by hand."""

import math

import pytest
import torch

from mnemic.memory import make_config
from mnemic.memory.state_space import LRU, S4D, S5, expm1, modes

NEVER = torch.zeros(6, 2, dtype=torch.bool)


def test_hippo_of_two_by_hand() -> None:
    """LegS of size 2 is [[-1, 0], [-sqrt 3, -2]]; P P^T, P = (sqrt 1/2, sqrt 3/2), leaves -1/2 +- i sqrt(3)/2."""
    torch.testing.assert_close(modes("hippo", 1), torch.tensor([complex(-0.5, 3**0.5 / 2)], dtype=torch.complex128))


def test_hippo_is_the_spectrum_of_legs_without_its_rank_one() -> None:
    n = torch.arange(8, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    legs = -torch.tril(torch.outer(root, root), -1) - torch.diag(n + 1)
    p = (n + 0.5).sqrt()
    want = torch.linalg.eigvals(legs + torch.outer(p, p))
    want = want[want.imag > 0]
    torch.testing.assert_close(modes("hippo", 4), want[want.imag.argsort()])


def test_lin_and_inv_by_hand() -> None:
    """Lin turns by pi n; Inv with N = 4 by 4 / pi (4 / 1 - 1) and 4 / pi (4 / 3 - 1)."""
    assert modes("lin", 3).imag.tolist() == pytest.approx([0, math.pi, 2 * math.pi])
    assert modes("inv", 2).imag.tolist() == pytest.approx([12 / math.pi, 4 / (3 * math.pi)])
    assert set(modes("inv", 2).real.tolist()) == {-0.5}


def test_expm1_is_exact_near_zero() -> None:
    z = torch.tensor([1e-7 + 1e-7j, -0.3 + 2j, 0j])
    want = torch.tensor([1e-7 + 1e-7j, torch.tensor(-0.3 + 2j).exp().item() - 1, 0j])
    torch.testing.assert_close(expm1(z), want, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("kind", [S5, S4D])
def test_it_is_continuous_time_with_a_held_input(kind: type[S5] | type[S4D]) -> None:
    """Euler's method in 20,000 parts of a step, x' = L x + B u, comes to the same memory."""
    torch.manual_seed(0)
    layer = kind(2, 2, "hippo", (0.3, 0.9)).double()
    x = torch.randn(3, 1, 2).double()
    _, state = layer.unroll(x, layer.initial_state(1), NEVER[:3, :1])
    mode = torch.complex(-layer.log_fade.exp(), layer.turn)
    dt = layer.log_dt.exp() / 20_000
    now = torch.zeros_like(mode)
    for u in x[:, 0]:
        add = torch.complex(*layer.into.unbind(1)) @ u.to(mode.dtype) if kind is S5 else u[:, None].to(mode.dtype)
        for _ in range(20_000):
            now = now + dt * (mode * now + add)
    got = torch.view_as_complex(state.hidden)[0]
    torch.testing.assert_close(got, now.detach().flatten(), rtol=1e-3, atol=1e-3)


def test_conjugates_make_it_real() -> None:
    """What 2 Re(C h) over half of the modes gives, a dense system of all modes and their conjugates gives too."""
    torch.manual_seed(0)
    layer = S5(3, 2, "lin", (0.1, 1.0)).double()
    x = torch.randn(6, 2, 3).double()
    a, held = layer.sampled()
    into = held[:, None] * torch.complex(*layer.into.unbind(1))
    out = torch.complex(layer.out_of[:, 0::2], -layer.out_of[:, 1::2])
    a, into, out = torch.cat([a, a.conj()]), torch.cat([into, into.conj()]), torch.cat([out, out.conj()], 1)
    h, want = torch.zeros(2, 4, dtype=torch.complex128), []
    for x_BD in x:
        h = h * a + x_BD.to(h.dtype) @ into.T
        y = h @ out.T
        assert y.imag.abs().max() < 1e-12
        gelu = torch.nn.functional.gelu(y.real + layer.skip * x_BD)
        left, right = layer.mix(gelu).chunk(2, -1)
        want.append(left * right.sigmoid())
    got, _ = layer.unroll(x, layer.initial_state(2), NEVER)
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-9, atol=1e-10)


def test_lru_begins_on_its_ring_and_holds_white_noise_at_one_size() -> None:
    torch.manual_seed(0)
    layer = LRU(64, 256, (0.8, 0.95), 0.5).double()
    keep = layer.moves(torch.randn(1, 1, 64).double()).keep_TBS.flatten()
    assert 0.8 <= keep.abs().min() < 0.81
    assert 0.94 < keep.abs().max() <= 0.95
    assert keep.angle().min() >= 0
    assert keep.angle().max() <= 0.5
    _, state = layer.unroll(torch.randn(400, 20, 64).double(), layer.initial_state(20), torch.zeros(400, 20).bool())
    assert torch.view_as_complex(state.hidden).abs().square().mean().item() == pytest.approx(1, rel=0.05)


def test_lru_by_hand() -> None:
    """One mode i / 2, gamma 3: inputs 1 and 2 leave 3 i / 2 + 6."""
    layer = LRU(1, 1, (0.5, 0.5), 1.0).double()
    with torch.no_grad():
        layer.nu.fill_(math.log(math.log(2)))
        layer.theta.fill_(math.log(math.pi / 2))
        layer.log_gamma.fill_(math.log(3))
        layer.into.copy_(torch.tensor([[[1.0], [0.0]]]))
        _, state = layer.unroll(torch.tensor([[[1.0]], [[2.0]]]).double(), layer.initial_state(1), NEVER[:2, :1])
    assert state.hidden.flatten().tolist() == pytest.approx([6, 1.5])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("s5", {"modes": 0}, "memory s5: modes is 0"),
        ("s4d", {"dt_min": 0.5}, "memory s4d: dt_min is 0.5 and dt_max 0.1; give 0 < dt_min <= dt_max"),
        ("lru", {"r_min": 0.9, "r_max": 0.5}, "memory lru: a ring from 0.9 to 0.5"),
        ("lru", {"phase": 0.0}, "memory lru: phase is 0.0"),
        ("ffm", {"contexts": 0}, "memory ffm: contexts is 0"),
        ("shm", {"size": 0}, "memory shm: size is 0"),
        ("shm", {"ceiling": 3.0}, "memory shm: ceiling is 3.0"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(name, **options)
