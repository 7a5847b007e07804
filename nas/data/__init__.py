"""Images for training, for the search and for testing.

Torch, which takes seconds to load, is imported when images are read: ``open_source`` finds a wrong
name or a missing folder without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.folders import folder
from nas.data.generated import shapes
from nas.data.identity import HeldOut, hash_pictures
from nas.data.sources import Pictures, Source, decode_all, digits, look_for_transparency
from nas.data.splits import Indices, split_source
from nas.data.tables import hub, parquet
from nas.documents import did_you_mean
from nas.errors import UserError
from nas.machine import usable_cores
from nas.preprocessing import IMAGENET, Interpolation, Preprocessing
from nas.progress import SILENT, Progress

if TYPE_CHECKING:
    from nas.data.augmentation import Augmentation
    from nas.data.images import Images

EMBEDDED: Mapping[str, Callable[[], Source]] = {"digits": digits, "shapes": shapes}
"""Data without a file or a download."""
KINDS = (*EMBEDDED, "folder:PATH", "parquet:PATH", "hf:NAME")
MEMORY_BYTES = 2 * 1024**3
MOST_WORKERS = 8
LOOKED_AT = 100
"""Images of a part that is streamed, to see whether there are transparent ones among them."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one size, brought to it by ``interpolation``.

    ``split_sha256`` identifies the positions of the search slice, ``held_out`` its pictures and
    those of the test set.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    search: Images
    test: Images
    split_sha256: str
    augmentation: Augmentation
    held_out: HeldOut
    interpolation: Interpolation = "bicubic"

    def at(self, side: int) -> Dataset:
        """The same images, resized to ``side`` pixels as they are served."""
        parts = {name: getattr(self, name).at(side) for name in ("train", "search", "test")}
        return replace(self, **parts)


def load_dataset(
    spec: str,
    image_size: int,
    *,
    seed: int = 0,
    search_share: float = 0.1,
    limit: int | None = None,
    preprocessing: Preprocessing = IMAGENET,
    progress: Progress = SILENT,
) -> Dataset:
    """The data set that ``spec`` names, as square images of ``image_size`` pixels.

    ``preprocessing`` is the network's, which finds in them what its weights were trained on.
    ``search_share``, ``limit`` and ``seed`` are those of ``split_source``. Images of up to 2 GiB
    are kept in memory, others are decoded whenever they are needed. ``progress`` receives what was
    found, for the user to confirm. Raises UserError if there is no such data set, or its images
    cannot be read or split.
    """
    import torch

    from nas.data.augmentation import Augmentation
    from nas.data.images import MemoryImages, StreamedImages

    def images(pictures: Pictures, indices: Indices) -> Images:
        labels = torch.from_numpy(pictures.labels[indices])
        if not is_streamed:
            pixels = decode_all(pictures, indices, image_size, preprocessing, progress=progress)
            return MemoryImages(pixels, labels, preprocessing)
        look_for_transparency(pictures, indices[:: max(1, len(indices) // LOOKED_AT)], progress)
        workers = min(usable_cores(), MOST_WORKERS)
        return StreamedImages(pictures, indices, labels, image_size, workers, preprocessing)

    source = open_source(spec)
    progress.say(source.summary)
    split = split_source(source, seed=seed, search_share=search_share, limit=limit)
    test_pictures = source.train if source.test is None else source.test
    count = len(split.train) + len(split.search) + len(split.test)
    is_streamed = count * 3 * image_size**2 > MEMORY_BYTES
    return Dataset(
        spec,
        source.classes,
        images(source.train, split.train),
        images(source.train, split.search),
        images(test_pictures, split.test),
        split.sha256,
        Augmentation(mirror=source.mirror),
        HeldOut(
            search_sha256=hash_pictures(source.train, split.search),
            test_sha256=hash_pictures(test_pictures, split.test),
            is_split=source.test is None,
        ),
        source.train.interpolation_for(preprocessing),
    )


def open_source(spec: str) -> Source:
    """The pictures that ``spec`` names, which is one of ``KINDS``."""
    kind, _, path = spec.partition(":")
    if spec in EMBEDDED:
        return EMBEDDED[spec]()
    if kind in ("folder", "parquet") and path:
        read = folder if kind == "folder" else parquet
        return read(spec, Path(path).expanduser())
    if kind == "hf" and path:
        return hub(spec, path)
    hint = did_you_mean(kind, (*EMBEDDED, "folder", "parquet", "hf"))
    if Path(spec).expanduser().exists():
        hint = f"; did you mean '{'folder' if Path(spec).is_dir() else 'parquet'}:{spec}'?"
    raise UserError(f"data set '{spec}': must be {', '.join(KINDS[:-1])} or {KINDS[-1]}{hint}")


def require_source(spec: str) -> None:
    """Raise UserError if no data set has this name, or its folder or file is missing."""
    kind, _, path = spec.partition(":")
    is_there = kind == "hf" or Path(path).expanduser().exists()
    if spec not in EMBEDDED and not (path and is_there and kind in ("folder", "parquet", "hf")):
        open_source(spec)
