"""`mnemic bench rewriting`: train every memory on every task of the benchmark, test it, and show what was found."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Literal, cast

from rich.console import Console

from .. import __version__
from ..envs.color_cubes import ColorCubesConfig
from ..envs.color_cubes_presets import LADDER
from ..envs.endless_tmaze import EndlessTMazeConfig
from ..envs.step import EnvConfig
from ..eval.rewriting import found as kept
from ..eval.rewriting import pictures, tables, tasks
from ..eval.rewriting.found import Line
from ..eval.rewriting.tasks import PARTS, Task
from ..kernels.benches import reason
from ..memory import MEMORIES
from ..train import rewriting as settings
from ..train.config import TrainConfig
from . import choices, flags, sweep
from .names import choose
from .report import write_page
from .sweep import Planned, Stopped, say
from .tables import show_plain

Sampling = Literal["fixed", "uniform"]


@dataclass(frozen=True, kw_only=True)
class RewritingOptions:
    """What is trained and tested; the options of a run (--ppo.X, --memory.X, --env.X, --precision) hold here too."""

    out: str = "rewriting"
    """The folder of the benchmark: a run in each folder of `runs`, results beside them. One that is there is gone on
    with: finished runs are not trained again."""
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of each memory on each task."""
    steps: int = 0
    """Environment steps of every run, the same for all memories; 0: 2 million in the T-Maze, 10 million with cubes."""
    episodes: int = 512
    """Fresh episodes of each test, the same for all agents and players."""
    sampling: tuple[Sampling, ...] = ("fixed", "uniform")
    """tmaze: how the corridors are sampled in training."""
    length: tuple[int, ...] = (5, 10)
    """tmaze: how long they are."""
    corridors: tuple[int, ...] = (1, 3, 5, 10)
    """tmaze: how many there are."""
    test_sampling: tuple[Sampling, ...] = ("fixed", "uniform")
    """tmaze: what every agent is tested on, beside all that are trained on."""
    test_length: tuple[int, ...] = (5, 10)
    """tmaze: as long as in training, or longer."""
    test_corridors: tuple[int, ...] = (1, 3, 5, 10)
    """tmaze: as many as in training, or more."""
    preset: tuple[str, ...] = ("trivial", "medium", "extreme")
    """presets: which."""
    rung: tuple[str, ...] = LADDER
    """ladder: which."""
    frontier_preset: tuple[str, ...] = ("medium", "extreme")
    """frontier: the presets that are made larger."""
    size: tuple[str, ...] = ("5x3x3", "6x4x4", "7x5x5", "8x6x7", "10x8x10")
    """frontier: grid x cubes x phases, from small to large."""
    curriculum: bool = True
    """frontier: planes over the cells, a question to the memory about the target's cell while training, and a run with
    one phase first, of at most 3 million steps; without, as in the other parts."""
    level: float = 0.9
    """frontier: the success that counts as holding a size."""
    shard: str = ""
    """I/N: train only the I-th of N parts of the runs (from 0), so that several commands can share one --out."""
    collect: bool = False
    """Train and test nothing: show what the folder holds."""
    dry: bool = False
    """Say what would be trained, and do nothing."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads; 0: up to four, one on a busy machine."""

    def __post_init__(self) -> None:
        """Refuse what cannot be swept."""
        for name, least in (("steps", 0), ("episodes", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.level <= 1:
            raise ValueError(f"level is {self.level}; it must lie above 0 and be at most 1")
        for name in ("seed", "sampling", "length", "corridors", "preset", "rung", "frontier_preset", "size"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} needs at least one value")
        if any(seed < 0 for seed in self.seed):
            raise ValueError(f"seed is {' '.join(map(str, self.seed))}; each must be at least 0")
        self.share()

    def share(self) -> tuple[int, int]:
        """Return which of how many parts of the runs are trained here."""
        if not self.shard:
            return 0, 1
        part, _, of = self.shard.partition("/")
        if not (part.isdecimal() and of.isdecimal() and int(part) < int(of)):
            raise ValueError(f"shard is {self.shard!r}; it takes I/N with I from 0 to N-1, as 0/4")
        return int(part), int(of)

    def tasks(self, part: str) -> list[Task]:
        """Return the tasks of a part of the benchmark."""
        if part == "tmaze":
            return tasks.tmaze(self.sampling, self.length, self.corridors)
        if part == "frontier":
            return tasks.frontier(self.frontier_preset, self.size)
        return tasks.cubes(part, self.rung if part == "ladder" else self.preset)

    def tests(self) -> list[Task]:
        """Return the mazes that every agent of the T-Maze is tested on."""
        return tasks.tmaze(self.test_sampling, self.test_length, self.test_corridors)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A run of the benchmark, and what it stands for."""

    task: Task
    memory: str
    planned: Planned

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.planned.config.seed


def bench_rewriting(argv: list[str]) -> int:
    """Train, test, and show."""
    parts, rest = flags.take_words(argv)
    memories, rest = flags.take_many(rest, "--memory")
    if any(word in flags.HELP for word in rest):
        width = max(map(len, PARTS))
        print("PART, one or more; none: all")
        print("\n".join(f"  {name:<{width}}  {said}" for name, said in PARTS.items()))
        print("\n--memory NAME ..: one or more; none: all of `mnemic list memories`\n")
    own, of_runs = _split(rest)
    usage = "mnemic bench rewriting [PART ..] [--memory NAME ..] [flags]"
    options = flags.parse(RewritingOptions(), own, prog="mnemic bench rewriting", usage=usage, also=("--memory",))
    parts = [choose("part", part, PARTS) for part in parts] or list(PARTS)
    memories = [choose("memory", name, MEMORIES) for name in memories] or list(MEMORIES)
    choices.check_device(options.device)
    threads = options.threads or choices.idle_threads()
    root = Path(options.out)
    places = list(_places(options, parts, memories, of_runs, threads))
    if options.dry:
        steps = 0
        for run in (place.planned for place in places):
            first = run.first.config.steps if run.first else 0
            steps += first + run.config.steps
            before = f"at most {first:,} steps on an easier task, " * bool(first)
            print(f"{run.name}: {before}{run.config.steps:,} steps, {len(run.tests)} tests")
        print(f"{len(places)} runs, {steps:,} steps")
        return 0
    sweep.check((place.planned for place in places), root / "runs")
    (root / "runs").mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    stopped = False
    if not options.collect:
        stopped = _train(places, root / "runs", options, failures)
    _show(places, root, options, failures, shlex.join(["mnemic", "bench", "rewriting", *argv]))
    return 130 if stopped else 1 if failures else 0


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Part the flags of the benchmark from those of its runs."""
    ours = {each.name for each in fields(RewritingOptions)}
    theirs = {each.name for each in fields(TrainConfig)} - ours
    own: list[str] = []
    of_runs: list[str] = []
    goes_to = own
    for word in argv:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].partition(".")[0].replace("-", "_")
            belongs = name in theirs or name.removeprefix("no_") in theirs
            goes_to = of_runs if belongs else own
        goes_to.append(word)
    return own, of_runs


def _places(
    options: RewritingOptions, parts: list[str], memories: list[str], of_runs: list[str], threads: int
) -> Iterator[Place]:
    """Yield every run that is asked for: seed by seed, so that what has few seeds covers all.

    Raises:
        ValueError: options contradict each other, or change what makes a task what it is.
    """
    made: list[tuple[Task, str, TrainConfig, dict[str, EnvConfig]]] = []
    for part in parts:
        for task in options.tasks(part):
            for memory in memories:
                config = _config(task, memory, options, of_runs, threads)
                made.append((task._replace(env=config.env), memory, config, _tests(config.env, options)))
    for seed in options.seed:
        for task, memory, one, tests in made:
            name, config, first = f"{task.part}-{task.name}-{memory}-seed{seed}", replace(one, seed=seed), None
            words = ["mnemic", "bench", "rewriting", task.part, "--memory", memory, *task.flags]
            words += ["--steps", str(config.steps), *of_runs, "--seed", str(seed)]
            if task.part == "frontier" and options.curriculum:
                first = Planned(
                    name=name, config=settings.color_cubes_first(config), tests={}, command=shlex.join(words)
                )
                config = replace(config, init=str(Path(options.out) / sweep.FIRST / name))
            elif task.part == "frontier":
                words.append("--no-curriculum")
            yield Place(
                task=task,
                memory=memory,
                planned=Planned(name=name, config=config, tests=tests, command=shlex.join(words), first=first),
            )


def _config(task: Task, memory: str, options: RewritingOptions, of_runs: list[str], threads: int) -> TrainConfig:
    if isinstance(task.env, ColorCubesConfig) and task.part == "frontier" and options.curriculum:
        config = settings.color_cubes_large(task.env, memory)
    else:
        maker: Callable[[str], TrainConfig] = settings.endless_tmaze if task.part == "tmaze" else settings.color_cubes
        config = replace(maker(memory), env=task.env)
    # One checkpoint is enough to go on from, and a sweep leaves many.
    config = replace(config, device=options.device, threads=threads, keep_checkpoints=1)
    config = replace(config, steps=options.steps or config.steps)
    if of_runs:
        config = flags.parse(config, of_runs, prog="mnemic bench rewriting", also=("--memory",))
        for name in task.fixed:
            if getattr(config.env, name) != getattr(task.env, name):
                raise ValueError(f"--env.{name} is what the tasks of {task.part} differ in; --help says how to choose")
    choices.check_kernels(config)
    if config.steps < config.ppo.batch_steps:
        raise ValueError(
            f"steps is {config.steps:,} and one update takes {config.ppo.batch_steps:,}; make steps larger, or "
            "ppo.rows or ppo.window smaller"
        )
    return config


def _tests(env: EnvConfig, options: RewritingOptions) -> dict[str, EnvConfig]:
    """Return what an agent is tested on: first its own task."""
    if not isinstance(env, EndlessTMazeConfig):
        return {"own": env}
    found: dict[str, EnvConfig] = {tasks.tmaze_name(env): env}
    for task in [*options.tasks("tmaze"), *options.tests()]:
        maze = cast(EndlessTMazeConfig, task.env)
        tested = replace(env, sampling=maze.sampling, length=maze.length, corridors=maze.corridors)
        found.setdefault(task.name, tested)
    return found


def _train(places: list[Place], root: Path, options: RewritingOptions, failures: list[str]) -> bool:
    """Train and test what is not finished, and say whether the user has stopped it."""
    part, of = options.share()
    mine = places[part::of]
    for number, place in enumerate(mine, 1):
        run = place.planned
        try:
            say(f"[{number}/{len(mine)}] {run.name}")
            said = sweep.go(run, root)
            sweep.test(run, root, options.episodes, options.device)
            first = next(iter(run.tests))
            success = sweep.tested(run, root)[first].get("success", float("nan"))
            say(f"    {said or 'finished before'}, success {success:.3f}")
        except (Stopped, KeyboardInterrupt):
            say(f"stopped in {run.name}; the same command goes on from here")
            return True
        except OSError:
            raise
        except Exception as error:  # one run must not end the others
            failures.append(f"{run.name}: {reason(error)}")
            say(f"    failed: {reason(error)}")
    return False


def _show(places: list[Place], root: Path, options: RewritingOptions, failures: list[str], command: str) -> None:
    """Put together what the folder holds, write it as JSON, tables, pictures and a page, and print the tables."""
    lines = list(_lines(places, root, options))
    if not lines:
        say(f"no run in {root / 'runs'} is finished yet")
        return
    order = [task.name for task in options.tasks("frontier")] if kept.of_part(lines, "frontier") else []
    found = tables.sections(lines, options.level, order)
    drawn = _draw(lines, root, options)
    steps = sorted({line.steps for line in lines})
    first = any(place.planned.first for place in places)
    before = (
        " In the frontier a run on an easier task goes before, of at most 3 million steps, and while training the "
        "memory is asked for the target's cell, a label that agents of the other parts do not have."
    )
    about = (
        f"Made by `{command}`, mnemic {__version__}, {date.today().isoformat()}. Every run has the same budget: "
        f"{' or '.join(f'{each:,}' for each in steps)} environment steps. {options.episodes} "
        f"fresh episodes a test.{before * first}"
    )
    heading = {"command": command, "version": __version__, "date": date.today().isoformat(), "failures": failures}
    sweep.write(root / "results.json", heading | {"lines": [line.plain() for line in lines]})
    (root / "results.md").write_text(tables.page("Memory rewriting", about, found, drawn, failures))
    console = Console(highlight=False)
    for each in found:
        if "generalisation" in each.title and "kind" not in each.title:
            continue  # hundreds of lines: the heat maps and the page have them
        show_plain(console, each.filled())
    written = ["results.md", "results.json", *drawn]
    references = sorted((root / "players").glob("*.json"))
    if said := write_page([str(root / "runs")], root / "report.html", references):
        say(f"note: {said}")
    else:
        written.append("report.html")
    print("written    " + ", ".join(str(root / name) for name in written))
    for failure in failures:
        say(f"failed: {failure}")


def _lines(places: list[Place], root: Path, options: RewritingOptions) -> Iterator[Line]:
    """Yield what was found, in the order of the plan."""
    agents: dict[tuple[str, str, str], list[Place]] = {}
    for place in places:
        agents.setdefault((place.task.part, place.task.name, place.memory), []).append(place)
    players: dict[str, dict[str, dict[str, float]]] = {}
    for (part, task, memory), seeds in agents.items():
        found = {place.seed: sweep.tested(place.planned, root / "runs") for place in seeds}
        for name, env in seeds[0].planned.tests.items():
            by_seed = {seed: each[name] for seed, each in found.items() if name in each}
            if not by_seed:
                continue
            label = f"{part}-{task if name == 'own' else name}"
            if label not in players:
                players[label] = sweep.play(root / "players", label, env, options.episodes, "cpu")
            own = seeds[0].task.env
            related = (
                tasks.relation(own, env)
                if isinstance(own, EndlessTMazeConfig) and isinstance(env, EndlessTMazeConfig)
                else "trained"
            )
            yield Line(
                part=part,
                task=task,
                memory=memory,
                test=task if name == "own" else name,
                relation=related,
                seeds=list(by_seed),
                by_seed=list(by_seed.values()),
                oracle=players[label].get("oracle", {}),
                memoryless=players[label].get("memoryless", {}),
                steps=seeds[0].planned.config.updates * seeds[0].planned.config.ppo.batch_steps,
            )


def _draw(lines: list[Line], root: Path, options: RewritingOptions) -> list[str]:
    """Draw what can be drawn, and return the names of the pictures."""
    drawn = []
    mazes = kept.of_part(lines, "tmaze")
    for memory in kept.memories(mazes):
        drawn.append(f"tmaze-{memory}.png")
        pictures.heat_map(mazes, memory, root / drawn[-1])
    if rungs := kept.of_part(lines, "ladder"):
        drawn.append("ladder.png")
        pictures.ladder(rungs, [rung for rung in LADDER if rung in kept.tasks(rungs)], root / drawn[-1])
    edge = kept.of_part(lines, "frontier")
    for preset in options.frontier_preset if edge else ():
        there = [task for task in options.tasks("frontier") if cast(ColorCubesConfig, task.env).preset == preset]
        there = [task for task in there if task.name in kept.tasks(edge)]
        if there:
            drawn.append(f"frontier-{preset}.png")
            bindings = [tasks.Size.of(cast(ColorCubesConfig, task.env)).cubes for task in there]
            order = [task.name for task in there]
            pictures.frontier(edge, order, bindings, options.level, root / drawn[-1])
    return drawn
