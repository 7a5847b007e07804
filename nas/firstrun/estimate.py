"""The seconds of each stage of ``nas run``, from facts that were measured.

What the model of a stage leaves open, the constants close. They were found by comparing estimates
with runs on digits and on 2,500 photographs, on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from nas.data import MEMORY_BYTES
from nas.documents import Value
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.latency.build import THOROUGH, usual_seconds
from nas.slim.methods import UNIFORM_NETWORKS
from nas.training.evaluation import CALIBRATION_BATCH_SIZE, CALIBRATION_BATCHES, EPOCH_IMAGES

START_SECONDS = 1.0
"""Of each stage, to read and write what it needs."""
TABLE_START_SECONDS = 14.0
"""To export each kind of layer, and to choose the reference network."""
GOES_ON = 0.85
"""Of the time from the least visits to the usual end: on a quiet machine fewer do."""
GRAPHS = 2.0
"""Graphs that tell a layer's latency."""
EVALUATION_SHARE = 0.25
"""Of the cost of a network at the target: most are smaller, and rivals share their first layers."""
FEW_EVALUATIONS = 0.15
"""Of the evaluations, where every network is within the target and the largest is the answer."""
EVALUATION_SECONDS = 0.08
"""Of each evaluation beside the layers' own time: modules are made, views are cut."""
DELIVERY_SECONDS, DELIVERY_VISITS = 25.0, 500
"""To export and open the finalists; visits to them, in all rounds of measuring."""
EXPORT_SECONDS, REPORT_SECONDS = 5.0, 2.0
"""Of retraining, to export its network and prove it; of the page."""

STAGES: Mapping[str, str] = {
    "space": "what may be built: the choices among which the search finds a network",
    "table": "what each layer costs on this device, measured, so that any network has a price",
    "training": "one supernet that holds every network of the space, with shared weights",
    "slimming": "the most accurate network within the target, measured; and what else would do",
    "retraining": "the network alone, from the weights that it inherits: it gains most here",
    "export": "the files that you use: ONNX, weights, architecture",
    "report": "one page that shows how it was found",
}
"""The stages in their order, and what each is for."""


class Effort(Value):
    """How much each stage does; a reference is trained where there are pretrained weights.

    ``batch_size`` is the supernet's, where it is not the usual one.
    """

    epochs: Annotated[int, Field(gt=0)]
    evaluations: Annotated[int, Field(gt=0)]
    retraining_epochs: Annotated[int, Field(gt=0)]
    reference_epochs: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(gt=1)] | None = None


def estimate(
    data: DataFacts, place: SpaceFacts, effort: Effort, target_ms: float
) -> dict[str, float]:
    """The seconds of each stage."""
    return {
        "space": START_SECONDS,
        "table": table_seconds(place),
        "training": training_seconds(data, place, effort),
        "slimming": slimming_seconds(data, place, effort, target_ms),
        "retraining": retraining_seconds(data, place, effort, target_ms),
        "export": START_SECONDS,
        "report": REPORT_SECONDS,
    }


def table_seconds(place: SpaceFacts) -> float:
    """The least visits to all graphs, and part of the way from there to a build's usual end."""
    graphs = GRAPHS * place.layers + THOROUGH.fitted + THOROUGH.held_out
    least = graphs * THOROUGH.least_visits * place.visit_seconds
    soonest, usual = TABLE_START_SECONDS + least, usual_seconds(place.layers, THOROUGH)
    return soonest + GOES_ON * max(0.0, usual - soonest)


def training_seconds(data: DataFacts, place: SpaceFacts, effort: Effort) -> float:
    """The reference, if there is one, and epochs of steps, each with its evaluation."""
    judged = min(data.search, EPOCH_IMAGES)
    evaluation = (_calibration(data) + judged) * sum(place.forward_seconds)
    epoch = data.train * (place.sandwich_seconds + _streaming(data, place)) + evaluation
    largest, *_ = place.forward_seconds
    reference = data.train * (place.largest_seconds + _streaming(data, place)) + judged * largest
    return (
        START_SECONDS
        + _loading(data, place)
        + effort.epochs * epoch
        + effort.reference_epochs * reference
    )


def slimming_seconds(data: DataFacts, place: SpaceFacts, effort: Effort, target_ms: float) -> float:
    """Evaluations of slimming and of what is compared with it, and rounds of measuring."""
    part = part_of_largest(place, target_ms)
    images = _calibration(data) + data.search
    one = EVALUATION_SHARE * images * part * place.forward_seconds[0] + EVALUATION_SECONDS
    evaluations = UNIFORM_NETWORKS + 3 * effort.evaluations
    evaluations = evaluations if part < 1 else math.ceil(FEW_EVALUATIONS * evaluations)
    delivery = DELIVERY_SECONDS + DELIVERY_VISITS * place.visit_seconds
    test = data.test * (1 + 4 * part) * place.forward_seconds[0]
    return START_SECONDS + _loading(data, place) + evaluations * one + delivery + test


def retraining_seconds(
    data: DataFacts, place: SpaceFacts, effort: Effort, target_ms: float
) -> float:
    """Epochs of the network that was found, which costs its part of the largest one."""
    part, forward = part_of_largest(place, target_ms), place.forward_seconds[0]
    teaching = forward if effort.reference_epochs else 0.0
    step = part * place.largest_seconds + _streaming(data, place) + teaching
    epoch = data.train * step + min(data.search, EPOCH_IMAGES) * part * forward
    tests = 2 * data.test * part * forward
    epochs = effort.retraining_epochs * epoch
    return START_SECONDS + _loading(data, place) + epochs + tests + EXPORT_SECONDS


def part_of_largest(place: SpaceFacts, target_ms: float) -> float:
    """What a network at the target costs, as a share of the largest; at most all of it."""
    return min(1.0, target_ms / place.largest_ms)


def _calibration(data: DataFacts) -> int:
    return min(data.train, CALIBRATION_BATCHES * CALIBRATION_BATCH_SIZE)


def _is_streamed(data: DataFacts, place: SpaceFacts) -> bool:
    return data.pictures * 3 * place.input_size**2 > MEMORY_BYTES


def _loading(data: DataFacts, place: SpaceFacts) -> float:
    return 0.0 if _is_streamed(data, place) else data.pictures * data.seconds


def _streaming(data: DataFacts, place: SpaceFacts) -> float:
    return data.seconds if _is_streamed(data, place) else 0.0
