"""Supernets and single networks: trained, compared, evaluated, resized, exported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nas.architecture import Architecture
from nas.cli import options
from nas.data import KINDS, require_source
from nas.deploy.description import describe_weights, model_file
from nas.deploy.formats import ExportFormat, files_of
from nas.documents import require_file, require_new, write_json
from nas.errors import UserError
from nas.printing import print_line
from nas.report.following import (
    after_evaluation,
    after_export,
    after_network,
    after_training,
    after_weights,
)
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

EIGHT_BITS = (
    "8-bit weights: an x86 processor without VNNI adds up their products wrongly, which costs "
    "accuracy; --bits 7 suits every processor"
)
SHOWN = 3
"""The most probable classes of a picture that are printed."""


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
        options.print_result(
            {**paths, "accuracies": accuracies},
            paths,
            as_json=as_json,
            following=after_training(trained),
        )


@options.options_of(recipe=Recipe, without=("name", "seed"), show_defaults=False)
def check_supernet(
    *,
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    architectures: Annotated[int, Option(min=4, help="Networks to train alone.")] = 12,
    seeds: Annotated[int, Option(min=1, help="Trainings of each network.")] = 1,
    recipe: options.Given,
    data: options.MovedData = None,
    device: options.TrainingDevice = "cpu",
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """The networks train by the run's settings where no option changes them."""
    opened = Run.open(run).relocated(data)
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
            opened.load_images(bar),
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
    options.print_result(
        result,
        paths,
        as_json=as_json,
        show=lambda: print_check(found),
        following=after_training(opened),
    )


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
    from nas.training import retrained, retraining
    from nas.training.processes import find_device

    with ProgressBar("training", quiet=as_json) as bar:
        if loaded is None or resume:
            begun = retraining.Retraining.open(run).relocated(images.get("spec"))
            taken = {"supernet": supernet and str(supernet), "teacher": teacher, "weights": weights}
            begun.require_same(loaded, {**taken, **images, **changes})
            result = retrained.finish(
                begun, begun.load_images(bar), progress=bar, device=find_device(device)
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
                origin=retrained.origin_of(architecture, options.command_line()),
                progress=bar,
            )
    options.print_result(
        result,
        result["paths"],
        as_json=as_json,
        show=lambda: print_retrained(result),
        following=after_network(result["paths"]["delivered"]),
    )


def evaluate(
    model: Annotated[
        Path | None, Argument(metavar="[MODEL]", help="An ONNX file, or a delivered folder.")
    ] = None,
    architecture: Annotated[
        str | None, Option(help="Name or JSON file, in place of MODEL.")
    ] = None,
    weights: Annotated[Path | None, Option(help="Its weights: .safetensors or .pth.")] = None,
    data: Annotated[
        str | None,
        Option(
            help=f"{', '.join(KINDS)}; if left out, what the files say that the network was "
            "trained on."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Classes are matched by name; a data set of other classes is refused."""
    if (model is None) == (weights is None) or (architecture is None) != (weights is None):
        raise UserError("evaluate needs MODEL, or --architecture and --weights")
    loaded = Architecture.load(architecture) if architecture else None
    if model:
        model_file(model)
    elif weights:
        require_file(weights)
        data = data or describe_weights(weights).data
    if data:
        require_source(data)

    from nas.deploy.finished import open_finished
    from nas.deploy.pretrained import read_tensors_of
    from nas.report.terminal import ProgressBar
    from nas.training import classification

    if model:
        data = data or open_finished(model).description.data
    if not data:
        if weights:
            read_tensors_of(str(weights))  # or is it no file of weights at all?
        raise UserError(
            f"{model or weights}: does not say what it was trained on; name the images: --data "
            f"{', '.join(KINDS)}"
        )
    with ProgressBar("reading", quiet=as_json) as bar:
        if loaded and weights:
            found = classification.evaluate_weights(loaded, weights, data, progress=bar)
        else:
            assert model is not None
            found = classification.evaluate_model(model, data, progress=bar)
    line = f"test accuracy {100 * found.test_accuracy:.2f} % on {found.images} images of {data}"
    lines = [line, *filter(None, [found.note, found.remark and f"{weights}: {found.remark}"])]
    result = {**found._asdict(), "data": data}
    if found.remark is None:
        del result["remark"]

    def show() -> None:
        for line in lines:
            print_line(line)

    options.print_result(
        result,
        as_json=as_json,
        show=show,
        following=after_evaluation(model, architecture, weights),
    )


def classify(
    model: Annotated[Path, Argument(metavar="MODEL", help="An ONNX file, or a delivered folder.")],
    pictures: Annotated[list[Path], Argument(metavar="IMAGE...", help="Pictures to classify.")],
    as_json: options.Json = False,
) -> None:
    """Pictures are seen as the model's metadata say; --json tells every class.

    Nothing follows: this is what a network is for.
    """
    model_file(model)
    for picture in pictures:
        if not picture.is_file():
            problem = f"is a folder; name its pictures: {picture}/*" if picture.is_dir() else None
            raise UserError(f"{picture}: {problem or 'no such file'}")

    from nas.training.classification import classify as classify_pictures

    result = []
    for found in classify_pictures(model, pictures):
        best, *_ = found.chances
        told = {"picture": str(found.picture), "class": best.name, "probability": best.probability}
        result.append({**told, "chances": [chance._asdict() for chance in found.chances]})
        if not as_json:
            shown = (f"{it.name} {100 * it.probability:.1f} %" for it in found.chances[:SHOWN])
            print_line(f"{found.picture}: {', '.join(shown)}")
    if as_json:
        options.print_result(result, as_json=True)


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

    from nas.deploy.pretrained import load_finished
    from nas.deploy.weights import resize_attention_biases, write_weights
    from nas.network import build

    network = build(before)
    load_finished(network, before, weights)
    state = resize_attention_biases(network.state_dict(), before, after)
    after.save(paths["architecture"])
    write_weights(state, paths["weights"], describe_weights(weights).told_of(after))
    written = {name: str(path) for name, path in paths.items()}
    options.print_result(
        {"input_size": input_size, "paths": written},
        paths,
        as_json=as_json,
        following=after_weights(paths["architecture"], paths["weights"], out / "model.onnx"),
    )


def export(
    architecture: options.ArchitectureName,
    out: Annotated[Path, Option(help="The file to write.")],
    weights: Annotated[
        Path | None, Option(help="Its weights, .safetensors or .pth; random if left out.")
    ] = None,
    form: Annotated[ExportFormat, Option("--format")] = "onnx",
    data: Annotated[str | None, Option(help="onnx-int8: images that the network works on.")] = None,
    runtime: Annotated[str, Option(help="onnx-int8: what will execute it.")] = "onnxruntime",
    bits: Annotated[
        int | None,
        Option(min=7, max=8, help="onnx-int8: bits of weights; else what suits this processor."),
    ] = None,
    dynamic_batch: Annotated[
        bool, Option("--dynamic-batch", help="ONNX: take any number of images at once.")
    ] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    for file in files_of(form, out):
        require_new(file, force=force)
    loaded = Architecture.load(architecture)
    if weights:
        require_file(weights)

    from nas import pipeline
    from nas.report.terminal import ProgressBar

    with ProgressBar("exporting", quiet=as_json) as bar:
        exported = pipeline.export(
            loaded,
            out,
            weights=weights,
            form=form,
            data=data,
            runtime=runtime,
            bits=None if bits is None else 7 if bits == 7 else 8,
            dynamic_batch=dynamic_batch,
            force=force,
            progress=bar,
        )
    agreement, difference = exported.agreement, exported.relative_difference

    def show() -> None:
        if agreement is not None:
            print_line(f"{out}: predicts what torch predicts for {100 * agreement:.1f} % of images")
        else:
            print_line(f"{out}: differs from torch by {difference:.1e} of the largest logit")
        if exported.weight_bits == 8:
            print_line(EIGHT_BITS)

    result = {"file": str(out), "format": form, "agreement": agreement}
    result |= {"relative_difference": difference, "weight_bits": exported.weight_bits}
    options.print_result(
        result,
        as_json=as_json,
        show=show,
        following=after_export(form, out, architecture, weights),
    )


def _latency_term(
    space: SearchSpace, table: Path | None, weight: float | None
) -> LatencyTerm | None:
    if table is None and weight is None:
        return None
    if table is None or weight is None or not 0 < weight < math.inf:
        raise UserError("--latency-table and --latency-weight (above 0) need each other")

    from nas.latency.table import LatencyTable

    return price_paths(space, LatencyTable.load(table), weight)
