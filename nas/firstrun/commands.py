"""The single commands that ``nas run`` stands for, each as the words that a shell takes."""

from __future__ import annotations

from collections.abc import Mapping

from nas.firstrun.layout import Layout
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule

Words = tuple[str, ...]


def run_command(request: Request, out: object) -> Words:
    """The command of the whole run."""
    words = ["nas", "run", "--data", request.data]
    for name in ("target_ms", "space", "weights", "architecture", "minutes"):
        if (value := getattr(request, name)) is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    if request.device != "cpu":
        words += ["--device", request.device]
    words += _place_words(request)
    if request.seed:
        words += ["--seed", str(request.seed)]
    return (*words, "--out", str(out))


def single_commands(request: Request, schedule: Schedule, at: Layout) -> Mapping[str, Words]:
    """The command of each stage; they work one after the other in an empty folder too."""
    place, effort, seed = schedule.place, schedule.effort, str(request.seed)
    found: dict[str, list[str]] = {}
    found["space"] = ["new-space", place.word, "--data", request.data]
    if request.space is None:
        found["space"] += ["--input-size", str(place.input_size)]
    found["space"] += ["--out", str(at.space)]
    found["table"] = ["build-lut", "--space", str(at.space), "--device", request.device]
    found["table"] += _place_words(request)
    found["table"] += ["--seed", seed, "--out", str(at.table)]
    found["training"] = ["train-supernet", "--space", str(at.space), "--data", request.data]
    if request.weights:
        found["training"] += ["--weights", request.weights]
        found["training"] += ["--reference-epochs", str(effort.reference_epochs)]
    if effort.batch_size:
        found["training"] += ["--batch-size", str(effort.batch_size)]
    found["training"] += ["--search-share", f"{schedule.data.search_share:g}"]
    found["training"] += ["--epochs", str(effort.epochs), "--seed", seed, "--run", str(at.run)]
    found["slimming"] = ["slim", "--run", str(at.run), "--table", str(at.table)]
    found["slimming"] += ["--target-ms", f"{schedule.target_ms:g}", "--accept-table"]
    found["slimming"] += ["--evaluations", str(effort.evaluations), "--seed", seed]
    found["slimming"] += ["--out", str(at.slim)]
    slimmed = str(at.slim / at.delivered["architecture"].name)
    found["retraining"] = ["retrain", "--architecture", slimmed, "--from", str(at.run)]
    found["retraining"] += ["--epochs", str(effort.retraining_epochs), "--seed", seed]
    found["retraining"] += ["--run", str(at.retrained)]
    for stage in ("training", "retraining"):
        if schedule.training_device != "cpu":
            found[stage] += ["--device", schedule.training_device]
    network = {name: str(at.retrained / path.name) for name, path in at.delivered.items()}
    found["export"] = ["export", "--architecture", network["architecture"]]
    found["export"] += ["--weights", network["weights"], "--out", str(at.delivered["onnx"])]
    found["report"] = ["report", str(at.root), "--out", str(at.page)]
    return {name: ("nas", *words) for name, words in found.items()}


def _place_words(request: Request) -> list[str]:
    options = request.place_options.items()
    return [word for name, value in options for word in (f"--{name}", value)]
