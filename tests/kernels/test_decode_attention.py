"""Attention of one step to a cache: every backend against the definition, and what must leave no trace."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mnemic.kernels.decode_attention import OP, decode_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
others = pytest.mark.parametrize("backend", [name for name in OP.backends if name != "reference"])
Sink = tuple[Tensor, Tensor] | None


class Scene:
    """Rows of every length, each with its step in the last of its near slots."""

    def __init__(self, rows: int, heads: int, far: int, near: int, width: int, dtype: torch.dtype) -> None:
        made = torch.Generator().manual_seed(rows + near)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=made).to(DEVICE, dtype)

        self.query, self.new = random(rows, heads, width), random(rows, 2, heads, width)
        self.cache, self.split = random(rows, 2, heads, far + near, width), far
        self.far = torch.linspace(0, far, rows).round().long().to(DEVICE)
        self.near = torch.linspace(near, 1, rows).round().long().to(DEVICE)
        self.start = torch.zeros(rows, dtype=torch.bool, device=DEVICE)
        self.sink = (random(heads, width).float(), random(heads, width).float())

    def run(self, backend: str, *, sink: bool = False, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = (self.cache if cache is None else cache).clone()
        slot, chosen = self.split + self.near - 1, self.sink if sink else None
        counts = (slot, self.far, self.near)
        read = decode_attention(self.query, self.new, given, *counts, self.split, self.start, chosen, backend)
        return read, given


@others
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(1, 1, 0, 1, 1), (5, 3, 7, 70, 6), (4, 2, 130, 65, 32)], ids=str)
def test_it_is_the_definition(
    size: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    sink: bool,
    backend: str,
    poison: None,
    close: Callable[[str, Tensor, Tensor], None],
) -> None:
    scene = Scene(*size, dtype)
    (got, cache), (want, want_cache) = scene.run(backend, sink=sink), scene.run("reference", sink=sink)
    close("read", got, want)
    assert torch.equal(cache, want_cache)


@others
def test_rows_that_start_empty_their_slots(backend: str) -> None:
    scene = Scene(6, 2, 5, 70, 8, torch.float32)
    scene.start[::2] = True
    scene.far[::2], scene.near[::2] = 0, 1
    broken = torch.where(scene.start.view(-1, 1, 1, 1, 1), torch.nan, scene.cache)
    (got, cache), (want, want_cache) = scene.run(backend, cache=broken), scene.run("reference", cache=broken)
    torch.testing.assert_close(got, want)
    assert torch.equal(cache, want_cache)
    torch.testing.assert_close(got[0], scene.new[0, 1])  # it sees itself alone


def test_triton_does_not_read_what_a_row_does_not_see() -> None:
    """Bit for bit, be it NaN."""
    scene = Scene(6, 2, 70, 70, 8, torch.float32)
    slot = torch.arange(140, device=DEVICE)
    hidden = torch.where(slot < 70, slot >= scene.far[:, None], slot - 70 >= scene.near[:, None])
    broken = torch.where(hidden[:, None, None, :, None], torch.nan, scene.cache)
    assert torch.equal(scene.run("triton", cache=broken)[0], scene.run("triton")[0])


def test_strided_queries() -> None:
    scene = Scene(3, 2, 4, 9, 8, torch.float32)
    want, _ = scene.run("triton")
    both = torch.stack([scene.new, scene.new], 2).transpose(1, 2)  # other strides, the same numbers
    scene.query, scene.new = torch.stack([scene.query] * 2, -1)[..., 0], both[:, 0]
    assert torch.equal(scene.run("triton")[0], want)


def test_gradients_go_through_the_other_backends() -> None:
    scene = Scene(3, 2, 4, 9, 8, torch.float32)
    scene.query.requires_grad_()
    with pytest.raises(ValueError, match="backend 'triton' cannot run here: it has no gradients"):
        scene.run("triton")
    read, _ = scene.run("fused")
    (got,) = torch.autograd.grad(read.sum(), scene.query)
    (want,) = torch.autograd.grad(scene.run("reference")[0].sum(), scene.query)
    torch.testing.assert_close(got, want)
