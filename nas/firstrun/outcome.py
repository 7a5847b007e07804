"""What a finished run has found, as a value for machines and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nas.firstrun.facts import DataFacts
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule
from nas.firstrun.stages import Finished, Stages
from nas.progress import duration
from nas.report import describe_search

PHOTO_SIDE = 64
"""Pixels of pictures that look like those of pretrained weights."""

ADVICE = (
    "training starts from nothing; pretrained weights are worth 20 points on 2,000 photographs "
    "(benchmarks/README.md): --architecture efficientnet_lite_0 "
    "--weights hf:timm/tf_efficientnet_lite0.in1k"
)


def describe(stages: Stages, times: Sequence[Finished]) -> dict[str, Any]:
    """The content of the search's ``result.json``, what was delivered, times, and all paths."""
    at, schedule, retrained = stages.at, stages.schedule, stages.retrained
    result = stages.result
    found = describe_search(at.slim, result)
    (network,) = result.delivered
    latency = network.measured("latency_ms")
    delivered = {name: str(path) for name, path in at.delivered.items()}
    own = {"space": at.space, "table": at.table, "run": at.run, "retrained": at.retrained}
    own |= {"overview": at.page, "delivered": at.delivered["onnx"].parent}
    return {
        **found,
        "target_ms": result.targets[0]["latency_ms"],
        "delivered": {
            "test_accuracy": retrained["test_accuracy"],
            "inherited_test_accuracy": retrained["inherited_test_accuracy"],
            "test_images": retrained["test_images"],
            "measured_ms": latency.measured if latency else None,
            **delivered,
        },
        "planning_seconds": schedule.planning_seconds,
        "stages": [{**it.model_dump(), "estimated": schedule.seconds[it.stage]} for it in times],
        "paths": {**found["paths"], **{name: str(path) for name, path in own.items()}},
    }


def data_line(spec: str, data: DataFacts) -> str:
    """The images, and what they are for."""
    held = "" if data.has_test else " (a fifth, held out: they have no test set)"
    return (
        f"{spec}: {data.classes} classes, {data.train:,} images to train on, {data.search:,} to "
        f"search with, {data.test:,} to test on{held}"
    )


def plan_line(request: Request, schedule: Schedule) -> str:
    """Where the run searches and how much it does; and what a target leaves unused."""
    effort = schedule.effort
    reference = f"{effort.reference_epochs} + " if effort.reference_epochs else ""
    line = (
        f"plan: {schedule.place}; {reference}{effort.epochs} epochs, {effort.evaluations} "
        f"evaluations for each method, then {effort.retraining_epochs} epochs alone"
    )
    if not request.weights and ":" in request.data and schedule.data.side >= PHOTO_SIDE:
        line += f"\n{ADVICE}"
    if schedule.place.largest_ms > schedule.target_ms:
        return line
    line += (
        f"\nits largest network takes about {schedule.place.largest_ms:.2g} ms of the "
        f"{schedule.target_ms:g} allowed"
    )
    is_fixed = request.space or request.architecture
    return line if is_fixed else f"{line}: with more --minutes a larger space would be searched"


def outcome_lines(stages: Stages, times: Sequence[Finished]) -> Iterator[str]:
    """The network that is delivered: accuracy, latency, time; what it gained alone."""
    found = describe(stages, times)
    network, target = found["delivered"], found["target_ms"]
    share, before = network["test_accuracy"], network["inherited_test_accuracy"]
    yield (
        f"delivered: {100 * share:.1f} % of {network['test_images']:,} test images "
        f"({100 * before:.1f} % with the weights that it inherited), {network['measured_ms']:.3f} "
        f"ms measured, of {target:g} ms allowed"
    )
    schedule = stages.schedule
    took = schedule.planning_seconds + sum(it.seconds for it in times)
    yield f"it took {duration(took)}; {duration(schedule.total)} were estimated"
