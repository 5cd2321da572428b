"""`mnemic COMMAND ...`: finds the command, runs it, and turns mistakes into one line on stderr and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from .. import __version__
from .names import choose


class Command(NamedTuple):
    """A command: how it is called, what it does, and the function `(argv) -> exit code`, imported when it is needed."""

    usage: str
    summary: str
    module: str
    function: str


COMMANDS = {
    "train": Command("[RECIPE] [flags]", "train an agent: a recipe, or any task with any memory", ".train", "train"),
    "resume": Command("RUN", "go on with a run that was stopped", ".train", "resume"),
    "eval": Command(
        "RUN|oracle|memoryless|random [flags]", "play fresh episodes: figures with intervals", ".evaluate", "evaluate"
    ),
    "diagnose": Command(
        "RUN [flags]", "what a memory holds, for how long, and what long lives do to it", ".diagnose", "diagnose"
    ),
    "play": Command("RUN [flags]", "watch an agent in the terminal, or as a GIF", ".play", "play"),
    "report": Command(
        "RUN.. [flags]", "runs side by side: tables with intervals, curves, one page", ".report", "report"
    ),
    "list": Command("[WHAT]", "what there is: envs, memories, recipes, kernels", ".listing", "listing"),
    "bench": Command("WHAT [flags]", "measure kernels, training or environments, beside others", ".bench", "bench"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 where a run broke down, 2 for a mistake, 130 for Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _say("interrupted", 130) if _is_spokesman() else 130
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        text, code = _explained(error)
        if not _is_spokesman():
            return code
        if text is None:
            raise
        return _say(text, code)


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if args[0] in ("-V", "--version", "version"):
        print(f"mnemic {__version__}")
        return 0
    name = choose("command", args[0], COMMANDS, more="`mnemic --help` says what each does")
    command = COMMANDS[name]
    function: Callable[[list[str]], int] = getattr(
        importlib.import_module(command.module, __package__), command.function
    )
    return function(args[1:])


def _help() -> str:
    shown = {f"mnemic {name} {command.usage}": command.summary for name, command in COMMANDS.items()}
    width = max(map(len, shown))
    return "\n".join(
        [
            "mnemic: train, stress and deploy agents that must remember",
            "",
            *(f"  {usage:<{width}}  {summary}" for usage, summary in shown.items()),
            "",
            "  mnemic COMMAND --help   all flags of a command",
            "  mnemic --version        the version",
            "",
            "Begin with `mnemic train`: it solves a memory task in about a minute.",
        ]
    )


def _explained(error: Exception) -> tuple[str | None, int]:
    """Return what there is to say about an error, or None for a bug, which keeps its traceback; and the exit code."""
    if isinstance(error, OSError):
        return _os_error(error), 2
    if isinstance(error, ValueError) and _on_purpose(error.__traceback__):
        return str(error), 2
    if isinstance(error, RuntimeError) and _on_purpose(error.__traceback__):
        return str(error), 1  # training diverged, or the process of an environment died
    return None, 1


def _say(text: str, code: int) -> int:
    print(f"mnemic: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return code


def _is_spokesman() -> bool:
    """Say whether it is this process that tells what went wrong, where torchrun has started many."""
    if "LOCAL_RANK" not in os.environ:
        return True
    from ..train.ranks import is_spokesman

    return is_spokesman()


def _os_error(error: OSError) -> str:
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    reason = error.strerror or str(error)
    return f"{files}: {reason}" if files else reason


def _on_purpose(trace: TracebackType | None) -> bool:
    """Say whether a line of mnemic raised the error. One that a library raised is a bug, and keeps its traceback."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("mnemic.")
