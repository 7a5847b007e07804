"""Whether memory stays flat while a folder of images, too large to be kept decoded, is streamed.

    .venv/bin/python benchmarks/data.py

Writes 20,000 small JPEGs into a temporary folder, reads one shuffled and augmented epoch of them at
224 px, as training does, and prints resident memory (of this process and its workers, pages that
they share counted once) along the way, and images per second. Exit code 1 if memory at the end is
above 1.05 times that at a tenth of the epoch. About a minute on two idle x86 cores; Linux only.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nas.data import load_dataset
from nas.data.images import StreamedImages

CLASSES = 20
MOST_GROWTH = 1.05
PREFETCHED = 2  # batches of each worker, torch's default


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=224, help="of what is served")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="use these images instead of generated ones")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        print("skipped: resident memory is read from /proc, which is not here")
        return
    torch.set_num_threads(1)
    if arguments.folder:
        growth = run(arguments.folder, arguments.side, arguments.batch_size)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), arguments.images)
            growth = run(Path(folder), arguments.side, arguments.batch_size)
    sys.exit(growth > MOST_GROWTH)


def write_images(folder: Path, count: int) -> None:
    """Files of smooth random pictures of 128x96 pixels, 200 different ones, by classes."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(200):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC).save(file, "jpeg")
        encoded.append(file.getvalue())
    for number in range(count):
        path = folder / f"class_{number % CLASSES:02}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded[number % len(encoded)])


def run(folder: Path, side: int, batch_size: int) -> float:
    """One epoch; gives memory at its end over that at its tenth part."""
    dataset = load_dataset(f"folder:{folder}", side)
    images = dataset.train
    if not isinstance(images, StreamedImages):
        sys.exit(f"{len(images)} images of {side} px fit in memory and are not streamed; take more")
    batches = len(images) // batch_size
    # towards the end the workers' queues run empty, so the last look is while they are full
    last = batches - PREFETCHED * images.workers - 1
    checked = {round(share * last): share for share in (0.1, 0.25, 0.5, 0.75, 1.0)}
    seen: dict[float, float] = {}
    print(f"{len(images)} training images, {batches} batches of {batch_size} at {side} px")
    started = time.monotonic()
    served = images.batches(
        batch_size,
        rng=np.random.default_rng((0, 0)),
        augmentation=dataset.augmentation,
        drop_last=True,
    )
    for number, _ in enumerate(served, start=1):
        if number in checked:
            seen[checked[number]] = resident_mb()
            print(f"{100 * checked[number]:4.0f} % of the epoch: {seen[checked[number]]:7.1f} MB")
    seconds = time.monotonic() - started
    growth = seen[1.0] / seen[0.1]
    print(f"{images.workers} workers, {batches * batch_size / seconds:.0f} images per second")
    print(f"memory at 100 % over that at 10 %: {growth:.3f} (at most {MOST_GROWTH})")
    return growth


def resident_mb() -> float:
    """Resident memory of this process and its children, shared pages counted once."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    kilobytes = 0
    for process in (str(own), *children):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


if __name__ == "__main__":
    main()
