"""The laws of a core hold under every policy, and acting never looks at the data."""

from typing import Any

import pytest
import torch

from mnemic.memory import make_config
from mnemic.memory.caches import make_cache
from mnemic.memory.core import parts
from mnemic.memory.laws import LAWS, Scale

from .conftest import MEMO, TIGHT, TIGHT_MEMO, Stream, built

SMALL = Scale(batch=3, steps=14, far=30, stream=30)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("policy", ["sinks", "age", "thin", "blocks"])
def test_every_way_to_keep_entries_keeps_the_laws(policy: str, law: str) -> None:
    """Also those of learning, although nobody learns through a cache: what is dropped has no gradient, the rest has."""
    name, options = TIGHT[policy]
    config = make_config("transformer", width=8, heads=2)
    LAWS[law](lambda: make_cache(name, **options).apply(config, config.build(), 40), SMALL)


@pytest.mark.parametrize(
    ("memory", "name", "options"),
    [("transformer", *tight) for tight in TIGHT.values()] + [("memo", *tight) for tight in TIGHT_MEMO.values()],
)
def test_acting_never_looks_at_the_data(memory: str, name: str, options: dict[str, Any]) -> None:
    """On a device that has no data, a look raises. So a CUDA graph can capture it."""
    with torch.device("meta"):
        config = make_config(memory, width=8, heads=2, **(MEMO if memory == "memo" else {}))
        core = make_cache(name, **options).apply(config, config.build(), 40)
        state, row_B = core.initial_state(3), torch.zeros(3, dtype=torch.bool)
        for _ in range(2):
            told = (row_B,) if core.episodic else ()
            y_BD, state = core.advance(torch.zeros(3, 8), state, row_B, *told)
            if core.settles:
                state = core.settle(state)
            if core.judges:
                state = core.judge(state, torch.zeros(3))
    assert y_BD.shape == (3, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "options"), TIGHT.values())
def test_a_graph_of_acting_on_a_gpu_does_what_steps_on_a_cpu_do(
    name: str, options: dict[str, Any], stream: Stream
) -> None:
    config, core = built("transformer", depth=2, sink="kv0")
    cache = make_cache(name, **options)
    stream.x_TBD = stream.x_TBD.float()
    want = stream.run(cache.apply(config, core.float(), 40))
    on_gpu = cache.apply(config, core.cuda(), 40)
    told = [part.cuda() for part in (stream.x_TBD, stream.start_TB, stream.surprise_TB, stream.episode_TB)]
    given = [part[0].clone() for part in told]
    kept = on_gpu.initial_state(3)
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def step() -> torch.Tensor:
        x_BD, start_B, surprise_B, episode_B = given
        y_BD, after = on_gpu.advance(x_BD, kept, start_B, *((episode_B,) if on_gpu.episodic else ()))
        after = on_gpu.judge(after, surprise_B)
        for name, part in parts(after).items():
            parts(kept)[name].copy_(part)
        return y_BD

    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside), torch.no_grad():
        step()
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph), torch.no_grad():
        y_BD = step()
    for time in range(len(want)):
        for place, part in zip(given, told, strict=True):
            place.copy_(part[time])
        graph.replay()
        torch.testing.assert_close(y_BD.cpu(), want[time], rtol=1e-3, atol=1e-3)


LEARNING = ("causal", "forgetting is exact", "gradients agree", "rows are independent", "survives")


@pytest.mark.parametrize("law", [law for law in LAWS if law not in LEARNING])
@pytest.mark.parametrize("name", ["sinks", "surprise"])
def test_memo_under_a_rule_keeps_the_laws_of_acting(name: str, law: str) -> None:
    config = make_config("memo", width=8, heads=2, segment=4, summaries=2)
    cache = make_cache(name, context=14, sinks=1, **({} if name == "sinks" else {"recent": 1}))
    LAWS[law](lambda: cache.apply(config, config.build(), 40), SMALL)
