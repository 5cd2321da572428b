"""Learning from a window: advantages against a slow computation, and what an update does and does not do."""

import dataclasses
import math

import pytest
import torch

from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.policy import Policy
from mnemic.memory import MEMORIES
from mnemic.train.config import PPOConfig
from mnemic.train.ppo import DivergedError, advantages, learn, rates
from mnemic.train.rollout import collect, rows_of, start

ROWS, LENGTH = 6, 13


def flags(window, t, b):
    return bool(window.terminated_next[t, b]), bool(window.truncated_next[t, b]), bool(window.trial_over_next[t, b])


def slow_advantages(config, window):
    """Per row and per stretch between ends: the lambda-weighted sum of one-step errors, forwards from every step."""
    length, batch = window.value.shape
    result = torch.zeros(length, batch)
    for b in range(batch):
        for t in range(length):
            weight, total = 1.0, 0.0
            for k in range(t, length):
                terminated, truncated, trial_over = flags(window, k, b)
                over = (terminated or truncated) if config.cut_returns else trial_over
                nothing = terminated or (config.trial_end == "stop" and not config.cut_returns)
                worth = 0.0 if nothing and over else window.value_next[k, b].item()
                total += weight * (window.reward_next[k, b].item() + config.gamma * worth - window.value[k, b].item())
                if over:
                    break
                weight *= config.gamma * config.gae_lambda
            result[t, b] = total
    return result


@pytest.mark.parametrize(("trial_end", "expected"), [("bootstrap", 2 + 0.5 * 40 - 3), ("stop", 2 - 3)])
def test_what_a_trial_is_worth_after_its_clock_has_ended_it(toys, trial_end, expected):
    """A trial of two episodes: the end of the first changes nothing, that of the trial is what the flag says."""
    steps = [
        toys.row(1, trial=True),
        toys.row(2, reward=1, end="truncated", final=4),
        toys.row(9, reward=2, end="truncated", final=37, trial=True),
    ]
    env, policy = toys.Script(steps), toys.SumPolicy()
    window, _ = collect(env, policy, start(env, policy), 2, torch.Generator(), False)
    window = window._replace(value=torch.tensor([[1.0], [3.0]]), value_next=torch.tensor([[3.0], [40.0]]))
    config = PPOConfig(gamma=0.5, gae_lambda=1.0, cut_returns=False, trial_end=trial_end)
    assert advantages(config, window).T.tolist() == [[1 + 0.5 * (expected + 3) - 1, expected]]


def tiny_config(name):
    """The smallest sensible core of a name."""
    sizes = {"width": 8, "heads": 2, "context": 4, "segment": 4, "summaries": 2}
    cls = MEMORIES[name]
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{key: value for key, value in sizes.items() if key in known})


def acted(toys, memory="lstm", trial_steps=9, cut_returns=True, windows=2, length=LENGTH, opinion=20):
    """A policy and a window of the toy task, the last of a few, so that it opens inside trials."""
    torch.manual_seed(0)
    env = toys.LightConfig(trial_steps=trial_steps).build(ROWS, 0)
    policy = Policy(EncoderConfig(), tiny_config(memory), env.observation_space, env.action_space)
    with torch.no_grad():  # a first policy is nearly uniform; this one has opinions
        policy.out.weight.mul_(opinion)
    generator = torch.Generator().manual_seed(0)
    acting = start(env, policy)
    for _ in range(windows):
        window, acting = collect(env, policy, acting, length, generator, cut_returns)
    return policy, window


def optimizer_of(policy):
    return torch.optim.Adam(policy.parameters(), 1e-3, eps=1e-5, fused=True)


def taught(policy, window, remaining=1.0, precision=torch.float32, optimizer=None, **options):
    config = PPOConfig(**{"rows": ROWS, "window": LENGTH, "minibatches": 2, "epochs": 2} | options)
    shuffling = torch.Generator().manual_seed(0)
    optimizer = optimizer or optimizer_of(policy)
    return learn(config, policy, optimizer, window, shuffling, remaining=remaining, precision=precision)


@pytest.mark.parametrize("trial_end", ["bootstrap", "stop"])
@pytest.mark.parametrize("cut_returns", [True, False])
@pytest.mark.parametrize("trial_steps", [0, 9])
def test_advantages_against_a_slow_computation(toys, cut_returns, trial_steps, trial_end):
    _, window = acted(toys, trial_steps=trial_steps, cut_returns=cut_returns)
    assert window.terminated_next.any()
    assert window.truncated_next.any()
    assert bool((window.truncated_next & ~window.trial_over_next).any()) == bool(trial_steps)
    config = PPOConfig(gamma=0.9, gae_lambda=0.8, cut_returns=cut_returns, trial_end=trial_end)
    torch.testing.assert_close(advantages(config, window), slow_advantages(config, window))


def test_advantages_by_hand(toys):
    """Values are sums of what was seen; lambda 1, so an advantage is a discounted return minus the value."""
    steps = [
        toys.row(1, trial=True),
        toys.row(2, reward=0),
        toys.row(4, reward=1, end="terminated", final=50, trial=True),
        toys.row(8, reward=0),
        toys.row(16, reward=0, end="truncated", final=6, trial=True),
    ]
    env, policy = toys.Script(steps), toys.SumPolicy()
    window, _ = collect(env, policy, start(env, policy), 4, torch.Generator(), True)
    config = PPOConfig(gamma=0.5, gae_lambda=1.0)
    # Values 1, 3 | 4, 12; the first episode ends with a reward of 1, the second is cut off at a worth of 4 + 8 + 6.
    assert advantages(config, window).T.tolist() == [[0.5 * 1 - 1, 1 - 3, 0.25 * 18 - 4, 0.5 * 18 - 12]]


@pytest.mark.parametrize("trial_steps", [0, 9], ids=["staggered", "many episodes"])
@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_unrolling_a_window_is_acting_again(toys, name, trial_steps):
    """Before any update the ratio is 1, in any minibatch."""
    policy, window = acted(toys, name, trial_steps)
    assert window.log_prob.std() > 0.003
    assert window.inputs.trial_start.any(0).all()
    assert not window.inputs.trial_start[0].all()
    for index in (torch.arange(ROWS), torch.tensor([4, 1])):
        part = rows_of(window, index)
        with torch.no_grad():
            output, _ = policy.unroll(part.inputs, part.memory)
        log_prob = policy.head.log_prob(output.action, part.action)
        torch.testing.assert_close(log_prob, part.log_prob, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.value, part.value, rtol=1e-5, atol=1e-5)


def test_the_first_pass_measures_no_change(toys):
    policy, window = acted(toys)
    figures = taught(policy, window, epochs=1, minibatches=1)
    assert figures["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert figures["clip_fraction"] == 0
    assert figures["passes"] == 1


def test_minibatches_are_whole_rows_and_each_row_comes_once_a_pass(toys, monkeypatch):
    policy, window = acted(toys)
    marked = window._replace(reward_next=window.reward_next + 0, memory=window.memory)
    marked.inputs.reward[0] = torch.arange(ROWS).float()
    seen = []
    features = policy.features
    monkeypatch.setattr(
        policy, "features", lambda inputs, *rest: (seen.append(inputs.reward[0].tolist()), features(inputs, *rest))[1]
    )
    taught(policy, marked, minibatches=3, epochs=2)
    assert [len(rows) for rows in seen] == [2] * 6
    for one_pass in (seen[:3], seen[3:]):
        assert sorted(row for part in one_pass for row in part) == list(range(ROWS))
    assert seen[:3] != seen[3:]


def test_learning_reduces_the_loss_on_a_fixed_window(toys):
    policy, window = acted(toys)
    optimizer = optimizer_of(policy)
    options = {"optimizer": optimizer, "minibatches": 1, "epochs": 1, "schedule": "constant", "learning_rate": 3e-3}
    first = taught(policy, window, **options)
    for _ in range(60):
        last = taught(policy, window, **options)
    assert last["value_loss"] < 0.7 * first["value_loss"]
    assert last["policy_loss"] < first["policy_loss"] - 0.02


def test_learning_makes_a_rewarded_action_likelier(toys):
    policy, window = acted(toys, opinion=1)
    better = window._replace(
        reward_next=(window.action == 1).float(),
        terminated_next=torch.ones_like(window.terminated_next),
    )
    with torch.no_grad():
        before = policy.unroll(window.inputs, window.memory)[0].action.softmax(-1)[..., 1].mean()
    for _ in range(10):
        taught(policy, better, schedule="constant", learning_rate=1e-2)
    with torch.no_grad():
        after = policy.unroll(window.inputs, window.memory)[0].action.softmax(-1)[..., 1].mean()
    assert before + 0.03 < after < 1.3 * before  # and the clip holds it near


def test_the_passes_stop_once_the_policy_has_moved_too_far(toys):
    policy, window = acted(toys)
    options = {"learning_rate": 0.05, "schedule": "constant", "epochs": 8}
    free = taught(policy, window, **options)
    assert free["passes"] == 8
    far = free["approx_kl"] / 4
    policy, window = acted(toys)
    held = taught(policy, window, target_kl=far, **options)
    assert held["passes"] < 8
    assert far < held["approx_kl"] < free["approx_kl"]


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_a_number_that_is_none_stops_before_the_step(toys, where):
    policy, window = acted(toys)
    if where == "reward":
        window.reward_next[3, 2] = math.nan
    else:
        window.inputs.obs["light"][3, 2] = math.nan
    optimizer = optimizer_of(policy)
    before = {name: part.clone() for name, part in policy.state_dict().items()}
    with pytest.raises(DivergedError, match="the loss is nan"):
        taught(policy, window, minibatches=1, optimizer=optimizer)
    after = policy.state_dict()
    assert all(torch.equal(after[name], part) for name, part in before.items())
    assert not optimizer.state


@pytest.mark.parametrize(
    ("schedule", "remaining", "expected"),
    [
        ("constant", 1.0, 1e-2),
        ("constant", 0.1, 1e-2),
        ("linear", 1.0, 1e-2),
        ("linear", 0.25, 1e-3 + 0.25 * 9e-3),
        ("cosine", 1.0, 1e-2),
        ("cosine", 0.5, 1e-3 + 0.5 * 9e-3),
        ("cosine", 0.75, 1e-3 + (0.5 + 0.5 * math.sqrt(0.5)) * 9e-3),
        ("cosine", 0.0, 1e-3),
    ],
)
def test_the_learning_rate_follows_its_schedule(toys, schedule, remaining, expected):
    policy, window = acted(toys)
    optimizer = optimizer_of(policy)
    figures = taught(
        policy,
        window,
        remaining,
        optimizer=optimizer,
        schedule=schedule,
        learning_rate=1e-2,
        final_learning_rate=1e-3,
        epochs=1,
    )
    assert figures["learning_rate"] == pytest.approx(expected)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_the_warm_up_is_of_the_learning_rate_alone():
    config = PPOConfig(schedule="linear", learning_rate=1e-2, final_learning_rate=1e-3, entropy_weight=0.1)
    assert rates(config, 0.5) == pytest.approx((5.5e-3, 0.05))
    assert rates(config, 0.5, warm=0.2) == pytest.approx((1.1e-3, 0.05))


def descended(toys, **options):
    """The weights after a pass of plain gradient descent, which shows what gradients were taken, and the figures."""
    policy, window = acted(toys)
    optimizer = torch.optim.SGD(policy.parameters(), 1.0)
    options |= {"epochs": 1, "schedule": "constant", "learning_rate": 1.0, "normalise_advantage": False}
    figures = taught(policy, window, optimizer=optimizer, **options)
    return torch.cat([part.detach().flatten() for part in policy.parameters()]), figures


def test_accumulated_minibatches_are_one_large_one(toys):
    """One step along the mean of three gradients of two rows is one step along the gradient of all six rows."""
    together, of_one = descended(toys, minibatches=1)
    in_parts, of_three = descended(toys, minibatches=3, accumulate=3)
    apart, _ = descended(toys, minibatches=3)
    torch.testing.assert_close(in_parts, together, rtol=1e-4, atol=1e-6)
    assert (apart - together).abs().max() > 1e-4
    own = ("explained_variance",)  # no mean of parts
    assert of_three == pytest.approx(of_one | {name: of_three[name] for name in own}, rel=1e-4, abs=1e-6)


def test_a_gradient_is_no_longer_than_allowed(toys):
    """Plain gradient descent shows the gradient that was taken."""
    policy, window = acted(toys)
    before = torch.cat([part.detach().flatten().clone() for part in policy.parameters()])
    optimizer = torch.optim.SGD(policy.parameters(), 1.0)
    options = {"epochs": 1, "minibatches": 1, "schedule": "constant", "learning_rate": 1.0, "optimizer": optimizer}
    figures = taught(policy, window, max_grad_norm=0.01, **options)
    after = torch.cat([part.detach().flatten() for part in policy.parameters()])
    assert figures["grad_norm"] > 0.01
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_window_is_left_as_it_was(toys):
    policy, window = acted(toys)
    kept = {name: part.clone() for name, part in window._asdict().items() if isinstance(part, torch.Tensor)}
    taught(policy, window)
    assert all(torch.equal(getattr(window, name), part) for name, part in kept.items())


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_bfloat16_learns_with_every_core(toys, name):
    """Under autocast on a CPU; weights and optimizer stay float32."""
    policy, window = acted(toys, name)
    figures = taught(policy, window, precision=torch.bfloat16)
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["approx_kl"] < 0.1
    assert all(part.dtype == torch.float32 for part in policy.parameters())
