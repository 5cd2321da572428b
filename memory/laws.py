"""The laws of a memory core, for every core of this package and for your own: `check_core(lambda: MyCore(16))`.

Each law builds the core afresh from a fixed seed, without the noise of training mode, leaves the caller's random state
alone, and raises `BrokenLaw` with what it saw, what it expected and where. Rows are at different steps of their trials
throughout, and pasts are lived through `step`, so that a mistake in `unroll` cannot hide in how the past was made.
States are compared by what a core does with them, never by their numbers: those are its own business.

Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from .compare import TOLERANCE, BrokenLaw, finite, identical, same, same_form, zero
from .core import Core, State, detach, from_parts, map_state, parts, rows
from .told import told

__all__ = ["LAWS", "TOLERANCE", "BrokenLaw", "Scale", "check_core"]

HUGE = 1e6

Build = Callable[[], Core]
Form = Literal["step", "unroll"]
FORMS: tuple[Form, Form] = ("step", "unroll")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is tried."""

    batch: int = 4
    """Rows, at least 2."""
    steps: int = 24
    """Steps of a window; give more than what the core treats as a unit (a segment, a context), at least 4."""
    far: int = 100_000
    """Steps of the trial after which the size of the state is looked at again."""
    stream: int = 3_000
    """Steps that must pass without a NaN."""
    seed: int = 0
    """Seed of weights, inputs and starts."""


Law = Callable[[Build, Scale], None]
LAWS: dict[str, Law] = {}
"""The laws by name; each takes what builds the core, and a `Scale`."""


def check_core(build: Build, scale: Scale | None = None) -> None:
    """Hold a core to all laws.

    Args:
        build: makes the core; is called once or more per law.
        scale: how much is tried.

    Raises:
        BrokenLaw: (an AssertionError) for the first law that does not hold.
    """
    for law in LAWS.values():
        law(build, scale or Scale())


def _law(name: str) -> Callable[[Callable[[str, Build, Scale], None]], Law]:
    """Register a law under its name, and seed what it draws."""

    def register(check: Callable[[str, Build, Scale], None]) -> Law:
        @wraps(check)
        def law(build: Build, scale: Scale) -> None:
            if scale.batch < 2 or scale.steps < 4:
                raise ValueError(f"the laws need at least 2 rows and 4 steps, not {scale.batch} and {scale.steps}")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(scale.seed)
                check(name, lambda: told(build().eval()), scale)

        LAWS[name] = law
        return law

    return register


def _inputs(core: Core, steps: int, batch: int) -> Tensor:
    like = next(core.parameters(), torch.empty(0))
    return torch.randn(steps, batch, core.width, dtype=like.dtype, device=like.device)


def _starts(x_TBD: Tensor, chance: float = 0.15) -> Tensor:
    return torch.rand(x_TBD.shape[:2], device=x_TBD.device) < chance


def _never(x_TBD: Tensor) -> Tensor:
    return torch.zeros(x_TBD.shape[:2], dtype=torch.bool, device=x_TBD.device)


def _copy(state: State) -> State:
    """Return the same memory in tensors of its own, without history."""
    return map_state(lambda part: part.detach().clone(), state)


def _leaves(state: State) -> list[Tensor]:
    """Ask for gradients of what can have them."""
    return [part.requires_grad_() for part in parts(state).values() if part.is_floating_point()]


def _lived(core: Core, batch: int, longest: int) -> State:
    """Return the memory of rows that are from 1 to `longest` steps into their trials, each at another step."""
    x_TBD, state = _inputs(core, longest, batch), core.initial_state(batch)
    age_B = torch.linspace(1, longest, batch, device=x_TBD.device).round().long()
    with torch.no_grad():
        for t in range(longest):
            _, state = core.step(x_TBD[t], state, age_B == longest - t)
    return state


def _run(core: Core, form: Form, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
    if form == "unroll":
        return core.unroll(x_TBD, state, start_TB)
    outputs = []
    for x_BD, start_B in zip(x_TBD, start_TB, strict=True):
        y_BD, state = core.step(x_BD, state, start_B)
        outputs.append(y_BD)
    return torch.stack(outputs), state


def _stream(core: Core, state: State, steps: int, piece: int = 500) -> tuple[Tensor, State]:
    """Take many steps without gradients; returns the last output and the memory."""
    y_BD = torch.empty(0)
    with torch.no_grad():
        while steps > 0:
            x_TBD = _inputs(core, min(piece, steps), 1)
            y_TBD, state = core.unroll(x_TBD, state, _never(x_TBD))
            y_BD, steps = y_TBD[-1], steps - len(x_TBD)
    return y_BD, state


def _gradients(loss: Tensor, leaves: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients, zeros where the loss does not depend on a leaf."""
    leaves = list(leaves)
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True, retain_graph=True))


@_law("step is unroll")
def step_is_unroll(law: str, build: Build, scale: Scale) -> None:
    """Steps one by one and one pass over the window give the same outputs, and memories that do the same."""
    for dtype in (torch.float64, torch.float32):
        core = build().to(dtype)
        state = _lived(core, scale.batch, scale.steps)
        x_TBD = _inputs(core, 2 * scale.steps, scale.batch)
        start_TB = _starts(x_TBD)
        start_TB[scale.steps :, 0] = False
        now, later = slice(scale.steps), slice(scale.steps, None)
        with torch.no_grad():
            want, after_steps = _run(core, "step", x_TBD[now], _copy(state), start_TB[now])
            got, after_unroll = _run(core, "unroll", x_TBD[now], _copy(state), start_TB[now])
            same(law, f"outputs in {dtype}", got, want)
            same_form(law, "after unroll", after_unroll, after_steps)
            want, _ = _run(core, "step", x_TBD[later], after_steps, start_TB[later])
            for form in FORMS:
                got, _ = _run(core, form, x_TBD[later], _copy(after_unroll), start_TB[later])
                same(law, f"outputs in {dtype} of {form} from the memory that unroll left", got, want)


@_law("advance then settle is step")
def advance_then_settle_is_step(law: str, build: Build, scale: Scale) -> None:
    """A loop that acts, with `settle` while a row is `unsettled`, has the outputs of `step`, and its memory."""
    for dtype in (torch.float64, torch.float32):
        core = build().to(dtype)
        state = _lived(core, scale.batch, scale.steps)
        x_TBD = _inputs(core, scale.steps, scale.batch)
        start_TB = _starts(x_TBD)
        with torch.no_grad():
            want, after_steps = _run(core, "step", x_TBD, state, start_TB)
            given, outputs = _copy(state), []
            for x_BD, start_B in zip(x_TBD, start_TB, strict=True):
                y_BD, given = core.advance(x_BD, given, start_B)
                outputs.append(y_BD)
                for _ in range(scale.batch if core.settles else 0):
                    if bool(core.unsettled(given).any()):
                        given = core.settle(given)
                if core.settles and bool(core.unsettled(given).any()):
                    raise BrokenLaw(law, f"{scale.batch} calls of settle leave some of {scale.batch} rows unsettled")
            same(law, f"outputs in {dtype}", torch.stack(outputs), want)
            same_form(law, "after advance", given, after_steps)
            for form in FORMS:
                want, _ = _run(core, form, x_TBD, _copy(after_steps), _never(x_TBD))
                got, _ = _run(core, form, x_TBD, _copy(given), _never(x_TBD))
                same(law, f"outputs in {dtype} of {form} from the memory that acting left", got, want)


@_law("chunks do not matter")
def chunks_do_not_matter(law: str, build: Build, scale: Scale) -> None:
    """A window in one piece, or in any pieces with the memory carried over."""
    for dtype in (torch.float64, torch.float32):
        core = build().to(dtype)
        state = _lived(core, scale.batch, scale.steps)
        x_TBD = _inputs(core, scale.steps, scale.batch)
        start_TB = _starts(x_TBD)
        cuts = [[1, scale.steps - 1], [scale.steps - 1, 1], [scale.steps // 2, scale.steps - scale.steps // 2]]
        at = [0, *sorted(torch.randperm(scale.steps - 1)[:3].add(1).tolist()), scale.steps]
        cuts.append([last - first for first, last in pairwise(at)])
        with torch.no_grad():
            want, _ = core.unroll(x_TBD, _copy(state), start_TB)
            for cut in cuts:
                carried, outputs = _copy(state), []
                for x, start in zip(torch.split(x_TBD, cut), torch.split(start_TB, cut), strict=True):
                    y, carried = core.unroll(x, carried, start)
                    outputs.append(y)
                same(law, f"outputs in {dtype} of pieces of {cut} steps", torch.cat(outputs), want)


@_law("forgetting is exact")
def forgetting_is_exact(law: str, build: Build, scale: Scale) -> None:
    """After a start, outputs and gradients are the same bits whatever came before, be it huge, or NaN in the memory."""
    core = build()
    steps, batch = scale.steps, scale.batch
    state, other = _lived(core, batch, steps), _lived(core, batch, steps // 2)
    huge = map_state(lambda part: part * HUGE if part.is_floating_point() else part, state)
    nan = map_state(lambda part: torch.full_like(part, torch.nan) if part.is_floating_point() else part, state)
    x_TBD = _inputs(core, steps, batch)
    chance_TB = _starts(x_TBD)
    time_T1 = torch.arange(steps, device=x_TBD.device)[:, None]
    spread_B = torch.linspace(1, steps - 1, batch, device=x_TBD.device).round().long()
    pasts = [
        ("a huge past, rows that start apart", spread_B, huge, True),
        ("another past, rows that start at once", torch.full_like(spread_B, steps // 2), other, False),
        ("a memory of NaN, rows that start with the first step", torch.zeros_like(spread_B), nan, False),
    ]
    for what, first_B, forgotten, inflate in pasts:
        past_TB = time_T1 < first_B
        start_TB = torch.where(past_TB, chance_TB, time_T1 == first_B)
        x_other = torch.where(past_TB[..., None], x_TBD * HUGE if inflate else x_TBD.flip(0), x_TBD)
        for form in FORMS:
            results = []
            for memory, inputs in ((state, x_TBD), (forgotten, x_other)):
                inputs, memory = inputs.clone().requires_grad_(), _copy(memory)
                remembered = _leaves(memory)
                y_TBD, after = _run(core, form, inputs, memory, start_TB)
                kept = y_TBD[~past_TB]
                loss = (kept * torch.linspace(-1, 1, kept.numel()).to(kept).view_as(kept)).sum()
                d_x, *d_other = _gradients(loss, [inputs, *remembered, *core.parameters()])
                d_state, d_weights = d_other[: len(remembered)], d_other[len(remembered) :]
                after_y, _ = core.step(x_TBD[0], detach(after), _never(x_TBD)[0])
                results.append((kept, after_y, d_x, d_weights))
                zero(law, f"{form}, {what}: gradient to the past inputs", d_x[past_TB])
                for gradient in d_state:
                    zero(law, f"{form}, {what}: gradient to the past memory", gradient)
            (want, want_after, want_x, want_weights), (got, got_after, got_x, got_weights) = results
            identical(law, f"{form}, {what}: outputs after the start", got, want)
            identical(law, f"{form}, {what}: outputs of the memory that is left", got_after, want_after)
            identical(law, f"{form}, {what}: gradient to the inputs after the start", got_x[~past_TB], want_x[~past_TB])
            for (name, _), g, w in zip(core.named_parameters(), got_weights, want_weights, strict=True):
                identical(law, f"{form}, {what}: gradient to the weights {name}", g, w)


@_law("causal")
def causal(law: str, build: Build, scale: Scale) -> None:
    """No output depends on a later input or a later start."""
    core = build().double()
    state = _lived(core, scale.batch, scale.steps)
    x_TBD = _inputs(core, scale.steps, scale.batch).requires_grad_()
    for start_TB in (_never(x_TBD), _starts(x_TBD)):
        y_TBD, _ = core.unroll(x_TBD, _copy(state), start_TB)
        for t in range(0, scale.steps - 1, max(1, scale.steps // 8)):
            (gradient,) = _gradients((y_TBD[t] * torch.randn_like(y_TBD[t])).sum(), [x_TBD])
            zero(law, f"gradient of output {t} to the inputs after it", gradient[t + 1 :])
            x_other, start_other = x_TBD.detach().clone(), start_TB.clone()
            x_other[t + 1 :] = _inputs(core, scale.steps - t - 1, scale.batch)
            start_other[t + 1 :] = ~start_TB[t + 1 :]
            with torch.no_grad():
                y_other, _ = core.unroll(x_other, _copy(state), start_other)
            same(law, f"outputs to {t} when what follows changes", y_other[: t + 1], y_TBD[: t + 1].detach())


@_law("rows are independent")
def rows_are_independent(law: str, build: Build, scale: Scale) -> None:
    """Any order and any split of the batch gives the same rows, and no gradient goes from row to row."""
    for dtype in (torch.float64, torch.float32):
        core = build().to(dtype)
        state = _lived(core, scale.batch, scale.steps)
        x_TBD = _inputs(core, scale.steps, scale.batch)
        start_TB, order = _starts(x_TBD), torch.randperm(scale.batch, device=x_TBD.device)
        one = torch.arange(scale.batch, device=x_TBD.device) == 1
        for form in FORMS:
            inputs, memory = x_TBD.clone().requires_grad_(), _copy(state)
            remembered = _leaves(memory)
            want, _ = _run(core, form, inputs, memory, start_TB)
            d_x, *d_state = _gradients((want[:, one] * torch.randn_like(want[:, one])).sum(), [inputs, *remembered])
            zero(law, f"{form}: gradient of row 1 to the inputs of other rows", d_x[:, ~one])
            for gradient in d_state:
                zero(law, f"{form}: gradient of row 1 to the memory of other rows", gradient[~one])
            with torch.no_grad():
                for some in (order, order[:1], order[1:]):
                    got, _ = _run(core, form, x_TBD[:, some], rows(_copy(state), some), start_TB[:, some])
                    same(law, f"{form} in {dtype}: rows {some.tolist()}", got, want[:, some].detach())


@_law("state is data")
def state_is_data(law: str, build: Build, scale: Scale) -> None:
    """Memory goes in and comes out, survives being written and read, and is as large as `state_bytes` says."""
    core = build()
    state = _lived(core, scale.batch, scale.steps)
    x_TBD = _inputs(core, scale.steps, scale.batch)
    start_TB, weights = _starts(x_TBD), {name: part.clone() for name, part in core.state_dict().items()}
    restored = _written_and_read(state)
    with torch.no_grad():
        for form in FORMS:
            given = _copy(state)
            want, _ = _run(core, form, x_TBD, given, start_TB)
            for name, part in parts(given).items():
                identical(law, f"{form}: the memory that was given, part {name}, afterwards", part, parts(state)[name])
            for name, part in core.state_dict().items():
                identical(law, f"{form}: {name} of the module afterwards", part, weights[name])
            again, _ = _run(core, form, x_TBD, _copy(state), start_TB)
            identical(law, f"{form}: outputs of the same call a second time", again, want)
            got, _ = _run(core, form, x_TBD, _copy(restored), start_TB)
            identical(law, f"{form}: outputs from memory that was written and read", got, want)

    near = min(10, scale.far)
    memory = core.initial_state(1)
    for lived, more in ((near, near), (scale.far, scale.far - near)):
        _, memory = _stream(core, memory, more)
        size = sum(part.numel() * part.element_size() for part in parts(memory).values())
        if size != core.state_bytes(lived):
            raise BrokenLaw(
                law, f"after {lived} steps a row has {size} bytes, state_bytes says {core.state_bytes(lived)}"
            )
        x_1BD = _inputs(core, 1, 1)
        with torch.no_grad():
            want, _ = core.step(x_1BD[0], _copy(memory), _never(x_1BD)[0])
            got, _ = core.step(x_1BD[0], _written_and_read(memory), _never(x_1BD)[0])
        identical(law, f"output from memory that was written and read after {lived} steps", got, want)


def _written_and_read(state: State) -> State:
    """Send memory through safetensors."""
    named = parts(state)
    read = load(save({name: part.contiguous() for name, part in named.items()}))
    return from_parts(state, {name: part.to(named[name].device) for name, part in read.items()})


@_law("gradients agree")
def gradients_agree(law: str, build: Build, scale: Scale) -> None:
    """Unroll has the gradients of steps one by one: to inputs, the memory given and weights, also through memory."""
    core = build().double()
    state = _lived(core, scale.batch, scale.steps)
    x_TBD = _inputs(core, scale.steps + scale.steps // 2, scale.batch)
    start_TB, weighting = _starts(x_TBD, 0.1), torch.randn_like(x_TBD)
    start_TB[:, 0] = False
    now, later = slice(scale.steps), slice(scale.steps, None)
    results = []
    for form in FORMS:
        inputs, memory = x_TBD.clone().requires_grad_(), _copy(state)
        leaves = {"inputs": inputs}
        leaves |= {f"memory {name}": part for name, part in parts(memory).items() if part.is_floating_point()}
        _leaves(memory)
        leaves |= {f"weights {name}": part for name, part in core.named_parameters() if part.requires_grad}
        y_TBD, after = _run(core, form, inputs[now], memory, start_TB[now])
        y_later, _ = _run(core, "step", inputs[later], after, start_TB[later])
        loss = (torch.cat([y_TBD, y_later]) * weighting).sum()
        results.append(dict(zip(leaves, _gradients(loss, leaves.values()), strict=True)))
    for name, want in results[0].items():
        same(law, f"gradient to {name}", results[1][name], want)


@_law("survives")
def survives(law: str, build: Build, scale: Scale) -> None:
    """Half precision, extreme inputs and a long stream leave outputs and gradients finite, and no NaN in memory."""
    for what, dtype, factor in (
        ("bfloat16", torch.bfloat16, 1.0),
        ("inputs of 1e4", torch.float32, 1e4),
        ("inputs of 0", torch.float32, 0.0),
    ):
        core = build().to(dtype)
        state = _lived(core, scale.batch, scale.steps)
        x_TBD = _inputs(core, scale.steps, scale.batch) * factor
        for form in FORMS:
            inputs, memory = x_TBD.clone().requires_grad_(), _copy(state)
            leaves = {"inputs": inputs, **dict(core.named_parameters())}
            y_TBD, after = _run(core, form, inputs, memory, _starts(x_TBD))
            if y_TBD.dtype != dtype:
                raise BrokenLaw(law, f"{what}, {form}: outputs of {y_TBD.dtype}, expected {dtype}")
            same_form(law, f"{what}, {form}", after, state)
            finite(law, f"{what}, {form}", y_TBD, after)
            for name, gradient in zip(leaves, _gradients(y_TBD.sum(), leaves.values()), strict=True):
                if not gradient.isfinite().all():
                    raise BrokenLaw(law, f"{what}, {form}: the gradient to {name} is not finite")
    core = build()
    y_BD, memory = _stream(core, core.initial_state(1), scale.stream)
    finite(law, f"after {scale.stream} steps", y_BD, memory)
