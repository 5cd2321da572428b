from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mnemic.envs import ENVS, laws, make_config
from mnemic.envs.endless_tmaze import EndlessTMazeConfig
from mnemic.envs.laws import BrokenLaw, check_env
from mnemic.envs.native import NativeEnv
from mnemic.envs.step import Env, EnvConfig, Step

# Small, so that episodes and trials end within the steps that the laws play.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("endless-tmaze", {}),
    ("endless-tmaze", {"length": 3, "corridors": 2, "sampling": "uniform", "rewards": "paper"}),
    ("endless-tmaze", {"length": 1, "corridors": 1, "wrong": 0.5}),
    ("trials:endless-tmaze", {"steps": 33, "task": {"length": 3, "corridors": 2, "sampling": "uniform"}}),
    ("trials:color-cubes", {"episodes": 2, "task": {"preset": "extreme", "teleport": 0.5, "size": 3, "horizon": 15}}),
    ("color-cubes", {}),
    ("color-cubes", {"preset": "trivial", "size": 2, "horizon": 3, "cubes": 2}),
    ("color-cubes", {"preset": "extreme", "teleport": 0.5, "size": 3, "phases": 1}),
    (
        "color-cubes",
        {"preset": "extreme", "teleport": 1.0, "movers": "many", "encoding": "ordered", "size": 3, "interact": True},
    ),
    (
        "color-cubes",
        {
            "size": 3,
            "phase_reveal": False,
            "own_position": False,
            "target_shown": "always",
            "step_reward": -0.01,
            "wrong_reward": -0.5,
        },
    ),
    ("color-cubes", {"preset": "observed", "size": 3, "encoding": "ordered", "teleport": 0.5}),
    ("color-cubes", {"preset": "latched", "size": 3, "teleport": 0.5}),
    ("dark-key-to-door", {"size": 2, "episode_steps": 7, "trial_steps": 20}),
    ("dark-key-to-door", {"size": 3, "episode_steps": 5, "trial_steps": 5, "show_key": False, "show_time": False}),
    ("darkroom", {"size": 3, "episode_steps": 6, "episodes": 3, "goals": "train"}),
    ("tmaze", {"length": 5}),
    ("tmaze", {"length": 1}),
    ("repeat-previous", {"k": 4}),
]
# What these show is drawn with numbers that devices round differently.
DRAWN: list[tuple[str, dict[str, Any]]] = [
    (
        "object-nav",
        {"size": 12, "houses": 3, "max_rooms": 3, "max_things": 25, "episode_steps": 9, "trial_steps": 24},
    ),
    (
        "object-nav",
        {
            "size": 8,
            "houses": 1,
            "max_rooms": 3,
            "max_things": 25,
            "episode_steps": 12,
            "trial_steps": 12,
            "sensors": "rgb,depth",
            "max_start": 2.0,
        },
    ),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_native_environments_keep_the_laws(law: Any, name: str, options: dict[str, Any]) -> None:
    law(make_config(name, **options))


@pytest.mark.parametrize(("name", "options"), DRAWN, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_environments_that_draw_pictures_keep_the_laws(law: Any, name: str, options: dict[str, Any]) -> None:
    law(make_config(name, **options), steps=26)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "options"), VARIANTS + DRAWN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_native_environments_keep_the_laws_on_a_gpu(name: str, options: dict[str, Any]) -> None:
    check_env(make_config(name, **options), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_gpu_gives_the_same_bits(name: str, options: dict[str, Any]) -> None:
    said = []
    for device in ("cpu", "cuda"):
        env = make_config(name, **options).build(64, 0, device)
        said.append([laws.map_tensors(Tensor.cpu, step) for step in played(env, 64)])
    for here, there in zip(*said, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(here), flat(there), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own parts
def test_compiled_steps_give_the_same_bits(name: str, options: dict[str, Any]) -> None:
    said = []
    for device in ("cpu", "cuda"):
        env = make_config(name, **options).build(64, 0, device)
        if device == "cuda":
            assert isinstance(env, NativeEnv)
            env.compile()
        said.append([laws.map_tensors(Tensor.cpu, step) for step in played(env, 64)])
    for here, there in zip(*said, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(here), flat(there), strict=True))


def test_what_is_compiled_is_what_is_written_without_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For more environments than torch compiles versions of one function; and compiling can be undone."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compiler(function, fullgraph=True, dynamic=False, backend="eager")
    )
    for index in range(10):
        name, options = VARIANTS[index]
        said = []
        for compiled in (False, True):
            env = make_config(name, **options).build(5, index)
            assert isinstance(env, NativeEnv)
            if compiled:
                env.compile()
            said.append(played(env, 12))
            env.uncompile()
        said.append(played(env, 12))
        for here, *others in zip(*said, strict=True):
            for there in others:
                assert all(torch.equal(a, b) for a, b in zip(flat(here), flat(there), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "options"), VARIANTS + DRAWN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_steps_can_be_captured_in_a_graph(name: str, options: dict[str, Any]) -> None:
    env = make_config(name, **options).build(64, 0, "cuda")
    action = laws.actions(env, 8)
    state, _ = env.reset()
    wanted = played(env, 8)[1:]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        env.step(state, action[0])
    torch.cuda.synchronize()
    graph, found = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        for action_B in action:
            state, step = env.step(state, action_B)
            found.append(step)
    graph.replay()
    torch.cuda.synchronize()
    for here, there in zip(wanted, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(here), flat(there), strict=True))


def played(env: Env, steps: int) -> list[Step]:
    state, step = env.reset()
    said = [step]
    for action in laws.actions(env, steps):
        state, step = env.step(state, action)
        said.append(step)
    return said


def flat(step: Step) -> list[Tensor]:
    return list(laws.tensors(step).values())


def test_every_native_environment_is_checked() -> None:
    assert {name for name, _ in VARIANTS + DRAWN if not name.startswith("trials:")} == set(ENVS)


@dataclass(frozen=True, kw_only=True)
class FaultyConfig(EnvConfig):
    """A maze that is right but for one fault."""

    name: ClassVar[str] = "faulty"
    summary: ClassVar[str] = "a maze with a fault"

    fault: str = ""

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        return Faulty(self, batch, seed, device)


class Faulty(Env):
    def __init__(self, config: FaultyConfig, batch: int, seed: int, device: torch.device | str) -> None:
        self.config, self.batch, self.seed, self.device = config, batch, seed, torch.device(device)
        self.fault = config.fault
        inner_seed = {"deaf to the seed": 0, "batch counts": seed + batch}.get(self.fault, seed)
        inner = EndlessTMazeConfig(length=2, corridors=2, sampling="uniform")
        self.inner = inner.build(batch, inner_seed, device)
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space
        self.episode_steps, self.trial_steps = self.inner.episode_steps, self.inner.trial_steps
        if self.fault == "too long":
            self.episode_steps = 2
        self.on_device = self.fault == "early cut"
        if self.fault == "shape":
            self.observation_space = spaces.Box(0, 1, (4,))
        self.steps = 0

    def reset(self) -> tuple[Any, Step]:
        if self.fault != "always row 0":
            self.inner.first_row = self.first_row
        state, step = self.inner.reset()
        if self.fault == "reset ends":
            step = step._replace(terminated=step.episode_start)
        return state, self.spoil(step)

    def step(self, state: Any, action_B: Tensor) -> tuple[Any, Step]:
        if self.fault == "any action" and action_B.shape == (self.batch,):
            action_B = action_B.long().clamp(0, 2)
        if self.fault == "hidden state":
            self.steps += 1
        try:
            new_state, step = self.inner.step(state, action_B)
        except ValueError as error:
            raise ValueError("bad action" if self.fault == "bare message" else f"faulty: {error}") from None
        if self.fault == "in place":
            state.task.position.add_(1)
        if self.fault == "scalar state":
            new_state = new_state._replace(trial_step=new_state.trial_step.sum())
        return new_state, self.spoil(step)

    def spoil(self, step: Step) -> Step:
        obs = step.obs
        changes = {
            "random": lambda: {"obs": torch.rand_like(obs)},
            "rows alike": lambda: {
                name: laws.map_tensors(lambda part: part[:1].expand_as(part), part)
                for name, part in step._asdict().items()
            },
            "no start": lambda: {"episode_start": torch.zeros_like(step.episode_start)},
            "both ends": lambda: {"truncated": step.terminated},
            "early trial": lambda: {"trial_start": ~step.episode_start},
            "early cut": lambda: {"terminated": step.truncated, "truncated": step.terminated},
            "stale end": lambda: {"final_obs": obs + 1},
            "type": lambda: {"obs": obs.double()},
            "range": lambda: {"obs": obs + 2, "final_obs": step.final_obs + 2},
            "infinite": lambda: {"reward": step.reward + torch.where(step.trial_start, 0.0, torch.inf)},
            "reward type": lambda: {"reward": step.reward.double()},
            "info": lambda: {"info": dict(list(step.info.items())[: int(bool(step.episode_start[0])) + 1])},
            "success": lambda: {"info": {name: part.float() for name, part in step.info.items()}},
            "hidden state": lambda: dict.fromkeys(("obs", "final_obs"), obs * 0 + self.steps % 2),
        }
        return step._replace(**changes[self.fault]()) if self.fault in changes else step


def test_the_maze_without_a_fault_keeps_the_laws() -> None:
    check_env(FaultyConfig())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("random", "same seed gives the same bits: `obs` differs at step 0"),
        ("hidden state", "the same object goes on differently"),
        ("deaf to the seed", "another seed gives other bits"),
        ("batch counts", "row i depends on the seed and i only: `obs` differs at step"),
        ("always row 0", "a part of a batch plays as in the whole: `obs` differs at step"),
        ("rows alike", "all 16 rows are the same"),
        ("reset ends", "`reset` ends an episode"),
        ("no start", "opens no episode"),
        ("both ends", "terminated and truncated at once, in row"),
        ("early trial", "opens no episode: `trial_start`"),
        ("stale end", "`final_obs` is not `obs`"),
        ("early cut", "truncated before its clock"),
        ("too long", "an episode is longer than 2 steps"),
        ("type", "is float64"),
        ("range", "lies outside the space"),
        ("shape", r"\(4,\) is expected"),
        ("infinite", "reward is not finite"),
        ("reward type", "float32"),
        ("info", "info is"),
        ("success", "bool is expected"),
        ("any action", "were taken"),
        ("bare message", "names not both environment and row"),
        ("in place", "changed what it was given: part `0.task.position`"),
        ("scalar state", r"\(B, ...\) is expected"),
    ],
)
def test_a_fault_is_found_and_named(fault: str, message: str) -> None:
    with pytest.raises(BrokenLaw, match=message) as caught:
        check_env(FaultyConfig(fault=fault))
    assert str(caught.value).startswith("faulty breaks the law that ")
