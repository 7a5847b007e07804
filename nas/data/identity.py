"""What held-out pictures are: hashes of their encoded bytes, not of their names and places.

Indices alone tell nothing: where one file has another name, all that come after it move up, and
pictures that were trained on are among those that are held out.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from nas.data.sources import Pictures, unreadable
from nas.documents import Value
from nas.machine import usable_cores

MOST_HASHED = 8192
"""Of more pictures so many count, evenly spaced: those of ImageNet would take minutes to read."""


class HeldOut(Value):
    """The hashes of the search slice and of the test set.

    The test set ``is_split`` off the training pictures, where there was none.
    """

    search_sha256: str
    test_sha256: str
    is_split: bool


def hash_pictures(pictures: Pictures, indices: NDArray[np.int64]) -> str:
    """The hash of what pictures hold and of their labels, whatever their order.

    Raises UserError if one cannot be read.
    """
    places = np.linspace(0, len(indices) - 1, min(len(indices), MOST_HASHED)).round().astype(int)

    def digest(index: int) -> str:
        try:
            encoded = pictures.encoded(index)
        except OSError as error:
            raise unreadable(pictures, index, error) from None
        return f"{pictures.labels[index]} {hashlib.blake2b(encoded, digest_size=20).hexdigest()}"

    with ThreadPoolExecutor(usable_cores()) as threads:  # reading and hashing without the GIL
        digests = sorted(threads.map(digest, indices[places].tolist()))
    return hashlib.sha256("\n".join([str(len(indices)), *digests]).encode()).hexdigest()
