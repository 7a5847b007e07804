"""Searches and their results: ``nas slim``, ``search``, ``report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from nas.cli import options
from nas.errors import StoppedError
from nas.report import describe_search
from nas.report.following import after_search, default_table
from nas.search import STRATEGIES
from nas.search.study import SamplerName
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.training.run import SEARCH, SLIMMING, Run

if TYPE_CHECKING:
    from nas.latency.table import Prices
    from nas.slim.plan import Plan
    from nas.slim.result import SearchResult

TargetMs = Annotated[
    str | None, Option(help="Largest latency, measured; cpu=2.0,gpu=0.8 with tables.")
]
TargetState = Annotated[
    Literal["warm", "cold"],
    Option("--state", help="Of target latencies: run again and again, or after other work."),
]
TargetParams = Annotated[float | None, Option(help="Most parameters, such as 3e6.")]
TargetMacs = Annotated[float | None, Option(help="Most multiply-accumulates.")]
TrainedRun = Annotated[Path | None, Option(help="Folder of a trained run.")]
Tables = Annotated[
    list[str] | None,
    Option("--table", help="A latency table, or NAME=PATH; several for several devices."),
]
Results = Annotated[Path | None, Option(help="Folder of the results.")]
AcceptTable = Annotated[
    bool, Option("--accept-table", help="Use a table that failed its validation.")
]


def slim(
    target_ms: TargetMs = None,
    targets: Annotated[
        str | None, Option(help="A family: a network for each, as 1.0,1.5,2.0.")
    ] = None,
    target_params: TargetParams = None,
    target_macs: TargetMacs = None,
    state: TargetState = "warm",
    run: TrainedRun = None,
    data: options.MovedData = None,
    tables: Tables = None,
    strategy: Annotated[
        str, options.one_of("--strategy", STRATEGIES, "By all choices, or by importance of slots.")
    ] = "frontier",
    mes: Annotated[
        list[str] | None,
        Option(help="A term of the score, COST=UNIT:EXPONENT; one --mes for each."),
    ] = None,
    evaluations: Annotated[
        int, Option(min=1, help="Networks for each method and target, at most.")
    ] = 100,
    baselines: Annotated[
        bool, Option("--baselines/--no-baselines", help="Random search and evolution beside it.")
    ] = True,
    rivals: Annotated[
        list[str] | None,
        Option("--rival", help="A finished network beside it, ARCHITECTURE:WEIGHTS; several."),
    ] = None,
    out: Results = None,
    accept_table: AcceptTable = False,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    bounds = {"ms": target_ms, "family": targets, "params": target_params, "macs": target_macs}
    settings = {
        "strategy": strategy,
        "evaluations": evaluations,
        "baselines": baselines,
        "rivals": rivals or (),
    }
    opened, prices, plan = _prepare(run, tables, bounds, mes, **settings, state=state, seed=seed)
    opened = opened.relocated(data)

    from nas import pipeline
    from nas.report.terminal import ProgressBar

    out = out or opened.path / f"{SLIMMING}{_bounds(plan)}"
    with ProgressBar("slimming", quiet=as_json) as bar:
        result = pipeline.slim(
            opened,
            prices.tables,
            plan,
            out,
            accept_tables=accept_table,
            resume=resume,
            force=force,
            command=options.command_line(),
            progress=bar,
        )
    _print_search(result, describe_search(out, result), as_json=as_json)


def search(
    target_ms: TargetMs = None,
    target_params: TargetParams = None,
    target_macs: TargetMacs = None,
    state: TargetState = "warm",
    run: TrainedRun = None,
    data: options.MovedData = None,
    tables: Tables = None,
    sampler: Annotated[SamplerName, Option(help="Optuna's.")] = "nsga2",
    trials: Annotated[
        int, Option(min=1, help="Networks that all workers evaluate together.")
    ] = 100,
    storage: Annotated[
        str | None, Option(help="What workers share: a file, or a database's URL.")
    ] = None,
    out: Results = None,
    accept_table: AcceptTable = False,
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    bounds = {"ms": target_ms, "family": None, "params": target_params, "macs": target_macs}
    opened, prices, plan = _prepare(run, tables, bounds, evaluations=trials, state=state, seed=seed)
    opened = opened.relocated(data)

    from nas.report import write_search
    from nas.report.terminal import ProgressBar
    from nas.slim.search import StudySettings, search_run

    out = out or opened.path / f"{SEARCH}{sampler}_{_bounds(plan)}"
    try:
        with ProgressBar("searching", quiet=as_json) as bar:
            result = search_run(
                opened,
                prices.tables,
                plan,
                StudySettings(sampler, storage),
                out=out,
                progress=bar,
                force=force,
                accept_tables=accept_table,
                command=options.command_line(),
            )
    except KeyboardInterrupt:
        raise StoppedError("stopped; the study is kept, the same command goes on") from None
    if result:
        write_search(out, result)
        _print_search(result, describe_search(out, result), as_json=as_json)
    else:
        options.print_result(None, as_json=as_json)


def report(
    folder: Annotated[Path, Argument(metavar="RUN", help="A run, or a folder of a search.")],
    out: Annotated[Path | None, Option(help="The page to write; else RUN/report.html.")] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """The page needs no network connection."""
    from nas.report.page import PAGE_FILE, read_folder, write_folder_page

    contents = read_folder(folder)
    path = out or folder / PAGE_FILE
    write_folder_page(path, contents, title=folder.resolve().name, force=force)
    paths, training = {"page": str(path)}, contents.training is not None
    result = {**paths, "searches": list(contents.searches), "training": training}
    following = next(iter(contents.following.values()), None)
    options.print_result(result, paths, as_json=as_json, following=following)


def _prepare(
    run: Path | None,
    tables: Sequence[str] | None,
    bounds: Mapping[str, Any],
    mes: Sequence[str] | None = None,
    **plan: object,
) -> tuple[Run, Prices, Plan]:
    """The run, the prices and the plan of a search, checked before torch is loaded."""
    from nas.latency.table import LatencyTable, Prices, latency_names
    from nas.slim.plan import Plan, name_tables, published_terms, read_targets, read_terms

    paths = name_tables(tables or ())
    targets = read_targets(paths, **bounds)
    terms = read_terms(mes or ())
    opened = Run.open(run or options.default_run(SearchSpace.load(DEFAULT_SPACE), "digits"))
    paths = paths or {"cpu": default_table(opened.space)}
    terms = terms or published_terms(latency_names(paths).values())
    wanted = Plan.model_validate({"targets": targets, "terms": terms, **plan})
    loaded = {name: LatencyTable.load(path) for name, path in paths.items()}
    prices = Prices(opened.space, loaded, wanted.state)
    for table in prices.tables.values():
        table.require_layers(opened.space, str(opened.space_path))
    wanted.require_possible(prices)
    return opened, prices, wanted


def _bounds(plan: Plan) -> str:
    """The bounds of a plan, as in the name of a results' folder."""
    bounds = [f"{bound:g}" for target in plan.targets for bound in target.values()]
    return "_".join([*bounds, *(["cold"] if plan.state == "cold" else [])])


def _print_search(
    result: SearchResult,
    described: Mapping[str, Any],
    *,
    title: str | None = None,
    as_json: bool,
) -> None:
    from nas.report.terminal import print_search

    options.print_result(
        described,
        described["paths"],
        as_json=as_json,
        show=lambda: print_search(result, title=title),
        following=after_search(result, Path(described["paths"]["report"]).parent),
    )
