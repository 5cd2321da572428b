"""Advantages and V-trace against numbers worked out by hand, against each other, and against TorchRL."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.gae import gae, vtrace

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["triton few", "triton many", "reference"])
def backend(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every backend; Triton walks in tiles or step by step, by the number of rows; both are tried at small sizes."""
    name, *walk = request.param.split()
    if walk:
        triton = pytest.importorskip("mnemic.kernels.gae.triton")
        monkeypatch.setattr(triton, "MANY", {"few": 1 << 40, "many": 0}[walk[0]])
        monkeypatch.setattr(triton, "LONGEST", 8)
    return str(name)


def column(*values: float) -> Tensor:
    return torch.tensor(values, device=DEVICE)[:, None]


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool, device=DEVICE)[:, None]


NEVER = flags(0, 0, 0)


def window(steps: int, batch: int) -> tuple[Tensor, ...]:
    """Return log-ratios, rewards, values, next values, and both flags. What follows within an episode is one value."""
    made = torch.Generator().manual_seed(steps + batch)
    log_ratio, reward, after = torch.randn(3, steps, batch, generator=made)
    value = torch.randn(steps, batch, generator=made)
    terminated = torch.rand(steps, batch, generator=made) < 0.1
    done = terminated | (torch.rand(steps, batch, generator=made) < 0.1)
    after[:-1] = torch.where(done[:-1], after[:-1], value[1:])
    return tuple(part.to(DEVICE) for part in (log_ratio, reward, value, after, terminated, done))


def test_lambda_one_is_the_discounted_return(backend: str) -> None:
    got = gae(column(1, 2, 3), column(0, 0, 0), column(0, 0, 0), NEVER, NEVER, 0.5, 1.0, backend)
    assert got[:, 0].tolist() == [1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3]


def test_lambda_zero_is_the_error_of_one_step(backend: str) -> None:
    got = gae(column(1, 2, 3), column(4, 8, 16), column(8, 16, 32), NEVER, NEVER, 0.5, 0.0, backend)
    assert got[:, 0].tolist() == [1 + 4 - 4, 2 + 8 - 8, 3 + 16 - 16]


def test_an_end_by_the_rules_has_no_value_after_it_and_one_by_the_clock_has(backend: str) -> None:
    """Deltas with gamma 1: 1 + 2 - 4 = -1, then 2 + v - 8, then 3 + 32 - 16 = 19; an end at the middle step."""
    reward, value, after = column(1, 2, 3), column(4, 8, 16), column(2, 10, 32)
    end = flags(0, 1, 0)
    ruled = gae(reward, value, after, end, end, 1.0, 0.5, backend)
    timed = gae(reward, value, after, NEVER, end, 1.0, 0.5, backend)
    assert ruled[:, 0].tolist() == [-1 + 0.5 * -6, -6, 19]
    assert timed[:, 0].tolist() == [-1 + 0.5 * 4, 4, 19]


def test_what_follows_an_end_does_not_leak_not_even_nan(backend: str) -> None:
    end, after = flags(1, 0, 1), column(0, 1, torch.nan)
    reward, value = column(1, torch.nan, 1), column(0, 0, 0)
    advantages = [gae(reward, value, after, end, end, 1.0, 1.0, backend)]
    advantages.extend(vtrace(value, reward, value, after, end, end, 1.0, backend=backend))
    for got in advantages:
        assert got[0].item() == 1
        assert got[2].item() == 1
        assert got[1].isnan()


def test_vtrace_by_hand(backend: str) -> None:
    """Ratios 2, 1/2, 4; weights of errors at most 1, of what follows at most 3/2; gamma 1/2; no values but one.

    Errors 1 + 4/2 - 0 = 3, then 2 - 4 = -2, then 4. Corrections: 4, then -2/2 + 1/2 * 1/2 * 4 = 0, then 3 + 0 = 3.
    Advantages: 4, then (-2 + 4/2) / 2 = 0, then 3 + 0 = 3.
    """
    log_ratio, reward, value, after = column(2, 0.5, 4).log(), column(1, 2, 4), column(0, 4, 0), column(4, 0, 0)
    target, advantage = vtrace(log_ratio, reward, value, after, NEVER, NEVER, 0.5, 1.0, 1.0, 1.5, backend)
    torch.testing.assert_close(target[:, 0].cpu(), torch.tensor([3.0, 4.0, 4.0]))
    torch.testing.assert_close(advantage[:, 0].cpu(), torch.tensor([3.0, 0.0, 4.0]))
    end = flags(0, 1, 0)
    target, advantage = vtrace(log_ratio, reward, value, after, end, end, 0.5, 1.0, 1.0, 1.5, backend)
    torch.testing.assert_close(target[:, 0].cpu(), torch.tensor([3.0 - 0.5 * 1.5, 3.0, 4.0]))
    torch.testing.assert_close(advantage[:, 0].cpu(), torch.tensor([3.0 - 0.5, -1.0, 4.0]))


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_vtrace_of_the_same_policy_is_gae(backend: str, lam: float) -> None:
    """Its corrections are those of `gae`; with lambda 1 its advantages are too, and its targets are the returns."""
    _, reward, value, after, terminated, done = window(20, 5)
    want = gae(reward, value, after, terminated, done, 0.97, lam, "reference")
    same = torch.zeros_like(reward)
    target, advantage = vtrace(same, reward, value, after, terminated, done, 0.97, lam, backend=backend)
    torch.testing.assert_close(target, value + want, rtol=1e-5, atol=1e-5)
    if lam == 1:
        torch.testing.assert_close(advantage, want, rtol=1e-5, atol=1e-5)


def test_vtrace_that_may_not_look_further_is_the_weighted_error_of_one_step(backend: str) -> None:
    log_ratio, reward, value, after, terminated, done = window(20, 5)
    target, _ = vtrace(log_ratio, reward, value, after, terminated, done, 0.97, 1.0, 2.0, 0.0, backend)
    error = reward + 0.97 * torch.where(terminated, 0, after) - value
    torch.testing.assert_close(target, value + log_ratio.exp().clamp(max=2.0) * error, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (8, 3), (9, 5), (19, 2)], ids=str)
def test_triton_matches_the_reference(backend: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    *numbers, terminated, done = window(*shape)
    # Transposed memory, as a slice of somebody's batch-first buffer has it.
    numbers = [part.to(dtype).t().contiguous().t() for part in numbers]

    def run(name: str) -> list[Tensor]:
        ends = terminated, done, 0.97, 0.9
        return [gae(*numbers[1:], *ends, name), *vtrace(*numbers, *ends, 1.3, 0.8, name)]

    for got, want in zip(run(backend), run("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_equals_torchrl(lam: float) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional", exc_type=ImportError)
    _, reward, value, after, terminated, done = window(40, 5)
    got = gae(reward, value, after, terminated, done, 0.97, lam)
    tensors = (part[..., None] for part in (value, after, reward, done, terminated))
    want, _ = functional.generalized_advantage_estimate(0.97, lam, *tensors, time_dim=0)
    torch.testing.assert_close(got, want[..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rho_bar", "c_bar"), [(1.0, 1.0), (2.0, 0.5)])
def test_vtrace_equals_torchrl(rho_bar: float, c_bar: float) -> None:
    functional = pytest.importorskip("torchrl.objectives.value.functional", exc_type=ImportError)
    log_ratio, reward, value, after, terminated, done = window(40, 5)
    target, advantage = vtrace(log_ratio, reward, value, after, terminated, done, 0.97, 1.0, rho_bar, c_bar)
    tensors = [part.t()[..., None] for part in (log_ratio, value, after, reward, done, terminated)]
    tensors.insert(1, torch.zeros_like(tensors[0]))
    found = functional.vtrace_advantage_estimate(0.97, *tensors, rho_thresh=rho_bar, c_thresh=c_bar)
    for got, want in zip((advantage, target), found, strict=True):
        torch.testing.assert_close(got, want[..., 0].t(), rtol=1e-5, atol=1e-5)


def test_no_gradient_runs_through_advantages(backend: str) -> None:
    log_ratio, reward, value, after, terminated, done = window(4, 2)
    value.requires_grad_()
    assert not gae(reward, value, after, terminated, done, 0.9, 0.9, backend).requires_grad
    found = vtrace(log_ratio, reward, value, after, terminated, done, 0.9, backend=backend)
    assert not any(part.requires_grad for part in found)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_it_can_be_captured_in_a_graph() -> None:
    log_ratio, *rest = window(20, 64)
    gae(*rest, 0.9, 0.9)
    vtrace(log_ratio, *rest, 0.9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [gae(*rest, 0.9, 0.9), *vtrace(log_ratio, *rest, 0.9)]
    for number in (log_ratio, *rest[:3]):
        number.mul_(-0.5)
    graph.replay()
    for got, want in zip(results, [gae(*rest, 0.9, 0.9), *vtrace(log_ratio, *rest, 0.9)], strict=True):
        assert torch.equal(got, want)


def test_sizes_that_do_not_fit_are_refused() -> None:
    one, two = torch.zeros(4, 2), torch.zeros(4, 3)
    never = torch.zeros(4, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(4, 2\), \(4, 3\), \(4, 2\), \(4, 2\), \(4, 2\) came; they are all"):
        gae(one, two, one, never, never, 0.9, 0.9)
    with pytest.raises(ValueError, match=r"torch\.float32; give torch\.bool"):
        vtrace(one, one, one, one, one, never, 0.9)
