"""Blocks against a loop over the whole past, and a cue that only they find."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import angles, rotate
from mnemic.memory import make_config
from mnemic.memory.caches import make_cache
from mnemic.memory.core import Core

from .conftest import built


def at(x: Tensor, position: int) -> Tensor:
    return rotate(x, *angles(torch.tensor(position), x.shape[-1], x.dtype))


def loop(layer: Any, x_TD: Tensor, sinks: int, window: int, block: int, top: int, few: int, store: int) -> Tensor:
    """One row, one head, one layer, one distance for all that is far; plain lists."""
    q, k, v = layer.weights.project(x_TD).chunk(3, -1)
    root, mass = q.shape[-1] ** 0.5, torch.zeros(len(x_TD))
    blocks: dict[int, float] = {}
    faces: dict[int, Tensor] = {}
    outputs = []
    for now in range(len(x_TD)):
        left = max(0, (now - sinks - window) // block)
        if left and (now - sinks - window) % block == 0:
            if len(blocks) == store:
                dropped = min(blocks, key=lambda number: (blocks[number], number))
                del blocks[dropped], faces[dropped]
            first = sinks + (left - 1) * block
            best = sorted(range(first, first + block), key=lambda step: -mass[step])[:few]
            blocks[left - 1], faces[left - 1] = 1.0, k[best].mean(0)
        far = at(q[now], window)
        read = sorted(blocks, key=lambda number: -(faces[number] @ far).item())[:top]
        keys, values, owners = [], [], []
        for step in range(min(sinks, now + 1)):
            keys.append(far @ at(k[step], max(0, window - (now - step))))
            values.append(v[step])
            owners.append("sink")
        for number in read:
            for step in range(sinks + number * block, sinks + (number + 1) * block):
                keys.append(far @ k[step])
                values.append(v[step])
                owners.append(number)
        for step in range(sinks + left * block, now + 1):
            keys.append(at(q[now], now) @ at(k[step], step))
            values.append(v[step])
            owners.append(("near", step))
        weight = (torch.stack(keys) / root).softmax(0)
        outputs.append(layer.weights.out(weight @ torch.stack(values)))
        for number in blocks:
            share = sum(weight[i].item() for i, owner in enumerate(owners) if owner == number)
            blocks[number] = 0.5 * blocks[number] + share
        for i, owner in enumerate(owners):
            if isinstance(owner, tuple):
                mass[owner[1]] += weight[i].item()
    return torch.stack(outputs)


@pytest.mark.parametrize(("sinks", "top"), [(0, 1), (2, 2), (1, 5)])
def test_it_is_what_a_plain_loop_does(sinks: int, top: int) -> None:
    """With a store of 3 blocks, so that blocks are dropped by use as well as found."""
    config, core = built("transformer", width=8, heads=1, residual="none", mlp=0)
    sizes = {"sinks": sinks, "window": 6, "block": 4, "top": top, "representatives": 2}
    cache = make_cache("blocks", context=sinks + 6 + 4 + 3 * 4, decay=0.5, **sizes).apply(config, core, 200)
    x_TBD, start_TB = torch.randn(70, 1, 8, dtype=torch.float64), torch.zeros(70, 1, dtype=torch.bool)
    got, _ = cache.unroll(x_TBD, cache.initial_state(1), start_TB)
    want = loop(core.layers[0], x_TBD[:, 0], sinks, 6, 4, top, 2, 3)  # type: ignore[index]
    torch.testing.assert_close(got[:, 0], want, rtol=1e-5, atol=1e-6)


def seeker(**options: Any) -> tuple[Any, Core]:
    """A transformer that looks for a cue: input 3 says that a step is the cue, input 7 that it is asked for.

    The slowest pair of a head of 8 turns by 0.001 per step, so that the cue is found at any distance. The value is
    inputs 0 and 1.
    """
    config = make_config("transformer", width=8, heads=1, residual="none", mlp=0, **options)
    core = config.build().double()
    with torch.no_grad():
        weights = core.layers[0].weights  # type: ignore[index, union-attr]
        weights.project.weight.zero_()
        weights.project.weight[3, 7] = 20.0  # the query, from being asked
        weights.project.weight[8 + 3, 3] = 20.0  # the key, from being the cue
        weights.project.weight[16, 0] = weights.project.weight[17, 1] = 1.0
        weights.out.weight.copy_(torch.eye(8))
    return config, core


def recalled(core: Core, delay: int, asking: float) -> float:
    """Show a cue with the value 1 at step 10, wait, ask; the steps between ask a little. Return what is read."""
    noise = torch.Generator().manual_seed(0)
    state, y_BD = core.initial_state(1), torch.zeros(1, 8)
    with torch.no_grad():
        for time in range(10 + delay + 1):
            x_BD = torch.zeros(1, 8, dtype=torch.float64)
            x_BD[0, 1] = torch.randn((), generator=noise)
            x_BD[0, 0] = x_BD[0, 3] = float(time == 10)
            x_BD[0, 7] = 1.0 if time == 10 + delay else asking
            y_BD, state = core.advance(x_BD, state, torch.tensor([time == 0]))
    return float(y_BD[0, 0])


SIZES = {"sinks": 2, "window": 16, "block": 8, "top": 2, "representatives": 2}


def test_a_cue_is_found_after_a_delay_that_a_window_does_not_span() -> None:
    config, core = seeker()
    blocks = make_cache("blocks", context=1024, **SIZES).apply(config, core, 2_000)
    assert recalled(blocks, 400, asking=0.05) > 0.99
    window = make_cache("window", context=2 + 16 + 8 + 2 * 8).apply(config, core, 2_000)
    assert abs(recalled(window, 400, asking=0.05)) < 1e-6
    sinks = make_cache("sinks", context=2 + 16 + 8 + 2 * 8, sinks=2).apply(config, core, 2_000)
    assert abs(recalled(sinks, 400, asking=0.05)) < 1e-6


def test_a_small_store_keeps_the_block_that_is_read_and_loses_one_that_is_not() -> None:
    """Four blocks: after 400 steps, 46 others have come. The block of the cue stays as long as steps look for it."""
    config, core = seeker()
    small = make_cache("blocks", context=2 + 16 + 8 + 4 * 8, **SIZES).apply(config, core, 2_000)
    assert small.context_entries(400) <= 2 + 16 + 8 + 4 * 8
    assert recalled(small, 400, asking=0.05) > 0.99
    assert abs(recalled(small, 400, asking=0.0)) < 1e-6


def test_what_is_kept_and_what_is_read() -> None:
    config = make_config("transformer", width=64, heads=4)
    core = config.build()
    cache = make_cache("blocks", context=1024).apply(config, core, 5_000)
    assert [cache.context_entries(steps) for steps in (0, 1, 500, 5_000)] == [0, 1, 500, 1000]
    # The step after 5,000 reads 4 first ones, 8 blocks, and the 69 that have not left in 308 blocks; it looks up 58.
    window = make_cache("window", context=4 + 8 * 16 + 69).apply(config, core, 5_000)
    assert cache.flops_per_step(5_000) == window.flops_per_step(5_000) + 2 * 64 * 58
    # Keys and values of 1,012 slots, a mean key for each of 58 blocks, and the ledger.
    slots = 4 + 64 + 16 + 58 * 16
    assert cache.state_bytes(5_000) == 4 * (2 * 64 * slots + 64 * 58) + 4 * 80 + 8 * 58 + 8
