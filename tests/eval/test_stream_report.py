"""The picture of streams."""

import numpy as np
import pytest

from mnemic.eval.latency import Latencies
from mnemic.eval.stream import Bin, Stream
from mnemic.eval.stream_report import Line, picture
from mnemic.memory.caches import make_cache


def line(name: str, **options: int) -> Line:
    """A stream of two rows, in which every step was paid."""
    latencies, one_B = Latencies(), np.ones(2)
    latencies.add(1e-3)
    whole = Bin(0, 10, 10 * one_B, one_B, 10 * one_B, one_B, latencies, entries=4, bytes=64, flops=100, settling=0)
    return Line(make_cache(name, **options), Stream(2, 10, has_success=True, bins=[whole]))


@pytest.mark.parametrize("budgets", [[16], [16, 64], []])
def test_the_axis_of_budgets_holds_the_budgets_and_no_more(budgets: list[int]) -> None:
    lines = [line("full"), *(line("window", context=budget) for budget in budgets), line("sinks", context=32)]
    axes = picture(lines, "a title").axes[0]
    ticks = sorted([*budgets, 32])
    assert list(axes.get_xticks()) == ticks
    low, high = axes.get_xlim()
    assert ticks[0] / 2 < low < ticks[0] <= ticks[-1] < high < 2 * ticks[-1]


def test_a_picture_without_budgets_has_no_marks_for_them() -> None:
    assert not len(picture([line("full")], "a title").axes[0].get_xticks())


def test_a_policy_has_one_colour_and_budgets_are_told_apart() -> None:
    lines = [line(name, context=budget) for name in ("window", "sinks") for budget in (16, 32)]
    by_budget, by_time = picture(lines, "a title").axes[:2]
    looks = [(drawn.get_color(), drawn.get_alpha()) for drawn in by_time.get_lines()]
    assert len(set(looks)) == 4
    assert looks[0][0] == looks[1][0] != looks[2][0] == looks[3][0]
    assert looks[0][1] < looks[1][1]
    assert {drawn.get_color() for drawn in by_budget.get_lines()} == {colour for colour, _ in looks}
