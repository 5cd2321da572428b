"""What an agent computes while it acts, from its cache, is what learning computes in one pass; on a GPU where one is.

Each row begins its trial at another step and completes at least three segments in it, and many begin another.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory.compare import TOLERANCE
from mnemic.memory.deltanet import DeltaNetConfig
from mnemic.memory.linear_attention import BasedConfig
from mnemic.memory.memo import MemoConfig
from mnemic.memory.mlstm import MLSTMConfig
from mnemic.memory.mom import MoMConfig
from mnemic.memory.slstm import SLSTMConfig
from mnemic.memory.transformer import TransformerConfig

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEGMENT, ROWS, WIDTH = 10, 72, 64
STEPS = 7 * SEGMENT + 3
TRUNK: dict[str, Any] = {"width": WIDTH, "heads": 4, "depth": 2}
MEMO: dict[str, Any] = {**TRUNK, "segment": SEGMENT, "summaries": 3}
CORES = {
    "memo": MemoConfig(**MEMO),
    "memo, full store": MemoConfig(**MEMO, sets=2),
    "memo, two segments of gradient": MemoConfig(**MEMO, summary_gradient=2),
    "memo, noise": MemoConfig(**MEMO, depth_dropout=0.5, segment_jitter=0.2),
    "memo, direct": MemoConfig(**MEMO, reread=False),
    "RMT": MemoConfig(**MEMO, store="overwrite"),
    "transformer": TransformerConfig(**TRUNK, context=STEPS),
    "transformer, sink": TransformerConfig(**TRUNK, context=2 * SEGMENT, sink="kv0"),
    "based": BasedConfig(**TRUNK, window=SEGMENT),
    "deltanet, several writes": DeltaNetConfig(**TRUNK, gate="scalar", beta_max=2.0, steps=2, conv=4),
    "mixture of memories": MoMConfig(**TRUNK),
    "mlstm": MLSTMConfig(**TRUNK),
    "slstm": SLSTMConfig(**TRUNK),
    "transformer, episodes": TransformerConfig(**TRUNK, context=STEPS, positions="episode", episode_positions=SEGMENT),
}


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Row r begins at step r mod 2 S, and half of the rows begin again three and a half segments later."""
    made = torch.Generator().manual_seed(0)
    x, row = torch.randn(STEPS, ROWS, WIDTH, generator=made), torch.arange(ROWS)
    start, first = torch.zeros(STEPS, ROWS, dtype=torch.bool), row % (2 * SEGMENT)
    start[first, row] = True
    start[first[::2] + 3 * SEGMENT + 5, row[::2]] = True
    episode = start | (torch.rand(STEPS, ROWS, generator=made) < 0.1)
    return x.to(DEVICE), start.to(DEVICE), episode.to(DEVICE)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_acting_is_training(name: str) -> None:
    torch.manual_seed(0)
    core = CORES[name].build().to(DEVICE).eval()
    x, start, episode = scene()
    flags = (start, episode)[: 1 + core.episodic]
    want, _ = core.unroll(x, core.initial_state(ROWS), *flags)
    assert want.device.type == DEVICE.type

    state, written = core.initial_state(ROWS), torch.zeros(ROWS, device=DEVICE)
    rtol, atol = TOLERANCE[torch.float32]
    if DEVICE.type == "cuda":  # sums in another order round by the size of their terms, however small they come out
        atol *= want.abs().max().item()
    for time in range(STEPS):
        y, state = core.advance(x[time], state, *(flag[time] for flag in flags))
        torch.testing.assert_close(y, want[time], rtol=rtol, atol=atol, msg=lambda said, time=time: f"{time}: {said}")
        if core.settles:
            written += core.unsettled(state)
            while core.unsettled(state).any():
                state = core.settle(state)
    if core.settles:
        assert written.min() >= 3
