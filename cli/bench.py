"""`mnemic bench`: speed, beside what the device can do and beside other projects, always in one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.status import Status

from ..envs import ENVS
from ..eval import stream_bench
from ..eval.stream_bench import Trunk
from ..kernels import benches
from ..kernels.measure import Timing, copy_bandwidth, matmul_rate
from ..train.config import TrainConfig
from . import choices, flags
from .bench_report import Report, Row, begin, load, save, show, write_page
from .names import choose
from .rewriting import bench_rewriting

WHAT = {
    "kernels": "[OP ..] each kernel: time, share of what the device can do, ratio to peers",
    "train": "steps per second of training by memory, rows and width, or beside another project",
    "envs": "[NAME ..] steps per second of the environments alone",
    "stream": "[CASE ..] bytes, operations and latency of a step late in a long trial, beside full context",
    "rewriting": "[PART ..] memory rewriting: every memory trained and tested on Endless T-Maze and Color-Cubes",
    "page": "F.json .. puts reports into the tables of a page",
}


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where it is measured, and where the figures go."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads; 0: up to four, one on a busy machine."""
    json: str = ""
    """Write the report to this file too."""
    out: str = ""
    """Put the tables into this page too, such as docs/performance.md."""

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name, least in _LEAST:
            if getattr(self, name, least) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("rows", "width"):
            if any(number < 1 for number in getattr(self, name, ())):
                raise ValueError(f"{name} is {' '.join(map(str, getattr(self, name)))}; each must be at least 1")


_ENV_ROWS = {  # by whether pictures are drawn, and whether there is a GPU
    (False, False): (4096,),
    (False, True): (4096, 65536, 1048576),
    (True, False): (16,),
    (True, True): (1024, 4096),
}
_LEAST = (("threads", 0), ("turns", 1), ("windows", 1), ("steps", 1), ("timed", 1))


@dataclass(frozen=True, kw_only=True)
class BenchKernelsOptions(Output):
    """Every kernel: checked against its definition, then timed beside its peers."""

    quick: bool = False
    """Few and small sizes, less time for each."""


@dataclass(frozen=True, kw_only=True)
class BenchEnvsOptions(Output):
    """Steps per second of environments, with actions drawn beforehand."""

    rows: tuple[int, ...] = ()
    """Environments side by side, one or more numbers; none: 4096, and on a GPU 65536 and 1048576 too; of those that
    draw pictures 16, and on a GPU 1024 and 4096."""
    steps: int = 64
    """Steps in one measurement."""


@dataclass(frozen=True, kw_only=True)
class BenchTrainOptions(Output):
    """Steps per second of training; the options of a run (--ppo.X, --memory.X, --env.X, --precision) hold here too."""

    against: Literal["none", "sb3", "torchrl"] = "none"
    """sb3: in turns with sb3-contrib's RecurrentPPO. torchrl: its collector, LSTM module, GAE and PPO loss."""
    rows: tuple[int, ...] = ()
    """Environments side by side, one or more numbers; none: as many as the recipe has."""
    width: tuple[int, ...] = ()
    """Widths of the memory, one or more numbers; none: that of the recipe."""
    turns: int = 3
    """How often each is measured, after a warm-up."""
    windows: int = 2
    """Windows of acting and learning in a turn."""


def bench(argv: list[str]) -> int:
    """Measure and print."""
    what, rest = flags.take_first(argv)
    if what is None:
        if any(word in flags.HELP for word in rest):
            width = max(map(len, WHAT))
            print("usage: mnemic bench WHAT [flags]\n\n" + "\n".join(f"  {w:<{width}}  {s}" for w, s in WHAT.items()))
            print("\n  mnemic bench WHAT --help   all flags")
            return 0
        raise ValueError(f"say what to measure: `mnemic bench kernels`; choose one of {', '.join(WHAT)}")
    command = {
        "kernels": bench_kernels,
        "train": bench_train,
        "envs": bench_envs,
        "stream": bench_stream,
        "rewriting": bench_rewriting,
        "page": bench_page,
    }
    return command[choose("benchmark", what, WHAT)](rest)


def bench_kernels(argv: list[str]) -> int:
    """Measure kernels."""
    wanted, rest = flags.take_words(argv)
    options = flags.parse(BenchKernelsOptions(), rest, prog="mnemic bench kernels [OP ..]")
    there = benches.names()
    wanted = [choose("kernel", name, there) for name in wanted] or there
    device = _device(options)
    report = begin("kernels", device, ["kernels", *argv])
    with _Progress() as progress:
        progress.say("what the device can do")
        copy = copy_bandwidth(device)
        report.limits.update({"copy": copy} | _products(device))
        for found in benches.survey(wanted, device, quick=options.quick, say=progress.say):
            report.rows.append(_kernel_row(report, found))
    return _finish(report, options, progress)


def _products(device: torch.device) -> dict[str, float]:
    """Return the operations per second of large matrix products, by type; a size that names none is float32."""
    found = {}
    for name, dtype, precision in (("float32", torch.float32, "highest"), ("tf32", torch.float32, "high")):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        if name == "float32" or device.type == "cuda":
            found[name] = matmul_rate(device, dtype)
        torch.set_float32_matmul_precision(before)
    return found | {"bfloat16": matmul_rate(device, torch.bfloat16)}


def _kernel_row(report: Report, found: Timing | benches.Failure) -> Row:
    row: Row = {"op": found.op, "size": found.size, "name": found.name}
    if isinstance(found, benches.Failure):
        return row | {"failure": found.reason}
    kind = next((kind for kind in ("bfloat16", "tf32") if kind in found.size and kind in report.limits), "float32")
    first = next((r for r in report.rows if r["op"] == found.op and r["size"] == found.size), None)
    return row | {
        "peer": found.peer,
        "seconds": found.seconds,
        "of_copy": found.bytes_per_second / report.limits["copy"],
        "of_products": found.flops_per_second / report.limits[kind],
        "peak_bytes": found.peak_bytes,
        "ours_over_it": found.seconds / first["seconds"] if first and "seconds" in first else None,
    }


def bench_envs(argv: list[str]) -> int:
    """Measure environments."""
    wanted, rest = flags.take_words(argv)
    options = flags.parse(BenchEnvsOptions(), rest, prog="mnemic bench envs [NAME ..]")
    wanted = [choose("environment", name, ENVS) for name in wanted] or list(ENVS)
    device = _device(options)
    from ..train.bench_envs import env_speed

    report = begin("envs", device, ["envs", *argv])
    with _Progress() as progress:
        progress.say("what the device can do")
        report.limits["copy"] = copy_bandwidth(device)
        for name in wanted:
            config = choices.env_config(name)
            for rows in options.rows or _ENV_ROWS[config.draws, device.type == "cuda"]:
                progress.say(f"{name}, {rows:,} rows")
                row: Row = {"env": name, "environments": rows}
                try:
                    speed = env_speed(config, rows, device, steps=options.steps)
                    row |= speed._asdict()
                    row["of_copy"] = speed.steps_per_second * speed.bytes / report.limits["copy"]
                except (RuntimeError, ValueError) as error:  # too large for the device, for one
                    row["failure"] = benches.reason(error)
                report.rows.append(row)
    return _finish(report, options, progress)


@dataclass(frozen=True, kw_only=True)
class BenchStreamOptions(Output):
    """What a step costs late in a long trial: memories on one trunk, beside full context."""

    steps: int = 32_000
    """Step of the trial at which it is measured."""
    rows: tuple[int, ...] = (1, 16)
    """Environments side by side, one or more numbers."""
    timed: int = 512
    """The last so many steps are timed."""
    capture: bool = True
    """Record steps as CUDA graphs, on a GPU."""
    trunk: Trunk = field(default_factory=Trunk)
    """The layers that all memories share, and how much each remembers."""


def bench_stream(argv: list[str]) -> int:
    """Measure what a step costs late in a long trial."""
    wanted, rest = flags.take_words(argv)
    options = flags.parse(BenchStreamOptions(), rest, prog="mnemic bench stream [CASE ..]")
    names = stream_bench.names_of([choose("case", name, stream_bench.CASES) for name in wanted])
    configs = options.trunk.configs(options.steps)
    stream_bench.check_steps(options.steps, options.timed)
    device = _device(options)
    report, trunk = begin("stream", device, ["stream", *argv]), options.trunk
    setting = f"step {options.steps:,} of a trial, {trunk.depth} layers of {trunk.width}, MLP of {trunk.mlp}"
    with _Progress() as progress:
        for rows in options.rows:
            full: stream_bench.Cost | None = None
            for name in names:
                progress.say(f"{name}, {rows:,} rows")
                row: Row = {"setting": setting, "name": name, "what": stream_bench.CASES[name], "environments": rows}
                try:
                    cost = stream_bench.cost_of(
                        configs[name], options.steps, rows, device, timed=options.timed, capture=options.capture
                    )
                    full = cost if name == "full" else full
                    row |= dataclasses.asdict(cost) | stream_bench.compared(name, cost, full, device)
                except (RuntimeError, ValueError) as error:  # too large for the device, for one
                    row["failure"] = benches.reason(error)
                report.rows.append(row)
    return _finish(report, options, progress)


@dataclass(frozen=True, kw_only=True)
class _TrainOptions(BenchTrainOptions, TrainConfig):
    """Steps per second of training; the options of a run hold here too."""

    def __post_init__(self) -> None:
        BenchTrainOptions.__post_init__(self)
        TrainConfig.__post_init__(self)


def bench_train(argv: list[str]) -> int:
    """Measure training."""
    memories, rest = flags.take_many(argv, "--memory")
    env, rest = flags.take(rest, "--env")
    config = (choices.recipe_for(env) if env else None) or choices.recipe_config("endless-tmaze-lstm")
    if env and env != config.env.label:
        config = replace(config, env=choices.env_config(env))
    kinds = {name: choices.memory_config(name) for name in memories} or {config.memory.name: config.memory}
    if len(kinds) > 1 and any(word.startswith("--memory.") for word in rest):
        raise ValueError("--memory.X belongs to one memory, and several came; name one, or use --width")
    config = replace(config, memory=next(iter(kinds.values())))
    options = flags.parse(
        _TrainOptions(**_fields(config, TrainConfig)),
        rest,
        prog="mnemic bench train",
        usage="mnemic bench train [--memory NAME ..] [--env NAME]",
        also=("--memory", "--env"),
    )
    device = _device(options)
    config = TrainConfig(**_fields(options, TrainConfig))
    choices.check_kernels(config)
    if len(kinds) == 1:
        kinds = {config.memory.name: config.memory}
    configs = [
        replace(config, memory=replace(memory, width=width), ppo=replace(config.ppo, rows=rows), threads=0)
        for memory in kinds.values()
        for width in options.width or (memory.width,)
        for rows in options.rows or (config.ppo.rows,)
    ]
    if options.against != "none":
        from ..train.bench import check_comparable

        for each in configs:
            check_comparable(each)
    report = begin("train" if options.against == "none" else "peers", device, ["train", *argv])
    with _Progress() as progress:
        for each in configs:
            progress.say(f"{each.memory.name}-{each.memory.width}, {each.ppo.rows:,} rows")
            report.rows.extend(_trained(each, options) if options.against == "none" else _compared(each, options))
    return _finish(report, options, progress)


def _setting(config: TrainConfig) -> str:
    ppo = config.ppo
    precision = "float32" if config.device == "cpu" and config.precision == "tf32" else config.precision
    setting = f"{config.env.label}, windows of {ppo.window}, {ppo.epochs} epochs, {ppo.minibatches} minibatches, "
    asked = [f"--{name.replace('_', '-')}" for name in ("compile", "separate_critic") if getattr(config, name)]
    return ", ".join([setting + precision, *asked])


def _trained(config: TrainConfig, options: BenchTrainOptions) -> Iterable[Row]:
    from ..train.bench import speed_of

    row: Row = {"setting": _setting(config), "memory": config.memory.name, "width": config.memory.width}
    row |= {"environments": config.ppo.rows, "parameters": 0}
    try:
        return [row | dataclasses.asdict(speed_of(config, turns=options.turns, windows=options.windows))]
    except (RuntimeError, ValueError) as error:  # too large for the device, for one
        return [row | {"failure": benches.reason(error)}]


def _compared(config: TrainConfig, options: BenchTrainOptions) -> Iterable[Row]:
    from ..train.bench import bench_train as compare

    assert options.against != "none"
    setting = f"{_setting(config)}: {config.memory.name}-{config.memory.width}, {config.ppo.rows:,} rows"
    lines = compare(config, options.against, turns=options.turns, windows=options.windows)
    return [{"setting": setting} | dataclasses.asdict(line) for line in lines]


def bench_page(argv: list[str]) -> int:
    """Put reports into a page."""
    files, rest = flags.take_words(argv)
    options = flags.parse(BenchPageOptions(), rest, prog="mnemic bench page F.json ..")
    if not files:
        raise ValueError("reports come first: `mnemic bench page F.json ..`; --json F of the others writes one")
    reports = [load(file) for file in files]
    write_page(Path(options.out), reports)
    print(f"{options.out}: {', '.join(report.place for report in reports)}")
    return 0


@dataclass(frozen=True, kw_only=True)
class BenchPageOptions:
    """Where the tables go."""

    out: str = "docs/performance.md"
    """The page; each report has a section there, between two comments."""


def _fields(config: Any, kind: type[Any]) -> dict[str, Any]:
    return {each.name: getattr(config, each.name) for each in fields(kind)}


def _device(options: Any) -> torch.device:
    """Return the device of a benchmark, once the files can be written and the threads are set."""
    for name in ("json", "out"):
        if (path := getattr(options, name)) and not Path(path).resolve().parent.is_dir():  # said before, not after
            raise ValueError(f"--{name} {path}: its folder is not there; make it first")
    if options.out and not Path(options.out).is_file():
        raise ValueError(f"--out {options.out} is not there; it takes a page with sections, like docs/performance.md")
    choices.check_device(options.device)
    torch.set_num_threads(options.threads or choices.idle_threads())
    return torch.device(options.device)


def _finish(report: Report, options: Output, progress: _Progress) -> int:
    show(report)
    if options.json:
        save(report, options.json)
    if options.out:
        write_page(Path(options.out), [report])
    return 130 if progress.interrupted else 0


class _Progress:
    """Says what is being measured: a line that changes in a terminal, else a line each, on stderr.

    Ctrl-C ends its block and nothing else, so that what was measured before is not lost.
    """

    def __init__(self) -> None:
        self.interrupted = False
        console = Console(stderr=True, highlight=False)
        self._status = Status("", console=console) if console.is_terminal else None
        self._console = console

    def __enter__(self) -> _Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if self._status:
            self._status.stop()
        self.interrupted = kind is KeyboardInterrupt
        if self.interrupted:
            self._console.print("interrupted; this was measured before:")
        return self.interrupted

    def say(self, text: str) -> None:
        """Say what comes next."""
        if self._status:
            self._status.update(text)
        else:
            self._console.print(text, markup=False, soft_wrap=True)
