"""Figures as plain data for plotly (https://plotly.com/javascript/reference), and their texts.

A colour such as ``--slimmed`` stands for the page's variable of that name.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nas.report.terminal import count, latencies, share
from nas.slim.result import EvaluatedNetwork, FinalNetwork, SearchResult, frontier
from nas.space import IDENTITY, named_choice

Figure = dict[str, Any]
Network = EvaluatedNetwork | FinalNetwork
Titled = tuple[str, float, Network]
"""A network with its title and its accuracy."""
Numbers = Sequence[float]

SYMBOLS = {
    "slimmed": "star",
    "searched": "star",
    "uniform": "diamond",
    "evolution": "circle",
    "random": "triangle-up",
    "largest": "square",
}
CYCLE = ("--slimmed", "--evolution", "--uniform", "--random", "--largest", "--other")
"""Colours of curves, which have no method."""
HOVER_WIDTH = 46
"""Characters of a line of hover text: what a phone shows."""
VISIBLE = {"star": 1.45, "triangle-up": 1.25, "diamond": 1.1}
"""How much larger than a square these need to be to look as large."""
DASHED = {"width": 1, "dash": "dash"}


def color_of(method: str) -> str:
    """The colour of a method, the same everywhere on the page."""
    known = "slimmed" if method == "searched" else method  # never on one page
    return f"--{known}" if known in SYMBOLS else "--other"


def frontier_figure(result: SearchResult) -> Figure:
    """Accuracy against the first latency: evaluated networks, frontiers, and the targets."""
    cost = first_latency(result)
    final = {network.name for network in result.networks}
    data: list[Figure] = []
    for method in result.methods:
        name, best = method.name, frontier(method.evaluated, cost)
        found = [(f"{name}, evaluation {it.order + 1}", it.accuracy, it) for it in method.evaluated]
        x, y = [it.costs[cost] for it in best], [100 * it.accuracy for it in best]
        data += [
            {**_networks(result, name, found, 7, opacity=0.55), "showlegend": name not in final},
            {
                **_curve(x, y, color_of(name), shape="hv"),
                "legendgroup": _safe(name), "showlegend": False, "hoverinfo": "skip",
            },
        ]  # fmt: skip
    for network in result.networks:
        name, bounds = network.name, bounds_text(network.target)
        title = f"{name}, {bounds}" if bounds else name
        one = [(title, network.search_accuracy, network)]
        marks = _networks(result, name, one, 13, line={"color": "--card", "width": 1.5})
        data.append({**marks, "showlegend": name in final})
        final.discard(name)
    table = table_of(cost)
    layout = _layout(
        f"predicted latency (ms, {table})" if table else "predicted latency (ms)",
        "accuracy on the search slice (%)",
    )
    targets = [target[cost] for target in result.targets if cost in target]
    layout["shapes"] = [_line(x0=it, x1=it, yref="paper", y0=0, y1=1) for it in targets]
    layout["annotations"] = [
        {
            "x": target, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top",
            "showarrow": False, "text": _safe(f"target {bound_text(cost, target)}"),
            "font": {"color": "--ink", "size": 11},
        }
        for target in targets
    ]  # fmt: skip
    return {"data": data, "layout": layout}


def walk_figure(result: SearchResult) -> Figure:
    """Accuracy and latency over the steps of the walk, up to the network that the last one took."""
    cost = first_latency(result)
    last = result.trace[-1].actions[result.trace[-1].taken]
    found = [*(step.accuracy for step in result.trace), last.accuracy]
    accuracies = [None if accuracy is None else 100 * accuracy for accuracy in found]
    prices = [*(step.costs[cost] for step in result.trace), last.costs[cost]]
    steps = range(1, len(prices) + 1)
    data = [
        {
            **_curve(steps, accuracies, "--slimmed", marks=6), "name": "accuracy",
            "connectgaps": True, "hovertemplate": "step %{x}: %{y:.2f} %<extra></extra>",
        },
        {
            **_curve(steps, prices, "--evolution", marks=6),
            "name": "latency", "yaxis": "y2",
            "hovertemplate": "step %{x}: %{y:.3f} ms<extra></extra>",
        },
    ]  # fmt: skip
    layout = _layout("step", "accuracy (%)")
    layout["xaxis"]["anchor"] = "y2"
    layout["yaxis"]["domain"] = [0.56, 1]
    layout["yaxis2"] = {**_axis("latency (ms)"), "domain": [0, 0.44]}
    layout["showlegend"] = False
    layout["shapes"] = [
        _line(xref="paper", x0=0, x1=1, yref="y2", y0=target[cost], y1=target[cost])
        for target in result.targets
        if cost in target
    ]
    return {"data": data, "layout": layout}


def latency_figure(result: SearchResult) -> Figure:
    """Predicted against measured ms with 95 % intervals, in the state of the targets."""
    points = [
        (network.name, it)
        for network in result.networks
        for it in network.latencies
        if it.state == network.state
    ]
    state = result.state
    ends = [x for _, it in points for x in (it.predicted, it.low, it.high)]
    line = [0.85 * min(ends), 1.1 * max(ends)]
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines", "x": line, "y": line, "name": "equal",
            "line": {"color": "--muted", **DASHED}, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    for name in dict.fromkeys(name for name, _ in points):
        mine = [latency for owner, latency in points if owner == name]
        texts = [
            f"{name}: measured {cost_text(it.cost, it.measured)}, {it.low:.3f} to {it.high:.3f}; "
            f"predicted {it.predicted:.3f}"
            for it in mine
        ]
        predicted, measured = [it.predicted for it in mine], [it.measured for it in mine]
        errors = {
            "type": "data", "symmetric": False, "color": color_of(name), "thickness": 1.5,
            "array": [it.high - it.measured for it in mine],
            "arrayminus": [it.measured - it.low for it in mine],
        }  # fmt: skip
        marks = _marks(name, predicted, measured, [_safe(text) for text in texts], 11)
        data.append({**marks, "error_y": errors})
    return {"data": data, "layout": _layout(f"predicted ({state} ms)", f"measured ({state} ms)")}


def training_figures(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures of a training's log by their titles: those of which it holds numbers."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    groups = {
        "accuracy": ([name for name in names if "accuracy" in name], "%"),
        "loss": ([name for name in names if name.partition("/")[0] == "loss"], ""),
        "learning rate": ([name for name in names if name == "learning_rate"], ""),
    }
    drawn = {title: curves_figure(epochs, *group) for title, group in groups.items() if group[0]}
    if any(epoch.get("paths") for epoch in epochs):
        drawn["path probabilities"] = paths_figure(epochs)
    return drawn


def curves_figure(epochs: Sequence[Mapping[str, Any]], names: Sequence[str], unit: str) -> Figure:
    """Numbers of a training over its epochs; those in per cent (``unit`` "%") are shares."""
    factor = 100 if unit == "%" else 1
    data = []
    for index, name in enumerate(names):
        known = [epoch for epoch in epochs if epoch.get(name) is not None]
        x, y = [epoch["epoch"] for epoch in known], [factor * epoch[name] for epoch in known]
        curve = _curve(x, y, CYCLE[index % len(CYCLE)], marks=5)
        data.append(
            {
                **curve, "name": _safe(name.replace("_", " ").replace("/", ", ")),
                "mode": "lines+markers" if len(epochs) < 40 else "lines",
                "hovertemplate": f"epoch %{{x}}: %{{y:.4~g}} {unit}",
            }
        )  # fmt: skip
    return {"data": data, "layout": _layout("epoch", unit)}


def paths_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """How probable each kind is in each slot, epoch by epoch, the first slot on top."""
    known = [epoch for epoch in epochs if epoch.get("paths")]
    rows = [(slot, kind) for slot, kinds in known[-1]["paths"].items() for kind in kinds]
    data = [
        {
            "type": "heatmap",
            "x": [epoch["epoch"] for epoch in known],
            "y": [_safe(f"{slot}: {kind}") for slot, kind in rows],
            "z": [
                [epoch["paths"].get(slot, {}).get(kind) for epoch in known] for slot, kind in rows
            ],
            "zmin": 0, "zmax": 1, "xgap": 1, "ygap": 1, "showscale": False,
            "colorscale": [[0, "--surface"], [1, "--evolution"]],
            "hovertemplate": "%{y}<br>epoch %{x}: %{z:.1%}<extra></extra>",
        }
    ]  # fmt: skip
    layout = _layout("epoch", "")
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True, "showgrid": False}
    layout["height"] = 90 + 17 * len(rows)
    return {"data": data, "layout": layout}


def _networks(
    result: SearchResult, name: str, found: Sequence[Titled], size: float, **marker: object
) -> Figure:
    cost = first_latency(result)
    x, y = [network.costs[cost] for *_, network in found], [100 * it for _, it, _ in found]
    marks = _marks(name, x, y, [_hover(result, *network) for network in found], size, **marker)
    return {**marks, "legendgroup": _safe(name)}


def _marks(
    name: str, x: Numbers, y: Numbers, texts: Sequence[str], size: float, **marker: object
) -> Figure:
    symbol = SYMBOLS.get(name, "cross")
    size *= VISIBLE.get(symbol, 1)
    return {
        "type": "scatter", "mode": "markers", "x": x, "y": y, "name": _safe(name),
        "marker": {"color": color_of(name), "symbol": symbol, "size": size, **marker},
        "text": texts, "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _curve(
    x: Numbers, y: Sequence[float | None], color: str, *, marks: int | None = None, **line: object
) -> Figure:
    """A line through points, with ``marks`` of so many pixels on it."""
    curve = {
        "type": "scatter", "x": list(x), "y": y, "mode": "lines",
        "line": {"color": color, "width": 2, **line},
    }  # fmt: skip
    return curve if marks is None else {**curve, "mode": "lines+markers", "marker": {"size": marks}}


def _hover(result: SearchResult, title: str, accuracy: float, network: Network) -> str:
    """Figures of a network, and its options where they are not the largest's."""
    costs = network.costs
    priced = [*latencies(costs), *(name for name in ("params",) if name in costs)]
    prices = ", ".join(cost_text(name, costs[name]) for name in priced)
    lines = [f"<b>{_safe(title)}</b>", f"{share(accuracy)}, {_safe(prices)}"]
    for stage, changes in differences(result, network.assignment):
        wrapped = textwrap.wrap(f"{stage}: {', '.join(changes)}", HOVER_WIDTH)
        lines += [_safe(line) for line in wrapped]
    return "<br>".join(lines)


def _layout(x_title: str, y_title: str) -> Figure:
    return {
        "xaxis": _axis(x_title),
        "yaxis": _axis(y_title),
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 12, "t": 36, "b": 48},
    }


def _axis(title: str) -> Figure:
    colors = {"gridcolor": "--grid", "linecolor": "--line"}
    text = {"text": _safe(title), "standoff": 8}
    return {"title": text, **colors, "zeroline": False, "automargin": True}


def _line(**place: object) -> Figure:
    return {"type": "line", "line": {"color": "--ink", **DASHED}, "layer": "below", **place}


def _safe(text: str) -> str:
    """Plotly reads some tags of HTML in its texts: names must not become any."""
    return html.escape(text, quote=False)


def first_latency(result: SearchResult) -> str:
    """The latency that the frontier is drawn against: the first bounded one, or the first."""
    bounded = [name for target in result.targets for name in latencies(target)]
    known = [name for network in result.networks for name in latencies(network.costs)]
    return (bounded + known + ["latency_ms"])[0]


def table_of(cost: str) -> str:
    """The table that a latency is named after, nothing where there is only one."""
    return cost.rstrip("]").partition("[")[2]


def cost_text(cost: str, value: float, digits: str = ".3f") -> str:
    """``0.220 ms``, ``0.220 ms (cpu)``, ``855.02 k parameters``."""
    if not latencies([cost]):
        return f"{count(value)} {'parameters' if cost == 'params' else 'MACs'}"
    table = table_of(cost)
    return f"{value:{digits}} ms ({table})" if table else f"{value:{digits}} ms"


def bound_text(cost: str, bound: float) -> str:
    """``2 ms``, ``2 ms (cpu)``, ``3 M parameters``: a bound as the user wrote it."""
    return cost_text(cost, bound, digits="g").replace(".00 ", " ")


def bounds_text(target: Mapping[str, float] | None) -> str:
    """``at most 2 ms and 3 M parameters``; nothing for a network without a target."""
    bounds = [bound_text(cost, bound) for cost, bound in (target or {}).items()]
    return "at most " + " and ".join(bounds) if bounds else ""


def differences(result: SearchResult, assignment: Sequence[int]) -> list[tuple[str, list[str]]]:
    """The options of a network that are not the largest's, by stage; of absent slots only that."""
    chosen = [
        (named_choice(name, options), options[index])
        for name, options, index in zip(result.choices, result.options, assignment, strict=True)
    ]
    left_out = {it.slot for it, option in chosen if it.is_optional and option == IDENTITY}
    groups: dict[str, list[str]] = {}
    for choice, option in chosen:
        if choice.slot in left_out:
            text = f"no {choice.module}" if choice.role == "kind" else ""
        else:
            text = "" if option == choice.options[-1] else f"{choice.label} {option}".strip()
        if text:
            groups.setdefault(choice.part, []).append(text)
    return list(groups.items())
