"""Every file that version 0.1 wrote is read as before, or refused in one line."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas.architecture import Architecture
from nas.cli import main
from nas.deploy.weights import load_weights
from nas.errors import UserError
from nas.latency.build import build_table
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.network import build
from nas.report.page import read_folder
from nas.search.problem import Problem
from nas.search.study import evaluated_in, open_study
from nas.slim.journal import open_journal
from nas.slim.plan import Plan
from nas.slim.search import identify
from nas.space import SearchSpace
from nas.training.check import Check, check_supernet
from nas.training.evaluation import accuracy, inherited_accuracy
from nas.training.retraining import Retraining, retrain
from nas.training.run import Run
from nas.training.supernets import train_supernet

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the samples, as the folder in which the process works."""
    shutil.copytree(SAMPLES, tmp_path / "samples")
    monkeypatch.chdir(tmp_path / "samples")
    return tmp_path / "samples"


def json_of(path: str):
    return json.loads((SAMPLES / path).read_text())


def lines_of(path: str):
    return [json.loads(line) for line in (SAMPLES / path).read_text().splitlines()]


def same_weights(path: str, other: str) -> bool:
    """Whether files hold the same weights, but for what another CPU rounds differently.

    Biases before norms have no gradient but rounding, of which Adam makes steps of full length.
    """
    mine, theirs = load_file(path), load_file(other)
    return mine.keys() == theirs.keys() and all(
        torch.allclose(tensor.double(), theirs[name].double(), rtol=1e-3, atol=1e-4)
        for name, tensor in mine.items()
        if not name.replace(".", "/").endswith("conv/bias")
    )


def test_a_space(samples):
    space = SearchSpace.load("tiny.yaml")
    assert space == SearchSpace.load("run/space.json")
    assert space.to_json() == (SAMPLES / "run/space.json").read_text()
    assert space.choices["stage1.width"] == (4, 8)
    assert space.sizes == (2, 2, 2, 2, 2)


def test_an_architecture_and_its_weights(samples):
    space = SearchSpace.load("tiny.yaml")
    assert Architecture.load("architecture.json") == space.decode(space.uniform(0.5))
    architecture = Architecture.load("slim/architecture.json")
    assert architecture.to_json() == (SAMPLES / "slim/architecture.json").read_text()
    network = build(architecture)
    load_weights(network, Path("slim/weights.safetensors"))
    test = Run.open("run").data.load(architecture.input_size).test
    (slimmed,) = (it for it in json_of("slim/result.json")["networks"] if it["name"] == "slimmed")
    assert accuracy(network.eval(), test) == pytest.approx(
        slimmed["test_accuracy"], abs=1.5 / len(test)
    )


def test_a_table_is_refused(samples, capsys, monkeypatch):
    line = (
        "table.csv: is a table of an earlier version, which timed no layer cold and no reference "
        "network; rebuild: nas build-lut --space tiny.yaml --device cpu --out table.csv --force"
    )
    with pytest.raises(UserError) as error:
        LatencyTable.load(Path("table.csv"))
    assert str(error.value) == line
    arguments = ["slim", "--run", "run", "--table", "table.csv", "--target-ms", "0.5"]
    monkeypatch.setattr("sys.argv", ["nas", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"nas: {line}\n"
    assert Path("table.csv").read_text() == (SAMPLES / "table.csv").read_text()


def test_an_unfinished_table_is_refused(samples):
    target = detect_target()
    for resume in (True, False):
        with pytest.raises(UserError) as error:
            build_table(
                SearchSpace.load("tiny.yaml"), target, Path("unfinished.csv"), resume=resume
            )
        assert str(error.value) == (
            "unfinished.partial.csv: is an unfinished build of nas 0.1; --force starts afresh"
        )


def test_a_run_and_its_weights(samples):
    run = Run.open("run")
    assert run.record.model_dump(mode="json") == json_of("run/run.json")
    state = run.state()
    assert state is not None
    assert (state.epoch, run.is_finished) == (2, True)
    last = lines_of("run/log.jsonl")[-1]
    assert state.accuracies == {
        name: last[f"accuracy/{name}"] for name in ("smallest", "middle", "largest")
    }
    supernet, dataset = run.load_supernet(), run.data.load(run.image_size)
    run.require_images(dataset)
    for compared in Check.model_validate_json(Path("run/check.json").read_text()).compared:
        found = inherited_accuracy(supernet, compared.architecture, dataset)
        assert found == pytest.approx(compared.inherited, abs=1.5 / len(dataset.search))


def test_a_stopped_run_goes_on(samples):
    Path("run/checkpoint.safetensors").rename("last.safetensors")  # leaves the one before
    train_supernet(run := Run.open("run"), run.data.load(32), resume=True)
    assert same_weights("run/checkpoint.safetensors", "last.safetensors")
    first, second = (json.loads(line) for line in run.log_path.read_text().splitlines())
    was_first, was_second = lines_of("run/log.jsonl")
    assert first == was_first
    assert list(second) == [*was_second, "check"]
    assert second["loss/largest"] == pytest.approx(was_second["loss/largest"], rel=1e-4)


def test_a_check_and_its_journal(samples, recorder):
    run, progress = Run.open("run"), recorder()
    kept = Check.model_validate_json(Path("run/check.json").read_text())
    assert kept.model_dump(mode="json") == json_of("run/check.json")
    check = check_supernet(
        run, run.data.load(32), kept.recipe, architectures=4, seeds=1, progress=progress
    )
    assert progress.updates == []  # each of the trainings is in the journal
    assert [it.alone for it in check.compared] == [it.alone for it in kept.compared]
    assert Path("run/check.jsonl").read_text() == (SAMPLES / "run/check.jsonl").read_text()


def test_a_finished_retraining(samples):
    retraining = Retraining.open("retrained")
    assert retraining.record.model_dump(mode="json") == json_of("retrained/retraining.json")
    assert (retraining.finished_epochs, retraining.is_finished) == (2, True)
    images = retraining.load_images()
    assert retrain(retraining, images) == json_of("retrained/result.json")
    network = build(retraining.architecture)
    load_weights(network, Path("retrained/weights.safetensors"))
    assert accuracy(network.eval(), images.test) == pytest.approx(
        json_of("retrained/result.json")["test_accuracy"], abs=1.5 / len(images.test)
    )


def test_a_stopped_retraining_goes_on(samples):
    retraining = Retraining.open("stopped")
    assert retraining.finished_epochs == 1
    result = retrain(retraining, retraining.load_images())
    assert same_weights("stopped/weights.safetensors", "retrained/weights.safetensors")
    expected = json_of("retrained/result.json")
    for name in ("params", "macs", "epochs", "recipe", "architecture"):
        assert result[name] == expected[name]
    assert Path("stopped/log.jsonl").read_text().splitlines()[0] == (
        (SAMPLES / "stopped/log.jsonl").read_text().strip()
    )


def test_a_stopped_search_goes_on(samples):
    header, *lines = lines_of("slim/journal.jsonl")
    plan = Plan.model_validate(header["plan"])
    with Path("slim/journal.jsonl").open("a") as file:
        file.write('{"assignment": [0')  # a kill in the middle of a line
    with open_journal(
        Path("slim/journal.jsonl"),
        identify(run := Run.open("run"), plan),
        sizes=run.space.sizes,
        resume=True,
    ) as journal:
        pass
    accuracies = {tuple(it["assignment"]): it["accuracy"] for it in lines if "accuracy" in it}
    assert accuracies
    assert journal.accuracies == accuracies
    assert any("latency" in it for it in lines)
    assert journal.sessions == {}, "what was measured without a reference is measured again"
    races = [it for it in lines if "candidates" in it]
    assert [list(it) for it in journal.races.values()] == [it["accuracies"] for it in races]
    assert Path("slim/journal.jsonl").read_text() == (SAMPLES / "slim/journal.jsonl").read_text()


def test_a_study(samples):
    run, plan = Run.open("run"), json_of("slim/result.json")
    with (SAMPLES / "table.csv").open() as file:
        rows = {(row["layer"], row["input_shape"]): row for row in csv.DictReader(file)}

    def cost(assignment):
        placed = run.space.decode(assignment).placed()
        mine = [rows[layer.signature, "x".join(map(str, shape))] for layer, shape in placed]
        names = {"latency_ms": "ms", "params": "params", "macs": "macs"}
        return {name: sum(float(row[column]) for row in mine) for name, column in names.items()}

    problem = Problem(
        run.space.sizes,
        cost,
        lambda assignment: 0.0,
        plan["targets"][0],
        run.space.canonical,
    )
    identity = lines_of("slim/journal.jsonl")[0]
    study = open_study(
        "search/study.log",
        "tiny",
        subject="random on tiny to latency_ms <= 0.5, params <= 1200 (weights "
        f"{identity['weights_sha256'][:12]}, images {identity['images_sha256'][:12]})",
    )
    found = evaluated_in(study.get_trials(), problem)
    assert len(found) == 3
    best = next(it for it in json_of("search/result.json")["networks"] if it["name"] == "searched")
    assert max(found.values()) == best["search_accuracy"]


@pytest.mark.parametrize("folder", ["slim", "search", "run"])
def test_a_page_is_made_of_it(samples, folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nas", "report", folder, "--json"])
    main()
    page = Path(folder, "report.html").read_text()
    assert "<html" in page
    if folder != "run":
        (report,) = read_folder(Path(folder)).searches.values()
        assert report.model_dump(mode="json", exclude_unset=True) == json_of(
            f"{folder}/report.json"
        )
        assert "1200" in page or "1,200" in page
