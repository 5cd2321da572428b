"""Learning: PPO over one window of acting.

Departures from Schulman et al. 2017 (arXiv 1707.06347):

1. Minibatches are whole rows, unrolled from the memory that acting had at the start of the window; it is as old as
   the window, and no gradient reaches beyond it.
2. Generalised advantages (arXiv 1506.02438) with `terminated` and `truncated` apart; with `cut_returns` false they run
   through episode ends to the end of the trial, as meta-RL wants.
3. Any `minibatches` neighbouring rows go to different minibatches. So a process that holds a part of the rows has the
   same number of them in each, and which rows meet does not depend on how many processes there are.
4. Actor and critic share encoder and memory, unless asked not to. Gradient norm is clipped, Adam's step size follows a
   schedule, the value may be clipped, and the passes over a window stop early once the policy has moved too far.

Shapes: T time, B rows, M minibatches of a pass, R rows of a minibatch, F figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..agents.losses import ppo_loss
from ..agents.noise import draw
from ..agents.policy import Policy
from ..kernels.gae import gae
from ..memory.core import detach
from .config import PPOConfig
from .rollout import Window, rows_of


class DivergedError(RuntimeError):
    """The loss or its gradient is no longer a number."""


def advantages(config: PPOConfig, window: Window) -> Tensor:
    """Return the advantage of every action of a window, (T, B)."""
    done = window.terminated_next | window.truncated_next
    over = done if config.cut_returns else window.trial_over_next
    stops = config.trial_end == "stop" and not config.cut_returns
    terminated = over if stops else window.terminated_next & over
    return gae(window.reward_next, window.value, window.value_next, terminated, over, config.gamma, config.gae_lambda)


Average = Callable[[Sequence[Tensor]], None]
"""Replaces tensors, in place, by their mean over all processes that learn together."""


def rates(config: PPOConfig, remaining: float) -> tuple[float, float]:
    """Return the learning rate and the entropy weight when a share of the run, 1 to 0, lies ahead."""
    share = remaining if config.schedule == "linear" else 1.0
    rate = config.final_learning_rate + share * (config.learning_rate - config.final_learning_rate)
    return rate, share * config.entropy_weight


def gradient(
    config: PPOConfig,
    policy: Policy,
    window: Window,
    advantage_TB: Tensor,
    index: Tensor,
    *,
    entropy_weight: float | Tensor,
    precision: torch.dtype,
    average: Average | None = None,
    plan: Hashable = None,
) -> dict[str, Tensor]:
    """Leave the gradient of one minibatch in the parameters, clipped, and return figures; `loss` is the first.

    Nothing here looks at the device's data, so a CUDA graph can hold it.
    """
    part, advantage_TR = rows_of(window, index), advantage_TB[:, index]
    mixed = torch.autocast(policy.device.type, precision) if precision != torch.float32 else contextlib.nullcontext()
    with mixed:
        output, _ = policy.unroll(part.inputs, detach(part.memory), plan)
    log_prob, entropy = policy.head.judge(output.action, part.action)
    loss = ppo_loss(
        config,
        log_prob=log_prob,
        entropy=entropy,
        value=output.value,
        old_log_prob=part.log_prob,
        old_value=part.value,
        advantage=advantage_TR,
        entropy_weight=entropy_weight,
        moments=None if average is None else _moments(advantage_TR, average),
    )
    policy.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    parameters = list(policy.parameters())
    total = loss.total.detach().clone()
    if average is not None:
        average([total, *_gradients(parameters)])
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    return {"loss": total} | loss.figures | {"grad_norm": norm}


def _moments(advantage_TR: Tensor, average: Average) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the advantages of a minibatch, over all processes."""
    advantage_TR = advantage_TR.double()
    moments = torch.stack([advantage_TR.mean(), advantage_TR.square().mean()])
    average([moments])
    mean, square = moments
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().float()


def _gradients(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    """Return all gradients. A window cut short may leave some parameters unused in one process and not in others."""
    for part in parameters:
        if part.grad is None:
            part.grad = torch.zeros_like(part)
    return [part.grad for part in parameters if part.grad is not None]


def minibatches(rows: int, parts: int, generator: torch.Generator) -> Tensor:
    """Return which rows meet in each minibatch, (M, R): of every M neighbours, one in each."""
    place_RM = draw(torch.rand, (rows // parts, parts), generator, generator.device).argsort(1)
    first_R = torch.arange(0, rows, parts, device=generator.device)
    return (first_R[:, None] + place_RM).T


def diverged(loss: float, norm: float) -> DivergedError:
    """Return the error for a loss or a gradient that is not finite."""
    return DivergedError(f"the loss is {loss} and its gradient has norm {norm}")


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
        average: where other processes learn from other rows, replaces tensors by their mean over all processes.

    Raises:
        DivergedError: a loss or gradient is not finite; the policy is as it was before that step.
    """
    rate, entropy_weight = rates(config, remaining)
    for group in optimizer.param_groups:
        group["lr"] = rate
    advantage_TB = advantages(config, window)
    passes = 0
    for _ in range(config.epochs):
        order_MR = minibatches(advantage_TB.shape[1], config.minibatches, generator).to(policy.device)
        seen: list[Tensor] = []
        for index in order_MR:
            figures = gradient(
                config,
                policy,
                window,
                advantage_TB,
                index,
                entropy_weight=entropy_weight,
                precision=precision,
                average=average,
            )
            loss, norm = figures["loss"], figures["grad_norm"]
            if not bool(torch.isfinite(norm + loss)):
                raise diverged(loss.item(), norm.item())
            optimizer.step()
            seen.append(torch.stack(list(figures.values())))
        passes += 1
        mean_F = torch.stack(seen).mean(0)
        if average is not None:
            average([mean_F])
        mean = dict(zip(figures, mean_F.tolist(), strict=True))
        if config.target_kl and mean["approx_kl"] > config.target_kl:
            break
    del mean["loss"]
    return mean | {"passes": float(passes), "learning_rate": rate}
