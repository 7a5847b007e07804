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
size, crop, classes = told["input_size"], told["crop"], told["classes"]
for path in sys.argv[1:]:
    picture = Image.open(path)
    if picture.mode[0] in "IF":
        sys.exit(f"{path}: mode {picture.mode} has more than 8 bits per channel")
    picture.draft("RGB", (round(2 * size / crop),) * 2)  # large JPEG files are read faster
    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    below = Image.new("RGBA", picture.size, "BACKGROUND")
    picture = Image.alpha_composite(below, picture).convert("RGB")
    side = crop * min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    way = Image.Resampling[told["interpolation"].upper()]
    picture = picture.resize((size, size), way, box=(left, top, left + side, top + side))
    pixels = (np.asarray(picture) / 255 - told["mean"]) / told["std"]
    images = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, size, size)
    logits = session.run(None, {"images": images})[0][0]
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    best = (f"{classes[place]} {100 * chances[place]:.1f} %" for place in np.argsort(-chances)[:3])
    print(f"{path}: {', '.join(best)}")
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
