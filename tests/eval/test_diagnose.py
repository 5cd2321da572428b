"""Diagnostics of agents whose answers are known: a latch, one that holds two cues, a decay, one that forgets."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnemic.agents.encoder import EncoderConfig
from mnemic.agents.policy import Policy
from mnemic.envs import make_config
from mnemic.eval.diagnose.contents import contents
from mnemic.eval.diagnose.curves import edges, looked_for, readings
from mnemic.eval.diagnose.norms import Norm, live
from mnemic.eval.diagnose.probe import fit
from mnemic.eval.diagnose.record import Track, record, sources
from mnemic.eval.diagnose.timescales import by_gate, by_regression
from mnemic.memory import MEMORIES
from mnemic.memory import make_config as make_memory
from mnemic.memory.core import Core

WIDTH = 8


class Bare(nn.Module):
    """Observations as they are, with zeros behind them."""

    def forward(self, inputs):
        return F.pad(inputs.obs, (0, WIDTH - inputs.obs.shape[-1]))


class Cues(Core):
    """Holds the last two cues of an endless T-maze in numbers of their own, and says where it is and what it `says`.

    The state is (left, right, left before, right before).
    """

    def __init__(self, holds=True):
        super().__init__(WIDTH)
        self.holds = holds

    def initial_state(self, batch):
        return torch.zeros(batch, 4)

    def step(self, x, state, start):
        state = torch.where(start[:, None], 0.0, state)
        cue = x[:, 1:3]
        seen = cue.sum(1, keepdim=True) > 0
        old = torch.where(seen, state[:, :2], state[:, 2:])
        new = torch.where(seen, cue, state[:, :2])
        y = F.pad(torch.cat([x[:, :1], new], 1), (0, WIDTH - 3))
        return y, torch.cat([new, old], 1) if self.holds else torch.zeros_like(state)

    def unroll(self, x, state, start):
        raise NotImplementedError


class Decay(Core):
    """Each unit of D adds the input's second number, and loses a fixed share of what it held."""

    def __init__(self, shares):
        super().__init__(WIDTH)
        self.shares = torch.tensor(shares)
        self.keeps = "stays"

    def initial_state(self, batch):
        return torch.zeros(batch, len(self.shares))

    def gates(self, x, state, start):
        return {"0.stays": self.shares.expand(len(x), -1), "0.other": x.sigmoid()}

    def step(self, x, state, start):
        state = torch.where(start[:, None], 0.0, state) * self.shares + x[:, 1:2]
        return x, state

    def unroll(self, x, state, start):
        raise NotImplementedError


def player(env, core, turns=False):
    """A policy that always goes forward, or that also turns at a junction as the core says."""
    built = env.build(1, 0)
    memory = make_memory("none", width=WIDTH)
    policy = Policy(EncoderConfig(), memory, built.observation_space, built.action_space)
    policy.encoder = Bare()
    nn.init.zeros_(policy.out.weight)
    nn.init.zeros_(policy.out.bias)
    policy.out.bias.data[0] = 10.0
    if turns:
        policy.out.weight.data[0, 0] = -10.0  # 0 at the junction, 2 or more before it
        policy.out.weight.data[1, 1] = policy.out.weight.data[2, 2] = 1.0
    return policy.with_core(core)


@pytest.fixture(scope="module")
def held():
    env = make_config("endless-tmaze", length=4, corridors=6)
    made = record(player(env, Cues(), turns=True), env, steps=90, rows=64, read="both")
    return made, {(each.source, each.back): each for each in readings(made)}


def test_a_latch_is_read_at_every_delay_and_after_every_overwrite(held):
    _, found = held
    assert set(found) == {(source, back) for source in ("input", "output", "state") for back in (0, 1, 2)}
    latch = found["output", 0]
    assert [point.at for point in latch.by_age] == [0, 1, 2, 3, 4]
    assert [point.at for point in latch.by_number] == [0, 1, 2, 3, 4.5]  # 4 and 5 share a point
    assert all(point.accuracy.value == 1 for point in latch.by_age + latch.by_number)
    assert sum(point.samples for point in latch.by_age) == latch.samples == 90 * 32
    assert 0.4 < latch.chance < 0.6


def test_what_was_overwritten_is_at_chance_in_a_latch_and_there_where_both_are_held(held):
    _, found = held
    assert abs(found["output", 1].accuracy.value - 0.5) < 0.1
    assert found["state", 1].accuracy.value == 1
    assert found["state", 1].by_number[0].at == 1  # there is none before the first
    assert min(point.at for point in found["state", 1].by_age) == 5  # a corridor and a step ago


def test_the_control_sees_the_cue_only_where_it_is_shown(held):
    _, found = held
    shown, *later = found["input", 0].by_age
    assert shown.accuracy.value == 1
    assert all(abs(point.accuracy.value - 0.5) < 0.2 for point in later)


def test_who_forgets_is_at_chance():
    env = make_config("tmaze", length=9)
    made = record(player(env, Cues(holds=False)), env, steps=100, rows=128, read="state")
    ((reading,), _) = ([each for each in readings(made) if each.source == "state"], None)
    assert (reading.hidden, reading.back) == ("goal", 0)
    for point in reading.by_age:
        assert point.accuracy.low - 0.1 <= 0.5 <= point.accuracy.high + 0.1
    assert len(reading.by_number) == 1  # nothing is overwritten


def test_half_lives_of_a_decay():
    shares = [0.5, 0.9, 0.97]
    env = make_config("tmaze", length=60)
    made = record(player(env, Decay(shares)), env, steps=122, rows=32, read="both")
    known = [math.log(0.5) / math.log(share) for share in shares]
    # The goals of the rows do not sum to exactly 0, so neither do the means.
    assert by_regression("state", made.units["state"], made.starts_TB).steps_U == pytest.approx(known, rel=0.1)
    assert list(made.kept) == ["0.stays"]
    assert by_gate("0.stays", made.kept["0.stays"]).longest is None
    assert by_gate("0.stays", made.kept["0.stays"]).steps_U == pytest.approx(known, rel=1e-5)


def test_half_lives_of_noise_that_decays():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.3, 0.8, 0.95])
    h = [torch.zeros(16, 3)]
    for _ in range(4000):
        h.append(h[-1] * shares + torch.randn(16, 3, generator=generator))
    unit = torch.cat([torch.stack(h), torch.full((4001, 16, 1), 7.0)], -1)  # one that never varies
    starts = np.zeros((4001, 16), bool)
    starts[0] = True
    found = by_regression("noise", unit, starts)
    assert found.still == 1
    assert found.steps_U == pytest.approx([math.log(0.5) / math.log(share) for share in shares.tolist()], rel=0.05)


def test_what_outlasts_its_trials_has_no_half_life_and_trials_are_apart():
    starts = np.zeros((40, 64), bool)
    starts[::10] = True
    sign = torch.randint(0, 2, (4, 64, 1), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    unit = sign.repeat_interleave(10, 0)  # constant in a trial, new in the next
    found = by_regression("latch", unit, starts)
    assert found.steps_U.tolist() == [math.inf]
    assert found.longest == 8  # 12 is beyond a trial
    assert by_gate("all", np.array([0.0])).steps_U.tolist() == [math.inf]


def test_a_long_life_shows_what_grows():
    env = make_config("tmaze", length=9)
    life = live(player(env, Decay([0.5, 1.0])), env, steps=100, rows=8, trained=10)
    (output, state) = life.norms
    assert (output.name, state.name) == ("output", "state")
    assert not output.collapses
    # A row that keeps all adds +-1 every ten steps: sizes follow a random walk.
    assert state.rms_T[0] == pytest.approx(1.0)
    assert len(state.rms_T) == 100
    assert state.ratio == pytest.approx(state.rms_T[10:].max() / state.rms_T[:10].max())
    assert life.rewards()[0] == 0


def test_the_rule_of_norms():
    assert Norm("a", np.array([1.0, 2.0, 4.0]), 2).ratio == 2
    assert not Norm("a", np.array([1.0, 2.0, 4.0]), 2).collapses
    assert Norm("a", np.array([1.0, 2.0, 4.1]), 2).collapses
    assert Norm("a", np.array([1.0, np.nan]), 1).collapses
    assert Norm("a", np.array([0.0, 0.0]), 1).ratio == 1
    assert math.isnan(Norm("a", np.array([1.0]), 1).ratio)


def test_contents_by_hand():
    value = np.array([[0], [0], [1], [1], [1], [2]])
    turn = np.array([[0], [0], [1], [1], [2], [0]])
    shown = np.array([[1], [0], [1], [0], [0], [0]], bool)
    starts = np.array([[1], [0], [0], [0], [0], [1]], bool)
    held = contents(Track(value, shown, turn, 3, 0), starts, 1)
    assert held.number_TB[:, 0].tolist() == [0, 0, 1, 1, 2, 0]
    assert held.age_NTB[0, :, 0].tolist() == [0, 1, 0, 1, 2, -1]  # the last content began without being shown
    assert held.value_NTB[1, 2:5, 0].tolist() == [0, 0, 1]
    assert held.age_NTB[1, :, 0].tolist() == [-1, -1, 2, 3, 2, -1]


def test_what_is_looked_for():
    starts = np.zeros((3, 1), bool)
    changing, still = np.array([[0], [1], [2]]), np.zeros((3, 1), int)
    shown = np.ones((3, 1), bool)
    assert looked_for(Track(still, shown, still, 4, 0), starts) == [0]
    assert looked_for(Track(still, shown, changing, 4, 0), starts) == [0, 1, 2]
    assert looked_for(Track(still, shown, changing, 4, 4), starts) == [0, 1, 2, 3, 4, 5, 6]
    assert {0, 1, 64, 66} <= set(looked_for(Track(still, shown, changing, 4, 64), starts))
    assert edges(12) == [0, 1, 2, 3, 4, 6, 8, 12, 16]


def test_a_probe_finds_regions_that_one_line_separates_and_ignores_what_never_varies():
    x = torch.rand(600, 2, generator=torch.Generator().manual_seed(1)) * 3
    label = x[:, 0].long()  # three stripes: no least-squares fit of the middle one is the highest
    x = torch.cat([x, torch.full((600, 1), 5.0)], 1)
    probe = fit(x[:300], label[:300], 3)
    assert (probe(x[300:]) == label[300:]).double().mean() > 0.95
    blind = fit(torch.ones(10, 2), torch.tensor([1] * 7 + [0] * 3), 4)
    assert blind(torch.randn(5, 2)).tolist() == [1] * 5


def test_the_delay_line_of_repeat_previous():
    env = make_config("repeat-previous", k=2)

    class Line(Cues):
        """Holds the last two suits."""

        def initial_state(self, batch):
            return torch.zeros(batch, 8)

        def step(self, x, state, start):
            state = torch.where(start[:, None], 0.0, state)
            return x, torch.cat([x[:, :4], state[:, :4]], 1)

    made = record(player(env, Line()), env, steps=104, rows=32, read="state")
    found = {each.back: each for each in readings(made) if each.source == "state"}
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[0].accuracy.value == found[1].accuracy.value == 1
    assert found[2].accuracy.value < 0.45
    assert [point.at for point in found[1].by_age] == [1]


@pytest.mark.parametrize("name", MEMORIES)
def test_every_core_can_be_diagnosed(name):
    env = make_config("endless-tmaze", length=2, corridors=2)
    built = env.build(1, 0)
    memory = make_memory(name, width=8)
    policy = Policy(EncoderConfig(), memory, built.observation_space, built.action_space)
    made = record(policy, env, steps=24, rows=8, greedy=False, project=16)
    wanted = sources(policy.core, made.state_units, "auto")
    assert set(made.features) == set(wanted)
    assert "output" in wanted
    assert ("state" in wanted) == (made.state_units > 0 and policy.core.context_entries(1) == 0)
    assert all(part.shape[:2] == (24, 8) and part.shape[2] <= 16 for part in made.features.values())
    assert {each.source for each in readings(made)} == set(wanted)
    for source, units in made.units.items():
        assert by_regression(source, units, made.starts_TB).longest > 0
    for share in made.kept.values():
        assert (share <= 0).all()
    life = live(policy, env, steps=20, rows=4, trained=10)
    assert all(np.isfinite(norm.rms_T).all() for norm in life.norms)


@pytest.mark.parametrize(
    ("name", "options", "gate"),
    [
        ("gru", {}, "0.update"),
        ("lstm", {}, "0.forget"),
        ("paragru", {}, "0.update"),
        ("paralstm", {}, "0.forget"),
        ("deltanet", {"gate": "scalar"}, "0.decay"),
        ("mlstm", {}, "0.kept"),
    ],
)
def test_gates_say_what_is_kept(name, options, gate):
    env = make_config("endless-tmaze", length=2, corridors=2)
    built = env.build(1, 0)
    policy = Policy(EncoderConfig(), make_memory(name, width=8, **options), built.observation_space, built.action_space)
    made = record(policy, env, steps=6, rows=4)
    assert list(made.kept) == [gate]
    assert (made.kept[gate] < 0).all()
    assert (made.kept[gate] > math.log(1e-4)).all()  # what is emptied does not count


def test_a_state_that_is_not_there_and_a_recording_too_large_are_refused():
    env = make_config("endless-tmaze")
    built = env.build(1, 0)
    policy = Policy(EncoderConfig(), make_memory("none", width=8), built.observation_space, built.action_space)
    with pytest.raises(ValueError, match="no state"):
        record(policy, env, steps=4, rows=4, read="state")
    with pytest.raises(ValueError, match="GB"):
        record(policy, env, steps=10_000_000, rows=64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["gru", "memo"])
def test_a_diagnosis_on_a_gpu(name):
    env = make_config("color-cubes", size=3)
    built = env.build(1, 0)
    policy = Policy(EncoderConfig(), make_memory(name, width=64), built.observation_space, built.action_space).cuda()
    made = record(policy, env, steps=40, rows=32, device="cuda", read="both", project=32)
    assert {each.source for each in readings(made)} == {"input", "output", "state"}
    assert by_regression("state", made.units["state"], made.starts_TB).longest > 0
    life = live(policy, env, steps=30, rows=4, trained=10, device="cuda")
    assert all(np.isfinite(norm.rms_T).all() for norm in life.norms)
