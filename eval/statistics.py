"""Means with intervals: how sure a figure is.

- one evaluation: `bootstrap_mean`, and `wilson` for a rate of independent yes-or-no outcomes;
- many runs: `interquartile_mean` over tasks and seeds with `stratified_bootstrap`, and for two kinds of runs
  `probability_of_improvement` and `difference` (Agarwal et al. 2021, arXiv 2108.13264, sections 4.1 and 4.3).

Everything is seeded: the same numbers give the same interval.

Shapes: R draws, N and M samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_DRAWN = 100_000  # numbers held at once


class Interval(NamedTuple):
    """A figure and the range that it is believed to lie in; the range is NaN where one sample is all there is."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float],
    groups: Sequence[Any] | None = None,
    *,
    resamples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean with its percentile bootstrap interval.

    Args:
        values: one per sample.
        groups: samples of one group depend on each other (episodes of one trial), so whole groups are drawn.
            None: each sample is drawn by itself.
        resamples: draws.
        level: the share of draws inside the interval.
        seed: of the draws.

    Raises:
        ValueError: there are no values.
    """
    x = _numbers(values)
    if groups is None:
        sums, counts = x, np.ones_like(x)
    else:
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.bincount(index, weights=x).astype(np.float64)
        counts = np.bincount(index).astype(np.float64)
    value = float(x.mean())
    if len(sums) == 1:
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, MOST_DRAWN // len(sums))
    for i in range(0, resamples, at_once):
        drawn = rng.integers(len(sums), size=(min(at_once, resamples - i), len(sums)))
        means[i : i + at_once] = sums[drawn].sum(1) / counts[drawn].sum(1)
    return _percentiles(value, means, level)


def bootstrap_ratio(
    sums: Array | Sequence[float],
    counts: Array | Sequence[float],
    *,
    resamples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of all samples from the sums and counts of groups, with its interval: whole groups are drawn.

    This is `bootstrap_mean` for who has kept the sums alone. Draws in which there is no sample do not count.

    Args:
        sums: of the samples of each group.
        counts: how many samples each group has; 0 for a group without any.
        resamples: draws.
        level: the share of draws inside the interval.
        seed: of the draws.

    Returns:
        The mean, NaN where there is no sample, and its range, NaN where there is one group.
    """
    total, number = _numbers(sums), _numbers(counts)
    value = float(total.sum() / number.sum()) if number.any() else math.nan
    if len(total) == 1 or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(len(total), size=(resamples, len(total)))
    held = number[drawn].sum(1)
    return _percentiles(value, total[drawn].sum(1)[held > 0] / held[held > 0], level)


def wilson(successes: float, trials: int, *, level: float = 0.95) -> Interval:
    """Return a rate with its score interval, which holds near 0 and 1 too (Wilson 1927, JASA 22:209).

    Raises:
        ValueError: there are no trials, or the successes do not lie in 0..trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials: a rate needs at least 1 trial, and 0..trials")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    rate = successes / trials
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    # Rounding must not push the interval past a rate of exactly 0 or 1.
    return Interval(rate, min(max(middle - half, 0.0), rate), max(min(middle + half, 1.0), rate))


def interquartile_mean(values: Array | Sequence[float]) -> float:
    """Return the mean of the middle half: floor(n / 4) values are left out at either end."""
    return float(_trimmed(np.sort(_numbers(values))[None])[0])


def stratified_bootstrap(
    scores: Mapping[str, Sequence[float]],
    *,
    statistic: Callable[[Array], Array] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic over tasks and seeds with its interval: seeds are drawn anew within each task.

    Args:
        scores: for each task the scores of its runs, one per seed; scores of different tasks must be comparable.
        statistic: of the scores of all tasks side by side, from (R, N) to (R,); None: the interquartile mean.
        resamples: R.
        level: the share of draws inside the interval.
        seed: of the draws.

    Raises:
        ValueError: there is no task, or a task without scores.
    """
    if not scores:
        raise ValueError("no task has scores; give at least one")
    statistic = statistic or _sorted_and_trimmed
    by_task = [_numbers(values) for values in scores.values()]
    value = float(statistic(np.concatenate(by_task)[None])[0])
    if all(len(x) == 1 for x in by_task):
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = [x[rng.integers(len(x), size=(resamples, len(x)))] for x in by_task]
    return _percentiles(value, statistic(np.concatenate(drawn, axis=1)), level)


def probability_of_improvement(
    x: Sequence[float], y: Sequence[float], *, resamples: int = 2_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return how likely a run of the first kind scores higher than one of the second, on one task; a tie counts half.

    P(X > Y) = mean over all pairs of 1 where x > y, 1/2 where x = y, 0 elsewhere (the Mann-Whitney U over its most).

    Raises:
        ValueError: one side has no scores.
    """

    def won(x_RN: Array, y_RM: Array) -> Array:
        over_RNM = x_RN[:, :, None] - y_RM[:, None, :]
        share: Array = ((np.sign(over_RNM) + 1) / 2).mean(axis=(1, 2))
        return share

    return _of_two(x, y, won, resamples, level, seed)


def difference(
    x: Sequence[float], y: Sequence[float], *, resamples: int = 2_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return by how much the interquartile mean of the first kind of runs is above that of the second, on one task.

    Raises:
        ValueError: one side has no scores.
    """
    return _of_two(x, y, lambda x, y: _sorted_and_trimmed(x) - _sorted_and_trimmed(y), resamples, level, seed)


def _of_two(
    x: Sequence[float],
    y: Sequence[float],
    statistic: Callable[[Array, Array], Array],
    resamples: int,
    level: float,
    seed: int,
) -> Interval:
    """Return a statistic of two samples, each of which is drawn anew by itself."""
    x_N, y_M = _numbers(x), _numbers(y)
    value = float(statistic(x_N[None], y_M[None])[0])
    if 1 in (len(x_N), len(y_M)):
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    x_RN, y_RM = (part[rng.integers(len(part), size=(resamples, len(part)))] for part in (x_N, y_M))
    return _percentiles(value, statistic(x_RN, y_RM), level)


def _sorted_and_trimmed(scores: Array) -> Array:
    return _trimmed(np.sort(scores, axis=1))


def _trimmed(ordered: Array) -> Array:
    cut = ordered.shape[1] // 4
    trimmed: Array = ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)
    return trimmed


def _numbers(values: Array | Sequence[float]) -> Array:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"values of shape {numbers.shape} came; at least one, in one row, is expected")
    return numbers


def _percentiles(value: float, draws: Array, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
