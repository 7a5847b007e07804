"""One self-contained HTML page of what searches found and how their supernet was trained.

Everything is inside: style, figures, plotly's javascript. The page loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from nas.documents import write_atomically
from nas.errors import UserError
from nas.report import figures
from nas.report.folder import FolderContents, TrainingLog
from nas.report.tables import count, share
from nas.report.wording import (
    bound_text,
    cost_text,
    first_latency,
    fits,
    latencies,
    table_of,
    target_text,
    verdicts,
)
from nas.slim.result import FinalNetwork, LayerShare, SearchReport, WalkStep

TEMPLATE = Path(__file__).parent / "template"
MARK = '<meta name="generator" content="nas report">'
"""By which a page of ours is known: only such files are replaced without being asked to."""


class Share(NamedTuple):
    """A layer or a stage, and its shares in [0, 1] of the latency and of the parameters."""

    name: str
    detail: str
    latency: float
    params: float
    parts: tuple[Share, ...] = ()


def write_page(path: Path, report: SearchReport, *, force: bool = False) -> None:
    """Write the page of one search, such as ``report.html`` beside its ``report.json``.

    Raises:
        UserError: there is a file that is no such page, and ``force`` does not replace it.
    """
    _write(path, render_page(report), force=force)


def write_folder_page(path: Path, contents: FolderContents, *, title: str, force: bool) -> None:
    """Write the page of a folder: its searches, and its training. Raises like ``write_page``."""
    _write(path, _render(title, contents.searches, contents.training), force=force)


def render_page(report: SearchReport) -> str:
    """The page of one search."""
    return _render(f"{report.space} on {report.data}", {"search": report}, None)


def _write(path: Path, page: str, *, force: bool) -> None:
    if path.exists() and not force and not _is_ours(path):
        raise UserError(f"{path}: exists and is no page of nas report; --force replaces it")
    write_atomically(path, page)


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(1000)


def _render(title: str, searches: Mapping[str, SearchReport], training: TrainingLog | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title,
        searches={name: _search_view(report) for name, report in searches.items()},
        training=_training_view(training) if training and training.epochs else None,
        plotly=_packed_plotly(),
        share=share,
        count=count,
        cost_text=cost_text,
        color_of=figures.color_of,
    )


@cache
def _packed_plotly() -> str:
    """Plotly's javascript, which the page unpacks itself: 2 MB in place of 5."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _search_view(report: SearchReport) -> dict[str, Any]:
    """What the template shows of a search."""
    latency = first_latency(report)
    largest = next((it for it in report.networks if it.target is None), None)
    best = max((it.hypervolume for it in report.methods), default=0.0)
    drawn = {"frontier": figures.frontier_figure(report)}
    if report.trace:
        drawn["walk"] = figures.walk_figure(report)
    if any(network.latencies for network in report.networks):
        drawn["latency"] = figures.latency_figure(report)
    return {
        "report": report,
        "verdicts": list(verdicts(report)),
        "cards": [
            _card(it, latency, largest) for it in report.networks if it.name == report.wanted
        ],
        "networks": [_row(it) for it in report.networks],
        "areas": [(it.name, it.hypervolume / best if best else 0.0) for it in report.methods],
        "figures": drawn,
        "steps": _steps(report, latency) if report.trace else [],
        "per": "ms" if report.strategy == "importance" else "MES",
        "drawings": [
            (it.name, target_text(it.target), _stages(it.layers, latency))
            for it in sorted(report.networks, key=lambda it: it.name != report.wanted)
            if it.layers
        ],
    }


def _training_view(training: TrainingLog) -> dict[str, Any]:
    """What the template shows of a training."""
    names = list(dict.fromkeys(name for epoch in training.epochs for name in epoch))
    drawn = {
        title: figures.curves_figure(training.epochs, group, unit)
        for title, (group, unit) in figures.curve_groups(names).items()
    }
    if any(epoch.get("paths") for epoch in training.epochs):
        drawn["path probabilities"] = figures.paths_figure(training.epochs)
    return {"epochs": len(training.epochs), "setbacks": training.setbacks, "figures": drawn}


def _row(network: FinalNetwork) -> dict[str, Any]:
    """A line of the final table."""
    measured = {it.cost: it for it in network.latencies}
    names = latencies(network.costs)
    return {
        "network": network,
        "target": target_text(network.target),
        "fits": fits(network),
        "latencies": [
            (table_of(name) if len(names) > 1 else "", network.costs[name], measured.get(name))
            for name in names
        ],
    }


def _card(network: FinalNetwork, latency: str, largest: FinalNetwork | None) -> dict[str, Any]:
    """A headline: a slimmed network, and how it compares with the largest.

    Its latency is the first that its target bounds, else ``latency``.
    """
    target = network.target or {}
    latency = (latencies(target) or [latency])[0]
    card: dict[str, Any] = {
        "network": network,
        "bounds": [bound_text(name, bound) for name, bound in target.items()],
        "fits": fits(network),
        "predicted": network.costs[latency],
        "measured": next((it for it in network.latencies if it.cost == latency), None),
        "table": table_of(latency),
    }
    if largest:
        card["speedup"] = largest.costs[latency] / network.costs[latency]
        card["params_ratio"] = network.costs["params"] / largest.costs["params"]
        if network.test_accuracy is not None and largest.test_accuracy is not None:
            card["change"] = 100 * (network.test_accuracy - largest.test_accuracy)
        else:
            card["change"] = 100 * (network.search_accuracy - largest.search_accuracy)
    return card


def _steps(report: SearchReport, latency: str) -> list[dict[str, Any]]:
    """The trace as the page's javascript shows it, the taken action first, then by rank."""
    return [
        {
            "accuracy": step.accuracy,
            "latency": step.costs[latency],
            "actions": sorted(
                (
                    _weighed(step, index, report.strategy, latency)
                    for index in range(len(step.actions))
                ),
                key=lambda it: (
                    not it["taken"],
                    math.inf if it["rate"] is None else it["rate"],
                    -it["gain"],
                ),
            ),
        }
        for step in report.trace
    ]


def _weighed(step: WalkStep, index: int, strategy: str, latency: str) -> dict[str, Any]:
    """An action of a step: what it saves and gains, and the points of accuracy that it loses."""
    action = step.actions[index]
    saved = step.costs[latency] - action.costs[latency]
    mes = action.score - step.score
    gain = saved if strategy == "importance" else mes
    drop = None
    if action.accuracy is not None and step.accuracy is not None:
        drop = 100 * (step.accuracy - action.accuracy)
    return {
        "choice": action.choice,
        "option": action.option,
        "saved": round(saved, 6),
        "mes": round(mes, 6),
        "gain": round(gain, 6),
        "accuracy": action.accuracy,
        "drop": drop,
        "rate": drop / gain if drop is not None and gain > 0 else None,
        "taken": index == step.taken,
    }


def _stages(layers: Sequence[LayerShare], latency: str) -> list[Share]:
    """The layers of a network by stage; the stem and the head stand alone."""
    total = {
        name: sum(layer.costs.get(name, 0.0) for layer in layers) or 1.0
        for name in (latency, "params")
    }
    stages: dict[str, list[Share]] = {}
    for layer in layers:
        stage, _, rest = layer.slot.partition(".")
        kind, _, details = layer.layer.partition(" ")
        prices = ", ".join(cost_text(name, cost) for name, cost in layer.costs.items())
        part = Share(
            rest or stage,
            f"{kind}|{details}|{prices}",
            layer.costs.get(latency, 0.0) / total[latency],
            layer.costs.get("params", 0.0) / total["params"],
        )
        stages.setdefault(stage, []).append(part)
    return [
        Share(
            name,
            f"{len(parts)} layers" if len(parts) > 1 else "1 layer",
            sum(it.latency for it in parts),
            sum(it.params for it in parts),
            tuple(parts),
        )
        for name, parts in stages.items()
    ]
