"""What the tests of cache policies share: streams with staggered rows, and what is left of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory import MemoryConfig, make_config
from mnemic.memory.core import Core

# Budgets that are too small for a trial, for a transformer.
TIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("window", {"context": 8}),
    "sinks": ("sinks", {"context": 8, "sinks": 2}),
    "sinks, steps": ("sinks", {"context": 8, "sinks": 2, "positions": "step"}),
    "surprise": ("surprise", {"context": 8, "sinks": 1, "recent": 2, "round_steps": 5}),
    "surprise, episodes": ("surprise", {"context": 8, "sinks": 1, "recent": 2, "positions": "step"}),
    "age": ("age", {"context": 8, "sinks": 1, "recent": 2}),
    "age, steps": ("age", {"context": 8, "sinks": 0, "recent": 0, "positions": "step", "printed": True}),
    "random": ("random", {"context": 8, "sinks": 1, "recent": 2}),
    "thin": ("thin", {"context": 12, "recent": 3}),
    "blocks": ("blocks", {"context": 20, "sinks": 2, "window": 4, "block": 3, "top": 2, "representatives": 2}),
    "blocks, steps": (
        "blocks",
        {"context": 20, "sinks": 0, "window": 4, "block": 3, "top": 2, "representatives": 2, "positions": "step"},
    ),
}
TIGHT_MEMO: dict[str, tuple[str, dict[str, Any]]] = {
    "oldest-sets": ("oldest-sets", {"context": 5 + 3 * 2}),
    "sinks": ("sinks", {"context": 5 + 3 * 2, "sinks": 1}),
    "surprise": ("surprise", {"context": 5 + 4 * 2, "sinks": 1, "recent": 1}),
    "random": ("random", {"context": 5 + 4 * 2, "sinks": 1, "recent": 1}),
}
MEMO: dict[str, Any] = {"segment": 5, "summaries": 2}


class Stream:
    """T steps of rows that start trials at different times, and a surprise for each."""

    def __init__(self, steps: int = 40, width: int = 16) -> None:
        draw = torch.Generator().manual_seed(0)
        self.x_TBD = torch.randn(steps, 3, width, generator=draw, dtype=torch.float64)
        self.surprise_TB = torch.rand(steps, 3, generator=draw)
        self.starts: list[list[int]] = [[0], [0, 13], [0, 1, 25]]
        self.start_TB = torch.zeros(steps, 3, dtype=torch.bool)
        for row, times in enumerate(self.starts):
            self.start_TB[times, row] = True
        self.episode_TB = self.start_TB | (torch.rand(steps, 3, generator=draw) < 0.15)

    def run(self, core: Core, form: str = "advance") -> Tensor:
        """Act; return the outputs."""
        return act(core, self.x_TBD, self.start_TB, self.surprise_TB, self.episode_TB, form)[0]

    def alone(self, core: Core) -> Tensor:
        """Act in every trial by itself, in a batch of one; return the outputs where they were in the stream."""
        y_TBD = torch.zeros_like(self.x_TBD)
        for row, times in enumerate(self.starts):
            for begin, end in zip(times, [*times[1:], len(self.x_TBD)], strict=True):
                at = (slice(begin, end), slice(row, row + 1))
                told = (part[at] for part in (self.x_TBD, self.start_TB, self.surprise_TB, self.episode_TB))
                y_TBD[at] = act(core, *told)[0]
        return y_TBD


def act(
    core: Core,
    x_TBD: Tensor,
    start_TB: Tensor,
    surprise_TB: Tensor,
    episode_TB: Tensor,
    form: str = "advance",
) -> tuple[Tensor, Any]:
    """Act as an evaluator does; return the outputs and the memory."""
    state, outputs = core.initial_state(x_TBD.shape[1]), []
    with torch.no_grad():
        for time, (x_BD, start_B) in enumerate(zip(x_TBD, start_TB, strict=True)):
            told = (episode_TB[time],) if core.episodic else ()
            y_BD, state = getattr(core, form)(x_BD, state, start_B, *told)
            while form == "advance" and core.settles and bool(core.unsettled(state).any()):
                state = core.settle(state)
            if core.judges:
                state = core.judge(state, surprise_TB[time])
            outputs.append(y_BD)
    return torch.stack(outputs), state


def built(name: str, **options: Any) -> tuple[MemoryConfig, Core]:
    """Make a core in float64 whose weights are large enough that attention is not nearly even."""
    torch.manual_seed(1)
    config = make_config(name, **{"width": 16, "heads": 2, **options})
    core = config.build().double()
    for part in core.parameters():
        torch.nn.init.normal_(part, std=0.4)
    return config, core


@pytest.fixture
def stream() -> Stream:
    return Stream()
