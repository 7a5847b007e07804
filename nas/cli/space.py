"""Search spaces and architectures: ``nas spaces``, ``nas show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nas.architecture import Architecture
from nas.cli.options import Json, print_result
from nas.documents import did_you_mean, read_document
from nas.errors import UserError
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
        print(f"default: {DEFAULT_SPACE}")
        print(f"architectures: {', '.join(architectures)}")

    result = {"default": DEFAULT_SPACE, "spaces": listed, "architectures": architectures}
    print_result(result, as_json=as_json, show=print_spaces)


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
        description = describe_run(subject)
    elif isinstance(subject, Architecture):
        description = describe_architecture(subject, prices)
    else:
        description = describe_space(subject, prices)
    print_result(description, as_json=as_json, show=lambda: print_description(description))


def _space_or_architecture(what: str) -> SearchSpace | Architecture:
    if what in built_in_architectures():
        return Architecture.load(what)
    path = Path(what)
    if path.is_file() and "layers" in (read_document(path).data or ()):
        return Architecture.load(path)
    if what in built_in_spaces() or path.is_file():
        return SearchSpace.load(what)
    known = [*built_in_spaces(), *built_in_architectures()]
    raise UserError(
        f"'{what}' is neither a file nor a built-in space or architecture"
        f"{did_you_mean(what, known)}; nas spaces lists them"
    )
