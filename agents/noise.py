"""Random numbers for a batch that may be split over processes.

Shapes: B rows of this process, and any axes after them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class PartGenerator(torch.Generator):
    """A generator for one of several equal parts of a batch.

    Every process holds the same generator in the same state, draws for the whole batch and keeps what belongs to its
    own rows. So the numbers of a row do not depend on how many processes there are, and the state of one generator is
    the state of all.

    Attributes:
        part: which part of the batch, from 0.
        parts: how many there are.
    """

    part: int
    parts: int

    def __new__(cls, device: torch.device | str, part: int, parts: int) -> PartGenerator:
        """Make a generator on a device."""
        made = super().__new__(cls, device)  # type: ignore[call-arg]
        made.part, made.parts = part, parts
        return made

    def __init__(self, device: torch.device | str, part: int, parts: int) -> None:
        """Nothing is left to do."""


def draw(
    function: Callable[..., Tensor],
    size: tuple[int, ...],
    generator: torch.Generator | None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return random numbers of a size (B, ...).

    Args:
        function: `torch.rand` or `torch.randn`.
        size: of this process's part of the batch, the rows first.
        generator: a `PartGenerator` draws for the whole batch, and this part of it is returned.
        device: where the numbers go; the generator's.
    """
    options: dict[str, Any] = {"generator": generator, "device": device}
    if not isinstance(generator, PartGenerator):
        return function(size, **options)
    rows, *rest = size
    whole = function((rows * generator.parts, *rest), **options)
    return whole[rows * generator.part : rows * (generator.part + 1)]
