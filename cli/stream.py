"""`mnemic eval RUN --cache POLICY[,POLICY..]`: streams under cache policies, and what each byte of context buys."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..agents.checkpoint import load_policy
from ..agents.policy import Policy
from ..envs import config_to_dict
from ..envs.step import EnvConfig
from ..eval.protocol import check_fit
from ..eval.stream import Stream, check_room, play_stream, trial_of
from ..eval.stream_report import Line, as_data, draw, write_scalars
from ..memory.caches import CACHES, CacheConfig
from ..train.config import TrainConfig
from ..train.run import RunFolder
from . import choices, flags
from .bench_report import describe
from .names import choose
from .runs import checkpoint_of
from .tables import in_words, table, write_new

FLAGS = ("--cache", "--context", "--bins", "--surprise")
"""What asks for streams instead of fresh episodes."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How to play streams. Which policies, and at which budgets, `--cache` and `--context` say."""

    steps: int = 0
    """Steps of each row; must be given. Where trials of the task are shorter, several are played one after another."""
    bins: int = 20
    """Equal parts of the stream, by which everything is kept."""
    rows: int = 16
    """Environments side by side; intervals are over them."""
    seed: int = 0
    """Other seeds give other tasks."""
    sample: bool = False
    """Draw actions as in training, instead of taking the most likely one."""
    surprise: Literal["td", "logprob"] = "td"
    """What policies that rank entries by surprise are told: how far the value was off, or how unlikely the action."""
    capture: bool = True
    """Record steps as CUDA graphs, on a GPU."""
    checkpoint: int = -1
    """Steps of the checkpoint to load; -1 for the newest."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        for name, least in (("rows", 1), ("seed", 0), ("bins", 1), ("checkpoint", -1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if 0 < self.steps < self.bins:
            raise ValueError(f"bins is {self.bins}; it must be at most the {self.steps:,} steps of the stream")


def is_wanted(argv: list[str]) -> bool:
    """Say whether the flags ask for streams."""
    return any(word.partition("=")[0] in FLAGS or word.startswith("--cache.") for word in argv)


def evaluate_streams(folder: RunFolder, config: TrainConfig, argv: list[str]) -> int:
    """Play a stream for every policy and budget; print tables, and write JSON, a PNG and TensorBoard scalars."""
    caches, options = _parse(folder, config, argv)
    choices.check_device(options.device)
    checkpoint = checkpoint_of(folder, options.checkpoint)
    policy = load_policy(checkpoint / "policy", options.device)
    trial, policies = _prepare(policy, caches, options)
    console = Console(highlight=False)
    manner = "sampled" if options.sample else "greedy"
    title = f"{options.env.label}: {options.steps:,} steps in {options.rows} rows, {manner}"
    console.print(f"{title}, checkpoint {int(checkpoint.name):,}", style="bold")
    console.print(_about_trials(trial, options.steps), soft_wrap=True)

    lines: list[Line] = []
    try:
        with _Progress(options.steps) as progress:
            for cache, acts in zip(caches, policies, strict=True):
                progress.begin(Line(cache, Stream(options.rows, trial)).label)
                stream = play_stream(
                    acts,
                    options.env,
                    steps=options.steps,
                    rows=options.rows,
                    bins=options.bins,
                    seed=options.seed,
                    greedy=not options.sample,
                    device=options.device,
                    surprise=options.surprise,
                    gamma=config.ppo.gamma,
                    capture=options.capture,
                    tell=progress.update,
                )
                if stream.bins:
                    lines.append(Line(cache, stream))
                if stream.interrupted:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("interrupted; this was measured before:", file=sys.stderr)
        return 130
    finally:  # whatever ends it, what was measured is kept
        if lines:
            _show(lines, options)
            _write(folder, checkpoint.name, lines, options, f"{folder.path.name}: {title}")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Options(StreamOptions):
    """How to play streams, and on what."""

    env: EnvConfig = field(kw_only=True)
    """Options of the task, as in training unless changed here."""
    cache: Any = field(kw_only=True)
    """Options of the policies that are named."""


def _parse(folder: RunFolder, config: TrainConfig, argv: list[str]) -> tuple[list[CacheConfig], _Options]:
    """Return the policies in the order of the lines, and the options.

    Raises:
        ValueError: a flag is wrong, or flags contradict each other.
    """
    named, rest = _take_list(argv, "--cache")
    contexts, rest = _take_list(rest, "--context")
    names = list(dict.fromkeys(choose("cache", name, CACHES) for name in named))
    if not names and not any(word in flags.HELP for word in argv):
        raise ValueError(f"--cache says what the memory keeps, POLICY[,POLICY..]; choose from {', '.join(CACHES)}")
    budgets = sorted({_budget(word) for word in contexts})
    fields = [(name.replace("-", "_"), CACHES[name]) for name in names]
    own = make_dataclass(
        "Caches", [(name, kind, field(default=kind())) for name, kind in fields], frozen=True, kw_only=True
    )
    prog = f"mnemic eval {folder.path}"
    if any(word in flags.HELP for word in argv):
        width = max(map(len, CACHES))
        print("\n".join(f"  {name:<{width}}  {kind.summary}" for name, kind in CACHES.items()) + "\n")
    options = flags.parse(
        _Options(env=config.env, cache=own()),
        rest,
        prog=prog,
        usage=f"{prog} --cache POLICY[,POLICY..] [--context N[,N..]] --steps N",
        also=("--cache", "--context"),
    )
    if not options.steps:
        raise ValueError("a stream needs --steps N, its length")
    caches: list[CacheConfig] = []
    for name, kind in fields:
        cache: CacheConfig = getattr(options.cache, name)
        bounded = bool(kind().context)
        if budgets and bounded and cache.context != kind().context:
            raise ValueError(f"--cache.{cache.name}.context and --context both say how many entries; give one of them")
        caches += [replace(cache, context=budget) for budget in budgets] if budgets and bounded else [cache]
    if budgets and not any(cache.context for cache in caches):
        raise ValueError(f"--context {budgets[0]} bounds nothing, since full keeps everything; name another policy too")
    return caches, options


def _take_list(argv: list[str], flag: str) -> tuple[list[str], list[str]]:
    """Take `flag A,B C ..` out of the arguments."""
    # Where a value looks like a flag, it is a number below zero, about which there is something better to say.
    joined = re.sub(rf"(?<![^\0]){flag}\0(?=-\d)", f"{flag}=", "\0".join(argv)).split("\0") if argv else argv
    values, rest = flags.take_many(joined, flag)
    return [word for value in values for word in value.split(",") if word], rest


def _budget(word: str) -> int:
    if word == "full":
        raise ValueError("--context takes numbers of entries; what keeps everything is --cache full")
    try:
        budget = int(word)
    except ValueError:
        raise ValueError(
            f"--context takes whole numbers with commas between them, such as 256,512; {word!r} came"
        ) from None
    if budget < 1:
        raise ValueError(f"--context has {budget}; a budget is at least 1 entry")
    return budget


def _prepare(policy: Policy, caches: Sequence[CacheConfig], options: _Options) -> tuple[int | None, list[Policy]]:
    """Return the steps of a trial, None if unknown, and a policy for each line, once all of them can be played.

    Raises:
        ValueError: one of them cannot.
    """
    env = options.env.build(1, options.seed)
    try:
        check_fit(policy, env)
        steps, known = trial_of(env, options.steps), env.trial_steps
    finally:
        env.close()
    policies = [policy.with_core(cache.apply(policy.memory_config, policy.core, steps)) for cache in caches]
    for each in policies:
        check_room(each, options.rows, steps, torch.device(options.device))
    return known, policies


def _about_trials(trial: int | None, steps: int) -> str:
    if trial is None:
        return "how long a trial can get is not known; memory is kept until the task says that one is over"
    if trial >= steps:
        return f"a trial takes up to {trial:,} steps: nothing is forgotten in the stream but what the policies drop"
    count = steps / trial
    return f"a trial takes up to {trial:,} steps: each row plays at least {count:,.0f}, and forgets all in between"


def _show(lines: Sequence[Line], options: _Options) -> None:
    reached, paid = [], []
    for line in lines:
        figures = line.stream.figures()
        reached.append([line.label, *(word for figure in figures.values() for word in in_words(figure))])
        paid.append([line.label, *_cost_words(line.stream)])
    header = ["kept", *(word for name in lines[0].stream.figures() for word in (_TITLES.get(name, name), "95 %"))]
    for made in (
        table(header, reached),
        table(["kept", "entries", "bytes", "FLOPs", "+ settling", "median", "p99", "last/first bin"], paid),
    ):
        console = Console(highlight=False)
        least = Measurement.get(console, console.options.update(width=1000), made).maximum
        console.width = max(console.width, least)  # a terminal breaks a line that is too long; no figure is cut
        console.print(made)
    how = ", ".join(sorted({line.stream.how for line in lines}))
    print(
        "entries, bytes: of one row's memory at the end. FLOPs: of one row's step, on average; settling: summaries.\n"
        f"median, p99: of one step of {options.rows} rows together, without the environments, on "
        f"{describe(torch.device(options.device))}, {how}.\nlast/first bin: of the medians."
    )


_TITLES = {"reward": "reward/step"}


def _cost_words(stream: Stream) -> list[str]:
    cost = stream.costs()
    first, last = (stream.costs([one])["latency_median"] for one in (stream.bins[0], stream.bins[-1]))
    return [
        _count(cost["entries"]),
        _amount(cost["bytes"], "B"),
        _amount(cost["flops"], ""),
        _amount(cost["settling"], "") if cost["settling"] else "",
        _duration(cost["latency_median"]),
        _duration(cost["latency_p99"]),
        f"{last / first:.2f}x",
    ]


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def _amount(value: float, unit: str) -> str:
    """Return a number with three digits and a power of a thousand."""
    if math.isnan(value):
        return ""
    power = next((power for power in (3, 2, 1) if value >= 1000**power), 0)
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G')[power]}{unit}".rstrip()


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _write(folder: RunFolder, checkpoint: str, lines: Sequence[Line], options: _Options, title: str) -> None:
    found = {
        "checkpoint": int(checkpoint),
        "env": config_to_dict(options.env),
        "options": {name: value for name, value in asdict(options).items() if name not in ("env", "cache")},
        "device": describe(torch.device(options.device)),
        "lines": [as_data(line) for line in lines],
    }
    path = write_new(folder.path, f"stream-{checkpoint}-{time.strftime('%Y%m%d-%H%M%S')}", found)
    draw(lines, path.with_suffix(".png"), title)
    write_scalars(lines, path.with_suffix(""))
    print(f"written    {path}, {path.with_suffix('.png').name}, {path.stem}/ (TensorBoard)")


class _Progress:
    """A line that changes in a terminal, else a line every ten seconds, on stderr. Made for `with`."""

    def __init__(self, steps: int) -> None:
        self._steps, console = steps, Console(stderr=True)
        self._live = console.is_terminal
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        self._bar = Progress(*columns, console=console, disable=not self._live, transient=True)
        self._label, self._task = "", self._bar.add_task("", total=steps)
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, label: str) -> None:
        """Say which stream comes next."""
        self._label, self._began = label, time.monotonic()
        self._bar.reset(self._task, description=label, total=self._steps)

    def update(self, steps: int) -> None:
        """Say where it stands."""
        if self._live:
            self._bar.update(self._task, completed=steps)
        elif (now := time.monotonic()) - self._spoke >= 10:
            self._spoke = now
            rate = steps / max(now - self._began, 1e-9)
            left = (self._steps - steps) / max(rate, 1e-9)
            said = f"{self._label}: {steps:,}/{self._steps:,} steps  {rate:,.0f} steps/s  {left:,.0f} s left"
            print(said, file=sys.stderr, flush=True)
