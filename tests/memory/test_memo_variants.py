"""Memo's noise of learning and its summaries that are not read again, against definitions without any cache."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory import memo
from mnemic.memory.core import map_state
from mnemic.memory.in_step import Section, sections
from mnemic.memory.memo import Memo, MemoConfig, Notes
from mnemic.memory.pair import Pair

SEGMENT, SUMMARIES, WIDTH = 8, 3, 12
stores = pytest.mark.parametrize("store", ["accumulate", "overwrite"])
rereads = pytest.mark.parametrize("reread", [True, False], ids=["reread", "direct"])


def build(**options: Any) -> Memo:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": WIDTH, "heads": 2, "depth": 3, "segment": SEGMENT, "summaries": SUMMARIES}
    core = MemoConfig(**sizes | options).build().double()
    assert isinstance(core, Memo)
    torch.nn.init.normal_(core.tokens_PD)
    return core


def inputs(steps: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(steps, batch, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def never(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[:2], dtype=torch.bool)


def unroll(core: Memo, x: Tensor, state: Notes | None = None, start: Tensor | None = None) -> tuple[Tensor, Notes]:
    state = core.initial_state(x.shape[1]) if state is None else state
    return core.unroll(x, state, never(x) if start is None else start)


def walk(core: Memo, x: Tensor, state: Notes | None = None, start: Tensor | None = None) -> tuple[Tensor, Notes]:
    state = core.initial_state(x.shape[1]) if state is None else state
    outputs = []
    for x_BD, start_B in zip(x, never(x) if start is None else start, strict=True):
        y, state = core.step(x_BD, state, start_B)
        outputs.append(y)
    return torch.stack(outputs), state


def trunk(core: Memo, x_ND: Tensor, seen_NN: Tensor, kept: Tensor | None = None) -> Tensor:
    """All tokens of one row at once, at positions 0, 1, 2, ..., with nothing but a matrix of what sees what."""
    turn, x = core.layers[0].turn(torch.arange(len(x_ND))[None]), x_ND[None]  # type: ignore[operator]
    for index, (layer, block) in enumerate(zip(core.layers, core.blocks, strict=True)):
        if kept is not None and not kept[index]:
            continue
        query, kv = layer(block.before(x), turn)  # type: ignore[operator]
        score = query @ kv[:, 0].transpose(-1, -2) / query.shape[-1] ** 0.5
        read = score.masked_fill(~seen_NN, -torch.inf).softmax(-1) @ kv[:, 1]
        x = block.after(x, layer.join(read))  # type: ignore[operator]
    return core.norm(x)[0]  # type: ignore[no-any-return]


def published(core: Memo, x_TD: Tensor, length: int, kept: Callable[[int], Tensor | None] = lambda _: None) -> Tensor:
    """The training encoder of the paper: each segment behind the vectors of the summaries before it."""
    memory, outputs = x_TD[:0], []
    for number, segment in enumerate(torch.split(x_TD, length)):
        tokens = torch.cat([memory, segment, *([core.tokens_PD] if len(segment) == length else [])])
        causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
        hidden = trunk(core, tokens, causal, kept(number))
        outputs.append(hidden[len(memory) : len(memory) + len(segment)])
        new = hidden[len(memory) + len(segment) :]
        memory = new if core.overwrite and len(new) else torch.cat([memory, new])
    return torch.cat(outputs)


def direct(core: Memo, x_TD: Tensor, ends: list[int]) -> Tensor:
    """Without a second pass: one sequence of steps with tokens after each segment, and a matrix of what sees what.

    `ends`: before which steps a segment is complete. Steps see those of their segment and the tokens of earlier ones.
    """
    tokens, segment, is_step = [], [], []
    for number, (first, last) in enumerate(pairwise([0, *ends, len(x_TD)])):
        steps, added = last - first, SUMMARIES if last in ends else 0
        tokens += [x_TD[first:last], core.tokens_PD[:added]]
        segment += [number] * (steps + added)
        is_step += [True] * steps + [False] * added
    of, step = torch.tensor(segment), torch.tensor(is_step)
    age = of[:, None] - of
    seen = (age == 0) | ((age <= core.sets) & ~step)
    return trunk(core, torch.cat(tokens), seen & torch.ones_like(seen).tril())[step]


# Summaries that are not read again.


@stores
@pytest.mark.parametrize("sets", [2, 8])
@pytest.mark.parametrize("reach", [-1, 1])
def test_without_a_second_pass_both_forms_are_the_definition(reach: int, sets: int, store: str) -> None:
    core, x = build(store=store, sets=sets, reread=False, summary_gradient=reach), inputs(37)
    with torch.no_grad():
        want = direct(core, x[:, 0], [8, 16, 24, 32])
        for run in (walk, unroll):
            torch.testing.assert_close(run(core, x)[0][:, 0], want, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(unroll(build(store=store, sets=sets), x)[0][:, 0], want)


@stores
def test_their_gradients_are_those_of_the_definition(store: str) -> None:
    core, x = build(store=store, reread=False), inputs(29).requires_grad_()
    leaves, weight = [x, *core.parameters()], inputs(29, seed=1)
    want = torch.autograd.grad((direct(core, x[:, 0], [8, 16, 24]) * weight[:, 0]).sum(), leaves)
    for run in (walk, unroll):
        got = torch.autograd.grad((run(core, x)[0] * weight).sum(), leaves)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@stores
@pytest.mark.parametrize("reach", [-1, 0, 1, 2])
@pytest.mark.parametrize("form", [unroll, walk])
def test_their_gradients_reach_as_far_as_asked(form: Any, reach: int, store: str) -> None:
    """From summary to summary it goes a layer down, so three layers pass on what overwritten summaries knew twice."""
    core, x = build(store=store, reread=False, summary_gradient=reach), inputs(5 * SEGMENT).requires_grad_()
    (d_x,) = torch.autograd.grad(form(core, x)[0][-2].sum(), x)
    reached = [part.any().item() for part in torch.split(d_x, SEGMENT)]
    back = {-1: 4 if store == "accumulate" else 2, 0: 0}.get(reach, reach if store == "accumulate" else 1)
    assert reached == [False] * (4 - back) + [True] * (back + 1)


# Segments of a drawn length.


def drawn(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Let what is drawn lead to a length, for a jitter of a half."""
    monkeypatch.setattr(memo.torch, "rand", lambda *_, **__: torch.tensor((length / SEGMENT - 0.5 + 1e-6).__float__()))


def jittered(**options: Any) -> Memo:
    return build(segment_jitter=0.5, **options).train()


@stores
@pytest.mark.parametrize("length", [5, 8, 11])
def test_rows_from_a_fresh_start_learn_as_published(length: int, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, length)
    for reach in (-1, 1):  # in passes of a segment, and in windows
        core, x = jittered(store=store, summary_gradient=reach), inputs(41, 2)
        with torch.no_grad():
            got, after = unroll(core, x)
            for row in range(2):
                want = published(core, x[:, row], length)
                torch.testing.assert_close(got[:, row], want, rtol=1e-10, atol=1e-10)
            fixed = published(core, x[:, 0], SEGMENT)
            torch.testing.assert_close(unroll(core.eval(), x)[0][:, 0], fixed, rtol=1e-10, atol=1e-10)
        assert (after.index_B < SEGMENT).all()
        assert after.kv_LB2HNK[0].shape == core.initial_state(2).kv_LB2HNK[0].shape


@pytest.mark.parametrize("length", [5, 8, 11])
def test_without_a_second_pass_positions_go_on_from_drawn_lengths(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the middle of a segment, which keeps its length; positions are those of a sequence without gaps."""
    drawn(monkeypatch, length)
    for reach in (-1, 1):
        core, x = jittered(reread=False, summary_gradient=reach), inputs(50)
        with torch.no_grad():
            _, state = unroll(core.eval(), x[:19])
            got, _ = unroll(core.train(), x[19:], state)
            ends = [8, 16, *range(24, 50, length)]
            torch.testing.assert_close(got[:, 0], direct(core, x[:, 0], ends)[19:], rtol=1e-10, atol=1e-10)


@stores
@rereads
@pytest.mark.parametrize("length", [5, 8, 11])
def test_rows_out_of_step_learn_what_each_learns_alone(
    length: int, reread: bool, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(monkeypatch, length)
    core, steps, batch = jittered(store=store, reread=reread), 47, 6
    x, start = inputs(steps, batch), torch.zeros(steps, batch, dtype=torch.bool)
    for row, at in enumerate([[], [0], [9, 11, 12], [8], [15, 16, 17, 40], [24, 31]]):
        start[at, row] = True
    with torch.no_grad():
        pasts = [unroll(core.eval(), inputs(past, seed=2))[1] for past in (1, 3, 7, 8, 21, 30)]
        state = map_state(lambda *rows: torch.cat(rows), *pasts)
        core.train()
        got, _ = unroll(core, x, state, start)
        for row, past in enumerate(pasts):
            own = slice(row, row + 1)
            want, _ = unroll(core, x[:, own], past, start[:, own])
            torch.testing.assert_close(got[:, own], want, rtol=1e-10, atol=1e-10)
    assert sections(state.index_B, state.sets_B, start, SEGMENT, length)[0].in_step is False


@rereads
@pytest.mark.parametrize("length", [5, 8, 11])
@pytest.mark.parametrize("begun", [0, 1, 7])
def test_drawn_or_not_a_pass_for_each_segment_is_what_windows_give(
    begun: int, length: int, reread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(monkeypatch, length)
    core, steps = jittered(reread=reread), 40
    with torch.no_grad():
        _, past = unroll(core.eval(), inputs(2 * SEGMENT + begun, 2))
        core.train()
        x, start = inputs(steps, 2, seed=1), torch.zeros(steps, 2, dtype=torch.bool)
        start[23] = True
        (first, second) = core.plan(past, start)  # type: ignore[misc]
        ends = [time for time, ends in enumerate(first.ends) if ends]
        assert ends == list(range(SEGMENT - begun - 1 if begun else length - 1, 23, length))
        assert [time for time, ends in enumerate(second.ends) if ends] == list(range(length - 1, 17, length))
        want, after = unroll(core, x, past, start)
        unknown = Section(0, steps, (True,) * steps, in_step=False, step=0, sets=0, length=length)
        monkeypatch.setattr(memo, "sections", lambda *_: (unknown,))
        got, left = unroll(core, x, past, start)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        for a, b in zip(left.kv_LB2HNK, after.kv_LB2HNK, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_lengths_are_drawn_as_published_once_for_a_pass_and_only_in_learning() -> None:
    """A fifth of 256: 204 to 307 steps, evenly."""
    core = MemoConfig(width=8, heads=2, depth=1, segment=256, summaries=2, segment_jitter=0.2).build()
    state, start = core.initial_state(3), torch.zeros(1, 3, dtype=torch.bool)

    def lengths(times: int) -> list[int]:
        return [core.plan(state, start)[0].length for _ in range(times)]  # type: ignore[index]

    torch.manual_seed(0)
    seen = lengths(5_000)
    assert (min(seen), max(seen)) == (204, 307)
    assert sum(seen) / len(seen) == pytest.approx(255.5, abs=2)
    torch.manual_seed(0)
    assert lengths(10) == seen[:10]
    core.eval()
    assert set(lengths(10)) == {256}
    assert core.draws_plans
    assert not MemoConfig().build().draws_plans
    assert Pair(MemoConfig().build(), core).draws_plans


# Layers that are left out.


@stores
def test_a_pass_leaves_whole_layers_out(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three segments and a ragged end are four passes, each with layers of its own; nothing is scaled up.

    What is left out of a pass is left out of reading the summary that the pass begins with, too.
    """
    one, two, three, four = passes = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]]).bool()
    core, x = build(store=store, depth_dropout=0.5), inputs(29, 2)
    monkeypatch.setattr(core, "_draw", lambda _: next(queue))
    with torch.no_grad():
        queue = iter(passes)
        want, _ = unroll(core, x)
        assert not list(queue)
        if store == "overwrite":  # one summary is read, with the segment after it, here as in the paper
            for row in range(2):
                defined = published(core, x[:, row], SEGMENT, lambda number: passes[number])
                torch.testing.assert_close(want[:, row], defined, rtol=1e-10, atol=1e-10)
        # Windows that know nothing: the layers of a window, and those of what may follow a summary in it.
        queue = iter([one, two, two, three, three, four, four, four])
        monkeypatch.setattr(memo, "sections", lambda *_: (Section(0, 29, (True,) * 29, False, 0, 0, SEGMENT),))
        torch.testing.assert_close(unroll(core, x)[0], want, rtol=1e-10, atol=1e-10)
        assert not list(queue)


def test_where_all_layers_are_left_out_a_step_goes_through_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    core, x = build(depth_dropout=0.5), inputs(29, 2)
    monkeypatch.setattr(core, "_draw", lambda _: torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(unroll(core, x)[0], core.norm(x))


@pytest.mark.parametrize("reach", [-1, 1])
def test_noise_is_for_learning(reach: int) -> None:
    noisy, quiet = build(depth_dropout=0.5, summary_gradient=reach), build(summary_gradient=reach)
    x, start = inputs(29, 2), never(inputs(29, 2))
    start[5, 0] = True
    with torch.no_grad():
        want = unroll(quiet, x, start=start)[0]
        assert not torch.allclose(unroll(noisy, x, start=start)[0], want)
        torch.testing.assert_close(walk(noisy, x, start=start)[0], want, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(unroll(noisy.eval(), x, start=start)[0], want, rtol=1e-10, atol=1e-10)
    for seed in range(3):
        torch.manual_seed(seed)
        one = unroll(noisy.train(), x, start=start)[0]
        torch.manual_seed(seed)
        assert torch.equal(one, unroll(noisy, x, start=start)[0])
