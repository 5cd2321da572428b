"""The configuration of a run: frozen, complete, and the only thing that a run depends on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..agents.encoder import EncoderConfig
from ..agents.losses import LossConfig
from ..envs import config_from_dict as env_from_dict
from ..envs import config_to_dict as env_to_dict
from ..envs.endless_tmaze import EndlessTMazeConfig
from ..envs.step import EnvConfig
from ..kernels import backend
from ..memory import config_from_dict as memory_from_dict
from ..memory import config_to_dict as memory_to_dict
from ..memory.core import MemoryConfig
from ..memory.rnn import LSTMConfig
from .arithmetic import Precision

MOST_THREADS = 256  # far more and the threads cannot be made: torch then crashes without a word


@dataclass(frozen=True, kw_only=True)
class PPOConfig(LossConfig):
    """Proximal policy optimisation over recurrent windows."""

    rows: int = 256
    """Environments that run side by side."""
    window: int = 64
    """Steps between two updates, and so the reach of the gradient through time; memory reaches further."""
    epochs: int = 3
    """Passes over each window."""
    minibatches: int = 4
    """Parts of a pass; each holds whole rows, from the memory at the start of the window."""
    learning_rate: float = 1e-3
    """Step size of Adam at the start."""
    accumulate: int = 1
    """Minibatches whose gradients are averaged into one step of Adam: large batches that would not fit at once."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the step size (and the entropy weight) goes from its first value: stays, or falls to the last, in a line or
    along half a cosine."""
    final_learning_rate: float = 0.0
    """Step size at the end of a schedule that falls."""
    warmup_steps: int = 0
    """Environment steps over which the step size first rises in a line from 0; 0: none."""
    adam_epsilon: float = 1e-5
    """Epsilon of Adam."""
    weight_decay: float = 0.0
    """Decoupled decay of all weights (AdamW), as a multiple of the step size; 0 for none."""
    max_grad_norm: float = 0.5
    """Longer gradients are shortened to this norm."""
    gamma: float = 0.99
    """Discount of a step."""
    gae_lambda: float = 0.95
    """How far an advantage looks ahead before it trusts the value."""
    cut_returns: bool = True
    """Returns end with the episode. False: they end with the trial, so what an episode teaches the next one counts."""
    trial_end: Literal["bootstrap", "stop"] = "bootstrap"
    """With returns that end with the trial, a trial that its clock ends is worth what its last observation promises
    (bootstrap), or nothing more (stop): then the return of the trial itself is what is learned for."""
    recompute: int = 0
    """Steps of the trial before the window that learning goes through again with the newest weights: nothing that they
    left in memory is stale, and gradients reach them. As many as a trial has, or more: all of it. 0: learning begins
    with the memory that acting had at the start of the window."""
    refresh: bool = True
    """With `recompute`: after an update, acting goes on from the memory that the newest weights make of the same steps,
    and the values of those steps are theirs too."""
    shuffle: bool = False
    """With `recompute`: after an update, the finished episodes of each running trial change their order."""
    full_update: bool = False
    """With `recompute` over the whole trial: the last update of a trial learns from all its steps, not from its last
    window alone. For tasks whose trials all have one length, which the window divides."""
    target_kl: float = 0.0
    """Stop the passes over a window once the policy has moved this far (approx_kl); 0 for never."""
    recall_weight: float = 0.0
    """Weight of an auxiliary loss that asks the memory what the task hides and has told before; 0: none. For tasks that
    say what they hide."""
    recall: tuple[str, ...] = ()
    """What `recall_weight` asks for, of what the task hides, by name; none: all of it."""
    wait_for: float = 1.0
    """Of many ranks, the share whose windows are waited for; the others then cut theirs short. 0.6 suits environments
    of uneven speed (DD-PPO); 1 waits for all."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("rows", "window", "epochs", "minibatches", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"ppo: {name} is {getattr(self, name)}; it must be at least 1")
        if self.rows % self.minibatches:
            raise ValueError(
                f"ppo: {self.rows} rows do not divide into {self.minibatches} minibatches; "
                "make rows a multiple of minibatches"
            )
        for name, choices in (
            ("schedule", ("constant", "linear", "cosine")),
            ("trial_end", ("bootstrap", "stop")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"ppo: {name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if self.minibatches % self.accumulate:
            raise ValueError(
                f"ppo: {self.minibatches} minibatches do not divide into steps of {self.accumulate}; "
                "make minibatches a multiple of accumulate"
            )
        if not 0 < self.wait_for <= 1:
            raise ValueError(f"ppo: wait_for is {self.wait_for}; it must be above 0 and at most 1")
        for name in ("recompute", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"ppo: {name} is {getattr(self, name)}; it must be at least 0")
        for name in ("shuffle", "full_update"):
            if getattr(self, name) and not self.recompute:
                raise ValueError(f"ppo: {name} is about steps that are gone through again; set recompute above 0")
        if self.shuffle and not self.refresh:
            raise ValueError("ppo: shuffle changes what acting has to remember; it needs refresh")
        if self.shuffle and self.recall_weight:
            raise ValueError(
                f"ppo: recall_weight is {self.recall_weight} with shuffle, which changes what was told before a step; "
                "leave out one of the two"
            )
        if self.recall and not self.recall_weight:
            raise ValueError(f"ppo: recall is {', '.join(self.recall)} and recall_weight is 0; set it above 0")
        if self.recompute and self.wait_for < 1:
            raise ValueError(
                f"ppo: wait_for is {self.wait_for} and recompute is {self.recompute}; windows cut short leave no "
                "history that all ranks share: set wait_for to 1, or recompute to 0"
            )
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ppo: {name} is {getattr(self, name)}; it must lie in 0..1")
        for name in ("learning_rate", "adam_epsilon", "max_grad_norm", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"ppo: {name} is {getattr(self, name)}; it must be above 0 and finite")
        for name in (
            "final_learning_rate",
            "target_kl",
            "value_clip",
            "value_weight",
            "entropy_weight",
            "weight_decay",
            "recall_weight",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"ppo: {name} is {getattr(self, name)}; it must be at least 0 and finite")

    @property
    def batch_steps(self) -> int:
        """Environment steps in one window."""
        return self.rows * self.window


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Greedy evaluation on fresh episodes while training goes on."""

    every: int = 10
    """Updates between two evaluations; 0 for none."""
    episodes: int = 200
    """Fresh episodes in an evaluation."""
    stop_at: float = 0.0
    """End the run once this success rate is seen in an evaluation and confirmed in a second, larger one; 0: never."""
    confirm_episodes: int = 1000
    """Fresh episodes in the evaluation that confirms."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        for name, least in (("every", 0), ("episodes", 1), ("confirm_episodes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"evaluation: {name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.stop_at <= 1:
            raise ValueError(f"evaluation: stop_at is {self.stop_at}; it must lie in 0..1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a run depends on."""

    env: EnvConfig = field(default_factory=EndlessTMazeConfig)
    """The task and its options."""
    memory: MemoryConfig = field(default_factory=LSTMConfig)
    """The memory core and its options."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """What the policy is told, and its first layers."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """How it learns."""
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    """How it is looked at while it learns."""
    steps: int = 2_000_000
    """Environment steps of the run."""
    init: str = ""
    """A run whose newest policy this one begins with (weights only): to go on with longer trials, or another task."""
    seed: int = 0
    """Decides everything that is random."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads, kept in config.json: the same number gives the same bits. 0: up to four; one on a busy machine."""
    precision: Precision = "tf32"
    """Arithmetic on a GPU. float32; tf32: matrix products round what they multiply to 10 bits and add up in float32, at
    several times the speed; bfloat16: the learning pass in bfloat16 beside that. On a CPU tf32 is float32."""
    capture: bool = True
    """On a GPU, record acting and learning as CUDA graphs: several times faster, with the same results. A native task
    is needed; what cannot be recorded says so and runs step by step."""
    compile: bool = False
    """Fuse the steps of native tasks into a few kernels when they are recorded: acting is up to twice as fast, with the
    same bits (object-nav: to the last digits of a position), but compiling takes some ten seconds at the start. It pays
    from some hundred million steps on."""
    separate_critic: bool = False
    """Give the critic an encoder and a memory of its own, of the same kind; otherwise actor and critic share them."""
    kernels: tuple[str, ...] = ()
    """Backends of kernels by words like rnn=loop, as `mnemic list kernels` shows them; the others choose themselves."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints is {self.keep_checkpoints}; it must be at least 1")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds is {self.checkpoint_seconds}; it must be at least 0")
        if not 0 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads is {self.threads}; it must lie in 0..{MOST_THREADS}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..2^63-1")
        if self.kernels:
            backend.load()
            backend.read(self.kernels)

    @property
    def updates(self) -> int:
        """Windows in the run: the last one may pass `steps`."""
        return -(-self.steps // self.ppo.batch_steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for config.json."""
        return asdict(self) | {"env": env_to_dict(self.env), "memory": memory_to_dict(self.memory)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> TrainConfig:
        """Return the configuration that `to_dict` gave.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        try:
            parts = dict(found)
            env = env_from_dict(parts.pop("env"))
            ppo = dict(parts.pop("ppo"))
            ppo["recall"] = tuple(ppo.get("recall", ()))  # runs of version 0.1 may have none
            return cls(
                env=env,
                memory=memory_from_dict(parts.pop("memory")),
                encoder=EncoderConfig(**parts.pop("encoder")),
                ppo=PPOConfig(**ppo),
                evaluation=EvalConfig(**parts.pop("evaluation")),
                kernels=tuple(parts.pop("kernels", ())),  # runs of version 0.1 have none
                **parts,
            )
        except KeyError as error:
            raise ValueError(f"the configuration does not fit this version of mnemic: it has no {error}") from None
        except TypeError as error:
            raise ValueError(f"the configuration does not fit this version of mnemic: {error}") from None
