"""Heads with rotary positions: the kernel against the definition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mnemic.kernels.rotary_heads import OP, rotary_heads
from mnemic.kernels.segment_attention import angles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("past", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "alike"), [((1, 1, 1, 2, 1), True), ((3, 5, 3, 6, 4), False)], ids=str)
def test_it_is_the_definition(
    size: tuple[int, int, int, int, int],
    alike: bool,
    dtype: torch.dtype,
    past: torch.dtype | None,
    poison: None,
    close: Callable[[str, Tensor, Tensor], None],
) -> None:
    rows, tokens, heads, width, keys = size
    projected = torch.randn(rows, tokens, 3, heads, width).to(DEVICE, dtype).requires_grad_()
    position = torch.randint(0, 1000, (1 if alike else rows, tokens), device=DEVICE)
    turn = angles(position, width, torch.float32)
    leaves = [projected]
    if past is not None:
        leaves.append(torch.randn(rows, 2, heads, keys, width).to(DEVICE, past).requires_grad_())

    def run(backend: str) -> list[Tensor]:
        query, kv = rotary_heads(projected, leaves[1] if past else None, *turn, backend)
        loss = sum(
            (x * torch.linspace(-1, 1, x.numel(), device=DEVICE, dtype=x.dtype).view_as(x)).sum() for x in (query, kv)
        )
        return [query, kv, *torch.autograd.grad(loss, leaves)]

    for name, got, want in zip(("query", "kv", "d_projected", "d_past"), run("triton"), run("reference"), strict=False):
        close(name, got, want)


def test_it_says_what_it_cannot_do() -> None:
    projected = torch.zeros(1, 1, 3, 1, 2, dtype=torch.float64, device=DEVICE)
    turn = angles(torch.zeros(1, 1, device=DEVICE), 2, torch.float64)
    with pytest.raises(
        ValueError, match="rotary_heads: backend 'triton' cannot run here: it does not compute in float64"
    ):
        rotary_heads(projected, None, *turn, "triton")
    assert OP.pick(None, projected).__name__.endswith("reference")
