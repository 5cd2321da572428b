"""Which entries the rules drop, against evictions worked out by hand; and the figures of the papers' rules."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mnemic.memory import make_config
from mnemic.memory.caches import make_cache
from mnemic.memory.caches.age import AgeConfig
from mnemic.memory.caches.ledger import enter, newest, next_slot, no_entries
from mnemic.memory.caches.rule import RuleConfig
from mnemic.memory.caches.slots import SlotCore
from mnemic.memory.caches.streaming import weigh
from mnemic.memory.caches.surprise import SurpriseConfig

from .conftest import built


def kept(
    name: str, steps: int, surprise: list[float] | None = None, episodes: list[int] | None = None, **options: Any
) -> list[list[int]]:
    """Return the steps that one row keeps after each step, the oldest first: they are told by their values."""
    config, core = built("transformer", width=4)
    cache = make_cache(name, **options).apply(config, core, steps)
    x_TBD = torch.randn(steps, 1, 4, dtype=torch.float64)
    value_TD = core.layers[0].weights.project(core.blocks[0].before(x_TBD[:, 0]))[:, -4:]  # type: ignore
    state, found = cache.initial_state(1), []
    for time, x_BD in enumerate(x_TBD):
        episode_B = torch.tensor([time in (episodes or [])])
        _, state = cache.advance(x_BD, state, torch.tensor([time == 0]), episode_B)  # type: ignore[call-arg]
        if surprise:
            state = cache.judge(state, torch.tensor([surprise[time]]))
        slot_SD = state.kept.kv_LB2HSK[0][0, 1].transpose(0, 1).flatten(1)
        rank_S, order = state.kept.ledger.rank_BS[0].tolist(), {}
        for slot, rank in enumerate(rank_S):
            if rank >= 0:
                order[rank] = int((value_TD - slot_SD[slot]).abs().sum(1).argmin())
        found.append([order[rank] for rank in sorted(order)])
    return found


def test_sinks_stay_and_the_oldest_of_the_others_goes() -> None:
    found = kept("sinks", 8, context=4, sinks=1)
    assert found == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3, 4], [0, 3, 4, 5], [0, 4, 5, 6], [0, 5, 6, 7]]
    assert kept("sinks", 6, context=4, sinks=3)[-1] == [0, 1, 2, 5]


def test_the_least_surprising_goes_but_for_sinks_and_the_newest() -> None:
    """Sinks 1, recent 1: of the two in between the lower goes, also when the newest would be lower still."""
    found = kept("surprise", 8, [9, 1, 5, 2, 0, 3, 0, 0], context=4, sinks=1, recent=1, decay=1.0)
    # Before step 4: steps 1 (1) and 2 (5) may go. Before 5: 2 (5), 3 (2). Before 6: 2, 4 (0). Before 7: 2, 5 (3).
    assert found[3:] == [[0, 1, 2, 3], [0, 2, 3, 4], [0, 2, 4, 5], [0, 2, 5, 6], [0, 2, 6, 7]]


def test_without_protection_the_newest_may_go_at_once() -> None:
    found = kept("surprise", 6, [3, 2, 1, 9, 0, 9], context=3, sinks=0, recent=0, decay=1.0)
    assert found[2:] == [[0, 1, 2], [0, 1, 3], [0, 3, 4], [0, 3, 5]]


def test_of_equals_the_oldest_goes() -> None:
    assert kept("surprise", 6, [1.0] * 6, context=3, sinks=0, recent=0)[-1] == [3, 4, 5]


def test_rounds_of_steps_and_of_episodes_let_scores_decay() -> None:
    """Step 1 has 5 and step 3 has 2. After a round at step 4 they have 0.5 and 0.2; new ones with 1 outlive them."""
    options = {"context": 4, "sinks": 1, "recent": 1}
    surprise = [9, 5, 0, 2, 1, 1, 1, 1]
    without = kept("surprise", 8, surprise, decay=1.0, **options)
    assert without[-1] == [0, 1, 6, 7]
    steps = kept("surprise", 8, surprise, decay=0.1, round_steps=4, **options)
    episodes = kept("surprise", 8, surprise, [4], decay=0.1, **options)
    assert steps == episodes
    # Before 4: 1 (.5), 2 (0). Before 5: 1 (.5), 3 (.2). Before 6: 1 (.5), 4 (1). Before 7: 4 (1), 5 (1), the older.
    assert steps[4:] == [[0, 1, 3, 4], [0, 1, 4, 5], [0, 4, 5, 6], [0, 5, 6, 7]]


def test_without_episodes_nothing_decays_where_rounds_are_episodes() -> None:
    core = make_config("transformer").build()
    cache = make_cache("surprise", context=20)
    assert cache.apply(make_config("transformer"), core, 50).episodic
    assert not make_cache("surprise", round_steps=5).apply(make_config("transformer"), core, 50).episodic
    assert not make_cache("surprise", decay=1.0).apply(make_config("transformer"), core, 50).episodic


@pytest.mark.parametrize(("decay", "rounds"), [(0.9, 21.9), (0.7, 6.5), (0.5, 3.3)])
def test_decay_arithmetic_of_sirllm(decay: float, rounds: float) -> None:
    """A score of 10 is above a fresh one of 1 for 21.9, 6.5 and 3.3 rounds."""
    rule = SurpriseConfig(decay=decay)
    marks, yes, count = rule.blank(1, 1, torch.device("cpu")), torch.tensor([True]), 0
    marks = rule.judged(marks, torch.tensor([[True]]), torch.tensor([10.0]))
    while marks.score_BS >= 1:
        marks, count = rule.tick(marks, torch.tensor([count]), yes), count + 1
    assert count == math.ceil(rounds)
    assert math.log(10) / -math.log(decay) == pytest.approx(rounds, abs=0.05)


def test_a_surprise_that_is_not_a_number_counts_as_none() -> None:
    found = kept("surprise", 5, [3, math.nan, 2, math.inf, 1], context=3, sinks=0, recent=0)
    assert found[-1] == [0, 3, 4]


def test_salience_by_hand() -> None:
    """Ages 4 to 1; step 0 was used 3 steps ago and step 2 just now, within 2 steps counts."""
    rule = AgeConfig(rate=0.5, bonus=0.4, used_steps=2, sinks=0, recent=0)
    ledger = no_entries(rule, 1, 4, torch.device("cpu"))
    for step in range(4):
        ledger = enter(rule, ledger, next_slot(rule, ledger), ledger.seen_B)
        share = torch.tensor([[[0.0] * 4, [0.2, 0, 0, 0], [0.0] * 4, [0, 0.05, 0.3, 0]][step]])
        ledger = ledger._replace(marks=rule.used(ledger.marks, share, torch.tensor([step])))
    age = torch.tensor([[math.exp(-2), math.exp(-1.5), math.exp(-1), math.exp(-0.5)]])
    torch.testing.assert_close(rule.worth(ledger), age + torch.tensor([[0, 0, 0.4, 0]]))
    assert next_slot(rule, ledger).tolist() == [0]
    printed = AgeConfig(rate=0.5, bonus=0.4, used_steps=2, sinks=0, recent=0, printed=True)
    torch.testing.assert_close(printed.worth(ledger), age + torch.tensor([[0.4, 0.4, 0, 0.4]]))
    assert next_slot(printed, ledger).tolist() == [2]


def test_an_entry_is_used_by_attention() -> None:
    """A row whose queries are 0 gives all entries the same: 1/2 to each of two, 1/3 to each of three."""
    config, core = built("transformer", width=4)
    with torch.no_grad():
        core.layers[0].weights.project.weight[:4] = 0  # type: ignore[index, union-attr]
    cache = make_cache("age", context=5, sinks=0, recent=0, used_share=0.4).apply(config, core, 9)
    state = cache.initial_state(1)
    for time in range(3):
        _, state = cache.advance(torch.randn(1, 4).double(), state, torch.tensor([time == 0]))
    never = -(2**31)
    assert state.kept.ledger.marks.used_BS.tolist() == [[1, 1, never, never, never]]
    assert state.kept.ledger.marks.born_BS[0, :3].tolist() == [0, 1, 2]


def test_a_new_entry_does_not_inherit_what_was_noted_of_the_old_one() -> None:
    """Step 0 goes first, with a surprise of 9, or used just before; nobody judges or uses what takes its slot."""
    found = kept("surprise", 7, [9.0, 10, 10, math.nan, 1, 1, 1], context=3, sinks=0, recent=0, decay=1.0)
    assert found[3:] == [[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6]]
    for rule in (AgeConfig(sinks=0, recent=0), SurpriseConfig(sinks=0, recent=0)):
        ledger = no_entries(rule, 1, 2, torch.device("cpu"))
        for _ in range(2):
            ledger = enter(rule, ledger, next_slot(rule, ledger), ledger.seen_B)
        fresh = enter(rule, ledger, next_slot(rule, ledger), ledger.seen_B)
        marks = rule.used(ledger.marks, torch.ones(1, 2), torch.tensor([1]))
        marks = rule.judged(marks, torch.tensor([[True, True]]), torch.tensor([5.0]))
        after = enter(rule, ledger._replace(marks=marks), torch.tensor([0]), ledger.seen_B)
        assert [part[0, 0] for part in after.marks] == [part[0, 0] for part in fresh.marks]


def hit_rate(rule: RuleConfig, seeds: int = 3, capacity: int = 200, turns: int = 4000) -> float:
    """Queries that find their item in a store of fixed size: half of the turns ask for one of 20 recent important ones.

    The check of facts on HEMA: an item comes every turn and every 50th is important.
    """
    asked_BT = np.full((seeds, turns), -1)
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        for turn in range(turns):
            hot = list(range(0, turn + 1, 50))[-20:]
            if draw.random() < 0.5:
                asked_BT[seed, turn] = int(draw.choice(hot))
    asked, hits = torch.from_numpy(asked_BT), torch.zeros(seeds)
    ledger = no_entries(rule, seeds, capacity, torch.device("cpu"))
    for turn in range(turns):
        ledger = enter(rule, ledger, next_slot(rule, ledger), ledger.seen_B)
        found_BS = (ledger.marks.born_BS == asked[:, turn, None]) & (ledger.rank_BS >= 0)
        hits += found_BS.any(1)
        ledger = ledger._replace(marks=rule.used(ledger.marks, found_BS.float(), ledger.seen_B - 1))
    return float((hits / (asked >= 0).sum(1)).mean())


def test_the_hot_set_is_lost_by_the_printed_rule_and_kept_by_the_corrected_one() -> None:
    plain = {"context": 200, "sinks": 0, "recent": 0}
    assert hit_rate(AgeConfig(**plain, printed=True)) == pytest.approx(0.085, abs=0.02)
    assert hit_rate(AgeConfig(**plain, bonus=0.0)) == pytest.approx(0.289, abs=0.02)
    assert hit_rate(AgeConfig(**plain)) == pytest.approx(0.600, abs=0.02)


def test_random_drops_every_place_equally_often_and_other_seeds_others() -> None:
    """1,200 draws of 6 places: each about 200 times, within 4 standard deviations of 13."""
    dropped: list[list[int]] = []
    for seed in (0, 1):
        rule = make_cache("random", context=9, sinks=1, recent=2, seed=seed)
        assert isinstance(rule, RuleConfig)
        ledger, own = no_entries(rule, 1, 9, torch.device("cpu")), []
        for time in range(1209):
            slot_B = next_slot(rule, ledger)
            if time >= 9:
                own.append(int(ledger.rank_BS[0, slot_B[0]]))
            ledger = enter(rule, ledger, slot_B, ledger.seen_B)
        assert set(own) == set(range(1, 7))
        assert all(abs(own.count(place) - 200) < 52 for place in range(1, 7))
        dropped.append(own)
    assert dropped[0] != dropped[1]
    assert kept("random", 12, context=5, sinks=1, recent=1) == kept("random", 12, context=5, sinks=1, recent=1)


def test_the_ledger_numbers_what_is_there_by_age() -> None:
    rule = make_cache("random", context=6, sinks=1, recent=1)
    assert isinstance(rule, RuleConfig)
    ledger = no_entries(rule, 2, 6, torch.device("cpu"))
    assert not newest(ledger).any()
    for step in range(20):
        slot_B = next_slot(rule, ledger)
        ledger = enter(rule, ledger, slot_B, ledger.seen_B)
        ranks = sorted(rank for rank in ledger.rank_BS[0].tolist() if rank >= 0)
        assert ranks == list(range(min(step + 1, 6)))
        assert newest(ledger).nonzero()[:, 1].tolist() == slot_B.tolist()


def test_positions_are_places_in_the_cache(close: Any) -> None:
    """With sinks 1 and context 4, step 9 reads the steps 0, 7, 8 and itself as a trial of four steps would."""
    config, core = built("transformer", width=16)
    x_TBD = torch.randn(10, 1, 16, dtype=torch.float64)
    cache, state = make_cache("sinks", context=4, sinks=1).apply(config, core, 10), None
    assert isinstance(cache, SlotCore)
    state = cache.initial_state(1)
    for time, x_BD in enumerate(x_TBD):
        got, state = cache.advance(x_BD, state, torch.tensor([time == 0]))
    start_TB = torch.tensor([[True], [False], [False], [False]])
    want, _ = core.unroll(x_TBD[[0, 7, 8, 9]], core.initial_state(1), start_TB)
    close("the last step", got, want[-1].detach())


def test_a_zero_sink_is_softmax_with_one_in_the_denominator() -> None:
    torch.manual_seed(0)
    score, value = torch.randn(2, 3, 5), torch.randn(2, 3, 5, 4)
    zero = torch.zeros(3, 4)
    read, (weight,) = weigh(torch.randn(2, 3, 4), [(score, value)], (zero, zero))
    want: Tensor = score.exp() / (1 + score.exp().sum(-1, keepdim=True))
    torch.testing.assert_close(weight, want)
    torch.testing.assert_close(read, (want[..., None] * value).sum(2))
