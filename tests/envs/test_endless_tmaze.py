import itertools
from collections import Counter

import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text

GRID = list(itertools.product(("fixed", "uniform"), (5, 10), (1, 3, 5, 10)))


class PlainMaze:
    """The public rules once more, one row and one step at a time; cues and lengths come from outside."""

    def __init__(self, longest: int, corridors: int, rewards: str) -> None:
        self.longest, self.corridors, self.rewards = longest, corridors, rewards

    def open(self, cue: str, length: int) -> list[float]:
        self.cue, self.length, self.x = cue, length, 0
        return self.look()

    def begin(self, cue: str, length: int) -> list[float]:
        self.behind, self.clock = 0, 0
        return self.open(cue, length)

    def look(self) -> list[float]:
        at_cue = self.x == 0
        return [self.x / self.longest, float(at_cue and self.cue == "left"), float(at_cue and self.cue == "right")]

    def act(self, action: int, next_cue: str, next_length: int) -> tuple[list[float], float, bool, bool]:
        """Observation, reward, terminated, truncated; the next corridor is used only if one is entered."""
        word = ["forward", "left", "right"][action]
        self.clock += 1
        late = self.clock == 6 * (self.longest + 1) * self.corridors
        if self.x < self.length:
            if word == "forward":
                self.x += 1
                return self.look(), {"dev": 0.0, "paper": -0.01}[self.rewards], False, late
            return self.look(), -0.01, False, late
        if word != self.cue:
            return self.look(), {"dev": -0.01, "paper": -1.0}[self.rewards], True, False
        self.behind += 1
        done = self.behind == self.corridors
        self.open(next_cue, next_length)
        return self.look(), 1.0, done, late and not done


@pytest.mark.parametrize("rewards", ["dev", "paper"])
@pytest.mark.parametrize(("sampling", "length", "corridors"), [("fixed", 3, 2), ("uniform", 4, 3), ("fixed", 1, 1)])
def test_agrees_with_the_rules_step_by_step(sampling: str, length: int, corridors: int, rewards: str) -> None:
    batch = 60
    config = make_config("endless-tmaze", sampling=sampling, length=length, corridors=corridors, rewards=rewards)
    env = config.build(batch, 5)
    state, step = env.reset()
    names = ["left", "right"]
    plain = [PlainMaze(length, corridors, rewards) for _ in range(batch)]
    cues, lengths = state.task.cue.tolist(), state.task.length.tolist()
    seen = [maze.begin(names[cue], long) for maze, cue, long in zip(plain, cues, lengths, strict=True)]
    torch.testing.assert_close(step.obs, torch.tensor(seen))
    # Mostly the right thing, so that ends of every kind are reached, also the clock's.
    generator = torch.Generator().manual_seed(0)
    oracle, ends = config.oracle(), Counter()
    for _ in range(500):
        wise = oracle.act(step.obs, step.reward, step.episode_start, step.trial_start)
        idle = torch.where((step.obs[:, 0] == 0) & (torch.arange(batch) % 4 == 0), 1, wise)
        drawn = torch.randint(0, 3, (batch,), generator=generator)
        action = torch.where(torch.rand(batch, generator=generator) < 0.15, drawn, idle)
        state, step = env.step(state, action)
        cues, lengths = state.task.cue.tolist(), state.task.length.tolist()
        said, seen, lasting = [], [], []
        for row, (maze, did) in enumerate(zip(plain, action.tolist(), strict=True)):
            obs, reward, terminated, truncated = maze.act(did, names[cues[row]], lengths[row])
            said.append([reward, terminated, truncated, maze.behind == corridors, maze.behind])
            if terminated or truncated:
                ends[terminated, truncated, maze.behind == corridors] += 1
                obs = maze.begin(names[cues[row]], lengths[row])
            else:
                lasting.append(row)
            seen.append(obs)
        flags = [step.terminated, step.truncated, step.info["success"], step.info["corridors"]]
        torch.testing.assert_close(torch.stack([step.reward, *flags], 1), torch.tensor(said, dtype=torch.float32))
        torch.testing.assert_close(step.obs, torch.tensor(seen))
        assert torch.equal(step.final_obs[lasting], step.obs[lasting])
    assert sum(ends.values()) > 1000
    assert set(ends) == {(True, False, True), (True, False, False), (False, True, False)}


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
