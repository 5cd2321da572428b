"""What cores say of where their attention goes, against what they read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory import MEMORIES, make_config
from mnemic.memory.core import Core, State, rows
from mnemic.memory.pair import Pair

SAYING = {
    "transformer": {"context": 5},
    "memo": {"segment": 3, "summaries": 2, "sets": 2},
    "gtrxl": {"context": 5},
}
ROWS, WIDTH = 3, 8


def build(name: str, **options: Any) -> Core:
    torch.manual_seed(0)
    core = make_config(name, width=WIDTH, **SAYING.get(name, {}) | options).build().double()
    for part in core.parameters():  # attention that is neither the same for all nor all for one
        torch.nn.init.normal_(part, std=0.4)
    return core


def lived(core: Core, steps: int) -> list[tuple[Tensor, State, Tensor]]:
    """Take steps, the last row two late; return what each was given."""
    state, found = core.initial_state(ROWS), []
    for step in range(steps):
        x_BD, start_B = torch.randn(ROWS, core.width, dtype=torch.float64), torch.tensor([step == 0] * 2 + [step == 2])
        found.append((x_BD, state, start_B))
        _, state = core.step(x_BD, state, start_B)
    return found


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"depth": 2, "heads": 2}], ids=["one layer", "two layers"])
@pytest.mark.parametrize("name", SAYING)
def test_shares_add_up_over_what_was_lived(name: str, options: dict[str, int]) -> None:
    core = build(name, **options)
    for step, told in enumerate(lived(core, 11)):
        share_BA = core.attends(*told)
        assert share_BA is not None
        assert (share_BA >= 0).all()
        torch.testing.assert_close(share_BA.sum(1), torch.ones(ROWS, dtype=torch.float64))
        for row, age in ((0, step + 1), (2, step - 1 if step > 1 else step + 1)):
            assert not share_BA[row, age:].any()
    assert (share_BA[0] > 0.01).sum() > 3
    # Asked alone, a row says the same.
    x_BD, state, start_B = told
    alone = core.attends(x_BD[2:], rows(state, slice(2, 3)), start_B[2:])
    torch.testing.assert_close(alone, share_BA[2:])


@torch.no_grad()
@pytest.mark.parametrize("sink", ["none", "kv0"])
def test_a_transformer_reads_the_values_by_its_shares(sink: str) -> None:
    core = build("transformer", heads=1, residual="none", mlp=0, sink=sink)
    weights = core.layers[0].weights  # type: ignore[index,union-attr]
    values: list[Tensor] = []
    for x_BD, state, start_B in lived(core, 9):
        values.append(weights.project(x_BD)[:, 2 * WIDTH :])  # type: ignore[operator,union-attr]
        share_BA = core.attends(x_BD, state, start_B)
        assert share_BA is not None
        assert bool((share_BA.sum(1) < 1 - 1e-6).all()) == (sink != "none")
        read = sum(share_BA[:, age, None] * value for age, value in enumerate(reversed(values[-5:])))
        torch.testing.assert_close(weights.out(read), core.step(x_BD, state, start_B)[0])  # type: ignore[operator,union-attr]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"current": False, "past_gradient": False}], ids=["all", "past"])
def test_gtrxl_reads_its_inputs_by_its_shares(options: dict[str, bool]) -> None:
    core = build("gtrxl", heads=1, residual="none", mlp=0, **options)
    layer = core.layers[0]  # type: ignore[index]
    inputs: list[Tensor] = []
    for x_BD, state, start_B in lived(core, 9):
        inputs.append(x_BD)
        share_BA = core.attends(x_BD, state, start_B)
        assert share_BA is not None
        mean = sum(share_BA[:, age, None] * x for age, x in enumerate(reversed(inputs[-6:])))
        value = layer.key_and_value(mean)[:, WIDTH:]  # type: ignore[operator,union-attr]
        torch.testing.assert_close(layer.out(value), core.step(x_BD, state, start_B)[0])  # type: ignore[operator,union-attr]


@torch.no_grad()
@pytest.mark.parametrize("store", ["accumulate", "overwrite"])
def test_memo_reads_steps_and_summaries_by_its_shares(store: str) -> None:
    core = build("memo", heads=1, residual="none", mlp=0, summaries=1, store=store)
    sets, layer = (2 if store == "accumulate" else 1), core.layers[0]  # type: ignore[index]
    running: list[Tensor] = []
    for step, (x_BD, state, _) in enumerate(lived(core, 11)):
        ours, never = rows(state, slice(1)), torch.zeros(1, dtype=torch.bool)
        x_BD, number = x_BD[:1], step // 3
        running = [*running, layer.project(x_BD)[:, 2 * WIDTH :]] if step % 3 else [layer.project(x_BD)[:, 2 * WIDTH :]]  # type: ignore[operator,union-attr]
        share_BA = core.attends(x_BD, ours, never)
        assert share_BA is not None
        assert share_BA.shape[1] == 3 * (sets + 1)
        read = sum(share_BA[:, age, None] * value for age, value in enumerate(reversed(running)))
        for back in range(min(number, sets)):
            begun = len(running) + 3 * back
            of_set = share_BA[:, begun : begun + 3]
            assert (of_set == of_set[:, :1]).all()
            slot = (number - 1 - back) % sets
            read = read + of_set.sum(1, keepdim=True) * ours.kv_LB2HNK[0][:, 1, 0, slot]
        torch.testing.assert_close(layer.out(read), core.step(x_BD, ours, never)[0])  # type: ignore[operator,union-attr]


@torch.no_grad()
def test_wrappers_say_what_is_inside() -> None:
    episodic = build("transformer", positions="episode", context=5, depth=2)
    for told in lived(episodic, 4):
        share_BA = episodic.attends(*told)
    assert share_BA is not None
    torch.testing.assert_close(share_BA.sum(1), torch.ones(ROWS, dtype=torch.float64))

    pair = Pair(build("transformer"), build("gru"))
    x_BD, state, start_B = lived(pair, 4)[-1]
    found, want = pair.attends(x_BD, state, start_B), pair.actor.attends(x_BD[:, :WIDTH], state.actor, start_B)
    assert found is not None
    assert want is not None
    assert torch.equal(found, want)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(MEMORIES) - set(SAYING)))
def test_other_cores_say_nothing(name: str) -> None:
    core = make_config(name, width=WIDTH).build()
    assert core.attends(torch.zeros(1, WIDTH), core.initial_state(1), torch.ones(1, dtype=torch.bool)) is None
