"""One run in many processes: the rows are split over ranks, gradients are averaged, and one rank speaks for all.

torchrun starts the processes and tells each its number in the environment; so does anything else that sets the same
variables. A process that nothing has started so is alone, and then nothing here does or costs anything.

Two kinds of traffic: gradients go where the policy lives (NCCL between GPUs, gloo between CPUs), everything else, small
and rare, goes over gloo.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ..agents.noise import PartGenerator
from .config import TrainConfig

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# As long as one rank may keep the others waiting, in an evaluation or a checkpoint. Where a rank has died the others
# need not wait: its connections close, and torchrun ends them.
PATIENCE = timedelta(hours=2)


class RanksError(RuntimeError):
    """The processes of a run can no longer go on together, and why, in one line."""


class Launch(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among those on this machine
    local_world: int = 1
    many: bool = False  # whether it was started as one of many, though it may be the only one

    @classmethod
    def here(cls) -> Launch:
        """Read the environment."""
        if not all(name in os.environ for name in VARIABLES):
            return cls()
        rank, world, local_rank = (int(os.environ[name]) for name in VARIABLES)
        return cls(rank, world, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", world)), True)

    def check(self, config: TrainConfig) -> None:
        """Refuse a batch that does not divide over the ranks, before any of them waits for another.

        Raises:
            ValueError: it does not divide.
        """
        ppo = config.ppo
        if ppo.rows % (self.world * ppo.minibatches):
            raise ValueError(
                f"ppo: {ppo.rows} rows do not divide over {self.world} ranks with {ppo.minibatches} minibatches each; "
                f"make rows a multiple of {self.world * ppo.minibatches}"
            )

    def device(self, name: str) -> torch.device:
        """Return the device of this rank: of many, each takes the GPU of its own number.

        Raises:
            ValueError: there are more ranks than GPUs on this machine, or many ranks were sent to one device.
        """
        if not self.many or name == "cpu":
            return torch.device(name)
        if name != "cuda":
            raise ValueError(f"ranks run on cpu or cuda, and each takes the GPU of its own number; {name!r} came")
        if (count := torch.cuda.device_count()) < self.local_world:
            raise ValueError(
                f"{self.local_world} ranks on this machine need as many GPUs, and it has {count}; "
                f"start {count} with --nproc-per-node, or use --device cpu"
            )
        return torch.device("cuda", self.local_rank)


class Ranks:
    """The processes of a run, seen from one of them. Without arguments: a process that is alone.

    Every method but `rows` and `generator` is to be called by all ranks, in the same order.

    Args:
        launch: which of how many this is.
        store: what all of them can write to, once `together` has made it.
    """

    def __init__(self, launch: Launch | None = None, store: Store | None = None) -> None:
        self.launch = launch or Launch()
        self.rank, self.world = self.launch.rank, self.launch.world
        self.many = store is not None
        self.store = store

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints, logs and writes checkpoints."""
        return self.rank == 0

    def rows(self, whole: int) -> range:
        """Return which rows of the whole batch are this rank's."""
        share = whole // self.world
        return range(self.rank * share, (self.rank + 1) * share)

    def generator(self, device: torch.device | str) -> torch.Generator:
        """Return a generator that gives each row what it would get in one process."""
        return PartGenerator(device, self.rank, self.world) if self.many else torch.Generator(device)

    def average(self, tensors: Sequence[Tensor], share: float | None = None) -> None:
        """Replace tensors of one type and device by their mean over the ranks, in one exchange.

        Args:
            tensors: alike in all ranks.
            share: the weight of this rank, all of which add up to 1; None: all count the same.
        """
        if not self.many:
            return
        flat = torch.cat([part.reshape(-1) for part in tensors]).mul_(1 / self.world if share is None else share)
        with _together("average gradients"):
            dist.all_reduce(flat)
        for part, mean in zip(tensors, torch.split(flat, [part.numel() for part in tensors]), strict=True):
            part.copy_(mean.view_as(part))

    def collect(self, value: T) -> list[T]:
        """Return the value of every rank, in order: plain data, not large."""
        if not self.many:
            return [value]
        found: list[Any] = [None] * self.world
        with _together("exchange figures"):
            dist.all_gather_object(found, value)
        return found

    def share(self, value: T) -> T:
        """Return the first rank's value."""
        if not self.many:
            return value
        found = [value]
        with _together("wait for the first rank"):
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is up in any rank."""
        if not self.many:
            return flags
        up = torch.tensor(flags, dtype=torch.uint8)
        with _together("agree on what comes next"):
            dist.all_reduce(up, dist.ReduceOp.MAX)
        return tuple(map(bool, up.tolist()))

    def whole(self, part: Tensor) -> Tensor:
        """Return the rows of all ranks, put together in the first and unchanged in the others."""
        if not self.many or part.numel() == 0:
            return part
        # As bytes: gloo does not know every type of number.
        mine = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
        parts = [torch.empty_like(mine) for _ in range(self.world)] if self.first else None
        with _together("put the checkpoint together"):
            dist.gather(mine, parts)
        return part if parts is None else torch.cat(parts).view(part.dtype).view(-1, *part.shape[1:])

    def begin_equal(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the first one's numbers."""
        if self.many:
            with _together("share the first weights"):
                for part in tensors:
                    dist.broadcast(part.detach(), src=0)

    def check_equal(self, tensors: Sequence[Tensor]) -> None:
        """Make sure that all ranks hold the same numbers, bit for bit.

        Raises:
            RanksError: they do not.
        """
        if self.many and len(set(self.collect(_checksum(tensors)))) > 1:
            raise RanksError(
                "the weights of the ranks have drifted apart: give all of them the same kind of device and the same "
                "build of torch"
            )


class Cutoff:
    """Ends the windows of slow ranks once enough others have finished theirs.

    The preemption of DD-PPO (Wijmans et al. 2020, arXiv 1911.00357, section 3). Departure: a quarter of the window is
    always played, so that no rank learns from next to nothing.

    Args:
        ranks: all of them.
        window: steps of a whole window.
        enough: the share of the ranks that is waited for.
    """

    KEY = "windows"  # counts the windows that ranks have finished, whole or not

    def __init__(self, ranks: Ranks, window: int, enough: float) -> None:
        assert ranks.store is not None
        self._store, self._world = ranks.store, ranks.world
        self._least = -(-window // 4)
        self._needed = math.ceil(enough * ranks.world - 1e-9)  # 0.6 of 5 is 3, whatever its last bit says
        self._before = 0

    def __call__(self, played: int) -> bool:
        """Say whether this rank should end its window, of which it has played so many steps."""
        return played >= self._least and self._store.add(self.KEY, 0) >= self._before + self._needed

    def finish(self) -> None:
        """Say that this rank's window is over. No rank begins its next window before all have come here."""
        self._store.add(self.KEY, 1)
        self._before += self._world


@contextmanager
def together(launch: Launch, device: torch.device) -> Iterator[Ranks]:
    """Join the other processes of the launch, and leave them at the end; alone there is nothing to join."""
    if not launch.many:
        yield Ranks()
        return
    global _store
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _together("find each other"):
        store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=PATIENCE,
        )
    _store = PrefixStore("mnemic", store)
    yield Ranks(launch, _store)
    # Not after an error: ranks that are gone or stuck cannot say goodbye. Else the last exchange must carry no tensors:
    # gloo gives them back in a thread of its own, and a Python that is already ending would abort there.
    _store = None
    with _together("end with the others"):
        dist.barrier()
    dist.destroy_process_group()


_store: Store | None = None  # while this process is one of many


def is_spokesman() -> bool:
    """Say whether it is this process that tells what went wrong: of many, the first that asks.

    Before the processes have found each other, the first of each machine. The others wait until it has spoken, since
    torchrun ends them all as soon as one has ended.
    """
    launch = Launch.here()
    if not launch.many or (_store is None and launch.local_rank == 0):
        return True
    if _store is not None:
        try:
            if _store.add("spoken", 1) == 1:
                return True
        except RuntimeError:  # whoever keeps the store is gone, and has said why
            return False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(15.0 if _store is None else 1.0)  # some may still be loading, and will find the same mistake
    return False


@contextmanager
def _together(what: str) -> Iterator[None]:
    """Say in our words what it means when ranks cannot reach each other."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise RanksError(f"a rank could not {what}: another has ended, or cannot be reached ({reason})") from None


def _checksum(tensors: Sequence[Tensor]) -> int:
    total = 0
    for part in tensors:
        bits = part.detach().contiguous().view(-1).view(torch.uint8).long()
        total += int((bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum())
    return total
