import pytest
import torch

from mnemic.envs import make_config
from mnemic.envs.oracle import play_trials
from mnemic.envs.picture import to_text
from mnemic.envs.repeat_previous import RepeatPreviousConfig


@pytest.mark.parametrize(("k", "decks"), [(4, 1), (32, 2), (64, 3)])
def test_the_oracle_gets_one(k: int, decks: int) -> None:
    config = RepeatPreviousConfig(k=k, decks=decks)
    trials = play_trials(config, config.oracle().act, batch=200)
    torch.testing.assert_close(trials.returns, torch.ones(200).double(), atol=1e-5, rtol=0)
    assert bool((trials.info["success"] == 1).all())
    assert trials.steps.unique().tolist() == [52 * decks]


def test_the_cards_are_whole_decks_and_the_answers_are_k_cards_old() -> None:
    batch, k = 50, 4
    env = RepeatPreviousConfig(k=k, decks=2).build(batch, 0)
    state, step = env.reset()
    seen, generator, right = [], torch.Generator().manual_seed(0), torch.zeros(batch)
    for t in range(104):
        assert torch.equal(step.obs.sum(1), torch.ones(batch))
        seen.append(step.obs.argmax(1))
        action = torch.randint(0, 4, (batch,), generator=generator)
        state, step = env.step(state, action)
        sign = torch.where(action == seen[t - k], 1.0, -1.0) if t >= k else torch.zeros(batch)
        right += sign == 1
        torch.testing.assert_close(step.reward, sign / 100)
        torch.testing.assert_close(step.info["accuracy"], right / 100)
    assert bool(step.terminated.all())
    assert not bool(step.final_obs.any())
    cards = torch.stack(seen, 1)
    for suit in range(4):
        assert (cards == suit).sum(1).unique().tolist() == [26]
    # Another deck follows, in another order.
    assert not torch.equal(step.obs.argmax(1), cards[:, 0])


def test_guessing_gets_minus_a_half() -> None:
    generator = torch.Generator().manual_seed(0)

    def guess(obs, reward, episode_start, trial_start):
        return torch.randint(0, 4, (len(obs),), generator=generator)

    trials = play_trials(RepeatPreviousConfig(), guess, batch=4000)
    # A right answer is worth 2/48 more than a wrong one, and one in four is right.
    error = 4 * 2 * (0.25 * 0.75 / 48 / 4000) ** 0.5
    assert float(trials.returns.mean()) == pytest.approx(-0.5, abs=error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"decks": 0}, "decks is 0"),
        ({"k": 52}, "k is 52 and there are 52 cards; make k less"),
    ],
)
def test_contradictions_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^repeat-previous: {message}"):
        make_config("repeat-previous", **options)


def test_the_picture_shows_the_last_cards() -> None:
    env = RepeatPreviousConfig(k=2).build(1, 0)
    state, _ = env.reset()
    for _ in range(2):
        state, _ = env.step(state, torch.zeros(1, dtype=torch.int64))
    cards = "".join("♠♥♣♦"[suit] for suit in state.task.suit[0, :3])
    assert to_text(env.draw(state, 0)) == f"{cards}\ncard 3 of 52, 0 right"
