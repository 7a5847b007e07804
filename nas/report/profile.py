"""Where the time of networks goes: tables and stacked bars, several networks side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas.documents import write_atomically
from nas.latency.profile import OPERATORS, PARTS, Profile
from nas.latency.target import Target
from nas.report.frontier import BLUE, GREEN, GREY, INK, ORANGE
from nas.report.tables import print_table

YELLOW, VIOLET, SKY, ROSE, BROWN, SLATE = (
    *("#f2c14e", "#7a5bc7", "#8fc1f5", "#d9587e", "#a4703c"),
    "#6b7486",
)
PART_COLORS = dict(zip(PARTS.values(), (YELLOW, ORANGE, BLUE, GREEN, SLATE), strict=True))
OPERATOR_COLORS = dict(
    zip(
        OPERATORS,
        (*(GREEN, "#7cc9ac", "#17614a", BLUE, YELLOW, ORANGE), VIOLET, ROSE, BROWN, SKY, SLATE),
        strict=True,
    )
)


def describe_profiles(profiles: Sequence[Profile], target: Target) -> dict[str, Any]:
    """All figures, for machines."""
    return {
        "target": target.model_dump(mode="json"),
        "networks": [
            {
                "name": profile.name,
                "ms": profile.whole.ms,
                "ms_low": profile.whole.ms_low,
                "ms_high": profile.whole.ms_high,
                "parts": dict(profile.parts),
                "operators": dict(profile.operators) if profile.operators is not None else None,
                "layers": [
                    {
                        "slot": one.layer.slot,
                        "layer": one.layer.signature,
                        "input": "x".join(map(str, one.input_shape)),
                        "part": one.part,
                        "ms": one.found.ms,
                        "ms_low": one.found.ms_low,
                        "ms_high": one.found.ms_high,
                    }
                    for one in profile.layers
                ],
            }
            for profile in profiles
        ],
    }


def print_profiles(profiles: Sequence[Profile], target: Target) -> None:
    """Tables by kind of layer and by class of operator; of a single network each layer too."""
    if len(profiles) == 1:
        _print_layers(profiles[0])
    _print_shares("layers", profiles, [profile.parts for profile in profiles])
    print("measured: the whole network, which also fetches from memory what no cache holds")
    operators = [profile.operators for profile in profiles if profile.operators is not None]
    if operators:
        _print_shares("operators", profiles, operators)
    else:
        print(f"{target.runtime} has no profiler for {target.device}: classes of layers only")


def draw_profiles(path: Path, profiles: Sequence[Profile], target: Target) -> None:
    """A PNG: a stacked bar for each network, by kind of layer and by class of operator.

    A line across each bar of layers marks the measured latency of the whole network.
    """
    operators = [profile.operators for profile in profiles if profile.operators is not None]
    panels = 2 if operators else 1
    with mpl.rc_context({"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK}):
        figure = Figure(
            figsize=(8, panels * (1.1 + 0.45 * len(profiles)) + 0.7), layout="constrained"
        )
        figure.suptitle(
            f"{target.hardware}, {target.runtime} {target.runtime_version}, "
            f"{target.threads} thread{'s' if target.threads > 1 else ''}, batch {target.batch}",
            x=0.01, ha="left", fontweight="bold", color=INK, fontsize=11,
        )  # fmt: skip
        axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
        _draw_bars(axes[0], profiles, [profile.parts for profile in profiles], PART_COLORS)
        axes[0].set_title("layers", loc="left", color=INK)
        for place, profile in enumerate(profiles):
            axes[0].plot([profile.whole.ms] * 2, [place - 0.36, place + 0.36], color=INK)
        if operators:
            _draw_bars(axes[1], profiles, operators, OPERATOR_COLORS)
            axes[1].set_title("operators", loc="left", color=INK)
        axes[-1].set_xlabel("latency (ms); the line marks the whole network as measured")
        limit = max(one.get_xlim()[1] for one in axes)
        for one in axes:
            one.set_xlim(0, limit)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())


def _draw_bars(
    axes: Axes,
    profiles: Sequence[Profile],
    classes: Sequence[Mapping[str, float]],
    colors: Mapping[str, str],
) -> None:
    places = range(len(profiles))
    left = [0.0] * len(profiles)
    for name in _names(classes):
        widths = [one.get(name, 0.0) for one in classes]
        axes.barh(
            places, widths, 0.6, left, color=colors.get(name, GREY), label=name,
            edgecolor="white", linewidth=0.6, zorder=2,
        )  # fmt: skip
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [profile.name for profile in profiles])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#eceef2", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)


def _print_shares(
    title: str, profiles: Sequence[Profile], classes: Sequence[Mapping[str, float]]
) -> None:
    totals = [sum(one.values()) for one in classes]
    rows = [
        (name, *(_cell(one.get(name, 0.0), of) for one, of in zip(classes, totals, strict=True)))
        for name in sorted(_names(classes), key=lambda it: -max(one.get(it, 0) for one in classes))
    ]
    rows.append(("sum", *(f"{total:.3f} ms      " for total in totals)))
    rows.append(("measured", *(f"{profile.whole.ms:.3f} ms      " for profile in profiles)))
    print_table((title, *(profile.name for profile in profiles)), rows)


def _print_layers(profile: Profile) -> None:
    total = sum(profile.parts.values())
    print_table(
        ("slot", "layer", "input", "ms"),
        [
            (
                one.layer.slot,
                one.layer.signature,
                "x".join(map(str, one.input_shape)),
                _cell(one.found.ms, total),
            )
            for one in profile.layers
        ],
        title=profile.name,
    )


def _cell(ms: float, total: float) -> str:
    return f"{ms:.3f} ms {100 * ms / total:3.0f} %"


def _names(classes: Sequence[Mapping[str, float]]) -> list[str]:
    """All classes, in the order in which they are listed."""
    order = [*PARTS.values(), *OPERATORS]
    names = dict.fromkeys(name for one in classes for name in one)
    return sorted(names, key=lambda it: order.index(it) if it in order else len(order))
