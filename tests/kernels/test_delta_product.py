"""Several writes in a step, by every backend, against products of matrices; and exponential gates against theirs."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from mnemic.kernels.delta_rule import OP, delta_product, delta_rule, exponential_gates

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ["query", "key", "value", "beta", "log_decay", "state"]


def inputs(steps: int, writes: int, dtype: torch.dtype, gated: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    made = torch.Generator().manual_seed(steps + writes)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=made)

    batch, heads, key, value = 2, 2, 5, 6
    parts = {
        "query": normalize(random(steps, batch, heads, key), dim=-1),
        "key": normalize(random(steps, writes, batch, heads, key), dim=-1),
        "value": random(steps, writes, batch, heads, value),
        "beta": 2 * random(steps, writes, batch, heads).sigmoid(),
        "log_decay": logsigmoid(random(steps, batch, heads) + 2),
        "state": random(batch, heads, key, value),
    }
    if not gated:
        del parts["log_decay"]
    start = torch.rand(steps, batch, generator=made) < 0.1
    return {name: part.to(DEVICE, dtype) for name, part in parts.items()}, start.to(DEVICE)


def products(parts: dict[str, Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """S = decay S once, then (I - beta k k^T) S + beta k v^T for each write."""
    state, reads = parts["state"], []
    one = torch.eye(parts["key"].shape[-1], dtype=state.dtype, device=state.device)
    for t, start_B in enumerate(start):
        state = torch.where(start_B[:, None, None, None], 0.0, state)
        if "log_decay" in parts:
            state = parts["log_decay"][t].exp()[..., None, None] * state
        for key, value, beta in zip(parts["key"][t], parts["value"][t], parts["beta"][t], strict=True):
            erase = one - beta[..., None, None] * key[..., None] * key[..., None, :]
            state = erase @ state + beta[..., None, None] * key[..., None] * value[..., None, :]
        reads.append((parts["query"][t][..., None, :] @ state)[..., 0, :])
    return torch.stack(reads), state


def results(run: Callable[..., tuple[Tensor, Tensor]], parts: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: part.detach().clone().requires_grad_() for name, part in parts.items()}
    y, last = run(leaves)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return [y, last, *torch.autograd.grad((y * weight).sum() + last.square().sum(), list(leaves.values()))]


@pytest.mark.parametrize("backend", OP.backends)
@pytest.mark.parametrize(("steps", "writes", "gated"), [(1, 2, True), (11, 3, True), (9, 4, False)])
def test_it_is_a_product_of_matrices(
    steps: int, writes: int, gated: bool, backend: str, close: Callable[[str, Tensor, Tensor], None]
) -> None:
    dtype = torch.float32 if backend == "triton" else torch.float64
    parts, start = inputs(steps, writes, dtype, gated)
    want = results(lambda leaves: products(leaves, start), parts)
    got = results(
        lambda leaves: delta_product(*(leaves.get(name) for name in NAMES), start, backend),  # type: ignore[arg-type]
        parts,
    )
    for name, left, right in zip(["y", "last", *parts], got, want, strict=True):
        scale = right.abs().amax().clamp(min=1)
        close(name, left / scale, right / scale)


@pytest.mark.parametrize("backend", OP.backends)
def test_one_write_in_a_step_is_the_delta_rule(backend: str) -> None:
    parts, start = inputs(12, 1, torch.float32)
    got = delta_product(*parts.values(), start, backend)
    once = [part[:, 0] if name in ("key", "value", "beta") else part for name, part in parts.items()]
    for left, right in zip(got, delta_rule(*once, start, backend), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("backend", OP.backends)
def test_two_reflections_are_a_rotation(backend: str) -> None:
    """Across e1, then across a line at 30 degrees to it: by 60 degrees a step, so six steps come back."""
    angle = math.radians(30)
    key = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], device=DEVICE)
    key = key.view(1, 2, 1, 1, 2).expand(6, -1, -1, -1, -1)
    state, one = torch.eye(2, device=DEVICE)[None, None], torch.ones(6, 2, 1, 1, device=DEVICE)
    query = torch.tensor([1.0, 0.0], device=DEVICE).expand(6, 1, 1, 2)
    start = torch.zeros(6, 1, dtype=torch.bool, device=DEVICE)
    y, last = delta_product(query, key, torch.zeros_like(key), 2 * one, None, state, start, backend)
    turned = torch.tensor([[math.cos(k * 2 * angle), -math.sin(k * 2 * angle)] for k in range(1, 7)], device=DEVICE)
    torch.testing.assert_close(y[:, 0, 0], turned, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, state, rtol=1e-4, atol=1e-4)


def plain_tops(log_in: Tensor, log_forget: Tensor, top: Tensor, start: Tensor) -> Tensor:
    found = []
    for into, forget, begins in zip(log_in, log_forget, start, strict=True):
        top = torch.where(begins[:, None], 0.0, top)
        top = torch.maximum(forget + top, into).clamp(min=0)
        found.append(top)
    return torch.stack(found)


def gates(steps: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(steps)
    log_in, log_forget = scale * torch.randn(2, steps, 3, 2, dtype=torch.float64, generator=made)
    top = scale * torch.rand(3, 2, dtype=torch.float64, generator=made)
    return log_in, logsigmoid(log_forget), top, torch.rand(steps, 3, generator=made) < 0.1


def test_gates_by_hand() -> None:
    """The log of the largest weight: 5; it fades to 3; 7 comes; then a start, and -2, which is nothing beside 1."""
    log_in = torch.tensor([5.0, 0.0, 7.0, -2.0]).view(4, 1, 1)
    log_forget = torch.tensor([-1.0, -2.0, -3.0, -1.0]).view(4, 1, 1)
    start = torch.tensor([False, False, False, True]).view(4, 1)
    decay, scale, top = exponential_gates(log_in, log_forget, torch.full((1, 1), 4.0), start)
    assert top.flatten().tolist() == [5, 3, 7, 0]
    assert decay.flatten()[:3].tolist() == [-1 + 4 - 5, 0, -3 + 3 - 7]
    assert scale.flatten().tolist() == [0, -3, 0, -2]


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 65])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gates_in_rounds_are_gates_step_by_step(steps: int, scale: float) -> None:
    log_in, log_forget, top, start = gates(steps, scale)
    decay, into, tops = exponential_gates(log_in, log_forget, top, start)
    torch.testing.assert_close(tops, plain_tops(log_in, log_forget, top, start), rtol=1e-12, atol=1e-12)
    assert (decay[~start] <= 1e-10 * scale).all()
    assert (into <= 1e-10 * scale).all()


def test_gates_forget_bit_for_bit() -> None:
    log_in, log_forget, top, start = gates(40, 10.0)
    start[17] = True
    want = exponential_gates(log_in, log_forget, top, start)
    past = [part.clone() for part in (log_in, log_forget)]
    for part in past:
        part[:17] = torch.nan
    got = exponential_gates(*past, torch.full_like(top, torch.nan), start)
    for left, right in zip(got, want, strict=True):
        assert torch.equal(left[17:], right[17:])


def test_an_idle_memory_keeps_its_scale() -> None:
    idle, top = torch.full((3, 1, 1), -torch.inf), torch.full((1, 1), 6.0)
    decay, scale, tops = exponential_gates(idle, torch.zeros(3, 1, 1), top, torch.zeros(3, 1, dtype=torch.bool))
    assert (tops == 6).all()
    assert (decay == 0).all()
    assert (scale.exp() == 0).all()


@pytest.mark.parametrize("backend", OP.backends)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_exponential_gates_are_the_recurrence_that_has_no_scale(
    scale: float, backend: str, close: Callable[[str, Tensor, Tensor], None]
) -> None:
    """C = f C + e^i k v^T, which float64 can hold up to e^700; outputs and all gradients, also to the state carried.

    Products of kernels have few bits, so that they are compared with gates that do not add up to much.
    """
    dtype = torch.float32 if backend == "triton" else torch.float64
    log_in, log_forget, top, start = (part.to(DEVICE) for part in gates(37, scale))
    made = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 37, 3, 2, 4, dtype=torch.float64, generator=made).to(DEVICE)
    value = torch.randn(37, 3, 2, 5, dtype=torch.float64, generator=made).to(DEVICE)
    state = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=made).to(DEVICE)
    leaves = [log_in, log_forget, top, query, key, value, state]

    def plain(parts: list[Tensor]) -> Tensor:
        log_in, log_forget, top, query, key, value, state = parts
        held, reads = state * top.exp()[..., None, None], []
        totals = plain_tops(log_in, log_forget, top, start).detach()
        for t in range(37):
            held = torch.where(start[t][:, None, None, None], 0.0, held)
            held = log_forget[t].exp()[..., None, None] * held
            held = held + log_in[t].exp()[..., None, None] * key[t][..., None] * value[t][..., None, :]
            # Read in the scale, so that numbers can be compared.
            reads.append((query[t][..., None] * held).sum(-2) * (-totals[t])[..., None].exp())
        return torch.stack(reads)

    def folded(parts: list[Tensor]) -> Tensor:
        log_in, log_forget, top, query, key, value, state = parts
        decay, into, _ = exponential_gates(log_in, log_forget, top, start)
        return delta_rule(query, key * into.exp()[..., None], value, None, decay, state, start, backend)[0]

    found = []
    for run, kind in ((plain, torch.float64), (folded, dtype)):
        given = [part.to(kind).requires_grad_() for part in leaves]
        y = run(given)
        weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y)
        found.append([y, *torch.autograd.grad((y * weight).sum(), given)])
    for index, (want, got) in enumerate(zip(*found, strict=True)):
        size = want.abs().amax().clamp(min=1)
        close(f"result {index}", got / size.to(got), (want / size).to(got))
