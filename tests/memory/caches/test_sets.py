"""Summaries of memo under a rule: which sets stay, against evictions worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory.caches import make_cache

from .conftest import built


def known(marked: dict[int, Tensor], kv: Tensor) -> list[int]:
    return [segment for segment, seen in marked.items() if torch.equal(seen, kv)]


def kept(
    name: str, segments: int, surprise: dict[int, float] | None = None, *, late: bool = True, **options: Any
) -> list[list[int]]:
    """Return the segments whose summaries one row keeps after each, the oldest first.

    They are told by their keys and values, which never change. Surprise is told after summaries are written, or before.
    """
    config, core = built("memo", width=4, segment=3, summaries=2)
    steps = 3 * segments
    x_TBD = torch.randn(steps, 1, 4, dtype=torch.float64)
    cache = make_cache(name, **options).apply(config, core, steps)
    state, found = cache.initial_state(1), []
    marked: dict[int, Tensor] = {}

    def sets() -> list[Tensor]:
        kv_B2HNK = state.notes.kv_LB2HNK[0]
        return [kv_B2HNK[..., 2 * place : 2 * place + 2, :].clone() for place in range(cache.memo.sets)]  # type: ignore

    for time, x_BD in enumerate(x_TBD):
        _, state = cache.advance(x_BD, state, torch.tensor([time == 0]), torch.tensor([False]))  # type: ignore[call-arg]
        told = torch.tensor([(surprise or {}).get(time, 0.0)])
        if cache.judges and not late:
            state = cache.judge(state, told)
        if bool(cache.unsettled(state).any()):
            state = cache.settle(state)
            (marked[time // 3],) = [kv for kv in sets() if kv.any() and not known(marked, kv)]
        if cache.judges and late:
            state = cache.judge(state, told)
        if time % 3 == 2:
            ranks = {rank: kv for rank, kv in zip(state.ledger.rank_BS[0].tolist(), sets(), strict=True) if rank >= 0}
            found.append([known(marked, ranks[rank])[0] for rank in sorted(ranks)])
    return found


def test_the_first_set_is_a_sink() -> None:
    found = kept("sinks", 6, context=3 + 3 * 2, sinks=1)
    assert found == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]


@pytest.mark.parametrize("late", [True, False])
def test_the_set_with_the_most_surprising_step_stays(late: bool) -> None:
    """Surprises at steps 4 (segment 1) and 11 (the last of segment 3)."""
    options = {"context": 3 + 3 * 2, "sinks": 0, "recent": 1, "decay": 1.0}
    found = kept("surprise", 7, {4: 5.0, 11: 7.0, 13: 6.0}, late=late, **options)
    # Before set 3: 0 (0) goes. Before 4: 2 (0), as 1 has 5. Before 5: 1 (5), as 3 has 7. Before 6: 4 (6).
    assert found == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [1, 3, 4], [3, 4, 5], [3, 5, 6]]


def test_without_judgements_the_oldest_set_goes_and_a_surprise_that_is_not_a_number_is_none() -> None:
    options = {"context": 3 + 3 * 2, "sinks": 0, "recent": 1}
    found = kept("surprise", 6, dict.fromkeys(range(18), math.nan), **options)
    assert found[-1] == [3, 4, 5]


def test_scores_of_sets_decay_by_steps() -> None:
    """Segment 0 has 5, segment 2 has 1: after a round of 9 steps 0 has 0.5, and 2 outlives it."""
    options = {"context": 3 + 3 * 2, "sinks": 0, "recent": 1}
    surprise = {1: 5.0, 10: 1.0}
    assert kept("surprise", 6, surprise, decay=1.0, **options)[-1] == [0, 4, 5]
    assert kept("surprise", 6, surprise, decay=0.1, round_steps=9, **options)[-1] == [3, 4, 5]
