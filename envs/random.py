"""Counter-based randomness: the draws of a row are a function of the seed, the row and its clock, and of nothing else.

So row i of a batch of 4 and row i of a batch of 4,096 see the same task, on any device, and a saved clock is a saved
random state. Everything is exact integer arithmetic in int64 (products stay within 63 bits), hence equal bits
everywhere.

Shapes: B rows, C numbers in one draw.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.bits import GOLDEN, MASK, below, mix

__all__ = ["Stream", "below", "mix", "unit"]


def unit(bits: Tensor) -> Tensor:
    """Turn uniform 32-bit integers into float32 numbers in [0, 1)."""
    return (bits >> 8).to(torch.float32) * 2.0**-24


class Stream(NamedTuple):
    """The random numbers of B rows at one moment.

    Every draw names a `slot`: two draws at the same moment are independent if and only if their slots differ.
    """

    key: Tensor  # (B,) int64 in [0, 2^32): what tells rows and seeds apart
    clock: Tensor  # (B,) int64: the moment

    @classmethod
    def seeded(cls, seed: int, batch: int, device: torch.device | str, first_row: int = 0) -> Stream:
        """Return the streams of `batch` rows of a seed from `first_row` on, at moment 0."""
        # The seed is scrambled before it meets the row: `row ^ seed` alone would give two seeds the same set of rows.
        seed_key = mix(mix((seed + GOLDEN) & MASK) ^ ((seed >> 32) & MASK))
        row_B = torch.arange(first_row, first_row + batch, dtype=torch.int64, device=device)
        key_B = mix(mix((row_B + GOLDEN) & MASK) ^ seed_key)
        return cls(key_B, torch.zeros_like(row_B))

    def bits(self, slot: int, count: int | None = None) -> Tensor:
        """Return uniform 32-bit integers as int64: (B,), or (B, count), where no two of a row are equal."""
        place = mix(slot * GOLDEN & MASK)
        bits_B = mix(mix((self.clock ^ place) & MASK) ^ self.key)
        if count is None:
            return bits_B
        which_C = mix(torch.arange(1, count + 1, device=bits_B.device))
        return mix(bits_B[:, None] ^ which_C)

    def integers(self, slot: int, high: int | Tensor, count: int | None = None) -> Tensor:
        """Return integers in [0, high) as int64: (B,), or (B, count). `high` < 2^31 may differ from row to row."""
        return below(self.bits(slot, count), high)

    def uniform(self, slot: int, count: int | None = None) -> Tensor:
        """Return numbers in [0, 1) as float32, multiples of 2^-24: (B,), or (B, count)."""
        return unit(self.bits(slot, count))

    def permutation(self, slot: int, size: int) -> Tensor:
        """Return a random order of 0..size-1 for every row, (B, size) int64."""
        return self.bits(slot, size).argsort(dim=1)

    def choose(self, slot: int, free_BC: Tensor, count: int) -> Tensor:
        """Return `count` different places that are free, in random order, (B, count) int64.

        Args:
            slot: names the draw.
            free_BC: (B, C) bool, at least `count` true in every row.
            count: how many.
        """
        score_BC = torch.where(free_BC, self.bits(slot, free_BC.shape[1]), -1)
        return score_BC.argmax(1, keepdim=True) if count == 1 else score_BC.topk(count, dim=1).indices
