"""A run folder and what a run resumes from.

- `config.json`: the whole configuration;
- `about.json`: by which command, on which device and when (`train/about.py`);
- `metrics.jsonl`, `events.*`: what was logged;
- `checkpoints/<steps>/policy`: the agent;
- `checkpoints/<steps>/recall`: what asks the agent for what is hidden, where the run does;
- `checkpoints/<steps>/training_state`: everything else that the run goes on from;
- `checkpoints/last`: a link to the newest.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..agents.checkpoint import CheckpointError, check_backbone, policy_contents, read, write
from ..agents.policy import Policy
from ..kernels import backend
from ..memory.core import from_parts, parts
from .capture import Graphs
from .config import TrainConfig
from .episodes import EpisodeMeter
from .heap import keep_memory
from .history import check_trials, contents, restored
from .ranks import Cutoff, Ranks
from .recall import Recall, asked
from .rollout import Acting, Window, start


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            ValueError: something stands there already; a run is never overwritten.
        """
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise ValueError(
                f"{path} exists and is not overwritten; choose another folder with --run, "
                f"or go on with `mnemic resume {path}`"
            ) from None
        text = json.dumps(config.to_dict(), indent=2)
        partial = path / ".config.json"
        partial.write_text(text + "\n")
        os.replace(partial, path / "config.json")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, TrainConfig]:
        """Open the folder of a run, and read its configuration.

        Raises:
            ValueError: it is no run folder, or its configuration cannot be read.
        """
        file = path / "config.json"
        if not file.is_file():
            raise ValueError(f"{path} is not a run folder: it has no config.json")
        try:
            found = json.loads(file.read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: not JSON ({error})") from None
        try:
            return cls(path), TrainConfig.from_dict(found)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def begun(self) -> bool:
        """Say whether there is anything to go on from: a run killed before its first checkpoint has nothing."""
        metrics = self.path / "metrics.jsonl"
        return bool(self._steps()) or (metrics.is_file() and metrics.stat().st_size > 0)

    def last(self) -> Path:
        """Return the newest whole checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        steps = self._steps()
        if not steps:
            raise CheckpointError(f"{self.path} has no checkpoint yet")
        return self.checkpoints / str(steps[-1])

    def progress(self, config: TrainConfig) -> tuple[int, bool]:
        """Return the steps at the newest checkpoint, and whether the run was at its end there: all done, or solved.

        Raises:
            CheckpointError: there is no checkpoint, or it cannot be used.
        """
        data, _ = read(self.last() / "training_state", "training state")
        finished = data["updates"] >= config.updates or bool(data["figures"].get("solved"))
        return data["updates"] * config.ppo.batch_steps, finished

    def save(self, training: Training, keep: int) -> Path:
        """Write a checkpoint, point `last` to it and drop all but the newest `keep`.

        All ranks call this together, since each holds a part; the first one writes.

        Raises:
            OSError: the disk is full or not writable; the earlier checkpoints are untouched.
            RanksError: the ranks no longer hold the same weights.
        """
        folder = self.checkpoints / str(training.steps)
        training.ranks.check_equal(training.parameters)
        contents = {"policy": policy_contents(training.policy), "training_state": training.contents()}
        if training.recall is not None:
            contents["recall"] = "recall", {"asked": _asked(training.recall)}, training.recall.state_dict()
        if not training.ranks.first:
            return folder
        for left in self.checkpoints.glob(".partial-*"):  # by a run that was killed while it wrote
            shutil.rmtree(left)
        if not folder.is_dir():  # a run comes to a step once: what stands there is this state
            write(folder, contents)
        link = self.checkpoints / ".last"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        os.replace(link, self.checkpoints / "last")
        for step in self._steps()[:-keep]:
            shutil.rmtree(self.checkpoints / str(step))
        return folder

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.checkpoints.glob("[0-9]*") if path.name.isdecimal())


def begin_from(policy: Policy, path: Path, recall: Recall | None = None) -> None:
    """Give a policy the weights of the newest policy of another run.

    Args:
        policy: begins anew with them.
        path: of the run.
        recall: what asks the policy; where that run asked the same, it goes on with what was learned there. Untrained
            heads would spoil what the memory has learned for them.

    Raises:
        ValueError: that is no run, or its policy has another form; the policy is unchanged then.
        CheckpointError: it has no checkpoint, or one that cannot be read.
    """
    folder, _ = RunFolder.open(path)
    data, weights = read(folder.last() / "policy", "policy")
    own = policy.state_dict()
    unlike = [name for name in own.keys() | weights.keys() if _in_words(own, name) != _in_words(weights, name)]
    if unlike:
        name = min(unlike)
        raise ValueError(
            f"the policy of {path} does not fit this run: {name} is {_in_words(weights, name)} there and "
            f"{_in_words(own, name)} here; keep the memory, its sizes, those of the encoder, and what the task shows"
        )
    check_backbone(policy, data)
    policy.load_state_dict(weights)
    if recall is not None and (folder.last() / "recall").exists():
        data, heads = read(folder.last() / "recall", "recall")
        if data["asked"] == _asked(recall):
            recall.load_state_dict(heads)


def _asked(recall: Recall) -> list[list[str | int]]:
    return [[name, *size] for name, size in recall.sizes.items()]


def _in_words(found: dict[str, Tensor], name: str) -> str:
    return f"of shape {tuple(found[name].shape)}" if name in found else "missing"


class Training:
    """Everything that a run goes on from, between two updates.

    Args:
        config: of the run.
        ranks: the processes that share its rows; None: this one has all of them.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks | None = None) -> None:
        """Begin a run: the seed decides the weights, the tasks, the actions and the minibatches."""
        self.config, self.ranks = config, ranks or Ranks()
        if config.threads:
            torch.set_num_threads(config.threads)
        backend.prefer(config.kernels)
        keep_memory()
        device = self.ranks.launch.device(config.device)
        torch.manual_seed(config.seed)
        self.rows = self.ranks.rows(config.ppo.rows)
        self.env = config.env.build_part(self.rows, config.seed, device)
        check_trials(config.ppo, self.env)
        self.policy = Policy(
            config.encoder,
            config.memory,
            self.env.observation_space,
            self.env.action_space,
            separate_critic=config.separate_critic,
        ).to(device)
        self.policy.check_episodes(self.env.longest_episode)
        self.policy.eval()  # a core that is noisy while it learns is so in the pass that learns alone
        ppo = config.ppo
        recall = asked(self.env, ppo.recall) if ppo.recall_weight else {}
        self.recall = Recall(self.policy.out.in_features, recall).to(device) if recall else None
        parameters = self.parameters
        options: dict[str, Any] = {"lr": ppo.learning_rate, "eps": ppo.adam_epsilon, "fused": True}
        self.optimizer = (
            torch.optim.AdamW(parameters, weight_decay=ppo.weight_decay, **options)
            if ppo.weight_decay
            else torch.optim.Adam(parameters, **options)
        )
        self.ranks.begin_equal(parameters)
        self.acting: Acting = start(self.env, self.policy, recall=recall)
        self.history: Window | None = None  # what learning goes through again before the next window
        self.sampling = self.ranks.generator(device).manual_seed(config.seed)
        self.shuffling = self.ranks.generator("cpu").manual_seed(config.seed + 1)
        self.meter = EpisodeMeter(len(self.rows), self.env.cut_below)
        self.graphs = Graphs(wanted=config.capture, compiled=config.compile)
        cuts = self.ranks.many and config.ppo.wait_for < 1
        self.cutoff = Cutoff(self.ranks, config.ppo.window, config.ppo.wait_for) if cuts else None
        self.updates = 0
        self.seconds = 0.0
        self.figures: dict[str, float] = {}  # the last evaluation

    @property
    def steps(self) -> int:
        """Environment steps taken."""
        return self.updates * self.config.ppo.batch_steps

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All that the optimiser changes: the policy, and what asks it in training alone."""
        return [*self.policy.parameters(), *(self.recall.parameters() if self.recall is not None else ())]

    def contents(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint stores beside the policy: in the first rank, the rows of all."""
        tensors = {
            "random.sampling": self.sampling.get_state(),
            "random.shuffling": self.shuffling.get_state(),
            "random.global": torch.get_rng_state(),
        }
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": part for name, part in state.items()}
        if self.env.resumable:
            by_row = parts(self.acting, "acting") | {f"meter.{name}": part for name, part in self.meter.state.items()}
            by_row |= contents(self.history) if self.history is not None else {}
            tensors |= {name: self.ranks.whole(part) for name, part in by_row.items()}
        data = {"updates": self.updates, "seconds": self.seconds, "figures": self.figures}
        return "training state", data, tensors

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of the same configuration, which may have been written by another number of ranks.

        An environment that lives in other processes cannot be restored: its episodes begin anew.

        Raises:
            CheckpointError: the checkpoint cannot be used; the message says why.
        """
        data, tensors = read(checkpoint / "training_state", "training state")
        learned, weights = read(checkpoint / "policy", "policy")
        heads = read(checkpoint / "recall", "recall")[1] if (checkpoint / "recall").exists() else {}
        try:
            check_backbone(self.policy, learned)
            self.policy.load_state_dict(weights)
            if self.recall is not None:
                self.recall.load_state_dict(heads)
            saved = self.optimizer.state_dict()
            for key, part in tensors.items():
                if key.startswith("optimizer."):
                    _, index, name = key.split(".")
                    saved["state"].setdefault(int(index), {})[name] = part
            self.optimizer.load_state_dict(saved)
            self.sampling.set_state(tensors["random.sampling"])
            self.shuffling.set_state(tensors["random.shuffling"])
            torch.set_rng_state(tensors["random.global"])
            if self.env.resumable:
                mine: dict[str, Tensor] = {}
                for key, part in tensors.items():
                    if key.startswith(("acting.", "meter.", "history.")):
                        if len(part) != self.config.ppo.rows:
                            raise ValueError(f"{key} has {len(part)} rows and not {self.config.ppo.rows}")
                        mine[key] = part[self.rows.start : self.rows.stop].clone()
                self.meter.state = {name: mine.pop(f"meter.{name}") for name in self.meter.state}
                on_device = {key: part.to(self.env.device) for key, part in mine.items()}
                self.acting = from_parts(self.acting, on_device, "acting")
                self.history = restored(on_device, self.acting)
            self.updates, self.seconds, self.figures = data["updates"], data["seconds"], data["figures"]
            if not self.env.resumable:
                self.env.close()
                # Other episodes than those that the run began with.
                seed = self.config.seed + 1_000_003 * self.updates
                self.env = self.config.env.build_part(self.rows, seed, self.env.device)
                recall = () if self.recall is None else self.recall.sizes
                self.acting, self.history = start(self.env, self.policy, recall=recall), None
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{checkpoint} does not fit the configuration of its run: {reason}") from None
