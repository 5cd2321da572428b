"""Acting: what a window holds, by hand."""

import pytest
import torch

from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.policy import Policy
from mnemic.envs.color_cubes import ColorCubesConfig
from mnemic.envs.trials import TrialsConfig
from mnemic.memory import make_config
from mnemic.memory.core import parts
from mnemic.train.rollout import collect, rows_of, start


def act(toys, steps, length, cut_returns=True, policy=None):
    env = toys.Script(steps)
    policy = policy or toys.SumPolicy()
    return collect(env, policy, start(env, policy), length, torch.Generator().manual_seed(0), cut_returns)


def test_without_an_end_the_next_value_is_that_of_the_next_step(toys):
    steps = [toys.row(1, trial=True), toys.row(2, reward=3), toys.row(4), toys.row(8)]
    window, acting = act(toys, steps, 3)
    assert window.value.T.tolist() == [[1, 3 + 3000, 7]]
    assert window.value_next.T.tolist() == [[3 + 3000, 7, 15]]
    assert window.reward_next.T.tolist() == [[3, 0, 0]]
    assert acting.memory.tolist() == [7]  # the look at the next step has left no trace
    assert acting.inputs.obs.tolist() == [[8]]


def test_a_truncated_episode_is_worth_its_final_observation(toys):
    """From the memory of the old episode, with the reward of its last action; then the memory goes on or forgets."""
    steps = [
        toys.row(1, trial=True),
        toys.row(2),
        toys.row(10, reward=5, end="truncated", final=4, trial=True),
        toys.row(20),
    ]
    window, acting = act(toys, steps, 3)
    assert window.value.T.tolist() == [[1, 3, 10]]
    assert window.value_next.T.tolist() == [[3, 1 + 2 + 4 + 5000, 30]]
    assert window.truncated_next.T.tolist() == [[False, True, False]]
    assert acting.memory.tolist() == [10]


def test_a_terminated_episode_is_not_looked_at(toys):
    """Its final observation is worth nothing: the next value is there, and the terminated flag cuts it."""
    steps = [toys.row(1, trial=True), toys.row(10, end="terminated", final=4, trial=True), toys.row(20)]
    window, _ = act(toys, steps, 2)
    assert window.value_next.T.tolist() == [[10, 30]]
    assert window.terminated_next.T.tolist() == [[True, False]]


@pytest.mark.parametrize(("cut_returns", "expected"), [(True, 1 + 4), (False, 1 + 10)])
def test_inside_a_trial_the_flag_decides_what_follows_an_episode(toys, cut_returns, expected):
    steps = [toys.row(1, trial=True), toys.row(10, end="truncated", final=4), toys.row(20)]
    window, acting = act(toys, steps, 2, cut_returns)
    assert window.value_next.T.tolist() == [[expected, 31]]
    assert window.value.T.tolist() == [[1, 11]]  # memory lives through the episode
    assert acting.memory.tolist() == [11]


@pytest.mark.parametrize("cut_returns", [True, False])
def test_the_end_of_a_trial_is_cut_either_way(toys, cut_returns):
    steps = [
        toys.row(1, trial=True),
        toys.row(10, end="truncated", final=4),
        toys.row(20, end="truncated", final=5, trial=True),
        toys.row(40),
    ]
    window, _ = act(toys, steps, 3, cut_returns)
    assert window.value_next[1:].T.tolist() == [[1 + 10 + 5, 60]]


def test_rows_end_by_themselves(toys):
    """One row is cut off while the others go on, in a window of its own or in a batch."""
    scripts = [
        [toys.row(1, trial=True), toys.row(2), toys.row(3), toys.row(4)],
        [toys.row(5, trial=True), toys.row(6, end="truncated", final=7, trial=True), toys.row(8), toys.row(9)],
        [toys.row(1, trial=True), toys.row(1), toys.row(2, end="truncated", final=3, trial=True), toys.row(1)],
        [toys.row(2, trial=True), toys.row(4, end="terminated", final=9, trial=True), toys.row(2), toys.row(6)],
    ]
    together, acting = act(toys, toys.beside(*scripts), 3)
    for index, script in enumerate(scripts):
        alone, after = act(toys, script, 3)
        assert torch.equal(together.value_next[:, index : index + 1], alone.value_next)
        assert torch.equal(together.value[:, index : index + 1], alone.value)
        assert acting.memory[index] == after.memory[0]


def test_windows_go_on_from_each_other(toys):
    """One window of four steps holds what two of two steps hold."""
    steps = [toys.row(1, trial=True), *(toys.row(i, reward=i) for i in range(2, 8))]
    whole, _ = act(toys, steps, 4)
    env, policy, generator = toys.Script(steps), toys.SumPolicy(), torch.Generator().manual_seed(0)
    first, acting = collect(env, policy, start(env, policy), 2, generator, True)
    second, _ = collect(env, policy, acting, 2, generator, True)
    for name in ("action", "log_prob", "value", "value_next", "reward_next"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(first, name), getattr(second, name)])), name
    assert second.memory.tolist() == [3]
    assert second.inputs.action[0].item() == first.action[1].item()


def test_the_inputs_tell_the_action_and_the_reward_that_led_here(toys):
    steps = [toys.row(1, trial=True), *(toys.row(i, reward=i) for i in range(2, 20))]
    window, _ = act(toys, steps, 16)
    assert torch.equal(window.inputs.action[1:], window.action[:-1])
    assert torch.equal(window.inputs.reward[1:], window.reward_next[:-1])
    assert len(window.action.unique()) == 2
    torch.testing.assert_close(window.log_prob, torch.full((16, 1), 0.5).log())


@pytest.mark.parametrize("cut_returns", [True, False])
@pytest.mark.parametrize("trial_steps", [0, 4, 7, 9, 3, -2])
@pytest.mark.parametrize("memory", ["lstm", "transformer", "memo"])
def test_final_observations_are_worth_the_same_without_a_look(toys, memory, trial_steps, cut_returns):
    """Episodes of up to 4 steps in trials that end with one, or with the next step, or in the middle of one.

    Or (-2) in trials of two episodes, which can be cut off again long before the most steps that a trial can take.
    """
    torch.manual_seed(0)
    cubes = ColorCubesConfig(preset="trivial", size=3, horizon=4)
    config = TrialsConfig(task=cubes, episodes=2) if trial_steps < 0 else toys.LightConfig(trial_steps=trial_steps)
    env = config.build(50, 0)
    policy = Policy(EncoderConfig(), make_config(memory, width=8), env.observation_space, env.action_space)
    with torch.no_grad():
        policy.out.weight.mul_(10)
    windows = {}
    for look in (True, False):
        acting, generator = start(env, policy), torch.Generator().manual_seed(0)
        for length in (13, 1, 13):
            windows[look], acting = collect(env, policy, acting, length, generator, cut_returns, look=look)
    looked, held = (parts(windows[look]) for look in (True, False))
    cut = windows[True].truncated_next
    if not cut_returns:
        cut = cut & windows[True].trial_over_next
    assert 20 < cut.sum() < cut.numel()
    assert (windows[True].value_next[:-1] != windows[True].value[1:])[cut[:-1]].float().mean() > 0.9
    for name, part in looked.items():
        torch.testing.assert_close(held[name], part, rtol=1e-5, atol=1e-5, msg=name)


def test_without_a_known_clock_every_step_is_evaluated(toys):
    """Two truncations one right after the other, in an environment that says nothing of its clocks."""
    steps = [toys.row(1, trial=True), *(toys.row(i, end="truncated", final=10 * i, trial=True) for i in range(2, 6))]
    env, policy = toys.Script(steps), toys.SumPolicy()
    window, _ = collect(env, policy, start(env, policy), 4, torch.Generator(), True, look=False)
    assert window.value_next.T.tolist() == [[1 + 20, 2 + 30, 3 + 40, 4 + 50]]


def test_rows_of_takes_whole_rows(toys):
    scripts = [[toys.row(10 * i, trial=True), *(toys.row(10 * i + t) for t in range(1, 5))] for i in range(4)]
    window, _ = act(toys, toys.beside(*scripts), 3)
    picked = rows_of(window, torch.tensor([2, 0]))
    assert picked.inputs.obs[:, :, 0].T.tolist() == [[20, 21, 22], [0, 1, 2]]
    for name, part in parts(picked._replace(memory=())).items():
        assert part.shape[:2] == (3, 2), name
    assert picked.memory.tolist() == [0, 0]
