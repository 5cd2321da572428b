"""What the cores on the linear scan share: a window in pieces is the window, at once and in its gradients."""

from typing import Any

import pytest
import torch

from mnemic.memory import make_config, scanned

CORES: dict[str, dict[str, Any]] = {
    "mingru": {}, "lru": {"modes": 3}, "s4d": {"modes": 2}, "s5": {"modes": 3},
    "ffm": {"traces": 3, "contexts": 2}, "shm": {"size": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", CORES)
def test_pieces_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = make_config(name, width=4, **CORES[name]).build().double().layers[0]
    x, start = torch.randn(11, 3, 4).double().requires_grad_(), torch.rand(11, 3) < 0.2
    _, state = layer.unroll(torch.randn(5, 3, 4).double(), layer.initial_state(3), torch.zeros(5, 3, dtype=torch.bool))
    state = type(state)(*(part.detach() for part in state))
    leaves, results, pieces = [x, *layer.parameters()], [], []
    monkeypatch.setattr(scanned, "checkpoint", lambda *a, **k: (pieces.append(len(a[2])), checkpoint(*a, **k))[1])
    checkpoint = torch.utils.checkpoint.checkpoint
    for limit in (scanned.PIECE_BYTES, 2 * state[0].numel() * 8):
        monkeypatch.setattr(scanned, "PIECE_BYTES", limit)
        y, after = layer.unroll(x, state, start)
        loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + after[0].sum()
        results.append([y, after[0], *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)])
    assert pieces == [2, 2, 2, 2, 2, 1]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_what_a_window_keeps_is_one_piece() -> None:
    """The memories of 64 steps, 2 rows and 2,048 numbers are 1 MiB; in pieces of two steps little of it is kept."""
    layer = make_config("shm", width=4, size=45).build().layers[0]
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    x, start = torch.randn(64, 2, 4), torch.zeros(64, 2, dtype=torch.bool)
    held = []
    for limit in (scanned.PIECE_BYTES, 8 * layer.initial_state(2).memory.numel() * 4):
        with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            patch.setattr(scanned, "PIECE_BYTES", limit)
            kept.clear()
            layer.unroll(x, layer.initial_state(2), start)
            held.append(sum(kept.values()))
    assert held[1] < held[0] / 10


@pytest.mark.parametrize("name", CORES)
def test_mixed_precision_keeps_the_memory_in_float32(name: str) -> None:
    core = make_config(name, width=4, **CORES[name]).build()
    x, start = torch.randn(5, 3, 4, requires_grad=True), torch.zeros(5, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        y, (state,) = core.unroll(x, core.initial_state(3), start)
        _, (after,) = core.step(x[0], (state,), start[0])
    y.float().sum().backward()
    assert state[0].dtype == after[0].dtype == torch.float32
    assert x.grad.isfinite().all()
