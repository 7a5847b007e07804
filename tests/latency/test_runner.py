"""The file that measures: what it needs, how it answers, a machine that gets hot, its lock."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from nas.latency import runner
from nas.latency.graphs import chain, pointwise
from nas.latency.runtimes.base import input_kinds
from nas.latency.target import detect_target
from nas.latency.visits import pack

SOURCE = Path(runner.__file__)
NEEDED = {"numpy"}
IMPORTED = {"mnn": {"MNN", "_tools"}}
"""By runtimes of more than one module, or of another name."""


def test_the_last_runs_of_a_visit_count_by_their_median():
    warming = [9.0, 8.0, 7.0, 6.0] + [0.1] * 7
    sample = runner.Sample([*warming, 5.0, 4.0, 2.0, 1.0, 3.0], cold=20.0)
    assert sample.warm == 3.0
    assert sample.runs == 17


def test_it_needs_the_standard_library_numpy_and_a_runtime_within_its_own_functions():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    others = list(tree.body)
    for runtime in runner.ENGINES:
        own = [it for it in others if getattr(it, "name", "").lower().startswith(runtime)]
        modules = {name for it in own for name in imported(it)}
        assert modules - sys.stdlib_module_names == IMPORTED.get(runtime, {runtime})
        others = [it for it in others if it not in own]
    everywhere = {name for it in others for name in imported(it)}
    assert everywhere - NEEDED <= sys.stdlib_module_names


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module.partition(".")[0]


def test_a_system_that_hides_its_load_is_measured_all_the_same(monkeypatch):
    def hidden():
        raise OSError

    monkeypatch.setattr(runner.os, "getloadavg", hidden)
    assert runner.conditions()["load"] is None


@pytest.mark.parametrize(("seconds", "is_fine"), [(0.0, True), (2e-5, False)])
def test_a_clock_that_takes_long_to_read_is_not_read(monkeypatch, seconds, is_fine):
    def read():  # as where each call of the system is traced
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            pass
        return 0

    monkeypatch.setattr(runner.time, "thread_time_ns", read)
    assert runner.has_fine_clock() is is_fine


@pytest.mark.skipif(not shutil.which("pypy3"), reason="no Python 3.9 here: apt-get install pypy3")
def test_an_older_python_understands_it_up_to_numpy():
    code = "import sys, runpy; sys.modules['numpy'] = None; runpy.run_path(sys.argv[1])"
    found = subprocess.run(
        ["pypy3", "-c", code, SOURCE], capture_output=True, text=True, check=False
    )
    assert "numpy is missing; install it: " in found.stderr
    assert "Traceback" not in found.stderr


def open_request(model, name="g", **more):
    packed, content = pack(model, detect_target())
    return {
        "do": "open", "name": name, "sha256": packed.sha256, "inputs": input_kinds(model),
        "runtime": "onnxruntime", "provider": "CPUExecutionProvider", "threads": 1, **more,
    }, content  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(runner, "CACHES_BYTES", 1000)


def answers(made, request, payload=b""):
    """All replies; how long it took to open a graph is left out."""
    replies = list(made.answer(request, payload))
    for reply in replies:
        if "opened" in reply:
            assert reply.pop("seconds") > 0
    return replies


def test_visits_are_answered_by_raw_samples_and_what_the_machine_is_like():
    made = runner.Runner()
    assert answers(made, *open_request(pointwise((4, 4, 4)))) == [{"opened": "g"}]
    request = {"do": "visit", "turns": [["g"], ["g"]], "clock": "wall"}
    *visits, end = answers(made, request)
    assert [visit["graph"] for visit in visits] == ["g", "g"]
    for visit in visits:
        assert runner.LEAST_RUNS <= len(visit["ms"]) <= runner.MOST_RUNS
        assert min(*visit["ms"], visit["cold_ms"]) > 0
    assert end["visited"] == 2
    assert {"system", "python", "numpy", "governor", "megahertz", "celsius", "load"} == set(
        end["conditions"]
    )
    json.dumps(answers(made, request))


def test_nothing_is_visited_where_a_graph_is_not_open():
    made = runner.Runner()
    answers(made, *open_request(pointwise((4, 4, 4))))
    request = {"do": "visit", "turns": [["g", "other"]], "clock": "wall"}
    assert answers(made, request) == [{"error": "other: is not open"}]


def test_graphs_stay_in_the_folder_by_their_hashes(tmp_path):
    made = runner.Runner(folder=str(tmp_path))
    request, content = open_request(pointwise((4, 4, 4)))
    assert answers(made, {"do": "kept"}) == [{"kept": []}]
    answers(made, request, content)
    assert answers(made, {"do": "kept"}) == [{"kept": [request["sha256"]]}]
    assert answers(runner.Runner(folder=str(tmp_path)), request) == [{"opened": "g"}]
    file = tmp_path / f"{request['sha256']}{runner.SUFFIX}"
    file.write_bytes(content[:-1])
    (reply,) = answers(made, request)
    assert "was damaged, and is set aside; send it again" in reply["failed"]
    assert answers(made, request, content) == [{"opened": "g"}]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    made = runner.Runner(folder=str(tmp_path / "nothing"))
    (reply,) = answers(made, *open_request(pointwise((4, 4, 4))))
    assert reply["failed"].endswith(
        "No such file or directory; name another folder there: --workdir"
    )


def test_the_oldest_graphs_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "KEPT_BYTES", 25)
    for age, name in enumerate("abc"):
        (tmp_path / f"{name}{runner.SUFFIX}").write_bytes(b"0123456789")
        os.utime(tmp_path / f"{name}{runner.SUFFIX}", (1000 - age, 1000 - age))
    runner.make_room(str(tmp_path))
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a.graph", "b.graph"]


def test_a_missing_runtime_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    (reply,) = answers(runner.Runner(), {"do": "describe", "runtime": "openvino", "device": "cpu"})
    install = f"{sys.executable} -m pip install openvino"
    assert reply == {"error": f"runtime 'openvino' is missing; install it: {install}"}


def test_a_runtime_that_dies_at_import_is_named_with_its_signal(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), 4)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(runner.Refusal, match=r"^onnxruntime .* dies there when .* \(signal 4\)"):
        runner.require_import("onnxruntime")


@pytest.mark.parametrize(
    ("text", "cores"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("4,6-7", [4, 6, 7])]
)
def test_cores_are_numbers_and_ranges(text, cores):
    assert runner.parse_cores(text) == cores


@pytest.fixture
def kernel(monkeypatch):
    """What the kernel takes, one after the other."""
    ms = [1.0] * runner.BURSTS
    monkeypatch.setattr(runner.Guard, "kernel_ms", lambda self: ms.pop(0))
    return ms


def test_a_hot_machine_rests_until_it_is_as_fast_as_before(kernel):
    kernel += [1.05, 1.5, 1.5, 1.5, 1.5, 1.2, 1.0]
    slept = []
    guard = runner.Guard(slept.append)
    for _ in range(runner.SLOW_LOOKS):
        assert list(guard.rest()) == [], "others may be on the core for a moment"
    assert list(guard.rest()) == pytest.approx([0.5, 0.2])
    assert slept == [runner.WAIT_SECONDS] * 2
    assert kernel == []


def test_a_machine_that_stays_slow_is_as_it_is(kernel):
    kernel += [2.0] * 100
    guard = runner.Guard(lambda seconds: None)
    waits = [len(list(guard.rest())) for _ in range(2 * runner.SLOW_LOOKS)]
    assert waits == [0, 0, runner.MOST_WAITS, 0, 0, 0]
    kernel[:] = [1.0] + [2.0] * 100
    waits = [len(list(guard.rest())) for _ in range(2 * runner.SLOW_LOOKS)]
    assert waits == [0, 0, 0, runner.MOST_WAITS // 2, 0, 0]


def test_the_kernel_takes_time():
    assert runner.Guard(lambda seconds: None).baseline > 0


def test_two_runners_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_TRIES", 2)
    message = rf"another run, process {os.getpid()}, measures there"
    with (
        runner.held(str(tmp_path)),
        pytest.raises(runner.Refusal, match=message),
        runner.held(str(tmp_path)),
    ):
        pass
    with runner.held(str(tmp_path)):
        pass


def test_a_request_that_was_cut_is_none(tmp_path):
    file = tmp_path / "r"
    file.write_bytes(b'{"do": "kept"}\n{"do": "open", "bytes": 4}\nab')
    with file.open("rb") as stream:
        assert list(runner.requests(stream)) == [({"do": "kept"}, b"")]


def test_inputs_are_the_same_numbers_at_each_call():
    kinds = [("a", (2, 3), "float32"), ("b", (4,), "int64"), ("c", (2,), "float16")]
    one, two = runner.made_up(kinds), runner.made_up(kinds)
    assert {name: (it.shape, str(it.dtype)) for name, it in one.items()} == {
        name: (shape, number) for name, shape, number in kinds
    }
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not one["b"].any()
    assert one["a"].std() > 0.1


def test_a_graph_that_the_runtime_refuses_is_told():
    model = chain([pointwise((4, 4, 4))])
    model.graph.node[0].op_type = "Nonsense"
    (reply,) = answers(runner.Runner(), *open_request(model))
    assert reply["at"] == "open"
    assert "Nonsense" in reply["failed"]


def test_outputs_are_told_and_thinned():
    model = pointwise((4, 64, 64))
    request, content = open_request(model)
    ((name, *_),) = request["inputs"]
    (told,) = answers(runner.Runner(), {**request, "do": "compute"}, content)
    image = runner.made_up(request["inputs"])[name].reshape(4, -1).astype(np.float64)
    weight, bias = (numpy_helper.to_array(it) for it in model.graph.initializer)
    expected = (weight[:, :, 0, 0] @ image + bias[:, None]).reshape(-1)
    (outputs,) = told["outputs"].values()
    assert len(outputs) == runner.MOST_TOLD < expected.size
    assert np.allclose(outputs, expected[:: expected.size // runner.MOST_TOLD], atol=1e-5)


def test_what_cannot_be_computed_is_told():
    model = chain([pointwise((4, 4, 4))])
    model.graph.node[0].op_type = "Nonsense"
    request, content = open_request(model)
    (reply,) = answers(runner.Runner(), {**request, "do": "compute"}, content)
    assert reply["error"].startswith("onnxruntime does not run it: ")
