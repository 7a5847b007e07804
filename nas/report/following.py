"""What a user most likely wants next: the command that goes on from a result, and what for.

Every command ends with one, and so does the page of a search. PICTURE.jpg and folder:PHOTOS stand
for what only the user has.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nas.deploy.description import DELIVERED, MODEL_FILE, Description
from nas.errors import UserError
from nas.latency.device import in_file_names
from nas.printing import command
from nas.space import SearchSpace
from nas.training.run import Run

if TYPE_CHECKING:
    import onnx

    from nas.latency.table import LatencyTable
    from nas.latency.target import Target
    from nas.slim.result import SearchResult

PHOTOS, PICTURE = "folder:PHOTOS", "PICTURE.jpg"


class Following(NamedTuple):
    """A command, and its purpose."""

    purpose: str
    words: Sequence[str | Path]

    @property
    def command(self) -> str:
        """The command line, quoted for the shell."""
        return command(*self.words)


def default_table(space: SearchSpace, target: Target | None = None) -> Path:
    """The file that ``build-lut`` writes; ``slim`` reads the one that has no target."""
    words = [space.name, in_file_names(target.device) if target else "cpu"]
    if target:
        threads, batch = f"{target.threads}threads", f"batch{target.batch}"
        others = (target.runtime, threads, batch, target.precision)
        usual = ("onnxruntime", "1threads", "batch1", "float32")
        words += [word for word, default in zip(others, usual, strict=True) if word != default]
    return Path("latency_tables") / f"{'_'.join(words)}.csv"


def after_space(space: str | Path) -> Following:
    """A latency table of its layers."""
    words = ("nas", "build-lut", "--space", space, "--device", "cpu")
    return Following("measure its layers", words)


def after_architecture(architecture: str | Path) -> Following:
    """The space around it."""
    words = ("nas", "new-space", architecture, "--data", PHOTOS)
    return Following("write the search space around it, for your pictures", words)


def after_table(space: SearchSpace, argument: str, table: LatencyTable) -> Following:
    """The search of the run whose space it is; or the training of a run."""
    folder = Path(argument).parent
    if not (folder / Run.record_file).is_file():
        words = ("nas", "train-supernet", "--space", argument)
        return Following("train the networks of this space", words)
    return _slimming(folder, table, space)


def after_training(run: Run) -> Following:
    """A search of a trained run; or the table that it needs first."""
    from nas.latency.table import LatencyTable

    try:
        table = LatencyTable.load(default_table(run.space))
        return _slimming(run.path, table, run.space)
    except UserError:  # there is none, or it lacks layers
        words = ("nas", "build-lut", "--space", run.space_path, "--device", "cpu")
        return Following("measure its layers, with a head for these classes", words)


def after_search(result: SearchResult, folder: Path) -> Following | None:
    """The retraining of what a search delivered into a folder, the first network of a family.

    None of results of version 0.1, which do not know their run.
    """
    if not result.run:
        return None
    place, run = result.folder_of(result.targets[0], folder), Path(result.run)
    architecture = result.paths(folder).get("architecture", place / "architecture.json")
    free = run.with_name(f"{run.name}_{place.resolve().name}")
    if (free / DELIVERED / MODEL_FILE).is_file():
        return after_network(free / DELIVERED)
    words = ("nas", "retrain", "--architecture", architecture, "--from", run, "--run", free)
    return Following("train this network alone, which adds several points as a rule", words)


def after_drift(table: LatencyTable) -> Following | None:
    """What follows a table that holds; None where its space is no longer where it was."""
    argument = table.provenance.space_argument
    try:
        return after_table(SearchSpace.load(argument), argument, table)
    except UserError:
        return None


def after_model(file: Path, model: onnx.ModelProto) -> Following | None:
    """The accuracy of an ONNX file that says how it sees pictures; None of others."""
    try:
        known = Description.from_metadata({it.key: it.value for it in model.metadata_props})
    except UserError:
        return None
    if not known.tells_preprocessing:
        return None
    images = () if known.data else ("--data", PHOTOS)
    words = ("nas", "evaluate", file, *images)
    return Following("compute its accuracy on test images", words)


def after_network(model: str | Path) -> Following:
    """What a finished network sees."""
    return Following("see what it says of pictures", ("nas", "classify", model, PICTURE))


def after_evaluation(
    model: Path | None, architecture: str | None, weights: Path | None
) -> Following:
    """The use of a finished model; or, of weights, a model that is one."""
    if architecture and weights:
        return after_weights(architecture, weights, "model.onnx")
    return after_network(model or "")


def after_weights(architecture: str | Path, weights: str | Path, out: str | Path) -> Following:
    """A network for other runtimes."""
    named = ("--architecture", architecture, "--weights", weights)
    return Following("write it for other runtimes", ("nas", "export", *named, "--out", out))


def after_export(form: str, out: Path, architecture: str | Path, weights: Path | None) -> Following:
    """The latency of an ONNX file; of other formats the network's accuracy, or its training."""
    if form.startswith("onnx"):
        return Following("measure it on this machine", ("nas", "bench", out))
    network = ("--architecture", architecture)
    if weights:
        words: tuple[str | Path, ...] = ("nas", "evaluate", *network, "--weights", weights)
        return Following("compute its accuracy on the test images", words)
    words = ("nas", "retrain", *network, "--data", PHOTOS, "--run", f"runs/{out.stem}")
    return Following("train it, as its weights are random", words)


def _slimming(run: Path, table: LatencyTable, space: SearchSpace) -> Following:
    """A search to half of the largest network's latency: a target to begin with; a table first."""
    if table.refusal("warm"):
        return Following("measure on, as nas slim refuses this table", shlex.split(table.remedy))
    target = 0.5 * table.predict(space.largest())
    words = ("nas", "slim", "--run", run, "--table", table.path, "--target-ms", f"{target:.2g}")
    return Following("find the best network within a latency, such as half of the largest's", words)
