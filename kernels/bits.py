"""Random bits as a function of a counter: integer arithmetic alone, so that every device and every order agree."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

MASK = 0xFFFFFFFF  # 32 bits, the range of every draw
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: spreads small numbers over all bits

Bits = TypeVar("Bits", int, Tensor)


def mix(x: Bits) -> Bits:
    """Scramble 32-bit integers one to one: lowbias32 of C. Wellons' hash-prospector. Tensors are int64."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    # 0x846CA68B modulo 2^32, as the negative number that keeps the product within 63 bits.
    x = ((x ^ (x >> 15)) * (0x846CA68B - 2**32)) & MASK
    return x ^ (x >> 16)


def below(bits: Tensor, high: int | Tensor) -> Tensor:
    """Turn uniform 32-bit integers into integers in [0, high)."""
    return (bits * high) >> 32
