"""Flags from frozen dataclasses, by tyro, with mistakes said in one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, TypeVar

import tyro

from .names import by_likeness

T = TypeVar("T")

HELP = ("-h", "--help")


def take(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Take `flag VALUE` or `flag=VALUE` out of the arguments; the last one counts.

    Returns:
        The value, or None where the flag is not there; and the other arguments.

    Raises:
        ValueError: the flag stands there without a value.
    """
    value, rest, words = None, [], iter(argv)
    for word in words:
        if word == flag:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise ValueError(f"{flag} needs a value; `mnemic train --help` lists what it takes")
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return value, rest


def take_first(argv: list[str]) -> tuple[str | None, list[str]]:
    """Take a first argument that is not a flag."""
    return (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)


def take_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take the arguments before the first flag."""
    place = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    return argv[:place], argv[place:]


def take_many(argv: list[str], flag: str) -> tuple[list[str], list[str]]:
    """Take `flag VALUE ..` out of the arguments: all that stands between it and the next flag.

    Raises:
        ValueError: the flag stands there without a value.
    """
    if flag not in argv:
        value, rest = take(argv, flag)
        return [] if value is None else [value], rest
    place = argv.index(flag)
    values, rest = take_words(argv[place + 1 :])
    if not values:
        raise ValueError(f"{flag} needs a value")
    return values, argv[:place] + rest


def parse(default: T, argv: list[str], *, prog: str, usage: str = "", also: Iterable[str] = ()) -> T:
    """Return `default` with what the flags change.

    Args:
        default: a frozen dataclass, nested or not; a field keeps the type of its value.
        argv: the flags. With --help among them, the flags are printed and the program ends.
        prog: the command, for messages.
        usage: what --help shows for it; empty: the command.
        also: flags that the caller has already taken out, as suggestions for a mistyped one.

    Raises:
        ValueError: an unknown flag, or a value that it does not take.
    """
    if any(word in HELP for word in argv):
        tyro.cli(type(default), default=default, args=["--help"], prog=usage or prog, description="")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found, left = tyro.cli(type(default), default=default, args=argv, prog=prog, return_unknown_args=True)
    except SystemExit:
        raise ValueError(_squeeze(said.getvalue())) from None
    if left:
        raise ValueError(_unknown(left[0], argv, dict(_flags(default)), list(also), prog))
    return found


def _flags(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every flag of a dataclass and its value."""
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            yield from _flags(value, f"{name}.")
        else:
            yield f"--{name}", value


def _unknown(word: str, argv: list[str], flags: dict[str, Any], also: list[str], prog: str) -> str:
    help_line = f"`{prog} --help` lists all flags"
    if not word.startswith("-"):
        for flag, value in flags.items():
            if isinstance(value, bool) and (f"{flag}={word}" in argv or _follows(argv, flag, word)):
                head, dot, tail = flag.removeprefix("--").rpartition(".")
                return f"{flag} takes no value, and {word!r} came; write {flag} or --{head}{dot}no-{tail}"
        return f"unexpected {word!r}; {help_line}"
    name = word.partition("=")[0]
    if any(flag.startswith(f"{name}.") for flag in flags):
        return f"{name} cannot be set here as a whole, but its options can: {name}.X; {help_line}"
    known = [*also, *flags]
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    # `--rows` is close to `--ppo.rows` in the mind, if not in letters.
    near += [flag for flag in known if flag.rpartition(".")[2] == name.lstrip("-") and flag not in near]
    return f"unknown flag {name}; " + (f"close to it: {', '.join(near)}; " if near else "") + help_line


def _follows(argv: list[str], flag: str, word: str) -> bool:
    return any(a == flag and b == word for a, b in pairwise(argv))


def _squeeze(text: str) -> str:
    """Return tyro's box as one line: the words between its first and second rule, in our way of saying it."""
    plain = re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯]", "", text)
    blocks = [" ".join(block.split()) for block in re.split(r"[-─]{8,}", plain)]
    message = blocks[1] if len(blocks) > 1 else blocks[0]
    message = re.sub(r"Error parsing ([^-\s]\S*): ", "", message)
    choice = re.search(r"[Ii]nvalid choice (.+) for argument '(.+)'\. Expected one of \((.+?),?\)\.", message)
    if choice is not None:
        came, flag, choices = choice.groups()
        return f"{flag} takes one of {', '.join(by_likeness(came, choices.split(', ')))}; {came} came"
    for pattern, better in (
        (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.+)", r"\1 takes a whole number, \2 came"),
        (r"Error parsing (\S+): could not convert string to float: (.+)", r"\1 takes a number, \2 came"),
        (r"Missing value for argument '(.+)'\. Expected .*", r"\1 needs a value"),
        (r"Error parsing (\S+): ", r"\1: "),
    ):
        message = re.sub(pattern, better, message)
    return message
