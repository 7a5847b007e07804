"""What all tests share: one thread, reproducible hypothesis, and what only some machines have."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("nas", deadline=None, derandomize=True)
hypothesis.settings.load_profile("nas")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # suites of small networks run ten times faster on two cores
    yield
    torch.set_num_threads(threads)


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
def cifar10_folder() -> Path:
    """The folder with CIFAR-10 as parquet files, which only some machines have."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "cifar10-train.parquet").exists():
        pytest.skip("CIFAR-10 is not here: ../shared/data/cifar10-{train,test}.parquet")
    return folder
