"""The laws, in short, for the cores with attention heads; options that fit no core."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory.aaren import AarenConfig
from mnemic.memory.attention import HeadsConfig
from mnemic.memory.core import Core, State, map_state, parts, rows, select
from mnemic.memory.memo import MemoConfig
from mnemic.memory.transformer import TransformerConfig

STEPS, ROWS, WIDTH = 23, 5, 8
SMALL: dict[str, Any] = {"width": WIDTH, "heads": 2, "depth": 2}
CONFIGS: dict[str, HeadsConfig] = {
    "aaren": AarenConfig(**SMALL),
    "aaren-bare": AarenConfig(**SMALL | {"residual": "none", "mlp": 0}),
    "transformer": TransformerConfig(**SMALL, context=32),
    "transformer-short": TransformerConfig(**SMALL, context=5, residual="gate", sink="kv"),
    "transformer-blind": TransformerConfig(**SMALL, context=1, sink="kv0"),
    "memo": MemoConfig(**SMALL, segment=5, summaries=3),
    "memo-capped": MemoConfig(**SMALL, segment=4, summaries=2, sets=2),
    "memo-one-back": MemoConfig(**SMALL, segment=4, summaries=2, summary_gradient=1),
    "memo-detached": MemoConfig(**SMALL, segment=4, summaries=2, summary_gradient=0, residual="gate"),
    "memo-shortest": MemoConfig(**SMALL, segment=1, summaries=1, sets=3),
    "memo-overwrite": MemoConfig(**SMALL, segment=5, summaries=3, store="overwrite"),
    "memo-bare": MemoConfig(**SMALL | {"residual": "none", "mlp": 0}, segment=5, summaries=3),
}
cores = pytest.mark.parametrize("name", CONFIGS)


def build(name: str, dtype: torch.dtype = torch.float64) -> Core:
    torch.manual_seed(0)
    return CONFIGS[name].build().to(dtype)


def scene(core: Core, dtype: torch.dtype = torch.float64) -> tuple[Tensor, State, Tensor]:
    """Inputs, a memory whose rows are at different steps of their trials, and starts here and there."""
    made = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, ROWS, WIDTH, dtype=dtype, generator=made)
    begin = torch.eye(12, ROWS, dtype=torch.bool)
    with torch.no_grad():
        _, state = core.unroll(
            torch.randn(12, ROWS, WIDTH, dtype=dtype, generator=made), core.initial_state(ROWS), begin
        )
    start = torch.rand(STEPS, ROWS, generator=made) < torch.tensor([0, 0.05, 0.1, 0.3, 0])
    return x, state, start


def walk(core: Core, x: Tensor, state: State, start: Tensor) -> tuple[Tensor, State]:
    outputs = []
    for x_BD, start_B in zip(x, start, strict=True):
        y, state = core.step(x_BD, state, start_B)
        outputs.append(y)
    return torch.stack(outputs), state


def in_pieces(core: Core, x: Tensor, state: State, start: Tensor) -> tuple[Tensor, State]:
    outputs, sizes = [], [1, 3, 9, 10]
    for x_part, start_part in zip(torch.split(x, sizes), torch.split(start, sizes), strict=True):
        y, state = core.unroll(x_part, state, start_part)
        outputs.append(y)
    return torch.cat(outputs), state


def close(got: State, want: State, tolerance: float) -> None:
    for a, b in zip(parts(got).values(), parts(want).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@cores
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=str)
def test_steps_and_pieces_are_the_unroll(name: str, dtype: torch.dtype, tolerance: float) -> None:
    core = build(name, dtype)
    x, state, start = scene(core, dtype)
    with torch.no_grad():
        whole = core.unroll(x, state, start)
        close(walk(core, x, state, start), whole, tolerance)
        close(in_pieces(core, x, state, start), whole, tolerance)


@cores
def test_gradients_are_those_of_the_steps(name: str) -> None:
    core = build(name)
    x, state, start = scene(core)
    x.requires_grad_()
    state = map_state(lambda part: part.clone().requires_grad_(part.is_floating_point()), state)
    leaves = [x, *core.parameters(), *(part for part in parts(state).values() if part.requires_grad)]

    def gradients(run: Any) -> tuple[Tensor, ...]:
        y, after = run(core, x, state, start)
        loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
        for part in parts(after).values():
            if part.requires_grad:
                loss = loss + part.square().sum()
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    def unroll(core: Core, *args: Any) -> tuple[Tensor, State]:
        return core.unroll(*args)

    want = gradients(unroll)
    assert want[0].any()
    for run in (walk, in_pieces):
        close(gradients(run), want, 1e-8)


@cores
@pytest.mark.parametrize("at", [0, 1, 7])
def test_forgetting_is_exact(name: str, at: int) -> None:
    """Two pasts of different content, size and length: after the start all is the same, bit for bit."""
    core = build(name, torch.float32)
    x, state, _ = scene(core, torch.float32)
    start = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    start[at] = True

    def run(x_TBD: Tensor, past: State) -> list[Tensor]:
        x_TBD.requires_grad_()
        past = map_state(lambda part: part.clone().requires_grad_(part.is_floating_point()), past)
        kept = [part for part in parts(past).values() if part.requires_grad]
        y, after = core.unroll(x_TBD, past, start)
        leaves = [x_TBD, *kept, *core.parameters()]
        d_x, *rest = torch.autograd.grad(y[at:].square().sum(), leaves, allow_unused=True, materialize_grads=True)
        assert not d_x[:at].any()
        assert not any(part.any() for part in rest[: len(kept)])
        return [y[at:], *parts(after).values(), d_x[at:], *rest[len(kept) :]]

    loud = x.clone()
    loud[:at] *= 1e4
    with torch.no_grad():
        _, other = core.unroll(1e3 * x[:11], core.initial_state(ROWS), torch.zeros(11, ROWS, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(run(x.clone(), state), run(loud, other), strict=True))


@cores
def test_a_broken_memory_is_forgotten(name: str) -> None:
    core = build(name, torch.float32)
    x, state, start = scene(core, torch.float32)
    start[0] = True
    broken = map_state(lambda part: part.clone().fill_(torch.nan) if part.is_floating_point() else part + 7, state)
    close(core.unroll(x, broken, start), core.unroll(x, state, start), 0)
    close(core.step(x[0], broken, start[0]), core.step(x[0], state, start[0]), 0)


@cores
def test_causal_and_rows_apart(name: str) -> None:
    core = build(name)
    x, state, start = scene(core)
    x.requires_grad_()
    y, _ = core.unroll(x, state, start)
    (d_x,) = torch.autograd.grad(y[11, 1].sum(), x)
    assert d_x[11, 1].any()
    assert not d_x[12:].any()
    assert not d_x[:, [0, 2, 3, 4]].any()

    order = torch.tensor([3, 0, 4])
    some, after = core.unroll(x[:, order], rows(state, order), start[:, order])
    close(some, y[:, order], 1e-9)
    _, whole = core.unroll(x, state, start)
    close(after, rows(whole, order), 1e-9)


@cores
def test_the_state_is_a_value_of_fixed_size(name: str) -> None:
    core = build(name)
    x, state, start = scene(core)
    before = {key: part.clone() for key, part in parts(state).items()}
    with torch.no_grad():
        core.step(x[0], state, start[0])
        core.unroll(x, state, start)
        _, after = walk(core, x, state, start)
    assert all(torch.equal(before[key], part) for key, part in parts(state).items())
    sizes = [
        sum(p[:1].numel() * p.element_size() for p in parts(some).values()) for some in (core.initial_state(1), after)
    ]
    assert sizes == [core.state_bytes(10)] * 2 == [core.state_bytes(100_000)] * 2
    fresh = core.initial_state(ROWS)
    gone = select(torch.ones(ROWS, dtype=torch.bool), fresh, after)
    assert all(torch.equal(a, b) for a, b in zip(parts(gone).values(), parts(fresh).values(), strict=True))


@cores
@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_extreme_inputs_stay_finite(name: str, scale: float) -> None:
    core = build(name, torch.float32)
    x, state, start = scene(core, torch.float32)
    x = (scale * x).requires_grad_()
    y, after = core.unroll(x, state, start)
    y.sum().backward()
    gradients = [part.grad for part in (x, *core.parameters()) if part.grad is not None]
    assert all(part.isfinite().all() for part in (y, *parts(after).values(), *gradients))


@cores
def test_bfloat16(name: str) -> None:
    core = build(name, torch.bfloat16)
    x, state, start = scene(core, torch.bfloat16)
    for run in (core.unroll, lambda *args: walk(core, *args)):
        y, after = run(x, state, start)
        assert y.dtype == torch.bfloat16
        assert y.isfinite().all()
        assert [p.dtype for p in parts(after).values()] == [p.dtype for p in parts(state).values()]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = build(name, torch.float32)
        y, after = mixed.unroll(x.float(), mixed.initial_state(ROWS), start)
        y, after = mixed.step(x[0].float(), after, start[0])
        assert y.isfinite().all()
        assert all(p.dtype != torch.bfloat16 for p in parts(after).values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AarenConfig(width=10, heads=4), "memory aaren: 4 heads cannot share a width of 10 evenly"),
        (lambda: AarenConfig(heads=0), "memory aaren: 0 heads"),
        (lambda: TransformerConfig(width=12, heads=4), "12 over 4 heads is 3 per head; rotary positions need an even"),
        (lambda: MemoConfig(width=6, heads=2), "memory memo: a width of 6 over 2 heads is 3 per head"),
        (lambda: TransformerConfig(context=0), "memory transformer: context is 0; it must be at least 1"),
        (lambda: MemoConfig(segment=0), "memory memo: segment is 0; it must be at least 1"),
        (lambda: MemoConfig(sets=0), "memory memo: sets is 0; it must be at least 1"),
        (lambda: MemoConfig(summaries=0), "memory memo: summaries is 0; it must be at least 1"),
        (lambda: MemoConfig(summary_gradient=-2), "memory memo: summary_gradient is -2; it must be at least -1"),
    ],
)
def test_options_that_fit_no_core_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
