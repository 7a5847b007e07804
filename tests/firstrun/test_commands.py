"""The single commands that a run stands for are commands: each parses as the shell splits it."""

import shlex
from pathlib import Path

import pytest
import typer

from nas import cli
from nas.firstrun.commands import run_command, single_commands
from nas.firstrun.estimate import STAGES, Effort
from nas.firstrun.facts import DataFacts, SpaceFacts
from nas.firstrun.layout import Layout
from nas.firstrun.request import Request
from nas.firstrun.schedule import schedule_of

DATA = DataFacts(
    classes=6, train=1600, search=400, test=500, search_share=0.2, has_test=False, side=256,
    seconds=0.002,
)  # fmt: skip
PLACE = SpaceFacts(
    word="mobile_64px", name="mobile_96px", input_size=96, layers=85, sandwich_seconds=0.01,
    largest_seconds=0.003, forward_seconds=(0.001, 0.0004, 0.0001), visit_seconds=0.03,
    largest_ms=0.5, smallest_ms=0.08,
)  # fmt: skip
EFFORT = Effort(epochs=7, evaluations=24, retraining_epochs=9, reference_epochs=3, batch_size=48)
REQUESTS = [
    Request(data="folder:my photos", target_ms=1.1, minutes=10.0, seed=3),
    Request(data="folder:p", architecture="efficientnet_lite_0", weights="lite 0.safetensors"),
    Request(data="parquet:it's.parquet", space="tiny.yaml", weights="w.pth", device="cuda"),
    Request(
        data="digits", device="ssh:pi", python="my venv/bin/python", workdir="/tmp/n", cores="4-7"
    ),
]


def parsed(words):
    """The parameters of a command as its function would get them."""
    assert words[0] == "nas"
    group = typer.main.get_command(cli._application(words[1]))
    command = group.commands[words[1]]
    return command.make_context(words[1], list(words[2:])).params


def commands(request):
    schedule = schedule_of(DATA, PLACE, EFFORT, target_ms=0.3, training_device="cpu")
    at = Layout.of(Path("runs/my photos"), request, schedule)
    return at, single_commands(request, schedule, at)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda it: it.data)
def test_every_command_parses_after_the_shell_has_split_it(request_):
    _, found = commands(request_)
    assert list(found) == list(STAGES)
    for words in found.values():
        assert tuple(shlex.split(shlex.join(words))) == words
        parsed(words)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda it: it.data)
def test_the_command_of_the_run_asks_for_the_same(request_):
    found = parsed(run_command(request_, "runs/x"))
    assert {name: found[name] for name in Request.model_fields} == request_.model_dump()
    assert found["out"] == Path("runs/x")


def test_each_command_works_on_what_those_before_it_wrote():
    at, found = commands(REQUESTS[0])
    params = {stage: parsed(words) for stage, words in found.items()}
    assert params["space"]["out"] == at.space == Path("runs/my photos/mobile_96px.json")
    assert params["table"]["space"] == params["training"]["space"] == str(at.space)
    assert params["slimming"]["tables"] == [str(params["table"]["out"])]
    assert (
        params["slimming"]["run"] == params["training"]["run"] == params["retraining"]["supernet"]
    )
    assert Path(params["retraining"]["architecture"]).parent == params["slimming"]["out"]
    assert Path(params["export"]["architecture"]).parent == params["retraining"]["run"]
    assert (params["space"]["input_size"], params["training"]["epochs"]) == (96, 7)
    assert params["training"]["seed"] == params["retraining"]["seed"] == 3
    assert params["training"]["search_share"] == 0.2
    assert params["training"]["batch_size"] == 48


def test_with_pretrained_weights_the_reference_trains_as_long_as_planned():
    _, found = commands(REQUESTS[1])
    training = parsed(found["training"])
    assert training["weights"] == "lite 0.safetensors"
    assert training["reference_epochs"] == 3
    assert found["space"][2] == "mobile_64px"


def test_a_space_of_ones_own_keeps_its_input_sizes():
    _, found = commands(REQUESTS[2])
    assert "--input-size" not in found["space"]


def test_the_table_of_any_device_lies_in_the_folder_of_the_run():
    schedule = schedule_of(DATA, PLACE, EFFORT, target_ms=0.3)
    request = Request(data="folder:p", device="ssh:me@pi/cuda")
    at = Layout.of(Path("o"), request, schedule)
    assert at.table == Path("o/mobile_96px_ssh_me_pi_cuda.csv")


def test_the_table_is_measured_where_and_how_it_was_asked_for():
    _, found = commands(REQUESTS[-1])
    given = parsed(found["table"])
    assert given["device"] == "ssh:pi"
    assert (given["python"], given["workdir"]) == ("my venv/bin/python", "/tmp/n")
    assert REQUESTS[-1].place.cores == given["cores"] == "4-7"
