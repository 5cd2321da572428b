"""The linear scan: the definition against numbers worked out by hand, every backend against the definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.linear_scan import linear_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.complex64, torch.complex128, torch.float64]
SHAPES = [(1, 1, 1), (7, 3, 5), (8, 2, 1), (4, 2, 9)]
NAMES = ["y", "last", "d_a", "d_b", "d_h"]


@pytest.fixture(params=["triton step", "triton row", "triton tile", "loop", "reference"])
def backend(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every backend; Triton walks in several ways, by the sizes, and all are tried at small ones."""
    name, *walk = request.param.split()
    if name == "loop" and DEVICE != "cpu":
        pytest.skip("runs on a CPU only")
    if walk:
        triton = pytest.importorskip("mnemic.kernels.linear_scan.triton")
        made = {
            "step": triton.Walk(rows=2, columns=4, steps=1, warps=1),
            "row": triton.Walk(rows=1, columns=4, steps=2, warps=1, single=True),
            "tile": triton.Walk(rows=2, columns=4, steps=4, warps=1),
        }
        monkeypatch.setattr(triton, "walk", lambda *sizes: made[walk[0]])
    return str(name)


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    made = torch.Generator().manual_seed(sum(shape))
    kind = torch.complex128 if dtype.is_complex else torch.float64
    a, b, h = (torch.randn(size, dtype=kind, generator=made) for size in (shape, shape, shape[1:]))
    start = torch.rand(shape[:2], generator=made) < torch.linspace(0, 0.3, shape[1])
    wide = torch.promote_types(dtype, torch.float32)
    return [(a / (1 + a.abs())).to(DEVICE, dtype), b.to(DEVICE, dtype), h.to(DEVICE, wide)], start.to(DEVICE)


def run(leaves: list[Tensor], start: Tensor, backend: str, since: int = 0) -> list[Tensor]:
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y, last = linear_scan(*leaves, start, backend)
    wide = torch.promote_types(y.dtype, torch.float32)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=DEVICE).view_as(y).to(wide)
    weight = weight * (1 + 2j) if y.is_complex() else weight
    loss = (y[since:] * weight[since:]).sum() + last.to(wide).square().sum()
    return [y.detach(), last.detach(), *torch.autograd.grad(loss.real if y.is_complex() else loss, leaves)]


def compare(close: Any, got: list[Tensor], want: list[Tensor]) -> None:
    """Complex numbers are compared as pairs of real ones."""
    for name, g, w in zip(NAMES, got, want, strict=True):
        assert g.dtype == w.dtype
        close(name, *(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in (g, w)))


def test_by_hand() -> None:
    """States 2*1+1=3, then forgotten: 5, then 0.5*5+1=3.5."""
    a, b = torch.tensor([2.0, 7.0, 0.5])[:, None, None], torch.tensor([1.0, 5.0, 1.0])[:, None, None]
    start = torch.tensor([[False], [True], [False]])
    y, last = linear_scan(a, b, torch.ones(1, 1), start, "reference")
    assert y.flatten().tolist() == [3, 5, 3.5]
    assert last.item() == 3.5


def test_a_system_that_turns_comes_back_after_a_circle() -> None:
    a = torch.tensor(1j, dtype=torch.complex128).expand(4, 1, 1)
    y, _ = linear_scan(a, torch.zeros(4, 1, 1), torch.ones(1, 1), torch.zeros(4, 1, dtype=torch.bool), "reference")
    torch.testing.assert_close(y.flatten(), torch.tensor([1j, -1, -1j, 1], dtype=torch.complex128))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((shape, dtype) for shape in SHAPES for dtype in DTYPES[:3]), *((SHAPES[1], dtype) for dtype in DTYPES[3:])],
    ids=str,
)
def test_outputs_state_and_gradients(backend: str, shape: tuple[int, ...], dtype: torch.dtype, close: Any) -> None:
    leaves, start = inputs(shape, dtype)
    compare(close, run(leaves, start, backend), run(leaves, start, "reference"))


@pytest.mark.usefixtures("poison")
def test_mixed_types(backend: str, close: Any) -> None:
    (a, b, h), start = inputs((6, 2, 3), torch.float32)
    for leaves in ([a, b.bfloat16(), h], [a.bfloat16(), b, h]):
        got, want = run(leaves, start, backend), run(leaves, start, "reference")
        # The states are kept for the gradient to `a` in their own type, which is b's.
        got[2], want[2] = got[2].bfloat16(), want[2].bfloat16()
        compare(close, got, want)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 3), (1, 2, 3), (5, 1, 3), (5, 2, 1), (1, 1, 1)], ids=str)
def test_what_is_the_same_throughout(backend: str, sizes: tuple[int, ...], dtype: torch.dtype, close: Any) -> None:
    """Sizes of 1 and expanded tensors are one system, and its gradient is the sum over where it is used."""
    (a, *others), start = inputs((5, 2, 3), dtype)
    a = a[tuple(map(slice, sizes))].detach()
    want = run([a.expand(5, 2, 3).clone(), *others], start, "reference")
    want[2] = want[2].sum_to_size(sizes)
    compare(close, run([a, *others], start, backend), want)
    leaf = a.clone().requires_grad_()
    y, last = linear_scan(leaf.expand(5, 2, 3), *others, start, backend)
    other = a.clone().requires_grad_()
    y_other, last_other = linear_scan(other, *others, start, backend)
    assert torch.equal(y, y_other)
    ((y * 2).sum() + last.sum()).abs().backward()
    ((y_other * 2).sum() + last_other.sum()).abs().backward()
    assert leaf.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poison")
def test_strides_of_all_kinds(backend: str, close: Any) -> None:
    (a, b, h), start = inputs((7, 3, 6), torch.float32)
    both = torch.cat([a, b], -1)
    views = [both[..., :6], both[..., 6:], h.t().contiguous().t()]
    flag = start.t().contiguous().t()
    compare(close, run(views, flag, backend), run([a, b, h], start, "reference"))
    views = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (a, b)]
    compare(close, run([*views, h], start, backend), run([a, b, h], start, "reference"))
    (a, b, h), start = inputs((7, 3, 6), torch.complex64)
    compare(close, run([a.conj(), b, h.conj()], start, backend), run([a.conj(), b, h.conj()], start, "reference"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("at", [0, 1, 6])
def test_a_start_leaves_no_trace_of_the_past(backend: str, at: int, dtype: torch.dtype) -> None:
    """The same bits whatever came before, NaN included, and no gradient to it; what is kept at a start is not read."""
    leaves, start = inputs((8, 2, 2), dtype)
    start[at] = True
    want = run(leaves, start, backend, since=at)
    for past in (1e3, torch.nan):
        a, b, h = (leaf.clone() for leaf in leaves)
        a[: at + 1], b[:at], h[:] = past, past, past
        got = run([a, b, h], start, backend, since=at)
        for name, g, w, since in zip(NAMES, got, want, (at, 0, at + 1, at, 2), strict=True):
            assert torch.equal(g[since:], w[since:]), name
        # A gradient of 0 to what is NaN itself need not be 0 all the way back.
        before = 0 if past == past else at
        back = got[2][before : at + 1], got[3][before:at], got[4][: 2 if before == 0 else 0]
        assert not any(part.any() for part in back)


def test_numbers_that_lie_far_apart(backend: str, close: Any) -> None:
    """The last step is more than 2**31 numbers from the first. No memory is touched in between."""
    (a, b, h), start = inputs((3, 1, 2), torch.bfloat16)
    far = torch.empty(2 * ((1 << 30) + 8) + 2, dtype=torch.bfloat16, device=DEVICE)
    spread = far.as_strided(b.shape, ((1 << 30) + 8, 2, 1)).copy_(b)
    got, want = linear_scan(a, spread, h, start, backend), linear_scan(a, b, h, start, backend)
    for name, g, w in zip(NAMES, got, want, strict=False):
        close(name, g, w)


def captured(run: Any) -> Any:
    """Capture a run in a CUDA graph; returns what replays it and gives what it gave."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [part.detach() for part in run()]  # what led to them is of the recording's stream, and goes

    def replay() -> Any:
        graph.replay()
        return results

    return replay


def test_only_the_gradients_that_are_asked_for(backend: str) -> None:
    (a, b, h), start = inputs((5, 2, 3), torch.float32)
    want = run([a, b, h], start, "reference")
    for index, name in enumerate("abh"):
        leaves = [a, b, h]
        leaves[index] = leaves[index].clone().requires_grad_()
        _, last = linear_scan(*leaves, start, backend)
        last.square().sum().backward()
        assert leaves[index].grad is not None, name
    assert len(want) == 5


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("shape", [(16, 4, 32), (4, 2048, 256)], ids=str)
def test_it_can_be_captured_in_a_graph(shape: tuple[int, ...], close: Any) -> None:
    leaves, start = inputs(shape, torch.float32)

    def both() -> list[Tensor]:
        # Leaves of each run's own: autograd ties a leaf to the stream that it was first used on.
        own = [leaf.detach().requires_grad_() for leaf in leaves]
        y, last = linear_scan(*own, start, "triton")
        return [y.detach(), last.detach(), *torch.autograd.grad(y.square().sum() + last.sum(), own)]

    replayed = captured(both)
    for leaf in leaves:
        leaf.mul_(0.5)
    start.logical_not_()
    for name, got, want in zip(NAMES, replayed(), both(), strict=True):
        close(name, got, want)


def test_sizes_that_do_not_fit_are_refused() -> None:
    a, h, start = torch.ones(4, 2, 3), torch.zeros(2, 3), torch.zeros(4, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"h \(3, 2\), start \(4, 2\) came; it takes b \(T, B, D\)"):
        linear_scan(a, a, h.t(), start)
    with pytest.raises(ValueError, match="a of the same sizes or 1"):
        linear_scan(a[:2], a, h, start)
    with pytest.raises(ValueError, match=r"give torch\.bool"):
        linear_scan(a, a, h, start.float())
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of triton, loop, reference"):
        linear_scan(a, a, h, start, "cuda")
