"""The commands as a user types them: real processes' worth of work, on the smallest of spaces."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import nas
from nas import cli, pipeline
from nas.architecture import Architecture
from nas.cli.options import default_run
from nas.data import open_source
from nas.deploy.delivered import FILES
from nas.deploy.weights import save_weights
from nas.latency.build import BuildSettings, MeasuringPlan
from nas.latency.measure import Patience
from nas.latency.table import LatencyTable, Row, visits_path
from nas.machine import OPENMP
from nas.network import build
from nas.report.following import default_table
from nas.slim import finalists
from nas.slim.result import SearchResult
from nas.space import DEFAULT_SPACE, SearchSpace
from nas.training.settings import DataSettings, Recipe, SupernetSettings

SPACE = """\
name: tiny
input_size: 32
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - ffn: {kind: conv_ffn, expansion: [1, 2]}
      - ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]
  - width: [16, 32]
    downsample: {kind: conv_downsample}
    blocks:
      - attention: [identity, {kind: attention4d, heads: 2, key_dim: 8, value_dim: 8}]
        ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]
head: {kind: classifier}
"""

BRIEFLY = MeasuringPlan(fitted=4, held_out=4, least_visits=10, error=1.0, seconds=0.0)
"""A table that is measured this briefly is inexact, but of the form of others."""

IMPATIENT = Patience(least=6, most=6)
"""Of the sessions that measure finalists: on a noisy machine the usual one takes most of a test."""

MOST_PARAMS = 10_000
"""Between the smallest and the largest of the space: the slimming has steps to take."""


@pytest.fixture(scope="session")
def folder(made_once):
    """A folder with a space, its table, a trained run and a slimmed network."""
    return made_once("cli", fill)


def fill(folder):
    (folder / "tiny.yaml").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(finalists, "PATIENCE", IMPATIENT)
        briefly = BuildSettings("tiny.yaml", plan=BRIEFLY)
        pipeline.build_table(SearchSpace.load("tiny.yaml"), "t.csv", settings=briefly)
        call("train-supernet", "--space", "tiny.yaml", "--run", "r", "--epochs", "1",
             "--limit", "300")  # fmt: skip
        call("slim", "--run", "r", "--table", "t.csv", "--target-ms", "0.1", "--out", "s",
             "--evaluations", "20", "--accept-table", "--target-params", str(MOST_PARAMS))  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(request, monkeypatch, tmp_path):
    monkeypatch.setattr(finalists, "PATIENCE", IMPATIENT)
    wanted = "folder" in request.fixturenames
    monkeypatch.chdir(request.getfixturevalue("folder") if wanted else tmp_path)


def call(*arguments):
    """Run a command in this process, as ``nas`` would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nas", *arguments])
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        cli.main()


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9"}])
def test_threads_wait_as_the_user_says_or_shortly(monkeypatch, given):
    others = {name: it for name, it in os.environ.items() if name not in OPENMP}
    monkeypatch.setattr(os, "environ", {**others, **given})
    monkeypatch.setattr(sys, "argv", ["nas", "--version"])
    with contextlib.suppress(SystemExit):
        cli.main()
    found = {name: it for name, it in os.environ.items() if name in OPENMP}
    assert found == (given if "OMP_WAIT_POLICY" in given else {**OPENMP, **given})


def complaint(capsys, *arguments):
    """The one line that a mistaken call prints, behind one on the images that it has read."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    *before, line = printed.err.splitlines()
    assert all("training images" in it for it in before), printed.err
    assert line.startswith("nas: ")
    return line


def output(capsys, *arguments):
    capsys.readouterr()
    call(*arguments)
    return json.loads(capsys.readouterr().out)


LOADED_BY_HELP = """
import sys
from nas.cli import main
sys.argv = ["nas", "--help"]
main()
sys.exit(", ".join({"numpy", "pydantic", "torch", "rich"} & set(sys.modules)) or 0)
"""


def test_help_loads_no_heavy_package():
    found = subprocess.run(
        [sys.executable, "-c", LOADED_BY_HELP], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "train-supernet  Train one supernet" in found.stdout


def test_the_version_is_told(capsys):
    call("--version")
    assert capsys.readouterr().out == f"nas {nas.__version__}\n"


@pytest.mark.slow
def test_a_bundle_is_written_run_and_imported(tmp_path, capsys):
    Path("tiny.yaml").write_text(SPACE)
    words = ("--space", "tiny.yaml", "--out", "b", "--minutes", "0.1")
    written = output(capsys, "bundle", *words, "--json")
    assert written["next"] == "nas import-lut b"
    assert complaint(capsys, "bundle", *words).startswith("nas: b: exists; --force replaces")
    assert "run there first: python3 run.py" in complaint(capsys, "import-lut", "b")
    subprocess.run([sys.executable, "b/run.py"], check=True)
    made = output(capsys, "import-lut", "b", "--name", "pi", "--json")
    assert made["table"] == "latency_tables/tiny_hand_pi.csv"
    assert made["next"] == "nas train-supernet --space tiny.yaml"
    assert LatencyTable.load(made["table"]).target.device == "hand:pi"
    assert "--force" in complaint(capsys, "import-lut", "b", "--name", "pi")


def test_what_is_no_bundle_or_device_is_one_line(capsys):
    Path("tiny.yaml").write_text(SPACE)
    assert "nowhere" in complaint(capsys, "import-lut", "nowhere")
    words = ("bundle", "--space", "tiny.yaml", "--out", "b", "--runtime", "none")
    assert complaint(capsys, *words).startswith("nas: runtime 'none' runs in no bundle; there are")
    line = complaint(capsys, "build-lut", "--space", "tiny.yaml", "--device", "telnet:pi")
    assert "no carrier is called 'telnet'; there are ssh:" in line
    line = complaint(capsys, "build-lut", "--space", "tiny.yaml", "--cores", "many")
    assert line == "nas: --cores: must be such as 0-3 or 4,6, got 'many'"


def test_every_command_of_the_list_has_its_own_help(capsys):
    for name, (_, description) in cli.COMMANDS.items():
        call(name, "--help")
        printed = capsys.readouterr().out
        assert f"Usage: nas {name} [OPTIONS]" in printed
        assert description.split(",")[0][:40] in printed
        assert "--json" in printed


ANSWERED_WITHOUT_TORCH = [
    ["spaces"],
    ["show", "broken.yaml"],
    ["build-lut", "--space", "broken.yaml"],
    ["build-lut", "--device", "tpu"],
    ["train-supernet", "--space", "broken.yaml"],
    ["train-supernet", "--data", "imagnet"],
    ["train-supernet", "--data", "folder:nowhere"],
    ["train-supernet", "--learning-rate", "0"],
    ["train-supernet", "--resume", "--run", "nowhere"],
    ["check-supernet", "--run", "nowhere"],
    ["slim", "--target-ms", "0.0001", "--run", "r", "--table", "t.csv", "--accept-table"],
    ["slim", "--target-ms", "1", "--strategy", "greedy"],
    ["search", "--target-ms", "1", "--run", "r", "--table", "nowhere.csv"],
    ["retrain", "--run", "x", "--architecture", "nothing"],
    ["evaluate", "--architecture", "efficientformer_v2_s0", "--weights", "nowhere"],
    ["evaluate", "nowhere"],
    ["classify", "nowhere", "picture.jpg"],
    ["resize", "--architecture", "nothing", "--weights", "w", "--input-size", "64", "--out", "o"],
    ["export", "--architecture", "efficientformer_v2_s0", "--out", "o", "--weights", "nowhere"],
    ["bench", "nowhere.onnx"],
    ["profile", "nothing"],
    ["check-lut", "nowhere.csv"],
    ["report", "nowhere"],
]
CALLED_IN_TURN = """
import contextlib, json, sys
from nas.cli import main
found = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["nas", *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        main()
    found[" ".join(arguments)] = "torch" in sys.modules
json.dump(found, sys.stdout)
"""


def test_what_needs_no_network_is_answered_before_torch_is_loaded(folder):
    Path("broken.yaml").write_text(SPACE.replace("width: [8, 16]", "width: [8, wide]"))
    done = subprocess.run(
        [sys.executable, "-c", CALLED_IN_TURN, json.dumps(ANSWERED_WITHOUT_TORCH)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [command for command, loads_torch in found.items() if loads_torch] == []
    mistakes = [line for line in done.stderr.splitlines() if line.startswith("nas: ")]
    assert len(mistakes) == len(ANSWERED_WITHOUT_TORCH) - 1, done.stderr
    assert "nas: broken.yaml:6:" in done.stderr


@pytest.mark.parametrize(
    ("command", "settings"),
    [("train-supernet", SupernetSettings), ("retrain", Recipe), ("train-supernet", DataSettings)],
)
def test_every_field_of_the_settings_is_an_option_with_its_help(capsys, command, settings):
    call(command, "--help")
    printed = " ".join(capsys.readouterr().out.split())
    for name, field in settings.model_fields.items():
        option = {"spec": "data", "name": "recipe"}.get(name, name).replace("_", "-")
        if name == "latency":  # a model, which --latency-table and --latency-weight make
            continue
        assert f"--{option} " in printed
        assert field.description
        if name not in ("name", "seed"):  # these have a help of their own, or share an option
            assert field.description in printed


def test_options_of_settings_show_bounds_and_defaults_and_keep_to_them(capsys):
    call("train-supernet", "--help")
    printed = " ".join(capsys.readouterr().out.split())
    drop_path = SupernetSettings.model_fields["drop_path"].description
    assert f"{drop_path} [x>=0, x<1] [default: (0.0)]" in printed
    assert "--divergence <kl|alpha>" in printed
    for option, word, problem in (
        ("--learning-rate", "0", "Input should be greater than 0, got '0"),
        ("--learning-rate", "inf", "Input should be a finite number, got 'inf'"),
        ("--drop-path", "1", "Input should be less than 1, got '1"),
        ("--resolutions", "48,x", "unable to parse string as an integer, got '48,x'"),
        ("--divergence", "js", "'js' is not one of 'kl', 'alpha'"),
        ("--device", "tpu", "'tpu' is not one of 'cpu', 'cuda'"),
    ):
        line = complaint(capsys, "train-supernet", option, word)
        assert f"Invalid value for '{option}': " in line
        assert problem in line
        assert "Value error" not in line


def test_spaces_names_the_default(capsys):
    found = output(capsys, "spaces", "--json")
    assert found["default"] == DEFAULT_SPACE
    assert DEFAULT_SPACE in [space["name"] for space in found["spaces"]]
    assert "efficientformer_v2_s0" in found["architectures"]
    call("spaces")
    assert DEFAULT_SPACE in capsys.readouterr().out


def test_show_an_architecture(capsys):
    found = output(capsys, "show", "efficientformer_v2_s0", "--json")
    assert found["params"] == 3_600_256
    assert round(found["macs"] / 1e6, 2) == 395.89
    assert len(found["layers"]) == 23


def test_build_lut_draws_what_was_predicted_and_measured(capsys, folder):
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    Path("t.png").unlink()
    found = output(capsys, "build-lut", "--space", "tiny.yaml", "--out", "t.csv", "--resume",
                   "--json")  # fmt: skip
    assert (found["table"], found["sidecar"], found["picture"]) == ("t.csv", "t.json", "t.png")
    assert Path("t.png").exists()
    assert found["rows"] == len(LatencyTable.load("t.csv").rows)
    assert found["validation"]["warm"]["calibrated"]["networks"] == 4
    assert found["validation"]["cold"]["reference_deviation"] != 0


def test_show_counts_few_assignments_exactly(capsys, folder):
    exact = SearchSpace.load("tiny.yaml").cardinality
    call("show", "tiny.yaml")
    assert f"\n{exact:,} assignments of " in capsys.readouterr().out
    call("show", "cifar10_32px")
    assert re.search(r"\n\d\.\de\+\d\d assignments of ", capsys.readouterr().out)


def test_show_a_space_with_prices(capsys, folder):
    found = output(capsys, "show", "tiny.yaml", "--table", "t.csv", "--json")
    assert found["choices"]["stage1.width"] == [8, 16]
    space, table = SearchSpace.load("tiny.yaml"), LatencyTable.load("t.csv")
    ends = {"smallest": space.smallest(), "largest": space.largest()}
    for end, network in ends.items():
        for name, state in (("latency_ms", "warm"), ("cold_ms", "cold")):
            assert found[end][name] == pytest.approx(table.predict(network, state))
            assert found[end][name] > 0
    assert found["smallest"]["params"] < found["largest"]["params"]
    described = output(capsys, "show", "s/architecture.json", "--table", "t.csv", "--json")
    for name, total in (("ms", "latency_ms"), ("cold_ms", "cold_ms")):
        assert sum(layer[name] for layer in described["layers"]) == pytest.approx(described[total])
    call("show", "s/architecture.json", "--table", "t.csv")
    printed = capsys.readouterr().out
    assert " ms cold predicted, MES" in printed
    params = json.loads(Path("s/result.json").read_text())["networks"][-1]["params"]
    assert f"{params:,} parameters, " in printed


def test_slim_writes_what_it_promises(capsys, folder):
    result = json.loads(Path("s/result.json").read_text())
    names = [row["name"] for row in result["networks"]]
    assert names == ["largest", "uniform", "random", "evolution", "slimmed"]
    slimmed = result["networks"][-1]
    assert (result["state"], slimmed["state"]) == ("warm", "warm")
    assert slimmed["measured_ms"] <= 0.1
    assert slimmed["of_target"] == pytest.approx(slimmed["measured_ms"] / 0.1)
    assert [method["name"] for method in result["methods"]] == names[1:]
    report = SearchResult.model_validate_json(Path("s/report.json").read_text())
    assert [network.name for network in report.networks] == names
    assert report.networks[-1].costs["params"] == slimmed["params"]
    layers = report.networks[-1].layers
    for cost in ("latency_ms", "params", "macs"):
        total = sum(layer.costs[cost] for layer in layers)
        assert total == pytest.approx(report.networks[-1].costs[cost])
    assert len(result["verdicts"]) == 1
    trace = [json.loads(line) for line in Path("s/trace.jsonl").read_text().splitlines()]
    wanted = {"step", "choice", "option", "accuracy", "latency_ms", "params", "mes", "taken"}
    assert wanted <= set(trace[0])
    assert slimmed["params"] <= MOST_PARAMS < result["networks"][0]["params"]
    frontier = Path("s/frontier.csv").read_text().splitlines()
    assert frontier[0] == "latency_ms,params,macs,mes,accuracy,on_frontier,methods,assignment"
    found = {name for line in frontier[1:] for name in line.split(",")[-2].split()}
    assert found == set(names[1:])
    assert Path("s/frontier.png").read_bytes().startswith(b"\x89PNG")
    assert Architecture.load("s/architecture.json").classes == 10
    for row in result["networks"]:
        place = Path("s/delivered") / row["name"]
        assert {it.name for it in place.iterdir()} == set(FILES)
        assert f"| parameters | {row['params']:,} |" in (place / "README.md").read_text()
        found = output(capsys, "evaluate", str(place), "--json")
        assert found["test_accuracy"] == pytest.approx(row["test_accuracy"], abs=0.003)
    card = (place / "README.md").read_text()
    assert "## How it was made\n\n```\nnas slim --run r --table t.csv --target-ms 0.1" in card
    assert f"| {slimmed['measured_ms']:.3f} | " in card


@pytest.mark.slow
def test_slim_ends_with_the_command_that_trains_what_it_found(capsys, folder):
    Path("a b").mkdir(exist_ok=True)
    call("slim", "--run", "r", "--table", "t.csv", "--target-params", str(MOST_PARAMS), "--out",
         "a b/s", "--evaluations", "1", "--accept-table", "--no-baselines", "--force")  # fmt: skip
    *_, purpose, command = capsys.readouterr().out.splitlines()
    assert purpose == "next, train this network alone, which adds several points as a rule:"
    words = shlex.split(command)
    assert words == ["nas", "retrain", "--architecture", "a b/s/architecture.json", "--from", "r",
                     "--run", "r_s"]  # fmt: skip
    call(*words[1:-1], "a b/n", "--epochs", "1")
    assert Path("a b/n/delivered/model.onnx").exists()
    assert not Path("a b/s/delivered/random").exists()


def test_show_the_paths_of_a_run(capsys, folder):
    found = output(capsys, "show", "--run", "r", "--json")
    assert (found["space"], found["finished_epochs"], found["epochs"]) == ("tiny", 1, 1)
    assert list(found["paths"]) == [
        "stage1.block2.ffn",
        "stage2.block1.attention",
        "stage2.block1.ffn",
    ]
    for chances in found["paths"].values():
        assert sum(chances.values()) == pytest.approx(1)
        assert chances["identity"] != 0.5
    call("show", "--run", "r")
    printed = capsys.readouterr().out
    assert re.search(r"slot +identity +conv_ffn +attention4d", printed)
    assert re.search(r"stage2\.block1\.attention +\d\d\.\d % +- +\d\d\.\d %", printed)
    assert "1 of 1 epochs on tiny; accuracy on the search slice: smallest " in printed


@pytest.mark.slow
def test_search_delivers_what_a_study_finds(capsys, folder):
    options = ("search", "--run", "r", "--table", "t.csv", "--target-params", str(MOST_PARAMS),
               "--trials", "3", "--sampler", "random", "--state", "cold", "--out", "q",
               "--accept-table")  # fmt: skip
    result = output(capsys, *options, "--json")
    assert result["state"] == "cold"
    for row in result["networks"]:
        states = row["latencies"]["latency_ms"]
        assert list(states) == ["warm", "cold"]
        assert row["measured_ms"] == states["cold"]["measured"] > states["warm"]["measured"]
    assert [row["name"] for row in result["networks"]] == ["largest", "uniform", "searched"]
    assert result["networks"][-1]["params"] <= MOST_PARAMS
    assert Path("q/architecture.json").exists()
    line = complaint(capsys, *options)
    assert re.search("holds the results of a search; --force replaces them", line)


@pytest.mark.slow
def test_slim_by_importance(capsys, folder):
    result = output(capsys, "slim", "--run", "r", "--table", "t.csv", "--target-params",
                    str(MOST_PARAMS), "--strategy", "importance", "--out", "i", "--force",
                    "--evaluations", "12", "--accept-table", "--no-baselines", "--json")  # fmt: skip
    assert result["next"] == "nas retrain --architecture i/architecture.json --from r --run r_i"
    assert [row["name"] for row in result["networks"]] == ["largest", "uniform", "slimmed"]
    assert result["strategy"] == "importance"
    assert result["networks"][-1]["params"] <= MOST_PARAMS
    trace = [json.loads(line) for line in Path("i/trace.jsonl").read_text().splitlines()]
    first = [line["choice"] for line in trace if line["step"] == 1]
    paths = output(capsys, "show", "--run", "r", "--json")["paths"]
    assert first[0] == f"{max(paths, key=lambda it: paths[it]['identity'])}.kind"
    assert first[1] in {"stage1.width", "stage2.width"}


def test_expected_latency_in_the_loss_is_recorded_with_its_prices(capsys, folder):
    call("train-supernet", "--space", "tiny.yaml", "--run", "w", "--epochs", "1", "--limit", "100",
         "--latency-table", "t.csv", "--latency-weight", "0.5", "--path-sampling", "--force")  # fmt: skip
    settings = json.loads(Path("w/run.json").read_text())["settings"]
    assert settings["path_sampling"] is True
    assert settings["latency"]["weight"] == 0.5
    assert set(settings["latency"]["ms"]) == set(
        output(capsys, "show", "--run", "w", "--json")["paths"]
    )
    options = ["--run", "w", "--resume", "--latency-table", "t.csv", "--latency-weight"]
    call("train-supernet", *options, "0.5")  # what it was started with
    assert "was started with latency 0.5 (largest network" in complaint(
        capsys, "train-supernet", *options, "0.7"
    )


def test_evaluate_finds_the_accuracy_of_the_final_table(capsys, folder):
    result = json.loads(Path("s/result.json").read_text())
    found = output(capsys, "evaluate", "--architecture", "s/architecture.json",
                   "--weights", "s/weights.safetensors", "--data", "digits", "--json")  # fmt: skip
    assert found["test_accuracy"] == pytest.approx(result["networks"][-1]["test_accuracy"])


def test_retrain_shows_inherited_and_retrained_side_by_side(capsys, folder):
    start = ("retrain", "--architecture", "s/architecture.json", "--run", "n", "--from", "r")
    found = output(capsys, *start, "--epochs", "1", "--json")
    slimmed = json.loads(Path("s/result.json").read_text())["networks"][-1]
    assert found["inherited_test_accuracy"] == pytest.approx(slimmed["test_accuracy"])
    assert (found["recipe"], found["data"]) == ("light", "digits")
    again = output(capsys, "evaluate", "--architecture", "n/architecture.json", "--weights",
                   "n/weights.safetensors", "--json")  # fmt: skip
    assert again["test_accuracy"] == found["test_accuracy"]
    assert (again["data"], again["note"]) == ("digits", None)
    delivered = output(capsys, "evaluate", "n/delivered", "--json")
    assert delivered["test_accuracy"] == pytest.approx(found["test_accuracy"], abs=0.003)
    cards = [
        Path(f"{place}/README.md").read_text() for place in ("s/delivered/slimmed", "n/delivered")
    ]
    (line,) = re.findall(r"\n\| .* \| onnxruntime [\d.]+ \| 1 \| float32 \| 20.* \|\n", cards[0])
    assert line in cards[1], "the latencies are the architecture's"
    assert " ".join(["nas", *start]) in cards[1]
    shutil.rmtree("n/delivered")
    call("retrain", "--run", "n", "--resume")
    printed = capsys.readouterr().out
    assert "inherited" in printed
    assert "n/weights.safetensors" in printed
    assert printed.endswith(
        "\nnext, see what it says of pictures:\n  nas classify n/delivered PICTURE.jpg\n"
    )
    assert {it.name for it in Path("n/delivered").iterdir()} == set(FILES), "it is delivered again"
    assert "n: holds a finished retraining; --force" in complaint(capsys, *start)
    assert "was started with epochs 1, got 2" in complaint(
        capsys, "retrain", "--run", "n", "--resume", "--epochs", "2"
    )
    assert "retrain needs --architecture" in complaint(capsys, "retrain", "--run", "x")
    assert "must tell 10 classes apart, has 1000" in complaint(
        capsys, *start[:3], "--run", "x", "--limit", "100", "--teacher", wide_teacher()
    )


def wide_teacher():
    """A teacher of the right size that tells too many classes apart."""
    architecture = Architecture.load("s/architecture.json").with_classes(1000)
    architecture.save("wide.json")
    save_weights(build(architecture), Path("wide.safetensors"))
    return "wide.json:wide.safetensors"


def test_report_shows_a_training(capsys, folder):
    found = output(capsys, "report", "r", "--json")
    assert found.pop("next").startswith(("nas build-lut ", "nas slim "))
    assert found == {"page": "r/report.html", "searches": [], "training": True}
    page = Path("r/report.html").read_text()
    assert "loss/largest".replace("/", ", ") in page
    call("report", "r", "--out", "elsewhere.html")
    assert "elsewhere.html" in capsys.readouterr().out
    assert Path("elsewhere.html").read_text() == page


@pytest.mark.slow
def test_the_input_size_is_a_choice_from_training_to_retraining(capsys, tmp_path):
    Path("sized.yaml").write_text(SPACE.replace("input_size: 32", "input_size: [16, 32]"))
    space = SearchSpace.load("sized.yaml")
    call("build-lut", "--space", "sized.yaml", "--out", "t.csv")
    call("train-supernet", "--space", "sized.yaml", "--run", "r", "--epochs", "1", "--limit", "300")
    result = output(capsys, "slim", "--run", "r", "--table", "t.csv", "--target-params",
                    str(MOST_PARAMS), "--evaluations", "12", "--accept-table", "--out", "s",
                    "--json")  # fmt: skip
    trace = [json.loads(line) for line in Path("s/trace.jsonl").read_text().splitlines()]
    assert "input_size" in {step["choice"] for step in trace}  # it was weighed
    slimmed = Architecture.load("s/architecture.json")
    assert input_side("s/model.onnx") == slimmed.input_size
    judged = output(capsys, "evaluate", "--architecture", "s/architecture.json", "--weights",
                    "s/weights.safetensors", "--json")  # fmt: skip
    # a search resizes images that were read at the largest size, evaluate reads them at their own
    found = result["networks"][-1]["test_accuracy"]
    assert judged["test_accuracy"] == pytest.approx(found, abs=0.03)
    for pixels in 16, 32:
        name = f"{pixels}.json"
        space.smallest().with_input_size(pixels).save(Path(name))
        trained = output(capsys, "retrain", "--architecture", name, "--from", "r", "--run",
                         f"n{pixels}", "--epochs", "1", "--json")  # fmt: skip
        weights = trained["paths"]["weights"]
        call("export", "--architecture", name, "--weights", weights, "--out", f"{pixels}.onnx")
        assert input_side(f"{pixels}.onnx") == pixels
        judged = output(capsys, "evaluate", "--architecture", name, "--weights", weights, "--json")
        assert judged["test_accuracy"] == trained["test_accuracy"]
        assert trained["inherited_test_accuracy"] is not None


def input_side(path):
    """The width and height of the images that an ONNX model takes."""
    *_, height, width = (
        it.dim_value for it in onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    )
    assert height == width
    return width


def test_check_supernet_writes_table_and_picture(capsys, folder):
    check = ("check-supernet", "--run", "r", "--architectures", "4", "--learning-rate", "2e-3")
    found = output(capsys, *check, "--json")
    assert found.pop("next").startswith(("nas build-lut ", "nas slim "))
    assert len(found["compared"]) == 4
    assert found["recipe"]["learning_rate"] == 2e-3
    assert json.loads(Path("r/check.json").read_text()) == found
    assert Path("r/check.csv").read_text().count("\n") == 5
    assert Path("r/check.png").read_bytes().startswith(b"\x89PNG")
    assert "r/check.json: exists; --force replaces it" in complaint(capsys, *check)
    call(*check, "--force")  # nothing is trained again
    assert "Kendall tau" in capsys.readouterr().out


def test_export_and_bench(capsys, folder):
    found = output(capsys, "export", "--architecture", "s/architecture.json", "--weights",
                   "s/weights.safetensors", "--out", "e.onnx", "--force", "--json")  # fmt: skip
    assert found["relative_difference"] <= 1e-4
    assert found["next"] == "nas bench e.onnx"
    told = {it.key: json.loads(it.value) for it in onnx.load("e.onnx").metadata_props}
    assert (told["classes"], told["run"], told["data"]) == (list("0123456789"), "r", "digits")
    assert told["interpolation"] == "bilinear", "digits are enlarged so"
    measured = output(capsys, "bench", "e.onnx", "s/model.onnx", "--json")
    assert [row["file"] for row in measured["models"]] == ["e.onnx", "s/model.onnx"]
    for row in measured["models"]:
        assert row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["cold_low"] <= row["cold_ms"] <= row["cold_high"]
        assert row["ms"] < row["cold_ms"]
    assert (measured["table"], measured["shift"]) == (None, {"warm": 0.0, "cold": 0.0})
    assert "e.onnx: exists; --force replaces it" in complaint(
        capsys, "export", "--architecture", "s/architecture.json", "--out", "e.onnx"
    )


def faster_reference(name, factor):
    """A copy of the table by whose reference this machine takes ``factor`` times as long now."""
    table = LatencyTable.load("t.csv")
    reference, *companions = (
        it.model_copy(update={"warm_ms": it.warm_ms / factor, "cold_ms": it.cold_ms / factor})
        for it in table.unit.references
    )
    update = {"reference": reference, "companions": tuple(companions)}
    provenance = table.provenance.model_copy(update=update)
    LatencyTable(table.rows, provenance, Path(name)).save()


@pytest.mark.slow
def test_bench_tells_latencies_in_the_unit_of_a_table(capsys, folder):
    faster_reference("f.csv", 4.0)
    now = output(capsys, "bench", "s/model.onnx", "--json")
    found = output(capsys, "bench", "s/model.onnx", "--table", "f.csv", "--json")
    assert found["table"] == "f.csv"
    for state, name in (("warm", "ms"), ("cold", "cold_ms")):
        assert found["shift"][state] > 0.5, "by more than a busy machine changes in a minute"
        told = found["models"][0][name] * (1 + found["shift"][state])
        assert told == pytest.approx(now["models"][0][name], rel=0.5)
    call("bench", "s/model.onnx", "--table", "f.csv")
    printed = capsys.readouterr().out
    assert "cold: its first run after other work had the caches" in printed
    assert re.search(r"this machine is \d+ % slower now than when f\.csv was measured: ", printed)


def test_bench_refuses_a_table_of_another_target(capsys, folder):
    sidecar = json.loads(Path("t.json").read_text())
    sidecar["target"]["runtime_version"] = "0.1"
    Path("v.json").write_text(json.dumps(sidecar))
    Path("v.csv").write_bytes(Path("t.csv").read_bytes())
    line = complaint(capsys, "bench", "s/model.onnx", "--table", "v.csv")
    assert line.startswith("nas: v.csv: was built for another target")
    assert "runtime_version: 0.1 here" in line
    sidecar["target"] = {**json.loads(Path("t.json").read_text())["target"], "precision": "int8"}
    Path("v.json").write_text(json.dumps(sidecar))
    assert complaint(capsys, "bench", "s/model.onnx", "--table", "v.csv") == (
        "nas: s/model.onnx: is a float32 model, and v.csv tells ms of int8 networks"
    )


def largest_weight(file):
    """The largest integer that stands for a weight of a convolution."""
    model = onnx.load(file)
    integers = [onnx.numpy_helper.to_array(it) for it in model.graph.initializer]
    weights = [it for it in integers if it.dtype == np.int8 and it.ndim == 4]
    return max(int(np.abs(it.astype(int)).max()) for it in weights)


@pytest.mark.parametrize(
    ("form", "files"),
    [("onnx-int8", ["i.onnx"]), ("python", ["n.py", "n.safetensors"])],
)
def test_export_in_other_formats(capsys, folder, form, files):
    data = ["--data", "digits"] if form == "onnx-int8" else []
    command = ["export", "--architecture", "s/architecture.json", "--weights",
               "s/weights.safetensors", "--format", form, "--out", files[0], *data]  # fmt: skip
    found = output(capsys, *command, "--json")
    assert all(Path(file).exists() for file in files)
    if form == "onnx-int8":
        assert 0.8 <= found["agreement"] <= 1
        (row,) = output(capsys, "bench", "i.onnx", "--json")["models"]
        assert row["precision"] == "int8"
        for bits, says_so in ((7, False), (8, True)):
            call(*command, "--force", "--bits", str(bits))
            assert largest_weight(Path("i.onnx")) == 2 ** (bits - 1) - 1
            assert ("--bits 7 suits every processor" in capsys.readouterr().out) == says_so
    else:
        assert found["relative_difference"] == 0.0
    assert f"{files[-1]}: exists; --force replaces it" in complaint(capsys, *command).replace(
        files[0], files[-1]
    )


def test_a_slimmed_network_is_not_written_for_timm(capsys, folder):
    command = ["export", "--architecture", "s/architecture.json", "--weights",
               "s/weights.safetensors", "--format", "timm", "--out", "t.safetensors"]  # fmt: skip
    assert "timm has no network of these layers" in complaint(capsys, *command)
    assert not Path("t.safetensors").exists()


def test_resize_writes_a_network_of_another_input_size(capsys, folder):
    command = ["resize", "--architecture", "s/architecture.json", "--weights",
               "s/weights.safetensors", "--input-size", "96", "--out", "larger"]  # fmt: skip
    paths = output(capsys, *command, "--json")["paths"]
    found = output(capsys, "evaluate", "--architecture", paths["architecture"], "--weights",
                   paths["weights"], "--data", "digits", "--json")  # fmt: skip
    assert found["images"] == 359
    assert "larger/architecture.json: exists; --force replaces it" in complaint(capsys, *command)


@pytest.mark.slow
def test_resize_takes_timms_names_and_needs_the_classifier(capsys):
    architecture = Architecture.load("mobilenet_v3_small_100")
    network = build(architecture)
    named = nas.to_timm_state_dict(network, architecture)
    save_file({name: it.contiguous() for name, it in named.items()}, "timm.safetensors")
    output(capsys, "resize", "--architecture", "mobilenet_v3_small_100", "--weights",
           "timm.safetensors", "--input-size", "96", "--out", "small", "--json")  # fmt: skip
    found, expected = load_file("small/weights.safetensors"), network.state_dict()
    assert found.keys() == expected.keys()
    assert all(bool((found[name] == expected[name]).all()) for name in found)
    architecture.with_classes(3).save("three.json")
    assert complaint(capsys, "resize", "--architecture", "three.json", "--weights",
                     "timm.safetensors", "--input-size", "96", "--out", "three").endswith(
        "timm.safetensors: has no classifier of 3 classes"
    )  # fmt: skip


def test_export_and_evaluate_take_timms_names_and_pth(capsys):
    architecture = Architecture.load("mobilenet_v3_small_100").with_classes(10)
    architecture.with_input_size(32).save("a.json")
    network = build(architecture).eval()
    named = nas.to_timm_state_dict(network, architecture)
    torch.save({"state_dict": named}, "timm.pth")
    save_weights(network, Path("ours.safetensors"))
    ours, theirs = (
        output(capsys, "evaluate", "--architecture", "a.json", "--weights", weights,
               "--data", "digits", "--json")["test_accuracy"]
        for weights in ("ours.safetensors", "timm.pth")
    )  # fmt: skip
    assert ours == theirs
    output(capsys, "export", "--architecture", "a.json", "--weights", "timm.pth",
           "--format", "timm", "--out", "again.safetensors", "--json")  # fmt: skip
    again = load_file("again.safetensors")
    assert all(torch.equal(it, named[name]) for name, it in again.items())


@pytest.mark.slow
def test_an_int8_table_delivers_an_int8_network(capsys, folder):
    found = output(capsys, "build-lut", "--space", "tiny.yaml", "--precision", "int8", "--out",
                   "t8.csv", "--json")  # fmt: skip
    assert LatencyTable.load("t8.csv").target.precision == "int8"
    assert found["rows"] == len(LatencyTable.load("t.csv").rows)
    result = output(capsys, "slim", "--run", "r", "--table", "t8.csv", "--target-ms", "0.2", "--out",
                    "s8", "--evaluations", "8", "--accept-table", "--json")  # fmt: skip
    assert all(0.8 <= row["int8_agreement"] <= 1 for row in result["networks"])
    (row,) = output(capsys, "bench", "s8/model.onnx", "--json")["models"]
    assert row["precision"] == "int8"
    drift = output(capsys, "check-lut", "t8.csv", "--networks", "4", "--json")
    assert drift["networks"] == 4


def test_profile_shows_and_draws_where_the_time_goes(capsys, folder):
    found = output(capsys, "profile", "s/architecture.json", "--out", "p.png", "--json")
    (network,) = found["networks"]
    assert network["name"] == "s/architecture.json"
    assert sum(network["operators"].values()) == pytest.approx(network["ms"])
    assert network["ms"] < network["cold_ms"]
    assert {layer["slot"] for layer in network["layers"]} >= {"stem", "head"}
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    assert "p.png: exists; --force replaces it" in complaint(
        capsys, "profile", "s/architecture.json", "--out", "p.png"
    )


@pytest.mark.slow
def test_generated_pictures_train_a_supernet_without_any_file():
    Path("tiny.yaml").write_text(SPACE)
    call("train-supernet", "--space", "tiny.yaml", "--data", "shapes", "--run", "r",
         "--epochs", "1", "--limit", "96")  # fmt: skip
    assert SearchSpace.load("r/space.json").classes == len(open_source("shapes").classes)
    assert json.loads(Path("r/run.json").read_text())["data"]["spec"] == "shapes"


def test_default_paths_find_each_other():
    from nas.latency.target import detect_target

    space = SearchSpace.load(DEFAULT_SPACE)
    target = detect_target()
    assert default_table(space) == Path(f"latency_tables/{DEFAULT_SPACE}_cpu.csv")
    assert default_table(space, target) == default_table(space)
    other = target.model_copy(
        update={"runtime": "openvino", "threads": 2, "batch": 8, "precision": "int8"}
    )
    assert (
        default_table(space, other).name == f"{DEFAULT_SPACE}_cpu_openvino_2threads_batch8_int8.csv"
    )
    assert default_run(space, "digits") == Path(f"runs/{DEFAULT_SPACE}_digits")
    assert default_run(space, "folder:/a/flowers") == Path(f"runs/{DEFAULT_SPACE}_flowers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "efficientformer_v3"], "'efficientformer_v3' is neither a file nor a built-in"),
        (["build-lut", "--space", "mobil"], "search space 'mobil' is neither a file nor built in"),
        (["build-lut", "--device", "tpu"], "device 'tpu' is not available"),
        (["build-lut", "--runtime", "tensorrt"], "runtime 'tensorrt' is not known"),
        (["train-supernet", "--data", "imagnet"], "data set 'imagnet': must be digits, shapes, "),
        (["train-supernet", "--data", "folder:nowhere"], "nowhere"),
        (["train-supernet", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["train-supernet", "--accumulate", "0"], "Invalid value for '--accumulate'"),
        (["train-supernet", "--device", "tpu"], "Invalid value for '--device'"),
        (["retrain", "--run", "r", "--device", "tpu"], "Invalid value for '--device'"),
        (["check-supernet", "--run", "r", "--device", "tpu"], "Invalid value for '--device'"),
        (["train-supernet", "--learning-rate", "-1"], "Invalid value for '--learning-rate'"),
        (["train-supernet", "--seed", "-1"], "Invalid value for '--seed'"),
        (["train-supernet", "--latency-weight", "0.1"],
         "--latency-table and --latency-weight (above 0) need each other"),
        (["show"], "show needs a space or an architecture (with or without --table), or --run"),
        (["show", "demo_64px", "--run", "r"], "show needs a space or an architecture"),
        (["show", "--run", "r"], "r: no such run; nas train-"),
        (["slim", "--target-ms", "2", "--strategy", "greedy"], "Invalid value for '--strategy'"),
        (["slim", "--target-ms", "2", "--state", "hot"], "Invalid value for '--state': "),
        (["profile", "efficientformer_v3"], "architecture 'efficientformer_v3' is neither"),
        (["slim"], "slim needs a bound: --target-ms, --targets, --target-params or --target-macs"),
        (["slim", "--target-ms", "-1"], "target: latency_ms must be positive, got -1"),
        (["slim", "--target-ms", "fast"], "--target-ms: must be a number of milliseconds, got 'fast'"),
        (["slim", "--targets", "2,fast"], "--targets: must be numbers such as 1.0,1.5,2.0, got '2,fast'"),
        (["slim", "--targets", "2", "--target-ms", "2"], "--targets and --target-ms exclude each other"),
        (["slim", "--target-ms", "2", "--mes", "latency_ms=1"], "--mes: must be COST=UNIT:EXPONENT"),
        (["slim", "--target-ms", "2", "--table", "a/t.csv", "--table", "b/t.csv"],
         "--table: two tables are called 't': a/t.csv and b/t.csv; name them: --table NAME=PATH"),
        (["slim", "--target-ms", "2"], f"runs/{DEFAULT_SPACE}_digits: no such run; nas train-"),
        (["slim", "--target", "2"], "No such option: --target"),
        (["bench", "nothing.onnx"], "nothing.onnx: no such file"),
        (["export", "--architecture", "a.json", "--out", "o"], "a.json: no such file"),
        (["export", "--architecture", "efficientformer_v2_s0", "--out", "o", "--format", "onnx-int8"],
         "export: --format onnx-int8 needs --data, and no other format takes it"),
        (["export", "--architecture", "efficientformer_v2_s0", "--out", "o", "--bits", "7"],
         "export: --bits is of --format onnx-int8, and no other format takes it"),
        (["export", "--architecture", "efficientformer_v2_s0", "--out", "o", "--bits", "9"],
         "Invalid value for '--bits'"),
        (["export", "--architecture", "efficientformer_v2_s0", "--out", "o", "--format", "python"],
         "o: --format python writes a .py file, with a .safetensors"),
        (["build-lut", "--precision", "int4"], "Invalid value for '--precision'"),
        (["build-lut", "--minutes", "0"], "Invalid value for '--minutes': must be above 0, got 0"),
        (["build-lut", "--minutes", "nan"], "Invalid value for '--minutes': must be above 0"),
        (["evaluate", "--architecture", "efficientformer_v2_s0"],
         "evaluate needs MODEL, or --architecture and --weights"),
        (["export", "--architecture", "efficientformer_v2_s0", "--out", "o.py", "--format", "python",
          "--dynamic-batch"], "export: --dynamic-batch is for ONNX files, got --format python"),
        (["check-lut", "none.csv"], "none.csv: no such latency table; build it"),
        (["check-lut", "none.csv", "--networks", "3"], "Invalid value for '--networks'"),
        (["report", "nowhere"], "nowhere: no such folder"),
        (["report", "."], ".: nothing to report: neither a search (report.json"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(capsys, arguments, message):
    assert message in complaint(capsys, *arguments)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slim", "--run", "r", "--table", "t.csv", "--target-ms", "0.0001", "--accept-table"],
         r"target out of reach: latency_ms <= 0\.0001 \(least reachable: 0\.0\d+\)"),
        (["slim", "--run", "r", "--table", "t.csv", "--target-ms", "0.1", "--out", "s", "--accept-table"],
         r"^nas: s: holds the results of a search; --force replaces them"),
        (["slim", "--run", "r", "--table", "t.csv", "--target-ms", "1", "--mes", "energy=1:1"],
         r"^nas: --mes: no cost is called 'energy'; there are latency_ms, params, macs"),
        (["slim", "--run", "r", "--table", "missing.csv", "--target-ms", "1"], r"missing\.(csv|json): "),
        (["slim", "--run", "s", "--table", "t.csv", "--target-ms", "1"], r"^nas: s: holds no run"),
        (["build-lut", "--space", "tiny.yaml", "--out", "t.csv"], r"t\.csv: .*--resume.*--force"),
        (["train-supernet", "--space", "tiny.yaml", "--run", "r"], r"^nas: r: holds a finished run; --force"),
        (["train-supernet", "--space", "demo_64px", "--run", "r", "--resume"],
         r"^nas: r: holds weights of the space 'tiny', not 'demo_64px'"),
        (["train-supernet", "--run", "s"], r"^nas: s: holds other things than a run"),
        (["evaluate", "--architecture", "s/architecture.json", "--weights", "t.csv"],
         r"t\.csv: holds no weights: "),
        (["evaluate", "--architecture", "efficientformer_v2_s0", "--weights", "s/weights.safetensors"],
         r"s/weights\.safetensors: weights do not fit efficientformer_v2_s0: "),
        (["bench", "t.csv"], r"t\.csv: is no ONNX model"),
        (["show", "tiny.yaml", "--table", "t.json"], r"t\.json"),
        (["report", "r", "--out", "t.csv"], r"t\.csv: exists and is no page of nas report; --force"),
    ],
)  # fmt: skip
def test_mistakes_with_real_files(capsys, folder, arguments, message):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert re.search(message, complaint(capsys, *arguments))
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert after == before


def test_a_table_for_another_space_names_the_missing_layer_and_the_command(capsys, folder):
    Path("other.yaml").write_text(SPACE.replace("width: [8, 16]", "width: [8, 16, 24]"))
    call("train-supernet", "--space", "other.yaml", "--run", "o", "--epochs", "1", "--limit", "300",
         "--force")  # fmt: skip
    line = complaint(capsys, "slim", "--run", "o", "--table", "t.csv", "--target-ms", "1")
    assert "conv_stem out_channels=24" in line
    assert "nas build-lut" in line
    assert "--resume" in line


@pytest.mark.slow
def test_the_command_that_an_error_names_mends_it(capsys, folder):
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 5)):
        for name in ("cat", "dog", "hen"):
            place = Path("pets") / part / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    call("train-supernet", "--space", "tiny.yaml", "--data", "folder:pets", "--run", "p",
         "--epochs", "1")  # fmt: skip
    slim = ("slim", "--run", "p", "--table", "t.csv", "--target-ms", "1", "--evaluations", "2",
            "--out", "pets/slim", "--accept-table", "--no-baselines")  # fmt: skip
    line = complaint(capsys, *slim)
    assert "'classifier in_channels=16 classes=3'" in line
    command = line.partition("missing: ")[2]
    assert command == "nas build-lut --space p/space.json --device cpu --out t.csv --resume"
    files = [Path("t.csv"), Path("t.json"), visits_path(Path("t.csv"))]
    kept = [file.read_bytes() for file in files]
    call(*command.split()[1:], "--minutes", "0.2")
    call(*slim)
    assert Architecture.load("pets/slim/architecture.json").classes == 3
    for file, content in zip(files, kept, strict=True):
        file.write_bytes(content)


def test_a_table_for_another_machine_says_which_field_differs(capsys, folder):
    sidecar = json.loads(Path("t.json").read_text())
    sidecar["target"]["cpu_model"] = "Zilog Z80"
    Path("z.json").write_text(json.dumps(sidecar))
    Path("z.csv").write_bytes(Path("t.csv").read_bytes())
    line = complaint(capsys, "slim", "--run", "r", "--table", "z.csv", "--target-ms", "1")
    assert re.search(r"cpu_model: .*Zilog Z80", line)


def test_a_table_that_failed_its_validation_is_refused_unless_accepted(capsys, folder):
    table = LatencyTable.load("t.csv")
    found = table.validation
    good = found.warm.calibrated.model_copy(update={"mape": 0.01, "spearman": 1.0})
    failing = good.model_copy(update={"mape": 0.0512, "spearman": 0.5})
    exact = {"noise_floor": 0.005, "noise_spearman": 1.0}
    warm, cold = (
        found.of(state).model_copy(update={"calibrated": figures, **exact})
        for state, figures in (("warm", failing), ("cold", good))
    )
    for name, validation, message in (
        ("none.csv", None, "it was not validated on whole networks"),
        (
            "failing.csv",
            found.model_copy(update={"warm": warm, "cold": cold}),
            "its mean error on held-out networks is 5.12 % (warm), above 4.0 %; noise explains "
            "0.5 %; its Spearman correlation is 0.500 (warm), below 0.985",
        ),
    ):
        provenance = table.provenance.model_copy(update={"validation": validation})
        LatencyTable(table.rows, provenance, Path(name)).save()
        line = complaint(capsys, "slim", "--run", "r", "--table", name, "--target-ms", "1")
        assert line.startswith(
            f"nas: {name}: {message}; measure on: nas build-lut --space tiny.yaml"
        )
        assert line.endswith("--resume --minutes 10, or take it as it is with --accept-table")
        visits_path(Path(name)).write_bytes(visits_path(Path("t.csv")).read_bytes())
        capsys.readouterr()
        call("build-lut", "--space", "tiny.yaml", "--out", name, "--resume")
        printed = capsys.readouterr().out
        assert f"nas slim will refuse this table: {line.removeprefix(f'nas: {name}: ')}" in printed
    call("slim", "--run", "r", "--table", name, "--target-ms", "1", "--out", "accepted",
         "--evaluations", "1", "--accept-table", "--no-baselines", "--force")  # fmt: skip
    assert f"{name} is used although {message}" in capsys.readouterr().err


def test_a_table_is_refused_for_the_state_that_the_target_names(capsys, folder):
    table = LatencyTable.load("t.csv")
    found, exact = table.validation, {"noise_floor": 0.005, "noise_spearman": 0.5}
    good = found.warm.calibrated.model_copy(update={"mape": 0.01, "spearman": 1.0})
    failing = good.model_copy(update={"mape": 0.0512})
    update = {
        state: found.of(state).model_copy(update={"calibrated": figures, **exact})
        for state, figures in (("warm", good), ("cold", failing))
    }
    validation = found.model_copy(update=update)
    provenance = table.provenance.model_copy(update={"validation": validation})
    LatencyTable(table.rows, provenance, Path("mild.csv")).save()
    visits_path(Path("mild.csv")).write_bytes(visits_path(Path("t.csv")).read_bytes())
    reason = "its mean error on held-out networks is 5.12 % (cold), above 3.5 %"
    words = ["slim", "--run", "r", "--table", "mild.csv", "--target-ms", "1", "--state", "cold"]
    assert reason in complaint(capsys, *words)
    LatencyTable.load("mild.csv").require_trust("warm")
    call("build-lut", "--space", "tiny.yaml", "--out", "mild.csv", "--resume")
    assert f"nas slim --state cold will refuse this table: {reason}" in capsys.readouterr().out


def test_commands_end_with_the_one_that_goes_on(capsys, folder):
    def last(*arguments):
        capsys.readouterr()
        call(*arguments)
        *_, before, command = capsys.readouterr().out.splitlines()
        assert before.startswith("next, ")
        return command.split()

    written = last("new-space", "demo_64px", "--data", "digits", "--input-size", "32", "--force",
                   "--out", "my.json")  # fmt: skip
    assert written == ["nas", "build-lut", "--space", "my.json", "--device", "cpu"]
    measured = last("build-lut", "--space", "tiny.yaml", "--out", "t.csv", "--resume")
    assert measured == ["nas", "train-supernet", "--space", "tiny.yaml"]
    trained = last("train-supernet", "--run", "r", "--resume")
    assert trained == ["nas", "build-lut", "--space", "r/space.json", "--device", "cpu"]
    assert last("show", "--run", "r") == trained
    assert last("report", "r") == trained
    assert last("show", "tiny.yaml") == [*trained[:3], "tiny.yaml", *trained[4:]]
    assert last("spaces") == ["nas", "show", DEFAULT_SPACE]
    assert last("show", "s/architecture.json") == [
        "nas", "new-space", "s/architecture.json", "--data", "folder:PHOTOS"
    ]  # fmt: skip
    files = ("--architecture", "s/architecture.json", "--weights", "s/weights.safetensors")
    exporting = ["nas", "export", *files, "--out", "model.onnx"]
    assert last("evaluate", *files) == exporting
    sized = last("resize", *files, "--input-size", "64", "--out", "z")
    assert sized == [it.replace("s/", "z/").replace("model", "z/model") for it in exporting]
    assert last("evaluate", "s/delivered/slimmed") == [
        "nas", "classify", "s/delivered/slimmed", "PICTURE.jpg"
    ]  # fmt: skip
    assert last("export", *files, "--format", "python", "--out", "p.py", "--force") == [
        "nas", "evaluate", *files
    ]  # fmt: skip
    random = last("export", *files[:2], "--format", "python", "--out", "q.py", "--force")
    assert random == ["nas", "retrain", *files[:2], "--data", "folder:PHOTOS", "--run", "runs/q"]
    assert last("bench", "s/model.onnx") == ["nas", "evaluate", "s/model.onnx"]
    default_table(SearchSpace.load("tiny.yaml")).parent.mkdir()
    for suffix in ("csv", "json"):
        default = default_table(SearchSpace.load("tiny.yaml")).with_suffix(f".{suffix}")
        default.write_bytes(Path(f"t.{suffix}").read_bytes())
    trained = last("train-supernet", "--run", "r", "--resume")
    table = LatencyTable.load(Path("latency_tables/tiny_cpu.csv"))
    if table.refusal("warm"):
        assert trained == table.remedy.split()
    else:
        assert trained[:6] == ["nas", "slim", "--run", "r", "--table", str(table.path)]
        largest = table.predict(SearchSpace.load("tiny.yaml").largest())
        assert float(trained[-1]) == pytest.approx(largest / 2, rel=0.05)
    judged = last("evaluate", "--architecture", "s/architecture.json", "--weights",
                  "s/weights.safetensors")  # fmt: skip
    assert judged[:4] == ["nas", "export", "--architecture", "s/architecture.json"]


def test_new_space_writes_a_built_in_space_for_other_classes_and_another_size(capsys):
    found = output(capsys, "new-space", "mobile_64px", "--classes", "6", "--input-size", "96",
                   "--json")  # fmt: skip
    assert found["space"] == "mobile_96px.json"
    space, built_in = SearchSpace.load("mobile_96px.json"), SearchSpace.load("mobile_64px")
    assert (space.name, space.classes, space.largest_size) == ("mobile_96px", 6, 96)
    assert space.choices == built_in.choices
    assert "exists; --force replaces it" in complaint(
        capsys, "new-space", "mobile_64px", "--input-size", "96"
    )
    assert "input sizes must be multiples of 32, got 50" in complaint(
        capsys, "new-space", "mobile_64px", "--input-size", "50"
    )


def test_check_lut_says_rebuild_of_a_table_that_is_far_off(capsys, folder):
    table = LatencyTable.load("t.csv")
    # by more than a busy machine can slow down from one minute to the next
    rows = {key: Row(*(50 * ms for ms in row[:6]), *row[6:]) for key, row in table.rows.items()}
    LatencyTable(rows, table.provenance, Path("far.csv")).save()
    capsys.readouterr()
    before = Path("far.json").read_bytes()
    with pytest.raises(SystemExit) as caught:
        call("check-lut", "far.csv", "--networks", "4", "--json")
    assert caught.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert found["action"] == "rebuild"
    assert found["networks"] == 4
    for state in ("warm", "cold"):
        assert found[state]["bias"] > 1, "predictions are far above what is measured"
        assert found[state].keys() == {"shift", "bias", "mape", "noise", "spearman", "kendall"}
    assert found["command"].startswith("nas build-lut --space tiny.yaml --device cpu")
    assert found["command"].endswith("--out far.csv --force")
    assert Path("far.json").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_line(capsys, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in complaint(capsys, "build-lut", "--out", "locked/t.csv")


def test_results_below_a_file_are_refused_before_any_work(capsys, folder):
    line = complaint(capsys, "slim", "--run", "r", "--table", "t.csv", "--target-ms", "0.1",
                     "--out", "t.csv/x", "--accept-table")  # fmt: skip
    assert "t.csv/x" in line
    assert "cannot be written" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("5", "x.yaml:1:1: a search space is a mapping with 'stages'"),
        ("[layers]", "x.yaml:1:1: a search space is a mapping"),
        ("layers", "x.yaml:1:1: a search space is a mapping"),
        ("", "x.yaml: a search space is a mapping"),
        ("name: \0", "x.yaml:1:7: holds the control character U+0000"),
        ("a: &a [*a]", "x.yaml:1:8: alias '*a' stands inside of what it names"),
        (SPACE.replace("    downsample: {kind: conv_downsample}\n", ""), "nothing leads from"),
    ],
)
def test_show_of_an_odd_file_is_one_line(capsys, content, message):
    Path("x.yaml").write_text(content)
    assert message in complaint(capsys, "show", "x.yaml")


def test_show_of_a_name_longer_than_files_have_is_one_line(capsys):
    assert "is neither a file nor a built-in" in complaint(capsys, "show", "a" * 5000)


def test_a_network_with_a_weight_that_is_no_number_is_neither_exported_nor_judged(capsys):
    SearchSpace.load("demo_64px").smallest().save("a.json")
    network = build(Architecture.load("a.json"))
    next(network.parameters()).data.view(-1)[3] = np.nan
    save_weights(network, Path("w.safetensors"))
    chosen = ("--architecture", "a.json", "--weights", "w.safetensors")
    for command in (("export", *chosen, "--format", "onnx", "--out", "n.onnx"),
                    ("evaluate", *chosen, "--data", "digits")):  # fmt: skip
        found = complaint(capsys, *command)
        assert re.search(r"w\.safetensors: '.*' holds numbers that are not finite", found)
    assert not Path("n.onnx").exists()
