"""Training on a GPU: the tasks of the CPU, a policy that a CPU can load, and graphs that do what single steps do."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from mnemic.agents.checkpoint import load_policy
from mnemic.envs import make_config as make_env
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.trials import TrialsConfig
from mnemic.eval.protocol import evaluate
from mnemic.kernels import backend
from mnemic.memory import MEMORIES, make_config
from mnemic.memory.core import map_state, parts
from mnemic.train.capture import ActingGraph, LearningGraph, StepGraph
from mnemic.train.episodes import EpisodeMeter, means
from mnemic.train.loop import act, improve, train, update
from mnemic.train.ppo import DivergedError
from mnemic.train.recipes import endless_tmaze_lstm
from mnemic.train.run import RunFolder, Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def no_preferences():
    """A run may ask for backends; the next test has not asked."""
    yield
    backend.prefer([])


def small(**options):
    config = endless_tmaze_lstm()
    ppo = replace(config.ppo, rows=64, window=32, minibatches=2, epochs=2)
    given = {"device": "cuda", "precision": "float32", "ppo": ppo, "memory": make_config("gru", width=32)}
    return replace(config, **given | options)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("memory", [name for name in MEMORIES if name != "none"])
@pytest.mark.filterwarnings("ignore:.*cannot be recorded:RuntimeWarning")
def test_a_run_on_a_gpu_learns(tmp_path, memory, precision):
    config = endless_tmaze_lstm()
    config = replace(
        config,
        memory=make_config(memory),
        device="cuda",
        precision=precision,
        steps=80 * config.ppo.batch_steps,
        evaluation=replace(config.evaluation, stop_at=0.0, every=0),
    )
    folder = RunFolder.create(tmp_path / "run", config)
    train(config, folder, partial(evaluate, env_config=config.env), quiet=True)
    policy = load_policy(folder.last() / "policy", "cpu")
    assert evaluate(policy, config.env, episodes=256, seed=1)["success"] > 0.5  # chance is 0.125


def test_the_first_tasks_are_those_of_the_cpu():
    config = endless_tmaze_lstm()
    on = {device: Training(replace(config, device=device)).acting.inputs.obs.cpu() for device in ("cpu", "cuda")}
    assert torch.equal(on["cpu"], on["cuda"])


@pytest.mark.parametrize(
    ("memory", "options"),
    [
        *((memory, {}) for memory in ("gru", "transformer", "memo")),
        *((memory, {"separate_critic": True}) for memory in ("lstm", "memo")),
        ("gru", {"compile": True}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own parts
def test_recorded_acting_is_acting(memory, options):
    """Bit for bit in what the environments say, and to the last digits in what the policy thinks.

    In a task whose episodes and trials are truncated by clocks that are not in step.
    """
    env = make_env("dark-key-to-door", size=3, episode_steps=7, trial_steps=20)
    windows = []
    for capture in (True, False):
        training = Training(small(capture=capture, env=env, memory=make_config(memory, width=32), **options))
        windows.append([map_state(torch.clone, act(training)) for _ in range(3)])
        kind = StepGraph if training.policy.core.settles else ActingGraph
        assert isinstance(training.graphs._acting, kind) is capture
        assert ("_move_rows" in vars(training.env)) is (capture and "compile" in options)
    cut = windows[1][-1].truncated_next
    assert (cut & windows[1][-1].trial_over_next).any()
    assert (cut & ~windows[1][-1].trial_over_next).any()
    for recorded, plain in zip(*windows, strict=True):
        # What no one reads may differ in a memory that is written in place.
        found = parts(recorded._replace(memory=()))
        for name, part in parts(plain._replace(memory=())).items():
            if part.is_floating_point():
                torch.testing.assert_close(found[name], part, rtol=1e-4, atol=1e-4, msg=name)
            else:
                assert torch.equal(found[name], part), name


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_replays_do_not_wait_for_the_host():
    training = Training(small())
    act(training)
    torch.cuda.set_sync_debug_mode("error")
    try:
        first = act(training).action.clone()
        second = act(training).action
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(first, second)


@pytest.mark.parametrize("memory", ["gru", "memo"])
def test_what_the_task_hides_is_asked_in_graphs_too(memory):
    """Recorded as a window and step by step, the same is asked and answered as without a recording."""
    said, asked = [], []
    for capture in (True, False):
        config = small(capture=capture, memory=make_config(memory, width=32))
        training = Training(replace(config, ppo=replace(config.ppo, recall_weight=0.5)))
        asked.append(map_state(torch.clone, act(training).hidden))
        said.append([update(training) for _ in range(3)])
        assert (training.graphs._acting is not None) is capture
    recorded, plain = (parts(hidden) for hidden in asked)
    assert recorded.keys() == plain.keys() == {"cue.value", "cue.told", "cue.turn"}
    assert all(torch.equal(part, plain[name]) for name, part in recorded.items())
    for recorded, plain in zip(*said, strict=True):
        assert recorded["losses/recall"] == pytest.approx(plain["losses/recall"], rel=1e-3)


@pytest.mark.parametrize("memory", ["gru", "lstm", "transformer", "aaren"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_recorded_learning_is_learning(memory, precision):
    said, weights = [], []
    for capture in (True, False):
        memory_config = make_config(memory, width=32)
        training = Training(small(capture=capture, precision=precision, memory=memory_config))
        said.append([update(training) for _ in range(3)])
        weights.append(torch.cat([part.detach().flatten() for part in training.policy.parameters()]))
        assert isinstance(training.graphs._learning, LearningGraph) is capture
    loose = 1e-4 if precision == "float32" else 3e-2
    for recorded, plain in zip(*said, strict=True):
        assert recorded.keys() == plain.keys()
        for tag in ("losses/learning_rate", "losses/passes"):
            assert recorded[tag] == plain[tag]
        assert recorded["losses/value_loss"] == pytest.approx(plain["losses/value_loss"], rel=loose)
    assert (weights[0] - weights[1]).norm() < loose * weights[1].norm()


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("memory", ["gru", "transformer", "memo"])
def test_acting_goes_on_from_a_refreshed_memory(memory, capture):
    """As after a pass from nothing with the new weights, over episodes that have changed their order."""
    env = make_env("dark-key-to-door", size=3, episode_steps=7, trial_steps=96)
    options = {"context": 96} if memory == "transformer" else {}
    config = small(capture=capture, env=env, memory=make_config(memory, width=32, **options))
    training = Training(replace(config, ppo=replace(config.ppo, recompute=96, shuffle=True, learning_rate=1e-2)))
    window = act(training)
    for steps in (32, 64):
        assert improve(training, window)["recomputed_steps"] == steps - 32
        history, policy = training.history, training.policy
        memory_now, values = policy.initial_memory(64), []
        with torch.no_grad():
            for t in range(steps):
                output, memory_now = policy.step(map_state(lambda part, t=t: part[t], history.inputs), memory_now)
                values.append(output.value)
            want = policy.step(training.acting.inputs, memory_now)[0].value
        torch.testing.assert_close(history.value, torch.stack(values), rtol=1e-3, atol=1e-3)
        window = act(training)
        torch.testing.assert_close(window.value[0], want, rtol=1e-3, atol=1e-3)
    improve(training, window)
    assert training.history is None


def test_a_loss_that_is_no_number_leaves_the_policy():
    training = Training(small())
    update(training)
    before = {name: part.clone() for name, part in training.policy.state_dict().items()}
    window = act(training)
    window.reward_next[3, 2] = math.nan
    with pytest.raises(DivergedError, match="the loss is nan"):
        improve(training, window)
    assert all(torch.equal(part, before[name]) for name, part in training.policy.state_dict().items())


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path):
    """Its graphs are its own; where acting goes on from, weights and draws are those of the checkpoint."""
    config = small()
    training = Training(config)
    for _ in range(2):
        update(training)
    folder = RunFolder.create(tmp_path / "run", config)
    checkpoint = folder.save(training, 1)
    want = map_state(torch.clone, act(training))
    for once_before in (False, True):
        resumed = Training(config)
        if once_before:  # then there are graphs already, which have to go on from the checkpoint all the same
            update(resumed)
        resumed.restore(checkpoint)
        window = act(resumed)
        for name, part in parts(want).items():
            assert torch.equal(parts(window)[name], part), name
        improve(resumed, window)
        assert resumed.optimizer.state[resumed.policy.out.weight]["step"].item() == 3 * 4


@pytest.mark.parametrize("env", [EndlessTMazeConfig(), TrialsConfig(task=EndlessTMazeConfig(), steps=40)], ids=str)
def test_episodes_are_metered_on_the_device(env):
    training = Training(small(env=env))
    here, there = (EpisodeMeter(64, training.env.cut_below) for _ in range(2))
    for _ in range(4):
        window = act(training)
        on_cpu: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.cpu
        said = [meter.update(seen).totals() for meter, seen in ((here, window), (there, map_state(on_cpu, window)))]
        assert means(said[:1]) == pytest.approx(means(said[1:]), rel=1e-12)
    assert here.state["episode_return"].is_cuda


# What tried to record left its nodes on another stream; torch says so, and waits for them.
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match:UserWarning")
def test_what_cannot_be_recorded_says_so_and_runs():
    training = Training(small(kernels=("rnn=loop",)))  # it looks at which rows start
    with pytest.warns(RuntimeWarning, match=r"learning cannot be recorded .*kernels\.rnn\.loop, line \d+, waits"):
        update(training)
    assert training.graphs._learning is None
    update(training)  # and says it once
    torch.rand(4, generator=training.sampling, device="cuda")
