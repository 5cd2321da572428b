"""Advantages against numbers worked out by hand, and against TorchRL."""

import pytest
import torch
from torch import Tensor

from mnemic.kernels.gae import gae


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[:, None]


NEVER = flags(0, 0, 0)


def test_lambda_one_is_the_discounted_return() -> None:
    got = gae(column(1, 2, 3), column(0, 0, 0), column(0, 0, 0), NEVER, NEVER, 0.5, 1.0)
    assert got[:, 0].tolist() == [1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3]


def test_lambda_zero_is_the_error_of_one_step() -> None:
    got = gae(column(1, 2, 3), column(4, 8, 16), column(8, 16, 32), NEVER, NEVER, 0.5, 0.0)
    assert got[:, 0].tolist() == [1 + 4 - 4, 2 + 8 - 8, 3 + 16 - 16]


def test_an_end_by_the_rules_has_no_value_after_it_and_one_by_the_clock_has() -> None:
    """Deltas with gamma 1: 1 + 2 - 4 = -1, then 2 + v - 8, then 3 + 32 - 16 = 19; an end at the middle step."""
    reward, value, after = column(1, 2, 3), column(4, 8, 16), column(2, 10, 32)
    end = flags(0, 1, 0)
    ruled = gae(reward, value, after, end, end, 1.0, 0.5)
    timed = gae(reward, value, after, NEVER, end, 1.0, 0.5)
    assert ruled[:, 0].tolist() == [-1 + 0.5 * -6, -6, 19]
    assert timed[:, 0].tolist() == [-1 + 0.5 * 4, 4, 19]


def test_what_follows_an_end_does_not_leak_not_even_nan() -> None:
    end, after = flags(1, 0, 1), column(0, 1, torch.nan)
    got = gae(column(1, torch.nan, 1), column(0, 0, 0), after, end, end, 1.0, 1.0)
    assert got[0].item() == 1
    assert got[2].item() == 1
    assert got[1].isnan()


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_equals_torchrl(lam: float) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional", exc_type=ImportError)
    torch.manual_seed(0)
    reward, value, after = torch.randn(3, 40, 5)
    terminated = torch.rand(40, 5) < 0.1
    done = terminated | (torch.rand(40, 5) < 0.1)
    got = gae(reward, value, after, terminated, done, 0.97, lam)
    tensors = (part[..., None] for part in (value, after, reward, done, terminated))
    want, _ = functional.generalized_advantage_estimate(0.97, lam, *tensors, time_dim=0)
    torch.testing.assert_close(got, want[..., 0], rtol=1e-5, atol=1e-5)
