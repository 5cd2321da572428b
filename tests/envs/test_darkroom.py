import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.darkroom import DarkroomConfig
from mnemic.envs.grid import DOWN, LEFT, RIGHT, STAY, UP
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text


def test_goals_are_split_eighty_to_twenty() -> None:
    train, test, every = (DarkroomConfig(goals=goals).goal_cells() for goals in ("train", "test", "all"))
    assert (len(train), len(test)) == (80, 20)
    assert sorted(train + test) == every == list(range(100))
    assert DarkroomConfig(goals="test", split_seed=1).goal_cells() != test


@pytest.mark.parametrize("goals", ["train", "test"])
def test_only_goals_of_the_split_are_drawn(goals: str) -> None:
    config = DarkroomConfig(goals=goals)
    state, _ = config.build(4000, 0).reset()
    assert state.task.goal.unique().tolist() == config.goal_cells()


def test_a_walk_by_hand() -> None:
    env = DarkroomConfig(size=3, episode_steps=5, episodes=2).build(200, 0)
    state, step = env.reset()
    goal = state.task.goal
    cells, flags = [], []
    for action in [UP, RIGHT, DOWN, STAY, LEFT] * 2:
        state, step = env.step(state, torch.full((200,), action))
        cells.append((step.final_obs * 3).round().long()[0].tolist())
        where = cells[-1][1] * 3 + cells[-1][0]
        assert torch.equal(step.reward, (goal == where).float())
        flags.append((bool(step.truncated.all()), bool(step.trial_start.all())))
        if flags[-1] == (True, False):
            assert torch.equal(step.info["success"], torch.isin(goal, torch.tensor([0, 1, 4, 3])))
            assert torch.equal(state.task.goal, goal)
    assert cells == [[0, 0], [1, 0], [1, 1], [1, 1], [0, 1]] * 2
    assert flags == [(False, False)] * 4 + [(True, False)] + [(False, False)] * 4 + [(True, True)]
    assert not torch.equal(state.task.goal, goal)


@pytest.mark.parametrize("goals", ["all", "test"])
def test_the_oracle_explores_once_and_then_knows(goals: str) -> None:
    config = DarkroomConfig(goals=goals)
    goal = config.build(300, 0).reset()[0].task.goal
    trials = play_trials(config, config.oracle().act, batch=300)
    x, y = goal % 10, goal // 10
    place = y * 10 + torch.where(y % 2 == 0, x, 9 - x)  # on the way through all cells, found in step place + 1
    distance = (x + y).clamp(min=1)
    assert torch.equal(trials.returns, (100 - place + 4 * (101 - distance)).double())
    assert trials.episodes.unique().tolist() == [5]


def test_the_best_return_is_that_of_a_player_who_knows() -> None:
    # 2x2: goals at distance 0 (one step to stay), 1, 1 and 2.
    assert DarkroomConfig(size=2, episode_steps=3, episodes=2).best_return() == 2 * (3 + 3 + 3 + 2) / 4
    config = DarkroomConfig()
    env = config.build(400, 0)
    goal = env.reset()[0].task.goal

    def knows(obs, reward, episode_start, trial_start):
        return env.grid.toward(env.grid.cell_at(obs), goal)

    trials = play_trials(config, knows, batch=400)
    assert torch.equal(trials.returns, 5 * (101 - (goal % 10 + goal // 10).clamp(min=1)).double())
    error = 4 * float(trials.returns.std()) / 20
    assert float(trials.returns.mean()) == pytest.approx(config.best_return(), abs=error)


def test_rooms_larger_than_an_episode_are_searched_over_several() -> None:
    config = DarkroomConfig(size=8, episode_steps=30, episodes=8)
    trials = play_trials(config, config.oracle().act, batch=200)
    # In the last episodes everybody goes straight to the goal.
    assert float(trials.info["success"].min()) >= 0.5
    assert float(trials.info["success"].mean()) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size is 1"),
        ({"size": 2, "goals": "test"}, "less than one goal; make size at least 3"),
        ({"goals": "some"}, "choose one of train, test, all"),
        ({"episodes": 0}, "episodes is 0"),
        ({"episode_steps": 0}, "episode_steps is 0"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^darkroom: .*{message}"):
        make_config("darkroom", **options)


def test_the_picture_shows_room_goal_and_agent() -> None:
    env = DarkroomConfig(size=3).build(8, 0)
    state, _ = env.reset()
    row = int((state.task.goal > 0).nonzero()[0])
    text = to_text(env.draw(state, row)).replace("\n", "")
    assert text[0] == "@"
    assert text[int(state.task.goal[row])] == "G"
    assert text[9:] == "episode 1 of the trial, goal not found"
