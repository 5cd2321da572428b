"""The training loop: the seed decides, a stopped run goes on bit for bit, and what goes wrong leaves a checkpoint."""

import errno
import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch

from mnemic.agents.checkpoint import load_policy
from mnemic.memory import MEMORIES, make_config
from mnemic.train import loop
from mnemic.train.config import EvalConfig, PPOConfig, TrainConfig
from mnemic.train.log import LAYOUT
from mnemic.train.loop import train
from mnemic.train.ppo import DivergedError
from mnemic.train.run import RunFolder, Training

PPO = PPOConfig(rows=6, window=7, minibatches=2, epochs=2)


def tiny(toys, **options):
    """Six updates of the toy task, with a checkpoint after each."""
    given = {
        "env": toys.LightConfig(),
        "memory": make_config("gru", width=8),
        "ppo": PPO,
        "evaluation": EvalConfig(every=2),
        "steps": 6 * PPO.batch_steps,
        "checkpoint_seconds": 0.0,
    }
    return TrainConfig(**given | options)


def run(path, config, evaluate, **options):
    """Train in a new folder, or in the one that is there."""
    folder = RunFolder(path) if path.exists() else RunFolder.create(path, config)
    return train(config, folder, evaluate, quiet=True, **options)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Syncing guards against a loss of power, which no test of this file plays."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def unstopped(toys, tmp_path_factory):
    """The bits and the metrics of a run that was never stopped, by its configuration."""
    seen = {}

    def bits_and_metrics(config):
        if config not in seen:
            path = tmp_path_factory.mktemp("whole") / "run"
            run(path, config, toys.constant_evaluation)
            seen[config] = toys.checkpoint_bits(path), toys.metrics(path)
        return seen[config]

    return bits_and_metrics


class Killed(Exception):
    """Stands for a kill: the loop does not know it."""


def stopped_and_resumed(path, config, evaluate, updates):
    """Stop a run inside its update of that number, as late as a kill can come, and resume it."""
    seen = 0

    def killing(self, steps, figures):
        nonlocal seen
        seen += 1
        if seen == updates:
            raise Killed
        return write(self, steps, figures)

    write, loop.Log.write = loop.Log.write, killing
    try:
        with pytest.raises(Killed):
            run(path, config, evaluate)
    finally:
        loop.Log.write = write
    assert int(RunFolder(path).last().name) == (updates - 1) * config.ppo.batch_steps
    return run(path, config, evaluate, resume=True)


def test_the_seed_decides_everything(toys, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, tiny(toys, seed=seed), toys.constant_evaluation)
    a, b, c = (toys.checkpoint_bits(tmp_path / name) for name in "abc")
    assert a == b
    weight = "policy.encoder.layers.0.weight"
    assert a[weight] != c[weight]
    assert toys.metrics(tmp_path / "a") == toys.metrics(tmp_path / "b")
    assert toys.metrics(tmp_path / "a") != toys.metrics(tmp_path / "c")


@pytest.mark.parametrize("updates", [1, 4, 6])
@pytest.mark.parametrize("trial_steps", [0, 9], ids=["one episode", "many episodes"])
def test_a_resumed_run_ends_with_the_same_bits(toys, tmp_path, unstopped, updates, trial_steps):
    config = tiny(toys, env=toys.LightConfig(trial_steps=trial_steps))
    result = stopped_and_resumed(tmp_path / "parts", config, toys.constant_evaluation, updates)
    assert (result.why, result.steps, result.figures) == ("done", config.steps, {"success": 0.5, "return": 1.0})
    assert (toys.checkpoint_bits(tmp_path / "parts"), toys.metrics(tmp_path / "parts")) == unstopped(config)
    assert len(toys.metrics(tmp_path / "parts")) == 6


@pytest.mark.parametrize("memory", sorted(MEMORIES))
def test_with_every_core(toys, tmp_path, unstopped, memory):
    config = tiny(toys, memory=make_config(memory), steps=3 * PPO.batch_steps)
    stopped_and_resumed(tmp_path / "parts", config, toys.constant_evaluation, 3)
    assert (toys.checkpoint_bits(tmp_path / "parts"), toys.metrics(tmp_path / "parts")) == unstopped(config)


def test_with_a_critic_of_its_own(toys, tmp_path, unstopped):
    config = tiny(toys, separate_critic=True, steps=3 * PPO.batch_steps)
    stopped_and_resumed(tmp_path / "parts", config, toys.constant_evaluation, 3)
    assert (toys.checkpoint_bits(tmp_path / "parts"), toys.metrics(tmp_path / "parts")) == unstopped(config)
    assert load_policy(RunFolder(tmp_path / "parts").last() / "policy").separate_critic
    assert "memory/gate_critic.0.reset" in toys.metrics(tmp_path / "parts")[-1]


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(toys, tmp_path, unstopped):
    config = tiny(toys)
    RunFolder.create(tmp_path / "parts", config)
    run(tmp_path / "parts", config, toys.constant_evaluation, resume=True)
    assert toys.checkpoint_bits(tmp_path / "parts") == unstopped(config)[0]


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew(toys, tmp_path):
    """It would wipe what was logged."""
    import shutil

    run(tmp_path / "run", tiny(toys), toys.constant_evaluation)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        run(tmp_path / "run", tiny(toys), toys.constant_evaluation, resume=True)
    assert len(toys.metrics(tmp_path / "run")) == 6


def test_resuming_a_finished_run_changes_nothing(toys, tmp_path):
    config = tiny(toys)
    run(tmp_path / "run", config, toys.constant_evaluation)
    before, metrics = toys.checkpoint_bits(tmp_path / "run"), toys.metrics(tmp_path / "run")
    result = run(tmp_path / "run", config, toys.constant_evaluation, resume=True)
    assert (result.why, result.figures) == ("done", {"success": 0.5, "return": 1.0})
    assert toys.checkpoint_bits(tmp_path / "run") == before
    assert toys.metrics(tmp_path / "run") == metrics


def test_a_solved_task_ends_the_run_once_it_is_confirmed(toys, tmp_path):
    """The first look that passes is not confirmed; the second is. A solved run stays solved when it is resumed."""
    asked, answers = [], iter([0.8, 0.95, 0.85, 0.95, 0.93])

    def evaluate(policy, *, episodes, seed):
        asked.append((episodes, seed))
        return {"success": next(answers), "return": 0.0}

    options = EvalConfig(every=1, episodes=10, stop_at=0.9, confirm_episodes=50)
    config = tiny(toys, evaluation=options)
    result = run(tmp_path / "run", config, evaluate)
    assert [episodes for episodes, _ in asked] == [10, 10, 50, 10, 50]
    assert len({seed for _, seed in asked}) == 5
    assert (result.why, result.steps) == ("solved", 3 * PPO.batch_steps)
    assert result.figures == {"success": 0.93, "return": 0.0, "solved": 1.0}
    before = toys.checkpoint_bits(tmp_path / "run")
    again = run(tmp_path / "run", config, evaluate, resume=True)
    assert (again.why, again.figures) == (result.why, result.figures)
    assert toys.checkpoint_bits(tmp_path / "run") == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(toys, tmp_path, unstopped, number):
    """After the update in flight; and then the signal means again what it meant before."""

    def evaluate(policy, *, episodes, seed):
        os.kill(os.getpid(), number)
        return {"success": 0.5, "return": 1.0}

    before = signal.getsignal(number)
    config = tiny(toys, checkpoint_seconds=1e9)
    result = run(tmp_path / "parts", config, evaluate)
    assert (result.why, result.steps) == ("interrupted", 2 * PPO.batch_steps)
    assert RunFolder(tmp_path / "parts").last().name == str(result.steps)
    assert signal.getsignal(number) is before
    run(tmp_path / "parts", config, toys.constant_evaluation, resume=True)
    assert (toys.checkpoint_bits(tmp_path / "parts"), toys.metrics(tmp_path / "parts")) == unstopped(config)


def test_a_second_signal_is_immediate(toys, tmp_path):
    def evaluate(policy, *, episodes, seed):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", tiny(toys), evaluate)
    load_policy(RunFolder(tmp_path / "run").last() / "policy")


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(toys, tmp_path, monkeypatch):
    learn, calls = loop.learn, 0

    def poisoned(config, policy, optimizer, window, *rest, **options):
        nonlocal calls
        calls += 1
        if calls == 3:
            window.reward_next[0, 0] = math.nan
        return learn(config, policy, optimizer, window, *rest, **options)

    monkeypatch.setattr(loop, "learn", poisoned)
    with pytest.raises(DivergedError, match=r"after 84 steps: the loss is nan .* checkpoint is .*checkpoints/84$"):
        run(tmp_path / "run", tiny(toys), toys.constant_evaluation)
    policy = load_policy(RunFolder(tmp_path / "run").last() / "policy")
    assert all(torch.isfinite(part).all() for part in policy.parameters())


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(toys, tmp_path, unstopped, monkeypatch):
    def evaluate(policy, *, episodes, seed):
        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        return {}

    config = tiny(toys)
    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path / "parts", config, evaluate)
    monkeypatch.undo()
    assert RunFolder(tmp_path / "parts").last().name == str(PPO.batch_steps)
    run(tmp_path / "parts", config, toys.constant_evaluation, resume=True)
    assert toys.checkpoint_bits(tmp_path / "parts") == unstopped(config)[0]


SINGLE = {
    *(f"charts/{name}" for name in ("episodic_return", "episodic_length", "success", "sps")),
    *(f"losses/{name}" for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")),
    *(f"losses/{name}" for name in ("explained_variance", "grad_norm", "passes", "learning_rate")),
    *(f"eval/{name}" for name in ("return", "success")),
    *(f"time/{name}" for name in ("acting_seconds", "learning_seconds")),
    *(f"memory/{name}" for name in ("bytes_per_row", "state_rms_0.hidden", "gate_0.reset", "gate_0.update")),
}
TRIAL = {
    *(f"trial/{name}" for name in ("return", "gain", "success_gain")),
    *(f"trial/{name}_episode_{place}" for name in ("return", "success") for place in range(3)),
}


@pytest.mark.parametrize(("trial_steps", "expected"), [(0, SINGLE), (9, SINGLE | TRIAL)], ids=["single", "trials"])
def test_the_tags_are_those_of_the_design(toys, tmp_path, trial_steps, expected):
    """All of them at environment steps, none twice, also after a resume."""
    config = tiny(toys, env=toys.LightConfig(trial_steps=trial_steps))
    stopped_and_resumed(tmp_path / "run", config, toys.constant_evaluation, 4)
    events = toys.events(tmp_path / "run")
    tags = set(events.Tags()["scalars"])
    places = {tag for tag in tags if "_episode_" in tag}
    assert tags - places == expected - places
    assert expected <= tags
    updates = [PPO.batch_steps * (update + 1) for update in range(6)]
    for tag in tags - TRIAL - places:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == (updates[1::2] if tag.startswith("eval/") else updates), tag
    logged = {line["steps"]: line["losses/value_loss"] for line in toys.metrics(tmp_path / "run")}
    assert {e.step: e.value for e in events.Scalars("losses/value_loss")} == pytest.approx(logged)


def test_a_run_killed_before_its_first_update_was_saved_shows_no_step_twice(toys, tmp_path):
    config = tiny(toys, checkpoint_seconds=1e9)
    seen = 0

    def evaluate(policy, *, episodes, seed):
        nonlocal seen
        seen += 1
        if seen == 2:
            raise Killed
        return {}

    with pytest.raises(Killed):
        run(tmp_path / "run", config, evaluate)
    assert RunFolder(tmp_path / "run").last().name == "0"
    run(tmp_path / "run", config, toys.constant_evaluation, resume=True)
    steps = [event.step for event in toys.events(tmp_path / "run").Scalars("charts/sps")]
    assert steps == [PPO.batch_steps * (update + 1) for update in range(6)]


def test_the_dashboard_gets_the_configuration_and_a_layout(toys, tmp_path):
    from tensorboard.plugins.custom_scalar import layout_pb2

    config = tiny(toys)
    run(tmp_path / "run", config, toys.constant_evaluation)
    events = toys.events(tmp_path / "run")
    card = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    lines = [line.removeprefix("    ") for line in card.splitlines()]
    assert json.loads("\n".join(lines)) == json.loads(json.dumps(config.to_dict()))
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    titles = [chart.title for chart in layout.category[0].chart]
    assert titles == list(LAYOUT["mnemic"])
    assert titles[0] == "return"


def test_the_last_update_is_learned_and_logged_when_steps_do_not_divide(toys, tmp_path):
    config = replace(tiny(toys), steps=2 * PPO.batch_steps + 1, evaluation=EvalConfig(every=0))
    result = run(tmp_path / "run", config, toys.constant_evaluation)
    assert (result.steps, result.figures) == (3 * PPO.batch_steps, {})
    rates = [line["losses/learning_rate"] for line in toys.metrics(tmp_path / "run")]
    assert rates == pytest.approx([1e-3, 1e-3 * 2 / 3, 1e-3 / 3])


def test_the_learning_rate_warms_up_over_the_steps_it_is_told(toys, tmp_path):
    """Two windows and a half: at the end of the first, 0.4 of them are done."""
    ppo = replace(PPO, warmup_steps=5 * PPO.batch_steps // 2, schedule="constant")
    run(tmp_path / "run", tiny(toys, ppo=ppo, steps=4 * PPO.batch_steps), toys.constant_evaluation)
    rates = [line["losses/learning_rate"] for line in toys.metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.4e-3, 0.8e-3, 1e-3, 1e-3])


def test_weights_decay_by_themselves(toys):
    """Beside the step of Adam, each weight loses learning rate times decay of itself."""
    weights = []
    for decay in (0.0, 0.5):
        ppo = replace(PPO, epochs=1, minibatches=1, weight_decay=decay, schedule="constant", learning_rate=0.01)
        training = Training(tiny(toys, ppo=ppo))
        before = torch.cat([part.detach().flatten().clone() for part in training.policy.parameters()])
        loop.update(training)
        weights.append(torch.cat([part.detach().flatten() for part in training.policy.parameters()]))
    plain, decayed = weights
    torch.testing.assert_close(decayed, plain - 0.01 * 0.5 * before, rtol=1e-5, atol=1e-6)
