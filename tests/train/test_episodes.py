"""The meter of episodes and trials against a slow loop, across the borders of windows."""

import itertools
import math

import pytest
import torch

from mnemic.train.episodes import MOST_PLACES, EpisodeMeter, means
from mnemic.train.rollout import Window

BATCH = 5


def outcomes(length, chance_of_end=0.3, chance_of_trial=0.3):
    """Random rewards and ends, by step and row."""
    generator = torch.Generator().manual_seed(0)
    done = torch.rand(length, BATCH, generator=generator) < chance_of_end
    by_rule = torch.rand(length, BATCH, generator=generator) < 0.5
    return {
        "reward_next": torch.rand(length, BATCH, generator=generator),
        "terminated_next": done & by_rule,
        "truncated_next": done & ~by_rule,
        "trial_over_next": done & (torch.rand(length, BATCH, generator=generator) < chance_of_trial),
        "success": torch.rand(length, BATCH, generator=generator) < 0.5,
    }


def window(parts, begin, end):
    cut = {name: part[begin:end] for name, part in parts.items()}
    info = {"success": cut.pop("success")}
    blank = dict.fromkeys(("inputs", "memory", "action", "log_prob", "value", "value_next"))
    return Window(**blank, **cut, info_next=info)


def slow(parts, cut_below=0):
    """What every window of the parts should say, by step: lists of values by tag."""
    said = [{} for _ in parts["reward_next"]]
    for b in range(BATCH):
        episodes, total = [], 0.0
        length = trial_total = 0
        for t, here in enumerate(said):
            reward = parts["reward_next"][t, b].item()
            total, trial_total, length = total + reward, trial_total + reward, length + 1
            truncated = bool(parts["truncated_next"][t, b])
            if not (parts["terminated_next"][t, b] or truncated):
                continue
            success, over = float(parts["success"][t, b]), bool(parts["trial_over_next"][t, b])
            found = {"charts/episodic_return": total, "charts/episodic_length": length, "charts/success": success}
            place = len(episodes)
            if not (over and truncated and length < cut_below):
                found |= {f"trial/return_episode_{place}": total, f"trial/success_episode_{place}": success}
                episodes.append((total, success))
            total, length = 0.0, 0
            if over:
                found["trial/return"] = trial_total
                if len(episodes) >= 2:
                    found["trial/gain"], found["trial/success_gain"] = (
                        last - first for first, last in zip(episodes[0], episodes[-1], strict=True)
                    )
                episodes, trial_total = [], 0.0
            for tag, value in found.items():
                here.setdefault(tag, []).append(value)
    return said


@pytest.mark.parametrize("cut_below", [0, 3, math.inf])
@pytest.mark.parametrize("cuts", [[0, 60], [0, 1, 2, 3, 10, 40, 60], list(range(61))], ids=["one", "some", "steps"])
def test_against_a_slow_loop(cuts, cut_below):
    parts = outcomes(60)
    said = slow(parts, cut_below)
    assert sum(len(here.get("trial/gain", [])) for here in said) > 5
    meter = EpisodeMeter(BATCH, cut_below)
    for begin, end in itertools.pairwise(cuts):
        found = meter.update(window(parts, begin, end)).totals()
        here = {}
        for step in said[begin:end]:
            for tag, values in step.items():
                here.setdefault(tag, []).extend(values)
        assert found.sums == {tag: (pytest.approx(sum(values)), len(values)) for tag, values in here.items()}


def test_gain_is_that_of_each_trial_and_leaves_out_the_episode_that_the_clock_cut():
    """Three rows: returns 1, 5 of two whole episodes; 2, 3 and a cut one; 4 and a cut one, which has no gain."""
    parts = {
        "reward_next": torch.tensor([[1.0, 2.0, 4.0], [0.0, 3.0, 0.0], [5.0, 9.0, 9.0]]),
        "terminated_next": torch.tensor([[True, True, True], [False, True, False], [True, False, False]]),
        "truncated_next": torch.tensor([[False] * 3, [False] * 3, [False, True, True]]),
        "trial_over_next": torch.tensor([[False] * 3, [False] * 3, [True] * 3]),
        "success": torch.tensor([[False, True, True], [False, False, False], [True, True, True]]),
    }
    clocked, whole = (EpisodeMeter(3, cut_below).update(window(parts, 0, 3)).totals() for cut_below in (10, 0))
    assert clocked.sums["trial/gain"] == ((5 - 1) + (3 - 2), 2)
    assert clocked.sums["trial/success_gain"] == (1 - 1, 2)
    assert whole.sums["trial/gain"] == ((5 - 1) + (9 - 2) + (9 - 4), 3)


def test_the_means_by_tag():
    parts = {
        "reward_next": torch.tensor([[1.0], [2.0], [4.0]]),
        "terminated_next": torch.tensor([[True], [False], [True]]),
        "truncated_next": torch.zeros(3, 1, dtype=torch.bool),
        "trial_over_next": torch.tensor([[False], [False], [True]]),
        "success": torch.tensor([[True], [True], [False]]),
    }
    found = means([EpisodeMeter(1).update(window(parts, 0, 3)).totals()])
    assert found == {
        "charts/episodic_return": (1 + 6) / 2,
        "charts/episodic_length": 1.5,
        "charts/success": 0.5,
        "trial/return": 7,
        "trial/gain": 5,
        "trial/success_gain": -1,
        "trial/return_episode_0": 1,
        "trial/return_episode_1": 6,
        "trial/success_episode_0": 1,
        "trial/success_episode_1": 0,
    }


def test_trials_show_even_if_a_window_ends_one_episode_of_each():
    """As where all rows run in step: each window then ends the same place, first the first, then the last."""
    parts = {
        "reward_next": torch.ones(2, 3),
        "terminated_next": torch.ones(2, 3, dtype=torch.bool),
        "truncated_next": torch.zeros(2, 3, dtype=torch.bool),
        "trial_over_next": torch.tensor([[False], [True]]).expand(2, 3),
        "success": torch.ones(2, 3),
    }
    meter = EpisodeMeter(3)
    first, second = (means([meter.update(window(parts, t, t + 1)).totals()]) for t in range(2))
    assert first["trial/return_episode_0"] == 1
    assert "trial/return" not in first
    assert second["trial/return_episode_1"] == 1
    assert second["trial/return"] == 2


def test_a_long_trial_has_figures_of_its_first_episodes_only():
    parts = {name: part[:, :1].expand(-1, 3) for name, part in outcomes(200, 1.0, 0.0).items()}
    tags = means([EpisodeMeter(3).update(window(parts, 0, 200)).totals()])
    assert f"trial/return_episode_{MOST_PLACES - 1}" in tags
    assert f"trial/return_episode_{MOST_PLACES}" not in tags


def test_trials_of_one_episode_have_no_tags_of_their_own():
    parts = outcomes(60)
    parts["trial_over_next"] = parts["terminated_next"] | parts["truncated_next"]
    found = means([EpisodeMeter(BATCH).update(window(parts, 0, 60)).totals()])
    assert not any(tag.startswith("trial/") for tag in found)


def test_a_window_without_an_end_says_nothing():
    parts = outcomes(10, chance_of_end=0)
    assert means([EpisodeMeter(BATCH).update(window(parts, 0, 10)).totals()]) == {}
