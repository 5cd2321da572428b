"""RAT against its equations written out, and its two limits: attention and a gated linear recurrence."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemic.kernels.segment_attention import angles, rotate
from mnemic.memory import make_config
from mnemic.memory.rat import RAT, RATConfig


def build(**options: Any) -> RAT:
    torch.manual_seed(0)
    core = RATConfig(**{"width": 8, "heads": 2, **options}).build().layers[0].double()  # type: ignore[index,union-attr]
    assert isinstance(core, RAT)
    return core


def turned(x: Tensor, number: int) -> Tensor:
    return rotate(x, *angles(torch.tensor(number), x.shape[-1], x.dtype))


def plain(core: RAT, x_TD: Tensor) -> Tensor:
    """One row and one trial, step by step, with a list of chunks."""
    heads, head, many = core.heads, x_TD.shape[1] // core.heads, core.heads // core.groups
    found, chunks = [], []
    key, value = torch.zeros(2, heads, head, dtype=x_TD.dtype)
    for t, x in enumerate(x_TD):
        z, g, v, q, k = core.project(x).split([8, 8, 8, core.shared, core.shared])
        g = (g + core.hold_bias).sigmoid().view(heads, head)
        q, k = (part.view(core.groups, head).repeat_interleave(many, 0) for part in (q, k))
        if t % core.chunk == 0:
            key, value = torch.zeros_like(key), torch.zeros_like(value)
        key, value = g * key + (1 - g) * k, g * value + (1 - g) * v.view(heads, head)
        number = t // core.chunk
        seen = [*chunks[-core.chunks :], (turned(key, number), value)]
        read = []
        for h in range(heads):
            score = torch.stack([turned(q[h], number) @ one[h] for one, _ in seen]) / head**0.5
            read.append(score.softmax(0) @ torch.stack([one[h] for _, one in seen]))
        found.append(core.out(z.sigmoid() * torch.cat(read)))
        if t % core.chunk == core.chunk - 1:
            chunks.append((turned(key, number), value))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("chunks", [1, 3, 40])
@pytest.mark.parametrize("chunk", [1, 4, 7, 40])
def test_rows_at_different_steps_of_their_chunks(chunk: int, chunks: int, groups: int) -> None:
    core = build(chunk=chunk, chunks=chunks, groups=groups)
    x = torch.randn(30, 3, 8, dtype=torch.float64)
    start = torch.zeros(30, 3, dtype=torch.bool)
    starts = [[0], [0, 11], [0, 3, 4, 22]]
    for row, at in enumerate(starts):
        start[at, row] = True
    state, pieces = core.initial_state(3), []
    for x_part, start_part in zip(torch.split(x, [7, 1, 22]), torch.split(start, [7, 1, 22]), strict=True):
        y, state = core.unroll(x_part, state, start_part)
        pieces.append(y)
    got = torch.cat(pieces)
    for row, at in enumerate(starts):
        for first, last in zip(at, [*at[1:], 30], strict=True):
            torch.testing.assert_close(got[first:last, row], plain(core, x[first:last, row]), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_in_one_chunk_it_is_a_gated_linear_recurrence() -> None:
    """A softmax over one is 1, so that keys count for nothing: by hand, with gates of one half."""
    core = build(chunk=16)
    core.project.weight.zero_()
    core.hold_bias.zero_()
    core.project.weight[16:24] = torch.eye(8)  # values are inputs
    core.out.weight.copy_(torch.eye(8))
    x = torch.tensor([[[8.0] * 8], [[16.0] * 8], [[0.0] * 8]]).double()
    y, _ = core.unroll(x, core.initial_state(1), torch.zeros(3, 1, dtype=torch.bool))
    # Means 4, 2 + 8, 5 behind an output gate of one half.
    assert y[:, 0, 0].tolist() == [2.0, 5.0, 2.5]


def test_holds_begin_spread_over_the_chunk() -> None:
    """The gate of time scale tau is tau / (1 + tau), with tau from 1 to the chunk less one."""
    core = build(width=512, chunk=16)
    tau = core.hold_bias.exp()
    assert tau.min() >= 1
    assert tau.max() <= 15
    assert abs(tau.mean() - 8) < 1
    assert not build(chunk=1).hold_bias.any()


def test_entries_are_chunks_and_no_more_than_are_kept() -> None:
    core = make_config("rat", chunk=4, chunks=3).build()
    assert [core.context_entries(steps) for steps in (0, 1, 4, 5, 12, 13, 1_000, 1_001)] == [0, 1, 1, 2, 3, 4, 3, 4]
    assert core.state_bytes(0) == core.state_bytes(1_000) == 2 * 64 * 4 * (3 + 1) + 8


def test_gates() -> None:
    core, x = build(), torch.randn(3, 8, dtype=torch.float64)
    gates = core.gates(x, core.initial_state(3), torch.zeros(3, dtype=torch.bool))
    assert {name: tuple(gate.shape) for name, gate in gates.items()} == {"hold": (3, 2, 4), "output": (3, 2, 4)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunk": 0}, "chunk is 0; it must be at least 1"),
        ({"chunks": 0}, "chunks is 0; it must be at least 1"),
        ({"heads": 4, "groups": 3}, "3 groups cannot share 4 heads evenly"),
        ({"width": 6, "heads": 2}, "rotary positions need an even number"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"memory rat: .*{said}"):
        make_config("rat", **options)
