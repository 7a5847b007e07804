"""Writes a finished network as a folder that its user needs nothing else for."""

from __future__ import annotations

from pathlib import Path

import onnx
from torch import nn

from nas.architecture import Architecture
from nas.deploy.card import Card
from nas.deploy.description import Description
from nas.deploy.export import describe
from nas.deploy.weights import save_weights
from nas.documents import write_atomically
from nas.preprocessing import BACKGROUND

FILES = ("architecture.json", "weights.safetensors", "model.onnx", "classify.py", "README.md")

CLASSIFY = '''\
"""Classifies pictures: python classify.py PICTURE...  Needs onnxruntime, numpy and pillow only."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file = Path(__file__).with_name("model.onnx")
session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
told = {key: json.loads(it) for key, it in session.get_modelmeta().custom_metadata_map.items()}
side, crop, way = told["input_size"], told["crop"], Image.Resampling[told["interpolation"].upper()]
for path in sys.argv[1:]:
    if (picture := Image.open(path)).mode[0] in "IF":
        sys.exit(f"{path}: mode {picture.mode} has more than 8 bits per channel")
    picture.draft("RGB", (round(2 * side / crop),) * 2)  # large JPEG files are read faster
    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "BACKGROUND"), picture)
    picture = ImageOps.fit(picture.convert("RGB"), (side, side), way, bleed=(1 - crop) / 2)
    pixels = (np.array(picture) / 255 - told["mean"]) / told["std"]  # (side, side, RGB)
    images = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, side, side)
    logits = session.run(None, {"images": images})[0][0]
    odds = np.exp(logits - logits.max())
    best = [(told["classes"][it], 100 * odds[it] / odds.sum()) for it in np.argsort(-odds)[:3]]
    print(f"{path}: {', '.join(f'{name} {percent:.1f} %' for name, percent in best)}")
'''


def write_delivered(
    folder: Path,
    architecture: Architecture,
    network: nn.Module,
    model: onnx.ModelProto,
    description: Description,
    card: Card,
) -> None:
    """Write ``FILES`` into a folder; ``model`` gets the description as its metadata."""
    architecture.save(folder / "architecture.json")
    save_weights(network, folder / "weights.safetensors", description)
    describe(model, description)
    write_atomically(folder / "model.onnx", model.SerializeToString())
    write_atomically(folder / "classify.py", CLASSIFY.replace("BACKGROUND", BACKGROUND))
    write_atomically(folder / "README.md", card.text(description))


def remove_delivered(folder: Path) -> None:
    """Delete the networks that an earlier search delivered into the folders below this one."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if place.is_dir() and all((place / name).is_file() for name in FILES):
            for name in FILES:
                (place / name).unlink()
            if not any(place.iterdir()):
                place.rmdir()
