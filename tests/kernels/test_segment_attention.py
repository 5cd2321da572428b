"""Attention: numbers by hand, the fused backend against the definition, rotary positions."""

import math

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import OP, angles, attention, rotate


def inputs(
    batch: int, heads: int, queries: int, keys: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor]:
    made = torch.Generator().manual_seed(queries + keys)
    shapes = [(batch, heads, count, width) for count in (queries, keys, keys)] + [(heads, width)] * 2
    leaves = [torch.randn(shape, dtype=dtype, generator=made).requires_grad_() for shape in shapes]
    mask = torch.rand(batch, queries, keys, generator=made) < 0.4
    mask[..., -1] = True
    return leaves, mask


@pytest.mark.parametrize("backend", OP.backends)
def test_numbers_by_hand(backend: str) -> None:
    """Scores 0 and ln 3 and a hidden key; with a sink of key 0 and value 0, a third share of weight 1."""
    query = torch.tensor([2.0, 0, 0, 0]).view(1, 1, 1, 4)  # times 1 / sqrt(4)
    key = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0], [9, 9, 9, 9]]).view(1, 1, 3, 4)
    value = torch.tensor([[4.0, 0, 0, 0], [8, 0, 0, 0], [torch.inf, 0, 0, 0]]).nan_to_num(posinf=1e30).view(1, 1, 3, 4)
    mask = torch.tensor([[[True, True, False]]])
    plain = attention(query, key, value, mask, None, backend)
    torch.testing.assert_close(plain[0, 0, 0, 0], torch.tensor((1 * 4 + 3 * 8) / 4))
    sink = (torch.zeros(1, 4), torch.zeros(1, 4))
    torch.testing.assert_close(
        attention(query, key, value, mask, sink, backend)[0, 0, 0, 0], torch.tensor((1 * 4 + 3 * 8) / 5)
    )


@pytest.mark.parametrize("with_sink", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 2, 5, 7, 4), (2, 2, 3, 1100, 8)], ids=str)
def test_fused_matches_the_reference(shape: tuple[int, int, int, int, int], with_sink: bool) -> None:
    leaves, mask = inputs(*shape)
    mask[..., :-1] &= torch.arange(shape[3] - 1) >= shape[3] // 2  # whole blocks of keys that nobody sees
    used = leaves if with_sink else leaves[:3]

    def run(backend: str) -> list[Tensor]:
        out = attention(*leaves[:3], mask, (leaves[3], leaves[4]) if with_sink else None, backend)
        return [out, *torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), used)]

    for got, want in zip(run("fused"), run("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", OP.backends)
def test_what_is_masked_leaves_no_trace(backend: str) -> None:
    """Bit for bit, forward and backward, however large it is."""
    leaves, mask = inputs(2, 2, 3, 600, 4, torch.float32)
    hidden = (torch.arange(600) >= 50) & (torch.arange(600) < 590)
    mask = mask & ~hidden

    def run(scale: float) -> list[Tensor]:
        query, key, value = (leaf.detach().clone() for leaf in leaves[:3])
        key[:, :, hidden] *= scale
        value[:, :, hidden] *= scale
        used = [leaf.requires_grad_() for leaf in (query, key, value)]
        out = attention(query, key, value, mask, None, backend)
        d_query, d_key, d_value = torch.autograd.grad(out.square().sum(), used)
        assert not d_key[:, :, hidden].any()
        assert not d_value[:, :, hidden].any()
        return [out, d_query, d_key, d_value]

    assert all(torch.equal(a, b) for a, b in zip(run(1.0), run(1e15), strict=True))


def test_an_unknown_backend_is_refused() -> None:
    leaves, mask = inputs(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="unknown backend 'flash'; choose one of fused, reference"):
        attention(*leaves[:3], mask, backend="flash")


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
