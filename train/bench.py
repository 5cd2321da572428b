"""Steps per second of training, end to end, beside another project: same task, same LSTM width, same machine, one run.

Both sides learn the recipe's task. They take turns, and the ratio is taken turn by turn, so that a machine whose speed
drifts does not decide it. A peer runs in several ways: with the environments that its users have (one Gymnasium
environment per row), and with our batched one, which leaves the trainers alone to be compared.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .config import TrainConfig
from .loop import update
from .recipes import endless_tmaze_lstm
from .run import Training

Peer = Literal["sb3", "torchrl"]
Turn = Callable[[], float]  # trains for one turn and returns its steps per second


@dataclass(frozen=True)
class Line:
    """One side of the comparison."""

    name: str
    steps_per_second: float
    ours_over_it: float  # median over the turns of ours divided by this one


def bench_train(peer: Peer, *, turns: int = 3, windows: int = 2, rows: int | None = None) -> list[Line]:
    """Train in turns and return a line for us and one for each way of running the peer.

    Args:
        peer: `sb3` (sb3-contrib's RecurrentPPO) or `torchrl` (its collector, LSTMModule, GAE and ClipPPOLoss).
        turns: how often each side comes on; the first turn of each is a warm-up and not counted.
        windows: windows of acting and learning in a turn.
        rows: environments side by side; None: as in the recipe.

    Raises:
        ValueError: the peer is not installed.
    """
    config = endless_tmaze_lstm()
    config = replace(config, ppo=replace(config.ppo, rows=rows or config.ppo.rows))
    sides: dict[str, Turn] = {"mnemic": ours(config, 10 * windows)}
    try:
        from . import peers
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; `pip install 'mnemic[bench]'` brings the peers") from None
    sides |= peers.sb3_turns(config, windows) if peer == "sb3" else peers.torchrl_turns(config, windows)
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, turn in sides.items():
            seen[name].append(turn())
    counted = {name: rates[1:] for name, rates in seen.items()}
    return [
        Line(
            name,
            statistics.median(rates),
            statistics.median(a / b for a, b in zip(counted["mnemic"], rates, strict=True)),
        )
        for name, rates in counted.items()
    ]


def machine() -> str:
    """Return the machine in words."""
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU, torch {torch.__version__}"


def ours(config: TrainConfig, windows: int) -> Turn:
    """Return a turn of our own trainer."""
    training = Training(config)

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(windows):
            update(training)
        return windows * config.ppo.batch_steps / (time.perf_counter() - began)

    return turn
