"""The settings of object navigation: two recipes for a GPU and an easier one for a CPU, each for any memory.

Of `object_nav` nothing is tuned, and eval/RESULTS.md has no row of it yet. What all rest on:

- **Stops.** Under the papers' rules a stop that finds nothing ends an episode for free, and short runs learned to stop
  at once, always. So training lets an episode go on after such a stop and charges a little for it. Little: a blind stop
  finds something once in 500 times, worth 0.004; at a price of 0.1 a short run unlearned stopping, at 0.01 it did not
  (docs/object_navigation.md); with a mask of the goal it is 0.05. Evaluation is by the papers' rules, in
  other houses (`ObjectNavConfig.validation`).
- **The last reward** is not in the input: it is how much nearer the agent came, a compass that makes up for a memory.
- **Returns** go over the trial and end with it, so finding out where things are is worth what it saves later; with the
  discount, what comes within some hundred steps counts.
- **Windows.** Attention over the whole trial learns from whole trials: what a summary is worth is known then, and
  nothing in memory is stale. Other cores go on from the memory that they have at the start of a window of 64 or 128
  steps.
- **Space.** A window of whole trials has 128 rows in `object_nav`: 1.6 GB of pictures, twice what 1,024 rows of 64
  steps have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from ..agents.encoder import EncoderConfig
from ..envs.object_nav import ObjectNavConfig
from ..memory import make_config
from .config import EvalConfig, PPOConfig, TrainConfig

TRIAL = 1024
"""Steps of a trial."""

OF_CORES: dict[str, dict[str, Any]] = {
    "lstm": {"forget_bias": 3.0},
    "paragru": {"hold": 4.0},
    "paralstm": {"hold": 4.0},
    "aaren": {"residual": "gate"},
    "transformer": {"depth": 2, "heads": 8, "mlp": 4, "context": TRIAL},
    "memo": {"depth": 2, "heads": 8, "mlp": 4, "segment": 128, "summaries": 16, "sets": TRIAL // 128},
    "gtrxl": {"context": 256},
    "slots": {"writes": 3, "forget_bias": 3.0},
}
"""Options of cores that differ from their own defaults here; a core that is not named keeps its own.

Gates that hold begin on the holding side: what is seen is needed hundreds of steps later. Memo keeps an eighth of the
tokens of the full context. GTrXL reaches back a quarter of the trial, which is 0.3 GB for 1,024 rows.
"""

WHOLE_TRIALS = ("transformer", "memo")
"""The cores that learn from whole trials."""


def object_nav(memory: str) -> TrainConfig:
    """Find one thing after another in 1,024 homes, with any memory; for a GPU.

    Raises:
        ValueError: there is no core of that name.
    """
    whole = memory in WHOLE_TRIALS
    return TrainConfig(
        env=ObjectNavConfig(houses=1024, trial_steps=TRIAL, wrong_stop="stays", wrong_reward=-0.01),
        memory=make_config(memory, width=256, **OF_CORES.get(memory, {})),
        encoder=EncoderConfig(net="light", previous_reward=False),
        ppo=PPOConfig(
            rows=128 if whole else 1024,
            window=TRIAL if whole else 64,
            epochs=2,
            minibatches=8,
            learning_rate=3e-4,
            gamma=0.99,
            gae_lambda=0.95,
            entropy_weight=0.02,
            cut_returns=False,
            trial_end="stop",
        ),
        evaluation=EvalConfig(every=50 if whole else 100, episodes=64, confirm_episodes=256),
        steps=200_000_000,
        device="cuda",
        precision="tf32",
    )


def object_nav_mask(memory: str) -> TrainConfig:
    """Find large things in small homes, told where in the picture they are and in coordinates of the trial; for a CPU.

    Seeing and knowing where one is are no longer to be learned, so a GRU finds half of the goals after eight minutes
    (eval/RESULTS.md). A stop that finds nothing costs more than in `object_nav`: with a mask, stops do not die out.

    Raises:
        ValueError: there is no core of that name.
    """
    whole = memory in WHOLE_TRIALS
    of_gpu = object_nav(memory)
    return replace(
        of_gpu,
        env=ObjectNavConfig(
            houses=64,
            max_rooms=4,
            goals="large",
            sensors="depth,mask",
            pose="trial",
            size=32,
            episode_steps=100,
            trial_steps=TRIAL,
            wrong_stop="stays",
            wrong_reward=-0.05,
        ),
        memory=make_config(memory, width=128, **OF_CORES.get(memory, {})),
        ppo=replace(
            of_gpu.ppo, rows=32 if whole else 64, minibatches=16 if whole else 4, learning_rate=7e-4, gamma=0.98
        ),
        evaluation=EvalConfig(every=10 if whole else 80, episodes=64, confirm_episodes=256),
        steps=2_000_000,
        device="cpu",
    )


def object_nav_revisit(memory: str) -> TrainConfig:
    """Look again and again for four kinds of things in homes too large to search in time; for a GPU.

    With 60 steps for each thing one must know where it stands, so it pays to remember: the first stage of the agents of
    eval/RESULTS.md that get better over a trial. While learning, the memory is asked for what it has seen. A second
    stage makes stops sure: `--init` the first with `--env.wrong-stop ends --env.wrong-reward -0.1 --ppo.cut-returns
    --ppo.learning-rate 2.5e-4 --ppo.recall-weight 0.4 --steps 70000000`.

    Raises:
        ValueError: there is no core of that name.
    """
    whole = memory in WHOLE_TRIALS
    of_gpu, of_cpu = object_nav(memory), object_nav_mask(memory)
    smaller = {"mlp": 2} if whole else {}
    env = replace(
        cast(ObjectNavConfig, of_cpu.env),
        houses=1024,
        min_rooms=6,
        max_rooms=8,
        min_start=3.0,
        kinds=4,
        episode_steps=60,
    )
    return replace(
        of_gpu,
        env=env,
        memory=make_config(memory, width=128 if whole else 256, **OF_CORES.get(memory, {}) | smaller),
        ppo=replace(
            of_gpu.ppo,
            rows=512,
            window=TRIAL if whole else 128,
            minibatches=64 if whole else 16,
            learning_rate=5e-4,
            gamma=0.98,
            schedule="constant",
            target_kl=0.04,
            recall_weight=0.3,
        ),
        evaluation=replace(of_gpu.evaluation, every=12 if whole else 100),
        steps=40_000_000,
    )
