"""The settings of the memory-rewriting benchmark: one for each task, for any memory.

All memories learn with the same settings and the same budget; only what a memory is made of is its own. What both tasks
are learned with in half the steps: a discount that reaches over a phase and no farther, and a step size and an entropy
weight that fall in a line, so that what was learned late is not lost again. The previous action is in the input: it is
how an agent knows in the Endless T-Maze that it has tried a turn; in Color-Cubes a GRU did as well without. There gates
that hold begin far on the holding side, since a target is shown once and needed ten steps later; an LSTM solved Medium
from the usual beginning too (eval/RESULTS.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from ..agents.encoder import EncoderConfig
from ..envs.color_cubes import ColorCubesConfig
from ..envs.endless_tmaze import EndlessTMazeConfig
from ..memory import make_config
from .config import EvalConfig, PPOConfig, TrainConfig

OF_CORES: dict[str, dict[str, Any]] = {
    "paragru": {"hold": 4.0},
    "paralstm": {"hold": 4.0},
    "transformer": {"context": 128, "residual": "gate", "mlp": 2},
    "memo": {"segment": 16, "residual": "gate", "mlp": 2},
    "aaren": {"residual": "gate", "mlp": 2},
    "gtrxl": {"context": 128},
    "slots": {"writes": 3, "forget_bias": 3.0},
}
"""Options of cores that differ from their own defaults here; a core that is not named keeps its own."""
ON_CUBES: dict[str, dict[str, Any]] = {"lstm": {"forget_bias": 3.0}}
"""Those that differ in Color-Cubes alone. In the T-Maze, where a cue is to be let go after a few steps, such an LSTM
does not learn to."""


def endless_tmaze(memory: str) -> TrainConfig:
    """Solve the Endless T-Maze with any memory."""
    return TrainConfig(
        env=EndlessTMazeConfig(),
        memory=make_config(memory, width=64, **OF_CORES.get(memory, {})),
        ppo=PPOConfig(rows=1024, window=32, epochs=3, minibatches=4, learning_rate=1e-3, gamma=0.95),
        evaluation=EvalConfig(every=10, episodes=256),
        steps=2_000_000,
    )


def color_cubes(memory: str, preset: str = "medium") -> TrainConfig:
    """Solve Color-Cubes with any memory, at one of its presets."""
    return TrainConfig(
        env=ColorCubesConfig(preset=preset),  # type: ignore[arg-type]  # refused there if there is none
        memory=make_config(memory, width=128, **OF_CORES.get(memory, {}) | ON_CUBES.get(memory, {})),
        ppo=PPOConfig(
            rows=1024,
            window=32,
            epochs=3,
            minibatches=8,
            learning_rate=1e-3,
            gamma=0.95,
            gae_lambda=0.9,
            entropy_weight=0.01,
        ),
        encoder=EncoderConfig(layers=2),
        evaluation=EvalConfig(every=20, episodes=256),
        steps=10_000_000,
    )


def color_cubes_large(env: ColorCubesConfig, memory: str) -> TrainConfig:
    """Solve Color-Cubes of many cells and colours with any memory; it begins with the weights of `color_cubes_first`.

    What PPO alone does not find there is the look-up of a cell by its colour (eval/RESULTS.md): so the frame comes as
    planes over the cells, to a net that keeps them, and while training the memory is asked for the target's cell.
    """
    plain = color_cubes(memory)
    return replace(
        plain,
        env=replace(env, view="grid"),
        ppo=replace(plain.ppo, recall=("target",), recall_weight=0.3, entropy_weight=0.05),
        encoder=EncoderConfig(layers=2, whole_grid=True),
    )


def color_cubes_first(config: TrainConfig) -> TrainConfig:
    """Return what goes before: one phase, within the longest shortest way, until nine of ten games are solved."""
    return replace(
        config,
        env=replace(cast(ColorCubesConfig, config.env), phases=1, slack=1.0),
        ppo=replace(config.ppo, entropy_weight=0.02, schedule="constant"),
        evaluation=EvalConfig(every=10, episodes=512, stop_at=0.9, confirm_episodes=512),
        steps=min(3_000_000, config.steps),
    )


def color_cubes_trivial(memory: str) -> TrainConfig:
    """Hold one cell: Color-Cubes with one cube that stays, with any memory."""
    return color_cubes(memory, "trivial")


def color_cubes_medium(memory: str) -> TrainConfig:
    """Overwrite one cell: Color-Cubes with cubes that jump, shown with colours, with any memory."""
    return color_cubes(memory, "medium")


def color_cubes_extreme(memory: str) -> TrainConfig:
    """Carry colours from cell to cell: Color-Cubes with cubes that jump, shown without colours, with any memory."""
    return color_cubes(memory, "extreme")
