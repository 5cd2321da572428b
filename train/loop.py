"""The training loop: act, learn, log, look, save."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..agents.policy import Policy
from ..kernels import backend
from ..memory.core import parts
from .arithmetic import Stopwatch, arithmetic
from .config import TrainConfig
from .episodes import Totals, means
from .history import ends_together, go_on, join
from .log import Log, NoLog, ProgressLine
from .ppo import DivergedError, learn
from .ranks import Ranks, RanksError
from .rollout import Window, collect
from .run import RunFolder, Training, begin_from


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
    config: TrainConfig,
    folder: RunFolder,
    evaluate: Evaluate,
    *,
    ranks: Ranks | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Train until the steps are done, the task is solved (`evaluation.stop_at`) or the user interrupts.

    A resumed run ends with the same bits as one that was never stopped (on a CPU, native environments, as many ranks).

    Args:
        config: of the run.
        folder: of the run; the first rank writes to it, all read from it.
        evaluate: plays fresh episodes.
        ranks: the processes that share the rows of the run, all of which call this; None: this one has all.
        resume: go on from the newest checkpoint.
        quiet: no line of progress.

    Raises:
        DivergedError: the loss was no longer a number; the message names the last good checkpoint.
        OSError: a checkpoint or a log could not be written; the earlier checkpoints are good.
        RanksError: the ranks can no longer go on together; the message names the last good checkpoint.
    """
    ranks = ranks or Ranks()
    training = Training(config, ranks)
    resume = resume and folder.begun()
    if resume:
        training.restore(folder.last())
    elif config.init:
        begin_from(training.policy, Path(config.init), training.recall)
    log = Log(folder.path, config, training.steps if resume else None) if ranks.first else NoLog()
    why, kernels = "done", ""
    began, saved = time.monotonic() - training.seconds, time.monotonic()
    try:
        _save(training, folder, log)
        with (
            ProgressLine(config.steps, training.steps, quiet=quiet or not ranks.first) as progress,
            _polite_interrupt(patient=ranks.many) as interrupted,
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
                due = ranks.first and time.monotonic() - saved > config.checkpoint_seconds
                stop, save = ranks.any(interrupted(), due)
                if stop:
                    why = "interrupted"
                    break
                if save:
                    _save(training, folder, log)
                    saved = time.monotonic()
        _save(training, folder, log)
    except (DivergedError, RanksError) as error:
        good = f"; the last good checkpoint is {folder.last()}" if folder.begun() else ""
        raise type(error)(f"training stopped after {training.steps:,} steps: {error}{good}") from None
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
    watch = Stopwatch(training.env.device)
    window = act(training)
    finished = training.meter.update(window)  # a GPU is asked for it while it acts, so that the host does not wait here
    watch.lap()
    losses = improve(training, window)
    training.updates += 1
    ended = means(training.ranks.collect(finished.totals()))
    watch.lap()
    return ended | _figures(training, losses, *watch.seconds())


def act(training: Training) -> Window:
    """Act for a window; the environments and the memory go on from its end.

    On a GPU the window is overwritten by the next call.
    """
    config, env, policy, cutoff = training.config, training.env, training.policy, training.cutoff
    with arithmetic(env.device, config.precision):
        if cutoff is None:
            graph = training.graphs.acting(config.ppo, env, policy, training.acting, training.sampling)
        else:  # ranks that draw for more and for fewer steps must not part for good
            graph = None
            training.sampling.manual_seed((config.seed + 1_000_003 * training.updates) % 2**63)
        if graph is not None:
            window, training.acting = graph(training.acting)
        else:
            window, training.acting = collect(
                env,
                policy,
                training.acting,
                config.ppo.window,
                training.sampling,
                config.ppo.cut_returns,
                stop=config.ppo.trial_end == "stop",
                enough=cutoff,
            )
    if cutoff is not None:
        cutoff.finish()
    return window


def improve(training: Training, window: Window) -> dict[str, float]:
    """Learn from a window and return the figures of the losses.

    Raises:
        DivergedError: the loss was no longer a number.
    """
    config, policy, optimizer, ranks = training.config, training.policy, training.optimizer, training.ranks
    precision = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    remaining = max(0.0, 1 - training.updates / config.updates)
    taken, warmup = training.steps + config.ppo.batch_steps, config.ppo.warmup_steps
    warm = min(1.0, taken / warmup) if warmup else 1.0
    average = ranks.average if ranks.many else None
    whole, skip = _with_history(training, window)
    said: dict[str, float] = {}
    with arithmetic(policy.device, config.precision):
        graph = None
        if training.cutoff is None and not config.ppo.recompute:
            graph = training.graphs.learning(
                config.ppo, policy, optimizer, window, precision=precision, average=average, recall=training.recall
            )
        # For what is random in a core while it learns; the same in all ranks, which must come to the same decisions.
        torch.manual_seed((config.seed + 2_000_003 * (training.updates + 1)) % 2**63)
        if graph is not None:
            return graph(window, training.shuffling, remaining=remaining, warm=warm)
        if training.cutoff is not None:  # windows differ in length, and a rank counts by the steps that it has taken
            played = ranks.collect(len(window.value))
            average = partial(ranks.average, share=len(window.value) / sum(played))
            said = {"window_played": sum(played) / (ranks.world * config.ppo.window)}
        said |= learn(
            config.ppo,
            policy,
            optimizer,
            whole,
            training.shuffling,
            remaining=remaining,
            precision=precision,
            average=average,
            warm=warm,
            skip=skip,
            recall=training.recall,
        )
        if config.ppo.recompute:
            said["recomputed_steps"] = float(len(whole.value) - len(window.value))
            training.history = go_on(
                config.ppo,
                policy,
                whole,
                training.acting,
                training.shuffling,
                lambda number: min(ranks.collect(number)),
            )
    return said


def _with_history(training: Training, window: Window) -> tuple[Window, int]:
    """Return the window with the history before it, and how many of those steps are no part of the loss."""
    ppo = training.config.ppo
    if not ppo.recompute:
        return window, 0
    whole = join(training.history, window)
    return whole, 0 if ppo.full_update and ends_together(window) else len(whole.value) - len(window.value)


def _save(training: Training, folder: RunFolder, log: Log | NoLog) -> None:
    log.flush()
    folder.save(training, training.config.keep_checkpoints)


def _look(training: Training, evaluate: Evaluate) -> dict[str, float]:
    """Evaluate; where the success that ends the run is seen, once more on more episodes, to be sure."""
    options = training.config.evaluation
    figures = _play(training, evaluate, options.episodes, 0)
    if options.stop_at and figures.get("success", 0.0) >= options.stop_at:
        figures = _play(training, evaluate, options.confirm_episodes, 1)
        figures["solved"] = float(figures["success"] >= options.stop_at)
    return figures


def _play(training: Training, evaluate: Evaluate, episodes: int, again: int) -> dict[str, float]:
    """Play episodes that no other evaluation of the run has seen, each rank its share."""
    ranks = training.ranks
    seed = training.config.seed + 1_000_003 * training.updates + 2 * ranks.rank + again
    found = ranks.collect(evaluate(training.policy, episodes=-(-episodes // ranks.world), seed=seed))
    return means([Totals({name: (value, 1) for name, value in figures.items()}, True) for figures in found])


def _figures(training: Training, losses: dict[str, float], acting: float, learning: float) -> dict[str, float]:
    played = losses.pop("window_played", None)
    steps = training.config.ppo.batch_steps * (1.0 if played is None else played)
    named = {f"losses/{name}": value for name, value in losses.items()}
    if played is not None:
        named["time/window_played"] = played
    named["charts/sps"] = steps / (acting + learning)
    named |= {"time/acting_seconds": acting, "time/learning_seconds": learning}
    named["memory/bytes_per_row"] = float(training.policy.core.state_bytes(training.env.trial_steps or 0))
    said: dict[str, Tensor] = {}
    for name, part in parts(training.acting.memory).items():
        if part.is_floating_point():
            said[f"memory/state_rms_{name}"] = part.float().square().mean().sqrt()
    inputs, policy = training.acting.inputs, training.policy
    with torch.no_grad():
        gates = policy.core.gates(policy.encoder(inputs), training.acting.memory, inputs.trial_start)
    said |= {f"memory/gate_{name}": gate.float().mean() for name, gate in gates.items()}
    if said:  # one look for all
        named |= dict(zip(said, torch.stack(list(said.values())).tolist(), strict=True))
    return named


@contextmanager
def _polite_interrupt(*, patient: bool) -> Iterator[Callable[[], bool]]:
    """Let the update in flight finish on Ctrl-C or SIGTERM, so that the checkpoint is whole; a second is immediate.

    With `patient` a second one changes nothing: torchrun passes on what the terminal has sent to all processes already.
    """
    asked = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, _frame: object) -> None:
        asked.set()
        if not patient:
            signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
