"""Means and intervals, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from mnemic.eval.statistics import (
    bootstrap_mean,
    difference,
    interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
    wilson,
)


def test_wilson_agrees_with_the_formula_worked_by_hand() -> None:
    # 8 of 10, z = 1.959964, z² = 3.841459: middle (0.8 + 0.192073) / 1.384146 = 0.716740,
    # half sqrt(3.841459 * (0.016 + 0.00960365)) / 1.384146 = 0.226578.
    assert wilson(8, 10) == pytest.approx((0.8, 0.490162, 0.943318), abs=2e-6)


def test_wilson_at_the_ends_does_not_claim_certainty() -> None:
    # 0 of n: the upper end is z² / (n + z²); 1 of 1 is the mirror image.
    z2 = 1.959964**2
    assert wilson(0, 100) == pytest.approx((0.0, 0.0, z2 / (100 + z2)), abs=1e-6)
    assert wilson(100, 100) == pytest.approx((1.0, 100 / (100 + z2), 1.0), abs=1e-6)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_rate(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="at least 1 trial"):
        wilson(successes, trials)


def test_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -100]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([9, 1, 2]) == 4  # floor(3 / 4) = 0 are left out
    assert interquartile_mean([0, 0, 1, 1, 9]) == pytest.approx(2 / 3)  # one at either end


def test_bootstrap_of_two_values_finds_the_three_possible_means() -> None:
    # Draws of {0, 1} with replacement have means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert bootstrap_mean([0.0, 1.0], level=0.95) == (0.5, 0.0, 1.0)
    assert bootstrap_mean([0.0, 1.0], level=0.2) == (0.5, 0.5, 0.5)


def test_bootstrap_width_is_that_of_the_central_limit() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = bootstrap_mean(list(values))
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_episodes_of_one_trial_count_as_one_draw() -> None:
    # Ten copies of two trials say no more than the two trials; drawn one by one they would seem to.
    values, trials = [0.0] * 10 + [1.0] * 10, [0] * 10 + [1] * 10
    assert bootstrap_mean(values, trials) == (0.5, 0.0, 1.0)
    alone = bootstrap_mean(values)
    assert alone.high - alone.low < 0.5


def test_groups_of_different_size_keep_the_mean_of_all_samples() -> None:
    assert bootstrap_mean([1.0, 1.0, 1.0, 5.0], [0, 0, 0, 1]).value == 2.0


def test_one_sample_has_no_interval() -> None:
    for found in (bootstrap_mean([2.0]), bootstrap_mean([1.0, 3.0], [7, 7]), stratified_bootstrap({"a": [2.0]})):
        assert found.value == 2.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_the_seed_decides_the_interval() -> None:
    values = list(np.random.default_rng(0).normal(size=30))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_seeds_are_drawn_within_their_task() -> None:
    # Every task is constant over its seeds, so no draw differs, however far the tasks lie apart.
    assert stratified_bootstrap({"easy": [10.0] * 5, "hard": [0.0] * 5}) == (5.0, 5.0, 5.0)


def test_stratified_bootstrap_of_one_small_task_by_hand() -> None:
    # Two seeds, 0 and 1: the interquartile mean of two is their mean, so 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert stratified_bootstrap({"a": [0.0, 1.0]}) == (0.5, 0.0, 1.0)
    # Beside a task that is always 1/2 one value goes at either end: {0, 1/2, 1/2, 1} leaves 1/2, and so does the draw
    # {0, 1}; the draw {0, 0} leaves {0, 1/2}, so 1/4, and {1, 1} leaves 3/4.
    assert stratified_bootstrap({"a": [0.0, 1.0], "b": [0.5, 0.5]}) == (0.5, 0.25, 0.75)


def test_another_statistic_can_be_asked_for() -> None:
    found = stratified_bootstrap({"a": [1.0, 1.0], "b": [4.0]}, statistic=lambda scores: scores.mean(axis=1))
    assert found == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("scores", [{}, {"a": []}])
def test_nothing_is_refused(scores: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        stratified_bootstrap(scores)


def test_probability_of_improvement_counts_pairs_and_half_of_the_ties() -> None:
    # Pairs of {1, 3} and {1, 2}: 1 = 1 (1/2), 1 < 2 (0), 3 > 1 (1), 3 > 2 (1): 2.5 of 4.
    assert probability_of_improvement([1, 3], [1, 2]).value == 0.625
    assert probability_of_improvement([5, 6], [1, 2]) == (1.0, 1.0, 1.0)
    assert probability_of_improvement([1, 2], [1, 2]).value == 0.5


def test_probability_of_improvement_draws_both_sides() -> None:
    # x is {0, 2}, y is always 1: draws of x win all, half or none of their pairs with chances 1/4, 1/2, 1/4.
    assert probability_of_improvement([0, 2], [1, 1]) == (0.5, 0.0, 1.0)
    assert probability_of_improvement([0, 2], [1, 1], level=0.2) == (0.5, 0.5, 0.5)


def test_difference_is_between_the_interquartile_means() -> None:
    assert difference([9, 1, 2, 3], [0, 0, 0, 100]).value == 2.5  # of {2, 3} and {0, 0}
    assert difference([0, 2], [1, 1]) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize("compare", [probability_of_improvement, difference])
def test_two_kinds_are_not_sure_of_themselves_where_one_has_one_run(compare) -> None:
    found = compare([1.0], [0.0, 0.5, 1.5])
    assert math.isfinite(found.value)
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="at least one"):
        compare([], [1.0])
