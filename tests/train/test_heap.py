"""Memory that is freed stays with the process."""

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from mnemic.train.heap import keep_memory
torch.set_num_threads(1)
assert keep_memory()
for _ in range(3):
    parts = [torch.ones(1 << 22) for _ in range(4)]
    del parts
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    parts = [torch.ones(1 << 22) for _ in range(4)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_was_freed_is_taken_again_without_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    pages = 10 * 4 * (1 << 24) // resource.getpagesize()  # what would be faulted in without it
    assert int(done.stdout) < pages / 100
