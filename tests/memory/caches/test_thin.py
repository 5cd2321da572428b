"""Thinner keys against a loop over the whole past, and what they save."""

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import angles, rotate
from mnemic.memory import make_config
from mnemic.memory.caches import make_cache
from mnemic.memory.caches.thin import strongest

from .conftest import built


def test_a_channel_matters_by_the_product_of_norms() -> None:
    """The Frobenius norm of Q_j K_j^T, which is the part of the scores that the channel makes."""
    torch.manual_seed(0)
    q, k = torch.randn(32, 8, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    part = torch.stack([torch.outer(q[:, j], k[:, j]).norm() for j in range(8)])
    torch.testing.assert_close(part, q.norm(dim=0) * k.norm(dim=0))
    chosen = strongest(q.square().sum(0).float()[None, None], k[None, None], 5)[0, 0]
    assert set(chosen.tolist()) == set(part.topk(5).indices.tolist())
    assert chosen.tolist() == sorted(chosen.tolist())


def loop(core: Tensor, blocks: Tensor, x_TD: Tensor, recent: int, pages: int, channels: int) -> Tensor:
    """One row, one head, one layer: at each step, the past is thinned from scratch."""
    q, k, v = core.weights.project(blocks.before(x_TD)).chunk(3, -1)  # type: ignore[attr-defined]
    turn = angles(torch.arange(len(x_TD)), q.shape[-1], q.dtype)
    q, k = rotate(q, *turn), rotate(k, *turn)
    outputs = []
    for now in range(len(x_TD)):
        left = max(0, now // recent - 1)
        scores, values = [], []
        for page in range(max(0, left - pages), left):
            entries = slice(page * recent, (page + 1) * recent)
            latest = slice((page + 1) * recent, (page + 2) * recent)  # the queries before the page left
            strength = q[latest].square().sum(0) * k[entries].square().sum(0)
            keep = strength.topk(channels).indices
            scores.append(k[entries][:, keep] @ q[now, keep])
            values.append(v[entries])
        whole = slice(left * recent, now + 1)
        score = torch.cat([*scores, k[whole] @ q[now]]) / q.shape[-1] ** 0.5
        outputs.append(core.weights.out(score.softmax(0) @ torch.cat([*values, v[whole]])))  # type: ignore[attr-defined]
    return torch.stack(outputs)


def test_it_is_attention_to_a_thinned_past() -> None:
    config, core = built("transformer", width=8, heads=1, residual="none", mlp=0)
    thin = make_cache("thin", context=20, recent=4, ratio=0.4).apply(config, core, 100)
    x_TBD = torch.randn(45, 1, 8, dtype=torch.float64)
    start_TB = torch.zeros(45, 1, dtype=torch.bool)
    got, _ = thin.unroll(x_TBD, thin.initial_state(1), start_TB)
    want = loop(core.layers[0], core.blocks[0], x_TBD[:, 0], 4, 3, 5)  # type: ignore[index]
    torch.testing.assert_close(got[:, 0], want, rtol=1e-10, atol=1e-10)


def test_bytes_are_really_fewer() -> None:
    """Width 64 in 4 heads of 16: of 16 channels 6 are dropped, in all but the newest 64 of 1,024 steps."""
    config = make_config("transformer", width=64, heads=4)
    core = config.build()
    window = make_cache("window", context=1024).apply(config, core, 5_000).state_bytes(5_000)
    thin = make_cache("thin", context=1024).apply(config, core, 5_000)
    dropped, channels, power = 960 * 4 * 6 * 4, 30 * 4 * 10, 4 * 16 * 4
    assert thin.state_bytes(5_000) == window - dropped + channels + power
    assert thin.state_bytes(5_000) < 0.83 * window
    assert [thin.context_entries(steps) for steps in (0, 1, 1000, 1024, 1025, 5_000)] == [0, 1, 1000, 1024, 993, 1000]


def test_operations_are_fewer_by_the_channels_that_are_gone() -> None:
    config = make_config("transformer", width=64, heads=4)
    core = config.build()
    thin = make_cache("thin", context=1024).apply(config, core, 1024)
    full = make_cache("full").apply(config, core, 1024)
    # After 1,023 steps 30 pages are thin: 960 keys without 6 of 16 channels, at 2 operations each.
    assert full.flops_per_step(1023) - thin.flops_per_step(1023) == pytest.approx(2 * 64 * 960 * 6 / 16)
