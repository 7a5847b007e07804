"""Supernets: ``nas train-supernet``, ``check-supernet``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from typer import Option

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
)
from nas.data import require_source
from nas.documents import require_new, write_json
from nas.errors import UserError
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.training.run import CHECKS, Run
from nas.training.settings import (
    DataSettings,
    LatencyTerm,
    Recipe,
    SupernetSettings,
    like_the_supernet,
    price_paths,
)


@options_of(images=DataSettings, settings=SupernetSettings)
def train_supernet(
    *,
    space: Annotated[
        str | None, Option(help=f"Name or YAML file; {DEFAULT_SPACE} if left out.")
    ] = None,
    run: Annotated[Path | None, Option(help="Folder of the run.")] = None,
    images: Given,
    settings: Given,
    latency_table: Annotated[Path | None, Option(help="Prices for --latency-weight.")] = None,
    latency_weight: Annotated[
        float | None,
        Option(help="Weight of expected latency in the paths' loss."),
    ] = None,
    device: TrainingDevice = "cpu",
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    named = SearchSpace.load(space or DEFAULT_SPACE)
    path = run or default_run(named, images.get("spec", "digits"))
    loaded = Run.open(path).space if resume and not space else named
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
    if not is_first_process():
        return
    if as_json:
        state = trained.state()
        print_json({"run": str(path), "accuracies": dict(state.accuracies) if state else {}})
    else:
        print_paths({"run": str(path)})


@options_of(recipe=Recipe, without=("name", "seed"), show_defaults=False)
def check_supernet(
    *,
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    architectures: Annotated[int, Option(min=4, help="Networks to train alone.")] = 12,
    seeds: Annotated[int, Option(min=1, help="Trainings of each network.")] = 1,
    recipe: Given,
    device: TrainingDevice = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The networks train by the run's settings where no option changes them."""
    opened = Run.open(run)
    paths = {name.partition(".")[2]: run / name for name in CHECKS}
    require_new(paths["json"], force=force)

    from nas.report.pictures import draw_check
    from nas.report.terminal import ProgressBar, print_check, write_check
    from nas.training.check import check_supernet as check
    from nas.training.processes import find_device

    found_device = find_device(device)
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
