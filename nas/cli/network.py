"""Single networks: ``nas retrain``, ``evaluate``, ``resize``, ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from nas.architecture import Architecture
from nas.cli.options import (
    ArchitectureName,
    Force,
    Given,
    Json,
    Resume,
    TrainingDevice,
    Weights,
    one_of,
    options_of,
    print_json,
    print_paths,
)
from nas.data import require_source
from nas.deploy.formats import ExportFormat, files_of
from nas.documents import require_file, require_new
from nas.errors import UserError
from nas.training.run import Run
from nas.training.settings import RECIPES, DataSettings, Recipe


@options_of(images=DataSettings, changes=Recipe, without=("name",), show_defaults=False)
def retrain(
    *,
    run: Annotated[Path, Option(help="Folder of the training.")],
    architecture: Annotated[str | None, Option(help="Name or JSON file.")] = None,
    supernet: Annotated[
        Path | None,
        Option("--from", help="Start from the weights that this run's supernet hands down."),
    ] = None,
    recipe: Annotated[
        str | None,
        one_of("--recipe", RECIPES, "If left out, published from 100,000 training images on."),
    ] = None,
    teacher: Annotated[str | None, Option(help="ARCHITECTURE:WEIGHTS, or an ONNX file.")] = None,
    images: Given,
    changes: Given,
    device: TrainingDevice = "cpu",
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
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
            begun.require_same(
                architecture=loaded,
                supernet=supernet,
                images=images,
                recipe=changes,
                teacher=teacher,
            )
            result = retraining.retrain(
                begun, begun.load_images(), progress=bar, device=find_device(device)
            )
        else:
            result = pipeline.retrain(
                loaded,
                run,
                supernet=source,
                images=images,
                recipe={**changes, "teacher": teacher},
                device=device,
                force=force,
                progress=bar,
            )
    if as_json:
        print_json(result)
        return
    print_retrained(result)
    print_paths(result["paths"])


def evaluate(
    architecture: ArchitectureName,
    weights: Weights,
    data: Annotated[str, Option(help="digits, folder:PATH, parquet:PATH or hf:NAME.")] = "digits",
    as_json: Json = False,
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
    dataset = load_dataset(data, loaded.input_size)
    if len(dataset.classes) != loaded.classes:
        raise UserError(
            f"{data}: has {len(dataset.classes)} classes, the architecture tells "
            f"{loaded.classes} apart"
        )
    found = accuracy(network.eval(), dataset.test)
    if as_json:
        print_json({"test_accuracy": found, "images": len(dataset.test)})
    else:
        print(f"test accuracy {100 * found:.2f} % on {len(dataset.test)} images of {data}")


def resize(
    architecture: ArchitectureName,
    weights: Weights,
    input_size: Annotated[int, Option(min=1, help="In pixels.")],
    out: Annotated[Path, Option(help="Folder for the two files.")],
    force: Force = False,
    as_json: Json = False,
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
    if as_json:
        print_json({"input_size": input_size, "paths": written})
    else:
        print_paths(written)


def export(
    architecture: ArchitectureName,
    out: Annotated[Path, Option(help="The file to write.")],
    weights: Annotated[Path | None, Option(help="A safetensors file; random if left out.")] = None,
    form: Annotated[ExportFormat, Option("--format")] = "onnx",
    data: Annotated[str | None, Option(help="onnx-int8: images that the network works on.")] = None,
    runtime: Annotated[str, Option(help="onnx-int8: what will execute it.")] = "onnxruntime",
    force: Force = False,
    as_json: Json = False,
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
    if as_json:
        result = {"file": str(out), "format": form, "agreement": exported.agreement}
        print_json({**result, "relative_difference": exported.relative_difference})
    elif exported.agreement is not None:
        print(f"{out}: predicts what torch predicts for {100 * exported.agreement:.1f} % of images")
    else:
        print(
            f"{out}: differs from torch by {exported.relative_difference:.1e} of the largest logit"
        )
