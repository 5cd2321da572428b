"""ReLIC's positions: a vector for the step of the episode, and rotation by the number of the episode."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mnemic.agents.encoder import EncoderConfig, Inputs
from mnemic.agents.policy import Policy
from mnemic.kernels.segment_attention import angles, rotate
from mnemic.memory import make_config
from mnemic.memory.core import map_state
from mnemic.memory.episodic import EpisodicStack
from mnemic.memory.pair import Pair
from mnemic.memory.transformer import TransformerConfig

STEPS, BATCH, WIDTH, TABLE = 30, 3, 8, 6


def build(**options: Any) -> EpisodicStack:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": WIDTH, "heads": 2, "depth": 2, "context": 100, "episode_positions": TABLE}
    core = TransformerConfig(positions="episode", **sizes | options).build().double()
    assert isinstance(core, EpisodicStack)
    torch.nn.init.normal_(core.table_ED)
    return core


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Trials that begin apart, with episodes inside them; the flag of a trial's first episode may be there or not."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64, generator=made)
    start, episode = torch.zeros(2, STEPS, BATCH, dtype=torch.bool)
    for row, at in enumerate([[0], [0, 11], [0, 3, 4, 25]]):
        start[at, row] = True
    episode[[0, 5, 6, 20], 0] = True
    episode[[4, 11, 13], 1] = True
    episode[[3, 9, 25, 28], 2] = True
    return x, start, episode


def plain(core: EpisodicStack, x_TD: Tensor, episode_T: list[bool]) -> Tensor:
    """One trial of one row, with counters that count and a matrix of scores."""
    step, number, steps, numbers = 0, 0, [], []
    for time, begins in enumerate(episode_T):
        if begins and time:
            step, number = 0, number + 1
        steps.append(min(step, TABLE - 1))
        numbers.append(number)
        step += 1
    x = x_TD + core.table_ED[steps]
    cosine, sine = angles(torch.tensor(numbers), WIDTH // 2, x.dtype)
    later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for layer, block in zip(core.layers, core.blocks, strict=True):
        weights = layer.weights
        q, k, v = weights.project(block.before(x)).view(len(x), 3, 2, -1).permute(1, 2, 0, 3)  # type: ignore
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        score = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
        x = block.after(x, weights.out((score.softmax(-1) @ v).transpose(0, 1).flatten(1)))  # type: ignore
    return core.norm(x)


@pytest.mark.parametrize("form", ["unroll", "step", "advance"])
def test_rows_are_told_their_own_episodes(form: str) -> None:
    core, (x, start, episode) = build(), scene()
    state, outputs = core.initial_state(BATCH), []
    with torch.no_grad():
        if form == "unroll":
            for some in (slice(0, 7), slice(7, 8), slice(8, STEPS)):
                y, state = core.unroll(x[some], state, start[some], episode[some])
                outputs.append(y)
            got = torch.cat(outputs)
        else:
            for now in zip(x, start, episode, strict=True):
                y, state = getattr(core, form)(now[0], state, *now[1:])
                outputs.append(y)
            got = torch.stack(outputs)
        for row, at in enumerate([[0], [0, 11], [0, 3, 4, 25]]):
            for first, last in zip(at, [*at[1:], STEPS], strict=True):
                want = plain(core, x[first:last, row], episode[first:last, row].tolist())
                torch.testing.assert_close(got[first:last, row], want, rtol=1e-9, atol=1e-9)
    assert state.places.step_B.tolist() == [10, 17, 2]
    assert state.places.episode_B.tolist() == [3, 1, 1]


def test_without_flags_an_episode_is_a_trial() -> None:
    core, (x, start, _) = build(), scene()
    fresh = core.initial_state(BATCH)
    with torch.no_grad():
        want, _ = core.unroll(x, fresh, start, start)
        torch.testing.assert_close(core.unroll(x, fresh, start)[0], want)
        torch.testing.assert_close(core.step(x[0], fresh, start[0])[0], want[0])


def test_steps_beyond_the_table_share_its_last_row() -> None:
    core = build()
    x, never = torch.randn(20, 1, WIDTH).double(), torch.zeros(20, 1, dtype=torch.bool)
    y, _ = core.unroll(x, core.initial_state(1), never, never)
    (d_table,) = torch.autograd.grad(y.square().sum(), core.table_ED)
    assert d_table.any(1).all()
    with torch.no_grad():
        core.table_ED[TABLE - 1] += 1
        changed, _ = core.unroll(x, core.initial_state(1), never, never)
    assert (changed != y).any(-1)[:, 0].tolist() == [False] * (TABLE - 1) + [True] * (20 - TABLE + 1)


def test_longer_episodes_are_refused() -> None:
    core = build()
    for fits in (None, 1, TABLE):
        core.check_episodes(fits)
    with pytest.raises(ValueError, match=r"an episode takes up to 7 steps, and the memory has positions for 6; train"):
        core.check_episodes(TABLE + 1)
    for other in ("gru", "memo", "transformer"):
        make_config(other).build().check_episodes(10**9)
    with pytest.raises(ValueError, match="up to 7 steps"):
        Pair(make_config("gru").build(), core).check_episodes(TABLE + 1)
    with pytest.raises(ValueError, match="episode_positions is 0; it must be at least 1"):
        build(episode_positions=0)


@pytest.mark.parametrize("separate", [True, False])
def test_a_policy_passes_on_where_episodes_begin(separate: bool) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(width=WIDTH, heads=2, positions="episode", episode_positions=TABLE)
    encoder = EncoderConfig(episode_flag=False)  # so that nothing but the core can tell
    policy = Policy(encoder, config, spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3), separate_critic=separate).eval()
    _, start, episode = scene()
    zeros = torch.zeros(STEPS, BATCH)
    inputs = Inputs(torch.randn(STEPS, BATCH, 3), zeros.long(), zeros, episode | start, start)
    told_nothing = inputs._replace(episode_start=start)
    fresh = policy.initial_memory(BATCH)
    with torch.no_grad():
        want, _ = policy.unroll(inputs, fresh)
        assert not torch.allclose(want.action, policy.unroll(told_nothing, fresh)[0].action, atol=1e-6)
        planned, _ = policy.unroll(inputs, fresh, policy.plan(inputs, fresh))
        torch.testing.assert_close(planned.action, want.action)
        for act in (policy.step, policy.advance):
            memory = map_state(torch.clone, fresh)
            for time in range(STEPS):
                output, memory = act(Inputs(*(part[time] for part in inputs)), memory)
                torch.testing.assert_close(output.action, want.action[time], rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(output.value, want.value[time], rtol=1e-4, atol=1e-6)
