"""Configurations: they survive config.json, and refuse what cannot be run."""

import dataclasses
import json

import pytest

from mnemic.agents.encoder import EncoderConfig
from mnemic.envs import ENVS
from mnemic.envs import make_config as make_env
from mnemic.memory import MEMORIES
from mnemic.memory import make_config as make_memory
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.recipes import names, recipe

NATIVE = sorted(name for name in ENVS if name != "gym")


def again(config):
    """Through JSON and back."""
    return TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))


@pytest.mark.parametrize("name", [*NATIVE, "gym:MiniGrid-MemoryS7-v0"])
def test_every_environment_comes_back(name):
    config = TrainConfig(env=make_env(name))
    assert again(config) == config


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_every_memory_comes_back(name):
    config = TrainConfig(memory=make_memory(name))
    assert again(config) == config


@pytest.mark.parametrize("name", names())
def test_every_recipe_comes_back(name):
    assert again(recipe(name)) == recipe(name)


def test_recipes_of_a_family_differ_in_their_memory_alone():
    lstm, gru = recipe("color-cubes-extreme-lstm"), recipe("color-cubes-extreme-gru")
    assert (lstm.memory.name, gru.memory.name) == ("lstm", "gru")
    assert dataclasses.replace(lstm, memory=gru.memory) == gru
    assert lstm.env.preset == "extreme"
    # A recipe that was tuned by hand comes before its family.
    assert recipe("endless-tmaze-lstm").ppo.window == 16


@pytest.mark.parametrize("memory", sorted(MEMORIES))
def test_object_navigation_is_learned_with_any_memory(memory):
    config = recipe(f"object-nav-{memory}")
    env = config.env.resolved()
    assert (config.memory.name, config.memory.width, env.split, env.houses) == (memory, 256, "train", 1024)
    if memory in ("transformer", "memo"):  # a window is a trial, and all of it is in reach
        assert config.ppo.window == env.trial_steps
        assert config.memory.build().context_entries(1023) == (1023 if memory == "transformer" else 7 * 16 + 127)


def test_the_recipe_with_a_mask_is_for_a_cpu():
    config = recipe("object-nav-mask-memo")
    assert (config.device, config.env.sensors, config.env.pose) == ("cpu", "depth,mask", "trial")
    assert config.ppo.window == config.env.trial_steps == config.memory.segment * config.memory.sets
    assert recipe("object-nav-mask-gru").ppo.window == 64


def test_the_recipe_of_what_is_sought_again_asks_the_memory():
    config, gru = recipe("object-nav-revisit-memo"), recipe("object-nav-revisit-gru")
    assert config.device == "cuda"
    assert (config.env.kinds, config.env.min_rooms, config.env.episode_steps) == (4, 6, 60)
    assert config.ppo.window == config.env.trial_steps
    assert (config.memory.width, gru.memory.width, gru.ppo.window) == (128, 256, 128)
    assert config.ppo.recall_weight == gru.ppo.recall_weight == 0.3


OTHER = {
    EncoderConfig: {
        "previous_action": False,
        "previous_reward": False,
        "episode_flag": False,
        "layers": 3,
        "hidden": 7,
        "whole_grid": True,
        "channels": 5,
        "net": "resnet18",
        "backbone": "eyes:open",
    },
    PPOConfig: {
        "clip": 0.1,
        "value_clip": 0.3,
        "value_weight": 0.7,
        "entropy_weight": 0.02,
        "normalise_advantage": False,
        "rows": 30,
        "window": 9,
        "epochs": 7,
        "minibatches": 5,
        "learning_rate": 1 / 3,
        "accumulate": 5,
        "schedule": "cosine",
        "final_learning_rate": 1e-7,
        "warmup_steps": 1000,
        "adam_epsilon": 1e-9,
        "weight_decay": 0.1,
        "max_grad_norm": 11.0,
        "gamma": 0.1 + 0.2,
        "gae_lambda": 0.5,
        "cut_returns": False,
        "trial_end": "stop",
        "refresh": False,
        "target_kl": 0.01,
        "recall_weight": 0.3,
        "recall": ("target",),
        "wait_for": 0.6,
    },
    EvalConfig: {"every": 3, "episodes": 5, "stop_at": 0.9, "confirm_episodes": 6},
    TrainConfig: {
        "steps": 12,
        "init": "runs/before",
        "seed": 2**63 - 1,
        "device": "cuda:1",
        "threads": 3,
        "precision": "bfloat16",
        "capture": False,
        "compile": True,
        "separate_critic": True,
        "kernels": ("rnn=reference", "gae=reference"),
        "checkpoint_seconds": 1.5,
        "keep_checkpoints": 7,
        "env": make_env("endless-tmaze", length=9),
        "memory": make_memory("gru", depth=2),
    },
}


HISTORY = {"recompute": 100, "shuffle": True, "full_update": True}  # these need each other, and other values above


def test_no_field_is_lost():
    """Every field has a value here that is not its default, and that value comes back."""
    parts = {}
    for cls, name in ((EncoderConfig, "encoder"), (PPOConfig, "ppo"), (EvalConfig, "evaluation")):
        parts[name] = cls(**OTHER[cls])
    config = TrainConfig(**OTHER[TrainConfig], **parts)
    default = TrainConfig()
    for cls, name in ((EncoderConfig, "encoder"), (PPOConfig, "ppo"), (EvalConfig, "evaluation")):
        for field in dataclasses.fields(cls):
            if field.name not in HISTORY:
                assert getattr(parts[name], field.name) != getattr(getattr(default, name), field.name), field.name
    for field in dataclasses.fields(TrainConfig):
        assert getattr(config, field.name) != getattr(default, field.name), field.name
    assert again(config) == config
    ppo = PPOConfig(**HISTORY)
    assert all(getattr(ppo, name) != getattr(PPOConfig(), name) for name in HISTORY)
    assert again(TrainConfig(ppo=ppo)).ppo == ppo


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPOConfig(rows=0), "ppo: rows is 0; it must be at least 1"),
        (lambda: PPOConfig(window=0), "ppo: window is 0; it must be at least 1"),
        (lambda: PPOConfig(epochs=0), "ppo: epochs is 0; it must be at least 1"),
        (lambda: PPOConfig(minibatches=-1), "ppo: minibatches is -1; it must be at least 1"),
        (lambda: PPOConfig(rows=10), "ppo: 10 rows do not divide into 4 minibatches; make rows a multiple"),
        (lambda: PPOConfig(gamma=1.01), "ppo: gamma is 1.01; it must lie in 0..1"),
        (lambda: PPOConfig(gae_lambda=-0.1), "ppo: gae_lambda is -0.1; it must lie in 0..1"),
        (lambda: PPOConfig(gamma=float("nan")), "ppo: gamma is nan; it must lie in 0..1"),
        (lambda: PPOConfig(learning_rate=0), "ppo: learning_rate is 0; it must be above 0"),
        (lambda: PPOConfig(learning_rate=float("nan")), "ppo: learning_rate is nan; it must be above 0"),
        (lambda: PPOConfig(clip=0), "ppo: clip is 0; it must be above 0"),
        (lambda: PPOConfig(max_grad_norm=0), "ppo: max_grad_norm is 0; it must be above 0"),
        (lambda: PPOConfig(value_clip=-1), "ppo: value_clip is -1; it must be at least 0"),
        (lambda: PPOConfig(target_kl=-1), "ppo: target_kl is -1; it must be at least 0"),
        (lambda: PPOConfig(wait_for=0), "ppo: wait_for is 0; it must be above 0 and at most 1"),
        (lambda: PPOConfig(wait_for=1.5), "ppo: wait_for is 1.5; it must be above 0 and at most 1"),
        (lambda: PPOConfig(schedule="slow"), "ppo: schedule is 'slow'; choose one of constant, linear, cosine"),
        (lambda: PPOConfig(trial_end="never"), "ppo: trial_end is 'never'; choose one of bootstrap, stop"),
        (lambda: PPOConfig(accumulate=0), "ppo: accumulate is 0; it must be at least 1"),
        (lambda: PPOConfig(accumulate=3), "ppo: 4 minibatches do not divide into steps of 3; make minibatches a mult"),
        (lambda: PPOConfig(warmup_steps=-1), "ppo: warmup_steps is -1; it must be at least 0"),
        (lambda: PPOConfig(weight_decay=-1), "ppo: weight_decay is -1; it must be at least 0 and finite"),
        (lambda: PPOConfig(recompute=-1), "ppo: recompute is -1; it must be at least 0"),
        (lambda: PPOConfig(shuffle=True), "ppo: shuffle is about steps that are gone through again; set recompute"),
        (lambda: PPOConfig(full_update=True), "ppo: full_update is about steps that are gone through again; set rec"),
        (lambda: PPOConfig(recompute=9, shuffle=True, refresh=False), "ppo: shuffle changes .* it needs refresh"),
        (lambda: PPOConfig(recall_weight=-1), "ppo: recall_weight is -1; it must be at least 0 and finite"),
        (lambda: PPOConfig(recall=("target",)), "ppo: recall is target and recall_weight is 0; set it above 0"),
        (lambda: PPOConfig(recompute=9, shuffle=True, recall_weight=0.5), "ppo: recall_weight is 0.5 with shuffle"),
        (lambda: PPOConfig(recompute=9, wait_for=0.5), "ppo: wait_for is 0.5 and recompute is 9; .* set wait_for to 1"),
        (lambda: EvalConfig(every=-1), "evaluation: every is -1; it must be at least 0"),
        (lambda: EvalConfig(episodes=0), "evaluation: episodes is 0; it must be at least 1"),
        (lambda: EvalConfig(stop_at=95), "evaluation: stop_at is 95; it must lie in 0..1"),
        (lambda: TrainConfig(steps=0), "steps is 0; it must be at least 1"),
        (lambda: TrainConfig(keep_checkpoints=0), "keep_checkpoints is 0; it must be at least 1"),
        (lambda: TrainConfig(checkpoint_seconds=-1), "checkpoint_seconds is -1; it must be at least 0"),
        (lambda: TrainConfig(seed=-1), r"seed is -1; it must lie in 0..2\^63-1"),
        (lambda: TrainConfig(seed=2**63), r"it must lie in 0..2\^63-1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "change",
    [
        lambda found: [],
        lambda found: 5,
        lambda found: None,
        lambda found: {name: part for name, part in found.items() if name != "ppo"},
        lambda found: found | {"colour": "red"},
        lambda found: found | {"ppo": {"speed": 1}},
        lambda found: found | {"ppo": None},
        lambda found: found | {"steps": "many"},
        lambda found: found | {"env": {"name": "nowhere"}},
        lambda found: found | {"env": {}},
        lambda found: found | {"memory": {"name": "elephant"}},
        lambda found: found | {"memory": {"name": "none", "colour": 1}},
        lambda found: found | {"seed": -1},
    ],
)
def test_a_configuration_that_does_not_fit_is_a_value_error(change):
    with pytest.raises(ValueError):
        TrainConfig.from_dict(change(TrainConfig().to_dict()))


def test_the_last_window_may_pass_the_steps():
    ppo = PPOConfig(rows=8, window=4)
    assert ppo.batch_steps == 32
    assert [TrainConfig(ppo=ppo, steps=steps).updates for steps in (1, 32, 33, 64)] == [1, 1, 2, 2]
