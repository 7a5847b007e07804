"""Supernets: ``nas train-supernet``, ``check-supernet``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import (
    Force,
    Given,
    Json,
    Resume,
    TrainingDevice,
    default_run,
    options_of,
    print_json,
    print_paths,
    require_new,
    space_of,
)
from nas.errors import UserError
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.training.settings import (
    DataSettings,
    LatencyTerm,
    Recipe,
    SupernetSettings,
    like_the_supernet,
    price_paths,
)

if TYPE_CHECKING:
    from nas.data import Dataset
    from nas.training.run import Run


@options_of(images=DataSettings, settings=SupernetSettings)
def train_supernet(
    *,
    space: Annotated[
        str | None, typer.Option("--space", help=f"Name or YAML file; {DEFAULT_SPACE} if left out.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run.")] = None,
    images: Given,
    settings: Given,
    latency_table: Annotated[
        Path | None, typer.Option("--latency-table", help="Prices for --latency-weight.")
    ] = None,
    latency_weight: Annotated[
        float | None,
        typer.Option("--latency-weight", help="Weight of expected latency in the paths' loss."),
    ] = None,
    device: TrainingDevice = "cpu",
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    loaded = SearchSpace.load(space or DEFAULT_SPACE)
    path = run or default_run(loaded, images.get("spec", "digits"))
    priced = space_of(path) if resume and not space else loaded
    latency = _latency_term(priced, latency_table, latency_weight)
    changes = {**settings, "latency": latency} if latency else settings

    from nas.report.terminal import ProgressBar
    from nas.training.batches import reading_size
    from nas.training.processes import join_processes
    from nas.training.run import Run
    from nas.training.supernets import train_supernet as train

    def start() -> tuple[Run, Dataset]:
        data_settings = DataSettings.model_validate({"spec": "digits", **images})
        wanted = SupernetSettings.model_validate(changes)
        Run.require_free(path, force=force)  # before the images are read, which may take long
        dataset = data_settings.load(reading_size(loaded, wanted.resolutions))
        created = Run.create(
            path,
            space=loaded.with_classes(len(dataset.classes)),
            data=data_settings,
            settings=wanted,
            dataset=dataset,
            force=force,
            progress=bar,
        )
        return created, dataset

    def go_on() -> tuple[Run, Dataset]:
        opened = Run.open(path)
        opened.require_same(
            space=loaded.with_classes(opened.space.classes) if space else None,
            data=opened.data.model_copy(update=images),
            settings=opened.settings.model_copy(update=changes),
        )
        return opened, opened.data.load(opened.image_size)

    with (
        join_processes(device) as processes,
        ProgressBar("training", quiet=as_json or not processes.is_first) as bar,
    ):
        opened, dataset = processes.in_turn(go_on if resume else start, go_on)
        accuracies = train(opened, dataset, resume=resume, progress=bar, processes=processes)
    if not processes.is_first:
        return
    if as_json:
        print_json({"run": str(path), "accuracies": dict(accuracies)})
    else:
        print_paths({"run": str(path)})


@options_of(recipe=Recipe, without=("name", "seed"), show_defaults=False)
def check_supernet(
    *,
    run: Annotated[Path, typer.Option("--run", help="Folder of a trained run.")],
    architectures: Annotated[
        int, typer.Option("--architectures", min=4, help="Networks to train alone.")
    ] = 12,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each network.")] = 1,
    recipe: Given,
    device: TrainingDevice = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The networks train by the run's settings where no option changes them."""
    space_of(run)  # reports a missing run before torch is loaded, which takes seconds

    from nas.documents import write_json
    from nas.report.pictures import draw_check
    from nas.report.terminal import ProgressBar, print_check, write_check
    from nas.training.check import check_supernet as check
    from nas.training.processes import find_device
    from nas.training.run import CHECKS, Run

    found_device = find_device(device)
    opened = Run.open(run)
    paths = {name.partition(".")[2]: run / name for name in CHECKS}
    require_new(paths["json"], force=force)
    with ProgressBar("checking", quiet=as_json) as bar:
        found = check(
            opened,
            opened.data.load(opened.image_size),
            like_the_supernet(opened.settings).model_copy(update=recipe),
            architectures=architectures,
            seeds=seeds,
            progress=bar,
            device=found_device,
        )
    write_check(paths["csv"], found)
    draw_check(paths["png"], found, title=f"{opened.space.name}, {opened.data.spec}")
    write_json(paths["json"], found.model_dump(mode="json"))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_check(found)
    print_paths({name: str(path) for name, path in paths.items()})


def _latency_term(
    space: SearchSpace, table: Path | None, weight: float | None
) -> LatencyTerm | None:
    if table is None and weight is None:
        return None
    if table is None or weight is None or not 0 < weight < math.inf:
        raise UserError("--latency-table and --latency-weight (above 0) need each other")

    from nas.latency.table import LatencyTable

    return price_paths(space, LatencyTable.load(table), weight)
