"""Which images train, which the search may look at, and which test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.data.sources import Source
from nas.errors import UserError

Indices = NDArray[np.int64]

TEST_SHARE = 0.2
# A test set split off by us is the same whatever the seed: else `evaluate` with another seed than
# the training's would test on images that were trained on.
TEST_SEED = 0


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted indices: ``test`` into the source's test pictures, or into train if it has none."""

    train: Indices
    search: Indices
    test: Indices

    @property
    def sha256(self) -> str:
        """The hash of the search slice."""
        return hashlib.sha256(self.search.astype("<i8").tobytes()).hexdigest()


def split_source(
    source: Source, *, seed: int, search_share: float = 0.1, limit: int | None = None
) -> Split:
    """Hold the test set (unless the source has one) and then the search slice out of training.

    Every class keeps its share in each part. ``limit`` leaves so many images for those two parts.
    Raises UserError if a class has too few images, or a number is out of its range.
    """
    if not 0 < search_share < 1:
        raise UserError(f"search share: must be between 0 and 1, got {search_share}")
    labels = source.train.labels
    _check_sizes(source, labels)
    train = np.arange(len(labels))
    if source.test is None:
        count = round(TEST_SHARE * len(labels))
        test = choose_stratified(labels, count, np.random.default_rng(TEST_SEED))
        train = np.setdiff1d(train, test, assume_unique=True)
    else:
        test = np.arange(len(source.test.labels))
    rng = np.random.default_rng(seed)
    if limit is not None:
        classes = len(np.unique(labels))
        if limit < 2 * classes:
            raise UserError(
                f"limit: must be at least {2 * classes} training images, two for each of "
                f"{classes} classes, got {limit}"
            )
        train = train[choose_stratified(labels[train], limit, rng, least=2, spare=0)]
    search = train[choose_stratified(labels[train], round(search_share * len(train)), rng)]
    return Split(np.setdiff1d(train, search, assume_unique=True), search, test)


def choose_stratified(
    labels: Indices, total: int, rng: np.random.Generator, *, least: int = 1, spare: int = 1
) -> Indices:
    """Sorted positions of ``total`` images, every class in its proportion.

    ``least`` of each class are chosen and ``spare`` are left, even if ``total`` contradicts that.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    counts = _apportion(sizes, total, least=least, spare=spare)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _apportion(sizes: Indices, total: int, *, least: int, spare: int) -> Indices:
    """Whole numbers that add up to ``total``, as near to proportional as their bounds allow."""
    most = sizes - spare
    total = min(max(total, least * len(sizes)), int(most.sum()))
    exact = sizes * (total / sizes.sum())
    counts: Indices = np.clip(np.floor(exact).astype(np.int64), least, most)
    while counts.sum() < total:
        counts[np.argmax(np.where(counts < most, exact - counts, -np.inf))] += 1
    while counts.sum() > total:
        counts[np.argmax(np.where(counts > least, counts - exact, -np.inf))] -= 1
    return counts


def _check_sizes(source: Source, labels: Indices) -> None:
    needed, uses = 2, "one to train on, one to search with"
    if source.test is None:
        needed, uses = 3, f"{uses}, one to test on"
    if len(source.classes) < 2:
        raise UserError(f"{source.spec}: needs at least two classes, got {len(source.classes)}")
    sizes = np.bincount(labels, minlength=len(source.classes))
    for name, size in zip(source.classes, sizes, strict=True):
        if size < needed:
            raise UserError(
                f"{source.spec}: class '{name}': needs at least {needed} images to be split "
                f"({uses}), got {size}"
            )
