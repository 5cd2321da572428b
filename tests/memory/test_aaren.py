"""Aaren against softmax attention with a constant query, and what follows from its sums."""

import torch

from mnemic.memory.aaren import Aaren, AarenConfig
from mnemic.memory.core import parts


def test_it_is_attention_with_one_query_for_all_steps() -> None:
    torch.manual_seed(0)
    core = Aaren(6, 2).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    query, key, value = core.query(core.token).view(2, 3), core.key(x).view(40, 2, 3), core.value(x).view(40, 2, 3)
    score = torch.einsum("hk,thk->th", query, key) / 3**0.5
    want = [
        core.out(torch.einsum("th,thk->hk", score[: t + 1].softmax(0), value[: t + 1]).flatten()) for t in range(40)
    ]
    got, _ = core.unroll(x[:, None], core.initial_state(1), torch.zeros(40, 1, dtype=torch.bool))
    torch.testing.assert_close(got[:, 0], torch.stack(want), rtol=1e-10, atol=1e-10)


def test_it_has_one_vector_more_than_the_attention_it_replaces() -> None:
    """The paper's count: one learned query token per layer besides four square matrices."""
    assert sum(p.numel() for p in Aaren(512, 8).parameters()) == 4 * 512 * 512 + 512


def test_a_long_stream_in_bfloat16_still_counts() -> None:
    """The sums are float32: at step 3,000 a new value still moves the mean by its share."""
    torch.manual_seed(0)
    core = AarenConfig(width=8, heads=2).build().bfloat16()
    state, start = core.initial_state(1), torch.zeros(3000, 1, dtype=torch.bool)
    with torch.no_grad():
        _, state = core.unroll(torch.zeros(3000, 1, 8, dtype=torch.bfloat16), state, start)
    totals = next(part for name, part in parts(state).items() if "total" in name)
    torch.testing.assert_close(totals, torch.full_like(totals, 3000.0))
