"""Memory that a training loop frees and takes again in every update.

glibc gives large blocks back to the system as they are freed. The next update takes them again, and each page of them
costs a fault and is filled with zeros: a good part of the time of training a small network on a CPU, more where the
system is slow to give. Kept, they cost nothing.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
KEPT = 1 << 30
"""Bytes: smaller blocks come from the heap, and as much of its end may be free before any is given back."""


def keep_memory() -> bool:
    """Let this process keep what it frees; says whether that can be asked for here, which is where glibc is."""
    try:
        ask = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    # Older releases take no more than 32 MiB for the one, and then stay at 128 KiB once the other is set.
    taken = any(ask(MMAP_THRESHOLD, most) == 1 for most in (KEPT, 1 << 25))
    return taken and ask(TRIM_THRESHOLD, KEPT) == 1
