"""Channels form a staircase: its step on a device, options that cost the same, modelled layers.

A runtime pads channels to a step, and widths that are no multiple of it run other kernels. So
``build-lut --quick`` measures a part of each group of layers, of one kind on one map in one
alignment class, and models the others on their padded widths (benchmarks/README.md has the errors):

    t = b0 + b1 P(a) P(b) + b2 P(a) + b3 P(b)    with P the width rounded up to the step, all b >= 0

for two widths a and b; and likewise with each width and each pair of them where a layer has more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import onnx
from scipy.optimize import nnls

from nas.architecture import Architecture
from nas.families import Layer, Shape
from nas.latency.estimator import Visit, estimate
from nas.latency.graphs import chain, pointwise
from nas.latency.table import Key, LatencyTable, ModelledGroup, Row
from nas.latency.target import Target
from nas.latency.visits import Turns
from nas.network import layer_size
from nas.space import SearchSpace

STEPS = (1, 2, 4, 8, 16, 32)
"""Channels that a kernel may compute at once, in float32."""

SWEEP_WIDTHS = tuple(range(20, 97, 4))
"""Multiples of 4: others are off the staircase, as onnxruntime's blocked layout needs 4."""

SWEEP_MAP = 14
SWEEP_VISITS, SWEEP_COPIES = 5, 6

STEP_GAIN = 0.7
"""A wider step must lower the error of the finer one to this share to be believed."""

LEAST_MEASURED, LEAST_SPARE = 6, 2
"""Of each group; and so many more than its model has coefficients, to estimate its error."""

SHARE = 0.2
"""Of the entries of a large group that are measured."""

WORST = 0.15
"""A group whose left-out entries err by more than this is measured entirely."""


class Plateau(NamedTuple):
    """An option as slow as a larger ("dearer") one; ms: sums of rows in the largest network."""

    choice: str
    option: str
    ms: float
    dearer_option: str
    dearer_ms: float


class Group(NamedTuple):
    """The layers of one model: they differ in widths only, on one map, in one alignment class."""

    structure: str
    map: tuple[int, int]
    alignment: tuple[str, ...]


def measure_step(target: Target, rng: np.random.Generator) -> int:
    """The number of channels that the target computes at once, from a sweep of 1x1 convolutions."""
    graphs = sweep_graphs()
    turns = Turns(target, graphs, rng, inner=graphs)
    counts = dict.fromkeys(graphs, SWEEP_VISITS)
    return find_step([visit for chunk in turns.visit(counts) for visit in chunk])


def sweep_graphs() -> dict[str, Callable[[], onnx.ModelProto]]:
    """The graphs of the sweep by their names."""
    shapes = [(width, SWEEP_MAP, SWEEP_MAP) for width in SWEEP_WIDTHS]
    return {f"sweep {shape}": partial(_sweep_graph, shape) for shape in shapes}


def find_step(visits: Sequence[Visit]) -> int:
    """The step that visits to the graphs of the sweep tell."""
    found = estimate(visits)["warm"].graphs
    return fit_step(SWEEP_WIDTHS, [found[name].ms for name in sweep_graphs()])


def _sweep_graph(shape: Shape) -> onnx.ModelProto:
    return chain([pointwise(shape)] * SWEEP_COPIES)


def fit_step(widths: Sequence[int], ms: Sequence[float]) -> int:
    """The step P for which ms = b0 + b1 P(c) + b2 P(c)^2 errs least, P(c) rounding c up to it."""
    truth, best, least = np.asarray(ms), STEPS[0], math.inf
    for step in STEPS:
        padded = np.ceil(np.asarray(widths) / step) * step
        columns = np.stack([np.ones_like(padded), padded, padded**2], axis=1) / truth[:, None]
        weights, *_ = np.linalg.lstsq(columns, np.ones_like(truth), rcond=None)
        error = float(np.sqrt(((columns @ weights - 1) ** 2).mean()))
        if error < STEP_GAIN * least:
            best, least = step, error
    return best


def plateaus(space: SearchSpace, table: LatencyTable) -> list[Plateau]:
    """Options of the largest network that are no cheaper, within the noise, than a larger one."""
    largest = [len(options) - 1 for options in space.choices.values()]
    table.require_layers(space)
    found = []
    for place, (choice, options) in enumerate(space.choices.items()):
        networks = [
            _keys(space.decode((*largest[:place], option, *largest[place + 1 :])))
            for option in range(len(options))
        ]
        for option, name in enumerate(map(str, options)):
            for larger in range(len(options) - 1, option, -1):
                if sums := _equal_sums(networks[option], networks[larger], table):
                    found.append(Plateau(choice, name, sums[0], str(options[larger]), sums[1]))
                    break
    return found


def group_layers(layers: Mapping[Key, Layer], step: int) -> dict[Group, list[Key]]:
    """The keys of each group, in the order of ``layers``."""
    groups: dict[Group, list[Key]] = {}
    for key, layer in layers.items():
        alignment = tuple(_alignment(width, step) for width in layer.widths)
        group = Group(layer.structure, key[1][1:], alignment)
        groups.setdefault(group, []).append(key)
    return groups


def keys_to_measure(layers: Mapping[Key, Layer], step: int) -> list[Key]:
    """Keys that span each group: its corners first, then those farthest from all before."""
    chosen: list[Key] = []
    for keys in group_layers(layers, step).values():
        widths = np.log([layers[key].widths for key in keys])
        count = max(_least(widths.shape[1]), math.ceil(SHARE * len(keys)))
        chosen += [keys[index] for index in _spanning(widths, count)]
    return chosen


def keys_misfit(layers: Mapping[Key, Layer], rows: Mapping[Key, Row], step: int) -> list[Key]:
    """Keys without a row in groups whose model fails on left-out entries."""
    misfit: list[Key] = []
    for keys in group_layers(layers, step).values():
        known = [key for key in keys if key in rows]
        if len(known) < len(keys) and not _left_out_error(known, layers, rows, step) <= WORST:
            misfit += [key for key in keys if key not in rows]
    return misfit


def model_rows(
    layers: Mapping[Key, Layer], rows: Mapping[Key, Row], step: int
) -> tuple[dict[Key, Row], tuple[ModelledGroup, ...]]:
    """A row for each layer without one, and the error of each group's model."""
    found: dict[Key, Row] = {}
    records = []
    for group, keys in group_layers(layers, step).items():
        known = [key for key in keys if key in rows]
        missing = [key for key in keys if key not in rows]
        if not missing:
            continue
        error = _left_out_error(known, layers, rows, step)
        features = _features([layers[key].widths for key in keys], step)
        index = {key: number for number, key in enumerate(keys)}
        places = [index[key] for key in known]
        warm = _fit(features[places], [rows[key].ms for key in known])
        cold = _fit(features[places], [rows[key].cold_ms for key in known])
        for key in missing:
            (ms, low, high), (cold_ms, cold_low, cold_high) = (
                tuple(
                    share * float(features[index[key]] @ weights)
                    for share in (1.0, max(0.0, 1 - 1.96 * error), 1 + 1.96 * error)
                )
                for weights in (warm, cold)
            )
            size = layer_size(layers[key], key[1])
            found[key] = Row(ms, low, high, cold_ms, cold_low, cold_high, *size, "modelled")
        record = ModelledGroup(
            kind=layers[keys[0]].kind,
            map=group.map,
            alignment=group.alignment,
            measured=len(known),
            modelled=len(missing),
            error=error,
        )
        records.append(record)
    return found, tuple(records)


def _keys(network: Architecture) -> Counter[Key]:
    return Counter((layer.signature, shape) for layer, shape in network.placed())


def _equal_sums(
    smaller: Counter[Key], larger: Counter[Key], table: LatencyTable
) -> tuple[float, float] | None:
    """The ms of the rows in which two networks differ, unless the smaller is clearly faster."""
    if not smaller - larger:  # layers are left out: that saves their cost, whatever it is
        return None
    sums, variance = [], 0.0
    for counts in (smaller - larger, larger - smaller):
        rows = [(table.rows[key], count) for key, count in counts.items()]
        sums.append(sum(count * row.ms for row, count in rows))
        variance += sum((count * (row.ms_high - row.ms_low) / 2) ** 2 for row, count in rows)
    return (sums[0], sums[1]) if sums[1] - sums[0] <= variance**0.5 else None


def _left_out_error(
    known: Sequence[Key], layers: Mapping[Key, Layer], rows: Mapping[Key, Row], step: int
) -> float:
    """Root mean square relative error on each known entry by a fit to the other ones."""
    if not known or len(known) < _least(len(layers[known[0]].widths)):
        return math.inf
    features = _features([layers[key].widths for key in known], step)
    ms = np.array([rows[key].ms for key in known])
    errors = []
    for index in range(len(ms)):
        rest = np.arange(len(ms)) != index
        errors.append(float(features[index] @ _fit(features[rest], ms[rest])) / ms[index] - 1)
    return float(np.sqrt(np.mean(np.square(errors))))


def _fit(features: np.ndarray, ms: Sequence[float] | np.ndarray) -> np.ndarray:
    """Coefficients, none below zero, of the least squared relative error."""
    coefficients: np.ndarray = nnls(features / np.asarray(ms)[:, None], np.ones(len(ms)))[0]
    return coefficients


def _features(widths: Sequence[tuple[int, ...]], step: int) -> np.ndarray:
    """(N, features): 1, the padded widths, and their products; of a single width its square."""
    padded = np.ceil(np.array(widths) / step) * step / 100  # near 1, for the sake of the solver
    columns = [np.ones(len(padded)), *padded.T]
    pairs = list(combinations(range(padded.shape[1]), 2)) or [(0, 0)]
    columns += [padded[:, a] * padded[:, b] for a, b in pairs]
    return np.stack(columns, 1)


def _spanning(points: np.ndarray, count: int) -> list[int]:
    """Indices of ``count`` points (N, axes): least, greatest, then each time the farthest."""
    if len(points) <= count:
        return list(range(len(points)))
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(0)) / np.where(span > 0, span, 1)
    chosen = [int(scaled.sum(1).argmin()), int(scaled.sum(1).argmax())]
    while len(chosen) < count:
        distances = np.linalg.norm(scaled[:, None] - scaled[chosen], axis=2)  # (N, chosen)
        chosen.append(int(distances.min(1).argmax()))
    return chosen


def _least(widths: int) -> int:
    """The least number of measured layers in a group whose layers have so many widths."""
    return max(LEAST_MEASURED, 1 + widths + math.comb(widths, 2) + LEAST_SPARE)


def _alignment(width: int, step: int) -> str:
    """``step`` comes from a measured sweep of multiples of 4, which cannot tell 1 from 4."""
    if step > 4 and width % step == 0:
        return "step"
    return "four" if width % 4 == 0 else "odd"
