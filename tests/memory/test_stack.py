"""Layers that learning leaves out."""

from typing import Any

import pytest
import torch

from mnemic.memory import MEMORIES, make_config, stack
from mnemic.memory.core import Core

SHALLOW = sorted(set(MEMORIES) - {"memo"})


def build(name: str, **options: Any) -> Core:
    torch.manual_seed(0)
    return make_config(name, **{"width": 8, "depth": 3, "residual": "add", "mlp": 2, **options}).build()


@pytest.mark.parametrize("residual", ["add", "gate"])
@pytest.mark.parametrize("name", SHALLOW)
def test_a_layer_that_is_left_out_hands_the_stream_on(
    name: str, residual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of three layers is the second, with nothing scaled up; and no gradient goes to the others."""
    core = build(name, residual=residual, depth_dropout=0.5)
    monkeypatch.setattr(stack.torch, "rand", lambda *_, **__: torch.tensor([0.4, 0.5, 0.1]))
    x, start = torch.randn(6, 2, 8), torch.zeros(6, 2, dtype=torch.bool)
    y, _ = core.unroll(x, core.initial_state(2), start)
    layer, block = core.layers[1], core.blocks[1]  # type: ignore[index]
    alone = block.after(x, layer.unroll(block.before(x), layer.initial_state(2), start)[0])
    torch.testing.assert_close(y, core.norm(alone))  # type: ignore[operator]
    y.sum().backward()
    for number in (0, 2):
        for part in (*core.layers[number].parameters(), *core.blocks[number].parameters()):  # type: ignore[index]
            assert part.grad is None or not part.grad.any()


@pytest.mark.parametrize("name", SHALLOW)
def test_noise_is_for_learning(name: str) -> None:
    noisy, quiet = build(name, depth_dropout=0.9), build(name)
    x, start = torch.randn(6, 2, 8), torch.zeros(6, 2, dtype=torch.bool)
    with torch.no_grad():
        want, _ = quiet.unroll(x, quiet.initial_state(2), start)
        torch.manual_seed(1)
        assert not torch.allclose(noisy.unroll(x, noisy.initial_state(2), start)[0], want)
        for act in (noisy.step, noisy.advance):
            assert torch.allclose(act(x[0], noisy.initial_state(2), start[0])[0], want[0], atol=1e-6)
        assert torch.equal(noisy.eval().unroll(x, noisy.initial_state(2), start)[0], want)


def test_as_many_are_left_out_as_asked_one_draw_for_all_rows() -> None:
    core = build("none", depth=1, depth_dropout=0.1)
    x, start = torch.randn(1, 5, 8), torch.zeros(1, 5, dtype=torch.bool)
    out = 0
    with torch.no_grad():
        for _ in range(2_000):
            same = (core.unroll(x, ((),), start)[0] == core.norm(x)).all(-1)[0]  # type: ignore[operator]
            assert same.all() or not same.any()
            out += int(same[0])
    assert out / 2_000 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("chance", [-0.1, 1.0])
def test_a_chance_is_refused_that_is_none(chance: float) -> None:
    with pytest.raises(ValueError, match=rf"memory gru: depth_dropout is {chance}; it must be at least 0 and less"):
        make_config("gru", residual="add", depth_dropout=chance)


def test_without_a_residual_no_layer_can_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"depth_dropout 0.1 leaves nothing .* choose residual add or gate"):
        make_config("gru", depth_dropout=0.1)


@pytest.mark.parametrize("jitter", [-0.2, 1.0])
def test_a_jitter_is_refused_that_leaves_no_segment(jitter: float) -> None:
    with pytest.raises(ValueError, match=rf"memory memo: segment_jitter is {jitter}; it must be at least 0 and less"):
        make_config("memo", segment_jitter=jitter)
