"""The PPO loss against numbers computed by hand."""

import math

import pytest
import torch

from mnemic.agents.losses import LossConfig, ppo_loss

PLAIN = LossConfig(clip=0.2, value_weight=0.0, entropy_weight=0.0, normalise_advantage=False)


def loss(config, **parts):
    """The loss of (1, n) tensors; what is not given is zero."""
    size = len(next(iter(parts.values())))
    names = ("log_prob", "entropy", "value", "old_log_prob", "old_value", "advantage")
    given = {name: torch.tensor([parts.get(name, [0.0] * size)]) for name in names}
    given["log_prob"].requires_grad_()
    given["value"].requires_grad_()
    return ppo_loss(config, **given), given


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "learns"),
    [
        (1.1, 1.0, 1.1, True),
        (1.5, 1.0, 1.2, False),  # good actions are not made likelier beyond 1 + clip
        (0.5, 1.0, 0.5, True),  # but always from below
        (0.9, -1.0, -0.9, True),
        (0.5, -1.0, -0.8, False),  # bad actions are not made rarer beyond 1 - clip
        (1.5, -1.0, -1.5, True),  # but always from above
    ],
)
def test_clipping_is_one_sided(ratio, advantage, surrogate, learns):
    (total, _), given = loss(PLAIN, log_prob=[math.log(ratio)], advantage=[advantage])
    total.backward()
    assert total.item() == pytest.approx(-surrogate)
    assert given["log_prob"].grad.item() == pytest.approx(-ratio * advantage if learns else 0.0)


def test_only_the_difference_to_the_old_log_probability_counts():
    (a, _), _ = loss(PLAIN, log_prob=[-1.0], old_log_prob=[-1.1], advantage=[2.0])
    assert a.item() == pytest.approx(-2 * math.exp(0.1))


def test_the_value_is_half_the_mean_square_to_old_value_plus_advantage():
    config = LossConfig(value_weight=2.0, entropy_weight=0.0, clip=0.2, normalise_advantage=False)
    (total, figures), _ = loss(config, value=[1.0, 0.0], old_value=[3.0, 1.0], advantage=[1.0, -1.0])
    assert figures["value_loss"].item() == pytest.approx(0.5 * (9 + 0) / 2)
    assert total.item() == pytest.approx(2.0 * 4.5 / 2)  # the policy part is -(1 - 1) / 2


@pytest.mark.parametrize(
    ("value", "expected", "learns"),
    [
        (0.2, 0.5 * 0.8**2, True),  # within 0.5 of the old value 0, target 1
        (0.8, 0.5 * 0.5**2, False),  # counts as 0.5 only: the larger error
        (-0.8, 0.5 * 1.8**2, True),  # beyond the range on the wrong side: the true error
    ],
)
def test_value_clipping_takes_the_worse_error(value, expected, learns):
    config = LossConfig(value_clip=0.5, value_weight=1.0, entropy_weight=0.0, normalise_advantage=False)
    (total, figures), given = loss(config, value=[value], old_value=[0.0], advantage=[1.0])
    total.backward()
    assert figures["value_loss"].item() == pytest.approx(expected)
    assert (given["value"].grad.item() != 0) == learns


def test_entropy_lowers_the_loss():
    config = LossConfig(entropy_weight=0.1, value_weight=0.0, normalise_advantage=False)
    (total, figures), _ = loss(config, entropy=[1.0, 3.0])
    assert total.item() == pytest.approx(-0.1 * 2)
    assert figures["entropy"].item() == 2
    one = torch.ones(1, 1)
    zero = torch.zeros(1, 1)
    given = {"log_prob": zero, "value": zero, "old_log_prob": zero, "old_value": zero, "advantage": zero}
    assert ppo_loss(config, entropy=one, entropy_weight=0.5, **given).total.item() == pytest.approx(-0.5)


def test_the_kl_estimate_is_r_minus_one_minus_log_r():
    (_, figures), _ = loss(PLAIN, log_prob=[math.log(2.0), math.log(0.5)], advantage=[0.0, 0.0])
    expected = ((2 - 1 - math.log(2)) + (0.5 - 1 - math.log(0.5))) / 2
    assert figures["approx_kl"].item() == pytest.approx(expected)
    assert figures["clip_fraction"].item() == 1


def test_the_kl_estimate_is_that_of_old_to_new():
    """Over actions drawn from the old policy, the estimate is KL(old || new)."""
    old, new = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    draws = torch.multinomial(old.expand(200_000, 3), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    zero = torch.zeros(1, len(draws))
    figures = ppo_loss(
        PLAIN,
        log_prob=new.log()[draws][None],
        old_log_prob=old.log()[draws][None],
        entropy=zero,
        value=zero,
        old_value=zero,
        advantage=zero,
    ).figures
    assert figures["approx_kl"].item() == pytest.approx((old * (old / new).log()).sum().item(), rel=0.01)


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1.0, 2.0, 3.0, 4.0], 1.0), ([2.5] * 4, 0.0), ([4.0, 3.0, 2.0, 1.0], -3.0), ([2.0, 3.0, 4.0, 5.0], 1.0)],
)
def test_explained_variance(value, expected):
    """All, nothing, worse than nothing; a constant shift does not count."""
    (_, figures), _ = loss(PLAIN, value=value, old_value=[1.0, 2.0, 3.0, 4.0])
    assert figures["explained_variance"].item() == pytest.approx(expected)


def test_normalised_advantages_have_mean_zero_and_deviation_one():
    config = LossConfig(value_weight=0.0, entropy_weight=0.0)
    (total, figures), given = loss(config, value=[0.0, 0.0], advantage=[10.0, 30.0])
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert given["log_prob"].grad.tolist() == [[pytest.approx(0.5), pytest.approx(-0.5)]]  # -(A = -1, 1) / 2
    assert figures["value_loss"].item() == pytest.approx(0.5 * (100 + 900) / 2)  # the target is not normalised


@pytest.mark.parametrize("advantage", [[3.0], [3.0, 3.0]], ids=["one step", "all equal"])
def test_advantages_without_a_spread_stay_finite(advantage):
    (total, figures), _ = loss(LossConfig(), advantage=advantage)
    assert torch.isfinite(total)
    assert all(torch.isfinite(figure) for figure in figures.values())


def test_figures_carry_no_gradient():
    (total, figures), _ = loss(LossConfig(), advantage=[1.0, 2.0])
    assert total.requires_grad
    assert not any(figure.requires_grad for figure in figures.values())
