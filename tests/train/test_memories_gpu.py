"""Graphs of cores that are told of episodes, or that draw: what is recorded is what single steps do."""

from dataclasses import replace

import pytest
import torch

from mnemic.envs import make_config as make_env
from mnemic.memory import make_config
from mnemic.memory.core import map_state, parts
from mnemic.train.capture import LearningGraph
from mnemic.train.loop import act, update
from mnemic.train.recipes import endless_tmaze_lstm
from mnemic.train.run import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small(memory, **options):
    config = endless_tmaze_lstm()
    ppo = replace(config.ppo, rows=64, window=32, minibatches=2, epochs=2)
    env = make_env("dark-key-to-door", size=3, episode_steps=7, trial_steps=20)
    return replace(config, env=env, device="cuda", precision="float32", ppo=ppo, memory=memory, **options)


@pytest.mark.parametrize("separate_critic", [False, True])
def test_where_episodes_begin_is_recorded_too(separate_critic):
    """Acting to the last digits, then three updates; nothing of it is refused."""
    memory = make_config("transformer", width=32, context=20, positions="episode", episode_positions=7, sink="kv0")
    windows, weights = [], []
    for capture in (True, False):
        training = Training(small(memory, capture=capture, separate_critic=separate_critic))
        windows.append(map_state(torch.clone, act(training)._replace(memory=())))
        for _ in range(3):
            update(training)
        assert isinstance(training.graphs._learning, LearningGraph) is capture
        weights.append(torch.cat([part.detach().flatten() for part in training.policy.parameters()]))
    found = parts(windows[0])
    for name, part in parts(windows[1]).items():
        torch.testing.assert_close(found[name], part, rtol=1e-4, atol=1e-4, msg=name)
    assert (weights[0] - weights[1]).norm() < 1e-3 * weights[1].norm()


def test_every_replay_draws_which_layers_take_part():
    memory = make_config("gru", width=32, depth=6, residual="add", depth_dropout=0.5)
    core = memory.build().cuda().train()
    x, start = torch.randn(8, 4, 32, device="cuda"), torch.zeros(8, 4, dtype=torch.bool, device="cuda")
    with torch.no_grad():
        state = core.initial_state(4)
        core.unroll(x, state, start)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = core.unroll(x, state, start)

    def replays():
        torch.manual_seed(0)
        seen = []
        for _ in range(5):
            graph.replay()
            seen.append(y.clone())
        return torch.stack(seen)

    first = replays()
    assert len(first.flatten(1).unique(dim=0)) > 1
    assert torch.equal(replays(), first)


@pytest.mark.parametrize(("jitter", "recorded"), [(0.0, True), (0.2, False)])
def test_depth_dropout_is_recorded_and_drawn_segments_are_not(jitter, recorded):
    memory = make_config("memo", width=32, segment=10, summaries=2, depth_dropout=0.2, segment_jitter=jitter)
    training = Training(small(memory, capture=True))
    for _ in range(2):
        update(training)
    assert isinstance(training.graphs._learning, LearningGraph) is recorded
