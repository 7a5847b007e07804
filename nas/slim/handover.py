"""Hands each method's network over as a folder, with the evidence of the search on its card."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.data import Dataset
from nas.deploy.card import Card
from nas.deploy.delivered import remove_delivered, write_delivered
from nas.deploy.description import DELIVERED, Description, MeasuredLatency
from nas.latency.table import LatencyTable
from nas.slim.candidates import Candidates
from nas.slim.delivery import Delivered
from nas.slim.plan import target_text
from nas.slim.result import FinalNetwork, SearchResult
from nas.training.run import Run


def hand_over(
    run: Run,
    candidates: Candidates,
    networks: Sequence[Delivered],
    result: SearchResult,
    out: Path,
    command: str,
) -> None:
    """Write the networks of all methods; those of the wanted one beside the results too.

    ``command`` is the one that started the search.
    """
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    places = {result.folder_of(target, out) for target in result.targets} | {out}
    for place in sorted(places):
        remove_delivered(place / DELIVERED)
    for network, figures in zip(networks, result.networks, strict=True):
        described = _description(run, candidates, network, figures, date)
        card = _card(run, candidates.dataset, figures, command)
        written = network.architecture, network.network, network.model, described, card
        write_delivered(result.delivered_to(figures, out), *written)
        if figures.name == result.wanted and figures.target:
            network.save(result.folder_of(figures.target, out), described)


def _description(
    run: Run, candidates: Candidates, network: Delivered, figures: FinalNetwork, date: str
) -> Description:
    return Description.of(
        network.architecture,
        classes=candidates.dataset.classes,
        interpolation=candidates.dataset.interpolation,
        run=str(run.path),
        data=run.data.spec,
        measured=tuple(_measured(figures, candidates.measured, date)),
    )


def _measured(
    figures: FinalNetwork, tables: Mapping[str, LatencyTable], date: str
) -> Iterator[MeasuredLatency]:
    """The latencies of a network on the devices of the tables, warm and cold."""
    for cost, table in tables.items():
        warm, cold = figures.measured(cost, "warm"), figures.measured(cost, "cold")
        assert warm is not None
        assert cold is not None
        target = table.target
        yield MeasuredLatency(
            device=target.hardware,
            runtime=f"{target.runtime} {target.runtime_version}",
            threads=target.threads,
            precision=target.precision,
            date=date,
            warm_ms=warm.measured,
            cold_ms=cold.measured,
        )


def _card(run: Run, dataset: Dataset, figures: FinalNetwork, command: str) -> Card:
    parts = ("train on", dataset.train), ("search with", dataset.search), ("test on", dataset.test)
    accuracies = {
        f"{len(dataset.test):,} test images": figures.test_accuracy,
        f"{len(dataset.search):,} images of the search": figures.search_accuracy,
    }
    target = f", {target_text(figures.target)}" if figures.target else ""
    return Card(
        title=f"{figures.name} network of {run.space.name}{target}",
        images=", ".join(f"{len(images):,} to {use}" for use, images in parts),
        accuracies={name: it for name, it in accuracies.items() if it is not None},
        params=int(figures.costs["params"]),
        macs=int(figures.costs["macs"]),
        command=command,
        int8_agreement=figures.int8_agreement,
        remark=figures.remark,
    )
