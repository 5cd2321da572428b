"""Functions of numbers and arrays that Numba compiles for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any], *, exact: bool = False) -> Callable[..., Any]:
    """Return a function that is compiled when it is first called, and runs without Python's lock.

    What comes of it is kept for other processes, beside its file or in the user's folder of such things, where one of
    these can be written. Only a change in the file of the function that Python calls is noticed: what it calls should
    be in the same one.

    Args:
        function: what is compiled.
        exact: round after every operation, as NumPy does; otherwise a product and a sum may be rounded once.
    """
    fast: set[str] = set() if exact else {"contract", "nsz"}
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fast}
    done: Callable[..., Any]
    try:
        done = numba.njit(function, cache=True, **options)
    except RuntimeError:  # there is no such folder
        done = numba.njit(function, **options)
    return done
