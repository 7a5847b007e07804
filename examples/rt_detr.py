"""A network of ours under Hugging Face's RT-DETR, trained on boxes drawn on noise.

    .venv/bin/pip install -e ".[detection]"
    .venv/bin/python examples/rt_detr.py
    .venv/bin/python examples/rt_detr.py --architecture A.json --weights W.safetensors

A and W are what `nas slim` and `nas retrain` write. The loss that it prints fell from 35 to 17
in 20 steps. Nothing is downloaded. Detection wants larger images than classification: `nas resize`
carries weights over to another input size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

# transformers imports it where it is installed, and it fails at import beside a CPU build of torch
sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]

from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
from transformers.modeling_outputs import BackboneOutput

from nas import Architecture, build
from nas.deploy.weights import read_weights
from nas.network import Backbone

MAPS = 3
"""RT-DETR takes three maps; of strides 8, 16 and 32 where a network has those."""

CLASSES = 2
"""Dark rectangles and bright ones."""

Targets = list[dict[str, torch.Tensor]]
"""Per image ``class_labels`` (boxes) and ``boxes`` (boxes, 4): centre, width, height in [0, 1]."""


def main() -> None:
    """Train, printing the loss."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", default="efficientformer_v2_s0", help="name or JSON file")
    parser.add_argument("--weights", type=Path, help="safetensors; random if left out")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    architecture = Architecture.load(arguments.architecture)
    backbone = build(architecture, features=True)
    if arguments.weights:
        backbone.load_state_dict(read_weights(arguments.weights))
    detector = detector_of(backbone)
    for step, loss in enumerate(
        train(detector, architecture.input_size, arguments.steps, arguments.batch_size), 1
    ):
        print(f"step {step:3d}  loss {loss:.2f}", flush=True)


class FeatureMaps(nn.Module):
    """The last maps of a backbone, as transformers' detectors ask for them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> BackboneOutput:
        """Images (N, 3, H, W) to three maps (N, channels, H / stride, W / stride)."""
        return BackboneOutput(feature_maps=tuple(self.backbone(images)[-MAPS:]))


def detector_of(backbone: Backbone) -> RTDetrForObjectDetection:
    """A small RT-DETR with fresh weights on a backbone, whose weights stay as they are."""
    channels, strides = list(backbone.channels[-MAPS:]), list(backbone.strides[-MAPS:])
    # transformers makes a backbone of its own: the smallest that has our channels, then replaced
    placeholder = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=channels,
        depths=[1] * MAPS,
        layer_type="basic",
        out_indices=list(range(1, MAPS + 1)),
    )
    width = 64
    config = RTDetrConfig(
        backbone_config=placeholder,
        num_labels=CLASSES,
        encoder_in_channels=channels,
        feat_strides=strides,
        d_model=width,
        encoder_hidden_dim=width,
        encoder_ffn_dim=2 * width,
        decoder_in_channels=[width] * MAPS,
        decoder_ffn_dim=2 * width,
        decoder_layers=2,
        num_queries=30,
        num_denoising=10,
    )
    detector = RTDetrForObjectDetection(config)
    detector.model.backbone.model = FeatureMaps(backbone)
    return detector


def train(
    detector: RTDetrForObjectDetection, side: int, steps: int, batch_size: int
) -> Iterator[float]:
    """The loss of each step."""
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    detector.train()
    for _ in range(steps):
        images, targets = draw(batch_size, side, generator)
        loss = detector(pixel_values=images, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 0.1)  # as RT-DETR is trained
        optimizer.step()
        yield loss.item()


def draw(count: int, side: int, generator: torch.Generator) -> tuple[torch.Tensor, Targets]:
    """Images (N, 3, side, side) of noise with one to three rectangles each, and where they are."""
    images = 0.3 * torch.randn(count, 3, side, side, generator=generator)
    targets = []
    for image in images:
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            width, height = torch.randint(side // 8, side // 2, (2,), generator=generator).tolist()
            left = int(torch.randint(0, side - width, (), generator=generator))
            top = int(torch.randint(0, side - height, (), generator=generator))
            label = int(torch.randint(0, CLASSES, (), generator=generator))
            image[:, top : top + height, left : left + width] += 4 * label - 2
            boxes.append([left + width / 2, top + height / 2, width, height])
            labels.append(label)
        targets.append({"class_labels": torch.tensor(labels), "boxes": torch.tensor(boxes) / side})
    return images, targets


if __name__ == "__main__":
    main()
