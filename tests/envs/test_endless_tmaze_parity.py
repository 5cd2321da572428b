"""The public rules of the Endless T-Maze once more, in plain Python, beside the batched task for 10,000 episodes."""

import itertools
from collections import Counter

import pytest
import torch

from mnemic.envs.endless_tmaze import EndlessTMazeConfig

FORWARD, TURNS = 0, {1: "left", 2: "right"}
PAY = {
    "dev": {"passed": 1.0, "failed": -0.01, "idle": -0.01, "walked": 0.0},
    "paper": {"passed": 1.0, "failed": -1.0, "idle": -0.01, "walked": -0.01},
}
CONFIGURATIONS = list(itertools.product(("fixed", "uniform"), (5, 10), (1, 3, 5, 10)))
EPISODES = 10_000 // len(CONFIGURATIONS)


class Chain:
    """One episode: n corridors, each with a cue at its first cell; where they lead and how long they are is given."""

    def __init__(self, corridors: int, longest: int, cue: str, length: int) -> None:
        self.left_to_pass, self.longest, self.ticks = corridors, longest, 6 * (longest + 1) * corridors
        self.enter(cue, length)

    def enter(self, cue: str, length: int) -> None:
        self.cue, self.to_junction, self.walked = cue, length, 0

    def seen(self) -> tuple[float, float, float]:
        cue = self.cue if self.walked == 0 else None
        return (self.walked / self.longest, 1.0 * (cue == "left"), 1.0 * (cue == "right"))

    def play(self, action: int, next_cue: str, next_length: int) -> tuple[str, str]:
        """What the action was, and how the episode stands: it goes on, or ended by success, failure or the clock."""
        self.ticks -= 1
        stands = "out of time" if self.ticks == 0 else "goes on"
        if self.to_junction > 0:
            if action != FORWARD:
                return "idle", stands
            self.walked, self.to_junction = self.walked + 1, self.to_junction - 1
            return "walked", stands
        if TURNS.get(action) != self.cue:
            return "failed", "lost"
        self.left_to_pass -= 1
        self.enter(next_cue, next_length)
        return "passed", "won" if self.left_to_pass == 0 else stands


@pytest.mark.parametrize(("sampling", "length", "corridors"), CONFIGURATIONS)
def test_agrees_step_by_step(sampling: str, length: int, corridors: int) -> None:
    rewards = "paper" if corridors in (1, 5) else "dev"
    config = EndlessTMazeConfig(sampling=sampling, length=length, corridors=corridors, rewards=rewards)
    rows, row_numbers = EPISODES, range(EPISODES)
    env, oracle = config.build(rows, seed=length), config.oracle()
    state, step = env.reset()
    generator = torch.Generator().manual_seed(corridors)
    # From always wise to always random, so that episodes end everywhere; a few rows dawdle until the clock ends them.
    wildness = torch.linspace(0, 1, rows) ** 2
    dawdle = torch.arange(rows) % 50 == 7

    def drawn() -> tuple[list[str], list[int]]:
        """The corridor that every row stands in: the one part of the rules that is left to chance."""
        return [("left", "right")[cue] for cue in state.task.cue.tolist()], state.task.length.tolist()

    cues, lengths = drawn()
    chains = [Chain(corridors, length, cue, long) for cue, long in zip(cues, lengths, strict=True)]
    ends, finished = Counter(), torch.zeros(rows, dtype=torch.int64)
    torch.testing.assert_close(step.obs, torch.tensor([chain.seen() for chain in chains]))
    while int(finished.min()) < 1:
        wise = oracle.act(step.obs, step.reward, step.episode_start, step.trial_start)
        wild = torch.rand(rows, generator=generator) < wildness
        action = torch.where(wild, torch.randint(0, 3, (rows,), generator=generator), wise)
        action = torch.where(dawdle & (step.obs[:, 0] == 0), 1, action)
        state, step = env.step(state, action)
        cues, lengths = drawn()
        told, final, now = [], [], []
        for row, did, cue, long in zip(row_numbers, action.tolist(), cues, lengths, strict=True):
            what, stands = chains[row].play(did, cue, long)
            over = stands != "goes on"
            told.append(
                (PAY[rewards][what], stands in ("won", "lost"), stands == "out of time", over, over, stands == "won")
            )
            final.append(chains[row].seen())
            if over:
                ends[stands] += 1
                finished[row] += 1
                chains[row] = Chain(corridors, length, cue, long)
            now.append(chains[row].seen())
        said = (step.reward, step.terminated, step.truncated, step.episode_start, step.trial_start)
        torch.testing.assert_close(torch.stack([*said, step.info["success"]], 1), torch.tensor(told), atol=0, rtol=0)
        torch.testing.assert_close(step.obs, torch.tensor(now), atol=1e-7, rtol=0)
        # What was seen last; after the last junction, of a corridor that nobody enters, the position is all there is.
        won = step.info["success"]
        torch.testing.assert_close(step.final_obs[~won], torch.tensor(final)[~won], atol=1e-7, rtol=0)
        assert not bool(step.final_obs[won, 0].any())
    assert sum(ends.values()) >= EPISODES
    assert set(ends) == {"won", "lost", "out of time"}
