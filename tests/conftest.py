"""What all tests share: one thread, reproducible hypothesis, and what only some machines have."""

from __future__ import annotations

import gc
import importlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch
from filelock import FileLock
from torch.export import decomp_utils, exported_program
from torch.onnx._internal.exporter._registration import ONNXRegistry

TINY = """\
name: tiny
input_size: 32
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - ffn: {kind: conv_ffn, expansion: [1, 2]}
  - width: [16, 24]
    downsample: {kind: conv_downsample}
    blocks:
      - ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]
head: {kind: classifier}
"""
"""A space of a few small networks."""

HEARS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from nas.cli import main
main()
"""
"""A shell's background jobs ignore Ctrl-C, and so would what these tests start in one."""

hypothesis.settings.register_profile("nas", deadline=None, derandomize=True)
hypothesis.settings.load_profile("nas")


def pytest_collection_finish() -> None:
    """Search garbage rarely, and not among modules: a sixth of the suite's time went there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # suites of small networks run ten times faster on two cores
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _one_list_of_operators() -> Iterator[None]:
    """torch lists its operators, and what exports them, anew for each export: half of its time."""
    listed = cache(exported_program._collect_all_valid_cia_ops)
    with pytest.MonkeyPatch.context() as patch:
        once = staticmethod(cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        for module in (exported_program, decomp_utils):
            patch.setattr(module, "_collect_all_valid_cia_ops", listed)
        yield


@pytest.fixture
def tiny_text() -> str:
    """``TINY``, which test modules cannot import."""
    return TINY


@pytest.fixture
def nas_process() -> Callable[..., subprocess.Popen[str]]:
    """Starts ``nas`` in a folder, which gets ``tiny.yaml``, as a process that hears Ctrl-C."""

    def start(folder: Path, *words: str) -> subprocess.Popen[str]:
        (folder / "tiny.yaml").write_text(TINY)
        return subprocess.Popen(
            [sys.executable, "-c", HEARS_CTRL_C, *words],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that has a folder filled by the first process of the suite; returns a copy."""

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            folder = tmp_path_factory.mktemp(name)
            fill(folder)
            return folder
        shared = tmp_path_factory.getbasetemp().parent / name
        with FileLock(f"{shared}.lock"):
            if not shared.exists():
                fill(begun := tmp_path_factory.mktemp(name))
                begun.rename(shared)
        return Path(shutil.copytree(shared, tmp_path_factory.mktemp(name), dirs_exist_ok=True))

    return made


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, the reference in parity tests.

    timm imports torchvision, and torchvision registers fakes of operators that it does not bring
    along beside a CPU build of torch; those registrations are skipped while it is imported.
    """
    register_fake = torch.library.register_fake

    def skip_torchvision(op: object, *args: object, **options: object) -> Callable[..., object]:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", skip_torchvision)
        return importlib.import_module("timm")


@pytest.fixture(scope="session")
def randomized() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """A function that makes all weights and statistics of a model matter, and returns it.

    Published starting values hide errors: scales of 1e-5, biases of zero, statistics of 0 and 1.
    """

    def randomized(model: torch.nn.Module) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if not tensor.is_floating_point():
                    continue
                if "gamma" in name:
                    tensor.uniform_(0.3, 1.0, generator=generator)
                elif name.endswith("weight") and tensor.dim() == 1:  # of norms
                    tensor.uniform_(0.5, 1.5, generator=generator)
                elif "bias" in name or "running_mean" in name:
                    tensor.normal_(0, 0.2, generator=generator)
                elif "running_var" in name:
                    tensor.uniform_(0.5, 2.0, generator=generator)
        return model.eval()

    return randomized


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """The folder with CIFAR-10 as parquet files, which only some machines have."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "cifar10-train.parquet").exists():
        pytest.skip("CIFAR-10 is not here: ../shared/data/cifar10-{train,test}.parquet")
    return folder


@pytest.fixture(scope="session")
def files_limited() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which no file can be written beyond a size, as on a full disk.

    It must not outlast the call under test: what pytest prints may go to a file, too.
    """

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


class Recorder:
    """A ``Progress`` that keeps the lines said to it, and calls ``on_update`` if there is one."""

    def __init__(self, on_update: Callable[[str, int, int | None], None] | None = None) -> None:
        self.lines: list[str] = []
        self.updates: list[tuple[str, int, int | None]] = []
        self._on_update = on_update

    def say(self, line: str) -> None:
        self.lines.append(line)

    def update(self, text: str, done: int, total: int | None = None) -> None:
        self.updates.append((text, done, total))
        if self._on_update is not None:
            self._on_update(text, done, total)


@pytest.fixture(scope="session")
def recorder() -> type[Recorder]:
    """The class of a progress that records what it receives."""
    return Recorder
