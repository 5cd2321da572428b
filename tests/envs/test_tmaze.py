import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text
from mnemic.envs.tmaze import BACK, DOWN, FORWARD, UP, TMazeConfig


def follow(config: TMazeConfig, actions: list[int], batch: int = 64):
    """The goals, and what is seen, paid and ended by the same actions in all rows, (T, B, ...)."""
    env = config.build(batch, 0)
    state, step = env.reset()
    goal, steps = state.task.goal, [step]
    for action in actions:
        state, step = env.step(state, torch.full((batch,), action))
        steps.append(step)
    return goal, steps


def test_an_episode_by_hand() -> None:
    goal, steps = follow(TMazeConfig(length=3), [FORWARD, FORWARD, FORWARD, UP])
    assert set(goal.tolist()) == {-1, 1}
    zero = torch.zeros_like(goal)
    wanted = [torch.stack([zero, goal], 1), *[torch.stack([zero, zero], 1)] * 2, torch.stack([zero + 1, zero], 1)]
    for step, obs in zip(steps, wanted, strict=False):
        assert torch.equal(step.obs, obs.float())
    assert steps[4].final_obs.unique(dim=0).tolist() == [[1.0, 1.0]]
    assert torch.equal(steps[4].reward, (goal == 1).float())
    assert torch.equal(steps[4].info["success"], goal == 1)
    assert [bool(step.terminated.all()) for step in steps] == [False, False, False, False, True]


def test_only_the_first_and_the_last_action_may_differ_from_forward_for_free() -> None:
    _, steps = follow(TMazeConfig(length=4), [UP, UP, BACK, FORWARD, DOWN])
    assert [step.reward.unique().tolist() for step in steps[1:]] == [[0.0], [-0.25], [-0.25], [0.0], [0.0]]
    assert bool(steps[5].terminated.all())
    # Back at the start there is no second look at the goal.
    assert not bool(steps[3].obs.any())


@pytest.mark.parametrize("length", [1, 10, 200])
def test_the_oracle_gets_one_and_a_blind_player_half_of_it(length: int) -> None:
    config = TMazeConfig(length=length)
    trials = play_trials(config, config.oracle().act, batch=500)
    assert trials.returns.unique().tolist() == [1.0]
    assert trials.steps.unique().tolist() == [length + 1]
    generator = torch.Generator().manual_seed(0)

    def blind(obs, reward, episode_start, trial_start):
        return torch.where(obs[:, 0] == 1, 1 + 2 * torch.randint(0, 2, (len(obs),), generator=generator), FORWARD)

    mean = float(play_trials(config, blind, batch=4000).returns.mean())
    assert mean == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


def test_an_empty_corridor_is_refused() -> None:
    with pytest.raises(ValueError, match="tmaze: length is 0"):
        make_config("tmaze", length=0)


@pytest.mark.parametrize(("length", "columns"), [(3, 6), (10_000, 43)])
def test_the_picture_fits(length: int, columns: int) -> None:
    env = TMazeConfig(length=length).build(1, 0)
    state, _ = env.reset()
    lines = to_text(env.draw(state, 0)).split("\n")
    assert {len(line) for line in lines[:5]} == {columns}
    assert lines[2][1] == "@"
    assert (lines[1] + lines[3]).count("G") == 1
