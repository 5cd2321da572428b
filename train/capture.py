"""CUDA graphs: acting for a window, and learning from a minibatch, as one launch each.

A GPU does in microseconds what a host takes longer to ask for, so what is asked for again and again is recorded once
and replayed. A graph runs on the tensors that it was recorded with: weights are read where they are, so the next replay
sees what the optimiser did; what acting goes on from lives in tensors that the graph itself overwrites.

Nothing that is recorded may look at the device's data. A dry run finds out whether anything does, before the recording,
which would fail in worse ways.

Shapes: T time, B rows, E passes over a window, M minibatches of a pass, A of them to a step of the optimiser, N steps
of the optimiser, R rows of a minibatch, F figures.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ..agents.graph import Graph, rehearse, write
from ..agents.policy import Policy
from ..envs.native import NativeEnv
from ..envs.step import Env
from .config import PPOConfig
from .ppo import Average, advantages, diverged, gradient, learn, minibatches, rates
from .recall import Recall
from .rollout import Acting, Moment, Window, act_once, collect, copied
from .span import LONGEST, SpanGraph

MOST_PLANS = 12
"""Plans of a core that learning is recorded for; windows of other plans are learned from step by step."""


class ActingGraph:
    """`collect`, recorded for one environment, policy and window length.

    What it returns is overwritten by the next call.
    """

    def __init__(
        self,
        env: Env,
        policy: Policy,
        acting: Acting,
        length: int,
        generator: torch.Generator,
        cut_returns: bool,
        *,
        stop: bool = False,
    ) -> None:
        self._for = (env, policy, generator)

        def act(steps: int) -> tuple[Window, Acting]:
            start = self.acting._replace(memory=copied(self.acting.memory))  # what acting leaves is not overwritten
            return collect(env, policy, start, steps, generator, cut_returns, look=False, stop=stop)

        def window() -> Window:
            window, after = act(length)
            write(self.acting, after)
            return window

        self.acting = Acting(*copied(acting))
        rehearse(lambda: act(1), generator)
        self._graph = Graph(window, generator)

    def fits(self, env: Env, policy: Policy, generator: torch.Generator) -> bool:
        """Say whether it was recorded for these."""
        return all(a is b for a, b in zip(self._for, (env, policy, generator), strict=True))

    def __call__(self, acting: Acting) -> tuple[Window, Acting]:
        """Act from where one stands: what the last call returned, or anything else, which is copied."""
        if acting is not self.acting:
            write(self.acting, acting)
        return self._graph.replay(), self.acting


class StepGraph:
    """One step of acting, recorded, for a core that may have work left after it: the host looks whether it has."""

    def __init__(self, env: Env, policy: Policy, acting: Acting, generator: torch.Generator) -> None:
        self._for = (env, policy, generator)

        def step() -> Moment:
            moment = act_once(env, policy, self.acting, generator, policy.advance)
            write(self.acting, moment.acting)
            return moment

        def settle() -> None:
            write(self.acting.memory, policy.core.settle(self.acting.memory))

        def unsettled() -> Tensor:
            return policy.core.unsettled(self.acting.memory).any()

        def rehearsal() -> None:
            write(self.acting, acting)  # no step may follow one that was not settled
            step()

        self.acting = Acting(*copied(acting))
        rehearse(rehearsal, generator)
        rehearse(settle)
        rehearse(unsettled)
        write(self.acting, acting)
        self._step, self._settle, self._unsettled = Graph(step, generator), Graph(settle), Graph(unsettled)

    def fits(self, env: Env, policy: Policy, generator: torch.Generator) -> bool:
        """Say whether it was recorded for these."""
        return all(a is b for a, b in zip(self._for, (env, policy, generator), strict=True))

    def __call__(self, acting: Acting) -> Moment:
        """Take a step. The memory that is returned is overwritten by the next call."""
        if acting is not self.acting:
            write(self.acting, acting)
        inputs, hidden = copied((self.acting.inputs, self.acting.hidden))
        moment = self._step.replay()
        while bool(self._unsettled.replay()):
            self._settle.replay()
        said: Moment = copied(moment._replace(inputs=(), acting=(), hidden=()))  # type: ignore[arg-type]
        return said._replace(inputs=inputs, acting=self.acting, hidden=hidden)


class LearningGraph:
    """`learn`, its advantages and its minibatch recorded; with a fused Adam.

    A loss that is no number stops all later steps of the window on the device; the host hears of it at the end.
    """

    def __init__(
        self,
        config: PPOConfig,
        policy: Policy,
        optimizer: torch.optim.Adam,
        window: Window,
        precision: torch.dtype,
        average: Average | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.config, self.policy, self.optimizer, self.window = config, policy, optimizer, window
        self._recall, self._average, self._rows, self._precision = recall, average, window.value.shape[1], precision
        device, size = policy.device, self._rows // config.minibatches
        self._steps = config.minibatches // config.accumulate  # of the optimiser, in a pass
        self._number = torch.zeros(1, dtype=torch.int64, device=device)  # of the step
        self._order_NAR = torch.zeros(
            config.epochs * self._steps, config.accumulate, size, dtype=torch.int64, device=device
        )
        self._drawn_EMR = torch.empty(
            config.epochs, config.minibatches, size, dtype=torch.int64, pin_memory=device.type == "cuda"
        )
        self._rate, self._entropy_weight = (torch.zeros((), device=device) for _ in range(2))
        self._bad = torch.zeros((), device=device)  # while it is 1, steps of the optimiser change nothing
        self._said_NF = torch.zeros(len(self._order_NAR), 0, device=device)
        self._names: list[str] = []
        for group in optimizer.param_groups:
            group["capturable"] = True
        optimizer.found_inf, optimizer.grad_scale = self._bad, None  # type: ignore[attr-defined]

        def begin() -> Tensor:
            self._number.zero_()
            return advantages(config, window)

        def minibatch(plan: Hashable) -> None:
            figures = gradient(
                config,
                policy,
                window,
                self._advantage_TB,
                self._order_NAR.index_select(0, self._number).squeeze(0),
                entropy_weight=self._entropy_weight,
                precision=precision,
                average=average,
                plan=plan,
                recall=recall,
            )
            if not self._names:
                self._names = list(figures)
                self._said_NF = self._said_NF.new_zeros(len(self._said_NF), len(figures))
            self._said_NF.index_copy_(0, self._number, torch.stack([*figures.values()]).float()[None])
            bad = ~torch.isfinite(figures["grad_norm"] + figures["loss"])
            self._bad.copy_(torch.maximum(self._bad, bad.float()))
            optimizer.step()
            self._number.add_(1)

        self._minibatch = minibatch
        self._recorded: dict[Hashable, Graph[None]] = {}
        rehearse(begin)
        self._begin = Graph(begin)
        self._advantage_TB = self._begin.output
        self._record(policy.plan(window.inputs, window.memory))
        self._moments = _moments(optimizer)

    def fits(self, policy: Policy, optimizer: torch.optim.Optimizer) -> bool:
        """Say whether it was recorded for these, and the optimiser's state lies where it did."""
        moments = _moments(optimizer)
        return (
            policy is self.policy
            and optimizer is self.optimizer
            and len(moments) == len(self._moments)
            and all(a is b for a, b in zip(moments, self._moments, strict=True))
        )

    def _record(self, plan: Hashable) -> None:
        """Record a minibatch of a window of some plan."""
        beside = next(iter(self._recorded.values()), None)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate

        def rehearsal() -> None:
            self._minibatch(plan)
            self._number.zero_()  # there may be no second minibatch

        try:  # whatever happens, later steps must count again
            self._bad.fill_(1)
            self._begin.replay()
            rehearse(rehearsal)
            self._recorded[plan] = Graph(lambda: self._minibatch(plan), beside=beside)
        finally:
            self._bad.zero_()
            self.optimizer.zero_grad(set_to_none=True)

    def __call__(
        self, window: Window, generator: torch.Generator, *, remaining: float, warm: float = 1.0
    ) -> dict[str, float]:
        """Do as `learn`.

        Raises:
            DivergedError: a loss or gradient is not finite; the policy is as it was before that step.
        """
        config = self.config
        if window is not self.window:
            write(self.window, window)
        plan = self.policy.plan(window.inputs, window.memory)
        if plan not in self._recorded:
            if len(self._recorded) == MOST_PLANS:
                return learn(
                    config,
                    self.policy,
                    self.optimizer,
                    window,
                    generator,
                    remaining=remaining,
                    precision=self._precision,
                    average=self._average,
                    warm=warm,
                    recall=self._recall,
                )
            self._record(plan)
        rate, entropy_weight = rates(config, remaining, warm)
        self._rate.fill_(rate)
        self._entropy_weight.fill_(entropy_weight)
        self._begin.replay()
        passes, order_EMR = 0, self._order_NAR.view_as(self._drawn_EMR)
        last: list[list[float]] = []
        for epoch in range(config.epochs):
            self._drawn_EMR[epoch] = minibatches(self._rows, config.minibatches, generator)
            order_EMR[epoch].copy_(self._drawn_EMR[epoch], non_blocking=True)
            for _ in range(self._steps):
                self._recorded[plan].replay()
            passes += 1
            if config.target_kl or passes == config.epochs:
                said_NF = self._said_NF[: passes * self._steps].clone()
                if self._average is not None:
                    self._average([said_NF])
                seen = said_NF.tolist()
                last = seen[-self._steps :]
                self._check(seen)
                if config.target_kl and _means(self._names, last)["approx_kl"] > config.target_kl:
                    break
        mean = _means(self._names, last)
        del mean["loss"]
        return mean | {"passes": float(passes), "learning_rate": rate}

    def _check(self, seen: list[list[float]]) -> None:
        place = {name: number for number, name in enumerate(self._names)}
        for figures in seen:
            loss, norm = figures[place["loss"]], figures[place["grad_norm"]]
            if not math.isfinite(loss + norm):
                self._bad.zero_()
                raise diverged(loss, norm)


class Graphs:
    """What a run has recorded, when it is first asked for, and what could not be recorded, which it says once.

    Args:
        wanted: whether to record at all.
        compiled: whether to compile the steps of the environments too.
    """

    def __init__(self, *, wanted: bool, compiled: bool) -> None:
        self._wanted, self._compiled = wanted, compiled
        self._acting: ActingGraph | StepGraph | SpanGraph | None = None
        self._learning: LearningGraph | None = None
        self._refused: set[str] = set()

    def acting(
        self, config: PPOConfig, env: Env, policy: Policy, acting: Acting, generator: torch.Generator
    ) -> Callable[[Acting], tuple[Window, Acting]] | None:
        """Return what acts for a window from a given place, or None where it is `collect` that has to."""
        if not self._may("acting", env.device) or not env.on_device:
            return None
        if self._acting is None or not self._acting.fits(env, policy, generator):
            if self._compiled and isinstance(env, NativeEnv):
                compile_env(env, acting)
            never = config.trial_end == "stop" and not config.cut_returns
            try:
                if never and (policy.core.settles or config.window > LONGEST):
                    self._acting = SpanGraph(env, policy, acting, config.window, generator)
                elif policy.core.settles:
                    self._acting = StepGraph(env, policy, acting, generator)
                else:
                    self._acting = ActingGraph(
                        env, policy, acting, config.window, generator, config.cut_returns, stop=never
                    )
            except RuntimeError as error:
                self._refuse("acting", error)
                return None
        graph = self._acting
        if isinstance(graph, ActingGraph | SpanGraph):
            return graph
        return lambda acting: collect(
            env,
            policy,
            acting,
            config.window,
            generator,
            config.cut_returns,
            stop=config.trial_end == "stop",
            look=True,
            once=graph,
        )

    def learning(
        self,
        config: PPOConfig,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        window: Window,
        *,
        precision: torch.dtype,
        average: Average | None = None,
        recall: Recall | None = None,
    ) -> LearningGraph | None:
        """Return what learns from a window, or None where it is `learn` that has to.

        That is so where the core draws a plan for each minibatch, and where processes that learn together may have
        windows of different plans: a rehearsal averages, and all must come to it at once.
        """
        core = policy.core
        if not self._may("learning", policy.device) or core.draws_plans or (average is not None and core.settles):
            return None
        if not isinstance(optimizer, torch.optim.Adam):
            return None
        if self._learning is None or not self._learning.fits(policy, optimizer):
            try:
                self._learning = LearningGraph(config, policy, optimizer, window, precision, average, recall)
            except RuntimeError as error:
                self._refuse("learning", error)
                return None
        return self._learning

    def _may(self, what: str, device: torch.device) -> bool:
        return self._wanted and device.type == "cuda" and what not in self._refused

    def _refuse(self, what: str, error: Exception) -> None:
        self._refused.add(what)
        reason = " ".join(str(error).split())[:300]
        warnings.warn(
            f"{what} cannot be recorded as a CUDA graph and runs step by step, which is slow: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )


@torch.no_grad()  # as in acting: a step with gradients would be compiled apart
def compile_env(env: NativeEnv, acting: Acting) -> None:
    """Compile the steps of an environment, or say why that failed and leave them as they are."""
    env.compile()
    try:
        state, step = env.move(acting.env_state, torch.zeros_like(acting.inputs.action))
        if acting.hidden:
            env.hidden(state, step)
    except Exception as error:  # a compiler has many ways to fail, and none of them is worth the run
        env.uncompile()
        reason = " ".join(str(error).split())[:300]
        warnings.warn(
            f"the steps of {env.config.label} could not be compiled and run uncompiled, which is slower: "
            f"{type(error).__name__}: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def _moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [part for state in optimizer.state.values() for part in state.values()]


def _means(names: list[str], seen: list[list[float]]) -> dict[str, float]:
    return {name: sum(values) / len(seen) for name, values in zip(names, zip(*seen, strict=True), strict=True)}
