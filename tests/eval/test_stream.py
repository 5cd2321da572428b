"""Streams: the same episodes as an evaluation, kept by time bin, at constant memory, with costs that can be checked."""

import gc
import math
import tracemalloc
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mnemic.agents.encoder import EncoderConfig, Inputs
from mnemic.agents.policy import Policy
from mnemic.envs import make_config as make_env
from mnemic.envs.native import NativeEnv, Outcome
from mnemic.envs.step import EnvConfig
from mnemic.eval import turns
from mnemic.eval.latency import Latencies
from mnemic.eval.protocol import play_episodes
from mnemic.eval.statistics import bootstrap_mean, bootstrap_ratio
from mnemic.eval.stream import play_stream
from mnemic.eval.stream_bench import ACTIONS, CASES, SEEN, Trunk, compared, cost_of, counted_flops
from mnemic.eval.turns import Actor, World, told
from mnemic.memory import make_config
from mnemic.memory.caches import CACHES, make_cache
from mnemic.memory.core import Core, State, map_state

MEMORIES = {
    "none": make_config("none", width=8),
    "gru": make_config("gru", width=8),
    "transformer": make_config("transformer", width=8, heads=2, context=64),
    "memo": make_config("memo", width=8, heads=2, segment=4, summaries=1, sets=16),
}


class Count(NamedTuple):
    episodes: Tensor  # (B,) ended in this trial
    moves: Tensor  # (B,) in this episode


@dataclass(frozen=True, kw_only=True)
class CountConfig(EnvConfig):
    """Episode k of a trial (from 0) takes k + 1 steps; its last step pays k, and k > 0 is a success."""

    name: ClassVar[str] = "count"
    summary: ClassVar[str] = "counts"

    trial_steps: int = 6

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> "CountEnv":
        box, steps = spaces.Box(0, 1, (1,)), {"episode_steps": 1000, "trial_steps": self.trial_steps}
        return CountEnv(self, batch, seed, device, action_space=spaces.Discrete(2), observation_space=box, **steps)


class CountEnv(NativeEnv):
    def begin(self, stream):
        zero_B = torch.zeros(self.batch, dtype=torch.int64)
        return Count(zero_B, zero_B)

    def restart(self, task, stream):
        return Count(task.episodes + 1, torch.zeros_like(task.moves))

    def advance(self, task, action_B, stream):
        task = Count(task.episodes, task.moves + 1)
        over_B = task.moves > task.episodes
        return task, Outcome(over_B * task.episodes.float(), over_B, {"success": over_B & (task.episodes > 0)})

    def observe(self, task, episode_step_B):
        return task.moves.float().unsqueeze(-1)


def policy_for(env_config: EnvConfig, memory) -> Policy:
    torch.manual_seed(0)
    env = env_config.build(1, 0)
    return Policy(EncoderConfig(), memory, env.observation_space, env.action_space).eval()


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("greedy", [True, False])
def test_a_stream_with_everything_kept_is_an_evaluation(name: str, greedy: bool) -> None:
    """The same seed gives the same episodes, whether a policy steps or advances."""
    task = make_env("dark-key-to-door", size=3, episode_steps=5, trial_steps=20)
    policy = policy_for(task, MEMORIES[name])
    full = policy.with_core(make_cache("full").apply(MEMORIES[name], policy.core, 20))
    stream = play_stream(full, task, steps=64, rows=7, bins=3, seed=5, greedy=greedy)
    played = play_episodes(policy, task, episodes=10**6, rows=7, seed=5, greedy=greedy, max_steps=64)
    figures, steps = stream.figures(), 64 * 7
    assert sum(each.episodes_B.sum() for each in stream.bins) == len(played.returns) >= 12 * 7
    assert figures["return"].value == pytest.approx(np.mean(played.returns))
    assert figures["success"].value == pytest.approx(np.mean(played.info["success"]))
    assert figures["reward"].value * steps >= sum(played.returns)  # the running episodes have rewards too


def test_what_ends_in_a_bin_counts_there() -> None:
    """A trial of six steps has episodes that end at steps 1, 3 and 6 with returns 0, 1 and 2; two trials, four bins."""
    task = CountConfig()
    stream = play_stream(policy_for(task, MEMORIES["none"]), task, steps=12, rows=2, bins=4)
    assert [(each.begin, each.end) for each in stream.bins] == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert [each.episodes_B.tolist() for each in stream.bins] == [[2, 2], [1, 1], [2, 2], [1, 1]]
    assert [each.returns_B.tolist() for each in stream.bins] == [[1, 1], [2, 2], [1, 1], [2, 2]]
    assert [stream.figures([each])["success"].value for each in stream.bins] == [0.5, 1, 0.5, 1]
    whole = stream.figures()
    assert whole["success"].value == pytest.approx(4 / 6)
    assert whole["return"].value == pytest.approx(6 / 6)
    assert whole["reward"].value == pytest.approx(6 / 12)
    assert whole["return"].low == whole["return"].high == whole["return"].value  # rows do not differ


def test_bins_add_up() -> None:
    task = make_env("dark-key-to-door", size=3, episode_steps=5, trial_steps=20)
    policy = policy_for(task, MEMORIES["gru"])
    fine, coarse = (play_stream(policy, task, steps=50, rows=3, bins=bins, greedy=False) for bins in (7, 1))
    for name in ("rewards_B", "episodes_B", "returns_B", "successes_B"):
        assert sum(getattr(each, name) for each in fine.bins) == pytest.approx(getattr(coarse.bins[0], name))
    assert sum(int(each.latencies.counts.sum()) for each in fine.bins) == 50
    assert [each.end for each in fine.bins] == [7, 14, 21, 28, 35, 42, 50]
    assert fine.steps == coarse.steps == 50


def test_a_bin_without_an_episode_knows_only_its_rewards() -> None:
    task = CountConfig(trial_steps=1000)
    stream = play_stream(policy_for(task, MEMORIES["none"]), task, steps=12, rows=2, bins=12)
    empty = stream.figures([stream.bins[1]])  # episodes end at steps 1, 3, 6 and 10
    assert math.isnan(empty["return"].value)
    assert math.isnan(empty["success"].value)
    assert empty["reward"].value == 0


def test_costs_are_those_of_the_steps() -> None:
    """Bins of few steps are read at every step: a window of 8 fills up in the first bin."""
    task = CountConfig(trial_steps=1000)
    policy = policy_for(task, MEMORIES["transformer"])
    window = policy.with_core(make_cache("window", context=8).apply(MEMORIES["transformer"], policy.core, 32))
    stream = play_stream(window, task, steps=32, rows=2, bins=4)
    assert [each.entries for each in stream.bins] == [4.5, 8, 8, 8]
    assert {each.bytes for each in stream.bins} == {2 * 8 * 8 * 4 + 8}  # keys and values, and a count
    for each in stream.bins:
        expected = [window.flops_per_step(step) for step in range(each.begin, each.end)]
        assert each.flops == pytest.approx(np.mean(expected))
    assert stream.costs()["entries"] == 8
    assert stream.costs()["flops"] == pytest.approx(np.mean([each.flops for each in stream.bins]))


def test_entries_start_anew_with_each_trial() -> None:
    task = CountConfig(trial_steps=6)
    policy = policy_for(task, MEMORIES["transformer"])
    stream = play_stream(policy, task, steps=12, rows=2, bins=4)
    assert [each.entries for each in stream.bins] == [2, 5, 2, 5]  # the means of 1 2 3 and of 4 5 6


@pytest.mark.parametrize("name", ["gru", "memo"])
def test_a_long_stream_is_flat(name: str) -> None:
    """Neither the agent's memory nor what the stream keeps grows with the steps."""
    task = CountConfig(trial_steps=10**6)
    memory = make_config("memo", width=4, heads=1, segment=4, summaries=1, sets=2) if name == "memo" else None
    policy = policy_for(task, memory or make_config("gru", width=4))
    held: list[int] = []

    def look(steps: int) -> None:
        if steps in (512, 1024, 1536, 2048):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        stream = play_stream(policy, task, steps=2056, rows=2, bins=1, tell=look)
    finally:
        tracemalloc.stop()
    # What grows with the steps grows in every third; a library that fills a cache of its own does so once.
    assert len(held) == 4
    assert min(np.diff(held)) < 10_000
    many = play_stream(policy, task, steps=400, rows=2, bins=4)
    assert len({each.bytes for each in many.bins}) == 1
    assert many.bins[0].bytes == stream.bins[0].bytes == policy.core.state_bytes(1)


def test_ctrl_c_keeps_what_was_seen() -> None:
    task = CountConfig()

    def stop(steps: int) -> None:
        if steps == 48:
            raise KeyboardInterrupt

    told_of: list[int] = []
    stream = play_stream(
        policy_for(task, MEMORIES["gru"]),
        task,
        steps=100,
        rows=2,
        bins=5,
        tell=lambda steps: (told_of.append(steps), stop(steps))[0] if len(told_of) < 3 else None,
    )
    assert stream.interrupted
    assert [each.end for each in stream.bins] == [20, 40, 48]
    assert stream.bins[-1].episodes_B.tolist() == [4, 4]  # at steps 42, 43, 45 and 48
    assert stream.figures()["return"].value == pytest.approx(1)


def test_what_has_no_room_is_refused_before_it_is_made() -> None:
    task = CountConfig(trial_steps=10**12)
    policy = policy_for(task, MEMORIES["transformer"])
    full = policy.with_core(make_cache("full").apply(MEMORIES["transformer"], policy.core, 10**12))
    with pytest.raises(ValueError, match=r"memory of 2 rows takes .* GB at 1,000,000,000,000 steps .* are free on cpu"):
        play_stream(full, task, steps=10**12, rows=2)
    with pytest.raises(ValueError, match=r"bins is 20; .* at most the 10 steps"):
        play_stream(policy, task, steps=10)


class Judged(NamedTuple):
    inner: State
    surprise_B: Tensor


class Judging(Core):
    """Keeps the surprise that it was told last."""

    judges = True

    def __init__(self, inner: Core) -> None:
        super().__init__(inner.width)
        self.inner = inner

    def initial_state(self, batch: int) -> Judged:
        return Judged(self.inner.initial_state(batch), torch.zeros(batch))

    def step(self, x_BD, state, start_B):
        y_BD, inner = self.inner.step(x_BD, state.inner, start_B)
        return y_BD, Judged(inner, state.surprise_B)

    def unroll(self, x_TBD, state, start_TB):
        raise NotImplementedError

    def judge(self, state, surprise_B):
        return state._replace(surprise_B=surprise_B)


@pytest.mark.parametrize("surprise", ["td", "logprob"])
def test_memories_that_rank_are_told_the_surprise_of_the_step(surprise: str) -> None:
    task = CountConfig()
    policy = policy_for(task, MEMORIES["gru"])
    judging = policy.with_core(Judging(policy.core))
    torch.manual_seed(1)
    starts = [True, False, False, True, False]
    given = [
        Inputs(torch.rand(3, 1), torch.randint(2, (3,)), torch.rand(3), *(torch.full((3,), start),) * 2)
        for start in starts
    ]
    actor = Actor(judging, given[0], surprise=surprise, gamma=0.9)
    memory, before_B = policy.initial_memory(3), torch.zeros(3)
    for inputs, start in zip(given, starts, strict=True):
        actor.tell(inputs)
        actor()
        with torch.no_grad():
            output, memory = policy.step(inputs, memory)
        chosen = output.action.argmax(-1)
        wanted_B = -output.action.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        if surprise == "td":
            paid_B, expected_B = (0.0, 0.0) if start else (inputs.reward, before_B)
            wanted_B = (paid_B + 0.9 * output.value - expected_B).abs()
        assert torch.allclose(actor.mind.memory.surprise_B, wanted_B, atol=1e-6)
        before_B = output.value


class Again:
    """In the place of a CUDA graph: runs the function when it is replayed, and writes into its first output."""

    def __init__(self, function, generator=None):
        self.function, self.output = function, None

    def replay(self):
        new = self.function()
        if self.output is None:
            self.output = map_state(torch.clone, new) if new is not None else None
        elif new is not None:
            self.output.copy_(new)
        return self.output


@pytest.mark.parametrize("name", MEMORIES)
def test_recorded_steps_are_the_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would replay, with a stand-in that runs it again: everything is written in place, and fits."""
    monkeypatch.setattr(turns, "Graph", Again)
    monkeypatch.setattr(turns, "rehearse", lambda function, generator=None: [function(), function()])
    task = make_env("dark-key-to-door", size=3, episode_steps=5, trial_steps=20)
    policy = policy_for(task, MEMORIES[name])
    found = []
    for recorded in (False, True):
        env = task.build(5, 3)
        state, step = env.reset()
        actor = Actor(policy, told(step, torch.zeros(5, dtype=torch.int64)))
        if recorded:
            actor._graphs = actor._record()
        world, places = World(env, state, actor), []
        mind = map_state(id, actor.mind) if recorded else None
        for _ in range(45):
            assert actor() > 0
            places.append(actor.action_B.clone())
            world()
        assert not recorded or mind == map_state(id, actor.mind)
        found.append((torch.stack(places), world.take_sums(), world.tally.trial_step_B.clone()))
        assert not world.take_sums().any()
    for eager, replayed in zip(*found, strict=True):
        assert torch.equal(eager, replayed)


def test_latencies_are_counted_by_class() -> None:
    seconds = np.random.default_rng(0).lognormal(-7, 1, 5000)
    one, other = Latencies(), Latencies()
    for number, each in enumerate(seconds):
        (one if number % 3 else other).add(each)
    one.merge(other)
    for share in (0.01, 0.5, 0.99, 1):
        exact = np.quantile(seconds, share, method="inverted_cdf")
        assert one.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert one.mean == pytest.approx(seconds.mean())
    assert math.isnan(Latencies().quantile(0.5))
    assert math.isnan(Latencies().mean)
    strange = Latencies()
    for each in (0.0, 1e9):
        strange.add(each)
    assert strange.quantile(0.5) < 1.1e-7 < 100 < strange.quantile(1)


def test_a_ratio_is_the_mean_of_groups() -> None:
    values, groups = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0], [0, 0, 1, 1, 1, 2]
    assert bootstrap_ratio([3, 12, 9], [2, 3, 1]) == pytest.approx(bootstrap_mean(values, groups))
    nothing = bootstrap_ratio([0, 0], [0, 0])
    assert all(math.isnan(part) for part in nothing)
    some = bootstrap_ratio([0, 4], [0, 2])  # half of a quarter of all draws have no sample
    assert some == (2, 2, 2)


SMALL = Trunk(width=32, depth=2, heads=4, mlp=2, segment=16, summaries=4, sets=3, window=32)


@pytest.mark.parametrize("name", CASES)
def test_operations_are_within_five_percent_of_what_is_counted(name: str) -> None:
    """At a step at which the slots of every memory are in use, since the plain kernels read them all."""
    cost = cost_of(SMALL.configs(128)[name], 128, 2, torch.device("cpu"), timed=16)
    assert cost.flops == pytest.approx(cost.flops_counted, rel=0.05)
    assert 0 < cost.median <= cost.p99
    assert (cost.settling > 0) == name.startswith("memo")
    assert cost.flops_average <= cost.flops


@pytest.mark.parametrize(
    ("memory", "name"),
    [
        *(("transformer", name) for name in CACHES if name != "oldest-sets"),
        *(("memo", name) for name in ("full", "oldest-sets", "sinks", "surprise", "random")),
    ],
)
def test_operations_under_a_policy_are_within_five_percent_too(memory: str, name: str) -> None:
    """At a step at which the budget is full, or nearly: the plain kernels read every slot."""
    sizes = {"segment": 8, "summaries": 4} if memory == "memo" else {}
    config = make_config(memory, width=64, heads=4, depth=2, **sizes)
    torch.manual_seed(0)
    policy = Policy(EncoderConfig(), config, spaces.Box(-1, 1, (SEEN,)), spaces.Discrete(ACTIONS)).eval()
    cache = make_cache(name, **{} if name == "full" else {"context": 128})
    acts = policy.with_core(cache.apply(config, policy.core, 400))
    counted = counted_flops(acts, acts.initial_memory(1), 400)
    assert acts.flops_per_step(399) == pytest.approx(counted, rel=0.05)


def test_the_table_of_the_paper() -> None:
    """Keys at 32,000 steps, and what a step costs on average, by facts of the paper: 4,000, and 17.5 and 74.4 MFLOP."""
    sizes = {"full": (32_000, 74.4), "memo": (4_000, 17.5), "memo-streaming": (768, None), "window": (1024, None)}
    for name, (entries, average) in sizes.items():
        core = Trunk().configs(32_000)[name].build()
        assert core.context_entries(32_000) == entries
        mean = np.mean([core.flops_per_step(step) for step in range(0, 32_000, 7)]) / 1e6
        assert average is None or mean == pytest.approx(average, rel=0.05), name


def test_what_is_asked_is_compared_with_full_context() -> None:
    configs = SMALL.configs(600)
    full, memo = (cost_of(configs[name], 600, 1, torch.device("cpu"), timed=8) for name in ("full", "memo"))
    found = compared("memo", memo, full, torch.device("cpu"))
    assert found["bytes_of_full"] == pytest.approx(memo.bytes / full.bytes)
    assert found["met"] == {"bytes": memo.bytes <= full.bytes / 7}
    assert set(compared("memo", memo, full, torch.device("cuda"))["met"]) == {"bytes", "median"}
    assert compared("memo", memo, None, torch.device("cpu")) == {}
    with pytest.raises(ValueError, match="10 steps are too few to time the last 8; 17 are enough"):
        cost_of(configs["full"], 10, 1, torch.device("cpu"), timed=8)


def test_another_core_shares_all_weights() -> None:
    policy = policy_for(CountConfig(), MEMORIES["transformer"])
    own = policy.core
    other = policy.with_core(make_cache("window", context=4).apply(MEMORIES["transformer"], own, 10))
    assert policy.core is own
    assert other.core is not own
    assert {id(part) for part in other.parameters()} == {id(part) for part in policy.parameters()}
