"""An actor and a critic on one memory, or on one each."""

import json

import pytest
import torch
from gymnasium import spaces

from mnemic.agents.checkpoint import DATA, load_policy, policy_contents, write
from mnemic.agents.encoder import EncoderConfig, Inputs
from mnemic.agents.policy import Policy
from mnemic.memory import MEMORIES, make_config
from mnemic.memory.core import parts

BATCH, STEPS = 4, 5


def policy_of(memory="gru", separate=True):
    torch.manual_seed(0)
    space = spaces.Box(-1.0, 1.0, (3,))
    config = make_config(memory, width=8)
    return Policy(EncoderConfig(), config, space, spaces.Discrete(3), separate_critic=separate)


def told(steps=STEPS):
    starts = torch.rand(steps, BATCH) < 0.2
    obs, action, reward = torch.randn(steps, BATCH, 3), torch.randint(3, (steps, BATCH)), torch.randn(steps, BATCH)
    return Inputs(obs, action, reward, starts, starts)


@pytest.mark.parametrize("memory", sorted(MEMORIES))
def test_steps_and_windows_agree(memory):
    policy, inputs = policy_of(memory), told()
    state, outputs = policy.initial_memory(BATCH), []
    with torch.no_grad():
        whole, last = policy.unroll(inputs, state)
        for t in range(STEPS):
            output, state = policy.step(Inputs(*(part[t] for part in inputs)), state)
            outputs.append(output)
    torch.testing.assert_close(torch.stack([output.action for output in outputs]), whole.action)
    torch.testing.assert_close(torch.stack([output.value for output in outputs]), whole.value)
    assert whole.action.shape == (STEPS, BATCH, 3)
    assert whole.value.shape == (STEPS, BATCH)
    assert parts(state).keys() == parts(last).keys()


@pytest.mark.parametrize("separate", [True, False])
def test_apart_they_share_nothing(separate):
    """The value moves no weight that the actions depend on, and the other way round."""
    policy = policy_of(separate=separate)
    output, _ = policy.unroll(told(), policy.initial_memory(BATCH))
    moved = []
    for loss in (output.action.square().sum(), output.value.square().sum()):
        policy.zero_grad()
        loss.backward(retain_graph=True)
        moved.append({name for name, part in policy.named_parameters() if part.grad is not None and part.grad.any()})
    shared = moved[0] & moved[1]
    assert all(moved)
    if separate:
        assert shared == {"out.weight", "out.bias"}  # one matrix, with a row each
        assert moved[0] | moved[1] == {name for name, _ in policy.named_parameters()}
        assert not any("critic" in name for name in moved[0])
        assert not any("actor" in name for name in moved[1])
    else:
        assert shared == moved[0] | moved[1]


def test_the_critic_of_its_own_has_weights_of_its_own():
    policy = policy_of()
    actor, critic = dict(policy.core.actor.named_parameters()), dict(policy.core.critic.named_parameters())
    assert not torch.equal(actor["layers.0.input_weight"], critic["layers.0.input_weight"])
    assert policy.core.state_bytes(10) == 2 * policy_of(separate=False).core.state_bytes(10)
    state = policy.initial_memory(BATCH)
    inputs = Inputs(*(part[0] for part in told()))
    gates = policy.core.gates(policy.encoder(inputs), state, inputs.trial_start)
    assert set(gates) == {f"{who}.0.{gate}" for who in ("actor", "critic") for gate in ("reset", "update")}


@pytest.mark.parametrize("separate", [True, False])
def test_a_checkpoint_knows_which_it_is(tmp_path, separate):
    policy, inputs = policy_of(separate=separate), told()
    write(tmp_path / "p", {"policy": policy_contents(policy)})
    loaded = load_policy(tmp_path / "p" / "policy")
    assert loaded.separate_critic is separate
    with torch.no_grad():
        want, _ = policy.unroll(inputs, policy.initial_memory(BATCH))
        got, _ = loaded.unroll(inputs, loaded.initial_memory(BATCH))
    assert torch.equal(got.action, want.action)
    assert torch.equal(got.value, want.value)


def test_a_checkpoint_from_before_there_was_a_choice_is_read(tmp_path):
    policy = policy_of(separate=False)
    kind, data, tensors = policy_contents(policy)
    del data["separate_critic"]
    write(tmp_path / "p", {"policy": (kind, data, tensors)})
    assert "separate_critic" not in json.loads((tmp_path / "p" / "policy" / DATA).read_text())["data"]
    assert not load_policy(tmp_path / "p" / "policy").separate_critic


@pytest.mark.parametrize("separate", [True, False])
def test_what_a_step_costs(separate):
    """An encoder from 3 + 3 + 1 + 1 numbers to 8; four rows of 8 weights and a bias for actions and value."""
    policy = policy_of("transformer", separate)
    cores = 2 if separate else 1
    for steps in (0, 10, 1_000):
        assert policy.core.flops_per_step(steps) == policy.core.flops_per_step(0) + cores * 4 * 8 * min(steps, 63)
        around = policy.flops_per_step(steps) - policy.core.flops_per_step(steps)
        assert around == cores * 2 * 8 * 8 + 2 * 4 * 9


def test_convolutions_cost_by_the_place():
    """A 5x5 image of two channels: 3x3 convolutions at nine places, then at one; then two linear layers."""
    space = spaces.Box(-1.0, 1.0, (5, 5, 2))
    config = EncoderConfig(previous_action=False, previous_reward=False, episode_flag=False, channels=4)
    policy = Policy(config, make_config("gru", width=8), space, spaces.Discrete(3))
    convolutions = 9 * 2 * (9 * 2 * 4) + 2 * (9 * 4 * 8)
    around = policy.flops_per_step(0) - policy.core.flops_per_step(0)
    assert around == convolutions + 2 * 8 * 8 + 2 * 8 * 8 + 2 * 4 * 9
