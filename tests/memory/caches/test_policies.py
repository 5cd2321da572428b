"""What holds for every cache policy: equivalences, the laws, forgetting, bytes, and what is refused."""

from typing import Any

import pytest
import torch

from mnemic.memory import MEMORIES, make_config
from mnemic.memory.caches import CACHES, make_cache
from mnemic.memory.core import parts
from mnemic.memory.pair import Pair

from .conftest import MEMO, TIGHT, TIGHT_MEMO, Stream, act, built

# Policies that drop nothing of a trial of 40 steps, and say so in true positions.
AMPLE: list[tuple[str, dict[str, Any]]] = [
    ("window", {}),
    ("sinks", {}),
    ("sinks", {"positions": "step"}),
    ("surprise", {}),
    ("surprise", {"positions": "step"}),
    ("age", {}),
    ("age", {"positions": "step"}),
    ("random", {}),
    ("thin", {"ratio": 0.0, "recent": 4}),
    ("blocks", {"positions": "step", "window": 8, "block": 4, "top": 100}),
]


def test_there_is_a_tight_and_an_ample_budget_for_every_policy() -> None:
    bounded = set(CACHES) - {"full", "oldest-sets"}
    assert {name for name, _ in TIGHT.values()} == bounded
    assert {name for name, _ in AMPLE} == bounded
    assert {"oldest-sets"} < {name for name, _ in TIGHT_MEMO.values()}


@pytest.mark.parametrize(
    "memory", [{}, {"depth": 2, "sink": "kv"}, {"positions": "episode", "sink": "k0v0"}], ids=["", "sink", "episodes"]
)
@pytest.mark.parametrize(("name", "options"), AMPLE)
def test_a_budget_of_a_whole_trial_is_full_context(
    name: str, options: dict[str, Any], memory: dict[str, Any], stream: Stream
) -> None:
    config, core = built("transformer", **memory)
    want = stream.run(make_cache("full").apply(config, core, 40))
    got = stream.run(make_cache(name, context=100, **options).apply(config, core, 40))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["oldest-sets", "sinks", "surprise", "random"])
def test_a_budget_of_a_whole_trial_is_full_memory_for_memo(name: str, stream: Stream) -> None:
    config, core = built("memo", depth=2, **MEMO)
    want = stream.run(make_cache("full").apply(config, core, 40))
    torch.testing.assert_close(stream.run(make_cache(name, context=100).apply(config, core, 40)), want, rtol=0, atol=0)


def test_full_is_the_core_with_a_slot_for_every_step(stream: Stream) -> None:
    config, core = built("transformer", context=7)
    other = make_config("transformer", width=16, heads=2, context=40).build().double()
    other.load_state_dict(core.state_dict())
    full = make_cache("full").apply(config, core, 40)
    assert torch.equal(stream.run(full), stream.run(other))
    assert full.state_bytes(40) == 40 * 2 * 16 * 8 + 8


def test_full_keeps_every_summary_of_a_trial() -> None:
    config, core = built("memo", sets=2, **MEMO)
    assert core.context_entries(39) == 2 * 2 + 4
    assert make_cache("full").apply(config, core, 40).context_entries(39) == 7 * 2 + 4


@pytest.mark.parametrize("name", sorted(set(MEMORIES) - {"transformer", "memo"}))
def test_full_leaves_a_core_of_constant_memory_as_it_is(name: str) -> None:
    config = make_config(name)
    core = config.build()
    assert make_cache("full").apply(config, core, 1_000_000) is core


def test_a_window_is_the_core_with_that_context(stream: Stream) -> None:
    config, core = built("transformer", depth=2, sink="kv")
    other = make_config("transformer", width=16, heads=2, depth=2, sink="kv", context=9).build().double()
    other.load_state_dict(core.state_dict())
    window = make_cache("window", context=9).apply(config, core, 40)
    assert torch.equal(stream.run(window), stream.run(other))


def test_without_sinks_and_with_true_positions_the_newest_entries_are_a_window(stream: Stream) -> None:
    """So is surprise that nobody judges: of equals, the oldest goes."""
    config, core = built("transformer", depth=2)
    want = stream.run(make_cache("window", context=9).apply(config, core, 40))
    sinks = make_cache("sinks", context=9, sinks=0, positions="step").apply(config, core, 40)
    torch.testing.assert_close(stream.run(sinks), want, rtol=1e-10, atol=1e-10)
    quiet = make_cache("surprise", context=9, sinks=0, recent=3, positions="step").apply(config, core, 40)
    quiet.judges = False
    torch.testing.assert_close(stream.run(quiet), want, rtol=1e-10, atol=1e-10)


def test_the_streaming_memo_of_the_paper() -> None:
    """1024 entries are 24 sets of 32 tokens and a segment of 256 steps."""
    config = make_config("memo", width=8, heads=2, segment=256, summaries=32)
    core = config.build()
    streaming = make_cache("oldest-sets", context=1024).apply(config, core, 32_000)
    assert streaming.context_entries(6_399) == 24 * 32 + 255
    assert streaming.context_entries(31_999) == 24 * 32 + 255
    full = make_cache("full").apply(config, core, 32_000)
    assert full.context_entries(32_000) == 4_000
    assert streaming.state_bytes(32_000) == 1024 * 2 * 8 * 4 + 16


@pytest.mark.parametrize("policy", TIGHT)
def test_staggered_rows_are_as_each_trial_alone(policy: str, stream: Stream) -> None:
    name, options = TIGHT[policy]
    config, core = built("transformer", depth=2, sink="kv0")
    streaming = make_cache(name, **options).apply(config, core, 40)
    got = stream.run(streaming)
    torch.testing.assert_close(got, stream.alone(streaming), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got, stream.run(streaming, "step"), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(got, stream.run(make_cache("full").apply(config, core, 40))), "nothing was dropped"


@pytest.mark.parametrize("policy", TIGHT_MEMO)
def test_staggered_rows_of_memo_are_as_each_trial_alone(policy: str, stream: Stream) -> None:
    name, options = TIGHT_MEMO[policy]
    config, core = built("memo", depth=2, **MEMO)
    streaming = make_cache(name, **options).apply(config, core, 40)
    got = stream.run(streaming)
    torch.testing.assert_close(got, stream.alone(streaming), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got, stream.run(streaming, "step"), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(got, stream.run(make_cache("full").apply(config, core, 40))), "nothing was dropped"


@pytest.mark.parametrize(("name", "options"), TIGHT.values())
def test_weights_are_shared_and_not_copied(name: str, options: dict[str, Any]) -> None:
    config, core = built("transformer", depth=2)
    pointers = {part.data_ptr() for part in core.parameters()}
    streaming = make_cache(name, **options).apply(config, core, 40)
    assert {part.data_ptr() for part in streaming.parameters()} == pointers
    assert {id(part) for part in streaming.parameters()} == {id(part) for part in core.parameters()}
    assert all(module.training for module in streaming.modules())
    core.eval()
    assert not any(module.training for module in make_cache(name, **options).apply(config, core, 40).modules())


@pytest.mark.parametrize(("name", "options"), TIGHT.values())
def test_bytes_are_those_of_the_tensors_and_stay_what_they_are(name: str, options: dict[str, Any]) -> None:
    config, core = built("transformer", depth=2)
    streaming = make_cache(name, **options).apply(config, core, 40)
    taken = sum(part.numel() * part.element_size() for part in parts(streaming.initial_state(1)).values())
    assert streaming.state_bytes(1) == streaming.state_bytes(40) == taken
    entries = [streaming.context_entries(steps) for steps in range(40)]
    assert entries[:8] == list(range(8))
    assert max(entries) <= options["context"]
    assert streaming.flops_per_step(39) < make_cache("full").apply(config, core, 40).flops_per_step(39)


@pytest.mark.parametrize(("name", "options"), TIGHT.values())
def test_an_agent_with_a_critic_of_its_own_has_the_policy_twice(
    name: str, options: dict[str, Any], stream: Stream
) -> None:
    (config, actor), (_, critic) = built("transformer"), built("transformer")
    torch.nn.init.normal_(critic.layers[0].weights.out.weight)  # type: ignore[index, union-attr]
    cache = make_cache(name, **options)
    both = cache.apply(config, Pair(actor, critic), 40)
    alone = cache.apply(config, actor, 40)
    double = torch.cat([stream.x_TBD, stream.x_TBD], -1)
    got, _ = act(both, double, stream.start_TB, stream.surprise_TB, stream.episode_TB)
    assert both.judges == alone.judges
    torch.testing.assert_close(got[..., :16], stream.run(alone))


@pytest.mark.parametrize("name", sorted(set(CACHES) - {"full"}))
def test_a_core_without_entries_is_refused_in_one_line(name: str) -> None:
    config = make_config("lstm", width=16)
    with pytest.raises(ValueError, match=r"lstm has no entries to drop: its memory is 128 bytes at every step; use"):
        make_cache(name).apply(config, config.build(), 100)


@pytest.mark.parametrize("context", [0, -3])
@pytest.mark.parametrize("name", sorted(set(CACHES) - {"full"}))
def test_a_budget_of_nothing_is_refused(name: str, context: int) -> None:
    with pytest.raises(ValueError, match=f"^cache {name}: context is {context}; it must be at least 1, or use full"):
        make_cache(name, context=context)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("full", {"context": 5}, "cache full: context is 5, but it keeps everything; leave it at 0"),
        ("sinks", {"context": 4}, "context is 4, and the least is 5 (sinks 4 + 1); give --context 5 or more, or lower"),
        ("surprise", {"context": 12}, "context is 12, and the least is 13 (sinks 4 + recent 8 + 1); give --context 13"),
        ("surprise", {"decay": 1.5}, "decay is 1.5; it must lie in 0 to 1"),
        ("surprise", {"round_steps": -1}, "round_steps is -1; it must be at least 0"),
        ("age", {"recent": -1}, "recent is -1; it must be at least 0"),
        ("age", {"used_share": 0.0}, "used_share is 0.0; it must lie in 0 to 1"),
        ("age", {"rate": -1.0}, "rate is -1.0; it must be at least 0"),
        ("random", {"sinks": -1}, "sinks is -1; it must be at least 0"),
        ("thin", {"context": 95}, "the least is 96 (2 x recent 32 + a page of 32); give --context 96 or more"),
        ("thin", {"ratio": 1.0}, "ratio is 1.0; it must be at least 0 and less than 1"),
        ("blocks", {"context": 99}, "the least is 100 (sinks 4 + window 64 + 2 blocks of 16); give --context 100"),
        ("blocks", {"representatives": 17}, "17 representatives do not fit into a block of 16"),
        ("blocks", {"top": 0}, "top is 0; it must be at least 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_cache(name, **options)
    assert str(caught.value).startswith(f"cache {name}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "memory", "words"),
    [
        ("window", {}, {}, "memo keeps summaries, not steps; use --cache oldest-sets"),
        ("thin", {}, {}, "memo keeps summaries, which it does not apply to; use --cache oldest-sets"),
        ("blocks", {}, {}, "memo keeps summaries, which it does not apply to; use --cache oldest-sets"),
        ("age", {}, {}, "memo does not tell how much attention a summary gets"),
        (
            "oldest-sets",
            {"context": 35},
            {},
            "the least is 36 (segment 32 + one set of summaries 4); give --context 36",
        ),
        ("sinks", {"context": 40}, {}, "the least is 52 (segment 32 + (sinks 4 + 1) x summaries 4); give --context 52"),
        ("oldest-sets", {}, {"store": "overwrite"}, "memo with store overwrite holds one summary at every step; use"),
    ],
)
def test_memo_is_refused_what_it_cannot_have(
    name: str, options: dict[str, Any], memory: dict[str, Any], words: str
) -> None:
    config = make_config("memo", **memory)
    with pytest.raises(ValueError) as caught:
        make_cache(name, **options).apply(config, config.build(), 1000)
    assert words in str(caught.value)


def test_a_transformer_has_no_summaries_and_a_trial_has_a_step() -> None:
    config = make_config("transformer")
    with pytest.raises(ValueError, match="transformer keeps steps, not summaries; use --cache window"):
        make_cache("oldest-sets").apply(config, config.build(), 100)
    with pytest.raises(ValueError, match="a trial of 0 steps; it must have at least 1"):
        make_cache("full").apply(config, config.build(), 0)


def test_a_streaming_core_refuses_the_episodes_that_the_core_refuses() -> None:
    config = make_config("transformer", positions="episode", episode_positions=9)
    streaming = make_cache("sinks", context=9).apply(config, config.build(), 100)
    streaming.check_episodes(9)
    with pytest.raises(ValueError, match="an episode takes up to 10 steps, and the memory has positions for 9"):
        streaming.check_episodes(10)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(ValueError, match="unknown cache 'windw'; choose one of full, window, oldest-sets"):
        make_cache("windw")
    with pytest.raises(ValueError, match="cache window has no option 'sinks'; it has context"):
        make_cache("window", sinks=3)
