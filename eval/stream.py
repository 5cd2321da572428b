"""Streams: a trained policy acts for any number of steps, and what it reaches and costs is kept by time bin.

Nothing that is kept grows with the steps: sums by bin and row, counts of durations, and means over a few moments.

Shapes: N bins, F sums, B rows.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..agents.policy import Policy
from ..envs.step import Env, EnvConfig
from ..memory.core import State, parts
from .latency import Latencies
from .protocol import EVAL_SEED, check_fit
from .statistics import Interval, bootstrap_ratio
from .turns import Actor, Surprise, World, told

MOMENTS = 64
"""Moments of a bin, at most, at which entries, bytes and operations are read off; one at random in each equal part."""


@dataclass
class Bin:
    """What was seen between two moments of a stream."""

    begin: int
    """Steps of each row before it."""
    end: int
    """Steps of each row at its end."""
    rewards_B: NDArray[np.float64]
    episodes_B: NDArray[np.float64]
    """How many ended in the bin."""
    returns_B: NDArray[np.float64]
    """Of these, whole, summed."""
    successes_B: NDArray[np.float64]
    latencies: Latencies
    """Of the policy's half of a step, for all rows together."""
    entries: float
    """Keys (and values) that a row's memory holds in each layer, on average."""
    bytes: float
    """Of the tensors of a row's memory, on average."""
    flops: float
    """Of a row's step, by closed form, on average; `settling` not included."""
    settling: float
    """What the core's `settle` adds, spread over the steps between, on average."""


@dataclass
class Stream:
    """What was seen in a stream."""

    rows: int
    trial_steps: int | None
    """The most steps that a trial takes; None if unknown."""
    has_success: bool = False
    how: str = ""
    """How steps were taken, in words."""
    interrupted: bool = False
    bins: list[Bin] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps that each row has taken."""
        return self.bins[-1].end if self.bins else 0

    def figures(self, bins: list[Bin] | None = None) -> dict[str, Interval]:
        """Return what was reached in some bins, all if none are given, with intervals over rows.

        `success` (where the task says so) and `return` are means over the episodes that ended there, NaN if none did;
        `reward` is the mean reward of a step.
        """
        bins = self.bins if bins is None else bins
        steps = float(sum(each.end - each.begin for each in bins))
        episodes_B = _sum([each.episodes_B for each in bins])
        found = (
            {"success": bootstrap_ratio(_sum([b.successes_B for b in bins]), episodes_B)} if self.has_success else {}
        )
        found["return"] = bootstrap_ratio(_sum([each.returns_B for each in bins]), episodes_B)
        found["reward"] = bootstrap_ratio(_sum([each.rewards_B for each in bins]), [steps] * self.rows)
        return found

    def costs(self, bins: list[Bin] | None = None) -> dict[str, float]:
        """Return what was paid in some bins, all if none are given.

        Entries, bytes, operations and those of settling are means over steps, but entries and bytes of a whole stream
        are those of its last bin: what the memory has grown to. Latencies are in seconds, of all rows together.
        """
        chosen, times = self.bins if bins is None else bins, Latencies()
        for each in chosen:
            times.merge(each.latencies)
        # A bin that was cut short at once has nothing that was read off.
        read = [each for each in chosen if not math.isnan(each.entries)] or chosen
        weights = [each.end - each.begin for each in read]
        return {
            "entries": read[-1].entries,
            "bytes": read[-1].bytes,
            "flops": float(np.average([each.flops for each in read], weights=weights)),
            "settling": float(np.average([each.settling for each in read], weights=weights)),
            "latency_median": times.quantile(0.5),
            "latency_p99": times.quantile(0.99),
            "latency_mean": times.mean,
        }


def _sum(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(arrays, axis=0)
    return total


def play_stream(
    policy: Policy,
    env_config: EnvConfig,
    *,
    steps: int,
    rows: int = 16,
    bins: int = 20,
    seed: int = 0,
    greedy: bool = True,
    device: torch.device | str = "cpu",
    surprise: Surprise = "td",
    gamma: float = 0.99,
    capture: bool = True,
    tell: Callable[[int], None] = lambda steps: None,
) -> Stream:
    """Play `rows` rows for `steps` steps, one trial after another where trials are shorter.

    Ctrl-C ends the stream, and what was seen until then is returned.

    Args:
        policy: acts; not changed. Its core says what is remembered (`CacheConfig.apply`, `Policy.with_core`).
        env_config: the task.
        steps: of each row.
        rows: side by side.
        bins: equal parts of the stream, by which everything is kept.
        seed: other seeds give other tasks; the same tasks and draws as those of `play_episodes`.
        greedy: the most likely action; False: actions are drawn.
        device: where the environments live.
        surprise: what a memory that ranks its entries is told; see `Actor`.
        gamma: the discount of the surprise `td`.
        capture: record steps as CUDA graphs, on a GPU.
        tell: called now and then with the steps so far.

    Raises:
        ValueError: there are fewer steps than bins, the task shows or takes something else than what the policy was
            made for, or the memory of the rows does not fit into that of the device.
    """
    if not 1 <= bins <= steps:
        raise ValueError(f"bins is {bins}; it must be at least 1, and at most the {steps:,} steps of the stream")
    env = env_config.build(rows, seed ^ EVAL_SEED, device)
    try:
        check_fit(policy, env)
        check_room(policy, rows, trial_of(env, steps), env.device)
        state, step = env.reset()
        generator = torch.Generator(env.device).manual_seed(seed)
        blank_B = policy.head.blank(rows).to(env.device)
        actor = Actor(
            policy,
            told(step, blank_B),
            greedy=greedy,
            generator=generator,
            surprise=surprise,
            gamma=gamma,
            capture=capture,
        )
        return _play(policy, actor, World(env, state, actor), Stream(rows, env.trial_steps), steps, bins, seed, tell)
    finally:
        env.close()


def trial_of(env: Env, steps: int) -> int:
    """Return how long a trial can get in a stream of so many steps."""
    return min(env.trial_steps or steps, steps)


def _play(
    policy: Policy,
    actor: Actor,
    world: World,
    stream: Stream,
    steps: int,
    bins: int,
    seed: int,
    tell: Callable[[int], None],
) -> Stream:
    draw, around = random.Random(seed), policy.flops_per_step(0) - policy.core.flops_per_step(0)
    done = 0
    try:
        for number in range(bins):
            begin, end = number * steps // bins, (number + 1) * steps // bins
            latencies, read = Latencies(), _Readings(policy, around)
            moments = _moments(begin, end, draw)
            moment = next(moments)
            try:
                while done < end:
                    latencies.add(actor())
                    if done == moment:
                        read(actor.mind.memory, world.tally.trial_step_B.tolist())
                        moment = next(moments, end)
                    world()
                    done += 1
                    if done % 16 == 0:
                        tell(done)
            finally:
                if done > begin:
                    rewards_B, episodes_B, returns_B, successes_B = world.take_sums().numpy()
                    reached = (rewards_B, episodes_B, returns_B, successes_B)
                    stream.bins.append(Bin(begin, done, *reached, latencies, *read.means()))
    except KeyboardInterrupt:
        stream.interrupted = True
    tell(done)
    stream.has_success, stream.how = world.has_success, actor.how
    return stream


def _moments(begin: int, end: int, draw: random.Random) -> Iterator[int]:
    """Yield moments of a bin in order: one at random in each of its equal parts."""
    count = min(MOMENTS, end - begin)
    for part in range(count):
        first, last = begin + part * (end - begin) // count, begin + (part + 1) * (end - begin) // count
        yield draw.randrange(first, last)


class _Readings:
    """Means of what is read off the memory and the clocks of the rows at some moments."""

    def __init__(self, policy: Policy, around: float) -> None:
        self._core, self._around = policy.core, around
        self._found: list[tuple[float, float, float, float]] = []  # at most MOMENTS

    def __call__(self, memory: State, trial_steps: list[int]) -> None:
        """Read: the memory after a step, and the steps of the trial before it, row by row."""
        core, rows = self._core, len(trial_steps)
        entries = sum(core.context_entries(lived + 1) for lived in trial_steps) / rows
        flops = sum(core.flops_per_step(lived) for lived in trial_steps) / rows + self._around
        settling = sum(core.settling_flops(lived) for lived in trial_steps) / rows
        self._found.append((entries, bytes_of(memory) / rows, flops, settling))

    def means(self) -> tuple[float, float, float, float]:
        """Return entries, bytes, operations and those of settling; NaN where nothing was read."""
        if not self._found:
            return (math.nan,) * 4
        entries, size, flops, settling = (float(mean) for mean in np.mean(self._found, axis=0))
        return entries, size, flops, settling


def bytes_of(memory: State) -> int:
    """Return the size of all tensors of a memory."""
    return sum(part.numel() * part.element_size() for part in parts(memory).values())


def check_room(policy: Policy, rows: int, trial_steps: int, device: torch.device) -> None:
    """Refuse a memory that the device has no room for.

    Raises:
        ValueError: it has none; the message says how much is asked for and how much is free.
    """
    core = copy.deepcopy(policy.core).to("meta")  # a size can be asked for without the room for it
    need, free = core.state_bytes(trial_steps) * rows, _free_bytes(device)
    if need > free:
        raise ValueError(
            f"the memory of {rows} rows takes {need / 1e9:,.1f} GB at {trial_steps:,} steps of a trial, and "
            f"{free / 1e9:,.1f} GB are free on {device}; take fewer --rows, or keep less with --cache and --context"
        )


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        words = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # a system that does not say
        return math.inf
    return 1024.0 * int(words.split()[1])
