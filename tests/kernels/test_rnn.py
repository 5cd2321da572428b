"""Recurrent networks: against torch's, against rows cut into trials, and every backend against the definition."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnemic.kernels import rnn
from mnemic.kernels.rnn import loop, reference, step

Close = Callable[[str, Tensor, Tensor], None]
KINDS: dict[str, tuple[int, Callable[..., Any], Callable[..., Any]]] = {
    "lstm": (4, rnn.lstm, rnn.lstm_step),
    "gru": (3, rnn.gru, rnn.gru_step),
    "slstm": (4, rnn.slstm, rnn.slstm_step),
    "elman": (1, rnn.elman, rnn.elman_step),
}
STATE = {
    "lstm": ["hidden", "cell"],
    "gru": ["hidden"],
    "slstm": ["hidden", "cell", "normaliser", "stabiliser"],
    "elman": ["hidden"],
}
LOOPED = ["lstm", "gru"]
PRECISE = [*((kind, "reference") for kind in KINDS), *((kind, "loop") for kind in LOOPED)]
"""What computes in float64."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1, 2, 1), (7, 3, 5, 4, 2), (33, 5, 3, 6, 3), (20, 9, 8, 8, 1)]


def leaves(kind: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    """What the kernel takes, in its order, without the start flags."""
    torch.manual_seed(0)
    time, batch, width, units, heads = shape
    gates = KINDS[kind][0]
    sizes = {
        "x": (time, batch, width),
        "input_weight": (gates * units, width),
        "bias": (gates * units,),
        "recurrent": (gates, heads, units // heads, units // heads),
        **({"recurrent_bias": (units,)} if kind == "gru" else {}),
        **dict.fromkeys(STATE[kind], (batch, units)),
    }
    given = {name: torch.randn(size, dtype=dtype) for name, size in sizes.items()}
    if kind == "slstm":
        given["normaliser"] = given["normaliser"].abs() + 1  # as after any step
    return {name: part.requires_grad_() for name, part in given.items()}


def starts(time: int, batch: int, chance: float) -> Tensor:
    return torch.rand(time, batch, generator=torch.Generator().manual_seed(1)) < chance


def run(
    kind: str, given: dict[str, Tensor], start_TB: Tensor, backend: str | None, recompute: bool = False
) -> dict[str, Tensor]:
    """Outputs, final state, and the gradients of a weighted sum of both."""
    names = ["y", *(f"last_{name}" for name in STATE[kind])]
    results = KINDS[kind][1](*given.values(), start_TB, backend=backend, recompute=recompute)
    torch.manual_seed(2)
    drawn = [torch.randn(part.shape, dtype=torch.promote_types(part.dtype, torch.float32)) for part in results]
    loss = sum((part * some.to(part)).sum() for part, some in zip(results, drawn, strict=True))
    gradients = torch.autograd.grad(loss, list(given.values()))
    found = dict(zip(names, results, strict=True))
    return found | {f"d_{name}": part for name, part in zip(given, gradients, strict=True)}


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chance", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", LOOPED)
def test_loop_is_the_reference(
    kind: str, shape: tuple[int, int, int, int, int], chance: float, dtype: torch.dtype, close: Close
) -> None:
    given, start = leaves(kind, shape, dtype), starts(*shape[:2], chance)
    if dtype is torch.float32:
        given = gentle(given)
    want = run(kind, given, start, "reference")
    for name, got in run(kind, given, start, "loop").items():
        close(name, got, want[name])


@pytest.mark.parametrize("steps", [1, 3, 100])
@pytest.mark.parametrize("kind", LOOPED)
def test_the_steps_whose_derivatives_are_computed_at_once_do_not_matter(
    kind: str, steps: int, close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, start = leaves(kind, (8, 3, 2, 4, 1), torch.float64), starts(8, 3, 0.2)
    monkeypatch.setattr(loop, "AT_ONCE", steps * 4 * 4 * 3)
    want = run(kind, given, start, "reference")
    for name, got in run(kind, given, start, "loop").items():
        close(name, got, want[name])


@pytest.mark.parametrize("kind", LOOPED)
def test_masks_that_stay_on_the_device_forget_like_indices(
    kind: str, close: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off the CPU no step looks at which rows start; the same path, made to run here."""
    given, start = leaves(kind, (9, 4, 3, 4, 1), torch.float64), starts(9, 4, 0.3)
    want = run(kind, given, start, "loop")
    monkeypatch.setattr(loop, "_starting", lambda start_TB: start_TB.unbind(0))
    for name, got in run(kind, given, start, "loop").items():
        close(name, got, want[name])


@pytest.mark.parametrize("backend", ["loop", "reference"])
@pytest.mark.parametrize("kind", LOOPED)
def test_without_starts_it_is_the_one_of_torch(kind: str, backend: str, close: Close) -> None:
    given = leaves(kind, (11, 4, 3, 5, 1), torch.float64)
    theirs = (nn.LSTM if kind == "lstm" else nn.GRU)(3, 5, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(given["input_weight"])
        theirs.weight_hh_l0.copy_(given["recurrent"].flatten(0, 2))
        theirs.bias_ih_l0.copy_(given["bias"])
        theirs.bias_hh_l0.zero_()
        if kind == "gru":
            theirs.bias_hh_l0[10:] = given["recurrent_bias"]
    state = tuple(given[name][None] for name in ("hidden", "cell") if name in given)
    y, last = theirs(given["x"], state if kind == "lstm" else state[0])
    results = (y, *(part[0] for part in last)) if kind == "lstm" else (y, last[0])
    torch.manual_seed(2)
    loss = sum((part * torch.randn_like(part)).sum() for part in results)
    inputs = [given[name] for name in ("x", "hidden", "cell") if name in given]
    parameters = [theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0, theirs.bias_hh_l0]
    d_x, d_hidden, *rest = torch.autograd.grad(loss, inputs + parameters)
    d_cell = [rest.pop(0)] if kind == "lstm" else []
    d_input, d_recurrent, d_bias, d_recurrent_bias = rest

    got = run(kind, given, starts(11, 4, 0.0), backend)
    for name, want in zip(("y", "last_hidden", "last_cell"), results, strict=False):
        close(name, got[name], want)
    close("d_x", got["d_x"], d_x)
    close("d_hidden", got["d_hidden"], d_hidden)
    for want in d_cell:
        close("d_cell", got["d_cell"], want)
    close("d_input_weight", got["d_input_weight"], d_input)
    close("d_recurrent", got["d_recurrent"].flatten(0, 2), d_recurrent)
    close("d_bias", got["d_bias"], d_bias)
    if kind == "gru":
        close("d_recurrent_bias", got["d_recurrent_bias"], d_recurrent_bias[10:])


@pytest.mark.parametrize(("kind", "backend"), PRECISE)
def test_a_row_is_its_trials_one_by_one(kind: str, backend: str, close: Close) -> None:
    given, start = leaves(kind, (20, 3, 3, 4, 2), torch.float64), starts(20, 3, 0.2)
    kernel = KINDS[kind][1]
    with torch.no_grad():
        y, *_ = kernel(*given.values(), start, backend=backend)
        for row in range(3):
            cuts = [0, *(t for t in start[:, row].nonzero()[:, 0].tolist() if t), 20]
            for first, last in pairwise(cuts):
                trial = dict(given)
                trial["x"] = given["x"][first:last, row : row + 1]
                for name in STATE[kind]:
                    state = given[name][row : row + 1]
                    trial[name] = torch.zeros_like(state) if start[first, row] else state
                want, *_ = kernel(*trial.values(), starts(last - first, 1, 0.0), backend=backend)
                close(f"row {row} from {first}", y[first:last, row], want[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_a_window_of_one(kind: str, close: Close) -> None:
    given, start = leaves(kind, (1, 4, 3, 6, 2), torch.float64), torch.tensor([[True, False, False, True]])
    kernel, step = KINDS[kind][1:]
    want = kernel(*given.values(), start)[1:]
    given["x"] = given["x"][0]
    got = step(*given.values(), start[0])
    for one, other in zip(got if isinstance(got, tuple) else [got], want, strict=True):
        close("state", one, other)


@pytest.mark.parametrize(("kind", "backend"), PRECISE)
def test_a_forgotten_past_may_be_nan(kind: str, backend: str) -> None:
    given = leaves(kind, (6, 2, 3, 4, 1), torch.float32)
    start = torch.zeros(6, 2, dtype=torch.bool)
    start[0] = True
    poisoned = dict(given)
    for name in STATE[kind]:
        poisoned[name] = torch.full_like(given[name], torch.nan).requires_grad_()
    want, got = run(kind, given, start, backend), run(kind, poisoned, start, backend)
    for name in want:
        assert torch.equal(got[name], want[name]), name
    assert not got["d_hidden"].any()


@pytest.mark.parametrize("kind", LOOPED)
def test_half_precision_is_computed_in_float32(kind: str, close: Close) -> None:
    given = {name: part.detach().bfloat16() for name, part in leaves(kind, (12, 4, 3, 4, 1), torch.float32).items()}
    start = starts(12, 4, 0.1)
    want = KINDS[kind][1](*(part.float() for part in given.values()), start)
    for got, precise in zip(KINDS[kind][1](*given.values(), start), want, strict=True):
        close("result", got, precise.bfloat16())


@pytest.mark.parametrize("kind", LOOPED)
def test_a_second_derivative_is_refused(kind: str) -> None:
    given, start = leaves(kind, (3, 2, 3, 4, 1), torch.float32), starts(3, 2, 0.0)
    y = KINDS[kind][1](*given.values(), start)[0]
    with pytest.raises(RuntimeError, match=r"not twice differentiable .*use backend 'reference'"):
        torch.autograd.grad(y.sum(), given["x"], create_graph=True)


def test_mistakes_are_named() -> None:
    given, start = leaves("gru", (3, 2, 3, 4, 1), torch.float32), starts(3, 2, 0.0)
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of triton, torchrl, loop, reference"):
        rnn.gru(*given.values(), start, backend="cuda")
    with pytest.raises(ValueError, match=r"start has the shape \(3, 1\)"):
        rnn.gru(*given.values(), start[:, :1])
    with pytest.raises(ValueError, match=r"hidden has the shape \(1, 4\)"):
        rnn.gru(*[*given.values()][:-1], given["hidden"][:1], start)


def test_an_elman_network_is_the_one_of_torch(close: Close) -> None:
    given = leaves("elman", (11, 4, 3, 5, 1), torch.float64)
    theirs = nn.RNN(3, 5, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(given["input_weight"])
        theirs.weight_hh_l0.copy_(given["recurrent"][0, 0])
        theirs.bias_ih_l0.copy_(given["bias"])
        theirs.bias_hh_l0.zero_()
        want, _ = theirs(given["x"], given["hidden"][None])
        close("y", rnn.elman(*given.values(), starts(11, 4, 0.0))[0], want)


def test_an_slstm_is_an_average_weighted_by_exponentials(close: Close) -> None:
    """Without a stabiliser: what was taken in, by weights e^i, over the sum of weights or the largest of them."""
    time, batch, units = 9, 4, 5
    given, start = leaves("slstm", (time, batch, 3, units, 1), torch.float64), starts(time, batch, 0.2)
    start[0] = True
    with torch.no_grad():
        y, *_ = rnn.slstm(*given.values(), start)
        cell = weights = largest = hidden = torch.zeros(batch, units, dtype=torch.float64)
        for t in range(time):
            cell, weights, largest, hidden = (
                part.masked_fill(start[t][:, None], 0.0) for part in (cell, weights, largest, hidden)
            )
            heard = torch.einsum("bj,gij->bgi", hidden, given["recurrent"][:, 0]).flatten(1)
            i, f, z, o = (given["x"][t] @ given["input_weight"].t() + given["bias"] + heard).chunk(4, 1)
            cell = f.sigmoid() * cell + i.exp() * z.tanh()
            weights, largest = f.sigmoid() * weights + i.exp(), torch.maximum(f.sigmoid() * largest, i.exp())
            weights = torch.maximum(weights, largest)
            hidden = o.sigmoid() * cell / weights
            close(f"step {t}", y[t], hidden)


# Sizes that do not fill a block, one step, one row, units by the head, and more units than a program takes at once.
TRITON_SHAPES = [(1, 1, 1, 2, 1), (5, 3, 5, 6, 3), (6, 19, 3, 33, 1)]


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("shape", TRITON_SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_triton_is_the_reference(
    kind: str, shape: tuple[int, int, int, int, int], recompute: bool, close: Close
) -> None:
    given, start = on_device(leaves(kind, shape, torch.float32)), starts(*shape[:2], 0.2).to(DEVICE)
    want = run(kind, given, start, "reference")
    for name, got in run(kind, given, start, "triton", recompute).items():
        close(name, got, want[name])


def gentle(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make recurrent weights so small that rounding does not grow over the steps."""
    small = {"recurrent": 0.3, "input_weight": 0.3}
    return {name: (small.get(name, 1.0) * part.detach()).requires_grad_() for name, part in given.items()}


def on_device(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return gentle leaves on the device."""
    return {name: part.detach().to(DEVICE).requires_grad_() for name, part in gentle(given).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_triton_takes_what_is_not_contiguous(kind: str, close: Close) -> None:
    given, start = on_device(leaves(kind, (4, 3, 5, 6, 1), torch.float32)), starts(4, 3, 0.3).to(DEVICE)
    odd = {
        name: part.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_() for name, part in given.items()
    }
    want = run(kind, given, start, "triton")
    for name, got in run(kind, odd, start.t().contiguous().t(), "triton").items():
        close(name, got, want[name])


@pytest.mark.parametrize("kind", KINDS)
def test_triton_forgets_a_past_of_nan(kind: str) -> None:
    given = on_device(leaves(kind, (6, 2, 3, 4, 1), torch.float32))
    start = torch.zeros(6, 2, dtype=torch.bool, device=DEVICE)
    start[0], start[3, 1] = True, True
    poisoned = dict(given)
    for name in STATE[kind]:
        poisoned[name] = torch.full_like(given[name], torch.nan).requires_grad_()
    want, got = run(kind, given, start, "triton"), run(kind, poisoned, start, "triton")
    for name in want:
        assert torch.equal(got[name], want[name]), name
    assert not any(got[f"d_{name}"].any() for name in STATE[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_triton_in_half_precision(kind: str, close: Close) -> None:
    given, start = on_device(leaves(kind, (9, 4, 3, 6, 2), torch.float32)), starts(9, 4, 0.1).to(DEVICE)
    half = {name: part.detach().bfloat16().requires_grad_() for name, part in given.items()}
    precise = {name: part.detach().float().requires_grad_() for name, part in half.items()}
    want = run(kind, precise, start, "reference")
    for name, got in run(kind, half, start, "triton").items():
        # Gradients are sums over steps of numbers that were rounded: the error is that of the largest.
        size = want[name].abs().max().clamp(min=1.0)
        close(name, (got / size).bfloat16(), (want[name] / size).bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_of_triton_may_run_twice_and_not_be_differentiated(kind: str) -> None:
    given, start = on_device(leaves(kind, (4, 2, 3, 4, 1), torch.float32)), starts(4, 2, 0.2).to(DEVICE)
    y = KINDS[kind][1](*given.values(), start, backend="triton")[0]
    once = torch.autograd.grad(y.sum(), list(given.values()), retain_graph=True)
    again = torch.autograd.grad(y.sum(), list(given.values()), retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    with pytest.raises(RuntimeError, match=r"not twice differentiable .*use backend 'reference'"):
        torch.autograd.grad(y.sum(), given["x"], create_graph=True)


def test_a_backend_says_what_it_has_not() -> None:
    given, start = leaves("slstm", (3, 2, 3, 4, 1), torch.float64), starts(3, 2, 0.0)
    with pytest.raises(ValueError, match="no loop for the cell 'slstm'; what can: reference"):
        rnn.slstm(*given.values(), start, backend="loop")
    with pytest.raises(ValueError, match="not in float64"):
        rnn.slstm(*(part.to(DEVICE) for part in given.values()), start.to(DEVICE), backend="triton")
    with pytest.raises(ValueError, match="torchrl"):
        rnn.slstm(*given.values(), start, backend="torchrl")


@pytest.mark.parametrize("backend", ["loop", "reference"])
def test_any_backend_can_recompute(backend: str, close: Close) -> None:
    given, start = leaves("gru", (7, 3, 3, 4, 1), torch.float64), starts(7, 3, 0.2)
    want = run("gru", given, start, backend)
    for name, got in run("gru", given, start, backend, recompute=True).items():
        close(name, got, want[name])


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chance", [0.0, 0.3])
@pytest.mark.parametrize("kind", LOOPED)
def test_a_step_of_many_rows_is_the_definition(
    kind: str, chance: float, dtype: torch.dtype, heads: int, close: Close
) -> None:
    rows = step.MANY
    x, *given = leaves(kind, (1, rows, 3, 4, heads), dtype).values()
    start = starts(1, rows, chance)[0]
    want = getattr(reference, f"{kind}_step")(x[0], *given, start)
    with torch.no_grad():
        assert step.quick(x[0])
        for part in given[-1:] if kind == "gru" else given[-2:]:  # what is forgotten does not matter
            part[start] = torch.nan
        got = getattr(rnn, f"{kind}_step")(x[0], *given, start)
    for one, other in zip(got if kind == "lstm" else [got], want if kind == "lstm" else [want], strict=True):
        close("state", one, other.detach())
    assert not step.quick(x[0])  # with gradients, it is the definition


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "batch"), [(torch.float32, 2100), (torch.bfloat16, 4200)], ids=str)
@pytest.mark.parametrize("kind", LOOPED)
def test_triton_where_programs_wait_for_each_other(kind: str, batch: int, dtype: torch.dtype, close: Close) -> None:
    given, start = on_device(leaves(kind, (4, batch, 8, 256, 1), torch.float32)), starts(4, batch, 0.2).to(DEVICE)
    given["recurrent"] = (0.2 * given["recurrent"].detach()).requires_grad_()
    rounded = {name: part.detach().to(dtype).requires_grad_() for name, part in given.items()}
    precise = {name: part.detach().float().requires_grad_() for name, part in rounded.items()}
    want = run(kind, precise, start, "reference")
    for name, got in run(kind, rounded, start, "triton").items():
        # Sums over many rows: the error is that of the largest.
        size = want[name].abs().max().clamp(min=1.0)
        close(name, (got / size).to(dtype), (want[name] / size).to(dtype))
