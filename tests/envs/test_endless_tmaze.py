import itertools
from collections import Counter

import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text

GRID = list(itertools.product(("fixed", "uniform"), (5, 10), (1, 3, 5, 10)))


@pytest.mark.parametrize(("sampling", "length", "corridors"), GRID)
@pytest.mark.parametrize("rewards", ["dev", "paper"])
def test_the_oracle_reaches_the_optimal_return(rewards: str, sampling: str, length: int, corridors: int) -> None:
    per_corridor = {
        ("fixed", "dev"): 1.0,
        ("fixed", "paper"): 1 - 0.01 * length,
        ("uniform", "dev"): 1 - 0.01 * (length - 1) / 2,
        ("uniform", "paper"): 1 - 0.01 * length,
    }[sampling, rewards]
    config = EndlessTMazeConfig(length=length, corridors=corridors, sampling=sampling, rewards=rewards)
    trials = play_trials(config, config.oracle().act, batch=1000)
    assert bool((trials.info["success"] == 1).all())
    error = 4 * float(trials.returns.std()) / 1000**0.5 + 1e-5
    assert float(trials.returns.mean()) == pytest.approx(corridors * per_corridor, abs=error)
    assert config.best_return() == pytest.approx(corridors * per_corridor)
    if sampling == "fixed":
        assert trials.steps.unique().tolist() == [corridors * (length + 1)]


@pytest.mark.parametrize("corridors", [1, 3, 5])
def test_a_blind_player_gets_half_of_the_junctions(corridors: int) -> None:
    config = EndlessTMazeConfig(corridors=corridors)
    generator = torch.Generator().manual_seed(0)

    def blind(obs, reward, episode_start, trial_start):
        return torch.where(obs[:, 0] == 1, torch.randint(1, 3, (len(obs),), generator=generator), 0)

    trials = play_trials(config, blind, batch=8000)
    floor = 0.5**corridors
    error = 4 * (floor * (1 - floor) / 8000) ** 0.5
    assert float(trials.info["success"].mean()) == pytest.approx(floor, abs=error)


@pytest.mark.parametrize(("sampling", "length"), [("fixed", 5), ("uniform", 5), ("uniform", 1)])
def test_the_player_without_memory_passes_half_of_the_junctions(sampling: str, length: int) -> None:
    config = EndlessTMazeConfig(corridors=2, length=length, sampling=sampling)
    success = play_trials(config, config.memoryless().act, batch=4000).info["success"]
    assert float(success.mean()) == pytest.approx(0.25, abs=4 * (0.19 / 4000) ** 0.5)


def test_stepping_on_at_a_hidden_junction_ends_uniform_episodes() -> None:
    # Why the oracle probes: without it, only a corridor of full length can be passed.
    config = EndlessTMazeConfig(length=5, corridors=1, sampling="uniform")
    fixed = EndlessTMazeConfig(length=5, corridors=1).oracle()
    success = float(play_trials(config, fixed.act, batch=8000).info["success"].mean())
    assert success == pytest.approx(1 / 5, abs=4 * (0.16 / 8000) ** 0.5)


def test_lengths_and_cues_are_uniform_and_drawn_anew() -> None:
    config = EndlessTMazeConfig(length=6, corridors=100, sampling="uniform", min_length=0)
    assert config.shortest == 3
    env, oracle, pairs = config.build(200, 0), config.oracle(), Counter()
    state, step = env.reset()
    passed = torch.full((200,), -1)
    for _ in range(200):
        fresh = state.task.passed != passed
        pairs.update(zip(state.task.length[fresh].tolist(), state.task.cue[fresh].tolist(), strict=True))
        passed = state.task.passed
        action = oracle.act(step.obs, step.reward, step.episode_start, step.trial_start)
        state, step = env.step(state, action)
    assert set(pairs) == set(itertools.product(range(3, 7), range(2)))
    expected = sum(pairs.values()) / 8
    assert sum((count - expected) ** 2 / expected for count in pairs.values()) < 30


def test_rewards_given_one_by_one_win_over_the_preset() -> None:
    worth = EndlessTMazeConfig(rewards="paper", wrong=-0.5, forward=0.0).worth
    assert worth == (1.0, -0.5, -0.01, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length is 0; it must be a whole number of at least 1"),
        ({"corridors": 2.5}, "corridors is 2.5; it must be a whole number"),
        ({"min_length": 6}, "min_length is 6 and length is 5"),
        ({"sampling": "fix"}, "sampling is 'fix'; choose one of fixed, uniform"),
        ({"rewards": "papers"}, "choose one of dev, paper"),
        ({"wrong": float("nan")}, "wrong is nan; it must be a finite number"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^endless-tmaze: .*{message}"):
        make_config("endless-tmaze", **options)


def test_the_picture_shows_corridor_cue_and_agent() -> None:
    env = EndlessTMazeConfig(length=3).build(2, 0)
    state, _ = env.reset()
    state, _ = env.step(state, torch.zeros(2, dtype=torch.int64))
    cue = int(state.task.cue[1])
    lines = to_text(env.draw(state, 1)).split("\n")
    assert lines[:5] == ["██████", "████·█", f"█{'◀▶'[cue]}@··█", "████·█", "██████"]
    assert lines[5] == f"corridor 1 of 3, cue {('left', 'right')[cue]}"
