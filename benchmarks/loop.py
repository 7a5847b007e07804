"""A user's own loop over ONNX models: nothing of the package's clocks, sessions or estimators.

    .venv/bin/python benchmarks/loop.py MODEL.onnx...

Sessions of onnxruntime with their default options but for one thread; visits in random order. A
visit reads 96 MB, each eighth of them twice, and times the first run (cold); it runs on until 12
runs are made, and times 5 (warm); it reads 96 MB once and times one (cold behind its own runs, of
which some caches keep a part). Printed are the medians of thread CPU time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

FLUSHED_BYTES, EIGHTHS, WARMING_RUNS, TIMED_RUNS = 96_000_000, 8, 12, 5


class LoopTimes(NamedTuple):
    """The times of each visit to a model, in ms; ``behind_own``: cold, behind its own runs."""

    warm: np.ndarray
    cold: np.ndarray
    behind_own: np.ndarray

    def noise(self, state: str) -> float:
        """The standard error of the median, as a share (of a normal distribution)."""
        logs = np.log(getattr(self, state))
        return float(1.25 * logs.std() / np.sqrt(len(logs)))


def time_models(models: Sequence[bytes], *, visits: int, seed: int) -> list[LoopTimes]:
    """Visit each model so many times."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    rng, runs = np.random.default_rng(seed), []
    for model in models:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (value,) = session.get_inputs()
        image = rng.standard_normal([size or 1 for size in value.shape], dtype=np.float32)
        runs.append((session, {value.name: image}))
    other = np.ones(FLUSHED_BYTES // 8)
    found = [([], [], []) for _ in models]

    def timed(place: int) -> float:
        session, images = runs[place]
        start = time.thread_time_ns()
        session.run(None, images)
        return (time.thread_time_ns() - start) / 1e6

    for _ in range(visits):
        for place in rng.permutation(len(models)).tolist():
            warm, cold, behind_own = found[place]
            for part in np.split(other, EIGHTHS):
                part.sum()
                part.sum()
            cold.append(timed(place))
            for _ in range(WARMING_RUNS - 1):
                timed(place)
            warm.append(float(np.median([timed(place) for _ in range(TIMED_RUNS)])))
            other.sum()
            behind_own.append(timed(place))
    return [LoopTimes(*map(np.array, it)) for it in found]


def main() -> None:
    """Print both latencies of each model, or with --json those of each visit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--visits", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    models = [path.read_bytes() for path in given.models]
    found = time_models(models, visits=given.visits, seed=given.seed)
    if given.json:
        print(json.dumps([[state.tolist() for state in it] for it in found]))
        return
    for path, times in zip(given.models, found, strict=True):
        warm, cold, behind_own = map(np.median, times)
        text = f"{warm:.3f} ms warm, {cold:.3f} ms cold, {behind_own:.3f} ms behind its own runs"
        print(f"{path}: {text}")


def time_apart(models: Sequence[bytes], *, visits: int, seed: int) -> list[LoopTimes]:
    """``time_models`` in a process of its own, as a user's loop is."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{place}.onnx" for place in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model)
        options = ["--visits", str(visits), "--seed", str(seed), "--json"]
        command = [sys.executable, __file__, *options, *map(str, paths)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    return [LoopTimes(*map(np.array, it)) for it in json.loads(found.stdout)]


if __name__ == "__main__":
    main()
