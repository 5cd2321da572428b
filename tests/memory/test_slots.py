"""Slots: what a write overwrites and what it leaves, by numbers that are worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory import make_config
from mnemic.memory.slots import Slots, SlotsConfig, SlotState


def build(**options: Any) -> Slots:
    """One layer with 3 slots of 2 numbers and the unit vectors as keys, the last that of "no write"."""
    torch.manual_seed(0)
    given = {"width": 2, "slots": 3, "slot_width": 2, "key_width": 4, "temperature": 1.0, **options}
    core = SlotsConfig(**given).build().layers[0].double().eval()  # type: ignore[index,union-attr]
    assert isinstance(core, Slots)
    with torch.no_grad():
        core.keys.copy_(torch.eye(4))
        for part in (core.write_query, core.value, core.read_query):
            part.weight.zero_()
            part.bias.zero_()
    return core


def aim(core: Slots, *writes: tuple[list[float], list[float]]) -> None:
    """Let each write have these scores, of the slots and of "no write", and say this."""
    with torch.no_grad():
        # Scores are divided by the root of 4.
        core.write_query.bias.copy_(2 * torch.tensor([score for score, _ in writes]).flatten())
        core.value.bias.copy_(torch.tensor([value for _, value in writes]).flatten())


def filled(core: Slots, rows: int = 1) -> SlotState:
    state = core.initial_state(rows)
    return state._replace(slots_BMV=torch.tensor([[[1.1, 2.2], [3.3, 4.4], [5.5, 6.6]]] * rows).double())


def after(core: Slots, state: SlotState) -> Tensor:
    x, start = torch.randn(1, 1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.bool)
    slots = core.unroll(x, state, start)[1].slots_BMV
    assert torch.equal(core.step(x[0], state, start[0])[1].slots_BMV, slots)
    return slots[0]


@pytest.mark.parametrize("write", ["straight-through", "gumbel"])
def test_a_write_overwrites_one_slot_and_leaves_the_others_to_the_bit(write: str) -> None:
    core = build(write=write)
    aim(core, ([0.1, 0.3, 0.2, 0.0], [7.7, 8.8]))
    state = filled(core)
    got = after(core, state)
    assert torch.equal(got[1], core.value.bias)
    assert torch.equal(got[[0, 2]], state.slots_BMV[0, [0, 2]])


def test_no_write_leaves_all_for_ever() -> None:
    core = build(hold_bias=0.5)
    aim(core, ([0.1, 0.3, 0.2, 0.0], [7.7, 8.8]))
    state = filled(core)
    x, start = torch.randn(1_000, 1, 2, dtype=torch.float64), torch.zeros(1_000, 1, dtype=torch.bool)
    assert torch.equal(core.unroll(x, state, start)[1].slots_BMV, state.slots_BMV)


def test_a_soft_write_goes_everywhere_as_far_as_the_softmax_says() -> None:
    """Scores log 1, log 2, log 3, log 4 over a temperature of 1 are shares of a tenth, and over one half, squares."""
    scores = [math.log(n) for n in (1, 2, 3, 4)]
    for temperature, shares in ((1.0, (0.1, 0.2, 0.3)), (0.5, (1 / 30, 4 / 30, 9 / 30))):
        core = build(write="soft", temperature=temperature)
        aim(core, (scores, [10.0, 20.0]))
        want = [
            [(1 - p) * old + p * new for old, new in zip(slot, (10.0, 20.0), strict=True)]
            for p, slot in zip(shares, ((1.1, 2.2), (3.3, 4.4), (5.5, 6.6)), strict=True)
        ]
        torch.testing.assert_close(after(core, filled(core)), torch.tensor(want).double(), rtol=1e-6, atol=1e-6)


def test_a_burst_of_writes_fills_as_many_slots_and_the_last_one_counts() -> None:
    core = build(writes=4)
    to = [[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0], [1.0, 0, 0, 0]]
    aim(core, *((score, [float(number), -float(number)]) for number, score in enumerate(to)))
    want = torch.tensor([[3.0, -3.0], [3.3, 4.4], [1.0, -1.0]]).double()
    got = after(core, filled(core))
    assert torch.equal(got[[0, 2]], want[[0, 2]])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_hard_address_is_that_of_the_softmax() -> None:
    """d(sum of slots) / d(score j) = p_j (g_j - sum_m p_m g_m), with g_m = sum(v - S_m), and 0 for "no write"."""
    core = build()
    aim(core, ([math.log(n) for n in (1, 4, 3, 2)], [10.0, 20.0]))
    state = filled(core)
    x, start = torch.zeros(1, 1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.bool)
    core.unroll(x, state, start)[1].slots_BMV.sum().backward()
    p, g = torch.tensor([0.1, 0.4, 0.3, 0.2]), torch.tensor([30 - 3.3, 30 - 7.7, 30 - 12.1, 0.0])
    want = p * (g - (p * g).sum())
    # The bias of the query is twice the score.
    assert core.write_query.bias.grad is not None
    torch.testing.assert_close(core.write_query.bias.grad, want.double() / 2, rtol=1e-6, atol=1e-6)


def test_noise_is_for_the_pass_that_learns_and_chooses_as_the_softmax_says() -> None:
    core = build(write="gumbel")
    aim(core, ([math.log(n) for n in (1, 4, 3, 2)], [0.0, 0.0]))
    x, start, many = torch.zeros(1, 1, 2, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.bool), 4_000
    rows, starts = x.expand(1, many, 2), start.expand(1, many)
    core.train()
    torch.manual_seed(3)
    slots = core.unroll(rows, filled(core, many), starts)[1].slots_BMV
    written = (slots == 0).all(-1).double()
    assert written.sum(-1).le(1).all()
    torch.testing.assert_close(written.mean(0), torch.tensor([0.1, 0.4, 0.3]).double(), rtol=0, atol=0.03)
    torch.manual_seed(3)
    assert torch.equal(core.unroll(rows, filled(core, many), starts)[1].slots_BMV, slots)
    quiet = core.step(rows[0], filled(core, many), starts[0])[1].slots_BMV
    assert (quiet[:, 1] == 0).all()
    assert (quiet[:, [0, 2]] != 0).all()


def test_it_reads_with_a_softmax_of_keys_and_a_gate_merges() -> None:
    """Read scores log 1, 2, 1 over slots are a mean with a quarter, a half, a quarter: 3.3, 4.4."""
    core = build(hold_bias=9.0)
    with torch.no_grad():
        core.read_query.bias[:3] = 2 * torch.tensor([1.0, 2.0, 1.0]).log()
        core.read_out.weight.copy_(torch.tensor([[10.0, 0.0], [0.0, 100.0]]))
        core.fuse.weight.zero_()
        core.fuse.bias.copy_(torch.tensor([math.log(3), math.log(1 / 3)]))
    x, start = torch.randn(1, 2, dtype=torch.float64), torch.tensor([False])
    y, state = core.step(x, filled(core), start)
    hidden = state.controller.hidden[0]
    want = [0.25 * hidden[0].item() + 0.75 * 33, 0.75 * hidden[1].item() + 0.25 * 440]
    torch.testing.assert_close(y[0], torch.tensor(want).double(), rtol=1e-6, atol=1e-6)


def test_with_feedback_the_controller_hears_what_was_read() -> None:
    """Through the weights of the way back alone: without them it is the core without."""
    torch.manual_seed(0)
    plain = SlotsConfig(width=6, slots=4).build().eval()
    fed = SlotsConfig(width=6, slots=4, feedback=True).build().eval()
    fed.load_state_dict(plain.state_dict(), strict=False)
    x, start = torch.randn(9, 3, 6), torch.rand(9, 3) < 0.2
    with torch.no_grad():
        want, _ = plain.unroll(x, plain.initial_state(3), start)
        assert not torch.allclose(fed.unroll(x, fed.initial_state(3), start)[0], want, atol=1e-4)
        fed.layers[0].back.weight.zero_()  # type: ignore[index,union-attr,operator]
        torch.testing.assert_close(fed.unroll(x, fed.initial_state(3), start)[0], want, rtol=1e-5, atol=1e-6)


def test_gates_say_whether_a_write_takes_place() -> None:
    core = build(writes=2)
    aim(core, ([0.0, 1.0, 0.0, 0.0], [1.0, 1.0]), ([0.0, 0.0, 0.0, 1.0], [1.0, 1.0]))
    x, start = torch.randn(3, 2, dtype=torch.float64), torch.tensor([True, False, False])
    gates = core.gates(x, filled(core, 3), start)
    assert gates["write"].tolist() == [[1.0, 0.0]] * 3
    assert set(gates) == {"input", "forget", "output", "write", "fuse"}
    assert gates["fuse"].shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 0}, "slots is 0; it must be at least 1"),
        ({"writes": 0}, "writes is 0; it must be at least 1"),
        ({"temperature": 0.0}, r"temperature is 0.0; it must be above 0"),
        ({"write": "hard"}, "unknown write 'hard'; choose straight-through, gumbel or soft"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"memory slots: {said}"):
        make_config("slots", **options)


def test_it_learns_to_keep_and_overwrite_what_belongs_to_each_key() -> None:
    """Four keys get one of four values again and again, and now and then one is asked for: chance is a quarter."""
    torch.manual_seed(0)
    keys, values, steps, rows = 4, 4, 16, 64
    core = SlotsConfig(width=32).build()
    into, out = torch.nn.Linear(keys + values + 1, 32), torch.nn.Linear(32, values)
    learned = [*core.parameters(), *into.parameters(), *out.parameters()]
    optimiser, right = torch.optim.Adam(learned, 5e-3), []
    start = torch.zeros(steps, rows, dtype=torch.bool)
    while len(right) < 300 and sum(right[-10:]) <= 9.7:
        key, value = torch.randint(keys, (steps, rows)), torch.randint(values, (steps, rows))
        asked, held, want = torch.rand(steps, rows) < 0.4, torch.full((rows, keys), -1), []
        for t in range(steps):
            held = torch.where(asked[t, :, None], held, held.scatter(1, key[t, :, None], value[t, :, None]))
            want.append(torch.where(asked[t], held.gather(1, key[t, :, None])[:, 0], -1))
        one_of_key, one_of_value = torch.eye(keys)[key], torch.eye(values)[value] * ~asked[..., None]
        seen = torch.cat([one_of_key, one_of_value, asked[..., None].float()], -1)
        y, _ = core.unroll(into(seen), core.initial_state(rows), start)
        said, target = out(y).flatten(0, 1), torch.stack(want).flatten()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(said, target, ignore_index=-1).backward()
        optimiser.step()
        known = target >= 0
        right.append((said.argmax(-1) == target)[known].float().mean().item())
    assert sum(right[-10:]) > 9.7
