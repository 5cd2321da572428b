"""Steps per second of training: by itself, end to end, acting and learning apart; and beside another project.

Beside another project both sides learn the same task with the same LSTM width, on the same machine in one run. They
take turns, and the ratio is taken turn by turn, so that a machine whose speed drifts does not decide it. A peer runs in
several ways: with the environments that its users have (one Gymnasium environment per row), and with our batched one,
which leaves the trainers alone to be compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ..kernels import backend
from ..kernels.measure import peak_bytes
from .config import TrainConfig
from .loop import act, improve, update
from .run import Training

Peer = Literal["sb3", "torchrl"]
Turn = Callable[[], float]  # trains for one turn and returns its steps per second


@dataclass(frozen=True)
class Line:
    """One side of the comparison."""

    name: str
    steps_per_second: float
    ours_over_it: float  # median over the turns of ours divided by this one


@dataclass(frozen=True)
class Speed:
    """How fast a configuration trains: medians over turns."""

    parameters: int
    steps_per_second: float
    acting: float  # steps per second
    learning: float  # steps per second
    peak_bytes: int  # that an update takes on a GPU beside what stays; 0 on a CPU
    kernels: str  # the backends that ran


def speed_of(config: TrainConfig, *, turns: int = 5, windows: int = 2) -> Speed:
    """Train for a while, then act alone and learn alone for as long.

    Args:
        config: what to train; its figures are worked out as in a run, but not written.
        turns: how often each is measured, after two updates that do not count.
        windows: windows in a turn.
    """
    training = Training(config)
    device, steps = training.policy.device, windows * config.ppo.batch_steps
    try:
        for _ in range(2):
            update(training)
        window = act(training)
        improve(training, window)

        def rate(run: Callable[[], object]) -> float:
            found = []
            for _ in range(turns):
                _wait(device)
                began = time.perf_counter()
                for _ in range(windows):
                    run()
                _wait(device)
                found.append(steps / (time.perf_counter() - began))
            return statistics.median(found)

        return Speed(
            sum(part.numel() for part in training.policy.parameters()),
            rate(lambda: update(training)),
            rate(lambda: act(training)),
            rate(lambda: improve(training, window)),
            peak_bytes(lambda: update(training), device),
            backend.chosen(),
        )
    finally:
        training.env.close()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_comparable(config: TrainConfig) -> None:
    """Refuse what the peers cannot train.

    Raises:
        ValueError: it is not an LSTM on the CPU.
    """
    if config.memory.name != "lstm" or config.device != "cpu":
        raise ValueError(
            f"the peers train an LSTM on the CPU, and memory {config.memory.name} on {config.device} came; "
            "without --against ours is measured alone"
        )


def bench_train(config: TrainConfig, peer: Peer, *, turns: int = 3, windows: int = 2) -> list[Line]:
    """Train in turns and return a line for us and one for each way of running the peer.

    Args:
        config: what both sides train: an LSTM, on the CPU.
        peer: `sb3` (sb3-contrib's RecurrentPPO) or `torchrl` (its collector, LSTMModule, GAE and ClipPPOLoss).
        turns: how often each side comes on; the first turn of each is a warm-up and not counted.
        windows: windows of acting and learning in a turn.

    Raises:
        ValueError: the peer is not installed.
    """
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


def ours(config: TrainConfig, windows: int) -> Turn:
    """Return a turn of our own trainer."""
    training = Training(config)

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(windows):
            update(training)
        return windows * config.ppo.batch_steps / (time.perf_counter() - began)

    return turn
