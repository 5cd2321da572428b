"""Toys that the tests of training share: a scripted environment, a policy whose value can be added up by hand."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mnemic.agents.checkpoint import read
from mnemic.agents.encoder import Inputs
from mnemic.agents.heads import CategoricalHead
from mnemic.agents.policy import Output
from mnemic.envs.native import NativeEnv, Outcome
from mnemic.envs.random import Stream
from mnemic.envs.step import Env, EnvConfig, Hidden, Obs, Step


@dataclass(frozen=True, kw_only=True)
class ScriptConfig(EnvConfig):
    """Named, since an environment needs a configuration."""

    name: ClassVar[str] = "script"
    summary: ClassVar[str] = "plays a list of steps"

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        raise AssertionError("made from steps")


class Script(Env):
    """Plays a list of steps, whatever the agent does; the state is the place in the list."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.config, self.batch, self.seed, self.device = ScriptConfig(), len(steps[0].reward), 0, torch.device("cpu")
        self.observation_space, self.action_space = spaces.Box(-100.0, 100.0, (1,)), spaces.Discrete(2)
        self.episode_steps = self.trial_steps = None

    def reset(self) -> tuple[Any, Step]:
        return torch.zeros(self.batch, dtype=torch.int64), self.steps[0]

    def step(self, state: Any, action_B: Tensor) -> tuple[Any, Step]:
        return state + 1, self.steps[int(state[0]) + 1]


def row(obs: float, reward: float = 0.0, end: str = "", final: float = 0.0, trial: bool = False) -> Step:
    """A step of one row; `end` is "", "terminated" or "truncated", and then `final` was seen last."""
    return Step(
        torch.tensor([[float(obs)]]),
        torch.tensor([float(reward)]),
        torch.tensor([end == "terminated"]),
        torch.tensor([end == "truncated"]),
        torch.tensor([bool(end) or trial]),
        torch.tensor([trial]),
        torch.tensor([[float(final if end else obs)]]),
        {},
    )


def beside(*rows_: list[Step]) -> list[Step]:
    """The steps of several rows side by side."""
    return [Step(*(_join(parts) for parts in zip(*steps, strict=True))) for steps in zip(*rows_, strict=True)]


def _join(parts: tuple[Any, ...]) -> Any:
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(parts)


class SumPolicy:
    """Its value is the sum of all that it has seen in the trial, plus 1000 times the previous reward.

    The previous reward counts as 0 where a trial starts, as for every policy. Its memory is that sum.
    """

    def __init__(self) -> None:
        self.head = CategoricalHead(spaces.Discrete(2))

    def look(self, inputs: Inputs) -> Inputs:
        return inputs

    def initial_memory(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def step(self, inputs: Inputs, memory: Tensor) -> tuple[Output, Tensor]:
        memory = torch.where(inputs.trial_start, 0, memory) + inputs.obs[:, 0]
        reward = torch.where(inputs.trial_start, 0, inputs.reward)
        return Output(torch.zeros(len(memory), 2), memory + 1000 * reward), memory

    advance = step


class LightTask(NamedTuple):
    light: Tensor  # (B,) int64


class Light(NativeEnv):
    """Say which of two lights is on: it is shown when an episode opens. Observes a dictionary."""

    def __init__(self, config: "LightConfig", batch: int, seed: int, device: torch.device | str) -> None:
        super().__init__(
            config,
            batch,
            seed,
            device,
            action_space=spaces.Discrete(2),
            observation_space=spaces.Dict(
                {"light": spaces.Box(0.0, 1.0, (2,)), "grid": spaces.Box(0.0, 1.0, (3, 3, 1))}
            ),
            episode_steps=4,
            trial_steps=config.trial_steps or None,
        )

    def begin(self, stream: Stream) -> LightTask:
        return LightTask(stream.integers(0, 2))

    def advance(self, task: LightTask, action_B: Tensor, stream: Stream) -> tuple[LightTask, Outcome]:
        right = action_B == task.light
        ends = stream.integers(200, 4) == 0  # some episodes end by the rules, some by the clock
        return task, Outcome(right.float(), ends, {"success": right})

    def observe(self, task: LightTask, episode_step_B: Tensor) -> Obs:
        shown = torch.nn.functional.one_hot(task.light, 2) * (episode_step_B == 0).unsqueeze(1)
        grid = (episode_step_B.view(-1, 1, 1, 1) / 4).expand(-1, 3, 3, 1)
        return {"light": shown.float(), "grid": grid}

    def hidden(self, state: Any, step: Step) -> dict[str, Hidden]:
        light_B = state.task.light
        return {"light": Hidden(light_B, 2, shown=state.episode_step == 0, turn=torch.zeros_like(light_B))}


@dataclass(frozen=True, kw_only=True)
class LightConfig(EnvConfig):
    """A tiny task with dictionary observations."""

    name: ClassVar[str] = "light"
    summary: ClassVar[str] = "a toy"

    trial_steps: int = 0
    """0: each episode is a trial."""

    def build(self, batch: int, seed: int, device: torch.device | str = "cpu") -> Env:
        return Light(self, batch, seed, device)


def constant_evaluation(policy: Any, *, episodes: int, seed: int) -> dict[str, float]:
    """In the place of an evaluation."""
    return {"success": 0.5, "return": 1.0}


def checkpoint_bits(path: Path) -> dict[str, Any]:
    """A digest of each tensor of the newest checkpoint of a run, and what else the run goes on from."""
    newest = path / "checkpoints" / "last"
    found: dict[str, Any] = {}
    for part in sorted(path.name for path in newest.iterdir()):
        data, tensors = read(newest / part, part.replace("_", " "))
        found |= {f"{part}.{name}": digest(tensor) for name, tensor in tensors.items()}
        found |= {f"{part}.{name}": value for name, value in data.items() if name != "seconds"}
    return found


def digest(tensor: Tensor) -> str:
    """Type, shape and bits."""
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]}"


def metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without what the clock says."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "charts/sps")
    return [{tag: value for tag, value in line.items() if not tag.startswith(timed)} for line in lines]


def events(path: Path) -> EventAccumulator:
    """The event files of a run, as TensorBoard reads them."""
    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


class Toys(NamedTuple):
    """What tests take from here."""

    Script: type[Script] = Script
    row: Callable[..., Step] = row
    beside: Callable[..., list[Step]] = beside
    SumPolicy: type[SumPolicy] = SumPolicy
    LightConfig: type[LightConfig] = LightConfig
    constant_evaluation: Callable[..., dict[str, float]] = constant_evaluation
    checkpoint_bits: Callable[[Path], dict[str, Any]] = checkpoint_bits
    metrics: Callable[[Path], list[dict[str, float]]] = metrics
    events: Callable[[Path], EventAccumulator] = events


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from a second thread, and lose much where the machine has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys()
