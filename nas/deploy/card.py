"""The model card of a delivered network: ``README.md``, for whoever gets the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nas.deploy.description import Description
from nas.preprocessing import BACKGROUND

STATES_MEAN = (
    "*Warm*: the network runs again and again, as a benchmark's loop does. *Cold*: its first run "
    "after other work had the caches, as in an application."
)
LISTED = 50
"""Classes that a card names; all of them stand in the metadata of the files."""


@dataclass(frozen=True)
class Card:
    """What is known of a network beside its description.

    ``accuracies`` are shares by the images that they are of; ``int8_agreement`` is the share of
    images to which the model in int8 and the weights in float32 give the same class. ``command``
    makes the network again.
    """

    title: str
    images: str
    accuracies: Mapping[str, float]
    params: int
    macs: int
    command: str
    int8_agreement: float | None = None
    remark: str | None = None

    def text(self, described: Description) -> str:
        """The card in Markdown."""
        parts = [f"# {self.title}", *_purpose(described), *self._figures(described)]
        parts += [*_latency(described), *_preprocessing(described), *_files()]
        parts += [f"## How it was made\n\n```\n{self.command}\n```"]
        return "\n\n".join(parts) + "\n"

    def _figures(self, described: Description) -> Iterator[str]:
        rows = {"data": described.data, "images": self.images}
        rows |= {f"accuracy on {on}": f"{100 * it:.1f} %" for on, it in self.accuracies.items()}
        rows |= {"parameters": f"{self.params:,}", "multiply-accumulates": f"{self.macs:,}"}
        rows |= {"run": described.run, "nas": described.nas_version}
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        yield "\n".join(["| | |", "|---|---|", *lines])
        if self.int8_agreement is not None:
            yield (
                "`model.onnx` computes in int8, and gives "
                f"{100 * self.int8_agreement:.1f} % of images the class that `weights.safetensors`"
                " in float32 gives them. The accuracy on test images is that of `model.onnx`."
            )
        if self.remark:
            yield f"Note: {self.remark}."


def _purpose(described: Description) -> Iterator[str]:
    classes = described.classes
    more = f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    named = ", ".join(classes[:LISTED]) + more
    yield f"Tells {len(classes)} classes of pictures apart: {named}."
    yield (
        "```\npython classify.py PICTURE...     # needs onnxruntime, numpy and pillow\n"
        "nas classify . PICTURE...         # the same, with --json for machines\n```"
    )


def _latency(described: Description) -> Iterator[str]:
    yield "## Latency"
    if not described.measured:
        yield "Not measured yet; `nas bench model.onnx` measures it on the machine at hand."
        return
    head = "| device | runtime | threads | numbers | date | ms warm | ms cold |"
    rows = [
        f"| {it.device} | {it.runtime} | {it.threads} | {it.precision} | {it.date[:10]} "
        f"| {it.warm_ms:.3f} | {it.cold_ms:.3f} |"
        for it in described.measured
    ]
    yield "\n".join([head, "|---|---|---|---|---|---|---|", *rows])
    yield STATES_MEAN


def _preprocessing(described: Description) -> Iterator[str]:
    side, mean, std = described.input_size, list(described.mean), list(described.std)
    part = "" if described.crop == 1 else f"{100 * described.crop:g} % of the sides of "
    yield "## How it sees pictures"
    yield (
        "1. Turned upright as EXIF says; transparent ones on "
        f"{BACKGROUND}; three channels, {described.color_order}.\n"
        f"2. {part}the central square, resized to {side} x {side} pixels "
        f"({described.interpolation}, antialiased as Pillow does).\n"
        f"3. Divided by 255, then minus {mean}, divided by {std}, channel by channel.\n"
        f"4. As float32 of the shape (1, 3, {side}, {side}), the input `images`; the output "
        f"`logits` has the shape (1, {len(described.classes)}), and its softmax is the "
        "probability of each class."
    )
    yield (
        "All of this stands in the metadata of `model.onnx` and of `weights.safetensors`, as JSON: "
        f"{', '.join(f'`{name}`' for name in described.metadata())}."
    )


def _files() -> Iterator[str]:
    yield "## Files"
    yield (
        "- `model.onnx`: the network for any ONNX runtime, one picture at a time\n"
        "- `classify.py`: classifies pictures with `model.onnx` alone\n"
        "- `weights.safetensors` and `architecture.json`: the same network for PyTorch, to train "
        'on or to export: `nas.build(nas.Architecture.load("architecture.json"))`'
    )
