"""What a step is said to cost is what torch counts when it takes one."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mnemic.kernels import decode_attention, delta_rule, segment_attention
from mnemic.memory import MEMORIES, make_config
from mnemic.memory.core import Core
from mnemic.memory.pair import Pair

WIDTH, STEPS, ROWS = 32, 15, 64
OPTIONS: dict[str, dict[str, Any]] = {
    "transformer": {"context": STEPS + 1, "sink": "kv"},
    "memo": {"segment": 8, "summaries": 4, "sets": 1},
    "gtrxl": {"context": STEPS},
    "agalite": {"expand": 2},
    "rat": {"chunk": 4, "chunks": 3},
    "based": {"window": STEPS + 1},
}
# The recurrence of a scan is no product that torch counts: memories so small that it hardly costs.
SMALL: dict[str, dict[str, Any]] = {"s4d": {"modes": 1}, "shm": {"size": 8}, "ffm": {"traces": 8}}


def build(name: str) -> Core:
    torch.manual_seed(0)
    options = OPTIONS.get(name, {}) | SMALL.get(name, {})
    return make_config(name, width=WIDTH, depth=2, residual="add", mlp=2, **options).build()


@torch.no_grad()
def counted(core: Core, steps: int) -> float:
    """The products of one step, by row; all entries that there is room for are held by then."""
    core.requires_grad_(False)
    x, state = torch.randn(steps + 1, ROWS, WIDTH), core.initial_state(ROWS)
    start = torch.zeros(ROWS, dtype=torch.bool)
    for x_BD in x[:-1]:
        _, state = core.step(x_BD, state, start)
    with FlopCounterMode(display=False) as counter:
        core.step(x[-1], state, start)
    return counter.get_total_flops() / ROWS


@pytest.mark.parametrize("name", MEMORIES)
def test_a_step_costs_what_it_is_said_to_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for biases, norms and gates, which are not products. Torch does not count fused attention."""
    for op in (decode_attention.OP, segment_attention.OP):
        monkeypatch.setattr(op, "_preferred", "reference")
    monkeypatch.setattr(delta_rule.OP, "_preferred", "chunked")  # the definition has sums in place of products
    core = build(name)
    settling = core.settling_flops(STEPS) * OPTIONS["memo"]["segment"]
    assert core.flops_per_step(STEPS) + settling == pytest.approx(counted(core, STEPS), rel=0.05)


def test_two_cores_cost_what_both_cost() -> None:
    one, other = build("memo"), build("transformer")
    pair = Pair(one, other)
    for ask in ("flops_per_step", "settling_flops", "context_entries"):
        assert getattr(pair, ask)(STEPS) == getattr(one, ask)(STEPS) + getattr(other, ask)(STEPS)


@pytest.mark.parametrize("name", sorted(set(MEMORIES) - (set(OPTIONS) - {"agalite"})))
def test_a_constant_memory_has_no_entries_and_one_price(name: str) -> None:
    core = build(name)
    assert core.context_entries(1_000_000) == 0
    assert core.flops_per_step(1_000_000) == core.flops_per_step(0)


def test_a_ring_fills_up() -> None:
    core = make_config("transformer", width=WIDTH, context=64).build()
    assert [core.context_entries(steps) for steps in (0, 10, 64, 1_000)] == [0, 10, 64, 64]
    assert core.flops_per_step(11) - core.flops_per_step(10) == 4 * WIDTH
    assert core.flops_per_step(64) == core.flops_per_step(63)
