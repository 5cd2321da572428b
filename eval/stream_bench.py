"""What a step costs late in a long trial, by memory, on one trunk: the efficiency table of Memo, measured again.

Source: Memo (arXiv 2510.19732), Table 1: Memo against full context at 32,000 steps.
Departures: streaming Memo, a window and recurrent nets beside. One row is brought to that step by random inputs, and is
then repeated in all rows: what a step costs does not depend on what was seen.
Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch.utils.flop_counter import FlopCounterMode

from ..agents.encoder import EncoderConfig, Inputs
from ..agents.policy import Policy
from ..kernels import backend
from ..memory.core import Core, MemoryConfig, State, map_state, rows
from ..memory.memo import MemoConfig
from ..memory.rnn import GRUConfig, LSTMConfig
from ..memory.transformer import Ring, TransformerConfig
from .stream import bytes_of, check_room
from .turns import Actor

WARM_UP = 8
SEEN, ACTIONS = 16, 6  # what a policy sees and may do here: little beside its trunk


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """The layers that all memories share, and how much each remembers."""

    width: int = 256
    """Features that go into, through and out of the memory."""
    depth: int = 4
    """Layers."""
    heads: int = 8
    """Attention heads, where there are any."""
    mlp: int = 4
    """Hidden width of the gated MLP after each layer, as a multiple of `width`."""
    segment: int = 256
    """Steps of a segment of Memo."""
    summaries: int = 32
    """Tokens of a summary of Memo."""
    sets: int = 24
    """Summaries that streaming Memo keeps."""
    window: int = 1024
    """Steps that the sliding window keeps."""

    def configs(self, steps: int) -> dict[str, MemoryConfig]:
        """Return the memories by name, for trials of so many steps.

        Raises:
            ValueError: sizes that no core can have.
        """
        stack: dict[str, Any] = {"width": self.width, "depth": self.depth, "residual": "add", "mlp": self.mlp}
        heads = stack | {"heads": self.heads}
        memo = heads | {"segment": self.segment, "summaries": self.summaries}
        return {
            "full": TransformerConfig(**heads, context=steps),
            "memo": MemoConfig(**memo, sets=max(1, steps // max(1, self.segment))),
            "memo-streaming": MemoConfig(**memo, sets=self.sets),
            "window": TransformerConfig(**heads, context=self.window),
            "gru": GRUConfig(**stack),
            "lstm": LSTMConfig(**stack),
        }


CASES = {
    "full": "full context: a transformer that keeps the keys and values of all steps",
    "memo": "Memo: summaries of all segments",
    "memo-streaming": "Memo that keeps its newest summaries",
    "window": "a transformer that keeps its newest steps",
    "gru": "GRU layers in the place of attention",
    "lstm": "LSTM layers in the place of attention",
}


@dataclass(frozen=True)
class Cost:
    """What the step cost. Seconds are those of all rows together, operations and bytes of one."""

    parameters: int
    entries: int
    """Keys (and values) in each layer."""
    bytes: float
    """Of the tensors of the memory."""
    flops: float
    """Of this step, by closed form."""
    flops_average: float
    """Of the trial's steps up to this one, by closed form."""
    flops_counted: float
    """Of this step, counted by torch in the products that it makes."""
    settling: float
    """What writing summaries adds to this step, spread over those of a segment, by closed form."""
    median: float
    p99: float
    mean: float
    """Over whole segments, so writing summaries is in it."""
    how: str
    """How steps were taken, in words."""


def cost_of(
    memory: MemoryConfig, steps: int, batch: int, device: torch.device, *, timed: int = 512, capture: bool = True
) -> Cost:
    """Measure the steps of `batch` rows up to step number `steps` of a trial.

    Args:
        memory: what remembers.
        steps: of the trial.
        batch: rows side by side, all in step.
        device: where.
        timed: the last so many steps are timed.
        capture: record them as CUDA graphs, on a GPU.

    Raises:
        ValueError: there are fewer steps than are timed, or no room for the memory.
    """
    check_steps(steps, timed)
    torch.manual_seed(0)
    seen, may = spaces.Box(-1, 1, (SEEN,), np.float32), spaces.Discrete(ACTIONS)
    policy = Policy(EncoderConfig(), memory, seen, may).to(device).eval()
    check_room(policy, batch, steps, device)
    lived = lived_through(policy.core, steps - timed - WARM_UP)
    counted = counted_flops(policy, lived, timed + WARM_UP)
    repeated = rows(lived, torch.zeros(batch, dtype=torch.int64, device=device))
    del lived
    actor = Actor(policy, _inputs(batch, device), memory=repeated, capture=capture)
    del repeated
    seconds = [actor() for _ in range(timed + WARM_UP)][WARM_UP:]
    every = range(0, steps, max(1, steps // 2000))
    return Cost(
        parameters=sum(part.numel() for part in policy.parameters()),
        entries=policy.core.context_entries(steps),
        bytes=bytes_of(actor.mind.memory) / batch,
        flops=policy.flops_per_step(steps - 1),
        flops_average=policy.flops_per_step(0)
        + float(np.mean([policy.core.flops_per_step(step) for step in every]))
        - policy.core.flops_per_step(0),
        flops_counted=counted,
        settling=policy.core.settling_flops(steps - 1),
        median=float(np.median(seconds)),
        p99=float(np.quantile(seconds, 0.99)),
        mean=float(np.mean(seconds)),
        how=actor.how,
    )


def check_steps(steps: int, timed: int) -> None:
    """Refuse a trial that is too short to time its last `timed` steps.

    Raises:
        ValueError: it is.
    """
    if steps <= timed + WARM_UP:
        raise ValueError(f"{steps:,} steps are too few to time the last {timed:,}; {timed + WARM_UP + 1:,} are enough")


def _inputs(batch: int, device: torch.device) -> Inputs:
    """Return what a policy is told in the middle of a trial."""
    zero_B, false_B = torch.zeros(batch, device=device), torch.zeros(batch, dtype=torch.bool, device=device)
    return Inputs(torch.zeros(batch, SEEN, device=device), zero_B.long(), zero_B, false_B, false_B)


@torch.no_grad()
def lived_through(core: Core, steps: int, *, piece: int = 512) -> State:
    """Return the memory of one row that has seen `steps` random inputs of one trial.

    Rings of keys and values are filled with random numbers, since passes over that many inputs would take the square of
    their number. Every other memory is brought there by passes of `piece` inputs.
    """
    weight = next(core.parameters())
    state, generator = core.initial_state(1), torch.Generator(weight.device).manual_seed(0)
    like: dict[str, Any] = {"generator": generator, "device": weight.device, "dtype": weight.dtype}
    if all(isinstance(part, Ring) for part in state):
        return tuple(
            Ring(torch.randn(ring.kv_B2HSK.shape, **like), torch.full_like(ring.seen_B, steps)) for ring in state
        )
    for begin in range(0, steps, piece):
        x_TBD = torch.randn(min(piece, steps - begin), 1, core.width, **like)
        start_TB = torch.zeros(len(x_TBD), 1, dtype=torch.bool, device=weight.device)
        start_TB[0] = begin == 0
        _, state = core.unroll(x_TBD, state, start_TB)
    return state


@torch.no_grad()
def counted_flops(policy: Policy, memory: State, further: int) -> float:
    """Return the operations in the products of one row's step, the last of `further`, as torch counts them."""
    inputs, memory = _inputs(1, policy.device), map_state(torch.clone, memory)
    for _ in range(further - 1):
        _, memory = policy.advance(inputs, memory)
        while policy.core.settles and bool(policy.core.unsettled(memory).any()):
            memory = policy.core.settle(memory)
    with _definitions(), FlopCounterMode(display=False) as counter:
        policy.advance(inputs, memory)
    return float(counter.get_total_flops())


@contextmanager
def _definitions() -> Iterator[None]:
    """Let kernels run as they are defined, in operations that torch counts."""
    backend.prefer([f"{name}=reference" for name in backend.load()])
    try:
        yield
    finally:
        backend.prefer([])


ASKED: dict[str, dict[str, float]] = {
    "memo": {"bytes": 1 / 7, "median": 1 / 2},
    "memo-streaming": {"bytes": 1 / 30, "median": 1 / 2},
}
"""The most that is asked of a memory, as parts of what full context takes; of `median`, on a GPU alone."""


def compared(name: str, cost: Cost, full: Cost | None, device: torch.device) -> dict[str, object]:
    """Return the parts of what full context takes, and which of what is asked are met; of no full context, nothing."""
    if full is None:
        return {}
    parts = {f"{key}_of_full": getattr(cost, key) / getattr(full, key) for key in ("bytes", "flops_average", "median")}
    asked = {key: most for key, most in ASKED.get(name, {}).items() if key == "bytes" or device.type == "cuda"}
    return parts | {"met": {key: bool(parts[f"{key}_of_full"] <= most) for key, most in asked.items()}, "asked": asked}


def names_of(wanted: Sequence[str]) -> list[str]:
    """Return the cases in their order, all where none is named."""
    return [name for name in CASES if name in wanted or not wanted]
