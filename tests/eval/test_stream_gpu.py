"""Streams on a GPU: recorded steps are the steps, and a memory of constant size stays flat."""

from dataclasses import replace

import pytest
import torch

from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.policy import Policy
from mnemic.envs import make_config as make_env
from mnemic.eval.stream import play_stream
from mnemic.eval.stream_bench import Trunk, cost_of
from mnemic.memory import make_config
from mnemic.memory.caches import CACHES, make_cache

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TASK = make_env("dark-key-to-door", size=5, episode_steps=10, trial_steps=120)
TRANSFORMER = make_config("transformer", width=32, heads=2, context=128)
MEMO = make_config("memo", width=32, heads=2, segment=8, summaries=2, sets=16)


def policy_for(memory) -> Policy:
    torch.manual_seed(0)
    env = TASK.build(1, 0)
    policy = Policy(EncoderConfig(), memory, env.observation_space, env.action_space).to("cuda").eval()
    with torch.no_grad():
        policy.out.weight.mul_(20)  # so that the likeliest action does not hang on rounding
    return policy


@pytest.mark.parametrize("memory", [make_config("gru", width=32), TRANSFORMER, MEMO], ids=lambda memory: memory.name)
@pytest.mark.parametrize("greedy", [True, False])
def test_recorded_steps_are_the_steps(memory, greedy: bool) -> None:
    policy, found = policy_for(memory), []
    for capture in (False, True):
        stream = play_stream(
            policy, TASK, steps=250, rows=8, bins=5, seed=1, greedy=greedy, device="cuda", capture=capture
        )
        assert ("recorded as CUDA graphs" in stream.how) == capture
        assert "step by step" not in stream.how or not capture, stream.how
        found.append([(one.episodes_B.tolist(), one.returns_B.tolist(), one.entries) for one in stream.bins])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", [name for name in CACHES if name != "oldest-sets"])
def test_every_policy_streams(name: str) -> None:
    """Whether it can be recorded or not; what was said of it is shown where the test fails."""
    policy, cache = policy_for(TRANSFORMER), make_cache(name) if name == "full" else make_cache(name, context=100)
    streams = [
        play_stream(
            policy.with_core(cache.apply(TRANSFORMER, policy.core, 120)),
            TASK,
            steps=120,
            rows=4,
            bins=2,
            device="cuda",
            capture=capture,
        )
        for capture in (False, True)
    ]
    assert "recorded as CUDA graphs" in streams[1].how, streams[1].how
    for eager, recorded in zip(*(stream.bins for stream in streams), strict=True):
        assert eager.returns_B.tolist() == recorded.returns_B.tolist()
        assert eager.bytes == recorded.bytes


@pytest.mark.parametrize("memory", [make_config("gru", width=32), MEMO], ids=lambda memory: memory.name)
def test_a_constant_memory_is_flat(memory) -> None:
    long = replace(TASK, trial_steps=10**7)
    policy = policy_for(memory)
    if memory is MEMO:
        policy = policy.with_core(make_cache("oldest-sets", context=24).apply(MEMO, policy.core, 20_000))
    stream = play_stream(policy, long, steps=20_000, rows=4, bins=10, device="cuda")
    assert len({one.bytes for one in stream.bins}) == 1
    first, last = (stream.costs([one])["latency_median"] for one in (stream.bins[1], stream.bins[-1]))
    assert last < 1.5 * first


@pytest.mark.parametrize("name", ["full", "memo", "memo-streaming", "window", "gru", "lstm"])
def test_the_table_is_measured(name: str) -> None:
    small = Trunk(width=64, depth=2, heads=4, segment=32, summaries=4, sets=3, window=64)
    cost = cost_of(small.configs(600)[name], 600, 2, torch.device("cuda"), timed=64)
    assert cost.how == "recorded as CUDA graphs", cost.how
    assert cost.flops == pytest.approx(cost.flops_counted, rel=0.05)
