"""Mixture of memories: with one memory its rule itself, with several what each does alone, for the steps led to it."""

import pytest
import torch
from torch import Tensor

from mnemic.memory import make_config
from mnemic.memory.matrix import MatrixLayer
from mnemic.memory.mom import Mixture, MoMConfig

RULES = ["deltanet", "linear-attention", "mlstm"]


def never(steps: int, batch: int = 1) -> Tensor:
    return torch.zeros(steps, batch, dtype=torch.bool)


def mixture(rule: str, memories: int, active: int, shared: bool, **options: object) -> Mixture:
    torch.manual_seed(0)
    config = MoMConfig(
        width=6,
        heads=2,
        rule=rule,  # type: ignore[arg-type]
        memories=memories,
        active=active,
        shared=shared,
        **options,  # type: ignore[arg-type]
    )
    core = Mixture(config.layer(memories + shared), memories, active).double()
    for name, part in core.layer.named_parameters():
        if name.startswith(("gate_", "decay", "beta")):
            torch.nn.init.normal_(part)  # so that memories are not alike
    return core


def alone(core: Mixture, memory: int, **options: object) -> MatrixLayer:
    """One memory of a mixture as a layer of its own: with its part of what is made for each memory."""
    config = MoMConfig(width=6, heads=2, **options)  # type: ignore[arg-type]
    layer = config.layer(1).double()
    for name, part in layer.named_parameters():
        given = core.layer.get_parameter(name).detach()
        if name not in SHARED:
            # Writes first, then memories, then what belongs to one. A decay is not for each write.
            writes = 1 if name.startswith("decay") else layer.writes
            given = given.view(writes, core.layer.memories, -1, *part.shape[1:])[:, memory].flatten(0, 1)
        part.data.copy_(given)
    return layer


SHARED = ("query.weight", "norm", "out_gate.weight", "out.weight")


@pytest.mark.parametrize("rule", RULES)
def test_one_memory_is_the_rule_itself(rule: str) -> None:
    core = mixture(rule, 1, 1, False)
    layer = alone(core, 0, rule=rule)
    x, start = torch.randn(30, 3, 6, dtype=torch.float64), torch.rand(30, 3) < 0.1
    want, last = layer.unroll(x, layer.initial_state(3), start)
    got, state = core.unroll(x, core.initial_state(3), start)
    assert torch.equal(got, want)
    assert torch.equal(state.memory_BGKV, last.memory_BGKV)


@pytest.mark.parametrize("options", [{"rule": rule} for rule in RULES] + [{"steps": 2, "beta_max": 2.0}], ids=str)
def test_a_memory_lives_through_the_steps_that_are_led_to_it(options: dict[str, object]) -> None:
    """Each of three memories, two chosen at each step, is a layer alone that never saw the other steps; and the shared
    one saw all. What is read of them adds up by weight."""
    core = mixture(**{"rule": "deltanet", "memories": 3, "active": 2, "shared": True} | options)  # type: ignore[arg-type]
    x = torch.randn(40, 1, 6, dtype=torch.float64)
    route = core._route(x)
    y, state = core.unroll(x, core.initial_state(1), never(40))
    total = torch.zeros(40, 1, 2, 3, dtype=torch.float64)
    for memory in range(4):
        led = route.active_TBM[:, 0, memory]
        assert led.all() if memory == 3 else 0 < led.sum() < 40
        layer = alone(core, memory, **options)
        read, last, _ = layer.recur(x[led], x[led], layer.initial_state(1), never(int(led.sum())), None)
        total[led] += route.weight_TBM[led][..., memory, None, None] * read
        mine = state.memory_BGKV[:, 2 * memory : 2 * memory + 2]
        torch.testing.assert_close(mine, last, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(y, core.layer._leave(total, x), rtol=1e-9, atol=1e-9)


def test_weights_by_hand() -> None:
    """Scores 1, 2, 4 and 8 parts of 15: the best two count 4/12 and 8/12, the shared memory 1."""
    core = mixture("deltanet", 4, 2, True)
    with torch.no_grad():
        core.router.weight.zero_()
        core.router.weight[:, 0] = torch.tensor([1.0, 2, 4, 8]).double().log()
    x = torch.tensor([[[1.0, 0, 0, 0, 0, 0]]], dtype=torch.float64)
    route = core._route(x)
    torch.testing.assert_close(route.weight_TBM.flatten().tolist(), [0.0, 0.0, 1 / 3, 2 / 3, 1.0])
    assert route.active_TBM.flatten().tolist() == [False, False, True, True, True]
    weight = core.gates(x[0], core.initial_state(1), never(1)[0])["weight"]
    torch.testing.assert_close(weight, route.weight_TBM[0])


def test_the_router_learns_from_what_is_read() -> None:
    core = mixture("deltanet", 4, 2, True)
    y, _ = core.unroll(torch.randn(10, 2, 6, dtype=torch.float64), core.initial_state(2), never(10, 2))
    y.square().sum().backward()
    assert core.router.weight.grad is not None
    assert core.router.weight.grad.abs().sum() > 0


def test_a_step_costs_as_many_memories_as_there_are() -> None:
    one, four = (make_config("mom", memories=m, active=1, shared=False).build() for m in (1, 4))
    assert four.state_bytes(0) == 4 * one.state_bytes(0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="active is 5; give 1 to 4, the number of memories"):
        make_config("mom", active=5)
    with pytest.raises(ValueError, match="steps is 2, and the rule mlstm has no such option; choose the rule deltanet"):
        make_config("mom", rule="mlstm", steps=2)
