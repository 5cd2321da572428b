"""Learning: PPO over one window of acting.

Departures from Schulman et al. 2017 (arXiv 1707.06347):

1. Minibatches are whole rows, unrolled from the memory that acting had at the start of the window; it is as old as
   the window, and no gradient reaches beyond it.
2. Generalised advantages (arXiv 1506.02438) with `terminated` and `truncated` apart; with `cut_returns` false they run
   through episode ends to the end of the trial, as meta-RL wants.
3. Any `minibatches` neighbouring rows go to different minibatches. So a process that holds a part of the rows has the
   same number of them in each, and which rows meet does not depend on how many processes there are.
4. Actor and critic share encoder and memory. Gradient norm is clipped, Adam's step size follows a schedule, the value
   may be clipped, and the passes over a window stop early once the policy has moved too far.

Shapes: T time, B rows.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from ..agents.losses import ppo_loss
from ..agents.noise import draw
from ..agents.policy import Policy
from ..kernels.gae import gae
from ..memory.core import detach
from .config import PPOConfig
from .ranks import Average
from .rollout import Window, rows_of


class DivergedError(RuntimeError):
    """The loss or its gradient is no longer a number."""


def advantages(config: PPOConfig, window: Window) -> Tensor:
    """Return the advantage of every action of a window, (T, B)."""
    done = window.terminated_next | window.truncated_next
    over = done if config.cut_returns else window.trial_over_next
    terminated = window.terminated_next & over
    return gae(window.reward_next, window.value, window.value_next, terminated, over, config.gamma, config.gae_lambda)


def learn(
    config: PPOConfig,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    window: Window,
    generator: torch.Generator,
    *,
    remaining: float,
    precision: torch.dtype,
    average: Average | None = None,
) -> dict[str, float]:
    """Improve the policy on one window and return the figures of the last pass.

    Args:
        config: how to learn.
        policy: changed in place.
        optimizer: of the policy's parameters.
        window: what acting left.
        generator: decides which rows meet in a minibatch.
        remaining: the share of the run that lies ahead, 1 to 0, which a schedule follows.
        precision: float32, or bfloat16 for the unroll.
        average: where other processes learn from other rows, replaces tensors by their mean over all of them.

    Raises:
        DivergedError: a loss or gradient is not finite; the policy is as it was before that step.
    """
    share = remaining if config.schedule == "linear" else 1.0
    rate = config.final_learning_rate + share * (config.learning_rate - config.final_learning_rate)
    for group in optimizer.param_groups:
        group["lr"] = rate
    parameters = list(policy.parameters())
    advantage_TB = advantages(config, window)
    mixed = torch.autocast(policy.device.type, precision) if precision != torch.float32 else contextlib.nullcontext()
    passes = 0
    for _ in range(config.epochs):
        order_MB = minibatches(advantage_TB.shape[1], config.minibatches, generator).to(policy.device)
        moments_M = _moments(advantage_TB, order_MB, average) if average else [None] * config.minibatches
        figures: list[dict[str, Tensor]] = []
        for index, moments in zip(order_MB, moments_M, strict=True):
            part = rows_of(window, index)
            with mixed:
                output, _ = policy.unroll(part.inputs, detach(part.memory))
            loss = ppo_loss(
                config,
                log_prob=policy.head.log_prob(output.action, part.action),
                entropy=policy.head.entropy(output.action),
                value=output.value,
                old_log_prob=part.log_prob,
                old_value=part.value,
                advantage=advantage_TB[:, index],
                entropy_weight=share * config.entropy_weight,
                moments=moments,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.total.backward()  # type: ignore[no-untyped-call]
            total = loss.total.detach()
            if average:
                average([total, *_gradients(parameters)])
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            if not bool(torch.isfinite(norm + total)):
                raise DivergedError(f"the loss is {total.item()} and its gradient has norm {norm.item()}")
            optimizer.step()
            figures.append(loss.figures | {"grad_norm": norm})
        passes += 1
        means = torch.stack([torch.stack([f[name] for f in figures]).mean() for name in figures[0]])
        if average:
            average([means])
        mean = dict(zip(figures[0], means.tolist(), strict=True))
        if config.target_kl and mean["approx_kl"] > config.target_kl:
            break
    return mean | {"passes": float(passes), "learning_rate": rate}


def minibatches(rows: int, parts: int, generator: torch.Generator) -> Tensor:
    """Return which rows meet in each minibatch, (parts, rows / parts): of every `parts` neighbours, one in each."""
    place_GP = draw(torch.rand, (rows // parts, parts), generator, generator.device).argsort(1)
    first_G = torch.arange(0, rows, parts, device=generator.device)
    return (first_G[:, None] + place_GP).T


def _moments(advantage_TB: Tensor, order_MB: Tensor, average: Average) -> list[tuple[Tensor, Tensor]]:
    """Return mean and deviation of the advantages of each minibatch, over all processes."""
    part_TMB = advantage_TB[:, order_MB].double()
    mean_M = part_TMB.mean((0, 2))
    average([mean_M])
    square_M = (part_TMB - mean_M[:, None]).square().mean((0, 2))
    average([square_M])
    return list(zip(mean_M.float(), square_M.sqrt().float(), strict=True))


def _gradients(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    """Return all gradients. A window cut short may leave some parameters unused in one process and not in others."""
    for part in parameters:
        if part.grad is None:
            part.grad = torch.zeros_like(part)
    return [part.grad for part in parameters if part.grad is not None]
