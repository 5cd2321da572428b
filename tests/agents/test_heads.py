"""Action distributions against torch.distributions, and what decides a sample."""

import math

import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Independent, Normal

from mnemic.agents.heads import CategoricalHead, GaussianHead, build_head


@pytest.fixture
def categorical():
    return CategoricalHead(spaces.Discrete(4))


@pytest.fixture
def gaussian():
    head = GaussianHead(spaces.Box(-1, 1, (3,)))
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    return head


def test_categorical_against_torch(categorical):
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 2, 4)
    action = torch.randint(0, 4, (5, 2))
    expected = Categorical(logits=logits)
    torch.testing.assert_close(categorical.log_prob(logits, action), expected.log_prob(action))
    torch.testing.assert_close(categorical.entropy(logits), expected.entropy())
    assert torch.equal(categorical.mode(logits), expected.mode)


@pytest.mark.parametrize("name", ["categorical", "gaussian"])
def test_a_judgement_is_log_probability_and_entropy(name, request):
    head = request.getfixturevalue(name)
    torch.manual_seed(0)
    given = torch.randn(5, 2, head.size)
    action = head.sample(given, None)
    log_prob, entropy = head.judge(given, action)
    assert torch.equal(log_prob, head.log_prob(given, action))
    assert torch.equal(entropy, head.entropy(given))


def test_categorical_by_hand(categorical):
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()  # probabilities 0.1, 0.2, 0.3, 0.4
    assert categorical.log_prob(logits, torch.tensor(2)).item() == pytest.approx(math.log(0.3))
    assert categorical.entropy(torch.zeros(4)).item() == pytest.approx(math.log(4))


def test_categorical_draws_as_often_as_it_says(categorical):
    p = torch.tensor([0.5, 0.3, 0.19, 0.01])
    draws = categorical.sample(p.log().expand(200_000, 4), torch.Generator().manual_seed(0))
    share = draws.bincount(minlength=4) / len(draws)
    assert ((share - p).abs() < 4 * (p * (1 - p) / len(draws)).sqrt()).all()


def test_categorical_never_draws_the_impossible(categorical):
    logits = torch.tensor([0.0, -1000.0, 0.0, -1000.0]).expand(10_000, 4)
    assert set(categorical.sample(logits, None).tolist()) == {0, 2}


def test_gaussian_against_torch(gaussian):
    torch.manual_seed(0)
    mean, action = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    expected = Independent(Normal(mean, gaussian.log_std.exp().expand(5, 2, 3)), 1)
    torch.testing.assert_close(gaussian.log_prob(mean, action), expected.log_prob(action))
    torch.testing.assert_close(gaussian.entropy(mean), expected.entropy())
    assert torch.equal(gaussian.mode(mean), mean)


def test_gaussian_draws_with_its_mean_and_spread(gaussian):
    mean = torch.tensor([2.0, -1.0, 0.0])
    with torch.no_grad():
        draws = gaussian.sample(mean.expand(100_000, 3), torch.Generator().manual_seed(0))
    std = gaussian.log_std.detach().exp()
    assert ((draws.mean(0) - mean).abs() < 4 * std / len(draws) ** 0.5).all()
    torch.testing.assert_close(draws.std(0), std, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["categorical", "gaussian"])
def test_the_generator_decides(name, request):
    head = request.getfixturevalue(name)
    given = torch.zeros(100, head.size)
    draws = [head.sample(given, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    head.sample(given, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)  # nothing is taken from the global stream


@pytest.mark.parametrize("name", ["categorical", "gaussian"])
def test_half_precision_gives_full_precision_figures(name, request):
    head = request.getfixturevalue(name)
    given = torch.randn(5, head.size).bfloat16()
    action = head.sample(given, None)
    assert head.log_prob(given, action).dtype == torch.float32
    torch.testing.assert_close(head.log_prob(given, action), head.log_prob(given.float(), action))


@pytest.mark.parametrize("name", ["categorical", "gaussian"])
def test_blank_actions_can_be_told(name, request):
    head = request.getfixturevalue(name)
    assert head.log_prob(torch.zeros(2, head.size), head.blank(2)).shape == (2,)


def test_the_space_decides_the_head():
    assert build_head(spaces.Discrete(5)).size == 5
    assert build_head(spaces.Box(-1, 1, (2,))).size == 2
    with pytest.raises(ValueError, match="a policy takes Discrete, or Box with one axis"):
        build_head(spaces.MultiDiscrete([2, 2]))
