"""The training loop: act, learn, log, look, save."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from ..agents.policy import Policy
from ..kernels import backend
from ..memory.core import parts
from .config import TrainConfig
from .log import Log, ProgressLine
from .ppo import DivergedError, learn
from .rollout import Window, collect
from .run import RunFolder, Training


class Evaluate(Protocol):
    """Plays fresh episodes greedily and returns figures by name, `success` and `return` among them."""

    def __call__(self, policy: Policy, *, episodes: int, seed: int) -> dict[str, float]:
        """Play `episodes` episodes; other seeds give other episodes."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    why: str  # "done", "solved" or "interrupted"
    steps: int
    seconds: float  # of training and evaluation, over all sessions of the run
    figures: dict[str, float]  # the last evaluation


def train(
    config: TrainConfig, folder: RunFolder, evaluate: Evaluate, *, resume: bool = False, quiet: bool = False
) -> Result:
    """Train until the steps are done, the task is solved (`evaluation.stop_at`) or the user interrupts.

    A resumed run ends with the same bits as one that was never stopped (on a CPU, native environments).

    Raises:
        DivergedError: the loss was no longer a number; the message names the last good checkpoint.
        OSError: a checkpoint or a log could not be written; the earlier checkpoints are good.
    """
    training = Training(config)
    resume = resume and folder.begun()
    if resume:
        training.restore(folder.last())
    log = Log(folder.path, config, training.steps if resume else None)
    why, kernels = "done", ""
    began, saved = time.monotonic() - training.seconds, time.monotonic()
    try:
        _save(training, folder, log)
        with (
            ProgressLine(config.steps, training.steps, quiet=quiet) as progress,
            _polite_interrupt() as interrupted,
        ):
            while training.updates < config.updates and not training.figures.get("solved"):
                said = update(training)
                if not kernels and (kernels := backend.chosen()):
                    log.note("kernels", kernels, training.steps)
                    progress.tell(f"kernels {kernels}")
                if config.evaluation.every and training.updates % config.evaluation.every == 0:
                    training.figures = _look(training, evaluate)
                    said |= {f"eval/{name}": value for name, value in training.figures.items()}
                log.write(training.steps, said)
                progress.update(training.steps, said)
                training.seconds = time.monotonic() - began
                if interrupted():
                    why = "interrupted"
                    break
                if time.monotonic() - saved > config.checkpoint_seconds:
                    _save(training, folder, log)
                    saved = time.monotonic()
        _save(training, folder, log)
    except DivergedError as error:
        raise DivergedError(
            f"training stopped after {training.steps:,} steps: {error}; the last good checkpoint is {folder.last()}"
        ) from None
    finally:
        log.close()
        training.env.close()
    if training.figures.get("solved"):
        why = "solved"
    return Result(why, training.steps, training.seconds, training.figures)


def update(training: Training) -> dict[str, float]:
    """Act for a window, learn from it, and return the figures of both by TensorBoard tag.

    Raises:
        DivergedError: the loss was no longer a number.
    """
    began = time.monotonic()
    window = act(training)
    acted = time.monotonic()
    losses = improve(training, window)
    training.updates += 1
    finished = training.meter.update(window).means()
    return finished | _figures(training, losses, acted - began, time.monotonic() - acted)


def act(training: Training) -> Window:
    """Act for a window; the environments and the memory go on from its end."""
    config = training.config.ppo
    window, training.acting = collect(
        training.env, training.policy, training.acting, config.window, training.sampling, config.cut_returns
    )
    return window


def improve(training: Training, window: Window) -> dict[str, float]:
    """Learn from a window and return the figures of the losses.

    Raises:
        DivergedError: the loss was no longer a number.
    """
    config = training.config
    return learn(
        config.ppo,
        training.policy,
        training.optimizer,
        window,
        training.shuffling,
        remaining=max(0.0, 1 - training.updates / config.updates),
        precision=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
    )


def _save(training: Training, folder: RunFolder, log: Log) -> None:
    log.flush()
    folder.save(training, training.config.keep_checkpoints)


def _look(training: Training, evaluate: Evaluate) -> dict[str, float]:
    """Evaluate; where the success that ends the run is seen, once more on more episodes, to be sure."""
    options = training.config.evaluation
    seed = training.config.seed + 1_000_003 * training.updates  # episodes that no other evaluation of the run has seen
    figures = evaluate(training.policy, episodes=options.episodes, seed=seed)
    if options.stop_at and figures.get("success", 0.0) >= options.stop_at:
        figures = evaluate(training.policy, episodes=options.confirm_episodes, seed=seed + 1)
        figures["solved"] = float(figures["success"] >= options.stop_at)
    return figures


def _figures(training: Training, losses: dict[str, float], acting: float, learning: float) -> dict[str, float]:
    steps = training.config.ppo.batch_steps
    named = {f"losses/{name}": value for name, value in losses.items()}
    named["charts/sps"] = steps / (acting + learning)
    named |= {"time/acting_seconds": acting, "time/learning_seconds": learning}
    named["memory/bytes_per_row"] = float(training.policy.core.state_bytes(training.env.trial_steps or 0))
    for name, part in parts(training.acting.memory).items():
        if part.is_floating_point():
            named[f"memory/state_rms_{name}"] = float(part.float().square().mean().sqrt())
    inputs, policy = training.acting.inputs, training.policy
    with torch.no_grad():
        gates = policy.core.gates(policy.encoder(inputs), training.acting.memory, inputs.trial_start)
    return named | {f"memory/gate_{name}": float(gate.mean()) for name, gate in gates.items()}


@contextmanager
def _polite_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the update in flight finish on Ctrl-C or SIGTERM, so that the checkpoint is whole; a second is immediate."""
    asked = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, _frame: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
