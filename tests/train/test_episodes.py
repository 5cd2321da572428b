"""The meter of episodes and trials against a slow loop, across the borders of windows."""

import itertools

import pytest
import torch

from mnemic.train.episodes import EpisodeMeter
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


def slow(parts):
    """Every episode as (step of its end, place in its trial, return, length, success), and every trial's return."""
    episodes, trials = [], []
    for b in range(BATCH):
        total, trial_total, length, place = 0.0, 0.0, 0, 0
        for t in range(len(parts["reward_next"])):
            reward = parts["reward_next"][t, b].item()
            total, trial_total, length = total + reward, trial_total + reward, length + 1
            if parts["terminated_next"][t, b] or parts["truncated_next"][t, b]:
                episodes.append((t, place, total, length, float(parts["success"][t, b])))
                total, length, place = 0.0, 0, place + 1
                if parts["trial_over_next"][t, b]:
                    trials.append((t, trial_total))
                    trial_total, place = 0.0, 0
    return episodes, trials


@pytest.mark.parametrize("cuts", [[0, 60], [0, 1, 2, 3, 10, 40, 60], list(range(61))], ids=["one", "some", "steps"])
def test_against_a_slow_loop(cuts):
    parts = outcomes(60)
    episodes, trials = slow(parts)
    assert len(trials) > 10
    meter = EpisodeMeter(BATCH)
    for begin, end in itertools.pairwise(cuts):
        found = meter.update(window(parts, begin, end))
        here = [episode for episode in episodes if begin <= episode[0] < end]
        assert sorted(found.episode_returns) == pytest.approx(sorted(e[2] for e in here))
        assert sorted(found.episode_lengths) == sorted(e[3] for e in here)
        assert sorted(found.info.get("success", [])) == sorted(e[4] for e in here)
        assert sorted(found.trial_returns) == pytest.approx(sorted(v for t, v in trials if begin <= t < end))
        assert found.by_episode.keys() == {e[1] for e in here}
        for place, values in found.by_episode.items():
            assert sorted(values) == pytest.approx(sorted(e[2] for e in here if e[1] == place))


def test_returns_and_success_belong_to_the_same_episodes():
    parts = outcomes(30)
    parts["success"] = parts["reward_next"] > 0.5
    found = EpisodeMeter(BATCH).update(window(parts, 0, 30))
    episodes, _ = slow(parts)
    pairs = sorted(zip(found.episode_returns, found.info["success"], strict=True))
    assert pairs == [pytest.approx(pair) for pair in sorted((e[2], e[4]) for e in episodes)]


def test_the_means_by_tag():
    parts = {
        "reward_next": torch.tensor([[1.0], [2.0], [4.0]]),
        "terminated_next": torch.tensor([[True], [False], [True]]),
        "truncated_next": torch.zeros(3, 1, dtype=torch.bool),
        "trial_over_next": torch.tensor([[False], [False], [True]]),
        "success": torch.tensor([[True], [True], [False]]),
    }
    means = EpisodeMeter(1).update(window(parts, 0, 3)).means()
    assert means == {
        "charts/episodic_return": (1 + 6) / 2,
        "charts/episodic_length": 1.5,
        "charts/success": 0.5,
        "trial/return": 7,
        "trial/return_episode_0": 1,
        "trial/return_episode_1": 6,
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
    first, second = (meter.update(window(parts, t, t + 1)).means() for t in range(2))
    assert first["trial/return_episode_0"] == 1
    assert "trial/return" not in first
    assert second["trial/return_episode_1"] == 1
    assert second["trial/return"] == 2


def test_trials_of_one_episode_have_no_tags_of_their_own():
    parts = outcomes(60)
    parts["trial_over_next"] = parts["terminated_next"] | parts["truncated_next"]
    means = EpisodeMeter(BATCH).update(window(parts, 0, 60)).means()
    assert not any(tag.startswith("trial/") for tag in means)


def test_a_window_without_an_end_says_nothing():
    parts = outcomes(10, chance_of_end=0)
    assert EpisodeMeter(BATCH).update(window(parts, 0, 10)).means() == {}
