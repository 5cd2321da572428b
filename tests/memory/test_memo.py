"""Memo and RMT against their definition, and the eight checks that follow from it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import attention
from mnemic.memory import memo
from mnemic.memory.core import count_parameters, map_state, rows
from mnemic.memory.in_step import Section, sections
from mnemic.memory.memo import Memo, MemoConfig, Notes
from mnemic.memory.transformer import TransformerConfig

SEGMENT, SUMMARIES, WIDTH = 8, 3, 12
stores = pytest.mark.parametrize("store", ["accumulate", "overwrite"])


def build(dtype: torch.dtype = torch.float64, **options: Any) -> Memo:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": WIDTH, "heads": 2, "depth": 3, "segment": SEGMENT, "summaries": SUMMARIES}
    core = MemoConfig(**sizes | options).build().to(dtype)
    assert isinstance(core, Memo)
    # Larger than at the start of training, so that summaries weigh as much as steps.
    torch.nn.init.normal_(core.tokens_PD)
    return core


def inputs(steps: int, batch: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(steps, batch, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def unroll(core: Memo, x: Tensor, state: Notes | None = None) -> tuple[Tensor, Notes]:
    batch = x.shape[1]
    never = torch.zeros(len(x), batch, dtype=torch.bool)
    return core.unroll(x, core.initial_state(batch) if state is None else state, never)


def walk(core: Memo, x: Tensor, state: Notes | None = None) -> tuple[Tensor, Notes]:
    state, never = core.initial_state(x.shape[1]) if state is None else state, torch.zeros(x.shape[1], dtype=torch.bool)
    outputs = []
    for x_BD in x:
        y, state = core.step(x_BD, state, never)
        outputs.append(y)
    return torch.stack(outputs), state


def definition(core: Memo, x_TD: Tensor) -> Tensor:
    """One trial without any cache: each segment is run from scratch, behind the vectors of the summaries before it."""

    def trunk(x: Tensor) -> Tensor:
        turn = core.layers[0].turn(torch.arange(len(x))[None])
        x = x[None]
        for layer, block in zip(core.layers, core.blocks, strict=True):
            query, kv = layer(block.before(x), turn)
            x = block.after(x, layer.join(attention(query, kv, backend="reference")))
        return core.norm(x)[0]

    memory, outputs = x_TD[:0], []
    for segment in torch.split(x_TD, SEGMENT):
        full = len(segment) == SEGMENT
        hidden = trunk(torch.cat([memory, segment, *([core.tokens_PD] if full else [])]))
        outputs.append(hidden[len(memory) : len(memory) + len(segment)])
        if full:
            new = hidden[-SUMMARIES:]
            memory = new if core.overwrite else torch.cat([memory, new])
    return torch.cat(outputs)


# Checks 0 and 1: with a cache, step by step or batched, it is the function that the definition says.


@stores
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str)
def test_both_forms_are_the_definition(store: str, dtype: torch.dtype, tolerance: float) -> None:
    """29 steps: three boundaries and a ragged end."""
    core = build(dtype, store=store)
    x = inputs(29, dtype=dtype)
    with torch.no_grad():
        want = definition(core, x[:, 0])
        for run in (walk, unroll):
            torch.testing.assert_close(run(core, x)[0][:, 0], want, rtol=tolerance, atol=tolerance)


@stores
def test_their_gradients_are_those_of_the_definition(store: str) -> None:
    core = build(store=store)
    x = inputs(29).requires_grad_()
    leaves = [x, *core.parameters()]
    weight = inputs(29, seed=1)
    want = torch.autograd.grad((definition(core, x[:, 0]) * weight[:, 0]).sum(), leaves)
    for run in (walk, unroll):
        got = torch.autograd.grad((run(core, x)[0] * weight).sum(), leaves)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


# Check 2: nothing of an earlier segment passes by its summary.


@stores
def test_the_summary_is_the_only_way_out_of_a_segment(store: str) -> None:
    core = build(store=store)
    first, other, later = inputs(SEGMENT), inputs(SEGMENT, seed=1), inputs(20, seed=2)
    one, two = (unroll(core, x)[1] for x in (first, other))
    assert not torch.allclose(unroll(core, later, one)[0][0], unroll(core, later, two)[0][0])

    def without_summary(notes: Notes) -> Notes:
        return notes._replace(kv_LB2HNK=tuple(torch.zeros_like(part) for part in notes.kv_LB2HNK))

    assert torch.equal(unroll(core, later, without_summary(one))[0], unroll(core, later, without_summary(two))[0])


def test_overwriting_reaches_back_through_the_chain_only() -> None:
    """Two trials differ in their first segment. With the last summary made equal, Memo still knows, RMT does not."""
    first, other, second, later = inputs(SEGMENT), inputs(SEGMENT, seed=1), inputs(SEGMENT, seed=2), inputs(5, seed=3)
    for store, forgets in (("overwrite", True), ("accumulate", False)):
        core = build(store=store)
        one, two = (unroll(core, torch.cat([x, second]))[1] for x in (first, other))
        last = slice(0, SUMMARIES) if store == "overwrite" else slice(SUMMARIES, 2 * SUMMARIES)
        for part, source in zip(two.kv_LB2HNK, one.kv_LB2HNK, strict=True):
            assert not torch.allclose(part[..., last, :], source[..., last, :])
            part[..., last, :] = source[..., last, :]
        assert torch.equal(unroll(core, later, one)[0], unroll(core, later, two)[0]) is forgets


# Check 3: how far gradients reach.


@stores
@pytest.mark.parametrize("reach", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("begun", [0, 5])
@pytest.mark.parametrize("form", [unroll, walk])
def test_gradients_reach_as_many_segments_back_as_asked(form: Any, begun: int, reach: int, store: str) -> None:
    """With `begun` steps taken before, segments and the windows of the unroll do not coincide."""
    core = build(store=store, summary_gradient=reach)
    past, x = inputs(begun, seed=1), inputs(5 * SEGMENT - begun).requires_grad_()
    state = unroll(core, past)[1] if begun else core.initial_state(1)
    y, _ = form(core, x, state)
    (d_x,) = torch.autograd.grad(y[-2].sum(), x)
    ends = [SEGMENT * k - begun for k in range(1, 5)]
    reached = [part.any().item() for part in torch.tensor_split(d_x, ends)]
    back = {-1: 4, 0: 0}.get(reach, reach if store == "accumulate" else 1)
    assert reached == [False] * (4 - back) + [True] * (back + 1)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_where_gradients_end_does_not_change_values(reach: int) -> None:
    x = inputs(45, 2)
    for form in (unroll, walk):
        want, got = form(build(), x)[0], form(build(summary_gradient=reach), x)[0]
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_a_reach_beyond_the_trial_still_cuts_the_way_from_summary_to_summary() -> None:
    """With two segments there is no such way, with three there is: what the first told the second's summary."""
    x = inputs(2 * SEGMENT).requires_grad_()
    full, cut = (
        torch.autograd.grad(unroll(build(summary_gradient=reach), x)[0].square().sum(), x)[0] for reach in (-1, 5)
    )
    torch.testing.assert_close(cut, full, rtol=1e-10, atol=1e-10)
    x = inputs(3 * SEGMENT).requires_grad_()
    full, cut = (
        torch.autograd.grad(unroll(build(summary_gradient=reach), x)[0].square().sum(), x)[0] for reach in (-1, 5)
    )
    assert not torch.allclose(cut[:SEGMENT], full[:SEGMENT])


# Check 4: what has been written stays as it is.


def test_summaries_are_appended() -> None:
    core, x = build(), inputs(5 * SEGMENT)
    with torch.no_grad():
        state = core.initial_state(1)
        for done in range(1, 6):
            before, (_, state) = state, unroll(core, x[(done - 1) * SEGMENT : done * SEGMENT], state)
            for old, new in zip(before.kv_LB2HNK, state.kv_LB2HNK, strict=True):
                written, added = (done - 1) * SUMMARIES, done * SUMMARIES
                assert torch.equal(old[..., :written, :], new[..., :written, :])
                assert new[..., written:added, :].all()
                assert not new[..., added:, :].any()


def test_a_full_store_drops_the_oldest_set() -> None:
    """Two sets are enough for three segments; the third summary takes the place of the first."""
    small, large, x = build(sets=2), build(sets=8), inputs(4 * SEGMENT)
    with torch.no_grad():
        y_small, y_large = unroll(small, x)[0], unroll(large, x)[0]
        torch.testing.assert_close(y_small[: 3 * SEGMENT], y_large[: 3 * SEGMENT], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(y_small[3 * SEGMENT :], y_large[3 * SEGMENT :])
        ring, whole = unroll(small, x[: 3 * SEGMENT])[1], unroll(large, x[: 3 * SEGMENT])[1]
    for part, source in zip(ring.kv_LB2HNK, whole.kv_LB2HNK, strict=True):
        first, second, third = (source[..., n * SUMMARIES : (n + 1) * SUMMARIES, :] for n in range(3))
        want = torch.cat([third, second], -2)
        torch.testing.assert_close(part[..., : 2 * SUMMARIES, :], want, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(third, first)


# Check 5: a memory belongs to the weights that wrote it.


@stores
def test_after_an_update_a_refreshed_memory_is_right_and_a_stale_one_is_not(store: str) -> None:
    core = build(store=store)
    past, later = inputs(19), inputs(6, seed=1)
    with torch.no_grad():
        _, stale = unroll(core, past)
        for part in core.parameters():
            part.add_(0.1 * torch.randn_like(part))
        _, refreshed = unroll(core, past)
        want = definition(core, torch.cat([past, later])[:, 0])[19:]
        torch.testing.assert_close(walk(core, later, refreshed)[0][:, 0], want, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(walk(core, later, stale)[0][:, 0], want, rtol=1e-3, atol=1e-3)


# Check 6: rows at different steps, with different boundaries, do not meet.


@stores
@pytest.mark.parametrize("form", ["step", "unroll"])
def test_staggered_rows_give_what_each_gives_alone(form: str, store: str) -> None:
    core, steps, batch = build(store=store), 45, 6
    x = inputs(steps, batch)
    start = torch.zeros(steps, batch, dtype=torch.bool)
    starts = [[0], [0, 3], [0, 9, 11, 12], [0, 8], [0, 15, 16, 17, 40], [0, 24, 31]]
    for row, at in enumerate(starts):
        start[at, row] = True
    with torch.no_grad():
        if form == "unroll":
            got, _ = core.unroll(x, core.initial_state(batch), start)
        else:
            state, outputs = core.initial_state(batch), []
            for x_BD, start_B in zip(x, start, strict=True):
                y, state = core.step(x_BD, state, start_B)
                outputs.append(y)
            got = torch.stack(outputs)
        for row, at in enumerate(starts):
            for first, last in zip(at, [*at[1:], steps], strict=True):
                want = definition(core, x[first:last, row])
                torch.testing.assert_close(got[first:last, row], want, rtol=1e-10, atol=1e-10)


@stores
@pytest.mark.parametrize("sets", [2, 8])
@pytest.mark.parametrize("reach", [-1, 0])
def test_a_pass_for_each_segment_is_what_windows_give_that_know_nothing(
    reach: int, sets: int, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in step, from the middle of a segment, with a new trial in between: outputs, gradients and memory."""
    core, batch, steps = build(store=store, sets=sets, summary_gradient=reach), 3, 61
    _, past = unroll(core, inputs(5 + 3 * SEGMENT, batch))
    past = map_state(torch.Tensor.detach, past)
    x = inputs(steps, batch, seed=1).requires_grad_()
    start = torch.zeros(steps, batch, dtype=torch.bool)
    start[13] = True

    def results() -> list[Tensor]:
        y, after = core.unroll(x, past, start)
        loss = (y * inputs(steps, batch, seed=2)).sum() + sum(part.square().sum() for part in after.kv_LB2HNK)
        found = torch.autograd.grad(loss, [x, *core.parameters()], allow_unused=True, materialize_grads=True)
        return [y, *after.kv_LB2HNK, after.sets_B, after.index_B, *found]

    got = results()
    unknown = Section(0, steps, (True,) * steps, in_step=False, step=0, sets=0, length=SEGMENT)
    monkeypatch.setattr(memo, "sections", lambda *_: (unknown,))
    for a, b in zip(got, results(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_window_is_divided_where_all_rows_start() -> None:
    start = torch.zeros(20, 2, dtype=torch.bool)
    start[9], start[15, 0] = True, True
    index, sets = torch.tensor([2, 3]), torch.tensor([1, 1])
    first, second = sections(index, sets, start, SEGMENT, SEGMENT)
    assert (first.begin, first.end, first.in_step) == (0, 9, False)
    assert all(first.ends)
    assert (second.begin, second.end, second.in_step) == (9, 20, False)
    start[15, 0] = False
    first, second = sections(index, sets, start, SEGMENT, SEGMENT)
    assert not first.in_step
    assert (second.in_step, second.step, second.sets) == (True, 0, 0)
    assert [time for time, ends in enumerate(second.ends) if ends] == [SEGMENT - 1]
    first, _ = sections(torch.tensor([3, 3]), sets, start, SEGMENT, SEGMENT)
    assert (first.in_step, first.step, first.sets) == (True, 3, 1)


@pytest.mark.parametrize("in_step", [True, False])
def test_a_plan_of_all_rows_serves_some(in_step: bool) -> None:
    """As a minibatch follows the plan of its window."""
    core, batch = build(), 4
    state = core.initial_state(batch)
    state.index_B.copy_(torch.tensor([3, 3, 3, 3] if in_step else [0, 5, 2, 7]))
    x, start = inputs(30, batch), torch.zeros(30, batch, dtype=torch.bool)
    plan = core.plan(state, start)
    assert len({plan, core.plan(state, start)}) == 1
    with torch.no_grad():
        want, _ = core.unroll(x, state, start)
        some = torch.tensor([2, 0])
        got, _ = core.follow(x[:, some], rows(state, some), start[:, some], plan)
    torch.testing.assert_close(got, want[:, some], rtol=1e-10, atol=1e-10)


# Acting without looks: rows that complete a segment wait to be settled.


@stores
@pytest.mark.parametrize("reach", [-1, 1])
def test_rows_settle_a_few_at_a_time(reach: int, store: str) -> None:
    core, batch = build(store=store, summary_gradient=reach), 150
    x, never = inputs(SEGMENT, batch), torch.zeros(batch, dtype=torch.bool)
    with torch.no_grad():
        _, want = walk(core, x)
        state = core.initial_state(batch)
        state.index_B[0] = 2  # this row completes its segment before the others
        for x_BD in x[:-2]:
            _, state = core.advance(x_BD, state, never)
        assert core.unsettled(state).nonzero().tolist() == [[0]]
        state = core.settle(state)
        assert not core.unsettled(state).any()
        for x_BD in x[-2:]:
            _, state = core.advance(x_BD, state, never)
        calls = 0
        while core.unsettled(state).any():
            left = core.unsettled(state).sum()
            state, calls = core.settle(state), calls + 1
            assert core.unsettled(state).sum() < left
    assert calls == 3
    assert state.index_B.tolist() == [2] + [0] * (batch - 1)
    for got_part, want_part in zip(state.kv_LB2HNK, want.kv_LB2HNK, strict=True):
        torch.testing.assert_close(got_part[1:], want_part[1:], rtol=1e-10, atol=1e-10)


# Check 7: how much is kept.


def test_context_entries() -> None:
    paper = MemoConfig(width=256, heads=8, segment=256, summaries=32, sets=125).build()
    assert isinstance(paper, Memo)
    assert [paper.context_entries(steps) for steps in (0, 255, 256, 4096, 32_000)] == [0, 255, 32, 512, 4_000]
    streaming = MemoConfig(width=256, heads=8, segment=256, summaries=32, sets=24).build()
    assert isinstance(streaming, Memo)
    assert max(streaming.context_entries(steps) for steps in range(32_000)) + 1 == 1024


@stores
def test_context_entries_are_what_the_state_holds(store: str) -> None:
    core, x = build(store=store, sets=2), inputs(30)
    state = core.initial_state(1)
    with torch.no_grad():
        for step in range(30):
            _, state = walk(core, x[step : step + 1], state)
            held = state.kv_LB2HNK[0][0, 0, 0].any(-1).sum().item()
            assert held == core.context_entries(step + 1)


# Check 8: what a step costs.


def test_the_published_cost_of_a_step() -> None:
    """The paper's trunk with its projections and heads: 74.4 and 17.5 MFLOPs on average over 32,000 steps.

    That is without writing summaries: two passes of 32 tokens each 256 steps cost a quarter of a step more.
    """
    trunk: dict[str, Any] = {"width": 256, "heads": 8, "depth": 4, "mlp": 4}
    memo = MemoConfig(**trunk, segment=256, summaries=32, sets=125).build()
    full = TransformerConfig(**trunk, context=32_000).build()
    places = range(7, 32_000, 16)
    around = 2 * count_parameters(*map(torch.nn.Linear, (576, 256, 256), (256, 256, 7)))
    for core, published in ((full, 74.4), (memo, 17.5)):
        mean = around + sum(map(core.flops_per_step, places)) / len(places)
        assert round(mean / 1e6, 1) == published
    settling = sum(map(memo.settling_flops, places)) / len(places)
    assert settling == pytest.approx(memo.flops_per_step(16_000) / 4, rel=0.02)
    assert full.settling_flops(16_000) == 0


def test_rows_of_the_notes_are_notes() -> None:
    core = build()
    _, notes = unroll(core, inputs(11, 4))
    one = rows(notes, torch.tensor([2]))
    assert isinstance(one, Notes)
    assert one.index_B.tolist() == [3]
    assert map_state(torch.clone, one).kv_LB2HNK[0].shape == (1, 2, 2, 8 * SUMMARIES + SEGMENT, 6)
