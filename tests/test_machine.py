from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_freed_memory_is_not_cleared_again() -> None:
    script = """
import resource
import numpy as np
from nas.machine import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(10_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ordinary = page_faults()
keep_freed_memory()
page_faults()  # the first piece is new
print(ordinary, page_faults())
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    ordinary, kept = map(int, found.stdout.split())
    assert kept < ordinary / 5
