"""Cores with attention on a GPU: acting in a CUDA graph, and learning with the kernels, are what a CPU computes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.memory.attention import HeadsConfig
from mnemic.memory.core import map_state, parts
from mnemic.memory.memo import MemoConfig
from mnemic.memory.transformer import TransformerConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS, ROWS = 45, 96
SMALL: dict[str, Any] = {"width": 32, "heads": 2, "depth": 2}
CONFIGS: list[HeadsConfig] = [
    MemoConfig(**SMALL, segment=10, summaries=3, sets=2),
    MemoConfig(**SMALL, segment=10, summaries=3, summary_gradient=1),
    MemoConfig(**SMALL, segment=10, summaries=3, store="overwrite"),
    MemoConfig(**SMALL, segment=10, summaries=3, reread=False),
    TransformerConfig(**SMALL, context=16, sink="kv"),
    TransformerConfig(**SMALL, context=16, sink="k0v0", positions="episode", episode_positions=20),
]
configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)


def scene(in_step: bool) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, ROWS, 32, generator=made)
    start = torch.rand(STEPS, 1 if in_step else ROWS, generator=made) < 0.05
    return x, start.expand(-1, ROWS).contiguous()


@configs
def test_acting_in_a_graph_is_stepping_on_a_cpu(config: HeadsConfig) -> None:
    torch.manual_seed(0)
    core = config.build()
    x, start = scene(in_step=False)
    state, want = core.initial_state(ROWS), []
    with torch.no_grad():
        for x_BD, start_B in zip(x, start, strict=True):
            y, state = core.step(x_BD, state, start_B)
            want.append(y)
    core = core.cuda()
    held, x_held, start_held = core.initial_state(ROWS), x[0].cuda(), start[0].cuda()

    def advance() -> Tensor:
        y, after = core.advance(x_held, held, start_held)
        map_state(Tensor.copy_, held, after)
        return y

    def settle() -> None:
        map_state(Tensor.copy_, held, core.settle(held))

    with torch.no_grad():
        advance()  # compiles
        settle()
        map_state(Tensor.copy_, held, core.initial_state(ROWS))
        torch.cuda.synchronize()
        graphs = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[0]):
            y = advance()
        if core.settles:
            with torch.cuda.graph(graphs[1]):
                settle()
        for t in range(STEPS):
            x_held.copy_(x[t])
            start_held.copy_(start[t])
            graphs[0].replay()
            torch.testing.assert_close(y.cpu(), want[t], rtol=1e-4, atol=1e-4)
            while core.settles and core.unsettled(held).any():
                graphs[1].replay()
    for got, part in zip(parts(held).values(), parts(state).values(), strict=True):
        torch.testing.assert_close(got.cpu(), part, rtol=1e-4, atol=1e-4)


@configs
@pytest.mark.parametrize("in_step", [True, False])
@pytest.mark.parametrize("mixed", [False, True])
def test_learning_with_the_kernels_is_learning_on_a_cpu(config: HeadsConfig, in_step: bool, mixed: bool) -> None:
    torch.manual_seed(0)
    core = config.build()
    x, start = scene(in_step)
    results = []
    for device in ("cpu", "cuda"):
        core = core.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=mixed and device == "cuda"):
            y, after = core.unroll(x.to(device), core.initial_state(ROWS), start.to(device))
        found = torch.autograd.grad(y.float().square().mean(), list(core.parameters()), allow_unused=True)
        results.append([y.float(), *parts(after).values(), *found])
    for got, want in zip(results[1], results[0], strict=True):
        if got is not None and want is not None:
            error = (got.cpu().double() - want.detach().double()).abs().max()
            assert error <= (1e-1 if mixed else 1e-3) * want.abs().max().clamp(min=1e-3)
