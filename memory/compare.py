"""How the laws compare, and what they raise: one table of tolerances, one exception, one message for each mistake."""

from __future__ import annotations

import torch
from torch import Tensor

from .core import State, parts

TOLERANCE = {torch.float64: (1e-9, 1e-10), torch.float32: (1e-5, 1e-5), torch.bfloat16: (2e-2, 2e-2)}
"""Relative and absolute tolerance by type: the one table of the package."""


class BrokenLaw(AssertionError):
    """A core does not keep a law.

    Attributes:
        law: the name of the law.
    """

    def __init__(self, law: str, seen: str) -> None:
        super().__init__(f"law '{law}': {seen}")
        self.law = law


def same(law: str, what: str, got: Tensor, want: Tensor) -> None:
    """Compare by the table of tolerances."""
    _alike(law, what, got, want)
    rtol, atol = TOLERANCE[got.dtype]
    if not torch.allclose(got, want, rtol, atol):
        _differ(law, what, got, want, f"tolerance {rtol:g} relative, {atol:g} absolute")


def identical(law: str, what: str, got: Tensor, want: Tensor) -> None:
    """Compare bit for bit."""
    _alike(law, what, got, want)
    if not torch.equal(got, want):
        _differ(law, what, got, want, "expected the same bits")


def zero(law: str, what: str, got: Tensor) -> None:
    """Expect nothing but zeros."""
    identical(law, what, got, torch.zeros_like(got))


def _alike(law: str, what: str, got: Tensor, want: Tensor) -> None:
    saw, expected = ((tuple(part.shape), part.dtype) for part in (got, want))
    if saw != expected:
        raise BrokenLaw(law, f"{what}: {saw[0]} of {saw[1]}, expected {expected[0]} of {expected[1]}")


def _differ(law: str, what: str, got: Tensor, want: Tensor, expected: str) -> None:
    difference = (got.double() - want.double()).abs().nan_to_num(torch.inf, torch.inf)
    at = [int(i) for i in torch.unravel_index(difference.argmax(), difference.shape)]
    raise BrokenLaw(
        law,
        f"{what}: {got[tuple(at)].item():.9g} instead of {want[tuple(at)].item():.9g} at {at}, worst difference "
        f"{difference.max().item():.2e}, {expected}",
    )


def same_form(law: str, what: str, got: State, want: State) -> None:
    """Compare names, shapes and types of two states."""
    saw, expected = (
        {name: (tuple(part.shape), part.dtype) for name, part in parts(state).items()} for state in (got, want)
    )
    if saw != expected:
        raise BrokenLaw(law, f"{what}: a state of {saw}, expected {expected}")


def finite(law: str, what: str, y: Tensor, state: State) -> None:
    """Expect finite outputs, and no NaN in memory."""
    if not y.isfinite().all():
        at = (~y.isfinite()).nonzero()[0].tolist()
        raise BrokenLaw(law, f"{what}: output {y[tuple(at)].item()} at {at}, expected a finite number")
    for name, part in parts(state).items():
        if part.isnan().any():
            raise BrokenLaw(law, f"{what}: NaN in the memory, part {name or 'state'}")
