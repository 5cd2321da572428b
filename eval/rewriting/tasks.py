"""The tasks of the benchmark by name, and how a task that is tested stands to the one that was trained.

Endless T-Maze: {fixed, uniform} x length {5, 10} x corridors {1, 3, 5, 10} (arXiv 2601.15086). Color-Cubes: its three
presets, the ladder of eight rungs (`envs/color_cubes_presets.py`), and sizes from small to large for the frontier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, cast

from ...envs.color_cubes import ColorCubesConfig
from ...envs.color_cubes_presets import LADDER, PRESETS
from ...envs.endless_tmaze import EndlessTMazeConfig
from ...envs.step import EnvConfig

PARTS = {
    "tmaze": "Endless T-Maze, every configuration: trained on each, tested on all",
    "presets": "Color-Cubes, the three presets of the paper",
    "ladder": "Color-Cubes, the ladder: eight rungs from all seen to several cubes that jump at once",
    "frontier": "Color-Cubes, the frontier: larger and larger, until a memory no longer holds it",
}

Relation = Literal["trained", "interpolation", "extrapolation"]


class Task(NamedTuple):
    """A task of the benchmark."""

    part: str
    name: str
    env: EnvConfig
    fixed: tuple[str, ...]
    """The options that make it this task."""

    @property
    def flags(self) -> list[str]:
        """The flags of `mnemic bench rewriting` that ask for this task alone."""
        if isinstance(self.env, EndlessTMazeConfig):
            maze = self.env
            wanted = {"sampling": maze.sampling, "length": maze.length, "corridors": maze.corridors}
            return [word for name, value in wanted.items() for word in (f"--{name}", str(value))]
        cubes = cast(ColorCubesConfig, self.env)
        if self.part == "frontier":
            return ["--frontier-preset", cubes.preset, "--size", Size.of(cubes).word]
        return ["--rung" if self.part == "ladder" else "--preset", cubes.preset]


class Size(NamedTuple):
    """How large a Color-Cubes is."""

    grid: int
    cubes: int
    phases: int

    @classmethod
    def read(cls, word: str) -> Size:
        """Return the size that a word like 5x3x3 names.

        Raises:
            ValueError: it names none.
        """
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", word)
        if found is None:
            raise ValueError(f"--size takes GRIDxCUBESxPHASES, as 5x3x3; {word!r} came")
        return cls(*map(int, found.groups()))

    @classmethod
    def of(cls, env: ColorCubesConfig) -> Size:
        """Return the size of a task."""
        full = env.resolved()
        return cls(full.size, full.cubes or 0, full.phases or 0)

    @property
    def word(self) -> str:
        """As `read` takes it."""
        return f"{self.grid}x{self.cubes}x{self.phases}"


def tmaze_name(env: EndlessTMazeConfig) -> str:
    """Return a short name: fixed-l5-n3."""
    return f"{env.sampling}-l{env.length}-n{env.corridors}"


def tmaze(samplings: Sequence[str], lengths: Sequence[int], corridors: Sequence[int]) -> list[Task]:
    """Return every combination of these.

    Raises:
        ValueError: a value that no maze has.
    """
    envs = [
        EndlessTMazeConfig(sampling=cast(Literal["fixed", "uniform"], sampling), length=length, corridors=count)
        for sampling in samplings
        for length in lengths
        for count in corridors
    ]
    return [Task("tmaze", tmaze_name(env), env, ("sampling", "length", "corridors")) for env in _once(envs)]


def cubes(part: str, presets: Sequence[str]) -> list[Task]:
    """Return Color-Cubes at some of its presets.

    Raises:
        ValueError: there is no such preset.
    """
    known = LADDER if part == "ladder" else tuple(PRESETS)
    flag = "rung" if part == "ladder" else "preset"
    for name in presets:
        if name not in known:
            raise ValueError(f"--{flag} {name} is not there; choose one of {', '.join(known)}")
    envs = [ColorCubesConfig(preset=name) for name in dict.fromkeys(presets)]  # type: ignore[arg-type]  # checked above
    return [Task(part, env.preset, env, ("preset",)) for env in envs]


def frontier(presets: Sequence[str], sizes: Sequence[str]) -> list[Task]:
    """Return Color-Cubes at some of its presets and at sizes like 5x3x3.

    Raises:
        ValueError: there is no such preset or size, or it contradicts itself (more cubes than cells, say).
    """
    found = []
    for task in cubes("presets", presets):
        for word in dict.fromkeys(sizes):
            size = Size.read(word)
            preset = cast(ColorCubesConfig, task.env).preset
            env = ColorCubesConfig(preset=preset, size=size.grid, cubes=size.cubes, phases=size.phases)
            found.append(Task("frontier", f"{preset}-{size.word}", env, ("preset", "size", "cubes", "phases")))
    return found


def relation(trained: EndlessTMazeConfig, tested: EndlessTMazeConfig) -> Relation:
    """Return how a maze that is tested stands to the one that was trained.

    `interpolation`: no more corridors and none longer than in training. `extrapolation`: more corridors, or longer
    ones (the paper's words). A maze of the other sampling counts by the same rule after Uniform corridors, which have
    shown all lengths up to the longest; after Fixed ones, which were alike, Uniform corridors are extrapolation.
    """
    if trained == tested:
        return "trained"
    longer = tested.length > trained.length or tested.corridors > trained.corridors
    unseen = trained.sampling == "fixed" and (tested.sampling == "uniform" and tested.shortest < trained.length)
    return "extrapolation" if longer or unseen else "interpolation"


def _once(envs: Iterable[EndlessTMazeConfig]) -> list[EndlessTMazeConfig]:
    """Return options in their order, each once."""
    return list(dict.fromkeys(envs))
