"""Interactive figures as plotly takes them: plain data, with colours named as the page names them.

A figure is {"data": [...], "layout": {...}}; a colour such as ``--slimmed`` stands for the page's
variable of that name, which is another one in the dark. https://plotly.com/javascript/reference
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.report.frontier import Point, frontier
from nas.report.tables import share
from nas.report.wording import (
    LATENCY,
    bound_text,
    cost_text,
    differences,
    first_latency,
    latencies,
    table_of,
    target_text,
)
from nas.slim.result import EvaluatedNetwork, FinalNetwork, SearchReport

Figure = dict[str, Any]

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


def color_of(method: str) -> str:
    """The colour of a method, the same everywhere on the page."""
    known = "slimmed" if method == "searched" else method  # never on one page
    return f"--{known}" if known in SYMBOLS else "--other"


def frontier_figure(report: SearchReport) -> Figure:
    """Accuracy against the first latency: what each method saw, its frontier, and the targets."""
    cost = first_latency(report)
    data: list[Figure] = []
    final = {network.name for network in report.networks}
    for method in report.methods:
        traces = _method_traces(report, method.name, method.evaluated, cost)
        data += [{**it, "showlegend": method.name not in final} for it in traces[1:]] + traces[:1]
    for network in report.networks:
        data.append(_network_trace(report, network, cost, in_legend=network.name in final))
        final.discard(network.name)
    bounds = [target[cost] for target in report.targets if cost in target]
    unit = ", ".join(it for it in ("ms", table_of(cost)) if it)
    layout = _layout(f"predicted latency ({unit})", "accuracy on the search slice (%)")
    layout["shapes"] = [_line(x0=bound, x1=bound, yref="paper", y0=0, y1=1) for bound in bounds]
    layout["annotations"] = [
        {
            "x": bound, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top",
            "showarrow": False, "text": _safe(f"target {bound_text(cost, bound)}"),
            "font": {"color": "--ink", "size": 11},
        }
        for bound in bounds
    ]  # fmt: skip
    return {"data": data, "layout": layout}


def walk_figure(report: SearchReport) -> Figure:
    """Accuracy and latency over the steps of the walk, one above the other.

    The last point is the network that the last step took.
    """
    cost = first_latency(report)
    last = report.trace[-1].actions[report.trace[-1].taken]
    found = [*(it.accuracy for it in report.trace), last.accuracy]
    accuracies = [None if it is None else 100 * it for it in found]
    prices = [*(it.costs[cost] for it in report.trace), last.costs[cost]]
    steps = list(range(1, len(prices) + 1))
    kwargs: Figure = {"type": "scatter", "mode": "lines+markers", "x": steps}
    data = [
        {
            **kwargs, "y": accuracies, "connectgaps": True, "name": "accuracy",
            "line": {"color": "--slimmed", "width": 2}, "marker": {"size": 6},
            "hovertemplate": "step %{x}: %{y:.2f} %<extra></extra>",
        },
        {
            **kwargs, "y": prices, "yaxis": "y2", "name": "latency",
            "line": {"color": "--evolution", "width": 2}, "marker": {"size": 6},
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
        for target in report.targets
        if cost in target
    ]
    return {"data": data, "layout": layout}


def latency_figure(report: SearchReport) -> Figure:
    """Predicted against measured ms with 95 % intervals, and where both would be equal."""
    points = [(network, it) for network in report.networks for it in network.latencies]
    ends = [x for _, it in points for x in (it.predicted, it.low, it.high)]
    line = [0.85 * min(ends), 1.1 * max(ends)]
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines", "x": line, "y": line, "name": "equal",
            "line": {"color": "--muted", "width": 1, "dash": "dash"}, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    for name in dict.fromkeys(network.name for network, _ in points):
        mine = [(network, it) for network, it in points if network.name == name]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": _safe(name),
                "x": [it.predicted for _, it in mine],
                "y": [it.measured for _, it in mine],
                "error_y": {
                    "type": "data", "symmetric": False, "color": color_of(name), "thickness": 1.5,
                    "array": [it.high - it.measured for _, it in mine],
                    "arrayminus": [it.measured - it.low for _, it in mine],
                },
                "marker": _marker(name, 11),
                "text": [
                    _safe(
                        f"{name}: measured {cost_text(it.cost, it.measured)}, "
                        f"{it.low:.3f} to {it.high:.3f}; predicted {it.predicted:.3f}"
                    )
                    for _, it in mine
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    return {"data": data, "layout": _layout("predicted (ms)", "measured (ms)")}


def curves_figure(epochs: Sequence[Mapping[str, Any]], names: Sequence[str], unit: str) -> Figure:
    """Numbers of a training over its epochs; those in per cent (``unit`` "%") are shares."""
    factor = 100 if unit == "%" else 1
    data = [
        {
            "type": "scatter", "mode": "lines+markers" if len(epochs) < 40 else "lines",
            "name": _safe(name.replace("_", " ").replace("/", ", ")),
            "x": [epoch["epoch"] for epoch in epochs if epoch.get(name) is not None],
            "y": [factor * epoch[name] for epoch in epochs if epoch.get(name) is not None],
            "line": {"color": CYCLE[index % len(CYCLE)], "width": 2}, "marker": {"size": 5},
            "hovertemplate": f"epoch %{{x}}: %{{y:.4~g}} {unit}",
        }
        for index, name in enumerate(names)
    ]  # fmt: skip
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


def _method_traces(
    report: SearchReport, name: str, evaluated: Sequence[EvaluatedNetwork], cost: str
) -> list[Figure]:
    """Every network that a method evaluated, and the line of those that none of them beats."""
    best = frontier(
        [Point(it.assignment, {LATENCY: it.costs[cost]}, it.accuracy, (name,)) for it in evaluated],
        LATENCY,
    )
    group = {"type": "scatter", "legendgroup": _safe(name)}
    return [
        {
            **group, "mode": "lines", "showlegend": False, "hoverinfo": "skip",
            "x": [it.costs[LATENCY] for it in best], "y": [100 * it.accuracy for it in best],
            "line": {"color": color_of(name), "width": 2, "shape": "hv"},
        },
        {
            **group, "mode": "markers", "name": _safe(name),
            "x": [it.costs[cost] for it in evaluated],
            "y": [100 * it.accuracy for it in evaluated],
            "marker": {**_marker(name, 7), "opacity": 0.55},
            "text": [
                _hover(report, f"{name}, evaluation {it.order + 1}", it.costs, it.accuracy,
                       it.assignment)
                for it in evaluated
            ],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]  # fmt: skip


def _network_trace(
    report: SearchReport, network: FinalNetwork, cost: str, *, in_legend: bool
) -> Figure:
    """A network of the final table, larger than those that were looked at on the way."""
    title = ", ".join(it for it in (network.name, target_text(network.target)) if it)
    return {
        "type": "scatter", "mode": "markers", "name": _safe(network.name),
        "legendgroup": _safe(network.name), "showlegend": in_legend,
        "x": [network.costs[cost]], "y": [100 * network.search_accuracy],
        "marker": {**_marker(network.name, 13), "line": {"color": "--card", "width": 1.5}},
        "text": [
            _hover(report, title, network.costs, network.search_accuracy,
                   network.assignment)
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _hover(
    report: SearchReport,
    title: str,
    costs: Mapping[str, float],
    accuracy: float,
    assignment: Sequence[int],
) -> str:
    """Figures of a network, and what it has in place of the largest's options."""
    priced = [*latencies(costs), *(name for name in ("params",) if name in costs)]
    prices = ", ".join(cost_text(name, costs[name]) for name in priced)
    lines = [f"<b>{_safe(title)}</b>", f"{share(accuracy)}, {_safe(prices)}"]
    for stage, changes in differences(report, assignment):
        wrapped = textwrap.wrap(f"{stage}: {', '.join(changes)}", HOVER_WIDTH)
        lines += [_safe(line) for line in wrapped]
    return "<br>".join(lines)


def _marker(name: str, size: float) -> Figure:
    symbol = SYMBOLS.get(name, "cross")
    return {
        "color": color_of(name),
        "symbol": symbol,
        "size": size * VISIBLE.get(symbol, 1),
    }


def _layout(x_title: str, y_title: str) -> Figure:
    return {
        "xaxis": _axis(x_title),
        "yaxis": _axis(y_title),
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 12, "t": 36, "b": 48},
    }


def _axis(title: str) -> Figure:
    return {
        "title": {"text": _safe(title), "standoff": 8},
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zeroline": False,
        "automargin": True,
    }


def _line(**place: object) -> Figure:
    return {
        "type": "line",
        "line": {"color": "--ink", "width": 1, "dash": "dash"},
        "layer": "below",
        **place,
    }


def _safe(text: str) -> str:
    """Plotly reads some tags of HTML in its texts: names must not become any."""
    return html.escape(text, quote=False)


def curve_groups(names: Iterable[str]) -> dict[str, tuple[list[str], str]]:
    """Which numbers of a training's log stand in one figure: its title, they, and their unit."""
    found = list(names)
    groups = {
        "accuracy": ([it for it in found if "accuracy" in it], "%"),
        "loss": ([it for it in found if it.partition("/")[0] == "loss"], ""),
        "learning rate": ([it for it in found if it == "learning_rate"], ""),
    }
    return {title: group for title, group in groups.items() if group[0]}
