"""Recipes: named functions that return the whole configuration of a run.

A row of eval/RESULTS.md names the recipe that made it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..envs.dark_key_to_door import DarkKeyToDoorConfig
from ..envs.endless_tmaze import EndlessTMazeConfig
from ..envs.from_gymnasium import GymConfig
from ..memory import MEMORIES
from ..memory.memo import MemoConfig
from ..memory.rnn import LSTMConfig
from ..memory.transformer import TransformerConfig
from . import embodied, rewriting
from .config import EvalConfig, PPOConfig, TrainConfig


def endless_tmaze_lstm() -> TrainConfig:
    """Solve the Endless T-Maze (Fixed, length 5, 3 corridors) with an LSTM, in under a minute on a laptop."""
    return TrainConfig(
        env=EndlessTMazeConfig(length=5, corridors=3),
        memory=LSTMConfig(width=64),
        ppo=PPOConfig(rows=1024, window=16, epochs=3, minibatches=2, learning_rate=2e-3),
        evaluation=EvalConfig(every=5, episodes=256, stop_at=0.99),
        steps=2_000_000,
    )


def minigrid_memory_lstm() -> TrainConfig:
    """Solve MiniGrid-MemoryS7 with an LSTM: look at a hint, walk away, and choose the object that matches it.

    The choice is an exclusive or of what is remembered and what is seen: the MLP after the memory computes it. The
    value of looking shows late, so the discount is long, and exploration is kept up while it falls in a line.
    """
    return TrainConfig(
        env=GymConfig(id="MiniGrid-MemoryS7-v0"),
        memory=LSTMConfig(width=64, mlp=2),
        ppo=PPOConfig(
            rows=256,
            window=32,
            epochs=4,
            minibatches=4,
            learning_rate=1e-3,
            gamma=0.995,
            entropy_weight=0.03,
            value_weight=1.0,
        ),
        evaluation=EvalConfig(every=16, episodes=100, stop_at=0.95),
        steps=2_000_000,
    )


def dark_key_to_door_memo() -> TrainConfig:
    """Learn to search a dark room once and to remember what was found, with Memo; for a GPU, some minutes.

    A window holds the whole trial, so a summary is judged by all that is read from it, and nothing in memory is stale:
    with windows of two segments the same agent learns several times slower. A segment is as long as an episode, and its
    summary an eighth of that. Credit reaches over few steps: it learns faster and ends higher than over more
    (eval/RESULTS.md). How long segments and summaries were in the paper's runs of this task (arXiv 2510.19732) is not
    told.
    """
    return TrainConfig(
        env=DarkKeyToDoorConfig(),
        memory=MemoConfig(width=128, depth=2, heads=4, mlp=4, segment=50, summaries=6, sets=10),
        ppo=PPOConfig(
            rows=512,
            window=500,
            epochs=4,
            minibatches=16,
            learning_rate=5e-4,
            gamma=0.98,
            gae_lambda=0.8,
            entropy_weight=0.01,
            cut_returns=False,
            trial_end="stop",
        ),
        evaluation=EvalConfig(every=20, episodes=256),
        steps=40_000_000,
        device="cuda",
        precision="bfloat16",
    )


def dark_key_to_door_relic() -> TrainConfig:
    """Learn the dark room with full attention over the trial and ReLIC's recipe of learning; for a GPU.

    Recipe as published (arXiv 2410.02751): learning goes through the trial so far with the newest weights, finished
    episodes change their order, and acting goes on from a memory that the new weights have made. Positions inside the
    episode and the sink with value 0 are ReLIC's too. Trunk of four layers, as Memo's paper has it for this baseline.
    Returns go over the whole trial. Not tuned.
    """
    return TrainConfig(
        env=DarkKeyToDoorConfig(),
        memory=TransformerConfig(width=256, depth=4, heads=8, mlp=4, context=500, sink="kv0", positions="episode"),
        ppo=PPOConfig(
            rows=512,
            window=100,
            recompute=500,
            shuffle=True,
            epochs=2,
            minibatches=4,
            learning_rate=3e-4,
            gamma=0.99,
            entropy_weight=0.01,
            cut_returns=False,
        ),
        evaluation=EvalConfig(every=20, episodes=256),
        steps=60_000_000,
        device="cuda",
        precision="bfloat16",
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "dark-key-to-door-memo": dark_key_to_door_memo,
    "dark-key-to-door-relic": dark_key_to_door_relic,
    "endless-tmaze-lstm": endless_tmaze_lstm,
    "minigrid-memory-lstm": minigrid_memory_lstm,
}

FAMILIES: dict[str, Callable[[str], TrainConfig]] = {
    "endless-tmaze": rewriting.endless_tmaze,
    "color-cubes-trivial": rewriting.color_cubes_trivial,
    "color-cubes-medium": rewriting.color_cubes_medium,
    "color-cubes-extreme": rewriting.color_cubes_extreme,
    "object-nav": embodied.object_nav,
    "object-nav-mask": embodied.object_nav_mask,
    "object-nav-revisit": embodied.object_nav_revisit,
}
"""Recipes for any memory: `FAMILY-MEMORY` names one, as `color-cubes-medium-gru`. `RECIPES` come first."""


def names() -> list[str]:
    """Return the names of all recipes, those of families with every memory that there is."""
    of_families = [f"{family}-{memory}" for family in FAMILIES for memory in MEMORIES]
    return list(dict.fromkeys([*RECIPES, *of_families]))


def recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe, one of `names()`."""
    if name in RECIPES:
        return RECIPES[name]()
    # The longest, since one family's name can begin with that of another.
    family = max((family for family in FAMILIES if name.startswith(f"{family}-")), key=len)
    return FAMILIES[family](name.removeprefix(f"{family}-"))
