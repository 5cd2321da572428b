"""The softmax scan: the definition against a plain softmax, the chunks against the definition."""

import pytest
import torch
from torch import Tensor

from mnemic.kernels.softmax_scan import OP, Sums, softmax_scan
from mnemic.kernels.softmax_scan.reference import fresh

SHAPES = [(1, 1, 1, 1), (31, 3, 2, 5), (32, 2, 1, 4), (33, 4, 2, 3), (97, 3, 2, 4)]


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Sums, Tensor]:
    steps, batch, heads, width = shape
    made = torch.Generator().manual_seed(sum(shape))
    score = 3 * torch.randn(steps, batch, heads, dtype=dtype, generator=made)
    value = torch.randn(shape, dtype=dtype, generator=made)
    start = torch.rand(steps, batch, generator=made) < torch.linspace(0, 0.3, batch)
    past = torch.randn(5, batch, heads, width, dtype=dtype, generator=made)
    _, sums = softmax_scan(
        past[..., 0], past, fresh(batch, heads, width, past), torch.zeros(5, batch, dtype=torch.bool)
    )
    return score, value, sums, start


@pytest.mark.parametrize("backend", OP.backends)
def test_it_is_the_softmax_over_the_steps_since_the_start(backend: str) -> None:
    score, value, _, start = inputs((40, 3, 2, 5))
    got, _ = softmax_scan(score, value, fresh(3, 2, 5, value), start, backend)
    for row in range(3):
        first = 0
        for t in range(40):
            first = t if start[t, row] else first
            weight = score[first : t + 1, row].softmax(0)
            want = (weight[..., None] * value[first : t + 1, row]).sum(0)
            torch.testing.assert_close(got[t, row], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chunks_match_the_reference(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    score, value, sums, start = inputs(shape, dtype)
    leaves = [leaf.detach().requires_grad_() for leaf in (score, value, *sums)]

    def run(backend: str) -> list[Tensor]:
        mean, after = softmax_scan(leaves[0], leaves[1], Sums(*leaves[2:]), start, backend)
        weight = torch.linspace(-1, 1, mean.numel(), dtype=dtype).view_as(mean)
        loss = (mean * weight).sum() + after.total_BH.sum() + after.weighted_BHK.square().sum()
        return [mean, *after, *torch.autograd.grad(loss, leaves)]

    tolerance = {torch.float64: 1e-11, torch.float32: 1e-4}[dtype]
    names = ["mean", *Sums._fields, "d_score", "d_value", *(f"d_{name}" for name in Sums._fields)]
    for name, got, want in zip(names, run("chunked"), run("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("backend", OP.backends)
@pytest.mark.parametrize("scale", [1e4, -1e4, 1e30])
def test_no_score_is_too_large(backend: str, scale: float) -> None:
    """Rising, falling and constant scores, in float32: the heaviest step wins, nothing overflows."""
    value = torch.arange(40.0).view(40, 1, 1, 1).expand(40, 1, 3, 1)
    ramp = torch.arange(40.0)[:, None] * scale
    score = torch.cat([ramp, -ramp, torch.full((40, 1), scale)], 1)[:, None].requires_grad_()
    mean, sums = softmax_scan(score, value, fresh(1, 3, 1, value), torch.zeros(40, 1, dtype=torch.bool), backend)
    rising, falling = (0, 1) if scale > 0 else (1, 0)
    assert mean[-1, 0, rising] == 39
    assert mean[-1, 0, falling] == 0
    torch.testing.assert_close(mean[-1, 0, 2], torch.tensor([19.5]))
    mean.sum().backward()
    assert all(part.isfinite().all() for part in (mean, *sums, score.grad))


@pytest.mark.parametrize("backend", OP.backends)
@pytest.mark.parametrize("at", [0, 1, 20])
def test_a_start_leaves_no_trace_of_the_past(backend: str, at: int) -> None:
    score, value, sums, _ = inputs((40, 2, 2, 3), torch.float32)
    start = torch.zeros(40, 2, dtype=torch.bool)
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


def test_an_unknown_backend_is_refused() -> None:
    score, value, sums, start = inputs((1, 1, 1, 1))
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of chunked, reference"):
        softmax_scan(score, value, sums, start, "cuda")
