"""The softmax scan: the definition against a plain softmax, every backend against the definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.softmax_scan import Sums, softmax_scan
from mnemic.kernels.softmax_scan.reference import fresh

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1, 1), (31, 3, 2, 5), (32, 2, 1, 4), (33, 4, 2, 3), (97, 3, 2, 4)]
INTERPRETED = 9
"""Steps that are enough for Triton, whose interpreter takes many milliseconds for each."""


def enough(backend: str, wanted: int) -> int:
    return min(wanted, INTERPRETED) if backend == "triton" and DEVICE == "cpu" else wanted


@pytest.fixture(params=["triton", "triton tiles", "loop", "chunked", "reference"])
def backend(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every backend; Triton takes one step at a time or several, by the sizes, and both are tried at small ones."""
    name, *tiles = request.param.split()
    if name == "triton":
        triton = pytest.importorskip("mnemic.kernels.softmax_scan.triton")
        real = triton.walk
        steps, rows = (4, 1) if tiles else (1, 2)
        monkeypatch.setattr(triton, "walk", lambda *sizes: real(*sizes)._replace(steps=steps, rows=rows))
    return str(name)


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Sums, Tensor]:
    steps, batch, heads, width = shape
    made = torch.Generator().manual_seed(sum(shape))
    score = 3 * torch.randn(steps, batch, heads, dtype=dtype, generator=made)
    value = torch.randn(shape, dtype=dtype, generator=made)
    start = torch.rand(steps, batch, generator=made) < torch.linspace(0, 0.3, batch)
    past = torch.randn(5, batch, heads, width, dtype=dtype, generator=made).to(DEVICE)
    never = torch.zeros(5, batch, dtype=torch.bool, device=DEVICE)
    _, sums = softmax_scan(past[..., 0], past, fresh(batch, heads, width, past), never, "reference")
    return score.to(DEVICE), value.to(DEVICE), sums, start.to(DEVICE)


def test_it_is_the_softmax_over_the_steps_since_the_start(backend: str) -> None:
    length = enough(backend, 40)
    score, value, _, start = inputs((length, 3, 2, 5))
    got, _ = softmax_scan(score, value, fresh(3, 2, 5, value), start, backend)
    for row in range(3):
        first = 0
        for t in range(length):
            first = t if start[t, row] else first
            weight = score[first : t + 1, row].softmax(0)
            want = (weight[..., None] * value[first : t + 1, row]).sum(0)
            torch.testing.assert_close(got[t, row], want, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_state_and_gradients(backend: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    score, value, sums, start = inputs((enough(backend, shape[0]), *shape[1:]), dtype)
    leaves = [leaf.detach().requires_grad_() for leaf in (score, value, *sums)]

    def run(backend: str) -> list[Tensor]:
        mean, after = softmax_scan(leaves[0], leaves[1], Sums(*leaves[2:]), start, backend)
        weight = torch.linspace(-1, 1, mean.numel(), dtype=dtype, device=DEVICE).view_as(mean)
        loss = (mean * weight).sum() + after.total_BH.sum() + after.weighted_BHK.square().sum()
        return [mean, *after, *torch.autograd.grad(loss, leaves)]

    tolerance = {torch.float64: 1e-11, torch.float32: 1e-4}[dtype]
    names = ["mean", *Sums._fields, "d_score", "d_value", *(f"d_{name}" for name in Sums._fields)]
    for name, got, want in zip(names, run(backend), run("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("scale", [1e4, -1e4, 1e30])
def test_no_score_is_too_large(backend: str, scale: float) -> None:
    """Rising, falling and constant scores, in float32: the heaviest step wins, nothing overflows."""
    length = enough(backend, 40)
    ramp = torch.arange(float(length), device=DEVICE)[:, None]
    value = ramp[..., None, None].expand(length, 1, 3, 1)
    ramp = ramp * scale
    score = torch.cat([ramp, -ramp, torch.full_like(ramp, scale)], 1)[:, None].requires_grad_()
    never = torch.zeros(length, 1, dtype=torch.bool, device=DEVICE)
    mean, sums = softmax_scan(score, value, fresh(1, 3, 1, value), never, backend)
    rising, falling = (0, 1) if scale > 0 else (1, 0)
    assert mean[-1, 0, rising] == length - 1
    assert mean[-1, 0, falling] == 0
    torch.testing.assert_close(mean[-1, 0, 2].cpu(), torch.tensor([(length - 1) / 2]))
    mean.sum().backward()
    assert all(part.isfinite().all() for part in (mean, *sums, score.grad))


@pytest.mark.parametrize("at", [0, 1, 5, 20])
def test_a_start_leaves_no_trace_of_the_past(backend: str, at: int) -> None:
    length = max(at + 2, enough(backend, 40))
    score, value, sums, _ = inputs((length, 2, 2, 3), torch.float32)
    start = torch.zeros(length, 2, dtype=torch.bool, device=DEVICE)
    start[at] = True

    def run(past: float) -> list[Tensor]:
        mixed = [leaf.clone() for leaf in (score, value)]
        for leaf in mixed:
            leaf[:at] *= past
        leaves = [leaf.requires_grad_() for leaf in (*mixed, *(part * past for part in sums))]
        mean, after = softmax_scan(leaves[0], leaves[1], Sums(*leaves[2:]), start, backend)
        gradients = torch.autograd.grad(mean[at:].square().sum() + after.weighted_BHK.sum(), leaves)
        assert not any(part.any() for part in (gradients[0][:at], gradients[1][:at], *gradients[2:]))
        return [mean[at:], *after, gradients[0][at:], gradients[1][at:]]

    assert all(torch.equal(a, b) for a, b in zip(run(1.0), run(1e4), strict=True))


@pytest.mark.usefixtures("poison")
def test_values_in_half_precision_with_sums_in_full(backend: str, close: Any) -> None:
    score, value, sums, start = inputs((9, 3, 2, 5), torch.float32)
    leaves = [leaf.requires_grad_() for leaf in (score, value.bfloat16())]

    def run(name: str) -> list[Tensor]:
        mean, after = softmax_scan(*leaves, sums, start, name)
        return [mean, *after, *torch.autograd.grad(mean.square().sum(), leaves)]

    for name, got, want in zip(
        ["mean", *Sums._fields, "d_score", "d_value"], run(backend), run("reference"), strict=True
    ):
        close(name, got, want)


def test_a_memory_of_nan_is_forgotten(backend: str) -> None:
    score, value, sums, start = inputs((5, 2, 2, 3), torch.float32)
    start[0] = True
    nan = [torch.full_like(part, torch.nan).requires_grad_() for part in sums]
    leaves = [score.requires_grad_(), value.requires_grad_()]
    results = []
    for memory in (sums, Sums(*nan)):
        mean, after = softmax_scan(*leaves, memory, start, backend)
        results.append([mean, *after, *torch.autograd.grad(mean.square().sum(), leaves, retain_graph=True)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not any(part.any() for part in torch.autograd.grad(mean.square().sum(), nan))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("shape", [(16, 4, 2, 32), (4, 2048, 2, 64), (1, 64, 4, 16)], ids=str)
def test_it_can_be_captured_in_a_graph(shape: tuple[int, int, int, int]) -> None:
    score, value, sums, start = inputs(shape, torch.float32)
    leaves = [leaf.detach().requires_grad_() for leaf in (score, value, *sums)]

    def run() -> list[Tensor]:
        mean, after = softmax_scan(leaves[0], leaves[1], Sums(*leaves[2:]), start, "triton")
        return [mean, *after, *torch.autograd.grad(mean.square().sum() + after.total_BH.sum(), leaves)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [part.detach() for part in run()]  # what led to them is of the recording's stream, and goes
    with torch.no_grad():
        leaves[0].mul_(0.5)
        leaves[1].add_(1)
        start.logical_not_()
    graph.replay()
    for got, want in zip(results, run(), strict=True):
        torch.testing.assert_close(got, want)


def test_an_unknown_backend_is_refused() -> None:
    score, value, sums, start = inputs((1, 1, 1, 1))
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of triton, loop, chunked, reference"):
        softmax_scan(score, value, sums, start, "cuda")
