"""Random numbers for a batch that may be split over processes.

Shapes: B rows of this process, and any axes after them.
"""

from __future__ import annotations

from collections.abc import Callable

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
        plain: what the numbers come from; CUDA graphs take this one, since they take no subclass.
    """

    part: int
    parts: int
    plain: torch.Generator

    def __new__(cls, device: torch.device | str, part: int, parts: int) -> PartGenerator:
        """Make a generator on a device."""
        made = super().__new__(cls, device)  # type: ignore[call-arg]
        made.part, made.parts, made.plain = part, parts, torch.Generator(device)
        return made

    def __init__(self, device: torch.device | str, part: int, parts: int) -> None:
        """Nothing is left to do."""

    def manual_seed(self, seed: int) -> PartGenerator:
        """Begin anew from a seed."""
        self.plain.manual_seed(seed)
        return self

    def get_state(self) -> Tensor:
        """Return the state: of all parts."""
        return self.plain.get_state()

    def set_state(self, _new_state: Tensor) -> PartGenerator:
        """Go on from a state, of any part."""
        self.plain.set_state(_new_state)
        return self


def plain(generator: torch.Generator) -> torch.Generator:
    """Return what numbers come from: the generator, or the one inside a `PartGenerator`."""
    return generator.plain if isinstance(generator, PartGenerator) else generator


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
    if not isinstance(generator, PartGenerator):
        return function(size, generator=generator, device=device)
    rows, *rest = size
    whole = function((rows * generator.parts, *rest), generator=generator.plain, device=device)
    return whole[rows * generator.part : rows * (generator.part + 1)]
