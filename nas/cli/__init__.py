"""The command line: ``nas build-lut``, ``nas train-supernet``, ``nas slim``, and what lies around.

Read from top to bottom this is the whole pipeline. Each command does its imports when it runs, so
that ``nas --help`` answers at once.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nas.architecture import Architecture
from nas.documents import did_you_mean, read_document
from nas.errors import UserError
from nas.space import DEFAULT_SPACE, SearchSpace, built_in_architectures, built_in_spaces

if TYPE_CHECKING:
    from nas.latency.prices import Prices
    from nas.latency.table import LatencyTable
    from nas.latency.target import Target
    from nas.slim.plan import Plan
    from nas.training.latency_term import LatencyTerm

app = typer.Typer(
    help="Find the image network that is most accurate on your data within a latency budget.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
"""What typer returns after Ctrl-C."""

ExportFormat = Literal["onnx", "onnx-int8", "openvino", "python", "timm"]
Recipe = Literal["light", "published"]
Divergence = Literal["kl", "alpha"]
TrainingDeviceName = Literal["cpu", "cuda"]
TrainingPrecision = Literal["float32", "bfloat16"]
Strategy = Literal["frontier", "importance"]
Sampler = Literal["nsga2", "tpe", "random"]
Space = Annotated[str, typer.Option("--space", help="Name of a built-in space, or a YAML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the result that is there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where it was stopped.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result.")]
Data = Annotated[str, typer.Option("--data", help="digits, folder:PATH, parquet:PATH or hf:NAME.")]
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", help="Who to learn from: ARCHITECTURE:WEIGHTS, or an ONNX file."),
]
Resolutions = Annotated[
    str | None,
    typer.Option("--resolutions", help="Of batches, such as 48,64,80: larger ones, fewer images."),
]
DropPath = Annotated[
    float | None,
    typer.Option("--drop-path", min=0.0, max=0.99, help="Rate of the last block's branches."),
]
Device = Annotated[str, typer.Option("--device", help="What to measure on, such as cpu.")]
TrainingDevice = Annotated[TrainingDeviceName, typer.Option("--device", help="What to train on.")]
RuntimeName = Annotated[str, typer.Option("--runtime", help="What executes the network.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of one inference.")]
Precision = Annotated[
    Literal["float32", "int8"], typer.Option("--precision", help="Numbers to compute with.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images of one inference.")]
TargetMs = Annotated[
    str | None,
    typer.Option("--target-ms", help="Largest latency, measured; cpu=2.0,gpu=0.8 with tables."),
]
TargetParams = Annotated[
    float | None, typer.Option("--target-params", help="Most parameters, such as 3e6.")
]
TargetMacs = Annotated[
    float | None, typer.Option("--target-macs", help="Most multiply-accumulates.")
]
TrainedRun = Annotated[Path | None, typer.Option("--run", help="Folder of a trained run.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help="A latency table, or NAME=PATH; several for several devices."),
]
Results = Annotated[Path | None, typer.Option("--out", help="Folder of the results.")]
AcceptTable = Annotated[
    bool, typer.Option("--accept-table", help="Use a table that failed its validation.")
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on embedded data: table, supernet, slimming, export, measurement."""
    from nas.demo import run_demo
    from nas.report.tables import print_networks

    result = run_demo(out, quiet=as_json)
    if as_json:
        _print_json(result)
        return
    print_networks(result["networks"], title=f"digits, target {result['target_ms']:.2f} ms")
    _print_verdicts(result["verdicts"])
    _print_paths(result["paths"])


@app.command()
def spaces(as_json: Json = False) -> None:
    """List the built-in search spaces and architectures."""
    found = {name: SearchSpace.load(name) for name in built_in_spaces()}
    if as_json:
        listed = [
            {"name": name, "description": space.description, "input_size": space.input_size}
            for name, space in found.items()
        ]
        _print_json(
            {"default": DEFAULT_SPACE, "spaces": listed, "architectures": built_in_architectures()}
        )
        return
    from nas.report.tables import print_table

    print_table(
        ("space", "choices", "description"),
        [(name, str(len(space.choices)), space.description) for name, space in found.items()],
    )
    print(f"default: {DEFAULT_SPACE}")
    print(f"architectures: {', '.join(built_in_architectures())}")


@app.command()
def show(
    what: Annotated[str | None, typer.Argument(metavar="SPACE_OR_ARCHITECTURE")] = None,
    table: Annotated[Path | None, typer.Option("--table", help="Add predicted ms.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Show the paths of a run.")] = None,
    as_json: Json = False,
) -> None:
    """Show a space's choices, an architecture layer by layer, or what a run says of its paths."""
    from nas.report.show import (
        describe_architecture,
        describe_run,
        describe_space,
        print_description,
    )
    from nas.training.run import Run

    if (what is None) == (run is None) or (run and table):
        raise UserError("show needs a space or an architecture (with or without --table), or --run")
    prices = None
    if table:
        from nas.latency.table import LatencyTable

        prices = LatencyTable.load(table)
    subject = Run.open(run) if run else _space_or_architecture(what or "")
    if isinstance(subject, Run):
        description = describe_run(subject)
    elif isinstance(subject, Architecture):
        description = describe_architecture(subject, prices)
    else:
        description = describe_space(subject, prices)
    if as_json:
        _print_json(description)
    else:
        print_description(description)


@app.command("build-lut")
def build_lut(
    space: Space = DEFAULT_SPACE,
    device: Device = "cpu",
    runtime: RuntimeName = "onnxruntime",
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Precision = "float32",
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure a part of the layers, model the others.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The CSV to write.")] = None,
    resume: Resume = False,
    force: Force = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure every distinct layer of a space on this machine."""
    from nas.latency.build import BuildSettings, build_table
    from nas.latency.target import detect_target
    from nas.report.calibration import draw_calibration
    from nas.report.progress import Bar
    from nas.report.validation import print_validation

    target = detect_target(
        device, runtime=runtime, threads=threads, batch=batch, precision=precision
    )
    loaded = SearchSpace.load(space)
    path = out or default_table(loaded, device, *_particulars(target))
    try:
        with Bar("measuring", quiet=as_json) as bar:
            table = build_table(
                loaded,
                target,
                path,
                settings=BuildSettings(space_argument=space, seed=seed, quick=quick),
                resume=resume,
                force=force,
                progress=bar,
            )
    except KeyboardInterrupt:
        raise UserError(
            f"stopped; what was measured is kept, to continue: nas build-lut --space {space} "
            f"--device {device} --runtime {runtime} --threads {threads} --batch {batch} "
            f"--precision {precision} {'--quick ' if quick else ''}--out {path} --resume"
        ) from None
    paths = {"table": str(path), "sidecar": str(path.with_suffix(".json"))}
    if table.validation:
        paths["picture"] = str(path.with_suffix(".png"))
        draw_calibration(path.with_suffix(".png"), table)
    if as_json:
        _print_json({**paths, "rows": len(table.rows), **_validation(table)})
        return
    print_validation(table)
    _print_paths(paths)


@app.command("check-lut")
def check_lut(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A latency table.")],
    networks: Annotated[
        int, typer.Option("--networks", min=4, help="Whole networks to measure.")
    ] = 28,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure whole networks again: the table holds, or is shifted, or has to be rebuilt (1)."""
    from nas.latency.networks import measure_drift, reanchored
    from nas.latency.table import LatencyTable, build_command
    from nas.report.progress import Bar
    from nas.report.validation import print_drift

    loaded = LatencyTable.load(table)
    with Bar("checking", quiet=as_json) as bar:
        drift = measure_drift(loaded, networks=networks, seed=seed, progress=bar)
    rebuild = f"{build_command(table, loaded.provenance)} --force"
    if drift.action == "re-anchor":
        date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        reanchored(loaded, drift, date).save()
    verdict = {
        "none": "the table holds",
        "re-anchor": f"shifted: all latencies by {100 * drift.shift:+.1f} %; {table.stem}.json "
        "keeps the earlier calibration",
        "rebuild": f"the table does not hold any more; build it again: {rebuild}",
    }[drift.action]
    if as_json:
        command = rebuild if drift.action == "rebuild" else None
        _print_json({"table": str(table), **drift.model_dump(mode="json"), "command": command})
    else:
        print_drift(drift, table)
        print(verdict)
    if drift.action == "rebuild":
        raise typer.Exit(1)


@app.command("train-supernet")
def train_supernet(
    space: Annotated[
        str | None, typer.Option("--space", help=f"Name or YAML file; {DEFAULT_SPACE} if left out.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="digits (if left out), folder:PATH, parquet:PATH, hf:NAME."),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2)] = None,
    accumulate: Annotated[
        int | None, typer.Option("--accumulate", min=1, help="Parts of a batch, to save memory.")
    ] = None,
    resolutions: Resolutions = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=1e-9, max=10.0)
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=2, help="Use only this many training images.")
    ] = None,
    divergence: Annotated[
        Divergence | None, typer.Option("--divergence", help="kl (if left out), or AlphaNet's.")
    ] = None,
    teacher: Teacher = None,
    drop_path: DropPath = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Same seed, same result.")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option("--latency-table", help="Prices for --latency-weight.")
    ] = None,
    latency_weight: Annotated[
        float | None,
        typer.Option("--latency-weight", help="Of expected latency in the paths' loss."),
    ] = None,
    path_sampling: Annotated[
        bool | None,
        typer.Option("--path-sampling", help="Draw later random subnets by path probabilities."),
    ] = None,
    device: Annotated[
        TrainingDeviceName,
        typer.Option("--device", help="What to train on; torchrun starts several."),
    ] = "cpu",
    precision: Annotated[
        TrainingPrecision | None,
        typer.Option("--precision", help="If left out, bfloat16 on GPUs that have it."),
    ] = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train one supernet that holds every architecture of a space."""
    from nas.data import Dataset
    from nas.report.training import TrainingBar
    from nas.training.loop import train_supernet as train
    from nas.training.processes import join_processes
    from nas.training.resolutions import reading_size
    from nas.training.run import Run
    from nas.training.settings import DataSettings, Settings

    loaded = SearchSpace.load(space or DEFAULT_SPACE)
    path = run or default_run(loaded, data or "digits")
    images = _given(spec=data, seed=seed, limit=limit)
    priced = Run.open(path).space if resume and not space else loaded
    recipe = _given(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        resolutions=_resolutions(resolutions),
        learning_rate=learning_rate,
        divergence=divergence,
        teacher=teacher,
        drop_path=drop_path,
        latency=_latency_term(priced, latency_table, latency_weight),
        path_sampling=path_sampling,
        precision=precision,
        seed=seed,
    )

    def start() -> tuple[Run, Dataset]:
        data_settings = DataSettings.model_validate({"spec": "digits", **images})
        settings = Settings.model_validate(recipe)
        Run.require_free(path, force=force)  # before the images are read, which may take long
        dataset = data_settings.load(reading_size(loaded, settings.resolutions))
        created = Run.create(
            path,
            space=loaded.with_classes(len(dataset.classes)),
            data=data_settings,
            settings=settings,
            dataset=dataset,
            force=force,
            tell=bar.say,
        )
        return created, dataset

    def go_on() -> tuple[Run, Dataset]:
        opened = Run.open(path)
        opened.require_same(
            space=loaded.with_classes(opened.space.classes) if space else None,
            data=opened.data.model_copy(update=images),
            settings=opened.settings.model_copy(update=recipe),
        )
        return opened, opened.data.load(opened.image_size)

    with (
        join_processes(device) as processes,
        TrainingBar(quiet=as_json or not processes.is_first) as bar,
    ):
        opened, dataset = processes.in_turn(go_on if resume else start, go_on)
        train(
            opened,
            dataset,
            resume=resume,
            report=bar.report,
            tell=bar.say,
            device=processes.device,
            processes=processes,
        )
    if not processes.is_first:
        return
    if as_json:
        _print_json({"run": str(path), "accuracies": dict(bar.accuracies)})
    else:
        _print_paths({"run": str(path)})


@app.command("check-supernet")
def check_supernet(
    run: Annotated[Path, typer.Option("--run", help="Folder of a trained run.")],
    architectures: Annotated[
        int, typer.Option("--architectures", min=4, help="Networks to train alone.")
    ] = 12,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Of each network; as many as the run's.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each network.")] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", min=1e-9, max=10.0, help="Else the run's."),
    ] = None,
    device: TrainingDevice = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a dozen networks alone, and tell whether the supernet ranks them as they turn out."""
    from nas.documents import write_json
    from nas.report.check import draw_check, print_check, write_check
    from nas.report.progress import Bar
    from nas.training.check import check_supernet as check
    from nas.training.processes import find_device
    from nas.training.recipe import like_the_supernet
    from nas.training.run import CHECKS, Run

    found_device = find_device(device)
    opened = Run.open(run)
    paths = {name.partition(".")[2]: run / name for name in CHECKS}
    _require_new(paths["json"], force=force)
    recipe = like_the_supernet(opened.settings).model_copy(
        update=_given(epochs=epochs, learning_rate=learning_rate)
    )
    with Bar("checking", quiet=as_json) as bar:
        found = check(
            opened,
            opened.data.load(opened.image_size),
            recipe,
            architectures=architectures,
            seeds=seeds,
            tell=bar.update,
            device=found_device,
        )
    write_check(paths["csv"], found)
    draw_check(paths["png"], found, title=f"{opened.space.name}, {opened.data.spec}")
    write_json(paths["json"], found.model_dump(mode="json"))
    if as_json:
        _print_json(found.model_dump(mode="json"))
        return
    print_check(found)
    _print_paths({name: str(path) for name, path in paths.items()})


@app.command()
def slim(
    target_ms: TargetMs = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help="A family: a network for each, as 1.0,1.5,2.0.")
    ] = None,
    target_params: TargetParams = None,
    target_macs: TargetMacs = None,
    run: TrainedRun = None,
    tables: Tables = None,
    strategy: Annotated[
        Strategy, typer.Option("--strategy", help="By all choices, or by importance of slots.")
    ] = "frontier",
    mes: Annotated[
        list[str] | None,
        typer.Option("--mes", help="A term of the score, COST=UNIT:EXPONENT; one --mes for each."),
    ] = None,
    evaluations: Annotated[
        int,
        typer.Option("--evaluations", min=1, help="Networks for each method and target, at most."),
    ] = 100,
    baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Random search and evolution beside it."),
    ] = True,
    out: Results = None,
    accept_table: AcceptTable = False,
    seed: Seed = 0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Slim a trained supernet until the exported networks meet their targets when measured."""
    from nas.latency.prices import latency_names
    from nas.slim.options import name_tables, read_targets, read_terms
    from nas.slim.plan import Plan, published_terms

    paths = name_tables(tables or [])
    wanted = read_targets(
        paths, ms=target_ms, family=targets, params=target_params, macs=target_macs
    )
    terms = read_terms(mes or [])
    folder = run or default_run(SearchSpace.load(DEFAULT_SPACE), "digits")
    paths = paths or {"cpu": default_table(_space_of(folder), "cpu")}
    plan = Plan(
        targets=wanted,
        terms=terms or published_terms(latency_names(paths).values()),
        strategy=strategy,
        evaluations=evaluations,
        baselines=baselines,
        seed=seed,
    )
    prices = _possible_prices(folder, paths, plan)

    from nas.report.progress import Bar
    from nas.report.tables import print_networks
    from nas.slim.slimming import slim_run
    from nas.training.run import SLIMMING, Run

    bounds = [bound for target in wanted for bound in target.values()]
    with Bar("slimming", quiet=as_json) as bar:
        result = slim_run(
            Run.open(folder),
            prices.tables,
            plan,
            out=out or folder / f"{SLIMMING}{'_'.join(f'{bound:g}' for bound in bounds)}",
            bar=bar,
            resume=resume,
            force=force,
            accept_tables=accept_table,
        )
    if as_json:
        _print_json(result)
        return
    print_networks(result["networks"], title=f"{result['space']}, {result['data']}")
    _print_verdicts(result["verdicts"])
    _print_paths(result["paths"])


@app.command()
def search(
    target_ms: TargetMs = None,
    target_params: TargetParams = None,
    target_macs: TargetMacs = None,
    run: TrainedRun = None,
    tables: Tables = None,
    sampler: Annotated[Sampler, typer.Option("--sampler", help="Optuna's.")] = "nsga2",
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Networks that all workers evaluate together.")
    ] = 100,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="What workers share: a file, or a database's URL."),
    ] = None,
    out: Results = None,
    accept_table: AcceptTable = False,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Search a trained supernet by Optuna; start it again for one more worker."""
    from nas.latency.prices import latency_names
    from nas.slim.options import name_tables, read_targets
    from nas.slim.plan import Plan, published_terms

    paths = name_tables(tables or [])
    wanted = read_targets(paths, ms=target_ms, family=None, params=target_params, macs=target_macs)
    folder = run or default_run(SearchSpace.load(DEFAULT_SPACE), "digits")
    paths = paths or {"cpu": default_table(_space_of(folder), "cpu")}
    plan = Plan(
        targets=wanted,
        terms=published_terms(latency_names(paths).values()),
        evaluations=trials,
        seed=seed,
    )
    prices = _possible_prices(folder, paths, plan)

    from nas.report.progress import Bar
    from nas.report.tables import print_networks
    from nas.slim.searching import search_run
    from nas.training.run import SEARCH, Run

    bounds = "_".join(f"{bound:g}" for bound in wanted[0].values())
    try:
        with Bar("searching", quiet=as_json) as bar:
            result = search_run(
                Run.open(folder),
                prices.tables,
                plan,
                sampler=sampler,
                storage=storage,
                out=out or folder / f"{SEARCH}{sampler}_{bounds}",
                bar=bar,
                force=force,
                accept_tables=accept_table,
            )
    except KeyboardInterrupt:
        raise UserError("stopped; the study is kept, the same command goes on") from None
    if as_json:
        _print_json(result)
    elif result:
        print_networks(result["networks"], title=f"{result['space']}, {result['data']}")
        _print_verdicts(result["verdicts"])
        _print_paths(result["paths"])


@app.command()
def retrain(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training.")],
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Name or JSON file.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="digits, folder:PATH, parquet:PATH, hf:NAME; else --from's."),
    ] = None,
    supernet: Annotated[
        Path | None, typer.Option("--from", help="Start from what this run's supernet hands down.")
    ] = None,
    recipe: Annotated[
        Recipe | None,
        typer.Option("--recipe", help="Else published from 100,000 training images on, or light."),
    ] = None,
    teacher: Teacher = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2)] = None,
    resolutions: Resolutions = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=1e-9, max=10.0)
    ] = None,
    drop_path: DropPath = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=2, help="Use only this many training images.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Same seed, same result.")
    ] = None,
    device: TrainingDevice = "cpu",
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train one architecture, from scratch or from the weights that it inherits."""
    from nas.report.tables import print_retrained
    from nas.report.training import TrainingBar
    from nas.training.processes import find_device
    from nas.training.retraining import Retraining
    from nas.training.retraining import retrain as train
    from nas.training.run import Run

    found_device = find_device(device)
    loaded = Architecture.load(architecture) if architecture else None
    images = _given(spec=data, limit=limit)
    changes = _given(
        name=recipe,
        epochs=epochs,
        batch_size=batch_size,
        resolutions=_resolutions(resolutions),
        learning_rate=learning_rate,
        drop_path=drop_path,
        seed=seed,
    )
    if resume:
        opened = Retraining.open(run)
        opened.require_same(
            architecture=loaded, supernet=supernet, images=images, recipe=changes, teacher=teacher
        )
        dataset = opened.load_images()
    elif loaded is None:
        raise UserError("retrain needs --architecture, or --resume")
    else:
        opened, dataset = Retraining.begin(
            run,
            loaded,
            supernet=Run.open(supernet) if supernet else None,
            images=images,
            recipe=changes,
            teacher=teacher,
            force=force,
            device=found_device,
        )
    with TrainingBar(quiet=as_json) as bar:
        result = train(opened, dataset, report=bar.report, tell=bar.say, device=found_device)
    if as_json:
        _print_json(result)
        return
    print_retrained(result)
    _print_paths(result["paths"])


@app.command()
def evaluate(
    architecture: Annotated[str, typer.Option("--architecture", help="Name or JSON file.")],
    weights: Annotated[Path, typer.Option("--weights", help="A safetensors file.")],
    data: Data = "digits",
    as_json: Json = False,
) -> None:
    """Accuracy of a network on the test images."""
    from nas.data import load_dataset
    from nas.deploy.files import load_weights
    from nas.network import build
    from nas.training.evaluate import accuracy

    loaded = Architecture.load(architecture)
    network = build(loaded)
    load_weights(network, weights)
    dataset = load_dataset(data, loaded.input_size)
    if len(dataset.classes) != loaded.classes:
        raise UserError(
            f"{data}: has {len(dataset.classes)} classes, the architecture tells "
            f"{loaded.classes} apart"
        )
    found = accuracy(network.eval(), dataset.test)
    result = {"test_accuracy": found, "images": len(dataset.test)}
    if as_json:
        _print_json(result)
    else:
        print(f"test accuracy {100 * found:.2f} % on {len(dataset.test)} images of {data}")


@app.command()
def resize(
    architecture: Annotated[str, typer.Option("--architecture", help="Name or JSON file.")],
    weights: Annotated[Path, typer.Option("--weights", help="A safetensors file.")],
    input_size: Annotated[int, typer.Option("--input-size", min=1, help="In pixels.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the two files.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Carry a network over to another input size, interpolating its attention biases."""
    from nas.deploy.files import read_weights, write_weights
    from nas.deploy.resizing import resize_attention_biases

    paths = {"architecture": out / "architecture.json", "weights": out / "weights.safetensors"}
    for path in paths.values():
        _require_new(path, force=force)
    before = Architecture.load(architecture)
    after = before.with_input_size(input_size)
    state = resize_attention_biases(read_weights(weights), before, after)
    after.save(paths["architecture"])
    write_weights(state, paths["weights"])
    written = {name: str(path) for name, path in paths.items()}
    if as_json:
        _print_json({"input_size": input_size, "paths": written})
    else:
        _print_paths(written)


@app.command()
def export(
    architecture: Annotated[str, typer.Option("--architecture", help="Name or JSON file.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A safetensors file; random if left out.")
    ] = None,
    form: Annotated[ExportFormat, typer.Option("--format")] = "onnx",
    data: Annotated[
        str | None, typer.Option("--data", help="onnx-int8: images that the network works on.")
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnx-int8: what will execute it.")
    ] = "onnxruntime",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a network as ONNX, for OpenVINO, Python or timm, proven to compute what torch does."""
    from nas.deploy.files import load_weights
    from nas.deploy.formats import Rounding, export_network, files_of
    from nas.documents import write_atomically
    from nas.network import build

    if (form == "onnx-int8") != (data is not None):
        raise UserError("export: --format onnx-int8 needs --data, and no other format takes it")
    for file in files_of(form, out):
        _require_new(file, force=force)
    loaded = Architecture.load(architecture)
    network = build(loaded).eval()
    if weights:
        load_weights(network, weights)
    rounding = None
    if data is not None:
        from nas.data import load_dataset
        from nas.latency.target import detect_target, placement
        from nas.slim.network import take_examples

        where = placement(detect_target(runtime=runtime, precision="int8"))
        rounding = Rounding(take_examples(load_dataset(data, loaded.input_size)), where)
    exported = export_network(loaded, network, form, out, rounding)
    for file, content in exported.files.items():
        write_atomically(file, content)
    if as_json:
        result = {"file": str(out), "format": form, "agreement": exported.agreement}
        _print_json({**result, "relative_difference": exported.relative_difference})
    elif exported.agreement is not None:
        print(f"{out}: predicts what torch predicts for {100 * exported.agreement:.1f} % of images")
    else:
        print(
            f"{out}: differs from torch by {exported.relative_difference:.1e} of the largest logit"
        )


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="ONNX models.")],
    device: Device = "cpu",
    runtime: RuntimeName = "onnxruntime",
    threads: Threads = 1,
    batch: Batch = 1,
    as_json: Json = False,
) -> None:
    """Measure the latency of ONNX models on this machine, side by side."""
    import numpy as np

    from nas.deploy.files import read_onnx
    from nas.deploy.quantize import precision_of
    from nas.latency.measure import PATIENT, measure
    from nas.latency.target import detect_target
    from nas.report.tables import print_table

    target = detect_target(device, runtime=runtime, threads=threads, batch=batch)
    models = [read_onnx(file) for file in files]
    found = measure(models, target, rng=np.random.default_rng(0), plan=PATIENT)
    rows = [
        {
            "file": str(file),
            "precision": precision_of(model),
            "ms": one.ms,
            "ms_low": one.ms_low,
            "ms_high": one.ms_high,
        }
        for file, model, one in zip(files, models, found, strict=True)
    ]
    if as_json:
        _print_json({"target": target.model_dump(mode="json"), "models": rows})
        return
    print_table(
        ("file", "precision", "ms", "95 % interval"),
        [
            (
                *(str(row["file"]), str(row["precision"]), f"{row['ms']:.3f}"),
                f"{row['ms_low']:.3f} to {row['ms_high']:.3f}",
            )
            for row in rows
        ],
        title=f"{target.hardware}, {runtime} {target.runtime_version}, {threads} thread(s), "
        f"batch {batch}",
    )


@app.command()
def profile(
    architectures: Annotated[
        list[str], typer.Argument(metavar="ARCHITECTURE...", help="Names or JSON files.")
    ],
    device: Device = "cpu",
    runtime: RuntimeName = "onnxruntime",
    threads: Threads = 1,
    batch: Batch = 1,
    out: Annotated[Path | None, typer.Option("--out", help="A picture (PNG) to write.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show where the time of networks goes, by layer and by class of operator."""
    import numpy as np

    from nas.latency.profile import profile_networks
    from nas.latency.target import detect_target
    from nas.report.profile import describe_profiles, draw_profiles, print_profiles
    from nas.report.progress import Bar

    target = detect_target(device, runtime=runtime, threads=threads, batch=batch)
    networks = {name: Architecture.load(name) for name in architectures}
    if out:
        _require_new(out, force=force)
    with Bar("measuring", quiet=as_json) as bar:
        found = profile_networks(networks, target, np.random.default_rng(0), progress=bar)
    if out:
        draw_profiles(out, found, target)
    if as_json:
        _print_json(describe_profiles(found, target))
        return
    print_profiles(found, target)
    if out:
        _print_paths({"picture": str(out)})


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a folder of a search.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page to write; else RUN/report.html.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one HTML page of all searches and the training in a folder; it needs no network."""
    from nas.report.folder import PAGE_FILE, read_folder
    from nas.report.page import write_folder_page

    contents = read_folder(folder)
    path = out or folder / PAGE_FILE
    write_folder_page(path, contents, title=folder.resolve().name, force=force)
    if as_json:
        training = contents.training is not None
        _print_json({"page": str(path), "searches": list(contents.searches), "training": training})
        return
    _print_paths({"page": str(path)})


def default_table(space: SearchSpace, device: str, *particulars: str) -> Path:
    """Where ``build-lut`` writes; where ``slim`` looks it is without particulars."""
    return Path("latency_tables") / f"{'_'.join((space.name, device, *particulars))}.csv"


def default_run(space: SearchSpace, data: str) -> Path:
    """Where ``train-supernet`` writes and ``slim`` looks."""
    name = Path(data.partition(":")[2]).name or data
    return Path("runs") / f"{space.name}_{name.replace(':', '_')}"  # hf:NAME:CONFIG


def main() -> None:
    """Run a command; a user's mistake is one line on standard error and exit code 2."""
    # Before torch is loaded: with another program on the cores, threads that spin while they wait
    # made training on two of them 30 times slower, 200 ms an image instead of 6.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(_one_line(error))
    else:
        if code == INTERRUPTED:
            _fail("interrupted; what was written before is kept")
        if code:
            sys.exit(code)


def _fail(message: str) -> None:
    print(f"nas: {message}", file=sys.stderr)
    sys.exit(2)


def _one_line(error: typer.TyperException) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return message if message.startswith("Usage:") else " ".join(message.split())


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2))


def _print_verdicts(verdicts: Sequence[str]) -> None:
    print(*verdicts, sep="\n", end="\n\n")


def _print_paths(paths: Mapping[str, str]) -> None:
    for name, path in paths.items():
        print(f"{name + ':':<14}{path}")


def _validation(table: LatencyTable) -> dict[str, object]:
    found = table.validation
    return {"validation": found.model_dump(mode="json") if found else None}


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _resolutions(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise UserError(f"--resolutions: must be pixels such as 48,64,80, got '{text}'")
    return tuple(sorted({int(word) for word in words}))


def _particulars(target: Target) -> list[str]:
    """What tells a target from the default one of its device."""
    threads = f"{target.threads}threads" if target.threads > 1 else ""
    runtime = target.runtime if target.runtime != "onnxruntime" else ""
    batch = f"batch{target.batch}" if target.batch > 1 else ""
    precision = target.precision if target.precision != "float32" else ""
    return [word for word in (runtime, threads, batch, precision) if word]


def _latency_term(
    space: SearchSpace, table: Path | None, weight: float | None
) -> LatencyTerm | None:
    if table is None and weight is None:
        return None
    from nas.latency.table import LatencyTable
    from nas.training.latency_term import price_paths

    if table is None or weight is None or not 0 < weight < math.inf:
        raise UserError("--latency-table and --latency-weight (above 0) need each other")
    return price_paths(space, LatencyTable.load(table), weight)


def _space_of(run: Path) -> SearchSpace:
    """The space of a run; torch, which takes seconds to load, is not needed for it."""
    if not (run / "space.json").is_file():
        from nas.training.run import Run

        Run.open(run)  # tells what is missing
    return SearchSpace.load(run / "space.json")


def _possible_prices(run: Path, tables: Mapping[str, Path], plan: Plan) -> Prices:
    """What networks cost by the tables; a target out of reach is told before torch is loaded."""
    from nas.latency.prices import Prices
    from nas.latency.table import LatencyTable

    space = _space_of(run)
    prices = Prices(space, {name: LatencyTable.load(path) for name, path in tables.items()})
    for table in prices.tables.values():
        table.require_layers(space, str(run / "space.json"))
    plan.require_possible(prices)
    return prices


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


def _require_new(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise UserError(f"{path}: exists; --force replaces it")
