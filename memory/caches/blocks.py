"""Blocks of old steps that are looked up: a step reads the first steps, its window, and the blocks that suit it best.

Source: Xiao et al. 2024, InfLLM (arXiv 2402.04617), section 3. Steps that leave the window form blocks. A block is
found by the mean key of its representatives, the entries that got the most attention while they were in the window; a
query reads the blocks with the highest scores, in one softmax with the rest. All that lies beyond the window has one
distance.
Departures: the store is not without bound. It holds C blocks, and the one goes that was read least of late (the
paper's rule for what stays on the GPU), in all layers at once. Every step looks up for itself.
Shapes: B rows, H heads, K width of a head, L layers, I first steps, N slots of the window, C blocks, Q those that are
read, R steps of a block, M = Q R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..core import Core, MemoryConfig
from ..stack import Stack
from ..transformer import AttentionLayer
from .config import CacheConfig
from .streaming import Streaming, put, scores, shrunk, still, take, turned, weigh, wipe


class Blocks(NamedTuple):
    """What a row remembers. Slots without an entry are 0. Distant keys are not rotated where they have one distance."""

    first_LB2HIK: tuple[Tensor, ...]
    """Keys and values of the first steps: for each layer (B, 2, H, I, K)."""
    near_LB2HNK: tuple[Tensor, ...]
    """The window, a ring: keys are rotated by their step."""
    mass_LBN: tuple[Tensor, ...]
    """(B, N) float32: the attention that each entry of the window has received."""
    block_LB2HCRK: tuple[Tensor, ...]
    """The blocks."""
    face_LBHCK: tuple[Tensor, ...]
    """The mean key of the representatives of each block."""
    use_BC: Tensor
    """(B, C) float32: how much attention a block got, decayed; 1 for a new one."""
    number_BC: Tensor
    """(B, C) int32: the number of each block in its trial; -1 for none."""
    seen_B: Tensor
    """(B,) int64: steps of the trial so far."""


class BlockCore(Streaming):
    """A transformer with a window and a store of blocks."""

    def __init__(self, stack: Stack, config: BlocksConfig, blocks: int) -> None:
        super().__init__(stack)
        self.config, self.blocks, self.near = config, blocks, config.window + config.block
        self.read = min(config.top, blocks)

    def _nothing(self, batch: int) -> Blocks:
        weight, config = next(self.stack.parameters()), self.config

        def zeros(*shape: int, dtype: torch.dtype = weight.dtype) -> tuple[Tensor, ...]:
            return tuple(torch.zeros(batch, *shape, dtype=dtype, device=weight.device) for _ in range(self.depth))

        heads, width = self.heads, self.head_width
        return Blocks(
            zeros(2, heads, config.sinks, width),
            zeros(2, heads, self.near, width),
            zeros(self.near, dtype=torch.float32),
            zeros(2, heads, self.blocks, config.block, width),
            zeros(heads, self.blocks, width),
            torch.zeros(batch, self.blocks, device=weight.device),
            torch.full((batch, self.blocks), -1, dtype=torch.int32, device=weight.device),
            torch.zeros(batch, dtype=torch.int64, device=weight.device),
        )

    def context_entries(self, steps: int) -> int:
        """Return how many steps a row keeps: the first ones, its window, and all blocks of the store."""
        return steps - self.config.block * max(0, self._left(steps - 1) - self.blocks)

    def flops_per_step(self, steps: int) -> float:
        """Return what a transformer costs that attends to what is read, and the lookup: a score of every block."""
        blocks, keys = min(self._left(steps), self.blocks), self.context_entries(steps + 1)
        read = keys - self.config.block * (blocks - min(blocks, self.read))
        whole = self.stack.context_entries(steps + 1)
        return self.stack.flops_per_step(steps) + self.depth * self.width * (4.0 * (read - whole) + 2.0 * blocks)

    def _left(self, step: int) -> int:
        """Return how many blocks have left the window once a step is taken."""
        return max(0, (step - self.config.sinks - self.config.window) // self.config.block)

    def _forget(self, kept: Blocks, start_B: Tensor) -> Blocks:
        wipe(kept, start_B)
        return kept._replace(number_BC=kept.number_BC.masked_fill(start_B[:, None], -1))

    def _step(
        self, x_BD: Tensor, kept: Blocks, position_B: Tensor | None, episode_B: Tensor | None
    ) -> tuple[Tensor, Blocks]:
        config, seen_B, near = self.config, kept.seen_B, self.near
        index_B = seen_B - config.sinks  # the place of the step among those of the window; negative for the first steps
        slot_N = torch.arange(near, device=x_BD.device)
        left_B = ((index_B - config.window) // config.block).clamp(min=0)  # with this step
        leaves_B = (left_B > 0) & ((index_B - config.window) % config.block == 0)

        # The block that leaves takes a place that was never taken, or that of the least used, the oldest of equals.
        number_BC, use_BC = kept.number_BC, kept.use_BC
        least_BC = use_BC <= use_BC.amin(1, keepdim=True)
        dropped_B = torch.where(least_BC, number_BC, torch.iinfo(torch.int32).max).argmin(1)
        place_B = torch.where(left_B <= self.blocks, (left_B - 1).clamp(min=0), dropped_B)
        put(number_BC, 1, place_B, left_B - 1, leaves_B)
        put(use_BC, 1, place_B, torch.ones_like(use_BC[:, 0]), leaves_B)

        index_BN = index_B[:, None] - (index_B[:, None] - slot_N) % near  # what lies in each slot, with this step
        near_BN = (index_BN >= left_B[:, None] * config.block) & (index_B >= 0)[:, None]
        step_I = torch.arange(config.sinks, device=x_BD.device)
        from_BR = (index_B[:, None] + slot_N[: config.block]) % near  # where the block lies that leaves, if one does
        common, usages = config.positions == "common" and position_B is None, []
        own = far = self._turn((seen_B if position_B is None else position_B)[:, None])
        if common:
            # A query at W and keys at 0 are W apart; the first steps are at their own distance until they are that far.
            far = self._turn(torch.full_like(seen_B[:, None], config.window))
            firsts = self._turn((config.window - (seen_B[:, None] - step_I)).clamp(min=0))
            back = self._turn(near - config.sinks - index_B[:, None] - slot_N[: config.block])

        def read(number: int, layer: AttentionLayer, query_BHK: Tensor, new_B2HK: Tensor) -> Tensor:
            first, ring, mass, blocks, faces = (part[number] for part in kept[:5])
            near_BHK, far_BHK = (turned(query_BHK[:, :, None], turn)[:, :, 0] for turn in (own, far))
            turned_BHK = turned(new_B2HK[:, 0, :, None], own)[:, :, 0]
            turned_B2HK = torch.stack([turned_BHK, new_B2HK[:, 1]], 1)

            # The block that leaves.
            key_BHRK, value_BHRK = take(ring, 3, from_BR).unbind(1)
            if common:
                key_BHRK = turned(key_BHRK, back)
            heaviest = mass.gather(1, from_BR).topk(config.representatives, 1).indices
            put(blocks, 3, place_B, torch.stack([key_BHRK, value_BHRK], 1), leaves_B)
            put(faces, 2, place_B, take(key_BHRK, 2, heaviest).mean(2), leaves_B)

            # The new step, among the first ones or in the window.
            if config.sinks:
                put(first, 3, seen_B.clamp(max=config.sinks - 1), new_B2HK if common else turned_B2HK, index_B < 0)
            put(ring, 3, index_B % near, turned_B2HK, index_B >= 0)
            put(mass, 1, index_B % near, torch.zeros_like(mass[:, 0]), index_B >= 0)

            # The blocks that answer best.
            answer_BC = torch.einsum("bhk,bhck->bc", far_BHK, faces.to(far_BHK.dtype))
            top_BQ = torch.where(number_BC >= 0, answer_BC, -torch.inf).topk(self.read, 1).indices
            key_BHMK, value_BHMK = take(blocks, 3, top_BQ).flatten(3, 4).unbind(1)
            seen_BQ1 = (number_BC.gather(1, top_BQ) >= 0)[:, :, None]
            seen_BM = seen_BQ1.expand(-1, -1, config.block).flatten(1)

            key_BHIK = turned(first[:, 0], firsts) if common else first[:, 0]
            parts = [
                (scores(near_BHK, ring[:, 0], near_BN), ring[:, 1]),
                (scores(far_BHK, key_BHMK, seen_BM), value_BHMK),
                (scores(far_BHK, key_BHIK, step_I <= seen_B[:, None]), first[:, 1]),
            ]
            # The core's own sink has no position, and is read with the query as it was trained with.
            read_BHK, weights = weigh(near_BHK, parts, layer._sink())
            near_weight, far_weight = (weight.detach().float() for weight in weights[:2])
            mass.add_(near_weight.sum(1))
            share_BQ = far_weight.mean(1).view(len(seen_B), -1, config.block).sum(2)
            usages.append(torch.zeros_like(use_BC).scatter_(1, top_BQ, share_BQ))
            return read_BHK

        y_BD = self._walk(x_BD, still(own), read)
        use_BC = config.decay * use_BC + torch.stack(usages).mean(0)
        return y_BD, kept._replace(use_BC=use_BC, number_BC=number_BC, seen_B=seen_B + 1)


@dataclass(frozen=True, kw_only=True)
class BlocksConfig(CacheConfig):
    """The first steps, a window, and blocks of old steps of which the best few are read at each step.

    The budget is for what is kept: first steps, window, the block that is about to leave it, and all blocks. What is
    read is less: `top` blocks.
    """

    name: ClassVar[str] = "blocks"
    summary: ClassVar[str] = "a window and blocks of old steps, of which the best few are looked up (InfLLM)"

    sinks: int = 4
    """The first steps of a trial, which are never dropped and always read."""
    window: int = 64
    """The newest steps that are always read, at their own distance."""
    block: int = 16
    """Steps of a block."""
    top: int = 8
    """Blocks that a step reads in each layer."""
    representatives: int = 4
    """Entries of a block whose mean key it is found by."""
    decay: float = 0.995
    """What the use of a block is multiplied with at each step (the paper's code: 0.1 for every 512 tokens)."""
    positions: Literal["common", "step"] = "common"
    """Beyond the window: one distance for all, that of the window, or true ones (episode positions: true ones)."""

    def __post_init__(self) -> None:
        """Refuse sizes that hold nothing, and a budget without room for a block."""
        super().__post_init__()
        for field, least in (("sinks", 0), ("window", 1), ("block", 1), ("top", 1), ("representatives", 1)):
            if getattr(self, field) < least:
                self.refuse(f"{field} is {getattr(self, field)}; it must be at least {least}")
        if self.representatives > self.block:
            self.refuse(f"{self.representatives} representatives do not fit into a block of {self.block}")
        if not 0 <= self.decay <= 1:
            self.refuse(f"decay is {self.decay}; it must lie in 0 to 1")
        words = f"sinks {self.sinks} + window {self.window} + 2 blocks of {self.block}"
        self.at_least(self.sinks + self.window + 2 * self.block, words, "window or block")

    def _apply(self, memory: MemoryConfig, core: Core, steps: int) -> Core:
        stack = shrunk(self, memory, core, steps, min(self.context, steps))
        beside = self.sinks + self.window + self.block
        needed = max(1, -(-(steps - beside) // self.block))
        return BlockCore(stack, self, min((self.context - beside) // self.block, needed))
