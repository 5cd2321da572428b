"""Attention over spans of time: numbers by hand, every backend against the definition; rotary positions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import NEVER, OP, Seen, angles, attention, rotate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
others = pytest.mark.parametrize("backend", [name for name in OP.backends if name not in ("reference", "flex")])


class Scene:
    """Queries and keys of trials that begin here and there, and keys that nobody sees."""

    def __init__(self, size: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float32) -> None:
        batch, heads, steps, keys, width = size
        made = torch.Generator().manual_seed(steps + keys)
        shapes = [(batch, heads, count, width) for count in (steps, keys, keys)] + [(heads, width)] * 2
        self.leaves = [torch.randn(shape, generator=made).to(DEVICE, dtype).requires_grad_() for shape in shapes]
        # The last keys are those of the queries; the others lie before them.
        time = torch.arange(keys) - max(keys - steps, 0)
        first = torch.randint(-keys, 1, (batch, steps), generator=made).cummax(1).values
        first[:, steps // 2 :] = steps // 2  # a trial of all rows begins
        hidden = torch.rand(batch, keys, generator=made) < 0.3
        hidden[:, keys // 4 : keys // 2] = True  # whole tiles
        hidden &= time < 0
        last = torch.arange(steps).expand(batch, -1)
        spans = (torch.where(hidden, NEVER, time), first.minimum(last), last)
        self.seen = Seen(*(part.to(DEVICE) for part in spans))

    def kv(self) -> Tensor:
        return torch.stack(self.leaves[1:3], 1)

    def sink(self, with_sink: bool) -> tuple[Tensor, Tensor] | None:
        return (self.leaves[3], self.leaves[4]) if with_sink else None

    def run(self, backend: str, *, causal: bool = False, with_sink: bool = False) -> list[Tensor]:
        """Return the output and all gradients."""
        seen = None if causal else self.seen
        out = attention(self.leaves[0], self.kv(), seen, self.sink(with_sink), backend)
        weights = torch.linspace(-1, 1, out.numel(), device=DEVICE, dtype=out.dtype).view_as(out)
        return [out, *torch.autograd.grad((out * weights).sum(), self.leaves[: 5 if with_sink else 3])]


@pytest.mark.parametrize("backend", ["reference", "fused", "triton"])
def test_numbers_by_hand(backend: str) -> None:
    """Scores 0 and ln 3 and a hidden key; with a sink of key 0 and value 0, a third share of weight 1."""
    query = torch.tensor([2.0, 0, 0, 0]).view(1, 1, 1, 4)  # times 1 / sqrt(4)
    key = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0], [9, 9, 9, 9]]).view(1, 1, 3, 4)
    value = torch.tensor([[4.0, 0, 0, 0], [8, 0, 0, 0], [1e30, 0, 0, 0]]).view(1, 1, 3, 4)
    seen = Seen(torch.tensor([[0, 0, NEVER]]), torch.tensor([[0]]), torch.tensor([[0]]))
    query, kv = query.to(DEVICE), torch.stack([key, value], 1).to(DEVICE)
    seen = Seen(*(part.to(DEVICE) for part in seen))
    plain = attention(query, kv, seen, None, backend)
    assert plain[0, 0, 0, 0].item() == pytest.approx((1 * 4 + 3 * 8) / 4)
    sink = (torch.zeros(1, 4, device=DEVICE), torch.zeros(1, 4, device=DEVICE))
    beside = attention(query, kv, seen, sink, backend)
    assert beside[0, 0, 0, 0].item() == pytest.approx((1 * 4 + 3 * 8) / 5)


@others
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_sink", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1), (2, 2, 5, 7, 6), (2, 1, 37, 100, 20)], ids=str)
def test_it_is_the_definition(
    size: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    with_sink: bool,
    causal: bool,
    backend: str,
    poison: None,
    close: Callable[[str, Tensor, Tensor], None],
) -> None:
    scene = Scene(size, dtype)
    got = scene.run(backend, causal=causal, with_sink=with_sink)
    for leaf in scene.leaves:  # the definition in float32: in bfloat16 it rounds more often than what it judges
        leaf.data = leaf.data.float()
    want = scene.run("reference", causal=causal, with_sink=with_sink)
    for name, a, b in zip(
        ("read", "d_query", "d_key", "d_value", "d_sink_key", "d_sink_value"), got, want, strict=False
    ):
        scale = max(1.0, b.abs().max().item())  # gradients of a sink are sums over all rows
        close(name, a / scale, b.to(a.dtype) / scale)


@pytest.mark.parametrize("backend", ["reference", "fused", "triton"])
def test_what_is_not_seen_leaves_no_trace(backend: str) -> None:
    """Bit for bit, forward and backward, however large it is."""
    scene = Scene((2, 2, 3, 150, 4))
    hidden = scene.seen.time_BN == NEVER

    def run(scale: float) -> list[Tensor]:
        for leaf in scene.leaves[1:3]:
            leaf.data = torch.where(hidden[:, None, :, None], leaf.data * scale, leaf.data)
        got = scene.run(backend)
        for gradient in got[2:]:
            assert not gradient.transpose(1, 2)[hidden].any()
        return got

    assert all(torch.equal(a, b) for a, b in zip(run(1.0), run(1e15), strict=True))


def test_in_triton_nan_stays_with_those_who_see_it() -> None:
    """The queries of a new trial lie in one tile with those of the old one, whose keys and queries are NaN."""
    scene = Scene((2, 2, 20, 31, 4))
    want = scene.run("triton")
    old_key = (scene.seen.time_BN < 10)[:, None, :, None]
    for leaf in scene.leaves[1:3]:
        leaf.data = torch.where(old_key, torch.nan, leaf.data)
    scene.leaves[0].data[:, :, :10] = torch.nan
    out = attention(scene.leaves[0], scene.kv(), scene.seen, None, "triton")
    assert out[:, :, :10].isnan().all()
    assert torch.equal(out[:, :, 10:], want[0][:, :, 10:])
    weights = torch.linspace(-1, 1, out.numel(), device=DEVICE).view_as(out)
    d_query, d_key, d_value = torch.autograd.grad((out * weights)[:, :, 10:].sum(), scene.leaves[:3])
    assert torch.equal(d_query[:, :, 10:], want[1][:, :, 10:])
    new = (scene.seen.time_BN >= 10)[:, None, :, None]
    for got, clean in ((d_key, want[2]), (d_value, want[3])):
        assert torch.equal(torch.where(new, got, 0), torch.where(new, clean, 0))


def test_a_query_that_sees_nothing_reads_the_sink_or_nothing() -> None:
    scene = Scene((1, 2, 3, 5, 4))
    scene.seen = scene.seen._replace(time_BN=torch.full_like(scene.seen.time_BN, NEVER))
    out, d_query, *_ = scene.run("triton")
    assert not out.any()
    assert not d_query.any()
    out, *_, d_value = scene.run("triton", with_sink=True)
    torch.testing.assert_close(out, scene.leaves[4][None, :, None].expand_as(out))
    assert d_value.any()


def test_an_unknown_backend_is_refused() -> None:
    scene = Scene((1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="unknown backend 'flash'; choose one of triton, fused, flex, reference"):
        attention(scene.leaves[0], scene.kv(), backend="flash")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Scene((1, 1, 1, 1, 130)), "a head is 130 wide, and it takes up to 128"),
        (lambda: Scene((1, 1, 1, 1, 4), torch.float64), "it does not compute in float64"),
    ],
)
def test_triton_says_what_it_cannot_do(make: Callable[[], Scene], reason: str) -> None:
    with pytest.raises(ValueError, match=f"backend 'triton' cannot run here: {reason}; what can: fused"):
        make().run("triton")


def test_rotary_scores_depend_on_the_distance_only() -> None:
    query, key = torch.randn(2, 8, dtype=torch.float64)

    def score(at: int, distance: int) -> Tensor:
        turned = [
            rotate(x, *angles(torch.tensor(position), 8, x.dtype))
            for x, position in ((query, at), (key, at - distance))
        ]
        return turned[0] @ turned[1]

    torch.testing.assert_close(score(3, 2), score(1_000_003, 2), rtol=1e-9, atol=1e-9)
    assert not torch.isclose(score(3, 2), score(3, 1))
    assert torch.equal(rotate(query, *angles(torch.tensor(0), 8, query.dtype)), query)


def test_angles_are_right_far_from_the_start() -> None:
    cosine, sine = angles(torch.tensor([1_000_003]), 4, torch.float32)
    want = [1_000_003 * 10_000.0 ** (-pair / 4) for pair in (0, 2)]
    torch.testing.assert_close(cosine[0], torch.tensor([math.cos(a) for a in want]), rtol=0, atol=1e-7)
    torch.testing.assert_close(sine[0], torch.tensor([math.sin(a) for a in want]), rtol=0, atol=1e-7)
