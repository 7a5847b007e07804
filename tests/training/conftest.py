"""A space small enough to train within seconds, and the digits to train it on."""

from __future__ import annotations

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
