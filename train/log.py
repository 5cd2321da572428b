"""Where a run's figures go: TensorBoard, a JSON line per update, and a line of progress on the terminal.

The x axis is environment steps. Tags: `charts/` (episodic return and length, success, steps per second), `losses/`,
`task/` (other figures of the task), `trial/` (return and success by place of the episode in its trial, and the gain:
last whole episode minus first), `memory/` (bytes per row, size of the state, means of the gates), `eval/` and `time/`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from .config import TrainConfig

# The first page of the custom-scalars tab: what one looks at first.
LAYOUT = {
    "mnemic": {
        "return": ["Multiline", ["charts/episodic_return", "eval/return"]],
        "success": ["Multiline", ["charts/success", r"eval/success$"]],
        "steps per second": ["Multiline", ["charts/sps"]],
        "memory: root mean square of the state": ["Multiline", [r"memory/state_rms.*"]],
        "memory: how open its gates are": ["Multiline", [r"memory/gate_.*"]],
        "policy: entropy": ["Multiline", ["losses/entropy"]],
        "policy: how far it moves in an update": ["Multiline", ["losses/approx_kl", "losses/clip_fraction"]],
        "value": ["Multiline", ["losses/value_loss", "losses/explained_variance"]],
        "what the task hides: share of right answers": ["Multiline", ["losses/recall_accuracy"]],
        "return by episode in the trial": ["Multiline", [r"trial/return_episode_.*"]],
        "success by episode in the trial": ["Multiline", [r"trial/success_episode_.*"]],
        "return gained in the trial: last whole episode minus first": ["Multiline", [r"(trial|eval)/gain"]],
        "success gained in the trial": ["Multiline", [r"(trial|eval)/success_gain"]],
    }
}


class Log:
    """Writes figures to TensorBoard and to metrics.jsonl.

    Args:
        folder: the run folder.
        config: shown as a text card.
        resumed_at: the steps that a resumed run goes on from; what was logged beyond (before a kill) is dropped.
    """

    def __init__(self, folder: Path, config: TrainConfig, resumed_at: int | None = None) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=0 if resumed_at is None else resumed_at + 1, flush_secs=10)
        path, partial = folder / "metrics.jsonl", folder / ".metrics.jsonl"
        partial.write_text("".join([] if resumed_at is None else _lines_until(path, resumed_at)))
        os.replace(partial, path)
        self._file = path.open("a", buffering=1)
        if resumed_at is None:
            self._writer.add_custom_scalars(LAYOUT)
            card = json.dumps(config.to_dict(), indent=2).replace("\n", "\n    ")
            self._writer.add_text("configuration", f"    {card}", 0)

    def write(self, steps: int, figures: dict[str, float]) -> None:
        """Log figures by tag at a number of environment steps."""
        for tag, value in figures.items():
            self._writer.add_scalar(tag, value, steps)
        self._file.write(json.dumps({"steps": steps} | figures) + "\n")

    def note(self, tag: str, text: str, steps: int) -> None:
        """Show a text among the figures of TensorBoard."""
        self._writer.add_text(tag, text, steps)

    def flush(self) -> None:
        """Write what is still held back, so that no figure before a checkpoint is lost with the run."""
        self._writer.flush()
        self._file.flush()

    def close(self) -> None:
        """Write what is still held back, and close the files."""
        self._writer.close()
        self._file.close()


class NoLog:
    """In the place of a log, in ranks whose figures the first one writes."""

    def write(self, steps: int, figures: dict[str, float]) -> None:
        """Write nothing."""

    def note(self, tag: str, text: str, steps: int) -> None:
        """Show nothing."""

    def flush(self) -> None:
        """Hold nothing back."""

    def close(self) -> None:
        """Close nothing."""


def _lines_until(path: Path, steps: int) -> list[str]:
    """Return the whole lines of a metrics file up to a number of steps; a line cut short by a kill is dropped."""
    if not path.is_file():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in whole if json.loads(line)["steps"] <= steps]


class ProgressLine:
    """One live line in a terminal; elsewhere a plain line every ten seconds. Made for `with`."""

    def __init__(self, total: int, steps: int, *, quiet: bool = False) -> None:
        self._total, self._quiet = total, quiet
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal and not quiet
        self._began, self._begin_steps, self._spoke = time.monotonic(), steps, time.monotonic()
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=5) for name in ("return", "success")}
        self._bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(bar_width=20),
            _Steps(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("train", total=total, completed=steps, said="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, steps: int, figures: dict[str, float]) -> None:
        """Show where the run stands."""
        if self._quiet:
            return
        for name, recent in self._recent.items():
            if (value := figures.get(f"charts/{'episodic_return' if name == 'return' else name}")) is not None:
                recent.append(value)
        rate = (steps - self._begin_steps) / max(time.monotonic() - self._began, 1e-9)
        said = f"{rate:,.0f} steps/s" + "".join(
            f"  {name} {sum(recent) / len(recent):.3f}" for name, recent in self._recent.items() if recent
        )
        self._bar.update(self._task, completed=min(steps, self._total), said=said)
        if not self._live and time.monotonic() - self._spoke >= 10:
            self._spoke = time.monotonic()
            left = max(self._total - steps, 0) / max(rate, 1e-9)  # the last window can go beyond
            print(
                f"{steps:,}/{self._total:,} steps  {said}  {left:,.0f} s left at most",
                file=sys.stderr,
                flush=True,
            )

    def tell(self, text: str) -> None:
        """Print a line about the run, above the progress line in a terminal."""
        if not self._quiet:
            print(text, flush=True)


class _Steps(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f} steps")
