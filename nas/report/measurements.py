"""What was measured on a device, on the terminal: tables, their drift, models, profiles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.latency.estimator import STATES
from nas.latency.profile import OPERATORS, PARTS
from nas.latency.unit import describe_int8, describe_machine, describe_spread
from nas.printing import print_line
from nas.report.terminal import STATES_MEAN, print_table, shape_text, share

if TYPE_CHECKING:
    from nas.latency.calibration import Figures, Validation
    from nas.latency.drift import Drift
    from nas.latency.measure import Found
    from nas.latency.profile import Profile
    from nas.latency.table import LatencyTable
    from nas.latency.target import Target
    from nas.statistics import Interval

Classes = Sequence[Mapping[str, float]]
"""Of each profile the ms of its classes of layers, or of operators."""


def print_validation(table: LatencyTable) -> None:
    """Print a table's errors on networks that it was not calibrated on, warm and cold.

    Beside them stand those of the sum of rows and of MACs; below them what noise has part in them.
    """
    found = table.validation
    target, modelled = table.target, sum(group.modelled for group in table.provenance.modelled)
    title = (
        f"{len(table.rows)} layers on {target.hardware}, {target.runtime} "
        f"{target.runtime_version}, {target.threads} thread(s)"
    )
    if found is None:
        print_table((title,), [("not validated",)])
        return
    if modelled:
        title += f"; {modelled} of the layers modelled"
    print_table(
        ("prediction", "mean error", "bias", "largest", "within 5 %", "Spearman", "Kendall"),
        [
            (f"{state}: {name}", *_figures(figures))
            for state in STATES
            for name, figures in (
                ("table", found.of(state).calibrated),
                ("sum of rows", found.of(state).raw),
                ("MACs alone", found.of(state).macs),
            )
        ],
        title=title,
    )
    for text in _evidence(found):
        print_line(text)
    if line := describe_spread(table.provenance.spread):
        print_line(line)


def _figures(found: Figures) -> tuple[str, ...]:
    return (
        *(share(found.mape), _signed(found.bias), share(found.max_error)),
        f"{100 * found.within_5:.0f} %",
        _correlation(found.spearman, found.spearman_interval),
        _correlation(found.kendall, found.kendall_interval),
    )


def _evidence(found: Validation) -> Iterator[str]:
    """What the errors of a table are made of, and the reference network compared with itself."""
    for state in STATES:
        it = found.of(state)
        yield (
            f"{state}: {it.calibrated.networks} held-out networks of {it.least_ms:.2f} to "
            f"{it.most_ms:.2f} ms; mean error {share(it.calibrated.mape)}: noise of their "
            f"measurement {share(it.noise_floor)}, error of the table {share(it.table_error)}"
        )
    deviations = (abs(found.of(state).reference_deviation) for state in STATES)
    yield (
        "the reference network, measured like any other, differs from itself by "
        + " and ".join(f"{share(it)} {state}" for it, state in zip(deviations, STATES, strict=True))
    )


def print_found(found: Found, files: Mapping[str, str], *, title: str) -> None:
    """Print measured models, warm and cold; ``files`` are their precisions by name."""
    rows = []
    for name, precision in files.items():
        latency, cells = found.latencies[name], [name, precision]
        for state in STATES:
            ms, low, high = latency.of(state)
            cells += [f"{ms:.3f}", f"{low:.3f} to {high:.3f}"]
        rows.append(cells)
    print_table(
        ("file", "precision", "ms warm", "95 % interval", "ms cold", "95 % interval"),
        rows,
        title=title,
    )
    print_line(STATES_MEAN)
    if line := describe_spread(found.spread):
        print_line(line)


def compare_precisions(
    found: Found, precisions: Mapping[str, str], networks: Mapping[str, object]
) -> list[str]:
    """A line for each model in int8 that is not faster, warm, than the same network in float32.

    ``networks`` tells which models are one network: what stands there is equal.
    """
    lines = []
    for name, other in itertools.product(precisions, repeat=2):
        is_pair = (precisions[name], precisions[other]) == ("int8", "float32")
        if is_pair and networks[name] == networks[other]:
            line = describe_int8(found.latencies[name].warm, found.latencies[other].warm)
            lines += [f"{name}: {line}, of {other}"] if line else []
    return lines


def print_drift(drift: Drift, path: Path, *, rebuild: str) -> None:
    """Print whether a table holds; ``rebuild`` is the command that builds it again."""
    states = {state: drift.of(state) for state in STATES}
    print_table(
        ("state", "reference", "bias", "mean error", "noise", "Spearman", "Kendall"),
        [
            (
                *(state, _signed(it.shift), _signed(it.bias), share(it.mape), share(it.noise)),
                *(f"{it.spearman:.3f}", f"{it.kendall:.3f}"),
            )
            for state, it in states.items()
        ],
        title=f"{path}: the reference and {drift.networks} networks measured again",
    )
    shifts = " and ".join(f"{_signed(it.shift)} {state}" for state, it in states.items())
    verdicts = {
        "none": "the table holds",
        "re-anchor": "the machine's speed changed, and all latencies with it: the reference "
        f"{shifts} ({describe_machine(drift.machine)}); {path.stem}.json keeps the earlier "
        "calibration",
        "rebuild": f"the table does not hold any more; build it again: {rebuild}",
    }
    print_line(verdicts[drift.action])


def _signed(number: float, digits: int = 1) -> str:
    """``0.013`` as ``+1.3 %``."""
    return f"{100 * number:+.{digits}f} %"


def _correlation(value: float, interval: Interval | None) -> str:
    """``0.998 (0.991 to 0.999)``."""
    text = f"{value:.3f}"
    return text if interval is None else f"{text} ({interval[0]:.3f} to {interval[1]:.3f})"


def print_profiles(profiles: Sequence[Profile], target: Target) -> None:
    """Print tables by kind of layer and by class of operator; of a single network each layer."""
    if len(profiles) == 1:
        (profile,) = profiles
        total, rows = sum(profile.parts.values()), []
        for it in profile.layers:
            names = it.layer.slot, it.layer.signature, shape_text(it.input_shape)
            rows.append((*names, _cell(it.found.warm.ms, total)))
        print_table(("slot", "layer", "input", "ms"), rows, title=profile.name)
    both = {
        f"{name}, {state}": [
            profile.sum_of_layers(state) if name == "sum" else profile.whole.of(state).ms
            for profile in profiles
        ]
        for state in STATES
        for name in ("sum", "measured")
    }
    _print_shares("layers", profiles, [profile.parts for profile in profiles], both)
    print_line(
        "measured: the whole network; warm it also fetches from memory what no cache holds, and "
        "cold it fetches some weights while it computes with others"
    )
    operators = [profile.operators for profile in profiles if profile.operators is not None]
    if operators:
        wholes = {"measured, warm": [profile.whole.warm.ms for profile in profiles]}
        _print_shares("operators", profiles, operators, wholes)
    else:
        print_line(
            f"{target.runtime} has no profiler for {target.place.kind}: classes of layers only"
        )


def _print_shares(
    title: str,
    profiles: Sequence[Profile],
    classes: Classes,
    ends: Mapping[str, Sequence[float]],
) -> None:
    """``ends`` are the lines below the classes: their names, and the ms of each profile."""
    times = {name: [it.get(name, 0.0) for it in classes] for name in class_names(classes)}
    by_time = sorted(times, key=lambda name: -max(times[name]))
    totals = [sum(it.values()) for it in classes]
    print_table(
        (title, *(profile.name for profile in profiles)),
        [
            *((name, *map(_cell, times[name], totals)) for name in by_time),
            *((name, *(f"{ms:.3f} ms      " for ms in found)) for name, found in ends.items()),
        ],
    )


def class_names(classes: Classes) -> list[str]:
    """The classes of layers or of operators in these profiles, in the order of their lists."""
    order = [*PARTS.values(), *OPERATORS]
    names = dict.fromkeys(name for times in classes for name in times)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _cell(ms: float, total: float) -> str:
    return f"{ms:.3f} ms {100 * ms / total:3.0f} %"
