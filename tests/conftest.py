"""What all tests share: one comparison with one table of tolerances, and memory that is not what it seems."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory.laws import TOLERANCE

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is made: kernels are tested without a GPU too


def pytest_configure() -> None:
    """Set one thread: tests are many and small, and threads that wait for each other cost more than they give."""
    torch.set_num_threads(1)
    # A shell that starts this in the background may have it ignore Ctrl-C, which some tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def close() -> Callable[[str, Tensor, Tensor], None]:
    """Compare by the one table of tolerances; the message names what differs and by how much."""

    def compare(name: str, got: Tensor, want: Tensor) -> None:
        assert got.dtype == want.dtype, f"{name}: {got.dtype}, not {want.dtype}"
        assert got.shape == want.shape, f"{name}: {tuple(got.shape)}, not {tuple(want.shape)}"
        rtol, atol = TOLERANCE[got.dtype]
        worst = (got - want).abs().max().item() if got.numel() else 0.0
        assert torch.allclose(got, want, rtol, atol), f"{name}: worst difference {worst:.2e}"

    return compare


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel forgets to write shows up as NaN, not as luck."""

    def poisoned(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def empty(*args: Any, **kwargs: Any) -> Tensor:
            made = real(*args, **kwargs)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return empty

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
