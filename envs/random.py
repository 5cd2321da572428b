"""Counter-based randomness: the draws of a row are a function of the seed, the row and its clock, and of nothing else.

So row i of a batch of 4 and row i of a batch of 4,096 see the same task, on any device, and a saved clock is a saved
random state. Everything is exact integer arithmetic in int64 (products stay below 2^63), hence equal bits everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MASK = 0xFFFFFFFF  # 32 bits, the range of every draw


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit integers held in int64: xor-shift and multiply twice (the lowbias32 constants of C. Wellons)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = ((x ^ (x >> 15)) * 0x46C1_68B1) & MASK
    return x ^ (x >> 16)


class Stream(NamedTuple):
    """The random numbers of B rows at one moment.

    Every draw names a `slot`: two draws at the same moment are independent if and only if their slots differ.
    """

    key: Tensor  # (B,) int64 in [0, 2^32): what tells rows and seeds apart
    clock: Tensor  # (B,) int64: the moment

    @classmethod
    def seeded(cls, seed: int, batch: int, device: torch.device | str) -> Stream:
        """Return the streams of rows 0..batch-1 of a seed, at moment 0."""
        row_B = torch.arange(batch, dtype=torch.int64, device=device)
        low, high = seed & MASK, (seed >> 32) & MASK
        key_B = mix(mix(mix(row_B ^ low) + 0x9E3779B9 & MASK) ^ high)
        return cls(key_B, torch.zeros_like(row_B))

    def bits(self, slot: int, count: int | None = None) -> Tensor:
        """Return uniform 32-bit integers as int64: (B,), or (B, count)."""
        key, clock = (self.key, self.clock) if count is None else (self.key[:, None], self.clock[:, None])
        place = torch.tensor(slot * 0x85EBCA6B & MASK, device=key.device)
        if count is not None:
            place = mix(place + torch.arange(1, count + 1, device=key.device))
        return mix(mix(mix(clock & MASK) ^ place) ^ key)

    def integers(self, slot: int, high: int | Tensor, count: int | None = None) -> Tensor:
        """Return integers in [0, high) as int64: (B,), or (B, count). `high` < 2^31 may differ from row to row."""
        return (self.bits(slot, count) * high) >> 32

    def uniform(self, slot: int, count: int | None = None) -> Tensor:
        """Return numbers in [0, 1) as float32, multiples of 2^-24: (B,), or (B, count)."""
        return (self.bits(slot, count) >> 8).to(torch.float32) * 2.0**-24

    def permutation(self, slot: int, size: int) -> Tensor:
        """Return a random order of 0..size-1 for every row, (B, size) int64."""
        return self.bits(slot, size).argsort(dim=1, stable=True)
