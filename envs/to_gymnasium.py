"""Native environments for everyone who speaks Gymnasium: one at a time, or a vector of many.

`gymnasium.make("mnemic/EndlessTMaze-v0", length=5)` and `gymnasium.make_vec(..., num_envs=16)` work after
`import mnemic.envs`, and `gymnasium.make("mnemic/Trials-v0", name="trials:tmaze", episodes=5)`. Shapes: B rows.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from .picture import to_rgb, to_text
from .step import Env, EnvConfig, Obs, Step

WORDS = {"tmaze": "TMaze"}  # words of our names that are more than one word in a Gymnasium id
RENDER_MODES = ["ansi", "rgb_array"]


def to_gymnasium_id(name: str) -> str:
    """Return the id of a native environment, such as mnemic/EndlessTMaze-v0 for endless-tmaze."""
    return f"mnemic/{''.join(WORDS.get(word, word.capitalize()) for word in name.split('-'))}-v0"


def register() -> None:
    """Tell Gymnasium about every native environment of the registry. Nothing is imported until one is made."""
    from . import ENVS

    for name in (*ENVS, "trials:tmaze"):  # trials of another task are asked for by their name
        id = to_gymnasium_id(name.partition(":")[0])
        if id not in gymnasium.registry:
            gymnasium.register(
                id,
                entry_point=f"{__name__}:GymnasiumTwin",
                vector_entry_point=f"{__name__}:VectorTwin",
                kwargs={"name": name},
            )


def _config(name: str | EnvConfig, options: dict[str, Any]) -> EnvConfig:
    if isinstance(name, str):
        from . import make_config

        return make_config(name, **options)
    if options:
        raise ValueError(f"{name.label}: a configuration came, and options beside it: {', '.join(options)}")
    return name


class GymnasiumTwin(gymnasium.Env[Any, Any]):
    """A native environment with one row. `reset(seed=s)` begins what `config.build(1, s)` begins.

    A `reset` without a seed opens the next episode, of the same trial where trials have many, if the last one is
    over; in the middle of an episode it begins a fresh trial. `info["trial_start"]` of `reset` says which: forget
    everything if it is true. After the last step of an episode the picture is already that of the next one.

    Args:
        name: what the registry calls it, or its configuration.
        render_mode: None, ansi (text with colours) or rgb_array.
        options: of its configuration.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RENDER_MODES, "render_fps": 8}  # type: ignore[misc]

    def __init__(self, name: str | EnvConfig, render_mode: str | None = None, **options: Any) -> None:
        self._config = _config(name, options)
        self._env = self._config.build(1, 0)
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.render_mode = _checked_mode(self._config, render_mode)
        self._state: Any = None
        self._next: Step | None = None  # what the state says: an episode's end and the start of the one after it
        self._open = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Open an episode; `options` are not used."""
        super().reset(seed=seed)
        if self._next is None or self._open or seed is not None:
            self._env = self._config.build(1, int(self.np_random.integers(2**63)) if seed is None else seed)
            self._state, self._next = self._env.reset()
        self._open = True
        return _row(self._next.obs, 0), {"trial_start": bool(self._next.trial_start[0])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Raises:
            ValueError: an action outside the space, or no episode is open.
        """
        if not self._open:
            raise ValueError(f"{self._config.label}: no episode is open; call reset() first")
        self._state, self._next = self._env.step(self._state, _actions(self._config, np.asarray(action)[None]))
        step = self._next
        self._open = not step.episode_start[0]
        info = {name: part[0].item() for name, part in step.info.items()} | {"trial_start": False}
        ended, stopped = bool(step.terminated[0]), bool(step.truncated[0])
        return _row(step.final_obs, 0), float(step.reward[0]), ended, stopped, info

    def render(self) -> Any:
        """Return text or an image, as the render mode says; None without one."""
        return None if self._state is None else _rendered(self._env, self._state, 0, self.render_mode)


class VectorTwin(VectorEnv[Any, Any, Any]):
    """A native environment with B rows. `reset(seed=s)` begins what `config.build(B, s)` begins.

    A row whose episode ends begins its next one in the same step: `final_obs` and `final_info` say how it ended.
    `infos["trial_start"]` says which rows opened a trial, and so forget everything. `reset` without a seed begins
    fresh trials.

    Args:
        name: what the registry calls it, or its configuration.
        num_envs: B.
        render_mode: None, ansi (text with colours) or rgb_array.
        device: where it is computed; what goes in and comes out is on the host.
        options: of its configuration.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": RENDER_MODES,
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        name: str | EnvConfig,
        num_envs: int = 1,
        render_mode: str | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        self._config = _config(name, options)
        self._env = self._config.build(num_envs, 0, device)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = self._env.observation_space, self._env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = _checked_mode(self._config, render_mode)
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin fresh trials in all rows; `options` are not used.

        Raises:
            ValueError: a list of seeds, or a mask of rows: rows restart by themselves.
        """
        if not (seed is None or isinstance(seed, int | np.integer)):
            raise ValueError(f"{self._config.label}: seed is {seed!r}; one integer for all rows is expected")
        if options and "reset_mask" in options:
            raise ValueError(f"{self._config.label}: rows restart by themselves; reset_mask is not taken")
        super().reset(seed=seed)
        fresh = int(self.np_random.integers(2**63)) if seed is None else int(seed)
        self._env = self._config.build(self.num_envs, fresh, self._env.device)
        self._state, step = self._env.reset()
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        return _rows(step.obs), {"trial_start": everywhere, "_trial_start": everywhere.copy()}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one action in every row.

        Raises:
            ValueError: an action outside the space, or `reset` was never called.
        """
        if self._state is None:
            raise ValueError(f"{self._config.label}: no episode is open; call reset() first")
        action_B = _actions(self._config, np.asarray(actions)).to(self._env.device)
        self._state, step = self._env.step(self._state, action_B)
        over = step.episode_start.cpu().numpy()
        figures = {name: _wide(part) for name, part in step.info.items()}
        infos: dict[str, Any] = dict(_masked(figures, ~over))
        if over.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(over).tolist():
                final_obs[row] = _row(step.final_obs, row)
            ends = _masked(figures | {"trial_start": np.zeros_like(over)}, over)
            infos |= {"final_obs": final_obs, "_final_obs": over.copy(), "final_info": ends, "_final_info": over.copy()}
        infos |= {"trial_start": _wide(step.trial_start), "_trial_start": np.ones_like(over)}
        return _rows(step.obs), _wide(step.reward), _wide(step.terminated), _wide(step.truncated), infos

    def render(self) -> tuple[Any, ...] | None:
        """Return text or an image of each row, as the render mode says; None without one."""
        if self._state is None or self.render_mode is None:
            return None
        return tuple(_rendered(self._env, self._state, row, self.render_mode) for row in range(self.num_envs))


def _checked_mode(config: EnvConfig, mode: str | None) -> str | None:
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"{config.label}: render_mode is {mode!r}; choose one of {', '.join(RENDER_MODES)}")
    return mode


def _rendered(env: Env, state: Any, row: int, mode: str | None) -> Any:
    if mode is None:
        return None
    picture = env.draw(state, row)
    return to_text(picture, colour=True) if mode == "ansi" else to_rgb(picture)


def _actions(config: EnvConfig, actions: np.ndarray) -> Tensor:
    """Return actions as the native side takes them: every type of integer is as good as int64 here."""
    if actions.dtype.kind not in "biuf":
        raise ValueError(f"{config.label}: actions of type {actions.dtype} came; whole numbers are expected")
    return torch.from_numpy(actions.astype(np.int64) if actions.dtype.kind in "iu" else actions)


def _row(obs: Obs, row: int) -> Any:
    """Return a copy of what one row sees."""
    if isinstance(obs, dict):
        return {name: _row(part, row) for name, part in obs.items()}
    return obs[row].cpu().numpy().copy()


def _rows(obs: Obs) -> Any:
    """Return a copy of what all rows see."""
    if isinstance(obs, dict):
        return {name: _rows(part) for name, part in obs.items()}
    return obs.cpu().numpy().copy()


def _wide(part: Tensor) -> np.ndarray:
    """Return figures in the types that Gymnasium's own vectors use: bool, int64, float64."""
    return (part.double() if part.is_floating_point() else part).cpu().numpy().copy()


def _masked(figures: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return figures as Gymnasium's infos hold them: 0 outside some rows, and under _name in which rows they count."""
    masked: dict[str, np.ndarray] = {}
    if rows.any():
        for name, figure in figures.items():
            masked |= {name: np.where(rows, figure, np.zeros_like(figure)), f"_{name}": rows.copy()}
    return masked
