"""A space small enough to train within seconds, and the digits to train it on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from torch import Tensor

from nas.data import Dataset
from nas.data.images import Images, MemoryImages
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
def small_space(tiny_space: SearchSpace) -> SearchSpace:
    """Of a quarter of the pixels, for whole trainings."""
    return SearchSpace.model_validate({**tiny_space.model_dump(), "input_size": 16})


@pytest.fixture(scope="session")
def digits_settings() -> DataSettings:
    return DataSettings(spec="digits")


@pytest.fixture(scope="session")
def digits(digits_settings: DataSettings) -> Dataset:
    return digits_settings.load(32)


@dataclass(frozen=True, eq=False)
class FaultyImages(Images):
    """Serves the images of ``whole``, but has ``fault`` change those of some calls' batches."""

    whole: MemoryImages
    fault: Callable[[int, int, Tensor, Tensor], tuple[Tensor, Tensor]]
    calls: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def labels(self) -> Tensor:
        return self.whole.labels

    @property
    def preprocessing(self):
        return self.whole.preprocessing

    def subset(self, indices):
        return self.whole.subset(indices)

    def seen_as(self, preprocessing):
        return replace(self, whole=self.whole.seen_as(preprocessing))

    def _pixels(self, requests):
        return self.whole._pixels(requests)

    def batches(self, batch_size, **options):
        served = self.whole.batches(batch_size, **options)
        if options.get("augmentation") is None:  # a calibration
            yield from served
            return
        call = next(self.calls)
        for step, (images, labels) in enumerate(served, start=1):
            yield self.fault(call, step, images, labels)


@pytest.fixture(scope="session")
def with_fault():
    """Gives a data set whose training batches a function changes, by epoch and step (from 1)."""
    return lambda dataset, fault: replace(dataset, train=FaultyImages(dataset.train, fault))


@pytest.fixture(scope="session")
def with_infinity(with_fault):
    """Gives a data set where one pixel of the third batch of some epochs is infinite."""

    def make(dataset: Dataset, epochs: set[int]) -> Dataset:
        def fault(call, step, images, labels):
            if call in epochs and step == 3:
                images[0, 0, 0, 0] = math.inf
            return images, labels

        return with_fault(dataset, fault)

    return make


@pytest.fixture(scope="session")
def stop_at(recorder):
    """Makes a progress that interrupts a training, as Ctrl-C does, from a step on."""

    def make(step: int):
        def stop(text: str, done: int, total: int | None) -> None:
            if done >= step:
                raise KeyboardInterrupt

        return recorder(stop)

    return make
