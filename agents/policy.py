"""The policy: encoder, memory, heads.

Shapes: T time, B rows, D features, A numbers that describe an action distribution.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ..memory.core import Core, MemoryConfig, State, count_parameters
from ..memory.pair import Pair
from .backbone import Backbone
from .encoder import Encoder, EncoderConfig, EncoderPair, Inputs, boxes
from .heads import build_head


class Output(NamedTuple):
    """What a policy says at a step."""

    action: Tensor  # (..., A): describes the distribution over actions
    value: Tensor  # (...) float32: the return that is expected from here


class Policy(nn.Module):
    """An actor and a critic, on one memory or on one each.

    Args:
        encoder: options of the encoder.
        memory: options of the memory core.
        observation_space: of one row.
        action_space: of one row.
        separate_critic: give the critic an encoder and a core of its own, with the same options; the features of both
            then lie side by side, the actor's first.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        memory: MemoryConfig,
        observation_space: spaces.Space[object],
        action_space: spaces.Space[object],
        *,
        separate_critic: bool = False,
    ) -> None:
        super().__init__()
        self.encoder_config, self.memory_config, self.separate_critic = encoder, memory, separate_critic
        self.observation_space, self.action_space = observation_space, action_space
        # It is no module of this one: its weights are neither learned nor saved.
        self.backbone = Backbone(encoder.backbone, boxes(observation_space)) if encoder.backbone else None
        features = self.backbone.features if self.backbone else None
        self.encoder: Encoder | EncoderPair = Encoder(encoder, observation_space, action_space, memory.width, features)
        self.core = memory.build()
        if separate_critic:
            critic = Encoder(encoder, observation_space, action_space, memory.width, features)
            self.encoder, self.core = EncoderPair(self.encoder, critic), Pair(self.core, memory.build())
        self.head = build_head(action_space)
        # One matrix for actor and critic saves a call in every step; small actor weights make the first policy uniform.
        self.out = nn.Linear(memory.width, self.head.size + 1)
        nn.init.orthogonal_(self.out.weight[:-1].data, 0.01)
        nn.init.orthogonal_(self.out.weight[-1:].data, 1.0)
        nn.init.zeros_(self.out.bias)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.out.weight.device

    def with_core(self, core: Core) -> Policy:
        """Return a policy with another core in the place of its own; all weights are shared."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a copy of a module shares its table of parts
        other.core = core
        return other

    def look(self, inputs: Inputs) -> Inputs:
        """Return what all other methods take, of what an environment says: features of a backbone for its images.

        Once for every observation, by whoever asks the environment; what is stored has been looked at.
        """
        return inputs if self.backbone is None else inputs._replace(obs=self.backbone(inputs.obs))

    def initial_memory(self, batch: int) -> State:
        """Return the memory of rows that remember nothing."""
        return self.core.initial_state(batch)

    def step(self, inputs: Inputs, memory: State) -> tuple[Output, State]:
        """Take one step: inputs (B, ...), memory of B rows."""
        y_BD, memory = self.core.step(self.encoder(inputs), memory, *self._flags(inputs))
        return self.say(y_BD), memory

    def advance(self, inputs: Inputs, memory: State) -> tuple[Output, State]:
        """Take one step as a loop that acts does: the memory is given up, and `core.settle` may have to follow."""
        y_BD, memory = self.core.advance(self.encoder(inputs), memory, *self._flags(inputs))
        return self.say(y_BD), memory

    def unroll(self, inputs: Inputs, memory: State, plan: Hashable = None) -> tuple[Output, State]:
        """Take T steps at once: inputs (T, B, ...), memory of B rows before the first.

        With a plan, which the core has made of these rows or of more, there is no look at the device's data.
        """
        y_TBD, memory = self.features(inputs, memory, plan)
        return self.say(y_TBD), memory

    def features(self, inputs: Inputs, memory: State, plan: Hashable = None) -> tuple[Tensor, State]:
        """Take T steps as `unroll` does, and return what the core says, (T, B, D), in the place of what is said of it.

        With a critic of its own, the actor's features come first, and those of the critic lie beside them.
        """
        x_TBD, flags = self.encoder(inputs), self._flags(inputs)
        if plan is None:
            return self.core.unroll(x_TBD, memory, *flags)
        return self.core.follow(x_TBD, memory, *flags, plan)  # type: ignore[call-arg]

    def plan(self, inputs: Inputs, memory: State) -> Hashable:
        """Look at a window, inputs (T, B, ...), and return what `unroll` needs to know of it."""
        return self.core.plan(memory, *self._flags(inputs))

    def check_episodes(self, steps: int | None) -> None:
        """Refuse episodes of so many steps (None: unknown) where the memory has a table of positions that ends before.

        Raises:
            ValueError: it does.
        """
        self.core.check_episodes(steps)

    def told(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return what the core takes beside its memory: features (..., D), and the flags of what starts."""
        return self.encoder(inputs), *self._flags(inputs)

    def _flags(self, inputs: Inputs) -> tuple[Any, ...]:
        """Return where trials start and, for a core that wants to know, where episodes do."""
        return (inputs.trial_start, inputs.episode_start)[: 1 + self.core.episodic]

    @torch.no_grad()
    def flops_per_step(self, steps: int) -> float:
        """Return the floating-point operations of the step of one row that follows `steps` steps of its trial.

        Those of the core, as `Core.flops_per_step` counts them, and the products of the encoder, with its backbone, and
        the heads.
        """
        zeros, observed = self.out.weight.new_zeros, self.observation_space
        boxed = {
            name: torch.from_numpy(np.zeros((1, *box.shape), box.dtype)).to(self.device)
            for name, box in boxes(observed).items()
        }
        obs = boxed if isinstance(observed, spaces.Dict) else boxed["obs"]
        flag_1, action_1 = zeros(1, dtype=torch.bool), self.head.blank(1).to(self.device)
        with FlopCounterMode(display=False) as counter:
            self.encoder(self.look(Inputs(obs, action_1, zeros(1), flag_1, flag_1)))
        products: int = counter.get_total_flops()
        return self.core.flops_per_step(steps) + products + 2.0 * count_parameters(self.out)

    def say(self, y: Tensor) -> Output:
        """Return what the heads make of the core's features, (..., D)."""
        if self.separate_critic:
            of_actor, of_critic = y.chunk(2, -1)
            weight, bias = self.out.weight, self.out.bias
            value = F.linear(of_critic, weight[-1:], bias[-1:])
            return Output(F.linear(of_actor, weight[:-1], bias[:-1]), value[..., 0].float())
        out = self.out(y)
        return Output(out[..., :-1], out[..., -1].float())
