"""Any Gymnasium environment, many of them at once, as one batched environment.

Shapes: B rows.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .gym_facts import ask_one
from .gym_rows import Extent, Field, Plan, Rows, Workers, cores
from .picture import Picture
from .step import Env, EnvConfig, Obs, Step

if TYPE_CHECKING:
    from .trials import TrialsConfig

MINIGRID_IDS = ("MiniGrid-", "BabyAI-")


@dataclass(frozen=True, kw_only=True)
class GymConfig(EnvConfig):
    """Any environment registered with Gymnasium, MiniGrid's among them."""

    name: ClassVar[str] = "gym"
    summary: ClassVar[str] = "any Gymnasium environment by its id, such as gym:MiniGrid-MemoryS7-v0"

    id: str
    """The id, such as MiniGrid-MemoryS7-v0; module:Id-v0 imports a module that registers it."""
    workers: int = 0
    """Processes that share the rows out; 1: all in this process; 0: as many as there are cores for this process, if
    there are so many rows. A script that starts processes needs the usual `if __name__ == "__main__":`."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps, where the environment does not do so sooner."""
    one_hot: bool = True
    """Show MiniGrid's view as one-hot planes instead of as an image of small numbers."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if self.workers < 0:
            raise ValueError(f"{self.label}: workers is {self.workers}; it must be at least 0")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"{self.label}: max_episode_steps is {self.max_episode_steps}; it must be at least 1")

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"gym:{self.id}"

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make `batch` environments; close them when done, since they may live in other processes.

        Raises:
            ValueError: no such id, or a space that an agent cannot take.
        """
        return GymnasiumEnv(self, batch, seed, device)

    def build_part(self, rows: range, seed: int, device: torch.device | str = "cpu") -> Env:
        """Make some rows of a larger batch; the first is told at once, since the rows may live in other processes."""
        return GymnasiumEnv(self, len(rows), seed, device, rows.start)


class GymnasiumEnv(Env):
    """B Gymnasium environments: a row whose episode ends is reset in the same step.

    An episode is a trial, or a trial is many episodes that begin from the same seed.

    What the agent sees: a Box of bytes as it is and of other numbers as float32; Discrete and MultiDiscrete as one-hot,
    MultiBinary as 0 and 1; a Dict of these part by part. MiniGrid's view becomes 20 one-hot planes, (7, 7, 20), for
    11 objects, 6 colours and 3 states. A text is left out if it never changes (MiniGrid says which texts there are,
    other environments are asked for some fresh episodes); MiniGrid's missions with blanks to fill become one-hot for
    each blank; a text that changes freely is refused.

    `success`: in MiniGrid an episode that terminates with a positive reward. Elsewhere the environment's own
    `is_success` or `success`, if it is in the information of the very first step; if not, there is no such figure.

    Args:
        config: the options.
        batch: rows.
        seed: row i is seeded with a function of the seed and i, so it does not depend on batch or workers.
        device: where the tensors go; the environments themselves stay on the CPU.
        first_row: the number of the first row, where this is a part of a larger batch.
        trials: what a trial is, and the name in messages; None: an episode is a trial.

    Raises:
        ValueError: no such id, a space that an agent cannot take, or an environment that cannot be made.
    """

    resumable: ClassVar[bool] = False

    def __init__(
        self,
        config: GymConfig,
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
        first_row: int = 0,
        trials: TrialsConfig | None = None,
    ) -> None:
        label = (trials or config).label
        if batch < 1:
            raise ValueError(f"{label}: a batch of {batch} rows was asked for; it takes at least 1")
        self.config, self.batch, self.seed, self.device = trials or config, batch, seed, torch.device(device)
        self.first_row = first_row
        spec = find_spec(config.id)
        make = partial(gymnasium.make, spec, **_options(config, spec))
        self._facts = facts = ask_one(config.label, make, one_hot=config.one_hot)
        self._fields = tuple(part for part in facts.fields if part.shape != (0,))
        self.observation_space = facts.observation_space
        acts = facts.action_space
        self.action_space = spaces.Discrete(int(acts.n)) if isinstance(acts, spaces.Discrete) else acts
        self.action_names = facts.action_names
        self.episode_steps = self.trial_steps = facts.episode_steps
        self._trial = None if trials is None else Extent(trials.most_episodes, trials.steps)
        self.many_episodes = self._trial is not None
        if self._trial is not None:
            self.trial_clock = self._trial.steps or None
            self.trial_steps = self.trial_clock or (facts.episode_steps and self._trial.episodes * facts.episode_steps)
        plan = Plan(label, make, seed, first_row, facts.fields, facts.action_space, facts.success, self._trial)
        count = min(config.workers or cores(), batch)
        preload = ["minigrid"] if config.id.startswith(MINIGRID_IDS) else []
        self._rows = Rows(plan, batch, range(batch)) if count == 1 else Workers(plan, batch, count, preload)

    def reset(self) -> tuple[tuple[()], Step]:
        """Begin every row anew from its own seed: the same call gives the same episodes."""
        self._call("reset")
        obs = self._seen("obs", np.arange(self.batch))
        zero_B = torch.zeros(self.batch, device=self.device)
        false_B = zero_B.bool()
        return (), Step(obs, zero_B, false_B, false_B, ~false_B, ~false_B, obs, {})

    def step(self, state: Any, action_B: Tensor) -> tuple[tuple[()], Step]:
        """Take one action in every row: (B,) int64 for Discrete, (B, n) as in the space otherwise. Boxes do not clip.

        Raises:
            ValueError: an action outside the space, or an observation that is not finite or not as promised.
            RuntimeError: an environment raised or its process died. Each names the environment and the row, and
                closes all rows.
        """
        self._rows.arrays["action"][:] = self._checked(action_B)
        self._call("step")
        arrays = self._rows.arrays
        reward, terminated, truncated = (arrays[name] for name in ("reward", "terminated", "truncated"))
        self._finite("reward", reward, np.arange(self.batch))
        obs = final_obs = self._seen("obs", np.arange(self.batch))
        over = terminated | truncated
        if over.any():
            index = np.flatnonzero(over)
            final_obs = _patched(obs, torch.from_numpy(index).to(self.device), self._seen("final", index))
        over_B = self._tensor(over)
        trial_over_B = over_B if self._trial is None else self._tensor(arrays["trial_over"])
        info = {} if self._facts.success is None else {"success": self._tensor(arrays["success"])}
        return (), Step(
            obs,
            self._tensor(reward),
            self._tensor(terminated),
            self._tensor(truncated & ~terminated),
            over_B,
            trial_over_B,
            final_obs,
            info,
        )

    def draw(self, state: Any, row: int) -> Picture:
        """Return a picture of one row: MiniGrid's grid, elsewhere the environment's own image in coarse cells."""
        if not self._facts.drawable:
            return super().draw(state, row)
        picture: Picture = self._call("draw", row)
        return picture

    def close(self) -> None:
        """Close the environments and stop their processes."""
        self._rows.close()

    def _call(self, command: str, row: int | None = None) -> Any:
        if not self._rows.open:
            raise ValueError(f"{self.config.label} is closed; build it anew")
        try:
            return self._rows.call(command, row)
        except BaseException:  # Ctrl-C among them: rows that stopped half-way fit together no more
            self.close()
            raise

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _checked(self, action_B: Tensor) -> np.ndarray:
        label, space = self.config.label, self.action_space
        shape = (self.batch, *(space.shape or ()))
        if tuple(action_B.shape) != shape:
            raise ValueError(
                f"{label}: actions of shape {tuple(action_B.shape)} came; {shape} is expected, one per row"
            )
        real = isinstance(space, spaces.Box)
        if action_B.dtype != torch.int64 and not (real and action_B.is_floating_point()):
            expected = "real numbers" if real else "torch.int64"
            raise ValueError(f"{label}: actions of type {action_B.dtype} came; {expected} is expected")
        action = action_B.detach().cpu().numpy()
        if real:
            self._finite("the action", action, np.arange(self.batch))
            return action
        top = space.n if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
        outside = ((action < 0) | (action >= top)).reshape(self.batch, -1).any(1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise ValueError(f"{label}: action {action[row].tolist()} in row {row}; the space is {space}")
        return action

    def _finite(self, what: str, array: np.ndarray, rows: np.ndarray) -> None:
        good = np.isfinite(array)
        if not good.all():
            row = rows[np.flatnonzero(~good.reshape(len(rows), -1).all(1))[0]]
            self.close()
            raise ValueError(f"{self.config.label}: row {row}: {what} is not finite")

    def _seen(self, when: Literal["obs", "final"], rows: np.ndarray) -> Obs:
        """Return what the agent sees, or saw last, in some rows."""
        parts = {
            part.key: self._part(part, self._rows.arrays[f"{when}.{part.name}"][rows], rows) for part in self._fields
        }
        alone = parts.pop(None, None)
        return {str(key): part for key, part in parts.items()} if alone is None else alone

    def _part(self, part: Field, array: np.ndarray, rows: np.ndarray) -> Tensor:
        if not part.choices:
            self._finite(part.name, array, rows)
            return torch.from_numpy(array).to(self.device)
        top = np.array(part.choices)
        outside = ((array < 0) | (array >= top)).reshape(len(rows), -1).any(1)
        if outside.any():
            row = rows[np.flatnonzero(outside)[0]]
            self.close()
            raise ValueError(
                f"{self.config.label}: row {row}: {part.name} holds a number that its space does not; "
                f"the choices are {part.choices}"
            )
        place = torch.from_numpy(array + np.cumsum([0, *part.choices[:-1]])).to(self.device)
        planes = torch.zeros(*array.shape[:-1], sum(part.choices), device=self.device)
        return planes.scatter_(-1, place, 1.0)


def find_spec(id: str) -> Any:
    """Return the registered specification of an id.

    Raises:
        ValueError: there is none; the message names the closest ids first.
    """
    module, _, name = id.rpartition(":")
    if id.startswith(MINIGRID_IDS):
        module = "minigrid"
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"gym:{id}: the module {module!r} cannot be imported ({error})") from None
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    near = get_close_matches(name, gymnasium.registry, n=5, cutoff=0.4)
    hint = f"the closest are {', '.join(near)}" if near else "import the package that registers it, as module:Id-v0"
    raise ValueError(f"unknown Gymnasium id {name!r}; {hint}")


def _options(config: GymConfig, spec: Any) -> dict[str, Any]:
    """Return what `gymnasium.make` is told; its own checker is off, since every observation is checked here."""
    options: dict[str, Any] = {"disable_env_checker": True}
    if config.max_episode_steps is not None:
        options["max_episode_steps"] = min(config.max_episode_steps, spec.max_episode_steps or 2**31)
    try:
        entry = spec.entry_point
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except Exception as error:  # what it needs is not installed, and each library says so in its own way
        raise ValueError(f"{config.label} cannot be made: {type(error).__name__}: {error}") from error
    if "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", []):
        options["render_mode"] = "rgb_array"
    return options


def _patched(obs: Obs, index: Tensor, parts: Obs) -> Obs:
    """Return a copy of an observation with other values in some rows."""
    if isinstance(obs, Tensor):
        assert isinstance(parts, Tensor)
        return obs.index_copy(0, index, parts)
    return {name: part.index_copy(0, index, parts[name]) for name, part in obs.items()}  # type: ignore[index]
