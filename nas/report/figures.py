"""Interactive figures in plotly's format, and the texts in them: plain data, no drawing here.

A figure is {"data": [...], "layout": {...}}; a colour such as ``--slimmed`` stands for the page's
variable of that name, which is another one in the dark. https://plotly.com/javascript/reference
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


def frontier_figure(result: SearchResult) -> Figure:
    """Accuracy against the first latency: evaluated networks, frontiers, and the targets."""
    cost = first_latency(result)
    data: list[Figure] = []
    final = {network.name for network in result.networks}
    for method in result.methods:
        traces = _method_traces(result, method.name, method.evaluated, cost)
        data += [{**one, "showlegend": method.name not in final} for one in traces[1:]] + traces[:1]
    for network in result.networks:
        data.append(_network_trace(result, network, cost, in_legend=network.name in final))
        final.discard(network.name)
    bounds = [target[cost] for target in result.targets if cost in target]
    unit = ", ".join(word for word in ("ms", table_of(cost)) if word)
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


def walk_figure(result: SearchResult) -> Figure:
    """Accuracy and latency over the steps of the walk, one above the other.

    The last point is the network that the last step took.
    """
    cost = first_latency(result)
    last = result.trace[-1].actions[result.trace[-1].taken]
    found = [*(step.accuracy for step in result.trace), last.accuracy]
    accuracies = [None if accuracy is None else 100 * accuracy for accuracy in found]
    prices = [*(step.costs[cost] for step in result.trace), last.costs[cost]]
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
        for target in result.targets
        if cost in target
    ]
    return {"data": data, "layout": layout}


def latency_figure(result: SearchResult) -> Figure:
    """Predicted against measured ms with 95 % intervals, and where both would be equal."""
    points = [(network, latency) for network in result.networks for latency in network.latencies]
    ends = [x for _, latency in points for x in (latency.predicted, latency.low, latency.high)]
    line = [0.85 * min(ends), 1.1 * max(ends)]
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines", "x": line, "y": line, "name": "equal",
            "line": {"color": "--muted", "width": 1, "dash": "dash"}, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    for name in dict.fromkeys(network.name for network, _ in points):
        mine = [(network, latency) for network, latency in points if network.name == name]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": _safe(name),
                "x": [latency.predicted for _, latency in mine],
                "y": [latency.measured for _, latency in mine],
                "error_y": {
                    "type": "data", "symmetric": False, "color": color_of(name), "thickness": 1.5,
                    "array": [latency.high - latency.measured for _, latency in mine],
                    "arrayminus": [latency.measured - latency.low for _, latency in mine],
                },
                "marker": _marker(name, 11),
                "text": [
                    _safe(
                        f"{name}: measured {cost_text(latency.cost, latency.measured)}, "
                        f"{latency.low:.3f} to {latency.high:.3f}; "
                        f"predicted {latency.predicted:.3f}"
                    )
                    for _, latency in mine
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    return {"data": data, "layout": _layout("predicted (ms)", "measured (ms)")}


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
    result: SearchResult, name: str, evaluated: Sequence[EvaluatedNetwork], cost: str
) -> list[Figure]:
    """Every network that a method evaluated, and the line of those that none of them beats."""
    best = frontier(evaluated, cost)
    group = {"type": "scatter", "legendgroup": _safe(name)}
    return [
        {
            **group, "mode": "lines", "showlegend": False, "hoverinfo": "skip",
            "x": [network.costs[cost] for network in best],
            "y": [100 * network.accuracy for network in best],
            "line": {"color": color_of(name), "width": 2, "shape": "hv"},
        },
        {
            **group, "mode": "markers", "name": _safe(name),
            "x": [network.costs[cost] for network in evaluated],
            "y": [100 * network.accuracy for network in evaluated],
            "marker": {**_marker(name, 7), "opacity": 0.55},
            "text": [
                _hover(result, f"{name}, evaluation {network.order + 1}", network.accuracy, network)
                for network in evaluated
            ],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]  # fmt: skip


def _network_trace(
    result: SearchResult, network: FinalNetwork, cost: str, *, in_legend: bool
) -> Figure:
    """A network of the final table, with a larger mark than those evaluated on the way."""
    title = ", ".join(text for text in (network.name, bounds_text(network.target)) if text)
    return {
        "type": "scatter", "mode": "markers", "name": _safe(network.name),
        "legendgroup": _safe(network.name), "showlegend": in_legend,
        "x": [network.costs[cost]], "y": [100 * network.search_accuracy],
        "marker": {**_marker(network.name, 13), "line": {"color": "--card", "width": 1.5}},
        "text": [_hover(result, title, network.search_accuracy, network)],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _hover(
    result: SearchResult, title: str, accuracy: float, network: EvaluatedNetwork | FinalNetwork
) -> str:
    """Figures of a network, and its options where they are not the largest's."""
    costs = network.costs
    priced = [*latencies(costs), *(name for name in ("params",) if name in costs)]
    prices = ", ".join(cost_text(name, costs[name]) for name in priced)
    lines = [f"<b>{_safe(title)}</b>", f"{share(accuracy)}, {_safe(prices)}"]
    for stage, changes in differences(result, network.assignment):
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


def first_latency(result: SearchResult) -> str:
    """The latency that the frontier is drawn against: the first bounded one, or the first."""
    bounded = [name for target in result.targets for name in latencies(target)]
    known = [name for network in result.networks for name in latencies(network.costs)]
    return (bounded + known + ["latency_ms"])[0]


def table_of(cost: str) -> str:
    """The table that a latency is named after, nothing where there is only one."""
    return cost.rstrip("]").partition("[")[2]


def cost_text(cost: str, value: float) -> str:
    """``0.220 ms``, ``0.220 ms (cpu)``, ``855.02 k parameters``."""
    if latencies([cost]):
        return f"{value:.3f} ms{_in_brackets(table_of(cost))}"
    return f"{count(value)} {'parameters' if cost == 'params' else 'MACs'}"


def bound_text(cost: str, bound: float) -> str:
    """``2 ms``, ``2 ms (cpu)``, ``3 M parameters``: a bound as the user wrote it."""
    if latencies([cost]):
        return f"{bound:g} ms{_in_brackets(table_of(cost))}"
    return cost_text(cost, bound).replace(".00 ", " ")


def bounds_text(target: Mapping[str, float] | None) -> str:
    """``at most 2 ms and 3 M parameters``; nothing for a network without a target."""
    bounds = [bound_text(cost, bound) for cost, bound in (target or {}).items()]
    return "at most " + " and ".join(bounds) if bounds else ""


def _in_brackets(table: str) -> str:
    return f" ({table})" if table else ""


def differences(result: SearchResult, assignment: Sequence[int]) -> list[tuple[str, list[str]]]:
    """The options of a network that are not the largest's, a group for each stage.

    Of a slot that is left out nothing else is listed: the slot's other choices mean nothing.
    """
    chosen = [
        (named_choice(name, options), options[index])
        for name, options, index in zip(result.choices, result.options, assignment, strict=True)
    ]
    left_out = {
        choice.slot for choice, option in chosen if choice.is_optional and option == IDENTITY
    }
    groups: dict[str, list[str]] = {}
    for choice, option in chosen:
        if choice.slot in left_out:
            text = f"no {choice.module}" if choice.role == "kind" else ""
        else:
            text = "" if option == choice.options[-1] else f"{choice.label} {option}".strip()
        if text:
            groups.setdefault(choice.part, []).append(text)
    return list(groups.items())
