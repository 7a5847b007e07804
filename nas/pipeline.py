"""The pipeline as plain functions, from ``new_space`` and ``build_table`` to ``export``.

Each takes values, writes its results to ``out``, and returns a value for the next function.
``resume`` continues work that was stopped, and ``force`` replaces results. Each raises UserError,
above all if ``out`` holds something already or values do not fit together. Torch is loaded when a
function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.documents import require_new, write_atomically
from nas.errors import UserError
from nas.progress import SILENT, Progress

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.data import Dataset
    from nas.deploy.formats import Exported, ExportFormat
    from nas.deploy.quantize import WeightBits
    from nas.latency.build import BuildSettings
    from nas.latency.table import LatencyTable
    from nas.latency.target import Target
    from nas.slim.plan import Plan
    from nas.slim.result import SearchResult
    from nas.space import SearchSpace
    from nas.training.run import Run
    from nas.training.settings import DataSettings, SupernetSettings


def new_space(
    given: Architecture | SearchSpace,
    out: str | Path,
    *,
    classes: int | None = None,
    input_size: int | None = None,
    force: bool = False,
) -> SearchSpace:
    """Write the space in which a network is the largest; or a space that is there, changed.

    ``classes`` and ``input_size`` are those of the networks in it, by default the given ones. The
    space around a network is called as ``out`` is, and is YAML with comments; a space that is there
    becomes JSON.
    """
    from nas.network import measure_size
    from nas.space import SearchSpace
    from nas.space.new_space import write_space

    path = Path(out)
    require_new(path, force=force)
    if input_size:
        given = given.with_input_size(input_size)
    if classes:
        given = given.with_classes(classes)
    if isinstance(given, SearchSpace):
        text = given.to_json()
    else:
        text = write_space(given, lambda network: measure_size(network).macs, name=path.stem)
    write_atomically(path, text)
    return SearchSpace.load(path)


def build_table(
    space: SearchSpace,
    out: str | Path,
    *,
    target: Target | None = None,
    settings: BuildSettings | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> LatencyTable:
    """Measure every distinct layer of a space on this machine, by default with one CPU thread.

    ``out`` is a CSV; a sidecar (JSON) and a picture (PNG) appear beside it.
    """
    from nas.latency import build
    from nas.latency.target import detect_target
    from nas.report.pictures import draw_calibration

    table = build.build_table(
        space,
        target or detect_target(),
        Path(out),
        settings=settings or build.BuildSettings(),
        resume=resume,
        force=force,
        progress=progress,
    )
    if table.validation:
        draw_calibration(Path(out).with_suffix(".png"), table)
    return table


def train(
    space: SearchSpace,
    out: str | Path,
    *,
    data: DataSettings | str | None = None,
    settings: SupernetSettings | None = None,
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Train one supernet that holds every architecture of a space.

    ``data`` is ``digits`` (the default), ``shapes``, ``folder:PATH``, ``parquet:PATH``, ``hf:NAME``
    or such a name with a split; the space's head gets as many classes. ``device`` is ``cpu`` or
    ``cuda``; processes that torchrun started train together. With ``resume``, the fields that are
    set in ``data`` and ``settings`` must be those that the run was started with.
    """
    from nas.deploy.pretrained import read_pretrained
    from nas.training.batches import reading_size
    from nas.training.pretrained import given_network
    from nas.training.processes import join_processes
    from nas.training.run import Run
    from nas.training.settings import DataSettings, SupernetSettings
    from nas.training.supernets import train_supernet

    images = DataSettings(spec=data) if isinstance(data, str) else data or DataSettings()
    settings = settings or SupernetSettings()
    path = Path(out)
    if settings.architecture is not None:
        given = given_network(space, settings.architecture)
        space = space.with_preprocessing(given.preprocessing)

    def start() -> tuple[Run, Dataset]:
        Run.require_free(path, force=force)  # before the images are read, which may take long
        if settings.weights:
            read_pretrained(settings.weights, space.largest())
        side = reading_size(space, settings.resolutions)
        dataset = images.load(side, space.preprocessing, progress)
        run = Run.create(
            path,
            space=space.with_classes(len(dataset.classes)),
            data=images,
            settings=settings,
            dataset=dataset,
            force=force,
            progress=progress,
        )
        return run, dataset

    def go_on() -> tuple[Run, Dataset]:
        run = Run.open(path).relocated(images.spec if "spec" in images.model_fields_set else None)
        known = space.with_classes(run.space.classes)
        if settings.architecture is None:
            known = known.with_preprocessing(run.space.preprocessing)
        run.require_same(space=known, data=images, settings=settings)
        return run, run.load_images(progress)

    with join_processes(device) as processes:
        run, dataset = processes.in_turn(go_on if resume else start, go_on)
        heard = progress if processes.is_first else SILENT
        train_supernet(run, dataset, resume=resume, progress=heard, processes=processes)
    return run


def slim(
    run: Run,
    tables: LatencyTable | Mapping[str, LatencyTable],
    target: Mapping[str, float] | Plan,
    out: str | Path,
    *,
    accept_tables: bool = False,
    resume: bool = False,
    force: bool = False,
    command: str = "",
    progress: Progress = SILENT,
) -> SearchResult:
    """Slim a trained supernet until the exported networks meet their targets when measured.

    ``tables`` is the latency table of the device, or those of several devices by name. ``target``
    has upper bounds, such as ``{"latency_ms": 2.0}``; a plan also has strategy, evaluations, score
    and seed. ``accept_tables`` uses tables that failed their validation, with a warning. ``out`` is
    a folder for networks, tables, pictures and a page. ``command`` stands on the networks' cards.
    """
    from nas.latency.table import LatencyTable
    from nas.report import write_search
    from nas.slim.plan import Plan
    from nas.slim.search import slim_run

    result = slim_run(
        run,
        {"cpu": tables} if isinstance(tables, LatencyTable) else tables,
        target if isinstance(target, Plan) else Plan(targets=(dict(target),)),
        out=Path(out),
        progress=progress,
        resume=resume,
        force=force,
        accept_tables=accept_tables,
        command=command,
    )
    write_search(Path(out), result)
    return result


def retrain(
    architecture: Architecture,
    out: str | Path,
    *,
    supernet: Run | None = None,
    weights: str | None = None,
    images: Mapping[str, object] | None = None,
    recipe: Mapping[str, object] | None = None,
    device: str = "cpu",
    force: bool = False,
    origin: Mapping[str, object] | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train one architecture, and return ``result.json``: test accuracies, sizes, ``paths``.

    ``supernet`` is the run that hands down weights and images; ``weights`` are pretrained ones, a
    file or ``hf:OWNER/NAME``; ``images`` are fields of ``DataSettings`` that differ from the run's,
    or from digits. ``recipe`` holds the ``name`` of a
    recipe, fields of ``Recipe`` that differ from that recipe, and a ``teacher``. The head of the
    architecture gets as many classes as the images have. The folder ``delivered`` in ``out`` is for
    those who use the network; ``origin``, of ``nas.training.retrained.origin_of``, stands there.
    """
    from nas.training.processes import find_device
    from nas.training.retrained import finish
    from nas.training.retraining import Retraining

    changes = dict(recipe or {})
    teacher = changes.pop("teacher", None)
    found_device = find_device(device)
    begun, dataset = Retraining.begin(
        Path(out),
        architecture,
        supernet=supernet,
        weights=weights,
        images=images,
        recipe=changes,
        teacher=None if teacher is None else str(teacher),
        force=force,
        origin=origin,
        device=found_device,
        progress=progress,
    )
    return finish(begun, dataset, progress=progress, device=found_device)


def export(
    architecture: Architecture,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    form: ExportFormat = "onnx",
    data: str | None = None,
    runtime: str = "onnxruntime",
    bits: WeightBits | None = None,
    dynamic_batch: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write a network in a format that others read, proven to compute the same as torch.

    ``weights`` are a file by our names or timm's; without one they are random. Some formats write a
    second file beside ``out``. An int8 network needs ``data``, whose images calibrate and judge it,
    and the ``runtime`` that will execute it; its weights have ``bits``, by default what suits this
    processor. With ``dynamic_batch`` an ONNX file takes any number of images at once. What the
    weights say of themselves the written files say too. Raises UserError if the exported network
    computes something else than torch.
    """
    from nas.deploy.description import Description, describe_weights
    from nas.deploy.formats import Rounding, export_network, files_of
    from nas.deploy.pretrained import load_finished
    from nas.network import build

    if (form == "onnx-int8") != (data is not None):
        raise UserError("export: --format onnx-int8 needs --data, and no other format takes it")
    if data is None and runtime != "onnxruntime":
        raise UserError("export: --runtime is of --format onnx-int8, and no other format takes it")
    if data is None and bits is not None:
        raise UserError("export: --bits is of --format onnx-int8, and no other format takes it")
    for file in files_of(form, Path(out)):
        require_new(file, force=force)
    network = build(architecture).eval()
    description = Description.of(architecture)
    if weights is not None:
        load_finished(network, architecture, weights, progress)
        description = describe_weights(Path(weights)).told_of(architecture)
    rounding = None
    if data is not None:
        from nas.data import load_dataset
        from nas.latency.target import detect_target, placement
        from nas.slim.candidates import take_examples

        where = placement(detect_target(runtime=runtime, precision="int8"), bits)
        seen = architecture.preprocessing
        dataset = load_dataset(data, architecture.input_size, preprocessing=seen, progress=progress)
        rounding = Rounding(take_examples(dataset), where)
    exported = export_network(
        architecture,
        network,
        form,
        Path(out),
        rounding,
        description=description,
        dynamic_batch=dynamic_batch,
    )
    for file, content in exported.files.items():
        write_atomically(file, content)
    return exported
