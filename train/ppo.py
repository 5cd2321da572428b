"""Learning: PPO over one window of acting.

Departures from Schulman et al. 2017 (arXiv 1707.06347):

1. Minibatches are whole rows, unrolled from the memory that acting had at the start of the window; it is as old as
   the window, and no gradient reaches beyond it. With `recompute` the pass begins earlier in the trial (history.py).
2. Generalised advantages (arXiv 1506.02438) with `terminated` and `truncated` apart; with `cut_returns` false they run
   through episode ends to the end of the trial, as meta-RL wants.
3. Any `minibatches` neighbouring rows go to different minibatches. So a process that holds a part of the rows has the
   same number of them in each, and which rows meet does not depend on how many processes there are.
4. Actor and critic share encoder and memory, unless asked not to. Gradient norm is clipped, Adam's step size follows a
   schedule, the value may be clipped, and the passes over a window stop early once the policy has moved too far.
5. A core may be noisy while it learns (dropout, segments of random length): the policy is in training mode for the
   pass that learns, and never else.

Shapes: T time, B rows, M minibatches of a pass, A of them to a step of the optimiser, R rows of a minibatch, F figures.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

from ..agents.losses import ppo_loss
from ..agents.noise import draw
from ..agents.policy import Policy
from ..kernels.gae import gae
from ..memory.core import detach
from .config import PPOConfig
from .recall import Recall
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


def rates(config: PPOConfig, remaining: float, warm: float = 1.0) -> tuple[float, float]:
    """Return the learning rate and the entropy weight.

    Args:
        config: names the schedule.
        remaining: the share of the run that lies ahead, 1 to 0.
        warm: the share of the warm-up that is done, which the learning rate alone follows.
    """
    share = {"constant": 1.0, "linear": remaining, "cosine": 0.5 + 0.5 * math.cos(math.pi * (1 - remaining))}
    left = share[config.schedule]
    rate = config.final_learning_rate + left * (config.learning_rate - config.final_learning_rate)
    return warm * rate, left * config.entropy_weight


@contextlib.contextmanager
def training_mode(policy: Policy) -> Iterator[None]:
    """Let a core be as noisy as it is while it learns, for as long as this lasts."""
    policy.train()
    try:
        yield
    finally:
        policy.eval()


def gradient(
    config: PPOConfig,
    policy: Policy,
    window: Window,
    advantage_TB: Tensor,
    index_AR: Tensor,
    *,
    entropy_weight: float | Tensor,
    precision: torch.dtype,
    average: Average | None = None,
    plan: Hashable = None,
    skip: int = 0,
    recall: Recall | None = None,
) -> dict[str, Tensor]:
    """Leave the gradient of A minibatches, their mean, in the parameters, clipped, and return their mean figures.

    `loss` is the first figure. Nothing here looks at the device's data, so a CUDA graph can hold it. The first `skip`
    steps of the window are gone through, and are no part of the loss.
    """
    parameters = [*policy.parameters(), *(recall.parameters() if recall is not None else ())]
    for parameter in parameters:
        parameter.grad = None
    seen = []
    for index_R in index_AR:
        part, advantage_TR = rows_of(window, index_R, skip), advantage_TB[skip:, index_R]
        mixed = (
            torch.autocast(policy.device.type, precision) if precision != torch.float32 else contextlib.nullcontext()
        )
        with mixed, training_mode(policy):
            y_TRD, _ = policy.features(part.inputs, detach(part.memory), plan)
            output = policy.say(y_TRD)
        log_prob, entropy = policy.head.judge(output.action[skip:], part.action)
        loss = ppo_loss(
            config,
            log_prob=log_prob,
            entropy=entropy,
            value=output.value[skip:],
            old_log_prob=part.log_prob,
            old_value=part.value,
            advantage=advantage_TR,
            entropy_weight=entropy_weight,
            moments=None if average is None else _moments(advantage_TR, average),
        )
        if recall is not None:
            loss = recall.added_to(loss, config.recall_weight, y_TRD[skip:].float(), part.hidden, average)
        (loss.total / len(index_AR)).backward()  # type: ignore[no-untyped-call]
        seen.append({"loss": loss.total.detach().clone()} | loss.figures)
    figures = seen[0]
    if len(seen) > 1:
        figures = {name: torch.stack([part[name] for part in seen]).mean(0) for name in figures}
    if average is not None:
        average([figures["loss"], *_gradients(parameters)])
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    return figures | {"grad_norm": norm}


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
    warm: float = 1.0,
    skip: int = 0,
    recall: Recall | None = None,
) -> dict[str, float]:
    """Improve the policy on one window and return the figures of the last pass.

    Args:
        config: how to learn.
        policy: changed in place.
        optimizer: of the policy's parameters, and those of `recall`.
        window: what acting left.
        generator: decides which rows meet in a minibatch.
        remaining: the share of the run that lies ahead, 1 to 0, which a schedule follows.
        precision: float32, or bfloat16 for the unroll.
        average: where other processes learn from other rows, replaces tensors by their mean over all processes.
        warm: the share of the warm-up that is done.
        skip: steps at the window's start that the pass goes through, and that are no part of the loss.
        recall: asks what the window has kept of what the task hides; learns with the policy.

    Raises:
        DivergedError: a loss or gradient is not finite; the policy is as it was before that step.
    """
    rate, entropy_weight = rates(config, remaining, warm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    advantage_TB = advantages(config, window)
    passes = 0
    for _ in range(config.epochs):
        order_MR = minibatches(advantage_TB.shape[1], config.minibatches, generator).to(policy.device)
        seen: list[Tensor] = []
        for index_AR in torch.split(order_MR, config.accumulate):
            figures = gradient(
                config,
                policy,
                window,
                advantage_TB,
                index_AR,
                entropy_weight=entropy_weight,
                precision=precision,
                average=average,
                skip=skip,
                recall=recall,
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
