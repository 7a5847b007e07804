"""Measures the facts that a plan needs, in the first seconds of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np

from nas.architecture import Architecture
from nas.data import open_source
from nas.data.sources import decode, require_readable
from nas.data.splits import split_source
from nas.documents import parse_document
from nas.errors import UserError
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.request import Request
from nas.firstrun.schedule import search_share
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import Patience, Session
from nas.latency.target import Target
from nas.machine import usable_cores
from nas.network import measure_size
from nas.space import SearchSpace
from nas.space.new_space import write_space
from nas.training.pace import alone_seconds, forward_seconds, sandwich_seconds
from nas.training.settings import SupernetSettings

PICTURES = 24
"""Of a data set, decoded to see how large pictures are and how long that takes."""
BRIEFLY = Patience(least=4, most=4)
"""Visits that tell a latency to a few percent, on a machine that is steady meanwhile: enough to
choose a space by. Targets that nobody named follow the table."""
BUILT_IN = (("cifar10_32px", 32), ("demo_64px", 64), ("mobile_64px", 64), ("mobile_64px", 96),
            ("mobile_64px", 128))  # fmt: skip
"""Spaces for photographs without pretrained weights, at input sizes, cheapest first."""
SIDES = (96, 128, 160, 192, 224, 256)
"""Input sizes of a space around a given network, up to the network's own."""
ENLARGED = 1.5
"""Pictures that would be enlarged by more than this have fewer pixels than a network would see."""


class Place(NamedTuple):
    """A candidate: a space, and the word that ``nas new-space`` makes it from."""

    word: str
    space: SearchSpace


def read_facts(request: Request, share: float | None = None) -> DataFacts:
    """The facts about a request's images, of which a ``share``, by default what suits, is searched.

    Raises UserError if they are missing or too few, or if some cannot be read.
    """
    source = open_source(request.data)
    require_readable(source)
    if share is None:
        own = len(source.train.labels)
        share = search_share(own if source.test else round(0.8 * own))
    split = split_source(source, seed=request.seed, search_share=share)
    indices = np.linspace(0, len(source.train.labels) - 1, PICTURES).round().astype(int)
    sides, started = list[int](), time.monotonic()
    for index in indices.tolist():
        decode(source.train, index, 64)
    seconds = (time.monotonic() - started) / PICTURES / usable_cores()
    for index in indices.tolist():
        with source.train.open(index) as picture:
            sides.append(min(picture.size))
    return DataFacts(
        classes=len(source.classes),
        train=len(split.train),
        search=len(split.search),
        test=len(split.test),
        search_share=share,
        has_test=source.test is not None,
        side=round(statistics.median(sides)),
        seconds=seconds,
    )


def candidates(request: Request, data: DataFacts) -> Iterator[Place]:
    """The spaces that a plan chooses from, cheapest first, with the classes of the images."""
    if request.architecture is not None:
        given = Architecture.load(request.architecture).with_classes(data.classes)
        for sized in _sized(given):
            yield Place(request.architecture, space_around(sized))
        return
    if request.space is not None:
        yield Place(request.space, SearchSpace.load(request.space).with_classes(data.classes))
        return
    smallest, *_ = BUILT_IN
    for name, side in BUILT_IN:
        if (name, side) == smallest or side <= ENLARGED * data.side:
            space = SearchSpace.load(name).with_input_size(side)
            yield Place(name, space.with_classes(data.classes))


def space_around(architecture: Architecture) -> SearchSpace:
    """The space that ``nas new-space`` writes around a network."""
    text = write_space(architecture, lambda network: measure_size(network).macs)
    return SearchSpace.from_document(parse_document(text, "the space"))


def measure_place(
    place: Place, target: Target, *, weights: str | None, training_device: str
) -> SpaceFacts:
    """What the networks of a place cost on this machine; a few seconds."""
    space = place.space
    largest, smallest = space.largest(), space.smallest()
    middle = space.decode(space.uniform(0.5))
    settings = SupernetSettings.model_validate({"weights": weights})
    graphs = LayerGraphs()
    networks = {"largest": largest, "smallest": smallest}
    makers = {name: partial(graphs.network, network) for name, network in networks.items()}
    session = Session(target, makers, np.random.default_rng(0), patience=BRIEFLY)
    found = session.measure().latencies
    return SpaceFacts(
        word=place.word,
        name=space.name,
        input_size=space.largest_size,
        layers=len(space.layers()),
        sandwich_seconds=sandwich_seconds(space, settings, training_device),
        largest_seconds=alone_seconds(largest, training_device),
        forward_seconds=(
            forward_seconds(largest, training_device),
            forward_seconds(middle, training_device),
            forward_seconds(smallest, training_device),
        ),
        visit_seconds=statistics.mean(visit.seconds for visit in session.visits),
        largest_ms=found["largest"].warm.ms,
        smallest_ms=found["smallest"].warm.ms,
    )


def _sized(architecture: Architecture) -> Iterator[Architecture]:
    own = architecture.input_size
    for side in sorted({*(it for it in SIDES if it < own), own}):
        with suppress(UserError):  # a side that the strides do not divide
            yield architecture.with_input_size(side)
