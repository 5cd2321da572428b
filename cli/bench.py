"""`mnemic bench`: speed beside other projects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from . import flags
from .names import choose


@dataclass(frozen=True, kw_only=True)
class BenchTrainOptions:
    """Steps per second of training, end to end, in turns with a peer: same task, same LSTM width, same machine."""

    against: Literal["sb3", "torchrl"] = "sb3"
    """sb3: sb3-contrib's RecurrentPPO. torchrl: its collector, LSTM module, GAE and PPO loss."""
    turns: int = 3
    """How often each side comes on, after a warm-up."""
    windows: int = 2
    """Windows of acting and learning in a turn."""
    rows: int = 0
    """Environments side by side; 0 for as many as the recipe has."""

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name, least in (("turns", 1), ("windows", 1), ("rows", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def bench(argv: list[str]) -> int:
    """Measure and print the ratio."""
    what, rest = flags.take_first(argv)
    if what is None:
        if any(word in flags.HELP for word in rest):
            print("usage: mnemic bench train [--against sb3|torchrl] [flags]\n")
            flags.parse(BenchTrainOptions(), rest, prog="mnemic bench train")
        raise ValueError("say what to measure: `mnemic bench train --against sb3`")
    choose("benchmark", what, ["train"])
    options = flags.parse(BenchTrainOptions(), rest, prog="mnemic bench train")
    from ..train.bench import bench_train, machine

    lines = bench_train(options.against, turns=options.turns, windows=options.windows, rows=options.rows or None)
    console, table = Console(highlight=False), Table()
    for header in ("", "steps/s", "mnemic is faster"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for line in lines:
        table.add_row(line.name, f"{line.steps_per_second:,.0f}", f"{line.ours_over_it:.1f}x")
    console.print(f"training, end to end: {machine()}", style="bold")
    console.print(table)
    return 0
