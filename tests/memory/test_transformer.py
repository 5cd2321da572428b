"""The transformer core against plain attention over the whole trial."""

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import angles, rotate
from mnemic.memory.core import parts
from mnemic.memory.transformer import AttentionLayer, Sink, TransformerConfig


def plain(core: AttentionLayer, x_TD: Tensor) -> Tensor:
    """One row and one trial, with nothing but a T x T matrix of scores."""
    steps, heads = len(x_TD), core.weights.heads
    q, k, v = core.weights.project(x_TD).view(steps, 3, heads, -1).permute(1, 2, 0, 3)
    time = torch.arange(steps)
    cosine, sine = angles(time, q.shape[-1], q.dtype)
    q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
    score = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    seen = (time <= time[:, None]) & (time > time[:, None] - core.context)
    score = score.masked_fill(~seen, -torch.inf)
    if core.sink != "none":
        key, value = (
            torch.zeros(heads, q.shape[-1]).to(q) if p is None else p for p in (core.sink_key, core.sink_value)
        )
        score = torch.cat([(q @ key[..., None]) / q.shape[-1] ** 0.5, score], -1)
        v = torch.cat([value[:, None], v], 1)
    return core.weights.out((score.softmax(-1) @ v).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("sink", ["none", "kv", "kv0", "k0v", "k0v0"])
@pytest.mark.parametrize("context", [1, 4, 20, 100])
def test_rows_at_different_steps_see_their_own_trials(context: int, sink: Sink) -> None:
    torch.manual_seed(0)
    core = AttentionLayer(8, 2, context, sink).double()
    for part in (core.sink_key, core.sink_value):
        if part is not None:
            torch.nn.init.normal_(part)
    x = torch.randn(30, 3, 8, dtype=torch.float64)
    start = torch.zeros(30, 3, dtype=torch.bool)
    starts = [[0], [0, 11], [0, 3, 4, 25]]
    for row, at in enumerate(starts):
        start[at, row] = True
    state, pieces = core.initial_state(3), []
    for x_part, start_part in zip(torch.split(x, [7, 1, 22]), torch.split(start, [7, 1, 22]), strict=True):
        y, state = core.unroll(x_part, state, start_part)
        pieces.append(y)
    got = torch.cat(pieces)
    for row, at in enumerate(starts):
        for first, last in zip(at, [*at[1:], 30], strict=True):
            torch.testing.assert_close(got[first:last, row], plain(core, x[first:last, row]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sink", ["kv", "kv0", "k0v", "k0v0"])
def test_a_sink_begins_as_softmax_with_one_in_the_denominator(sink: Sink) -> None:
    """A first step sees itself and the sink: with score s it takes exp(s) / (1 + exp(s)) of its value."""
    torch.manual_seed(0)
    core = AttentionLayer(4, 1, 8, sink).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    q, k, v = core.weights.project(x).view(3, 4)
    y, _ = core.step(x, core.initial_state(1), torch.tensor([True]))
    torch.testing.assert_close(y[0], core.weights.out(torch.sigmoid(q @ k / 2) * v))


@pytest.mark.parametrize(
    ("sink", "learned"), [("none", 0), ("kv", 2), ("kv0", 1), ("k0v", 1), ("k0v0", 0)], ids=lambda value: str(value)
)
def test_what_a_sink_learns(sink: Sink, learned: int) -> None:
    """As many vectors of a head as it has parts that are not fixed at 0; once apart from 0, all have gradients."""
    core = AttentionLayer(8, 2, 4, sink)
    found = [part for name, part in core.named_parameters() if "sink" in name]
    assert [part.shape for part in found] == [(2, 4)] * learned
    for part in found:
        torch.nn.init.normal_(part)
    x, start = torch.randn(5, 1, 8), torch.zeros(5, 1, dtype=torch.bool)
    core.unroll(x, core.initial_state(1), start)[0].sum().backward()
    assert all(part.grad is not None and part.grad.any() for part in found)


def test_gradients_reach_into_the_carried_ring() -> None:
    torch.manual_seed(0)
    core = TransformerConfig(width=8, heads=2, context=6).build()
    x, start = torch.randn(9, 1, 8, requires_grad=True), torch.zeros(9, 1, dtype=torch.bool)
    _, state = core.unroll(x[:7], core.initial_state(1), start[:7])
    y, _ = core.unroll(x[7:], state, start[7:])
    (d_x,) = torch.autograd.grad(y[-1].sum(), x)
    assert d_x.flatten(1).any(1).tolist() == [False] * 3 + [True] * 6


def test_far_into_a_trial_it_computes_the_same() -> None:
    """Only distances count: after a million steps the same last steps give the same output."""
    torch.manual_seed(0)
    core = AttentionLayer(8, 2, 8).double()
    x, start = torch.randn(12, 1, 8, dtype=torch.float64), torch.zeros(12, 1, dtype=torch.bool)
    near, _ = core.unroll(x, core.initial_state(1), start)
    fresh = core.initial_state(1)
    far, after = core.unroll(x, fresh._replace(seen_B=fresh.seen_B + 1_000_003), start)
    torch.testing.assert_close(far[8:], near[8:], rtol=1e-8, atol=1e-8)
    assert parts(after)["seen_B"].item() == 1_000_015
