"""Search spaces and architectures: ``nas spaces``, ``nas show``, ``nas new-space``."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nas.architecture import Architecture
from nas.cli.options import Force, Json, print_result
from nas.data import open_source
from nas.documents import did_you_mean, read_document, require_new
from nas.errors import UserError
from nas.printing import print_line
from nas.report.following import Following, after_architecture, after_space, after_training
from nas.space import DEFAULT_SPACE, SearchSpace, built_in_architectures, built_in_spaces
from nas.training.run import Run


def spaces(as_json: Json = False) -> None:
    found = {name: SearchSpace.load(name) for name in built_in_spaces()}
    architectures = list(built_in_architectures())
    listed = [
        {"name": name, "description": space.description, "input_size": space.input_size}
        for name, space in found.items()
    ]

    def print_spaces() -> None:
        from nas.report.terminal import print_table

        columns = ("space", "choices", "description")
        print_table(
            columns, [(name, str(len(it.choices)), it.description) for name, it in found.items()]
        )
        print_line(f"default: {DEFAULT_SPACE}")
        print_line(f"architectures: {', '.join(architectures)}")

    result = {"default": DEFAULT_SPACE, "spaces": listed, "architectures": architectures}
    words = ("nas", "show", DEFAULT_SPACE)
    following = Following("see what may vary in one of them", words)
    print_result(result, as_json=as_json, show=print_spaces, following=following)


def show(
    what: Annotated[str | None, Argument(metavar="SPACE_OR_ARCHITECTURE")] = None,
    table: Annotated[Path | None, Option(help="Add predicted ms.")] = None,
    run: Annotated[Path | None, Option(help="Show the paths of a run.")] = None,
    as_json: Json = False,
) -> None:
    if (what is None) == (run is None) or (run and table):
        raise UserError("show needs a space or an architecture (with or without --table), or --run")
    subject = Run.open(run) if run else _space_or_architecture(what or "")
    prices = None
    if table:
        from nas.latency.table import LatencyTable

        prices = LatencyTable.load(table)

    from nas.report.show import (
        describe_architecture,
        describe_run,
        describe_space,
        print_description,
    )

    if isinstance(subject, Run):
        description, following = describe_run(subject), after_training(subject)
    elif isinstance(subject, Architecture):
        description = describe_architecture(subject, prices)
        following = after_architecture(what or "")
    else:
        description, following = describe_space(subject, prices), after_space(what or "")
    print_result(
        description,
        as_json=as_json,
        show=lambda: print_description(description),
        following=following,
    )


def new_space(
    given: Annotated[
        str, Argument(metavar="ARCHITECTURE_OR_SPACE", help="Name, or a file of your own.")
    ],
    classes: Annotated[int | None, Option(min=2, help="Classes of the images.")] = None,
    data: Annotated[
        str | None, Option(help="Images whose classes count: folder:PATH, parquet:PATH, hf:NAME.")
    ] = None,
    input_size: Annotated[int | None, Option(min=1, help="Side of images in pixels.")] = None,
    out: Annotated[
        Path | None, Option(help="The file to write; else ARCHITECTURE_SIZEpx.yaml, or SPACE.json.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Of a network widths and expansions become choices, and blocks may be left out."""
    if classes and data:
        raise UserError("--classes and --data exclude each other: data has its own classes")
    subject = _space_or_architecture(given)
    if input_size:
        subject = subject.with_input_size(input_size)
    source = open_source(data) if data else None
    if source:
        classes = len(source.classes)
    if isinstance(subject, SearchSpace):
        default = Path(f"{subject.name}.json")
    else:
        default = Path(f"{subject.name or Path(given).stem}_{subject.input_size}px.yaml")
    path = out or default
    require_new(path, force=force)

    from nas import pipeline
    from nas.network import measure_size

    space = pipeline.new_space(subject, path, classes=classes, force=force)
    sizes = [measure_size(network) for network in (space.smallest(), space.largest())]
    result = {
        "space": str(path),
        "choices": len(space.choices),
        "cardinality": float(space.cardinality),
        "params": [size.params for size in sizes],
        "macs": [size.macs for size in sizes],
    }

    def print_sizes() -> None:
        if source:
            print_line(source.summary)
        least, most = sizes
        print_line(
            f"{len(space.choices)} choices, {least.macs / 1e6:,.0f} to {most.macs / 1e6:,.0f} "
            f"million MACs, {least.params / 1e6:.2f} to {most.params / 1e6:.2f} million parameters"
        )

    print_result(
        result,
        {"space": path},
        as_json=as_json,
        show=print_sizes,
        following=after_space(path),
    )


def _space_or_architecture(what: str) -> SearchSpace | Architecture:
    if what in built_in_architectures():
        return Architecture.load(what)
    is_file = os.path.isfile(what)  # noqa: PTH113 - takes any name
    if is_file and "layers" in _keys(read_document(Path(what)).data):
        return Architecture.load(what)
    if is_file or what in built_in_spaces():
        return SearchSpace.load(what)
    known = [*built_in_spaces(), *built_in_architectures()]
    raise UserError(
        f"'{what}' is neither a file nor a built-in space or architecture"
        f"{did_you_mean(what, known)}; nas spaces lists them"
    )


def _keys(data: object) -> Collection[object]:
    return data if isinstance(data, dict) else ()
