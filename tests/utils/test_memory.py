from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from advrad.utils.memory import reuse_freed_memory

if sys.argv[1] == "reuse" and not reuse_freed_memory():
    sys.exit("memory is not kept")

def step():
    a = torch.ones(12_000_000)
    b = a * 2
    c = b.clamp(0, 1)[:10_000_000]
    total = (c + 1).sum()
    del a
    return (torch.zeros(9_500_000) + total) * b[:9_500_000]

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(3)
print(faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept in glibc only")
def test_freed_memory_is_used_again_without_the_system() -> None:
    faults = {}
    for way in ("return", "reuse"):
        command = [sys.executable, "-c", SCRIPT, way]
        faults[way] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert faults["return"] > 100_000
    assert faults["reuse"] < faults["return"] / 10
