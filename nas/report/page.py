"""One HTML page of searches and of a training: it holds all that it needs, and loads nothing."""

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

from nas.deploy.description import DELIVERED, MODEL_FILE
from nas.documents import write_atomically
from nas.errors import UserError
from nas.latency.estimator import State
from nas.report import figures
from nas.report.figures import bound_text, bounds_text, cost_text, first_latency, table_of
from nas.report.following import Following, after_network, after_search, after_training
from nas.report.terminal import (
    ACCURACY,
    OF_TARGET,
    SCORES,
    SIZES,
    STATES_MEAN,
    count,
    has_states,
    latencies,
    predicted_text,
    share,
)
from nas.slim.result import FILES, FinalNetwork, LayerShare, RivalNetwork, SearchResult, WalkStep
from nas.training import log
from nas.training.run import Run

PAGE_FILE, REPORT_FILE, LOG_FILE = FILES["page"], FILES["report"], "log.jsonl"
TEMPLATE = Path(__file__).parent / "template"
MARK = '<meta name="generator" content="nas report">'
"""The mark of our pages: only such files are replaced without ``force``."""


OTHER: Mapping[State, State] = {"warm": "cold", "cold": "warm"}


class TrainingLog(NamedTuple):
    """The lines of a training's log: one for each epoch, and one for each setback."""

    epochs: tuple[dict[str, Any], ...]
    setbacks: tuple[dict[str, Any], ...]


class FolderContents(NamedTuple):
    """The subjects of a folder's page: searches by the name of their folder, and the training.

    ``following`` tells what goes on from a search, or from a ``training`` without searches.
    """

    searches: dict[str, SearchResult]
    training: TrainingLog | None
    following: Mapping[str, Following] = {}


def read_folder(folder: Path) -> FolderContents:
    """Read a folder's searches, also one level down, and its log; UserError if it has neither.

    In the folder of ``nas run`` the log is that of its ``run``.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = [*folder.glob(REPORT_FILE), *sorted(folder.glob(f"*/{REPORT_FILE}"))]
    places = {path.parent.resolve().name: path.parent for path in found}
    searches = {name: SearchResult.load(place / REPORT_FILE) for name, place in places.items()}
    logs = [it for it in (folder / LOG_FILE, folder / "run" / LOG_FILE) if it.is_file()]
    training = read_log(logs[0]) if logs else None
    if not searches and not (training and training.epochs):
        raise UserError(
            f"{folder}: nothing to report: neither a search ({REPORT_FILE}, which nas slim "
            f"writes) nor a training ({LOG_FILE} with a finished epoch)"
        )
    told = {name: _after_search(folder, places[name], it) for name, it in searches.items()}
    if not searches:
        told = {"training": _after_training(folder)}
    return FolderContents(searches, training, {name: it for name, it in told.items() if it})


def _after_search(root: Path, place: Path, result: SearchResult) -> Following | None:
    """What goes on from a search below a folder, which ``nas run`` may have finished."""
    delivered = root / DELIVERED / result.wanted
    if place != root and (delivered / MODEL_FILE).is_file():
        return after_network(delivered)
    return after_search(result, place)


def _after_training(folder: Path) -> Following | None:
    """What goes on from the folder of a training, of a supernet or of a network alone."""
    if (folder / DELIVERED / MODEL_FILE).is_file():
        return after_network(folder / DELIVERED)
    return after_training(Run.open(folder)) if (folder / Run.record_file).is_file() else None


def read_log(path: Path) -> TrainingLog:
    """Read the epochs and the setbacks of a training; numbers that are not finite become None."""
    epochs, setbacks = list[dict[str, Any]](), list[dict[str, Any]]()
    for line in log.read_log(path):
        entry = {
            name: None if isinstance(it, float) and not math.isfinite(it) else it
            for name, it in line.model_dump(mode="json").items()
        }
        (setbacks if isinstance(line, log.SetbackLine) else epochs).append(entry)
    return TrainingLog(tuple(epochs), tuple(setbacks))


class Share(NamedTuple):
    """A layer or a stage, and its shares in [0, 1] of the latency and of the parameters."""

    name: str
    detail: str
    latency: float
    params: float
    parts: tuple[Share, ...] = ()


def write_page(path: Path, result: SearchResult, *, force: bool = False) -> None:
    """Write the page of one search; only ``force`` replaces a file that is no such page.

    It lies in the search's folder, of which it says how to go on.
    """
    _write(path, render_page(result, after_search(result, path.parent)), force=force)


def write_folder_page(path: Path, contents: FolderContents, *, title: str, force: bool) -> None:
    """Write the page of a folder: its searches, and its training; ``force`` as above."""
    _write(path, _render(title, contents), force=force)


def render_page(result: SearchResult, following: Following | None = None) -> str:
    """The page of one search, and of the command that goes on from it."""
    told = {"search": following} if following else {}
    title = f"{result.space} on {result.data}"
    return _render(title, FolderContents({"search": result}, None, told))


def _write(path: Path, page: str, *, force: bool) -> None:
    is_ours = path.is_file() and MARK.encode() in path.read_bytes()[:1000]
    if path.exists() and not force and not is_ours:
        raise UserError(f"{path}: exists and is no page of nas report; --force replaces it")
    write_atomically(path, page)


def _render(title: str, contents: FolderContents) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    searches, training, following = contents
    return environment.get_template("page.html").render(
        title=title,
        searches={name: _search_view(result) for name, result in searches.items()},
        training=training if training and training.epochs else None,
        following=following,
        training_figures=figures.training_figures(training.epochs) if training else {},
        plotly=_packed_plotly(),
        accuracy=ACCURACY,
        columns=(*SIZES, OF_TARGET, *SCORES),
        states_mean=STATES_MEAN,
        share=share,
        count=count,
        color_of=figures.color_of,
    )


@cache
def _packed_plotly() -> str:
    """Plotly's javascript, which the page unpacks itself: 2 MB in place of 5."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _search_view(result: SearchResult) -> dict[str, Any]:
    latency = first_latency(result)
    largest = next((network for network in result.networks if network.target is None), None)
    best = max((method.hypervolume for method in result.methods), default=0.0)
    drawn = {"frontier": figures.frontier_figure(result)}
    if result.trace:
        drawn["walk"] = figures.walk_figure(result)
    if any(network.latencies for network in result.networks):
        drawn["latency"] = figures.latency_figure(result)
    return {
        "result": result,
        "cards": [_card(network, latency, largest) for network in result.delivered],
        "networks": [*map(_row, result.networks), *map(_row, result.rivals)],
        "other": OTHER[result.state] if has_states(result.networks) else None,
        "areas": [(it.name, it.hypervolume / best if best else 0.0) for it in result.methods],
        "figures": drawn,
        "steps": [_step(step, result.strategy, latency) for step in result.trace],
        "per": "ms" if result.strategy == "importance" else "MES",
        "drawings": [
            (network.name, bounds_text(network.target), _stages(network.layers, latency))
            for network in sorted(result.networks, key=lambda it: it.name != result.wanted)
            if network.layers
        ],
    }


def _row(network: FinalNetwork | RivalNetwork) -> dict[str, Any]:
    names = latencies(network.costs)
    return {
        "network": network,
        "target": bounds_text(network.target),
        "predicted": [(table_of(cost), predicted_text(network, cost)) for cost in names],
        "measured": [(table_of(cost), network.measured(cost)) for cost in names],
        "other": [(table_of(cost), network.measured(cost, OTHER[network.state])) for cost in names],
    }


def _card(network: FinalNetwork, latency: str, largest: FinalNetwork | None) -> dict[str, Any]:
    target = network.target or {}
    latency = (latencies(target) or [latency])[0]
    card: dict[str, Any] = {
        "network": network,
        "bounds": [bound_text(cost, bound) for cost, bound in target.items()],
        "predicted": network.costs[latency],
        "measured": network.measured(latency),
        "table": table_of(latency),
    }
    if largest:
        card["speedup"] = largest.costs[latency] / network.costs[latency]
        card["params_ratio"] = network.costs["params"] / largest.costs["params"]
        after, before = network.test_accuracy, largest.test_accuracy
        if after is None or before is None:
            after, before = network.search_accuracy, largest.search_accuracy
        card["change"] = 100 * (after - before)
    return card


def _step(step: WalkStep, strategy: str, latency: str) -> dict[str, Any]:
    """A step as the page's javascript shows it: the taken action first, then by rank."""
    actions: list[dict[str, Any]] = []
    for index, action in enumerate(step.actions):
        saved, mes = step.costs[latency] - action.costs[latency], action.score - step.score
        gain = saved if strategy == "importance" else mes
        drop = None
        if action.accuracy is not None and step.accuracy is not None:
            drop = 100 * (step.accuracy - action.accuracy)
        actions.append(
            {
                "choice": action.choice,
                "option": str(action.option),
                "saved": round(saved, 6),
                "mes": round(mes, 6),
                "gain": round(gain, 6),
                "accuracy": action.accuracy,
                "drop": drop,
                "rate": drop / gain if drop is not None and gain > 0 else None,
                "taken": index == step.taken,
            }
        )
    actions.sort(
        key=lambda it: (
            not it["taken"], math.inf if it["rate"] is None else it["rate"], -it["gain"]
        )
    )  # fmt: skip
    return {"accuracy": step.accuracy, "latency": step.costs[latency], "actions": actions}


def _stages(layers: Sequence[LayerShare], latency: str) -> list[Share]:
    """The layers of a network by stage; the stem and the head stand alone."""
    names = latency, "params"
    totals = {it: sum(layer.costs.get(it, 0.0) for layer in layers) or 1.0 for it in names}
    stages: dict[str, list[Share]] = {}
    for layer in layers:
        stage, _, rest = layer.slot.partition(".")
        kind, _, details = layer.layer.partition(" ")
        prices = ", ".join(cost_text(name, cost) for name, cost in layer.costs.items())
        ms, params = (layer.costs.get(name, 0.0) / total for name, total in totals.items())
        part = Share(rest or stage, f"{kind}|{details}|{prices}", ms, params)
        stages.setdefault(stage, []).append(part)
    return [
        Share(
            name,
            f"{len(parts)} layers" if len(parts) > 1 else "1 layer",
            sum(part.latency for part in parts),
            sum(part.params for part in parts),
            tuple(parts),
        )
        for name, parts in stages.items()
    ]
