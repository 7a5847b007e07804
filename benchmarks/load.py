"""Other work for one core: matrix products, in spells of 0.5 to 5 s with pauses as long.

.venv/bin/python benchmarks/load.py       # until it is stopped, or its parent has ended
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

SPELLS = 0.5, 5.0
"""The shortest and the longest spell, in seconds."""


def main() -> None:
    """Work and pause while the parent lives: one that is killed cannot stop this process."""
    parent = os.getppid()
    rng = np.random.default_rng()
    matrix = rng.standard_normal((700, 700))
    while os.getppid() == parent:
        end = time.monotonic() + rng.uniform(*SPELLS)
        while time.monotonic() < end:
            matrix @ matrix
        time.sleep(rng.uniform(*SPELLS))


@contextmanager
def load(*, wanted: bool) -> Iterator[None]:
    """Keep a core busy in the block, if ``wanted``."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, __file__])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
