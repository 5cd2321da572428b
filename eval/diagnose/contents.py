"""From what was hidden at every moment to contents: what took whose place, and how long ago each was shown.

Shapes: T steps, B rows, N contents: the present one first, then those before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .record import Track


class Contents(NamedTuple):
    """What a row has been told so far in its trial."""

    value_NTB: NDArray[np.int64]
    age_NTB: NDArray[np.int64]
    """Steps since the content was last shown; -1 where it was never shown in this trial."""
    number_TB: NDArray[np.int64]
    """How many contents there were before the present one in the trial."""


def contents(track: Track, starts_TB: NDArray[np.bool_], before: int) -> Contents:
    """Follow a track.

    A content begins with another number (`turn`) or another value. Where it begins without being shown, as a cube that
    becomes the target while the map is hidden, it is as old as what was last shown.

    Args:
        track: what was hidden.
        starts_TB: where memory was emptied: nothing counts as told before.
        before: how many contents before the present one to keep.
    """
    steps, rows = track.value_TB.shape
    value_NTB = np.zeros((before + 1, steps, rows), np.int64)
    age_NTB, number_TB = np.full_like(value_NTB, -1), np.zeros((steps, rows), np.int64)
    value_NB, age_NB = np.zeros((before + 1, rows), np.int64), np.full((before + 1, rows), -1, np.int64)
    number_B = np.zeros(rows, np.int64)
    for t in range(steps):
        last = max(t - 1, 0)
        other_B = (track.turn_TB[t] != track.turn_TB[last]) | (track.value_TB[t] != track.value_TB[last])
        new_B = other_B & ~starts_TB[t]
        age_NB = np.where(age_NB < 0, -1, age_NB + 1)
        for held_NB in (value_NB, age_NB):
            held_NB[1:, new_B] = held_NB[:-1, new_B].copy()
        age_NB[:, starts_TB[t]] = -1
        number_B = np.where(starts_TB[t], 0, number_B + new_B)
        value_NB[0] = track.value_TB[t]
        age_NB[0, track.shown_TB[t]] = 0
        value_NTB[:, t], age_NTB[:, t], number_TB[t] = value_NB, age_NB, number_B
    return Contents(value_NTB, age_NTB, number_TB)
