"""What a CUDA graph needs of a step: no look at a tensor, no size that depends on one; and the same bits."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mnemic.envs import laws
from mnemic.envs.object_nav import ObjectNav, ObjectNavConfig
from mnemic.envs.step import Hidden

CONFIGS = [
    ObjectNavConfig(size=8, houses=2, max_rooms=3, max_things=25, episode_steps=6, trial_steps=14),
    ObjectNavConfig(
        size=8, houses=2, max_rooms=3, max_things=25, episode_steps=6, trial_steps=14, max_start=2.0, sensors="depth"
    ),
    ObjectNavConfig(
        size=8,
        houses=2,
        max_rooms=3,
        max_things=25,
        episode_steps=6,
        trial_steps=14,
        sensors="depth,mask",
        pose="trial",
        sliding=False,
        min_tilt=-45,
        max_tilt=-5,
    ),
]
LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "item")
SENDS = ("lift_fresh",)  # numbers of the host, for which a device waits too


class NoLooks(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in LOOKS + SENDS, f"{name} looks at a tensor, or brings one from the host"
        if name in ("index", "index_put", "index_put_"):
            indices = [index for index in args[1] if index is not None]
            assert all(index.dtype != torch.bool for index in indices), "an index by a mask has a size of its own"
        return func(*args, **(kwargs or {}))


def played(env: ObjectNav, steps: int = 30) -> Iterator[laws.Tensor]:
    state, _ = env.reset()
    for action_B in laws.actions(env, steps):
        state, step = env.move(state, action_B)
        yield from laws.tensors((state, step)).values()


@pytest.mark.parametrize("config", CONFIGS, ids=["rgb", "near", "mask"])
def test_a_step_without_looks_gives_the_same_bits(config: ObjectNavConfig) -> None:
    looks, does_not = config.build(5, 0), config.build(5, 0)
    does_not._looks = False
    for one, other in zip(played(looks), played(does_not), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", CONFIGS, ids=["rgb", "near", "mask"])
def test_a_step_does_not_look(config: ObjectNavConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the drawing, which has two backends: that of a CPU looks, that of a GPU does not."""
    env = config.build(5, 0)
    env._looks = False
    state, _ = env.reset()
    seen = env.simulator.render(state.task.agents)
    monkeypatch.setattr(env.simulator, "render", lambda agents: seen)
    monkeypatch.setattr(env.simulator, "render_some", lambda agents, which_B: seen)
    actions_TB = laws.actions(env, 8)
    with NoLooks():
        for action_B in actions_TB:
            state, step = env.move(state, action_B)
            env.hidden(state, step)
        with pytest.raises(AssertionError, match="looks at a tensor"):
            bool(state.task.in_view_B.any())


@pytest.mark.parametrize("config", CONFIGS, ids=["rgb", "near", "mask"])
def test_what_is_compiled_is_what_is_written(config: ObjectNavConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the pictures; what is hidden too. And it can be undone."""
    compiler, functions = torch.compile, []

    def traced(function, **options):
        functions.append(function.__name__)
        return compiler(function, fullgraph=True, dynamic=False, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    written, compiled = config.build(5, 0), config.build(5, 0)
    written._looks = False
    compiled.compile()
    assert functions == ["advance", "renew", "_noted", "_told", "hidden"]
    for here, there in zip(asked(written), asked(compiled), strict=True):
        assert torch.equal(here, there)
    compiled.uncompile()
    assert not vars(compiled).keys() & set(functions)
    for here, there in zip(played(written), played(compiled), strict=True):
        assert torch.equal(here, there)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", CONFIGS, ids=["rgb", "near", "mask"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own parts
def test_what_a_gpu_compiles_is_what_is_written(config: ObjectNavConfig) -> None:
    """Step by step from the same states: flags and numbers of things are equal, lengths to their last digits."""
    written, compiled = config.build(64, 0, "cuda"), config.build(64, 0, "cuda")
    compiled.compile()
    state, _ = written.reset()
    for action_B in laws.actions(written, 20):
        here, there = written.move(state, action_B), compiled.move(state, action_B)
        for hidden, again in zip(written.hidden(*here).values(), compiled.hidden(*here).values(), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(*map(parts, (hidden, again)), strict=True))
        for (name, one), other in zip(laws.tensors(here).items(), laws.tensors(there).values(), strict=True):
            if name.endswith(("yaw_B", "heading_B")):  # half a turn to the left is half a turn to the right
                one, other = (torch.stack([angle_B.cos(), angle_B.sin()]) for angle_B in (one, other))
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
        state = here[0]


def parts(hidden: Hidden) -> list[torch.Tensor]:
    return [part for part in (hidden.value, hidden.shown, hidden.turn, hidden.told) if part is not None]


def asked(env: ObjectNav, steps: int = 16) -> Iterator[laws.Tensor]:
    state, _ = env.reset()
    for action_B in laws.actions(env, steps):
        state, step = env.move(state, action_B)
        yield from laws.tensors((state, step)).values()
        for hidden in env.hidden(state, step).values():
            yield from parts(hidden)
