"""Evaluation plays whole trials of fresh episodes, and counts every episode once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from torch import Tensor

from mnemic.agents.encoder import EncoderConfig, Inputs
from mnemic.agents.policy import Policy
from mnemic.envs.from_gymnasium import GymConfig
from mnemic.envs.native import NativeEnv, Outcome
from mnemic.envs.picture import FLOOR, Cell, Picture
from mnemic.envs.step import Env, EnvConfig
from mnemic.envs.tmaze import TMazeConfig
from mnemic.eval.figure import write_figure
from mnemic.eval.play import attention_of, heat, memory_strip, watch, write_gif
from mnemic.eval.protocol import at_random, evaluate, play_episodes, play_rule
from mnemic.eval.summary import by_place, summarise
from mnemic.memory.none import NoneConfig
from mnemic.memory.transformer import TransformerConfig


class Count(NamedTuple):
    episodes: Tensor  # (B,) ended in this trial
    moves: Tensor  # (B,) in this episode


@dataclass(frozen=True, kw_only=True)
class CountConfig(EnvConfig):
    """Episode k of a trial (from 0) takes k + 1 steps; its last step pays k. A trial of six steps holds three."""

    name: ClassVar[str] = "count"
    summary: ClassVar[str] = "counts"

    trial_steps: int | None = 6
    shown: int = 1

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> "CountEnv":
        return CountEnv(self, batch, seed, device)


class CountEnv(NativeEnv):
    def __init__(self, config: CountConfig, batch: int, seed: int, device: torch.device | str) -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(2),
            observation_space=spaces.Box(0, 1, (config.shown,)),
            episode_steps=10,
            trial_steps=config.trial_steps,
        )

    def begin(self, stream):
        zero_B = torch.zeros(self.batch, dtype=torch.int64)
        return Count(zero_B, zero_B)

    def restart(self, task, stream):
        return Count(task.episodes + 1, torch.zeros_like(task.moves))

    def advance(self, task, action_B, stream):
        task = Count(task.episodes, task.moves + 1)
        over_B = task.moves > task.episodes
        success_B = over_B & (task.episodes > 0)
        return task, Outcome(over_B * task.episodes.float(), over_B, {"success": success_B})

    def observe(self, task, episode_step_B):
        return task.moves.float().unsqueeze(-1).expand(-1, self.config.shown)

    def draw(self, state, row):
        here = int(state.task.moves[row])
        return Picture([[Cell("A", (200, 0, 0)) if i == here else FLOOR for i in range(4)]], "counting")


def policy_for(config: EnvConfig) -> Policy:
    torch.manual_seed(0)
    env = config.build(1, 0)
    return Policy(EncoderConfig(), NoneConfig(width=8), env.observation_space, env.action_space)


@pytest.mark.parametrize(("episodes", "rows", "trials"), [(1, 1, 1), (3, 1, 1), (4, 1, 2), (8, 4, 4), (13, 4, 8)])
def test_whole_trials_are_played_until_the_episodes_are_there(episodes: int, rows: int, trials: int) -> None:
    played = play_episodes(policy_for(CountConfig()), CountConfig(), episodes=episodes, rows=rows)
    assert sorted(played.places) == sorted([0, 1, 2] * trials)
    assert sorted(played.lengths) == sorted([1, 2, 3] * trials)
    assert sorted(played.returns) == sorted([0.0, 1.0, 2.0] * trials)
    assert played.trial_returns == [3.0] * trials
    assert len(set(played.trials)) == trials
    assert played.rates == {"success"}


def test_where_a_trial_is_one_episode_no_trial_is_told() -> None:
    config = CountConfig(trial_steps=None)
    played = play_episodes(policy_for(config), config, episodes=10, rows=4)
    assert len(played.returns) == 12  # three in each of four rows
    assert set(played.places) == {0}
    assert by_place(played) == []
    assert set(evaluate(policy_for(config), config, episodes=10, seed=0)) == {"return", "length", "success"}


def test_figures_of_trials() -> None:
    found = evaluate(policy_for(CountConfig()), CountConfig(), episodes=6, seed=0)
    means = {"return": 1.0, "length": 2.0, "success": pytest.approx(2 / 3), "trial_return": 3.0}
    assert found == means | {"gain": 2.0, "success_gain": 1.0}


def test_a_limit_of_steps_leaves_the_rest_out() -> None:
    played = play_episodes(policy_for(CountConfig()), CountConfig(), episodes=100, rows=2, max_steps=5)
    assert sorted(played.places) == [0, 0, 1, 1]
    assert played.trial_returns == []
    none = play_episodes(policy_for(CountConfig()), CountConfig(trial_steps=None), episodes=100, rows=2, max_steps=0)
    with pytest.raises(ValueError, match="no episode ended within 0 steps"):
        summarise(none)


def test_summary_draws_whole_trials_and_tells_places_apart() -> None:
    played = play_episodes(policy_for(CountConfig()), CountConfig(), episodes=30, rows=10)
    figures = summarise(played)
    # Every trial is the same, so there is nothing to be unsure of, though its episodes differ.
    assert figures["return"] == (1.0, 1.0, 1.0)
    assert figures["success"] == pytest.approx((2 / 3,) * 3)
    assert list(figures) == ["return", "success", "length", "trial_return", "gain", "success_gain"]
    assert figures["gain"] == (2.0, 2.0, 2.0)
    assert [place["return"].value for place in by_place(played)] == [0.0, 1.0, 2.0]
    assert [place["success"].value for place in by_place(played)] == [0.0, 1.0, 1.0]


def test_an_episode_that_the_clock_of_the_trial_cuts_is_no_whole_one() -> None:
    """Trials of eight steps: episodes of 1, 2 and 3 steps, and two steps of a fourth."""
    played = play_episodes(policy_for(CountConfig()), CountConfig(trial_steps=8), episodes=8, rows=2)
    assert [(p, w) for p, w in zip(played.places, played.whole, strict=True) if p > 1] == [(2, True)] * 2 + [
        (3, False)
    ] * 2
    assert played.gains == {"return": [2.0, 2.0], "success": [1.0, 1.0]}
    assert [place["return"].value for place in by_place(played)] == [0.0, 1.0, 2.0]
    one = play_episodes(policy_for(CountConfig()), CountConfig(trial_steps=2), episodes=8, rows=2)
    assert one.gains == {"return": [], "success": []}
    assert "gain" not in summarise(one)


def test_the_oracle_plays_the_trials_that_a_policy_plays() -> None:
    config = TMazeConfig(length=3)
    seen: dict[str, list[float]] = {}

    def noting(kind: str, act: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(obs: Tensor, *others: Tensor) -> Tensor:
            seen.setdefault(kind, []).extend(obs[:, 1].tolist())
            return act(obs, *others)

        return noted

    found = play_rule(noting("oracle", config.oracle().act), config, episodes=20, rows=5, seed=3)
    assert found.returns == [1.0] * 20
    assert found.steps == 16
    policy = policy_for(config)
    step = policy.step

    def stepped(inputs, memory):
        seen.setdefault("policy", []).extend(inputs.obs[:, 1].tolist())
        return step(inputs, memory)

    policy.step = stepped
    play_episodes(policy, config, episodes=20, rows=5, seed=3)
    cues = [[goal for goal in seen[kind] if goal] for kind in ("oracle", "policy")]
    assert cues[0][:5] == cues[1][:5]


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_chance_draws_evenly(id: str) -> None:
    config = GymConfig(id=id, workers=1, max_episode_steps=20)
    env = config.build(200, 0)
    act = at_random(env, torch.Generator().manual_seed(0))
    drawn = torch.stack([act(None) for _ in range(50)]).double().flatten()
    env.close()
    if id == "CartPole-v1":
        assert set(drawn.tolist()) == {0.0, 1.0}
        assert float(drawn.mean()) == pytest.approx(0.5, abs=4 * 0.5 / 100)
    else:  # torques in -2..2
        assert (float(drawn.min()), float(drawn.max())) == pytest.approx((-2, 2), abs=0.01)
        assert float(drawn.mean()) == pytest.approx(0, abs=4 * 4 / 12**0.5 / 100)
    assert len(play_rule(None, config, episodes=6, rows=3).returns) >= 6


def test_actions_without_bounds_are_not_drawn() -> None:
    env = CountConfig().build(1, 0)
    env.action_space = spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match=r"count: its actions are Box.*no bounds"):
        at_random(env, torch.Generator())


def test_a_curve_by_episode_is_drawn(tmp_path) -> None:
    played = play_episodes(policy_for(CountConfig()), CountConfig(), episodes=30, rows=10)
    write_figure(played, tmp_path / "a.png", "count")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 2 * image.height
    alone = play_episodes(policy_for(CountConfig()), CountConfig(trial_steps=None), episodes=3)
    with pytest.raises(ValueError, match="a trial is one episode"):
        write_figure(alone, tmp_path / "b.png", "count")


def test_a_policy_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"count shows float32 of shape \(3,\), and the policy was made for .*\(1,\)"):
        play_episodes(policy_for(CountConfig()), CountConfig(shown=3), episodes=1)


def test_watching_shows_every_step_and_every_ending(tmp_path) -> None:
    frames = list(watch(policy_for(CountConfig()), CountConfig(), episodes=3))
    assert [(f.episode, f.step, bool(f.outcome)) for f in frames] == [
        *((0, 0, False), (0, 1, True)),
        *((1, 0, False), (1, 1, False), (1, 2, True)),
        *((2, 0, False), (2, 1, False), (2, 2, False), (2, 3, True)),
    ]
    assert frames[-1].caption == "episode 3 · step 3 · reward +2.00 · solved: return +2.00"
    assert frames[1].outcome == "not solved: return +0.00"
    assert [f.picture.cells[0].index(Cell("A", (200, 0, 0))) for f in frames[5:]] == [0, 1, 2, 2]
    assert len(list(watch(policy_for(CountConfig()), CountConfig(), episodes=3, max_steps=2))) == 3

    write_gif(frames, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes()[:6] == b"GIF89a"
    with pytest.raises(ValueError, match="no frames"):
        write_gif([], tmp_path / "b.gif")


def test_an_action_is_told_by_its_name_where_it_has_one() -> None:
    (named,) = watch(policy_for(TMazeConfig()), TMazeConfig(), episodes=1, max_steps=1)
    assert named.action in ("forward", "up", "back", "down")
    assert named.caption.endswith(f"action {named.action}")
    numbered, _ = watch(policy_for(CountConfig()), CountConfig(), episodes=1, max_steps=1)
    assert numbered.action in ("0", "1")


def test_what_was_passed_in_the_episode_is_there_to_be_drawn(tmp_path, monkeypatch) -> None:
    passed = []

    def draw(env, states, row):
        passed.append(len(states))
        image = np.full((40, 600, 3), 50 * len(states), dtype=np.uint8)
        return replace(env.draw(states[-1], row), image=image)

    monkeypatch.setattr(Env, "draw_episode", draw)
    frames = list(watch(policy_for(CountConfig()), CountConfig(), episodes=3))
    assert passed == [1, 1, 2, 1, 2, 3]
    write_gif(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.width == 620
        image.seek(image.n_frames - 1)
        assert image.convert("RGB").getpixel((300, 30)) == pytest.approx((150, 150, 150), abs=8)


def test_what_a_step_attends_to_is_shown_over_its_trial(tmp_path) -> None:
    env = CountConfig().build(1, 0)
    memory = TransformerConfig(width=8, heads=2, context=4)
    policy = Policy(EncoderConfig(), memory, env.observation_space, env.action_space)
    frames = list(watch(policy, CountConfig(), episodes=4))  # of 1, 2 and 3 steps, then the next trial
    seen = [frame.attention for frame in frames if frame.attention and not frame.outcome]
    assert [attention.steps for attention in seen] == [1, 2, 3, 4, 4, 4, 1]
    assert [attention.began for attention in seen] == [(0,), (0, 1), (0, 1), (0, 1, 3), (0, 2), (1,), (0,)]
    assert all(attention.share_C.sum() == pytest.approx(1) for attention in seen)
    assert seen[0].caption == "attention to the last 1 steps, oldest left; darkest 100%"

    write_gif(frames, tmp_path / "with.gif")
    write_gif([replace(frame, attention=None) for frame in frames], tmp_path / "without.gif")
    with Image.open(tmp_path / "with.gif") as image, Image.open(tmp_path / "without.gif") as other:
        assert image.height == other.height + 40
        red = image.convert("RGB").getpixel((image.width // 2, image.height - 20))
        assert red == pytest.approx((200, 40, 40), abs=8)  # the first step has itself alone


def test_many_steps_of_attention_are_shown_as_stretches() -> None:
    env = CountConfig().build(1, 0)
    policy = Policy(EncoderConfig(), NoneConfig(width=4), env.observation_space, env.action_space)
    no_1 = torch.zeros(1, dtype=torch.bool)
    inputs = Inputs(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1), no_1, no_1)
    assert attention_of(policy, inputs, policy.initial_memory(1), [0], 9) is None
    policy.core.attends = lambda *told: torch.arange(5.0)[None] / 10  # type: ignore[method-assign]
    found = attention_of(policy, inputs, policy.initial_memory(1), [0, 6], 9, cells=2)
    assert found is not None
    assert found.share_C.tolist() == pytest.approx([0.8, 0.2])  # 0.4 + 0.3 + half of 0.2, and the rest
    assert (found.steps, found.began) == (5, (2,))


def test_memory_strip_keeps_the_strongest_entry_of_a_stretch() -> None:
    held = torch.tensor([[0.0, 1.0, -3.0, 2.0], [9.0, 9.0, 9.0, 9.0]])
    age = torch.tensor([[7], [7]])  # whole numbers are not shown
    assert memory_strip((held, age), cells=2).tolist() == [0.5, -0.75]
    assert memory_strip((held, age)).tolist() == [0.0, 0.5, -0.75, pytest.approx(2 / 3)]
    assert memory_strip(()).size == 0
    assert memory_strip(torch.tensor([[float("nan"), float("-inf")]])).tolist() == [0.0, -1.0]


def test_heat_runs_from_blue_through_pale_to_red() -> None:
    assert [heat(value) for value in (-1.0, 0.0, 1.0)] == [(40, 80, 200), (244, 244, 244), (200, 40, 40)]
