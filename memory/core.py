"""The contract of a memory core, its state, and the one rule of forgetting.

Shapes: T time, B rows (environments), D features (the core's width).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

# A tensor whose first axis is the batch, or a tuple (named or not, empty or nested) or dictionary of states.
State = Any


class Core(nn.Module, ABC):
    """What an agent remembers, and how.

    Memory is a value: it goes in and comes out, and the module never keeps or changes one, so a look at a final
    observation, an evaluation or a second policy cannot disturb a rollout. `step` and `unroll` are one function
    in two forms; `mnemic.memory.laws` says what they owe each other and checks it for any core.

    A core may have noise for learning: in `unroll` and `follow` only, and only in training mode (`Core.train`), in
    which a trainer puts it for the pass that it learns from. What the device draws comes from its default generator,
    what `plan` draws from that of the CPU.

    Attributes:
        width: D, the features that go in and come out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the memory of `batch` rows that remember nothing, on the device and in the type of the weights."""

    @abstractmethod
    def step(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Take one step (acting).

        Args:
            x_BD: the input, (B, D).
            state: the memory of B rows.
            start_B: (B,) bool; a row that is true forgets everything before it takes its input.

        Returns:
            The output (B, D) and the memory after the step.
        """

    @abstractmethod
    def unroll(self, x_TBD: Tensor, state: State, start_TB: Tensor) -> tuple[Tensor, State]:
        """Take T steps at once (learning): what T calls of `step` return, in one differentiable pass.

        Args:
            x_TBD: the inputs, (T, B, D), T >= 1.
            state: the memory of B rows before the first input.
            start_TB: (T, B) bool; true where a row forgets everything before it takes that input.

        Returns:
            The outputs (T, B, D) and the memory after the last step.
        """

    def plan(self, state: State, start_TB: Tensor) -> Hashable:
        """Look at a window and return what `follow` needs to know of it, or more: what is true of rows is of fewer.

        So work that is recorded in a CUDA graph, where no one can look, fits every window of the same plan, and any of
        its rows. Here: None, for every core whose `unroll` decides nothing on the host.
        """
        return None

    def follow(self, x_TBD: Tensor, state: State, start_TB: Tensor, plan: Hashable) -> tuple[Tensor, State]:
        """Do what `unroll` does, without a look, by a plan of these rows or of more."""
        return self.unroll(x_TBD, state, start_TB)

    episodic: bool = False
    """The core wants to know where episodes begin inside a trial: `step`, `advance`, `unroll`, `follow` and `plan` take
    one more tensor after the start, of its shape and type. A start of a trial is one of an episode, too."""

    def check_episodes(self, steps: int | None) -> None:
        """Refuse episodes of so many steps (None: unknown), where a core has a limit. Here: there is none.

        Raises:
            ValueError: an episode is longer than the core can tell.
        """

    draws_plans: bool = False
    """`plan` draws in training mode, so that there is no use in recording a graph for each plan."""

    settles: bool = False
    """`advance` may leave work for `settle`. Where this is false, there is no need to ask `unsettled`."""

    def advance(self, x_BD: Tensor, state: State, start_B: Tensor) -> tuple[Tensor, State]:
        """Take one step as `step` does, for a loop that acts: without gradients, and without a look of the host.

        It can be captured in a CUDA graph. The caller gives the state up: its tensors may be written to, and the state
        that comes back may consist of them. So a loop that wants an earlier memory again copies it first.

        The next call may follow once no row is `unsettled`: the loop calls `settle` while one is. With rows in step
        that is seldom, so the loop asks with one look a step, or keeps count itself.

        Here: `step`, for every core whose step decides nothing on the host.
        """
        with torch.no_grad():
            return self.step(x_BD, state, start_B)

    def unsettled(self, state: State) -> Tensor:
        """Return which rows have work left for `settle`, (B,) bool. Only for a core that `settles`."""
        raise NotImplementedError(f"{type(self).__name__} leaves nothing to settle")

    def slack(self, state: State) -> Tensor:
        """Return how many steps each row can take before it may be unsettled, (B,) whole; 0 for one that is.

        So a loop looks seldom. Here: 1 for every row that is settled. Only for a core that `settles`.
        """
        return (~self.unsettled(state)).long()

    def settle(self, state: State) -> State:
        """Do the work that `advance` left, for some or all of the rows that are `unsettled`, and for at least one.

        Other rows stay as they are. It can be captured in a CUDA graph, and the caller gives the state up.
        """
        return state

    judges: bool = False
    """What the core keeps depends on `judge`. Where this is false, there is no need to call it."""

    def judge(self, state: State, surprise_B: Tensor) -> State:
        """Take in how surprising the step just taken turned out to be, (B,), before the next step; higher is more.

        It can be captured in a CUDA graph, and the caller gives the state up.
        """
        return state

    keeps: str = ""
    """The name, in `gates`, of the gate that says what share of a unit's content a step keeps; with a `-` before it,
    what share it replaces. Here: there is none."""

    def gates(self, x_BD: Tensor, state: State, start_B: Tensor) -> dict[str, Tensor]:
        """Return how open each kind of gate is at a step, by name, any shape in 0..1; what a step takes, it takes.

        Here: nothing, for a core without gates.
        """
        return {}

    def attends(self, x_BD: Tensor, state: State, start_B: Tensor) -> Tensor | None:
        """Return how the attention of a step spreads over its past, (B, A); what a step takes, it takes.

        Entry a is the share, mean over heads and layers, that goes to the step a steps ago; an entry that stands for
        several steps gives each the same. Together 1, or less where some of it goes to no step (a sink).

        Here: None, for a core that attends to nothing, or cannot say to which steps.
        """
        return None

    def state_bytes(self, steps: int) -> int:
        """Return the bytes that the memory of one row takes after `steps` steps of a trial.

        Here: the size of a fresh state, for every core whose memory is of fixed size.
        """
        return sum(part.numel() * part.element_size() for part in parts(self.initial_state(1)).values())

    def context_entries(self, steps: int) -> int:
        """Return how many entries, each a key and a value in every layer, a row holds after `steps` steps of a trial.

        Here: 0, for every core that keeps no entries.
        """
        return 0

    def flops_per_step(self, steps: int) -> float:
        """Return the floating-point operations of the step of one row that follows `steps` steps of its trial.

        Two per weight that it is multiplied with; in attention, per layer and key, two per feature for the score and
        two for the sum of values. Norms and nonlinearities are not counted, nor what `settle` does: `settling_flops`.

        Here: two per parameter, for every core in which each is a weight that every step uses once.
        """
        return 2.0 * count_parameters(self)

    def settling_flops(self, steps: int) -> float:
        """Return what `settle` adds to such a step, spread evenly over the steps between two of its calls.

        Here: nothing, for a core that leaves nothing to `settle`.
        """
        return 0.0


def count_parameters(*modules: nn.Module) -> int:
    """Return how many numbers are learned in some modules."""
    return sum(part.numel() for module in modules for part in module.parameters())


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` to the tensors that stand in the same place of each state, and keep the structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {name: map_state(function, *(state[name] for state in states)) for name in first}
    mapped = [map_state(function, *parts) for parts in zip(*states, strict=True)]
    return type(first)(*mapped) if hasattr(first, "_fields") else tuple(mapped)


def parts(state: State, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a state by name, as safetensors wants them: `1.key` is the field `key` of part 1."""
    if isinstance(state, Tensor):
        return {prefix or "state": state}
    found: dict[str, Tensor] = {}
    for name, part in _named(state):
        found |= parts(part, f"{prefix}.{name}" if prefix else str(name))
    return found


def from_parts(like: State, found: dict[str, Tensor], prefix: str = "") -> State:
    """Put named tensors back into the structure of `like`: the inverse of `parts`."""
    if isinstance(like, Tensor):
        return found[prefix or "state"]
    restored = {
        name: from_parts(part, found, f"{prefix}.{name}" if prefix else str(name)) for name, part in _named(like)
    }
    if isinstance(like, dict):
        return restored
    return type(like)(*restored.values()) if hasattr(like, "_fields") else tuple(restored.values())


def _named(state: State) -> Iterable[tuple[Any, State]]:
    if isinstance(state, dict):
        return state.items()
    return zip(getattr(state, "_fields", range(len(state))), state, strict=True)


def select(start_B: Tensor, fresh: State, state: State) -> State:
    """Give the fresh state to the rows that start: the one rule of forgetting of the package."""

    def pick(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(start_B.view(-1, *[1] * (old.ndim - 1)), new, old)

    return map_state(pick, fresh, state)


def rows(state: State, index: Tensor | slice) -> State:
    """Return the memory of some rows."""
    return map_state(lambda part: part[index], state)


def detach(state: State) -> State:
    """Return the memory without its gradient history."""
    return map_state(Tensor.detach, state)


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(ABC):
    """What every memory core has in common; each core adds its own options in a subclass.

    `name` and `summary` are what `mnemic list memories` and the registry show.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    width: int = 64
    """Features that go into, through and out of the memory."""
    depth: int = 1
    """Layers, one on top of the other."""
    residual: Literal["none", "add", "gate"] = "none"
    """How a layer joins the stream: its output replaces it, is added to it, or enters through a GRU gate (GTrXL)."""
    residual_bias: float = 2.0
    """What GRU gates begin at, with residual gate: the higher, the closer a block is to the identity at first."""
    mlp: int = 0
    """Hidden width of the gated MLP after each layer, as a multiple of `width`; 0 for none."""
    depth_dropout: float = 0.0
    """How likely learning leaves a layer and its MLP out, for all rows of a pass at once; not without a residual."""

    def __post_init__(self) -> None:
        """Refuse sizes that no core can have."""
        for field, least in (("width", 1), ("depth", 1), ("mlp", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"memory {self.name}: {field} is {getattr(self, field)}; it must be at least {least}")
        if not 0 <= self.depth_dropout < 1:
            raise ValueError(
                f"memory {self.name}: depth_dropout is {self.depth_dropout}; it must be at least 0 and less than 1"
            )
        if self.depth_dropout and self.residual == "none":
            raise ValueError(
                f"memory {self.name}: depth_dropout {self.depth_dropout} leaves nothing of a stream without a "
                "residual; choose residual add or gate, or depth_dropout 0"
            )

    @abstractmethod
    def build(self) -> Core:
        """Make the core, with fresh weights."""
