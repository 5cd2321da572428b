"""Learning that goes through the running trial again: what it reads, keeps, shuffles and refreshes."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from mnemic.agents.encoder import Inputs
from mnemic.memory import MEMORIES, make_config
from mnemic.memory.core import map_state, parts, rows
from mnemic.memory.rnn import GRU, GRUConfig
from mnemic.memory.stack import Stack
from mnemic.train import loop
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.history import check_trials, go_on, join, shuffled
from mnemic.train.loop import act, train, update
from mnemic.train.ppo import advantages, gradient
from mnemic.train.rollout import collect, start
from mnemic.train.run import RunFolder, Training

ROWS, WINDOW, TRIAL = 6, 4, 12
SIZES = {
    "lstm": {},
    "transformer": {"heads": 2, "context": 40, "positions": "episode", "sink": "kv0"},
    "memo": {"heads": 2, "segment": 3, "summaries": 2, "segment_jitter": 0.4, "depth_dropout": 0.3},
}


def beginning(toys, memory="lstm", *, staggered=False, trial=TRIAL, opinion=20, **options):
    """A run of the toy task that has not taken a step; with rows at different steps of their trials if wanted."""
    given = {"rows": ROWS, "window": WINDOW, "minibatches": 2, "epochs": 2, "recompute": trial, "cut_returns": False}
    config = TrainConfig(
        env=toys.LightConfig(trial_steps=trial),
        memory=make_config(memory, width=8, **SIZES.get(memory, {})),
        ppo=PPOConfig(**given | options),
        evaluation=EvalConfig(every=0),
        steps=10**6,
    )
    training = Training(config)
    with torch.no_grad():  # a first policy is nearly uniform; this one has opinions
        training.policy.out.weight.mul_(opinion)
    if staggered:
        state = training.acting.env_state
        training.acting = training.acting._replace(env_state=state._replace(trial_step=2 * torch.arange(ROWS) % trial))
    return training


def acted(training):
    """Act for a window, and return it with the history before it."""
    return join(training.history, act(training))


def keep(training, whole):
    """What follows an update."""
    training.history = go_on(training.config.ppo, training.policy, whole, training.acting, training.shuffling)


def move(policy):
    """Stands for an update: other weights."""
    torch.manual_seed(3)
    with torch.no_grad():
        for part in policy.parameters():
            part.add_(0.05 * torch.randn_like(part))


def near(got, want):
    got, want = parts(got), parts(want)
    assert got.keys() == want.keys()
    for name, part in want.items():
        torch.testing.assert_close(got[name], part, rtol=1e-5, atol=1e-5, msg=name)


def slowly(policy, inputs, steps):
    """Values and memory of all rows, step by step from nothing."""
    memory, values = policy.initial_memory(ROWS), []
    with torch.no_grad():
        for t in range(steps):
            output, memory = policy.step(map_state(lambda part, t=t: part[t], inputs), memory)
            values.append(output.value)
    return torch.stack(values), memory


@pytest.mark.parametrize("staggered", [False, True], ids=["in step", "staggered"])
@pytest.mark.parametrize("recompute", [TRIAL, 7, 3])
@pytest.mark.parametrize("memory", sorted(SIZES))
def test_with_the_same_weights_the_pass_is_acting_again(toys, memory, recompute, staggered):
    """Whatever part of the trial is kept: the ratio is 1, the values are those of acting, a refresh changes nothing."""
    training = beginning(toys, memory, staggered=staggered, recompute=recompute)
    lengths = []
    for _ in range(8):
        whole = acted(training)
        lengths.append(len(whole.value))
        with torch.no_grad():
            output, _ = training.policy.unroll(whole.inputs, whole.memory)
        log_prob = training.policy.head.log_prob(output.action, whole.action)
        # The history of a trial that is over is not read, nor the memory of a row that begins another.
        torch.testing.assert_close(log_prob[-WINDOW:], whole.log_prob[-WINDOW:], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.value[-WINDOW:], whole.value[-WINDOW:], rtol=1e-5, atol=1e-5)
        before = map_state(torch.clone, training.acting.memory)
        keep(training, whole)
        running_R = (~whole.trial_over_next[-1]).nonzero()[:, 0]
        near(rows(training.acting.memory, running_R), rows(before, running_R))
    assert whole.log_prob.std() > 0.01
    if not staggered and recompute == TRIAL:
        assert lengths == [4, 8, 12, 4, 8, 12, 4, 8]  # work grows over a trial, and begins anew with the next
    assert max(lengths) <= WINDOW + recompute


def test_only_what_the_running_trials_need_is_kept(toys):
    """Trials of 10 steps in windows of 4: after 12 steps, 2 are of the running trial."""
    training = beginning(toys, trial=10)
    kept = []
    for _ in range(6):
        keep(training, acted(training))
        kept.append(0 if training.history is None else len(training.history.value))
    assert kept == [4, 8, 2, 6, 0, 4]


@pytest.mark.parametrize("memory", sorted(SIZES))
def test_the_gradient_of_the_last_step_reaches_the_first_of_the_trial(toys, memory):
    training = beginning(toys, memory)
    for _ in range(2):
        keep(training, acted(training))
    whole = acted(training)
    light = whole.inputs.obs["light"].requires_grad_()
    output, _ = training.policy.unroll(whole.inputs, whole.memory)
    (found,) = torch.autograd.grad(output.value[-1].sum(), light)
    assert found.shape[0] == TRIAL
    assert (found[0].abs().sum(-1) > 0).all()

    training.policy.zero_grad()
    index_AR = torch.arange(ROWS)[None]
    config = training.config.ppo
    gradient(
        config,
        training.policy,
        whole,
        advantages(config, whole),
        index_AR,
        entropy_weight=0.0,
        precision=torch.float32,
        skip=TRIAL - WINDOW,
    )
    assert (light.grad[0].abs().sum(-1) > 0).all()


def test_the_loss_is_of_the_window_alone(toys):
    """What an agent without memory learns does not depend on what comes before the window."""
    weights = []
    for recompute in (TRIAL, 0):
        training = beginning(toys, "none", recompute=recompute)
        said = [update(training) for _ in range(4)]
        weights.append(torch.cat([part.detach().flatten() for part in training.policy.parameters()]))
        recomputed = [figures.get("losses/recomputed_steps") for figures in said]
        assert recomputed == ([0, 4, 8, 0] if recompute else [None] * 4)
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_a_trial_no_longer_than_a_window_leaves_nothing_to_go_through_again(toys):
    """Then learning is what it is without a history, bit for bit."""
    weights = []
    for options in ({"recompute": 100, "shuffle": True}, {"recompute": 0}):
        training = beginning(toys, trial=WINDOW, **options)
        for _ in range(3):
            update(training)
        weights.append(torch.cat([part.detach().flatten() for part in training.policy.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("memory", sorted(SIZES))
def test_acting_goes_on_from_what_the_new_weights_remember(toys, memory, shuffle):
    """As after a pass from nothing, step by step; a stale memory differs, and so do stale values."""
    training = beginning(toys, memory, shuffle=shuffle)
    for _ in range(2):
        whole = acted(training)
        stale = map_state(torch.clone, training.acting.memory)
        move(training.policy)
        keep(training, whole)
    history = training.history
    values, memory_now = slowly(training.policy, history.inputs, 8)
    near(training.acting.memory, memory_now)
    torch.testing.assert_close(history.value, values, rtol=1e-5, atol=1e-5)
    assert (history.value - whole.value).abs().max() > 0.01
    following = training.policy.step(training.acting.inputs, memory_now)[0].value
    torch.testing.assert_close(history.value_next, torch.cat([values[1:], following[None]]), rtol=1e-5, atol=1e-5)
    stale_value = training.policy.step(training.acting.inputs, stale)[0].value
    assert (stale_value - following).abs().max() > 0.003


def test_without_a_refresh_acting_keeps_its_memory(toys):
    training = beginning(toys, refresh=False)
    whole = acted(training)
    before = map_state(torch.clone, training.acting)
    move(training.policy)
    keep(training, whole)
    near(training.acting, before)
    assert torch.equal(training.history.value, whole.value)


def test_the_values_of_final_observations_are_kept(toys):
    training = beginning(toys, cut_returns=True)
    whole = acted(training)
    move(training.policy)
    keep(training, whole)
    cut, history = whole.truncated_next, training.history
    assert cut.any()
    assert torch.equal(history.value_next[cut], whole.value_next[cut])
    assert (history.value_next != whole.value_next)[~cut].float().mean() > 0.9


# ---- shuffling


def told(window):
    """By row and step, what moves: everything but where the trial begins and what the last action and reward were."""
    part = (window.inputs.obs, window.inputs.episode_start, window.action, window.log_prob, window.reward_next)
    part += (window.terminated_next, window.truncated_next, window.trial_over_next)
    flat = [
        tensor.double().flatten(2) if tensor.ndim > 2 else tensor.double()[..., None] for tensor in parts(part).values()
    ]
    return torch.cat(flat, -1)


def episodes(window, row):
    """The blocks [begin, end) of a row, whether or not they begin or end inside the window."""
    opens = [t for t in range(1, len(window.value)) if window.inputs.episode_start[t, row]]
    return list(zip([0, *opens], [*opens, len(window.value)], strict=True))


@pytest.mark.parametrize("staggered", [False, True], ids=["in step", "staggered"])
def test_shuffling_moves_whole_episodes_of_the_running_trial(toys, staggered):
    training = beginning(toys, "none", staggered=staggered, trial=30)
    env, policy, generator = training.env, training.policy, training.sampling
    moved_rows, orders = 0, set()
    acting = training.acting
    for length in (17, 18, 16, 11, 23):
        window, acting = collect(env, policy, acting, length, generator, False)
        following = map_state(torch.clone, acting.inputs)
        after = shuffled(window._replace(info_next={}), following, training.shuffling)
        old, new = told(window), told(after)
        assert torch.equal(after.inputs.trial_start, window.inputs.trial_start)
        for row in range(ROWS):
            begun = [t for t in range(length) if window.inputs.trial_start[t, row]]
            over = bool(window.trial_over_next[-1, row])
            pinned, free, running = [], [], []
            for begin, end in episodes(window, row):
                known = bool(window.inputs.episode_start[begin, row])
                ended = bool((window.terminated_next | window.truncated_next)[end - 1, row])
                if not ended:
                    running.append((begin, end))
                elif over or not known or (begun and begin < begun[-1]):
                    pinned.append((begin, end))
                else:
                    free.append((begin, end))
            first = sum(end - begin for begin, end in pinned)
            last = length - sum(end - begin for begin, end in running)
            assert torch.equal(new[:first, row], old[:first, row])
            assert torch.equal(new[last:, row], old[last:, row])
            # The rest is the same episodes, each in one piece.
            expected = Counter(tuple(old[b:e, row].flatten().tolist()) for b, e in free)
            found = [(b, e) for b, e in episodes(after, row) if first <= b < last]
            assert Counter(tuple(new[b:e, row].flatten().tolist()) for b, e in found) == expected
            moved_rows += not torch.equal(new[:, row], old[:, row])
            orders.add(tuple(e - b for b, e in found))
        # What an input tells of the step before it is true of the step that is before it now.
        assert torch.equal(after.inputs.action[1:], after.action[:-1])
        assert torch.equal(after.inputs.reward[1:], after.reward_next[:-1])
        assert torch.equal(following.action, after.action[-1])
        assert torch.equal(following.reward, after.reward_next[-1])
        for name in ("obs", "episode_start", "trial_start"):
            near(getattr(following, name), getattr(acting.inputs, name))
    assert moved_rows > 10
    assert len(orders) > 10


def test_every_order_of_three_episodes_comes_as_often(toys):
    """In 6,000 rows, with five standard deviations to spare; what sums up a trial does not see the order."""
    batch = 6000
    steps = [toys.row(1, trial=True)]
    steps += [toys.row(obs, obs, "terminated") for obs in (2, 3, 4)]  # four episodes of a step; the last is running
    env, policy = toys.Script(toys.beside(*[steps] * batch)), toys.SumPolicy()
    window, acting = collect(env, policy, start(env, policy), 3, torch.Generator().manual_seed(0), False)
    after = shuffled(window, map_state(torch.clone, acting.inputs), torch.Generator().manual_seed(0))
    counts = Counter(tuple(order) for order in after.inputs.obs[..., 0].T.tolist())
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * (6000 * 1 / 6 * 5 / 6) ** 0.5 for count in counts.values())
    memory = policy.initial_memory(batch)
    for t in range(3):
        _, memory = policy.step(map_state(lambda part, t=t: part[t], after.inputs), memory)
    assert torch.equal(memory, acting.memory)
    # Rewards of 2, 3 and 4 came with the ends of the episodes 1, 2 and 3.
    assert torch.equal(after.reward_next, after.inputs.obs[..., 0] + 1)


# ---- the update over a whole trial


def test_the_last_update_of_a_trial_learns_from_all_of_it(toys, monkeypatch):
    seen, learn = [], loop.learn

    def spy(config, policy, optimizer, whole, *rest, skip, **options):
        seen.append((len(whole.value), skip))
        return learn(config, policy, optimizer, whole, *rest, skip=skip, **options)

    monkeypatch.setattr(loop, "learn", spy)
    training = beginning(toys, full_update=True, shuffle=True, recompute=TRIAL - WINDOW)
    for _ in range(6):
        update(training)
    assert seen == [(4, 0), (8, 4), (12, 0)] * 2


@pytest.mark.parametrize("cut_returns", [True, False])
def test_advantages_of_a_shuffled_trial_are_those_of_the_trial_in_that_order(toys, cut_returns):
    """Every step is followed by the value of the step that comes after it now, by the weights that have just acted."""
    training = beginning(toys, full_update=True, shuffle=True, cut_returns=cut_returns)
    for _ in range(2):
        whole = acted(training)
        move(training.policy)
        keep(training, whole)
    whole, config = acted(training), training.config.ppo
    values, _ = slowly(training.policy, whole.inputs, TRIAL)
    torch.testing.assert_close(whole.value, values, rtol=1e-5, atol=1e-5)
    found = advantages(config, whole)
    done = whole.terminated_next | whole.truncated_next
    for row in range(ROWS):
        ahead = 0.0
        for t in reversed(range(TRIAL)):
            over = bool(done[t, row] if cut_returns else whole.trial_over_next[t, row])
            worth = whole.value_next[t, row] if over else values[t + 1, row]
            worth = 0.0 if over and whole.terminated_next[t, row] else worth
            delta = whole.reward_next[t, row] + config.gamma * worth - values[t, row]
            ahead = delta + (0.0 if over else config.gamma * config.gae_lambda * ahead)
            torch.testing.assert_close(found[t, row], ahead, rtol=1e-4, atol=1e-4)


def test_what_full_update_needs_is_checked_before_anything_runs(toys):
    for options, words in (
        ({"trial": 0}, "needs trials of one length"),
        ({"trial": 10}, "window is 4 and a trial of light takes 10 steps"),
        ({"recompute": 7}, "recompute is 7 and must be at least 8"),
    ):
        with pytest.raises(ValueError, match=words):
            beginning(toys, full_update=True, **{"recompute": 50} | options)
    env = toys.LightConfig(trial_steps=10).build(1, 0)
    check_trials(PPOConfig(recompute=1), env)


# ---- runs


class NoisyGRU(GRU):
    """Drops some of what it says while it learns; what of, and how much, is drawn on the host and on the device."""

    def unroll(self, x_TBD, state, start_TB):
        y_TBD, state = super().unroll(x_TBD, state, start_TB)
        if self.training:
            share = float(torch.rand(()))
            y_TBD = nn.functional.dropout(y_TBD, 0.5 * share)
        return y_TBD, state

    def step(self, x_BD, state, start_B):
        assert not self.training
        return super().step(x_BD, state, start_B)


@dataclass(frozen=True, kw_only=True)
class NoisyConfig(GRUConfig):
    """Named, since a core needs a configuration."""

    name: ClassVar[str] = "noisy"

    def build(self):
        return Stack(self, [NoisyGRU(self.width)])


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("trial", [0, 9, 30], ids=["episodes", "short trials", "long trials"])
@pytest.mark.parametrize("memory", ["noisy", "transformer", "memo"])
def test_a_resumed_run_ends_with_the_same_bits(toys, tmp_path, monkeypatch, memory, trial):
    """Stopped in the middle of trials, with a history that is shuffled, and a core that is noisy while it learns."""
    monkeypatch.setitem(MEMORIES, "noisy", NoisyConfig)
    ppo = PPOConfig(rows=ROWS, window=7, minibatches=2, epochs=2, recompute=16, shuffle=True, cut_returns=False)
    config = TrainConfig(
        env=toys.LightConfig(trial_steps=trial),
        memory=make_config(memory, width=8, **SIZES.get(memory, {})),
        ppo=replace(ppo, warmup_steps=200, schedule="cosine", accumulate=2, weight_decay=0.01),
        evaluation=EvalConfig(every=0),
        steps=5 * ppo.batch_steps,
        checkpoint_seconds=0.0,
    )
    whole, pieces = tmp_path / "whole", tmp_path / "parts"
    train(config, RunFolder.create(whole, config), toys.constant_evaluation, quiet=True)
    folder, write, seen = RunFolder.create(pieces, config), loop.Log.write, []

    def killing(self, steps, figures):
        seen.append(steps)
        if len(seen) in (2, 4):
            raise Killed
        return write(self, steps, figures)

    monkeypatch.setattr(loop.Log, "write", killing)
    for resume in (False, True):
        with pytest.raises(Killed):
            train(config, folder, toys.constant_evaluation, resume=resume, quiet=True)
    assert any(name.startswith("training_state.history.") for name in toys.checkpoint_bits(pieces))
    train(config, folder, toys.constant_evaluation, resume=True, quiet=True)
    assert toys.checkpoint_bits(pieces) == toys.checkpoint_bits(whole)
    assert toys.metrics(pieces) == toys.metrics(whole)


def test_a_core_is_noisy_only_while_it_learns(toys, monkeypatch):
    """`step` of the noisy core refuses training mode; its unroll meets it in every pass that learns, and never else."""
    monkeypatch.setitem(MEMORIES, "noisy", NoisyConfig)
    training = beginning(toys, "noisy", epochs=1)
    modes, features = [], training.policy.features
    monkeypatch.setattr(
        training.policy, "features", lambda *rest: (modes.append(training.policy.core.training), features(*rest))[1]
    )
    update(training)
    assert modes == [True, True, False, False]  # two minibatches, and the refresh by as many rows
    assert not training.policy.training
    inputs = training.history.inputs
    assert isinstance(inputs, Inputs)
    values, _ = slowly(training.policy, inputs, WINDOW)
    torch.testing.assert_close(training.history.value, values)
