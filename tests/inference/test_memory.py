"""The pages that the kernel gives a process anew, counted by the kernel itself, each time in a process of its own."""

import os
import subprocess
import sys

import pytest

NUM_TENSORS, NUM_BYTES, ROUNDS = 4, 6 * 2**20, 20
PROGRAM = f"""
import resource, torch
from inference.memory import keep_freed_memory

torch.set_num_threads(1)
keep_freed_memory()

def once():
    [torch.ones({NUM_BYTES}, dtype=torch.uint8) for _ in range({NUM_TENSORS})]

for _ in range(3):
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    once()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


def bytes_taken_anew(**environment: str) -> int:
    """By all rounds together."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    return int(subprocess.run(command, env=kept | environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_is_freed_is_taken_again_unless_glibc_was_told_otherwise() -> None:
    everything = ROUNDS * NUM_TENSORS * NUM_BYTES
    assert bytes_taken_anew() < everything / 100
    assert bytes_taken_anew(MALLOC_TRIM_THRESHOLD_="131072") > everything / 2
