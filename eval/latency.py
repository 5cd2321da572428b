"""How long steps take, counted in constant memory."""

from __future__ import annotations

import math

import numpy as np

LEAST, RATIO, CLASSES = 1e-7, 1.01, 2200
"""Classes of durations in seconds: from `LEAST`, each reaching to `RATIO` times its beginning; the last to minutes."""


class Latencies:
    """Durations, counted by class, so that a million of them take no more room than one.

    A quantile is right to half a percent, the width of a class to either side of its middle.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(CLASSES, np.int64)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = int(math.log(max(seconds, LEAST) / LEAST) / math.log(RATIO))
        self.counts[min(place, CLASSES - 1)] += 1
        self.total += seconds

    def merge(self, other: Latencies) -> None:
        """Count what another has counted."""
        self.counts += other.counts
        self.total += other.total

    @property
    def mean(self) -> float:
        """Return the mean in seconds, exactly; NaN of none."""
        count = int(self.counts.sum())
        return self.total / count if count else math.nan

    def quantile(self, share: float) -> float:
        """Return the least duration that at least this share of all do not exceed, in seconds; NaN of none."""
        count = int(self.counts.sum())
        if not count:
            return math.nan
        place = int(np.searchsorted(self.counts.cumsum(), max(1, math.ceil(share * count))))
        return float(LEAST * RATIO ** (place + 0.5))
