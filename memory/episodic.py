"""A transformer that is told where episodes begin inside a trial: ReLIC's positions.

A learned vector for the step of the episode joins each input, and queries and keys are turned by the number of the
episode in the trial. So attention tells episodes apart by distance, and steps of an episode by what they are.

Source: the full-context transformer of ReLIC (Elawady et al. 2024, arXiv 2410.02751).
Shapes: T time, B rows, D features.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import Core, MemoryConfig, State
from .stack import Stack


class Places(NamedTuple):
    """Where rows are in their trials, before their next step."""

    step_B: Tensor
    """(B,) int64: steps of the running episode so far."""
    episode_B: Tensor
    """(B,) int64: episodes of the trial before the running one."""


class EpisodicState(NamedTuple):
    """What the layers remember, and where the rows are."""

    layers: State
    places: Places


class EpisodicStack(Stack):
    """Layers that take the number of the episode as the position of each step.

    Args:
        config: what stands around the layers.
        layers: cores whose forms take a position after the start.
        positions: rows of the table of steps of an episode. Steps beyond it share the last row: `check_episodes`
            refuses episodes that are known to be longer, and to look at each step would make a device wait.
    """

    episodic = True

    def __init__(self, config: MemoryConfig, layers: Sequence[Core], positions: int) -> None:
        super().__init__(config, layers)
        self.table_ED = nn.Parameter(0.02 * torch.randn(positions, config.width))

    def initial_state(self, batch: int) -> EpisodicState:
        """Return fresh memories, in the first episode of a trial."""
        none_B = torch.zeros(batch, dtype=torch.int64, device=self.table_ED.device)
        return EpisodicState(super().initial_state(batch), Places(none_B, none_B.clone()))

    def step(
        self, x_BD: Tensor, state: EpisodicState, start_B: Tensor, episode_B: Tensor | None = None
    ) -> tuple[Tensor, EpisodicState]:
        """Take one step; `episode` is true where an episode begins with it. None: where a trial does."""
        return self._step("step", x_BD, state, start_B, episode_B)

    @torch.no_grad()
    def advance(
        self, x_BD: Tensor, state: EpisodicState, start_B: Tensor, episode_B: Tensor | None = None
    ) -> tuple[Tensor, EpisodicState]:
        """Take one step in the memory that is given."""
        return self._step("advance", x_BD, state, start_B, episode_B)

    def _step(
        self, form: str, x_BD: Tensor, state: EpisodicState, start_B: Tensor, episode_B: Tensor | None
    ) -> tuple[Tensor, EpisodicState]:
        x_BD, number_B, places = self.enter(x_BD, state.places, start_B, episode_B)
        y_BD, layers = self._run(form, x_BD, state.layers, start_B, number_B)
        return y_BD, EpisodicState(layers, places)

    def enter(
        self, x_BD: Tensor, places: Places, start_B: Tensor, episode_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Places]:
        """Return what goes into the layers at a step, the number of its episode, and where rows are after it."""
        step_B, number_B = places
        if episode_B is not None:
            number_B, step_B = number_B + episode_B, torch.where(episode_B, 0, step_B)
        number_B, step_B = torch.where(start_B, 0, number_B), torch.where(start_B, 0, step_B)
        return self._placed(x_BD, step_B), number_B, Places(step_B + 1, number_B)

    def unroll(
        self, x_TBD: Tensor, state: EpisodicState, start_TB: Tensor, episode_TB: Tensor | None = None
    ) -> tuple[Tensor, EpisodicState]:
        """Take T steps at once."""
        opens_TB = start_TB if episode_TB is None else start_TB | episode_TB
        time_T1 = torch.arange(len(x_TBD), device=x_TBD.device)[:, None]
        opened_TB = torch.where(opens_TB, time_T1, -1).cummax(0).values
        step_TB = time_T1 - torch.where(opened_TB < 0, -state.places.step_B, opened_TB)

        # Episodes that have begun in the window; those up to the start of the trial are none of its own.
        begun_TB = opens_TB.cumsum(0)
        foreign_TB = torch.where(start_TB, begun_TB, -1).cummax(0).values
        number_TB = begun_TB - torch.where(foreign_TB < 0, -state.places.episode_B, foreign_TB)
        y_TBD, layers = self._run("unroll", self._placed(x_TBD, step_TB), state.layers, start_TB, number_TB)
        return y_TBD, EpisodicState(layers, Places(step_TB[-1] + 1, number_TB[-1]))

    def plan(self, state: EpisodicState, start_TB: Tensor, episode_TB: Tensor | None = None) -> Hashable:
        """Return None: nothing is decided on the host."""
        return None

    def follow(self, x_TBD: Tensor, state: EpisodicState, start_TB: Tensor, *rest: Any) -> tuple[Tensor, EpisodicState]:
        """Take T steps by a plan, the last of what is given: there is nothing to plan."""
        return self.unroll(x_TBD, state, start_TB, *rest[:-1])

    def _placed(self, x: Tensor, step: Tensor) -> Tensor:
        """Add the vectors of the steps of an episode to inputs (..., D)."""
        return x + F.embedding(step.clamp(max=len(self.table_ED) - 1), self.table_ED).to(x.dtype)

    def attends(  # type: ignore[override]  # it may be told where episodes begin
        self, x_BD: Tensor, state: EpisodicState, start_B: Tensor, episode_B: Tensor | None = None
    ) -> Tensor | None:
        """Return the mean over the layers."""
        x_BD, number_B, _ = self.enter(x_BD, state.places, start_B, episode_B)
        return super().attends(x_BD, state.layers, start_B, number_B)

    def gates(self, x_BD: Tensor, state: State, start_B: Tensor) -> dict[str, Tensor]:
        """Return nothing: attention has no gates."""
        return {}

    def check_episodes(self, steps: int | None) -> None:
        """Refuse episodes that go beyond the table.

        Raises:
            ValueError: they do.
        """
        if steps is not None and steps > len(self.table_ED):
            raise ValueError(
                f"an episode takes up to {steps} steps, and the memory has positions for {len(self.table_ED)}; "
                f"train with --memory.episode-positions {steps} or more"
            )

    def state_bytes(self, steps: int) -> int:
        """Return the sum over the layers, and two whole numbers of 64 bits."""
        return super().state_bytes(steps) + 16
