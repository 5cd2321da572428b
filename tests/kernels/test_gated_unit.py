"""The gated unit: the kernel against the definition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mnemic.kernels.gated_unit import gated_unit

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(2,), (3, 5, 26), (2, 2100)], ids=str)
def test_it_is_the_definition(
    size: tuple[int, ...], dtype: torch.dtype, poison: None, close: Callable[[str, Tensor, Tensor], None]
) -> None:
    both = (3 * torch.randn(size)).to(DEVICE, dtype).requires_grad_()

    def run(backend: str) -> list[Tensor]:
        out = gated_unit(both, backend)
        weights = torch.linspace(-1, 1, out.numel(), device=DEVICE, dtype=dtype).view_as(out)
        return [out, *torch.autograd.grad((out * weights).sum(), both)]

    for name, got, want in zip(("out", "d_both"), run("triton"), run("reference"), strict=True):
        close(name, got, want)


def test_extreme_gates_stay_finite() -> None:
    both = torch.tensor([[-80.0, 0.0, 80.0, 1.0, 1.0, 1.0]], device=DEVICE).requires_grad_()
    out = gated_unit(both, "triton")
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.0, 80.0]], device=DEVICE))
    (d_both,) = torch.autograd.grad(out.sum(), both)
    assert d_both.isfinite().all()
