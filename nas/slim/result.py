"""What a search found, as a value: all that its page, its pictures and its tables show.

``report.json`` beside the other results of a search. Accuracies are shares of the search slice in
[0, 1], latencies ms, and costs are named as ``LatencyTable.cost`` names them (``latency_ms``,
``params``, ``macs``); with several tables a latency is named after its table, ``latency_ms[cpu]``.
"""

from __future__ import annotations

from nas.documents import Value


class EvaluatedNetwork(Value):
    """A network that a method evaluated, the ``order``-th of its evaluations from 0."""

    order: int
    assignment: tuple[int, ...]
    costs: dict[str, float]
    accuracy: float


class Method(Value):
    """What a method evaluated under all targets, and the area that its frontier dominates.

    ``hypervolume`` is that of accuracy against the first bounded cost, in the same units for all
    methods of a report, so that only ratios mean something.
    """

    name: str
    evaluated: tuple[EvaluatedNetwork, ...]
    hypervolume: float


class Action(Value):
    """A step down that a walk considered: ``choice`` set to ``option``; None: not evaluated."""

    choice: str
    option: str
    costs: dict[str, float]
    score: float
    accuracy: float | None


class WalkStep(Value):
    """A step of the walk: where it stood, what it considered, and the index of what it took."""

    costs: dict[str, float]
    score: float
    accuracy: float | None
    actions: tuple[Action, ...]
    taken: int


class LayerShare(Value):
    """One layer of a network: its slot, what it is, and what it costs."""

    slot: str
    layer: str
    costs: dict[str, float]


class MeasuredLatency(Value):
    """A predicted latency (``cost`` names it) and a measured one with its 95 % interval, in ms."""

    cost: str
    predicted: float
    measured: float
    low: float
    high: float


class FinalNetwork(Value):
    """A network of the final table. ``target`` is the one it was found for, None for the largest.

    ``name`` is largest, uniform, slimmed, random, evolution or searched. Latencies of tables that
    are not of this machine are predicted only, and are missing from ``latencies``.
    """

    name: str
    target: dict[str, float] | None
    assignment: tuple[int, ...]
    costs: dict[str, float]
    score: float
    latencies: tuple[MeasuredLatency, ...]
    search_accuracy: float
    test_accuracy: float | None
    layers: tuple[LayerShare, ...]


class SearchReport(Value):
    """All of it. ``choices`` and ``options`` name what the numbers of an assignment stand for.

    ``wanted`` is the name of the method that the search was for; the others stand beside it.
    ``verdicts`` say for each target which network won, or that chance may have decided.
    """

    space: str
    data: str
    strategy: str
    seed: int
    targets: tuple[dict[str, float], ...]
    wanted: str = "slimmed"
    choices: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    methods: tuple[Method, ...]
    trace: tuple[WalkStep, ...]
    networks: tuple[FinalNetwork, ...]
    verdicts: tuple[str, ...] = ()
