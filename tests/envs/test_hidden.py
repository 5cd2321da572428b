"""What tasks hide, beside what they show: where something is shown, it can be read off what the agent is told."""

import pytest
import torch

from mnemic.envs import laws, make_config
from mnemic.envs.step import Env, Hidden


def moments(config, rows=32, steps=120, act=None):
    """Yield the environment, its observation before and what is hidden, step by step."""
    env = config.build(rows, 0)
    state, step = env.reset()
    for action in laws.actions(env, steps):
        yield env, state, step, env.hidden(state, step)
        state, step = env.step(state, action if act is None else act(state, action))


def test_an_environment_hides_nothing_that_it_does_not_name():
    env = make_config("tmaze").build(1, 0)
    assert Env.hidden(env, *env.reset()) == {}


def test_the_goal_of_the_tmaze():
    for _, _, step, found in moments(make_config("tmaze", length=4)):
        goal = found["goal"]
        assert torch.equal(goal.shown, step.obs[:, 1].ne(0) & step.obs[:, 0].eq(0))
        assert torch.equal(step.obs[goal.shown, 1] > 0, goal.value[goal.shown] == 1)


def test_the_cue_of_the_endless_tmaze_is_another_in_every_corridor():
    def turn(state, action):
        task = state.task
        return torch.where(task.position == task.length, task.cue + 1, 0)

    turns = set()
    for _, _, step, found in moments(make_config("endless-tmaze", length=2, corridors=3), act=turn):
        cue = found["cue"]
        assert torch.equal(cue.shown, step.obs[:, 1:].any(1))
        assert torch.equal(step.obs[cue.shown, 1:].argmax(1), cue.value[cue.shown])
        turns |= set(cue.turn.tolist())
    assert turns == {0, 1, 2}


@pytest.mark.parametrize("task", ["extreme", "medium"])
def test_cells_of_cubes_are_shown_with_the_map(task):
    config = make_config("color-cubes", preset=task, teleport=0.5, size=4)
    layout, seen = config.layout(), 0
    for _, state, step, found in moments(config):
        shown = step.obs[:, layout["full"]].any(1)
        for colour, name in enumerate(("red cube", "green cube", "blue cube")):
            cube = found[name]
            assert torch.equal(cube.shown, shown)
            assert step.obs[:, layout["full"]].gather(1, cube.value[:, None])[shown].all()
            target = state.task.target == colour
            assert torch.equal(found["target"].value[target], cube.value[target])
            if task == "medium":
                cells = step.obs[:, layout["coloured"]].view(len(shown), 3, 16)[shown, colour]
                assert torch.equal(cells.argmax(1), cube.value[shown])
        seen += int(shown.sum())
    assert seen > 500


def test_a_phase_that_opens_with_one_cube_tells_no_other():
    config = make_config("color-cubes", phase_reveal=False, teleport=0.0, size=3)
    apart = 0
    for _, state, _, found in moments(config, steps=200):
        target = found["target"]
        told = state.task.shown.gather(1, state.task.target[:, None]).squeeze(1)
        assert torch.equal(target.shown, told)
        apart += int((state.task.told & ~told).sum())
    assert apart > 0


def test_key_and_door_are_known_once_they_have_paid():
    config = make_config("dark-key-to-door", size=3, episode_steps=12, trial_steps=48)
    paid, doors = 0, 0
    for _, state, step, found in moments(config):
        shown = found["key"].shown | found["door"].shown
        assert torch.equal(shown, step.reward.gt(0) & ~step.trial_start)
        assert torch.equal(found["door"].value, state.task.door)
        at_key = found["key"].shown & ~step.episode_start  # the episode may have ended with the step that took it
        assert torch.equal(state.task.cell[at_key], found["key"].value[at_key])
        paid, doors = paid + int(shown.sum()), doors + int(found["door"].shown.sum())
    assert paid > doors > 10


def test_the_goal_of_the_dark_room():
    for _, state, step, found in moments(make_config("darkroom", size=3, episode_steps=6, episodes=3)):
        goal = found["goal"]
        assert torch.equal(goal.shown, step.reward.gt(0) & ~step.trial_start)
        there = goal.shown & ~step.episode_start
        assert torch.equal(state.task.cell[there], goal.value[there])


def test_suits_ask_for_those_before():
    for _, _, step, found in moments(make_config("repeat-previous", k=3)):
        suit = found["suit"]
        assert suit.back == 3
        assert suit.shown.all()
        assert torch.equal(step.obs.argmax(1), suit.value)


def test_trials_hide_what_their_task_does():
    config = make_config("trials:tmaze", episodes=2, task={"length": 4})
    for _, state, step, found in moments(config):
        assert torch.equal(found["goal"].value, (state.task.task.goal + 1) // 2)
        assert torch.equal(found["goal"].shown, step.episode_start)


def test_a_broken_promise_is_found(monkeypatch):
    config = make_config("tmaze", length=3)
    wrong = Hidden(torch.full((4,), 2), 2, torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.int64))
    monkeypatch.setattr("mnemic.envs.tmaze.TMaze.hidden", lambda self, state, step: {"goal": wrong})
    with pytest.raises(laws.BrokenLaw, match=r"the value of goal lies outside 0\.\.1"):
        laws.what_is_hidden_is_only_told_to_probes(config)
