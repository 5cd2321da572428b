"""Acting and learning as graphs, with a stand-in that runs again what a GPU would replay: the same as step by step."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.graph import write
from mnemic.agents.policy import Policy
from mnemic.memory import make_config
from mnemic.memory.core import Core, map_state, parts
from mnemic.train import capture, span
from mnemic.train.capture import ActingGraph, Graphs, LearningGraph, StepGraph
from mnemic.train.config import PPOConfig
from mnemic.train.ppo import DivergedError, learn
from mnemic.train.recall import Recall, asked
from mnemic.train.rollout import collect, start
from mnemic.train.span import SpanGraph

ROWS, LENGTH = 6, 13
CONFIG = PPOConfig(rows=ROWS, window=LENGTH, minibatches=2, epochs=2)


class Again:
    """In the place of a graph: runs the function and writes what it returns where its first output lies."""

    def __init__(self, function, generator=None, beside=None):
        state = None if generator is None else generator.get_state()
        kept = [(part, part.clone()) for part in self.touched(function)]
        self.function, output = function, function()
        self.output = None if output is None else map_state(torch.Tensor.contiguous, output)
        for part, before in kept:  # recording runs nothing
            part.copy_(before)
        if generator is not None:
            generator.set_state(state)

    @staticmethod
    def touched(function):
        """What the function may write to: the tensors of its objects and of the optimiser."""
        found = []
        for cell in function.__closure__ or ():
            held = vars(cell.cell_contents) if hasattr(cell.cell_contents, "__dict__") else {}
            for value in held.values():
                if isinstance(value, torch.Tensor):
                    found.append(value)
                elif isinstance(value, tuple) and hasattr(value, "memory"):
                    found += parts(value).values()
            if isinstance(cell.cell_contents, torch.optim.Optimizer):
                groups = cell.cell_contents.param_groups
                found += [part.data for group in groups for part in group["params"]]
                found += [part for state in cell.cell_contents.state.values() for part in state.values()]
        return found

    def replay(self):
        new = self.function()
        if new is not None:
            map_state(lambda old, now: old if old is now else old.copy_(now), self.output, new)
        return self.output


def again(function, generator=None):
    """In the place of a rehearsal."""
    state = None if generator is None else generator.get_state()
    function()
    if generator is not None:
        generator.set_state(state)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(capture, "Graph", Again)
    monkeypatch.setattr(capture, "rehearse", again)
    monkeypatch.setattr(span, "Graph", Again)
    monkeypatch.setattr(span, "rehearse", again)


def setting(toys, memory="lstm", **options):
    torch.manual_seed(0)
    env = toys.LightConfig(trial_steps=9).build(ROWS, 0)
    policy = Policy(EncoderConfig(), make_config(memory, width=8, **options), env.observation_space, env.action_space)
    with torch.no_grad():
        policy.out.weight.mul_(20)
    return env, policy, start(env, policy, recall=asked(env)), torch.Generator().manual_seed(0)


def same(got, want, exact=True):
    got, want = parts(got), parts(want)
    assert got.keys() == want.keys()
    for name, part in want.items():
        if exact:
            assert torch.equal(got[name], part), name
        else:
            torch.testing.assert_close(got[name], part, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("cut_returns", [True, False])
@pytest.mark.parametrize("memory", ["lstm", "transformer", "none"])
def test_an_acting_graph_acts_as_collect_does(toys, memory, cut_returns):
    env, policy, acting, generator = setting(toys, memory)
    graph = ActingGraph(env, policy, acting, LENGTH, generator, cut_returns)
    env, _, plain, drawn = setting(toys, memory)
    for _ in range(3):
        window, acting = graph(acting)
        want, plain = collect(env, policy, plain, LENGTH, drawn, cut_returns, look=False)
        same(window, want)
        same(acting, plain)
        assert torch.equal(generator.get_state(), drawn.get_state())


@pytest.mark.parametrize(
    ("memory", "options"), [("memo", {"segment": 4, "summaries": 2}), ("memo", {"segment": 20}), ("lstm", {})]
)
@pytest.mark.parametrize("ages", ["in step", "apart"])
def test_spans_act_as_collect_does(toys, memory, options, ages):
    """Whether rows complete their segments together or not, and whether a span fits into what is left of the window."""
    env, policy, acting, generator = setting(toys, memory, **options)
    if ages == "apart":
        state = acting.env_state._replace(trial_step=torch.arange(ROWS) % 5)
        acting = acting._replace(env_state=state)
    env_again, _, plain, drawn = setting(toys, memory, **options)
    plain = plain._replace(env_state=acting.env_state)
    graph = SpanGraph(env, policy, acting, LENGTH, generator)
    for _ in range(3):
        window, acting = graph(acting)
        want, plain = collect(env_again, policy, plain, LENGTH, drawn, cut_returns=False, stop=True)
        same(window, want, exact=False)
        same(acting, plain, exact=False)
        assert torch.equal(generator.get_state(), drawn.get_state())


def test_an_acting_graph_goes_on_from_wherever_it_is_told_to(toys):
    """As after a checkpoint was read; and it leaves what it was given alone."""
    env, policy, acting, generator = setting(toys)
    first = map_state(torch.clone, acting)
    graph = ActingGraph(env, policy, acting, LENGTH, generator, True)
    window, _ = graph(acting)
    kept = map_state(torch.clone, window)
    graph(graph.acting)
    generator.manual_seed(0)
    window, _ = graph(acting)
    same(window, kept)
    same(acting, first)


def test_the_next_replay_sees_new_weights(toys):
    env, policy, acting, generator = setting(toys)
    graph = ActingGraph(env, policy, acting, LENGTH, generator, True)
    before = graph(acting)[0].value.clone()
    with torch.no_grad():
        policy.out.bias.add_(1)
    generator.manual_seed(0)
    assert not torch.equal(graph(acting)[0].value, before)


class Late(Core):
    """Adds up its inputs, but only when it settles, which two calls do for two halves of the rows."""

    settles = True

    def __init__(self):
        super().__init__(8)
        self.scale = torch.nn.Parameter(torch.ones(8))

    def initial_state(self, batch):
        return torch.zeros(batch, 8), torch.zeros(batch, 8)

    def step(self, x_BD, state, start_B):
        total, _ = map_state(lambda part: torch.where(start_B[:, None], 0, part), state)
        total = total + x_BD * (x_BD.sum(1, keepdim=True) > 1)
        return total * self.scale, (total, torch.zeros_like(total))

    def advance(self, x_BD, state, start_B):
        total, left = state
        assert not left.any()
        total.masked_fill_(start_B[:, None], 0)
        left.copy_(x_BD * (x_BD.sum(1, keepdim=True) > 1))
        return (total + left) * self.scale, (total, left)

    def unsettled(self, state):
        return state[1].any(1)

    def settle(self, state):
        total, left = state
        half = (self.unsettled(state).cumsum(0) <= 3)[:, None]
        total.add_(torch.where(half, left, 0))
        left.masked_fill_(half, 0)
        return total, left

    def unroll(self, x_TBD, state, start_TB):
        raise NotImplementedError


def test_a_core_that_settles_is_settled_after_each_step(toys):
    env, policy, _, generator = setting(toys)
    policy.core = Late()
    acting = start(env, policy, recall=asked(env))
    graph = StepGraph(env, policy, acting, generator)
    plain, drawn = start(env, policy, recall=asked(env)), torch.Generator().manual_seed(0)
    for _ in range(2):
        window, acting = collect(env, policy, acting, LENGTH, generator, True, look=True, once=graph)
        want, plain = collect(env, policy, plain, LENGTH, drawn, True, look=True)
        same(window, want, exact=False)
        same(acting, plain, exact=False)
    assert window.value.std() > 0.1


def optimizer_of(*modules):
    learned = [part for module in modules if module is not None for part in module.parameters()]
    return torch.optim.Adam(learned, 1e-3, eps=1e-5, fused=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_kl": 1e-5},
        {"schedule": "constant"},
        {"cut_returns": False, "trial_end": "stop"},
        {"epochs": 1, "minibatches": 1},
        {"minibatches": 6, "accumulate": 3, "target_kl": 1e-3},
        {"recall_weight": 0.5},
    ],
    ids=str,
)
def test_a_learning_graph_learns_as_learn_does(toys, options):
    config = replace(CONFIG, learning_rate=1e-2, **options)
    weights, said = [], []
    for captured in (True, False):
        env, policy, acting, generator = setting(toys)
        recall = Recall(8, asked(env)) if config.recall_weight else None
        optimizer, shuffling, graph = optimizer_of(policy, recall), torch.Generator().manual_seed(1), None
        said.append([])
        for remaining in (1.0, 0.5):
            window, acting = collect(env, policy, acting, LENGTH, generator, config.cut_returns)
            if captured:
                graph = graph or LearningGraph(config, policy, optimizer, window, torch.float32, recall=recall)
                said[-1].append(graph(window, shuffling, remaining=remaining, warm=0.7))
            else:
                options = {"remaining": remaining, "precision": torch.float32, "warm": 0.7, "recall": recall}
                said[-1].append(learn(config, policy, optimizer, window, shuffling, **options))
        learned = policy.state_dict() | (recall.state_dict(prefix="recall.") if recall else {})
        weights.append({name: part.clone() for name, part in learned.items()})
        steps = {int(state["step"]) for state in optimizer.state.values()}
        passes = sum(int(figures["passes"]) for figures in said[-1])
        assert steps == {passes * config.minibatches // config.accumulate}
    for captured, plain in zip(*said, strict=True):
        assert captured == pytest.approx(plain, rel=1e-4, abs=1e-6)
        assert list(captured) == list(plain)
    for name, part in weights[1].items():
        torch.testing.assert_close(weights[0][name], part, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("most", "recorded"), [(12, 3), (2, 2)])
def test_each_plan_of_a_core_is_recorded_until_there_are_too_many(toys, monkeypatch, most, recorded):
    monkeypatch.setattr(capture, "MOST_PLANS", most)
    weights = []
    for captured in (True, False):
        env, policy, acting, generator = setting(toys)
        plans = iter("aabcab")
        monkeypatch.setattr(policy.core, "plan", lambda *_, plans=plans: next(plans))
        optimizer, shuffling, graph = optimizer_of(policy), torch.Generator().manual_seed(1), None
        for _ in range(5):
            window, acting = collect(env, policy, acting, LENGTH, generator, True)
            if captured:
                graph = graph or LearningGraph(CONFIG, policy, optimizer, window, torch.float32)
                graph(window, shuffling, remaining=0.5)
            else:
                learn(CONFIG, policy, optimizer, window, shuffling, remaining=0.5, precision=torch.float32)
        if graph:
            assert len(graph._recorded) == recorded
        assert {int(state["step"]) for state in optimizer.state.values()} == {20}
        weights.append({name: part.clone() for name, part in policy.state_dict().items()})
    for name, part in weights[1].items():
        torch.testing.assert_close(weights[0][name], part, rtol=1e-5, atol=1e-6, msg=name)


def test_recording_learns_nothing(toys):
    env, policy, acting, generator = setting(toys)
    before = {name: part.clone() for name, part in policy.state_dict().items()}
    window, _ = collect(env, policy, acting, LENGTH, generator, True)
    optimizer = optimizer_of(policy)
    LearningGraph(CONFIG, policy, optimizer, window, torch.float32)
    assert all(torch.equal(part, before[name]) for name, part in policy.state_dict().items())
    assert all(not part.any() for state in optimizer.state.values() for part in state.values())


@pytest.mark.parametrize("part", ["rehearse", "Graph"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_recording_that_fails_leaves_an_optimiser_that_steps(toys, monkeypatch, part, call):
    env, policy, acting, generator = setting(toys)
    window, _ = collect(env, policy, acting, LENGTH, generator, True)
    optimizer, calls, real = optimizer_of(policy), [], getattr(capture, part)

    def failing(*given, **options):
        calls.append(given)
        if len(calls) == call:
            raise RuntimeError("out of memory")
        return real(*given, **options)

    monkeypatch.setattr(capture, part, failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        LearningGraph(CONFIG, policy, optimizer, window, torch.float32)
    assert optimizer.found_inf.item() == 0


@pytest.mark.parametrize("minibatch", [0, 3])
def test_a_number_that_is_none_stops_all_later_steps(toys, minibatch):
    """The policy is as it was before the first bad minibatch, and good windows are learned from again."""
    env, policy, acting, generator = setting(toys)
    window, _ = collect(env, policy, acting, LENGTH, generator, True)
    good = map_state(torch.clone, window)
    optimizer, shuffling = optimizer_of(policy), torch.Generator().manual_seed(1)
    graph = LearningGraph(CONFIG, policy, optimizer, window, torch.float32)
    (recorded,) = graph._recorded.values()
    seen, step = [], recorded.replay

    def counted():
        if len(seen) == minibatch:
            window.reward_next[3, 2] = math.nan
            graph._begin.replay()
            graph._number.fill_(minibatch)
            graph._order_NAR[minibatch] = torch.arange(3)
        step()
        seen.append({name: part.clone() for name, part in policy.state_dict().items()})

    recorded.replay = counted
    first = {name: part.clone() for name, part in policy.state_dict().items()}
    with pytest.raises(DivergedError, match="the loss is nan"):
        graph(window, shuffling, remaining=1.0)
    before = seen[minibatch - 1] if minibatch else first
    assert all(torch.equal(part, before[name]) for name, part in policy.state_dict().items())
    assert {int(state["step"]) for state in optimizer.state.values()} == {minibatch}
    recorded.replay = step
    assert math.isfinite(graph(good, shuffling, remaining=1.0)["policy_loss"])
    assert {int(state["step"]) for state in optimizer.state.values()} == {minibatch + 4}


def test_gradients_are_averaged_before_they_are_clipped(toys):
    env, policy, acting, generator = setting(toys)
    window, _ = collect(env, policy, acting, LENGTH, generator, True)

    def nothing(gradients):
        for part in gradients:
            part.zero_()

    graph = LearningGraph(CONFIG, policy, optimizer_of(policy), window, torch.float32, nothing)
    assert graph(window, torch.Generator(), remaining=1.0)["grad_norm"] == 0


def test_a_graph_is_made_anew_where_it_no_longer_fits(toys):
    env, policy, acting, generator = setting(toys)
    window, _ = collect(env, policy, acting, LENGTH, generator, True)
    optimizer = optimizer_of(policy)
    graph = LearningGraph(CONFIG, policy, optimizer, window, torch.float32)
    assert graph.fits(policy, optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not graph.fits(policy, optimizer)
    acts = ActingGraph(env, policy, acting, LENGTH, generator, True)
    assert acts.fits(env, policy, generator)
    assert not acts.fits(toys.LightConfig().build(ROWS, 0), policy, generator)


def test_on_a_cpu_nothing_is_recorded(toys):
    env, policy, acting, generator = setting(toys)
    graphs = Graphs(wanted=True, compiled=True)
    assert graphs.acting(CONFIG, env, policy, acting, generator) is None
    window, _ = collect(env, policy, acting, LENGTH, generator, True)
    assert graphs.learning(CONFIG, policy, optimizer_of(policy), window, precision=torch.float32) is None


def test_what_cannot_be_compiled_says_so_and_runs(toys, monkeypatch):
    env, _, acting, _ = setting(toys)

    def broken():
        def move(state, action_B):
            raise RuntimeError("no\ncompiler")

        env._move_rows = move

    monkeypatch.setattr(env, "compile", broken)
    with pytest.warns(RuntimeWarning, match="light could not be compiled .* RuntimeError: no compiler"):
        capture.compile_env(env, acting)
    env.move(acting.env_state, torch.zeros(ROWS, dtype=torch.int64))


def test_what_is_asked_is_compiled_too(toys, monkeypatch):
    env, _, acting, _ = setting(toys)
    monkeypatch.setattr(env, "compile", lambda: None)

    def broken(state, step):
        raise RuntimeError("nothing to ask")

    monkeypatch.setattr(env, "hidden", broken)
    capture.compile_env(env, acting._replace(hidden=()))
    with pytest.warns(RuntimeWarning, match="light could not be compiled .* nothing to ask"):
        capture.compile_env(env, acting)


def test_writing_reads_before_it_overwrites():
    a, b, c = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])
    write((a, b, c), (b, a, c + 1))
    assert (a.item(), b.item(), c.item()) == (2, 1, 4)


def test_a_core_that_draws_its_plans_learns_without_recording(toys, monkeypatch):
    monkeypatch.setattr(Graphs, "_may", lambda *_: True)
    for jitter, recorded in ((0.0, True), (0.2, False)):
        env, policy, acting, generator = setting(toys, "memo", segment_jitter=jitter)
        window, _ = collect(env, policy, acting, LENGTH, generator, True)
        graphs = Graphs(wanted=True, compiled=False)
        found = graphs.learning(CONFIG, policy, optimizer_of(policy), window, precision=torch.float32)
        assert (found is not None) == recorded
