import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.dark_key_to_door import DarkKeyToDoorConfig
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text


def test_the_bound_is_the_known_one() -> None:
    assert round(DarkKeyToDoorConfig().best_return(), 1) == 99.7


def test_a_player_who_knows_key_and_door_reaches_the_bound() -> None:
    config = DarkKeyToDoorConfig()
    env = config.build(1500, 0)
    room = env.reset()[0].task

    def knows(obs, reward, episode_start, trial_start):
        return env.grid.toward(env.grid.cell_at(obs[:, :2]), torch.where(obs[:, 2] > 0, room.door, room.key))

    trials = play_trials(config, knows, batch=1500)
    error = 4 * float(trials.returns.std()) / 1500**0.5
    assert float(trials.returns.mean()) == pytest.approx(config.best_return(), abs=error)
    # Row by row: rounds of the shortest way, and a key in what is left.
    x, y = (torch.stack([cell % 9 for cell in room[1:4]]), torch.stack([cell // 9 for cell in room[1:4]]))
    way = ((x[1:] - x[:-1]).abs() + (y[1:] - y[:-1]).abs()).clamp(min=1)
    both = way.sum(0)
    assert torch.equal(trials.returns, (2 * (500 // both) + (500 % both >= way[0])).double())


@pytest.mark.parametrize(("size", "episode_steps", "trial_steps"), [(2, 2, 5), (2, 1, 3), (3, 4, 10)])
def test_the_bound_holds_where_episodes_are_too_short_for_some_doors(
    size: int, episode_steps: int, trial_steps: int
) -> None:
    config = DarkKeyToDoorConfig(size=size, episode_steps=episode_steps, trial_steps=trial_steps)
    env = config.build(4000, 0)
    room = env.reset()[0].task

    def knows(obs, reward, episode_start, trial_start):
        return env.grid.toward(env.grid.cell_at(obs[:, :2]), torch.where(obs[:, 2] > 0, room.door, room.key))

    trials = play_trials(config, knows, batch=4000)
    error = 4 * float(trials.returns.std()) / 4000**0.5
    assert float(trials.returns.mean()) == pytest.approx(config.best_return(), abs=error)


@pytest.mark.parametrize("hidden", [False, True])
def test_the_oracle_uses_what_it_finds(hidden: bool) -> None:
    config = DarkKeyToDoorConfig(show_key=not hidden, show_time=not hidden)
    trials = play_trials(config, config.oracle().act, batch=500)
    mean, error = float(trials.returns.mean()), 4 * float(trials.returns.std()) / 500**0.5
    # 85.4 over 8,000 trials of another seed; what is missing to the bound is the search.
    assert mean == pytest.approx(85.4, abs=error)
    assert mean < config.best_return() - 5
    # Whoever found the door goes on shortest ways, so no trial ends with what one episode can give.
    assert float(trials.returns.min()) > 10


def test_a_player_without_memory_gets_far_less() -> None:
    generator = torch.Generator().manual_seed(0)

    def wander(obs, reward, episode_start, trial_start):
        return torch.randint(0, 4, (len(obs),), generator=generator)

    assert float(play_trials(DarkKeyToDoorConfig(), wander, batch=200).returns.mean()) < 20


def test_rewards_flags_and_rooms_by_a_plain_walk() -> None:
    batch = 40
    env = DarkKeyToDoorConfig(size=2, episode_steps=12, trial_steps=20).build(batch, 1)
    state, _ = env.reset()
    generator = torch.Generator().manual_seed(0)
    rooms = torch.stack(state.task[1:4], 1).tolist()
    cell, has_key = [start for start, _, _ in rooms], [False] * batch
    clock, trial, kinds = [0] * batch, [0] * batch, set()
    moves = [(0, -1), (0, 1), (-1, 0), (1, 0), (0, 0)]
    for _ in range(300):
        action = torch.randint(0, 5, (batch,), generator=generator)
        state, step = env.step(state, action)
        fresh_rooms, said, last, seen = torch.stack(state.task[1:4], 1).tolist(), [], [], []
        for row, (dx, dy) in enumerate(moves[move] for move in action.tolist()):
            _, key, door = rooms[row]
            x, y = min(1, max(0, cell[row] % 2 + dx)), min(1, max(0, cell[row] // 2 + dy))
            cell[row], clock[row], trial[row] = y * 2 + x, clock[row] + 1, trial[row] + 1
            takes, opens = cell[row] == key and not has_key[row], cell[row] == door and has_key[row]
            has_key[row] = has_key[row] or takes
            trial_over = trial[row] == 20
            over = opens or clock[row] == 12 or trial_over
            kinds.add((opens, over, trial_over))
            said.append([takes or opens, opens, over and not opens, over, trial_over, opens])
            last.append([x / 2, y / 2, has_key[row], clock[row] / 12])
            if trial_over:
                rooms[row], trial[row] = fresh_rooms[row], 0
            if over:
                cell[row], has_key[row], clock[row] = rooms[row][0], False, 0
            seen.append([cell[row] % 2 / 2, cell[row] // 2 / 2, has_key[row], clock[row] / 12])
        flags = [step.terminated, step.truncated, step.episode_start, step.trial_start, step.info["success"]]
        assert torch.stack([step.reward, *flags], 1).tolist() == said
        torch.testing.assert_close(step.final_obs, torch.tensor(last))
        torch.testing.assert_close(step.obs, torch.tensor(seen))
        assert fresh_rooms == rooms
    assert len(kinds) == 5  # nothing, door, clock, end of the trial, and the door with it


@pytest.mark.parametrize(("show_key", "show_time", "length"), [(True, True, 4), (True, False, 3), (False, False, 2)])
def test_what_is_hidden_is_not_in_the_observation(show_key: bool, show_time: bool, length: int) -> None:
    env = DarkKeyToDoorConfig(show_key=show_key, show_time=show_time).build(2, 0)
    assert env.reset()[1].obs.shape == (2, length) == (2, *env.observation_space.shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trial_steps": 40}, "trial_steps is 40 and episode_steps is 50; a trial must be at least as long"),
        ({"size": 1}, "size is 1"),
        ({"episode_steps": 0}, "episode_steps is 0"),
    ],
)
def test_contradictions_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^dark-key-to-door: {message}"):
        make_config("dark-key-to-door", **options)


def test_the_picture_shows_room_key_door_and_agent() -> None:
    env = DarkKeyToDoorConfig(size=4).build(20, 0)
    state, _ = env.reset()
    room = state.task
    row = int(((room.start != room.key) & (room.key != room.door) & (room.start != room.door)).nonzero()[0])
    text = to_text(env.draw(state, row)).replace("\n", "")
    assert (text[int(room.start[row])], text[int(room.key[row])], text[int(room.door[row])]) == ("@", "k", "D")
    assert text[16:] == "without the key, 500 steps of the trial left"
