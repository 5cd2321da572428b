"""The delta rule: the definition against what it must be, chunks and kernels against the definition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from mnemic.kernels.delta_rule import OP, delta_rule
from mnemic.kernels.delta_rule.reference import delta_rule as definition

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ["query", "key", "value", "beta", "log_decay", "state"]
# T, B, H, K, V: one step; less than a chunk; one; one and a bit; several, wider than a block of columns.
SHAPES = [(1, 1, 1, 1, 1), (15, 2, 2, 5, 7), (32, 1, 1, 16, 16), (33, 2, 1, 17, 33), (50, 2, 1, 20, 136)]
RULES = {"linear": (False, 0), "gated": (False, 1), "delta": (True, 0), "gated delta": (True, 1)}
BY_KEY = {"gated by key": (False, 2), "gated delta by key": (True, 2)}
Inputs = dict[str, Tensor | None]
# The interpreter multiplies with numpy, which warns of what a GPU does silently.
SILENT = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def inputs(
    shape: tuple[int, ...], rule: tuple[bool, int], dtype: torch.dtype = torch.float32, device: str = DEVICE
) -> tuple[Inputs, Tensor]:
    steps, batch, heads, key, value = shape
    made = torch.Generator().manual_seed(sum(shape))

    def random(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=made)

    head = (steps, batch, heads)
    decay = random(*head, *((key,) if rule[1] == 2 else ())) + 2
    parts: Inputs = {
        "query": normalize(random(*head, key), dim=-1).to(dtype),
        "key": normalize(random(*head, key), dim=-1).to(dtype),
        "value": random(*head, value).to(dtype),
        "beta": 2 * random(*head).sigmoid().to(dtype) if rule[0] else None,
        "log_decay": logsigmoid(decay).to(dtype) if rule[1] else None,
        "state": random(batch, heads, key, value).to(torch.promote_types(dtype, torch.float32)),
    }
    start = torch.rand(steps, batch, generator=made) < torch.linspace(0.3, 0.05, batch)
    return {name: None if part is None else part.to(device) for name, part in parts.items()}, start.to(device)


def run(parts: Inputs, start: Tensor, backend: str, since: int = 0) -> dict[str, Tensor]:
    """Return outputs and all gradients of a loss on the outputs since a step."""
    leaves = {name: part.detach().requires_grad_() for name, part in parts.items() if part is not None}
    y, last = delta_rule(*(leaves.get(name) for name in NAMES), start, backend)
    found = {"y": y[since:], "last": last}
    weights = torch.Generator().manual_seed(0)
    loss = sum((part.float() * torch.randn(part.shape, generator=weights).to(DEVICE)).sum() for part in found.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return found | {f"d_{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}


def agree(close: Callable[[str, Tensor, Tensor], None], got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Compare each result as a part of its largest number, in the type of the inputs.

    A gradient is a sum of many terms: rounding is a part of the largest, not of each.
    """
    for name, part in want.items():
        assert got[name].dtype == part.dtype
        scale, dtype = part.abs().amax().clamp(min=1), want["y"].dtype
        close(name, (got[name] / scale).to(dtype), (part / scale).to(dtype))


@pytest.mark.parametrize(
    ("rule", "shape", "dtype"),
    [
        *(("gated delta", shape, torch.float32) for shape in SHAPES),
        *((rule, SHAPES[3], dtype) for rule in RULES for dtype in (torch.float32, torch.bfloat16)),
        ("gated delta", SHAPES[4], torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.usefixtures("poison")
def test_kernels_match_the_reference(
    rule: str, shape: tuple[int, ...], dtype: torch.dtype, close: Callable[[str, Tensor, Tensor], None]
) -> None:
    parts, start = inputs(shape, RULES[rule], dtype)
    agree(close, run(parts, start, "triton"), run(parts, start, "reference"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", RULES | BY_KEY)
def test_chunks_match_the_reference(
    rule: str, shape: tuple[int, ...], dtype: torch.dtype, close: Callable[[str, Tensor, Tensor], None]
) -> None:
    parts, start = inputs(shape, (RULES | BY_KEY)[rule], dtype)
    agree(close, run(parts, start, "chunked"), run(parts, start, "reference"))


def test_keys_are_cut_where_they_do_not_know_of_each_other(close: Callable[[str, Tensor, Tensor], None]) -> None:
    parts, start = inputs((20, 2, 1, 140, 4), RULES["gated"])
    agree(close, run(parts, start, "triton"), run(parts, start, "reference"))


@pytest.mark.parametrize("backend", OP.backends)
def test_heads_cut_from_one_projection_need_no_copy(backend: str, close: Callable[[str, Tensor, Tensor], None]) -> None:
    parts, start = inputs((40, 2, 2, 8, 8), RULES["gated delta"])
    joint = torch.cat([part for name in NAMES[:3] if (part := parts[name]) is not None], -1)
    views: Inputs = parts | dict(zip(NAMES, joint.split(8, -1), strict=False))
    agree(close, run(views, start, backend), run(parts, start, "reference"))


@SILENT
@pytest.mark.parametrize("backend", OP.backends)
@pytest.mark.parametrize("past", [1e4, torch.nan])
@pytest.mark.parametrize("at", [0, 1, 37])
@pytest.mark.parametrize("rule", ["linear", "gated delta"])
def test_a_start_leaves_no_trace_of_the_past(rule: str, at: int, past: float, backend: str) -> None:
    parts, start = inputs((50, 2, 1, 4, 5), RULES[rule])
    start[:] = False
    start[at] = True
    if at:
        start[at // 2, 0] = True

    def forgotten(scale: float) -> dict[str, Tensor]:
        mixed = {name: None if part is None else part.clone() for name, part in parts.items()}
        for name, part in mixed.items():
            if part is not None:
                # A log decay is not above 0, however large; the memory is all of it past.
                part[: None if name == "state" else at] *= scale
        found = run(mixed, start, backend, since=at)
        if scale == 1:
            assert not found["d_state"].any()
            assert not any(found[f"d_{name}"][:at].any() for name in NAMES[:3])
        return {name: part[at:] if name[:2] == "d_" and name != "d_state" else part for name, part in found.items()}

    got, want = forgotten(past), forgotten(1.0)
    # The definition multiplies what it forgot by a gradient of 0 on the way back.
    bits = want if backend != "reference" else {name: want[name] for name in ("y", "last")}
    for name in bits.keys() - {"d_state"}:
        assert torch.equal(got[name], want[name]), name


@SILENT
@pytest.mark.parametrize("backend", OP.backends)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_hidden(wrong: float, name: str, backend: str) -> None:
    """It reaches what may depend on it, and nothing before it and nothing after a start."""
    parts, start = inputs((50, 1, 1, 4, 5), RULES["gated delta"])
    start[:] = False
    start[45] = True
    part = parts[name]
    assert part is not None
    part.view(-1)[0 if name == "state" else 10 * part[0].numel()] = wrong
    first = {"state": 0, "query": 10}.get(name, 10)
    y, last = delta_rule(*(parts[each] for each in NAMES), start, backend)
    assert y[:first].isfinite().all()
    assert not y[first].isfinite().all()
    assert name == "query" or not y[44].isfinite().all()
    assert y[45:].isfinite().all()
    assert last.isfinite().all()


@pytest.mark.parametrize("backend", OP.backends)
def test_one_key_again_and_again(backend: str) -> None:
    """Beta near 2 with one key reflects memory at each step: a power series in chunks would be lost in rounding."""
    parts, start = inputs((64, 1, 1, 8, 8), RULES["delta"])
    key, beta = parts["key"], parts["beta"]
    assert key is not None
    assert beta is not None
    parts["key"], parts["beta"] = key[:1].expand_as(key), torch.full_like(beta, 1.99)
    start[:] = False
    got = run(parts, start, backend)
    want = definition(*(part.double().cpu() if part is not None else None for part in parts.values()), start.cpu())
    for each, part in zip((got["y"], got["last"]), want, strict=True):
        torch.testing.assert_close(each.double().cpu(), part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", OP.backends)
def test_a_decay_to_nothing_forgets(backend: str) -> None:
    parts, start = inputs((40, 2, 1, 4, 4), RULES["gated delta"])
    start[:] = False
    decay = parts["log_decay"]
    assert decay is not None
    decay[20] = -torch.inf
    fresh = start.clone()
    fresh[20] = True
    got, want = (delta_rule(*parts.values(), flags, backend) for flags in (start, fresh))
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right)


def test_linear_attention_is_attention_without_softmax() -> None:
    parts, _ = inputs((20, 1, 1, 4, 5), RULES["linear"], torch.float64, "cpu")
    query, key, value, *_ = (part[:, 0, 0] for part in parts.values() if part is not None)
    state = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    y, _ = definition(*list(parts.values())[:5], state, torch.zeros(20, 1, dtype=torch.bool))
    torch.testing.assert_close(y[:, 0, 0], (query @ key.T).tril() @ value)


def test_beta_of_one_stores_the_value_beside_its_key() -> None:
    parts, start = inputs((20, 2, 1, 4, 5), RULES["delta"], torch.float64, "cpu")
    key, value, beta = parts["key"], parts["value"], parts["beta"]
    assert beta is not None
    y, _ = definition(key, key, value, torch.ones_like(beta), None, parts["state"], start)
    torch.testing.assert_close(y, value)


@SILENT
@pytest.mark.parametrize("rule", RULES)
def test_one_step_without_gradients(rule: str, close: Callable[[str, Tensor, Tensor], None]) -> None:
    parts, start = inputs((1, 3, 2, 20, 40), RULES[rule])
    start[0, 1] = True
    state = parts["state"]
    assert state is not None
    state[1] = torch.nan
    got, want = (delta_rule(*parts.values(), start, backend) for backend in ("triton", "reference"))
    close("y", got[0], want[0])
    close("last", got[1], want[1])


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_it_can_be_captured_in_a_graph(close: Callable[[str, Tensor, Tensor], None]) -> None:
    parts, start = inputs((40, 2, 2, 16, 16), RULES["gated delta"])
    want = run(parts, start, "triton")
    graph = torch.cuda.CUDAGraph()
    leaves = {name: part.detach().requires_grad_() for name, part in parts.items() if part is not None}
    with torch.cuda.graph(graph):
        y, last = delta_rule(*leaves.values(), start)
        gradients = torch.autograd.grad(y.sum() + last.sum(), list(leaves.values()))
    graph.replay()
    close("y", y, want["y"])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_what_cannot_run_says_why() -> None:
    parts, start = inputs((4, 1, 1, 4, 4), BY_KEY["gated by key"])
    with pytest.raises(ValueError, match=r"one decay for each head, .* what can: chunked, reference"):
        delta_rule(*parts.values(), start, "triton")
    parts, start = inputs((4, 1, 1, 4, 4), RULES["delta"], torch.float64)
    with pytest.raises(ValueError, match="computes in float32, and float64 came"):
        delta_rule(*parts.values(), start, "triton")
    parts, start = inputs((4, 1, 1, 130, 4), RULES["delta"])
    with pytest.raises(ValueError, match="130 keys is too large for a chip; 128 at most, or any number without beta"):
        delta_rule(*parts.values(), start, "triton")
    with pytest.raises(ValueError, match=r"delta_rule: key of \(4, 1, 1, 3\) came, expected \(4, 1, 1, 130\)"):
        delta_rule(parts["query"], parts["query"][..., :3], *list(parts.values())[2:], start)
