"""Trains one network to the end, and hands it over as a folder for its users.

The folder has the form of those of a search, see ``nas/deploy/delivered.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas.data import Dataset
from nas.deploy.card import Card
from nas.deploy.delivered import FILES, write_delivered
from nas.deploy.description import DELIVERED, MeasuredLatency, describe_weights
from nas.deploy.export import to_checked_onnx
from nas.deploy.weights import load_weights
from nas.errors import UserError
from nas.network import build
from nas.progress import SILENT, Progress
from nas.training.retraining import WEIGHTS, Retraining, retrain

MEASURED, COMMAND = "measured", "command"
"""What ``origin_of`` keeps in the record: latencies of the architecture, and what made it."""


def origin_of(architecture: str | Path | None, command: str) -> dict[str, object]:
    """What the card of a retrained network tells beside its training.

    The latencies are those in the weights beside the file of the architecture, if it was delivered.
    """
    origin: dict[str, object] = {COMMAND: command} if command else {}
    file = Path(architecture or "")
    if file.is_file() and (beside := file.with_name(WEIGHTS)).is_file():
        measured = describe_weights(beside).measured
        origin[MEASURED] = [it.model_dump(mode="json") for it in measured]
    return origin


def finish(
    retraining: Retraining,
    dataset: Dataset,
    *,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """``retrain``, and the folder ``delivered``, whose path joins the result's."""
    result = retrain(retraining, dataset, progress=progress, device=device)
    folder = retraining.path / DELIVERED
    if not all((folder / name).is_file() for name in FILES):
        _deliver(retraining, dataset, result, folder)
    return {**result, "paths": {**result["paths"], DELIVERED: str(folder)}}


def _deliver(
    retraining: Retraining, dataset: Dataset, result: Mapping[str, Any], folder: Path
) -> None:
    architecture = retraining.architecture
    network = build(architecture).eval()
    load_weights(network, retraining.path / WEIGHTS)
    try:
        model, _ = to_checked_onnx(network, architecture.input_shape)
    except UserError as error:
        raise UserError(f"{folder}: not delivered, the weights are kept: {error}") from None
    described = retraining.description(dataset)
    described = described.model_copy(update={"measured": tuple(_measured(retraining))})
    write_delivered(
        folder, architecture, network, model, described, _card(retraining, dataset, result)
    )


def _measured(retraining: Retraining) -> Iterator[MeasuredLatency]:
    """The latencies of the architecture that were measured in float32, as it is delivered."""
    told: Sequence[Mapping[str, Any]] = retraining.record.made.get(MEASURED, ())
    for latency in map(MeasuredLatency.model_validate, told):
        if latency.precision == "float32":
            yield latency


def _card(retraining: Retraining, dataset: Dataset, result: Mapping[str, Any]) -> Card:
    record, test = retraining.record, f"{result['test_images']:,} test images"
    accuracies = {test: result["test_accuracy"]}
    if result["inherited_test_accuracy"] is not None:
        accuracies[f"{test} before this training"] = result["inherited_test_accuracy"]
    name = retraining.architecture.name or "a network"
    counts = f"{len(dataset.train):,} to train on, {result['test_images']:,} to test on"
    made = record.made.get(COMMAND) or f"nas.pipeline.retrain, {record.recipe.epochs} epochs"
    return Card(
        title=f"{name}, trained alone",
        images=counts,
        accuracies=accuracies,
        params=result["params"],
        macs=result["macs"],
        command=made,
    )
