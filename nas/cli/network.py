"""Supernets and single networks: trained, compared, evaluated, resized, exported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from typer import Option

from nas.architecture import Architecture
from nas.cli import options
from nas.data import require_source
from nas.deploy.formats import ExportFormat, files_of
from nas.documents import require_file, require_new, write_json
from nas.errors import UserError
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.training.run import CHECKS, Run
from nas.training.settings import (
    RECIPES,
    DataSettings,
    LatencyTerm,
    Recipe,
    SupernetSettings,
    like_the_supernet,
    price_paths,
)


@options.options_of(images=DataSettings, settings=SupernetSettings)
def train_supernet(
    *,
    space: Annotated[
        str | None, Option(help=f"Name or YAML file; {DEFAULT_SPACE} if left out.")
    ] = None,
    run: Annotated[Path | None, Option(help="Folder of the run.")] = None,
    images: options.Given,
    settings: options.Given,
    latency_table: Annotated[Path | None, Option(help="Prices for --latency-weight.")] = None,
    latency_weight: Annotated[
        float | None, Option(help="Weight of expected latency in the paths' loss.")
    ] = None,
    device: options.TrainingDevice = "cpu",
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    loaded = SearchSpace.load(space or DEFAULT_SPACE)
    path = run or options.default_run(loaded, images.get("spec", "digits"))
    if resume and not space:
        loaded = Run.open(path).space
    require_source(images.get("spec", "digits"))
    latency = _latency_term(loaded, latency_table, latency_weight)
    changes = {**settings, "latency": latency} if latency else settings

    from nas import pipeline
    from nas.report.terminal import ProgressBar
    from nas.training.processes import is_first_process

    with ProgressBar("training", quiet=as_json or not is_first_process()) as bar:
        trained = pipeline.train(
            loaded,
            path,
            data=DataSettings.model_validate(images),
            settings=SupernetSettings.model_validate(changes),
            device=device,
            resume=resume,
            force=force,
            progress=bar,
        )
    if is_first_process():
        state = trained.state()
        accuracies = dict(state.accuracies) if state else {}
        paths = {"run": str(path)}
        options.print_result({**paths, "accuracies": accuracies}, paths, as_json=as_json)


@options.options_of(recipe=Recipe, without=("name", "seed"), show_defaults=False)
def check_supernet(
    *,
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    architectures: Annotated[int, Option(min=4, help="Networks to train alone.")] = 12,
    seeds: Annotated[int, Option(min=1, help="Trainings of each network.")] = 1,
    recipe: options.Given,
    device: options.TrainingDevice = "cpu",
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """The networks train by the run's settings where no option changes them."""
    opened = Run.open(run)
    paths = {name.partition(".")[2]: run / name for name in CHECKS}
    require_new(paths["json"], force=force)

    from nas.report.pictures import draw_check
    from nas.report.terminal import ProgressBar, print_check, write_check
    from nas.training import check
    from nas.training.processes import find_device

    found_device = find_device(device)
    with ProgressBar("checking", quiet=as_json) as bar:
        found = check.check_supernet(
            opened,
            opened.load_images(),
            like_the_supernet(opened.settings).model_copy(update=recipe),
            architectures=architectures,
            seeds=seeds,
            progress=bar,
            device=found_device,
        )
    result = found.model_dump(mode="json")
    write_check(paths["csv"], found)
    draw_check(paths["png"], found, title=f"{opened.space.name}, {opened.data.spec}")
    write_json(paths["json"], result)
    options.print_result(result, paths, as_json=as_json, show=lambda: print_check(found))


@options.options_of(images=DataSettings, changes=Recipe, without=("name",), show_defaults=False)
def retrain(
    *,
    run: Annotated[Path, Option(help="Folder of the training.")],
    architecture: Annotated[str | None, Option(help="Name or JSON file.")] = None,
    supernet: Annotated[
        Path | None,
        Option("--from", help="Start from the weights that this run's supernet hands down."),
    ] = None,
    weights: options.PretrainedWeights = None,
    recipe: Annotated[
        str | None,
        options.one_of(
            "--recipe",
            RECIPES,
            "If left out, finetuning with --weights, published from 100,000 training images on.",
        ),
    ] = None,
    teacher: Annotated[str | None, Option(help="ARCHITECTURE:WEIGHTS, or an ONNX file.")] = None,
    images: options.Given,
    changes: options.Given,
    device: options.TrainingDevice = "cpu",
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Options that are left out follow the recipe, and --data the run that --from names."""
    if not resume and architecture is None:
        raise UserError("retrain needs --architecture, or --resume")
    loaded = Architecture.load(architecture) if architecture else None
    source = Run.open(supernet) if supernet else None
    require_source(images.get("spec", "digits"))
    # the seed is the training's: images are split as they were for the supernet
    images = {name: value for name, value in images.items() if name != "seed"}
    changes = {**changes, "name": recipe} if recipe else changes

    from nas import pipeline
    from nas.report.terminal import ProgressBar, print_retrained
    from nas.training import retraining
    from nas.training.processes import find_device

    with ProgressBar("training", quiet=as_json) as bar:
        if loaded is None or resume:
            begun = retraining.Retraining.open(run)
            taken = {"supernet": supernet and str(supernet), "teacher": teacher, "weights": weights}
            begun.require_same(loaded, {**taken, **images, **changes})
            result = retraining.retrain(
                begun, begun.load_images(), progress=bar, device=find_device(device)
            )
        else:
            result = pipeline.retrain(
                loaded,
                run,
                supernet=source,
                weights=weights,
                images=images,
                recipe={**changes, "teacher": teacher},
                device=device,
                force=force,
                progress=bar,
            )
    options.print_result(
        result, result["paths"], as_json=as_json, show=lambda: print_retrained(result)
    )


def evaluate(
    architecture: options.ArchitectureName,
    weights: options.Weights,
    data: Annotated[
        str, Option(help="digits, shapes, folder:PATH, parquet:PATH or hf:NAME.")
    ] = "digits",
    as_json: options.Json = False,
) -> None:
    loaded = Architecture.load(architecture)
    require_file(weights)
    require_source(data)

    from nas.data import load_dataset
    from nas.deploy.weights import load_weights
    from nas.network import build
    from nas.training.evaluation import accuracy

    network = build(loaded)
    load_weights(network, weights)
    dataset = load_dataset(data, loaded.input_size, preprocessing=loaded.preprocessing)
    classes, images = len(dataset.classes), len(dataset.test)
    if classes != loaded.classes:
        raise UserError(
            f"{data}: has {classes} classes, the architecture tells {loaded.classes} apart"
        )
    found = accuracy(network.eval(), dataset.test)
    line = f"test accuracy {100 * found:.2f} % on {images} images of {data}"
    result = {"test_accuracy": found, "images": images}
    options.print_result(result, as_json=as_json, show=lambda: print(line))


def resize(
    architecture: options.ArchitectureName,
    weights: options.Weights,
    input_size: Annotated[int, Option(min=1, help="In pixels.")],
    out: Annotated[Path, Option(help="Folder for the two files.")],
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    paths = {"architecture": out / "architecture.json", "weights": out / "weights.safetensors"}
    for path in paths.values():
        require_new(path, force=force)
    before = Architecture.load(architecture)
    after = before.with_input_size(input_size)
    require_file(weights)

    from nas.deploy.weights import read_weights, resize_attention_biases, write_weights

    state = resize_attention_biases(read_weights(weights), before, after)
    after.save(paths["architecture"])
    write_weights(state, paths["weights"])
    written = {name: str(path) for name, path in paths.items()}
    options.print_result({"input_size": input_size, "paths": written}, paths, as_json=as_json)


def export(
    architecture: options.ArchitectureName,
    out: Annotated[Path, Option(help="The file to write.")],
    weights: Annotated[Path | None, Option(help="A safetensors file; random if left out.")] = None,
    form: Annotated[ExportFormat, Option("--format")] = "onnx",
    data: Annotated[str | None, Option(help="onnx-int8: images that the network works on.")] = None,
    runtime: Annotated[str, Option(help="onnx-int8: what will execute it.")] = "onnxruntime",
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    for file in files_of(form, out):
        require_new(file, force=force)
    loaded = Architecture.load(architecture)
    if weights:
        require_file(weights)

    from nas import pipeline

    exported = pipeline.export(
        loaded, out, weights=weights, form=form, data=data, runtime=runtime, force=force
    )
    agreement, difference = exported.agreement, exported.relative_difference
    if agreement is not None:
        line = f"{out}: predicts what torch predicts for {100 * agreement:.1f} % of images"
    else:
        line = f"{out}: differs from torch by {difference:.1e} of the largest logit"
    result = {"file": str(out), "format": form, "agreement": agreement}
    result["relative_difference"] = difference
    options.print_result(result, as_json=as_json, show=lambda: print(line))


def _latency_term(
    space: SearchSpace, table: Path | None, weight: float | None
) -> LatencyTerm | None:
    if table is None and weight is None:
        return None
    if table is None or weight is None or not 0 < weight < math.inf:
        raise UserError("--latency-table and --latency-weight (above 0) need each other")

    from nas.latency.table import LatencyTable

    return price_paths(space, LatencyTable.load(table), weight)
