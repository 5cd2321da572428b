"""Probes on a recording: how well contents can be read, by how old they are and by what was written over them.

One probe serves all ages, as one set of heads serves all steps. It is trained on the first half of the rows and tested
on the others, so no trial is in both.

Shapes: T steps, B rows, F numbers that a probe reads, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ..statistics import Interval, bootstrap_ratio
from .contents import Contents, contents
from .probe import fit
from .record import Recording, Track

MOST_SAMPLES = 16_384
"""That a probe is trained on."""
LEAST_SAMPLES = 40
"""That a point of a curve stands on."""
MOST_BACK = 12
"""Contents that are looked for, at most, of those that a task asks for."""


@dataclass(frozen=True)
class Point:
    """How much of what was asked for a probe got right."""

    at: float
    """Steps, or contents; the mean where several share a point."""
    accuracy: Interval
    """Over rows."""
    samples: int


@dataclass(frozen=True)
class Reading:
    """What one probe reads of one content."""

    hidden: str
    source: str
    """What it reads from: `input`, the control; `output` or `state`."""
    back: int
    """How many contents ago: 0 for the present one, 1 for the one before."""
    chance: float
    """The accuracy of who always says what was most frequent in the rows for training."""
    accuracy: Interval
    samples: int
    by_age: list[Point]
    """By the steps since the content was last shown."""
    by_number: list[Point]
    """By how many contents were before the present one in the trial."""


def readings(recording: Recording, tell: Callable[[str], None] = lambda what: None) -> list[Reading]:
    """Train and test all probes of a recording; what was too seldom there is left out.

    Args:
        recording: at least two rows.
        tell: called with what is looked for next.
    """
    found = []
    for name, track in recording.tracks.items():
        backs = looked_for(track, recording.starts_TB)
        held = contents(track, recording.starts_TB, max(backs))
        for source in recording.features:
            for back in backs:
                tell(f"{name} in {source}" + (f", {back} before" if back else ""))
                reading = _reading(recording, name, source, back, held, track.values)
                found += [reading] if reading else []
    return found


def looked_for(track: Track, starts_TB: NDArray[np.bool_]) -> list[int]:
    """Return which contents to look for, counted back from the present one.

    Where contents change: two more than the task asks for, and of many some.
    """
    if not contents(track, starts_TB, 0).number_TB.any():
        return [0]
    last = track.back + 2
    return sorted({0, 1, track.back, *np.linspace(0, last, min(last + 1, MOST_BACK)).round().astype(int).tolist()})


def _reading(recording: Recording, name: str, source: str, back: int, held: Contents, values: int) -> Reading | None:
    label_TB, age_TB = (torch.from_numpy(part[back]) for part in (held.value_NTB, held.age_NTB))
    x_TBF, half = recording.features[source], age_TB.shape[1] // 2
    known_TB = age_TB >= 0
    learns_TB, tests_TB = known_TB.clone(), known_TB.clone()
    learns_TB[:, half:] = tests_TB[:, :half] = False
    label_N = label_TB[learns_TB]
    if len(label_N) < LEAST_SAMPLES or int(tests_TB.sum()) < LEAST_SAMPLES:
        return None
    generator = torch.Generator().manual_seed(0)
    chosen_N = torch.randperm(len(label_N), generator=generator)[:MOST_SAMPLES]
    probe = fit(x_TBF[learns_TB][chosen_N], label_N[chosen_N], values)
    right_TB = torch.zeros_like(tests_TB)
    right_TB[tests_TB] = probe(x_TBF[tests_TB].nan_to_num(0.0, 0.0, 0.0)) == label_TB[tests_TB]
    commonest = torch.bincount(label_N, minlength=values).argmax()
    chance = (label_TB[tests_TB] == commonest).double().mean()
    right, tests = right_TB[:, half:].numpy(), tests_TB[:, half:].numpy()
    return Reading(
        name,
        source,
        back,
        float(chance),
        _accuracy(right, tests),
        int(tests.sum()),
        _points(right, tests, age_TB[:, half:].numpy()),
        _points(right, tests, held.number_TB[:, half:]),
    )


def _points(right_TB: NDArray[np.bool_], tests_TB: NDArray[np.bool_], at_TB: NDArray[np.int64]) -> list[Point]:
    """Return a curve over whole numbers: each for itself at first, then in stretches that grow."""
    bounds, found = edges(int(at_TB[tests_TB].max())), []
    for low, high in pairwise(bounds):
        here_TB = tests_TB & (at_TB >= low) & (at_TB < high)
        if (count := int(here_TB.sum())) >= LEAST_SAMPLES:
            found.append(Point(float(at_TB[here_TB].mean()), _accuracy(right_TB, here_TB), count))
    return found


def edges(most: int) -> list[int]:
    """Return where stretches of 0..most begin, and the end: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, .."""
    found = [0, 1, 2, 3]
    while found[-1] <= most:
        power = 2 ** int(math.log2(found[-1]))
        found.append(found[-1] + (power // 2 if found[-1] > 3 else 1))
    return found


def _accuracy(right_TB: NDArray[np.bool_], tests_TB: NDArray[np.bool_]) -> Interval:
    return bootstrap_ratio((right_TB & tests_TB).sum(0), tests_TB.sum(0))
