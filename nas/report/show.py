"""Descriptions of spaces, architectures, runs and profiles, for machines and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.families import Layer, Shape
from nas.latency.staircase import plateaus
from nas.latency.table import LatencyTable
from nas.network import layer_size, measure_size
from nas.printing import print_line
from nas.report.terminal import count, print_table, shape_text, share
from nas.search import mobile_efficiency_score
from nas.space import SearchSpace
from nas.training.run import Run
from nas.training.supernets import path_probabilities

if TYPE_CHECKING:
    from nas.latency.estimator import Latency
    from nas.latency.profile import Profile
    from nas.latency.target import Target

Description = dict[str, Any]
MANY = 1e6
"""Numbers of assignments above this are printed as an order of magnitude."""


def describe_architecture(architecture: Architecture, table: LatencyTable | None) -> Description:
    """Describe every layer: input shape, parameters and MACs.

    With a table also the ms of the network, warm and cold, and the share of each layer in them.
    """
    layers: list[Description] = [
        {**_place(layer, shape), **layer_size(layer, shape)._asdict()}
        for layer, shape in architecture.placed()
    ]
    if table:
        states = table.shares(architecture, "warm"), table.shares(architecture, "cold")
        for row, warm, cold in zip(layers, *states, strict=True):
            row |= {"ms": warm, "cold_ms": cold}
    described: Description = {
        "architecture": architecture.name,
        "params": sum(row["params"] for row in layers),
        "macs": sum(row["macs"] for row in layers),
        "layers": layers,
    }
    if table:
        described |= _latencies(table, architecture)
        described["mes"] = mobile_efficiency_score(table.cost(architecture))
    return described


def describe_space(space: SearchSpace, table: LatencyTable | None) -> Description:
    """Describe the choices with their options, and the costs of the smallest and the largest."""
    described: Description = {
        "space": space.name,
        "description": space.description,
        "assignments": float(space.cardinality),
        "distinct_layers": len(space.layers()),
        "choices": {name: list(options) for name, options in space.choices.items()},
    }
    for name, end in (("smallest", space.smallest()), ("largest", space.largest())):
        latencies = _latencies(table, end) if table else {}
        described[name] = {**measure_size(end)._asdict(), **latencies}
    if table:
        described["channel_step"] = table.provenance.channel_step
        described["plateaus"] = [plateau._asdict() for plateau in plateaus(space, table)]
    return described


def describe_run(run: Run) -> Description:
    """Describe how far a training with path choice is, and the probabilities of its kinds."""
    run.require_path_choice()
    supernet, state = run.load_supernet(), run.state()
    assert state is not None
    return {
        "run": str(run.path),
        "space": run.space.name,
        "finished_epochs": state.epoch,
        "epochs": run.settings.epochs,
        "accuracies": state.accuracies,
        "paths": path_probabilities(supernet),
    }


def describe_profiles(profiles: Sequence[Profile], target: Target) -> Description:
    """Describe where the time of networks goes: by part, by operator, and layer by layer."""
    return {
        "target": target.model_dump(mode="json"),
        "networks": [
            {
                "name": profile.name,
                **describe_latency(profile.whole),
                "parts": dict(profile.parts),
                "operators": dict(profile.operators) if profile.operators is not None else None,
                "layers": [
                    {
                        **_place(it.layer, it.input_shape),
                        "part": it.part,
                        **describe_latency(it.found),
                    }
                    for it in profile.layers
                ],
            }
            for profile in profiles
        ],
    }


def _place(layer: Layer, shape: Shape) -> Description:
    return {"slot": layer.slot, "layer": layer.signature, "input": shape_text(shape)}


def _latencies(table: LatencyTable, architecture: Architecture) -> Description:
    """The predictions for a network, warm and cold."""
    warm, cold = table.predict(architecture, "warm"), table.predict(architecture, "cold")
    return {"latency_ms": warm, "cold_ms": cold}


def describe_latency(found: Latency) -> Description:
    """A measured latency, warm and cold, each with its interval."""
    warm = {"ms": found.warm.ms, "ms_low": found.warm.ms_low, "ms_high": found.warm.ms_high}
    cold = found.cold
    return {**warm, "cold_ms": cold.ms, "cold_low": cold.ms_low, "cold_high": cold.ms_high}


def print_description(described: Description) -> None:
    """Print any of these descriptions as a table."""
    if "paths" in described:
        _print_run(described)
    elif "layers" in described:
        _print_architecture(described)
    else:
        _print_space(described)


def _print_architecture(described: Description) -> None:
    priced = "latency_ms" in described
    print_table(
        (
            *("slot", "layer", "input", "parameters", "MACs"),
            *(("ms warm", "ms cold") if priced else ()),
        ),
        [
            (
                *(row["slot"], row["layer"], row["input"]),
                *(f"{row['params']:,}", count(row["macs"])),
                *((f"{row['ms']:.4f}", f"{row['cold_ms']:.4f}") if priced else ()),
            )
            for row in described["layers"]
        ],
        title=described["architecture"] or "architecture",
    )
    total = f"{described['params']:,} parameters, {count(described['macs'])} MACs"
    if priced:
        total += f", {_latency_text(described)} predicted, MES {described['mes']:.1f}"
    print_line(total)


def _latency_text(described: Description) -> str:
    return f"{described['latency_ms']:.3f} ms warm and {described['cold_ms']:.3f} ms cold"


def _print_run(described: Description) -> None:
    paths = described["paths"]
    kinds = list(dict.fromkeys(kind for chances in paths.values() for kind in chances))
    print_table(
        ("slot", *kinds),
        [(slot, *(share(chances.get(kind)) for kind in kinds)) for slot, chances in paths.items()],
        title=f"{described['run']}: path probabilities",
    )
    accuracies = ", ".join(f"{name} {share(it)}" for name, it in described["accuracies"].items())
    print_line(
        f"{described['finished_epochs']} of {described['epochs']} epochs on {described['space']}; "
        f"accuracy on the search slice: {accuracies}"
    )


def _print_space(described: Description) -> None:
    print_table(
        ("choice", "options, cheapest first"),
        [(name, ", ".join(map(str, options))) for name, options in described["choices"].items()],
        title=f"{described['space']}: {described['description']}",
    )
    for name in ("smallest", "largest"):
        end = described[name]
        latency = f", {_latency_text(end)}" if "latency_ms" in end else ""
        print_line(f"{name}: {end['params']:,} parameters, {count(end['macs'])} MACs{latency}")
    assignments = described["assignments"]
    number = f"{assignments:,.0f}" if assignments < MANY else f"{assignments:.1e}"
    print_line(f"{number} assignments of {described['distinct_layers']} distinct layers")
    step = described.get("channel_step")
    if step == 1:
        print_line("this device has no clear step of channels: each width costs what it computes")
    elif step:
        print_line(
            f"this device computes {step} channels at once: others are rounded up to a multiple"
        )
    for plateau in described.get("plateaus", ()):
        print_line(
            f"{plateau['choice']}: {plateau['option']} costs as much as {plateau['dearer_option']}"
            f" ({plateau['ms']:.3f} and {plateau['dearer_ms']:.3f} ms)"
        )
