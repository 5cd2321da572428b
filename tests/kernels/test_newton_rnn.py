"""ParaGRU and ParaLSTM: every backend against the definition, the Jacobians, and Newton's method where it diverges."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mnemic.kernels import newton_rnn
from mnemic.kernels.newton_rnn import loop, newton, reference, scans

# Triton's interpreter warns where a GPU returns infinity, of which a sigmoid makes 0.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
Close = Callable[[str, Tensor, Tensor], None]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = {
    "gru": (newton_rnn.para_gru, newton_rnn.para_gru_step, newton_rnn.para_gru_residuals),
    "lstm": (newton_rnn.para_lstm, newton_rnn.para_lstm_step, newton_rnn.para_lstm_residuals),
}
TRITON = [name for name, backend in newton_rnn.OP.backends.items() if backend.triton]
PLAIN = [name for name in newton_rnn.OP.backends if name not in [*TRITON, "reference"]]
# T, B, N, K, J
SHAPES = [(1, 1, 1, 1, 1), (9, 2, 2, 3, 3), (31, 1, 1, 11, 4)]


def leaves(
    kind: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype, spread: float = 0.3
) -> dict[str, Tensor]:
    """What the kernel takes, in its order, without the start flags; `spread` is that of the recurrent weights."""
    time, batch, heads, units, width = shape
    sizes = {
        "x": (time, batch, heads * width),
        "input_weight": (3, heads, units, width),
        "bias": (3, heads * units),
        "recurrent": (3, heads * units),
        **({"peephole": (2, heads * units)} if kind == "lstm" else {}),
        "hidden": (batch, heads * units),
        **({"cell": (batch, heads * units)} if kind == "lstm" else {}),
    }
    made = torch.Generator().manual_seed(0)
    scales = {"input_weight": width**-0.5, "recurrent": spread, "peephole": spread}
    return {
        name: (scales.get(name, 1.0) * torch.randn(size, generator=made)).to(DEVICE, dtype).requires_grad_()
        for name, size in sizes.items()
    }


def starts(time: int, batch: int, chance: float) -> Tensor:
    return (torch.rand(time, batch, generator=torch.Generator().manual_seed(1)) < chance).to(DEVICE)


def run(kind: str, given: dict[str, Tensor], start_TB: Tensor, backend: str | None) -> dict[str, Tensor]:
    """Outputs, final state, and the gradients of a weighted sum of both."""
    results = KINDS[kind][0](*given.values(), start_TB, backend=backend)
    made = torch.Generator().manual_seed(2)
    weights = [torch.randn(part.shape, generator=made).to(part) for part in results]
    loss = sum((part * weight).sum() for part, weight in zip(results, weights, strict=True))
    gradients = torch.autograd.grad(loss, list(given.values()))
    found = dict(zip(("y", "last_hidden", "last_cell"), results, strict=False))
    return found | {f"d_{name}": part for name, part in zip(given, gradients, strict=True)}


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chance", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("kind", KINDS)
def test_all_is_the_reference(
    kind: str,
    backend: str,
    shape: tuple[int, int, int, int, int],
    chance: float,
    dtype: torch.dtype,
    close: Close,
) -> None:
    given, start = leaves(kind, shape, dtype), starts(*shape[:2], chance)
    want = run(kind, given, start, "reference")
    for name, got in run(kind, given, start, backend).items():
        close(name, got, want[name])


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    ("shape", "chance", "dtype"),
    [
        (SHAPES[0], 0.0, torch.float32),
        (SHAPES[1], 0.2, torch.float64),
        (SHAPES[2], 0.1, torch.float32),
        (SHAPES[1], 0.1, torch.bfloat16),
        ((66, 1, 2, 3, 2), 0.05, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize("kind", KINDS)
def test_triton_is_the_reference(
    kind: str,
    backend: str,
    shape: tuple[int, int, int, int, int],
    chance: float,
    dtype: torch.dtype,
    close: Close,
) -> None:
    given, start = leaves(kind, shape, dtype), starts(*shape[:2], chance)
    # Triton computes half precision in float32: the definition gets the same numbers in that type.
    precise = {name: part.detach().float().requires_grad_() for name, part in given.items()}
    want = run(kind, precise if dtype == torch.bfloat16 else given, start, "reference")
    for name, got in run(kind, given, start, backend).items():
        close(name, got, want[name].to(dtype))


@pytest.mark.parametrize("backend", [*TRITON, *PLAIN])
@pytest.mark.parametrize("kind", KINDS)
def test_views_and_strides_do_not_matter(kind: str, backend: str, close: Close) -> None:
    given, start = leaves(kind, (5, 2, 2, 2, 3), torch.float32), starts(5, 2, 0.2)
    want = run(kind, given, start, "reference")
    given["x"] = given["x"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    given["bias"] = given["bias"].detach().repeat_interleave(2, 1)[:, ::2].requires_grad_()
    given["hidden"] = given["hidden"].detach().t().contiguous().t().requires_grad_()
    for name, got in run(kind, given, start.t().contiguous().t(), backend).items():
        close(name, got, want[name])


@pytest.mark.parametrize("backend", [*TRITON, *PLAIN])
@pytest.mark.parametrize("kind", KINDS)
def test_where_newton_diverges_the_steps_are_taken_one_by_one(kind: str, backend: str, close: Close) -> None:
    """Recurrent weights of N(0, 4^2): the residual is above 1 after any number of iterations that pays."""
    given, start = leaves(kind, (32, 1, 1, 8, 4), torch.float64, spread=4.0), starts(32, 1, 0.05)
    with torch.no_grad():
        assert KINDS[kind][2](*given.values(), start, iterations=8)[-1] > 0.1
        want = KINDS[kind][0](*given.values(), start, backend="reference")
        for got, wanted in zip(KINDS[kind][0](*given.values(), start, backend=backend), want, strict=True):
            close("result", got, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_residual_falls_as_it_should_at_the_initial_weights(kind: str) -> None:
    """Quadratically, from 1 to nothing in four iterations, at T = 256 and weights of N(0, 4 / (5 D))."""
    given, start = leaves(kind, (256, 2, 1, 64, 64), torch.float64, spread=2 / (5 * 64) ** 0.5), starts(256, 2, 0.02)
    residual = KINDS[kind][2](*given.values(), start, iterations=5).tolist()
    assert residual[0] > 0.1
    assert residual[3] < 1e-5
    assert residual[5] < 1e-14
    assert all(after < before**1.5 for before, after in pairwise(residual[:5]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_slopes_of_a_step_are_its_derivatives(kind: str, close: Close) -> None:
    """One correction from where the cell is linear enough is exact: the Jacobian against autograd, through the scan."""
    given = {name: part.detach() for name, part in leaves(kind, (1, 1, 1, 6, 4), torch.float64).items()}
    received = reference.gates(reference.project(given["x"], given["input_weight"]), given["bias"])[:, 0]
    weights = [given[name] for name in ("recurrent", "peephole") if name in given]
    state = torch.cat([given[name] for name in ("cell", "hidden") if name in given])

    def step(state: Tensor) -> Tensor:
        if kind == "gru":
            return reference.gru_cell(received, *weights, state)
        return torch.cat(reference.lstm_cell(received, *weights, state[1:], state[:1])[::-1])

    jacobian = torch.autograd.functional.jacobian(step, state).diagonal(dim1=1, dim2=3).permute(2, 0, 1)
    d_state = torch.randn_like(state)
    leaf = {name: part.clone().requires_grad_() for name, part in given.items()}
    results = KINDS[kind][0](*leaf.values(), torch.zeros(1, 1, dtype=torch.bool, device=DEVICE), backend="newton")
    ((results[-1] * d_state[:1]).sum() + ((results[1] * d_state[1:]).sum() if kind == "lstm" else 0)).backward()
    got = torch.cat([leaf[name].grad for name in ("cell", "hidden") if name in leaf])
    close("gradient", got, torch.einsum("hij,ih->jh", jacobian, d_state))


@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_the_scan_of_pairs_is_a_loop(steps: int, close: Close) -> None:
    made = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(steps, 3, 2, generator=made, dtype=torch.float64) for _ in range(4))
    b = tuple(torch.randn(steps, 3, 2, generator=made, dtype=torch.float64) for _ in range(2))
    first = tuple(torch.full((3, 2), torch.nan, dtype=torch.float64) for _ in range(2))
    start = torch.rand(steps, 3, generator=made) < 0.3
    start[0] = True
    left, right = scans.blocks(a, b, first, start)
    f = s = torch.zeros(3, 2, dtype=torch.float64)
    for t in range(steps):
        f, s = (torch.where(start[t][:, None], 0.0, part) for part in (f, s))
        f, s = a[0][t] * f + a[1][t] * s + b[0][t], a[2][t] * f + a[3][t] * s + b[1][t]
        close(f"first at {t}", left[t], f)
        close(f"second at {t}", right[t], s)


@pytest.mark.parametrize("spread", [0.1, 4.0])
@pytest.mark.parametrize("backend", newton_rnn.OP.backends)
@pytest.mark.parametrize("kind", KINDS)
def test_a_start_leaves_no_trace_of_the_past(kind: str, backend: str, spread: float) -> None:
    """The same bits whatever came before, also where the past was solved and what follows is not, or the reverse."""
    given = leaves(kind, (12, 2, 1, 3, 2), torch.float32, spread)
    start = torch.zeros(12, 2, dtype=torch.bool, device=DEVICE)
    start[0] = start[5, 1] = start[7, 0] = True

    def results(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        other = {name: part.detach().clone() for name, part in given.items()}
        other["x"][:7, 0], other["x"][:5, 1] = change(other["x"][:7, 0]), change(other["x"][:5, 1])
        for name in {"hidden", "cell"} & set(other):
            other[name] = torch.full_like(other[name], torch.nan)
        other = {name: part.requires_grad_() for name, part in other.items()}
        y, *last = KINDS[kind][0](*other.values(), start, backend=backend)
        kept = [y[7:, 0], y[5:, 1], *last]
        gradients = torch.autograd.grad(sum(part.sum() for part in kept), list(other.values()))
        d_x = gradients[0]
        assert not d_x[:7, 0].any()
        assert not d_x[:5, 1].any()
        assert not any(part.any() for part in gradients[6 if kind == "lstm" else 4 :])
        return [*kept, d_x[7:, 0], d_x[5:, 1], *gradients[1:4]]

    wanted = results(lambda x: x)
    for changed in (lambda x: x * 1e4, torch.zeros_like):
        for got, want in zip(results(changed), wanted, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_that_stay_on_the_device_forget_like_indices(
    kind: str, close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off the CPU no step of the loop looks at which rows start; the same path, made to run here."""
    given, start = leaves(kind, (9, 4, 2, 3, 2), torch.float64), starts(9, 4, 0.3)
    want = run(kind, given, start, "loop")
    monkeypatch.setattr(loop, "starting", lambda start_TB: start_TB.unbind(0))
    for name, got in run(kind, given, start, "loop").items():
        close(name, got, want[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_a_window_of_one(kind: str, close: Close) -> None:
    given = leaves(kind, (1, 4, 2, 3, 3), torch.float64)
    start = torch.tensor([[True, False, False, True]], device=DEVICE)
    kernel, step, _ = KINDS[kind]
    want = kernel(*given.values(), start)[1:]
    given["x"] = given["x"][0]
    got = step(*given.values(), start[0])
    for one, other in zip(got if kind == "lstm" else [got], want, strict=True):
        close("state", one, other)


def test_what_is_missed_is_missed_until_the_next_start() -> None:
    residual = torch.tensor([0.0, 1.0, 0.0, 0.0, torch.nan, 0.0])[:, None, None]
    start = torch.tensor([False, False, False, True, False, False])[:, None]
    assert newton.missed(residual, start, 0.5).flatten().tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("backend", ["loop", "newton", "triton"])
def test_a_second_derivative_is_refused(backend: str) -> None:
    given, start = leaves("gru", (3, 2, 1, 4, 3), torch.float32), starts(3, 2, 0.0)
    y = newton_rnn.para_gru(*given.values(), start, backend=backend)[0]
    with pytest.raises(RuntimeError, match=r"not twice differentiable .*use 'reference'"):
        torch.autograd.grad(y.sum(), given["x"], create_graph=True)


def test_mistakes_are_named() -> None:
    given, start = leaves("gru", (3, 2, 2, 4, 3), torch.float32), starts(3, 2, 0.0)
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of triton, triton_newton, loop"):
        newton_rnn.para_gru(*given.values(), start, backend="cuda")
    with pytest.raises(ValueError, match=r"start has the shape \(3, 1\).* need \(3, 2\)"):
        newton_rnn.para_gru(*given.values(), start[:, :1])
    with pytest.raises(ValueError, match=r"recurrent has the shape \(3, 4\).* need \(3, 8\)"):
        newton_rnn.para_gru(*[*given.values()][:3], given["recurrent"][:, :4], given["hidden"], start)
    with pytest.raises(ValueError, match=r"input_weight has the shape \(3, 1, 4, 3\).* 6 features"):
        newton_rnn.para_gru(given["x"], given["input_weight"][:, :1], *[*given.values()][2:], start)
