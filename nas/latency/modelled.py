"""``build-lut --quick``: which layers to measure, and a model on padded widths for the others.

A runtime pads channels to a step, so latency is a staircase: interpolating over it errs by 3 to
11 %, a model on the padded widths by about 2 %. Widths that are no multiple of the step run other
kernels, by up to 78 % slower, so each alignment class has its own model:

    t = b0 + b1 P(a) P(b) + b2 P(a) + b3 P(b)    with P the width rounded up to the step, all b >= 0

for the two widths a and b (channels and hidden channels, or those before and after) of one kind of
layer on one map; and likewise with each width and each pair of them where a layer has more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from nas.documents import Value
from nas.families import Layer
from nas.latency.rows import Key, Row

LEAST_MEASURED, LEAST_SPARE = 6, 2
"""Of each group; and so many more than its model has coefficients, to see how far they hold."""
SHARE = 0.2
"""Of the entries of a large group that are measured."""
WORST = 0.15
"""A group whose left-out entries err by more than this is measured entirely."""


class Group(NamedTuple):
    """What has one model: layers that differ in widths only, on one map, in one alignment class."""

    structure: str
    map: tuple[int, int]
    alignment: tuple[str, ...]


class Modelled(Value):
    """One group in the sidecar; ``error``: root mean square of left-out entries, a share."""

    kind: str
    map: tuple[int, int]
    alignment: tuple[str, ...]
    measured: int
    modelled: int
    error: float


def group_layers(layers: Mapping[Key, Layer], step: int) -> dict[Group, list[Key]]:
    """The keys of each group, in the order of ``layers``."""
    groups: dict[Group, list[Key]] = {}
    for key, layer in layers.items():
        alignment = tuple(_alignment(width, step) for width in layer.widths)
        group = Group(layer.structure, key[1][1:], alignment)
        groups.setdefault(group, []).append(key)
    return groups


def keys_to_measure(layers: Mapping[Key, Layer], step: int) -> list[Key]:
    """Keys that span each group: its corners first, then whatever is farthest from those taken."""
    chosen: list[Key] = []
    for keys in group_layers(layers, step).values():
        widths = np.log([layers[key].widths for key in keys])
        count = max(_least(widths.shape[1]), math.ceil(SHARE * len(keys)))
        chosen += [keys[index] for index in _spanning(widths, count)]
    return chosen


def keys_misfit(layers: Mapping[Key, Layer], rows: Mapping[Key, Row], step: int) -> list[Key]:
    """Keys without a row in groups whose model does not hold on left-out entries."""
    misfit: list[Key] = []
    for keys in group_layers(layers, step).values():
        known = [key for key in keys if key in rows]
        if len(known) < len(keys) and not _error(known, layers, rows, step) <= WORST:
            misfit += [key for key in keys if key not in rows]
    return misfit


def model_rows(
    layers: Mapping[Key, Layer],
    rows: Mapping[Key, Row],
    sizes: Mapping[Key, tuple[int, int]],
    step: int,
) -> tuple[dict[Key, Row], tuple[Modelled, ...]]:
    """A row for each layer without one, and how well each group's model does.

    ``sizes``: parameters and MACs. The intervals of the rows come from the left-out errors.
    """
    found: dict[Key, Row] = {}
    records = []
    for group, keys in group_layers(layers, step).items():
        known = [key for key in keys if key in rows]
        missing = [key for key in keys if key not in rows]
        if not missing:
            continue
        error = _error(known, layers, rows, step)
        features = _features([layers[key].widths for key in keys], step)
        index = {key: number for number, key in enumerate(keys)}
        ms = _fit(features[[index[key] for key in known]], [rows[key].ms for key in known])
        for key in missing:
            value = float(features[index[key]] @ ms)
            low, high = max(0.0, 1 - 1.96 * error) * value, (1 + 1.96 * error) * value
            found[key] = Row(value, low, high, *sizes[key], "modelled")
        records.append(
            Modelled(
                kind=layers[keys[0]].kind,
                map=group.map,
                alignment=group.alignment,
                measured=len(known),
                modelled=len(missing),
                error=error,
            )
        )
    return found, tuple(records)


def _error(
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


def _fit(features: np.ndarray, ms: Collection[float]) -> np.ndarray:
    """Coefficients, none below zero, of the least squared relative error."""
    coefficients: np.ndarray = nnls(features / np.array(list(ms))[:, None], np.ones(len(ms)))[0]
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
        distances = np.linalg.norm(scaled[:, None] - scaled[chosen], axis=2).min(1)  # (N,)
        chosen.append(int(distances.argmax()))
    return chosen


def _least(widths: int) -> int:
    """How many layers of so many widths are measured at least."""
    return max(LEAST_MEASURED, 1 + widths + math.comb(widths, 2) + LEAST_SPARE)


def _alignment(width: int, step: int) -> str:
    """``step`` comes from a measured sweep of multiples of 4, which cannot tell 1 from 4."""
    if step > 4 and width % step == 0:
        return "step"
    return "four" if width % 4 == 0 else "odd"
