"""What several benchmarks start from: latency tables and trained runs, made where they are not."""

from __future__ import annotations

from pathlib import Path

from nas.data import Dataset
from nas.errors import UserError
from nas.latency.build import BuildSettings, build_table
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.report.terminal import ProgressBar
from nas.space import SearchSpace
from nas.training.run import Run
from nas.training.settings import DataSettings, SupernetSettings
from nas.training.supernets import train_supernet


def table_at(path: Path, space: SearchSpace, *, quick: bool = False) -> LatencyTable:
    """The space's table of this machine at ``path``; latencies need an idle machine."""
    if path.exists():
        return LatencyTable.load(path)
    with ProgressBar("measuring") as bar:
        return build_table(
            space,
            detect_target(),
            path,
            settings=BuildSettings(quick=quick),
            resume=True,
            progress=bar,
        )


def run_at(
    path: Path, space: SearchSpace, data: DataSettings, settings: SupernetSettings
) -> tuple[Run, Dataset]:
    """The run at ``path``, trained to its end, and its images."""
    dataset = data.load(space.largest_size)
    try:
        run = Run.open(path)
    except UserError:
        run = Run.create(path, space=space, data=data, settings=settings, dataset=dataset)
    with ProgressBar("training") as bar:
        train_supernet(run, dataset, resume=True, progress=bar)
    return run, dataset
