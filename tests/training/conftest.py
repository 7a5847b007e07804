"""A space small enough to train within seconds, and the digits to train it on."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from nas.data import Dataset
from nas.space import SearchSpace
from nas.training.settings import DataSettings

TINY = {
    "name": "tiny",
    "input_size": 32,
    "classes": 10,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {
            "width": [8, 16],
            "blocks": [{"ffn": ["identity", {"kind": "conv_ffn", "expansion": [1, 2]}]}],
        },
        {
            "width": [16, 24],
            "downsample": {"kind": "conv_downsample"},
            "blocks": [
                {
                    "attention": [
                        "identity",
                        {"kind": "attention4d", "heads": 2, "key_dim": 4, "value_dim": 8},
                    ],
                    "ffn": {"kind": "conv_ffn", "expansion": [1, 2]},
                }
            ],
        },
    ],
    "head": {"kind": "classifier"},
}


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    return SearchSpace.model_validate(TINY)


@pytest.fixture(scope="session")
def digits_settings() -> DataSettings:
    return DataSettings(spec="digits")


@pytest.fixture(scope="session")
def digits(digits_settings: DataSettings) -> Dataset:
    return digits_settings.load(32)


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
