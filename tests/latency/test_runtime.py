"""Targets: what they tell apart, and what is refused."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from nas.errors import UserError
from nas.latency.graphs import chain, pointwise
from nas.latency.profile import classify
from nas.latency.runtimes import RUNTIMES, OnnxRuntime, OpenVino
from nas.latency.runtimes.base import random_inputs
from nas.latency.target import Target, accelerator, detect_again, detect_target, make_runtime


def test_detected_target_describes_this_machine(target):
    assert target.device == "cpu"
    assert target.provider == "CPUExecutionProvider"
    assert target.threads == 1
    assert target.cpu_model
    assert target == detect_target()
    assert Target.model_validate_json(target.model_dump_json()) == target


def test_difference_names_the_fields(target):
    other = target.model_copy(update={"threads": 2, "runtime_version": "0.1"})
    assert target.difference(target) == []
    assert target.difference(other) == [
        f"runtime_version: {target.runtime_version} here, 0.1 there",
        "threads: 1 here, 2 there",
    ]


def test_a_gpu_is_named_as_its_driver_names_it(tmp_path, monkeypatch, target):
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\ntest "$1" = --id=3 && echo "NVIDIA T4"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert accelerator("cuda") == "NVIDIA T4"
    assert accelerator("cpu") == ""
    gpu = target.model_copy(update={"device": "cuda", "accelerator": "NVIDIA T4"})
    assert gpu.hardware == "NVIDIA T4"
    assert target.hardware == target.cpu_model
    assert "accelerator: NVIDIA T4 here, none there" in gpu.difference(target)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UserError, match="device 'cuda': nvidia-smi does not report its name"):
        accelerator("cuda")


def test_unknown_device_lists_those_there_are():
    with pytest.raises(UserError, match=r"device 'gpu7' is not available .*; available: cpu"):
        detect_target("gpu7")


def test_devices_of_onnxruntime_are_named_after_its_providers():
    devices = RUNTIMES["onnxruntime"].devices()
    assert devices["cpu"] == "CPUExecutionProvider"
    assert set(devices.values()) <= set(onnxruntime.get_available_providers())
    assert "azure" not in devices


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDA:UserWarning")
@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is installed"
)
def test_a_provider_that_does_not_start_is_an_error():
    with pytest.raises(UserError, match="lists CUDAExecutionProvider, but cannot start it here"):
        OnnxRuntime("CUDAExecutionProvider", 1).prepare(pointwise((8, 4, 4)))


def test_unknown_runtime_suggests_one():
    with pytest.raises(UserError, match=r"runtime 'onnxruntim' is not known; did you mean"):
        detect_target(runtime="onnxruntim")


@pytest.mark.parametrize("threads", [0, 100_000])
def test_threads_must_be_cores_at_hand(threads):
    with pytest.raises(UserError, match=rf"threads: must be 1 to \d+, .* got {threads}"):
        detect_target(threads=threads)


def test_several_threads_are_timed_by_the_wall():
    two = Target.model_validate({**detect_target().model_dump(), "threads": 2})
    assert detect_target().statistic == "thread_cpu_quartile"
    assert make_runtime(two).threads == 2


def test_a_runtime_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = (
        r"^runtime 'openvino' is not installed; to install it: pip install \"nas\[openvino\]\"$"
    )
    with pytest.raises(UserError, match=message):
        detect_target(runtime="openvino")


def test_a_target_is_found_again(target):
    assert detect_again(target) == target


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    """An adapter of each runtime that is installed, on its first device."""
    adapter = RUNTIMES[request.param]
    try:
        adapter.version()
    except UserError as error:
        pytest.skip(str(error))
    return adapter(next(iter(adapter.devices().values())), 1)


def test_prepared_model_runs(runtime):
    runtime.prepare(chain([pointwise((8, 4, 4))] * 2))()


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino", reason="not installed: pip install 'nas[openvino]'")


def test_openvino_computes_in_float32(openvino, largest_graph):
    request = OpenVino("CPU", 1).request(largest_graph, {})
    request.infer()
    (images,) = random_inputs(largest_graph).values()
    session = onnxruntime.InferenceSession(largest_graph.SerializeToString())
    expected = session.run(None, {session.get_inputs()[0].name: images})[0]
    found = request.get_output_tensor().data
    # bfloat16, which it takes where it is not held, errs by 1e-2
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_openvino_is_found_on_the_cpu(openvino):
    target = detect_target(runtime="openvino")
    assert (target.provider, target.statistic) == ("CPU", "thread_cpu_quartile")
    assert target.runtime_version == openvino.__version__.split("-")[0]
    assert detect_again(target) == target
    with pytest.raises(UserError, match=r"device 'gpu7' is not available to openvino .*: cpu"):
        detect_target("gpu7", runtime="openvino")


def test_profile_names_the_classes_of_all_time(runtime, largest_graph):
    runs = runtime.profile(largest_graph, 4)
    assert len(runs) == 4
    found = classify(runs)
    assert {"1x1 convolutions", "depthwise convolutions", "softmax"} <= found.keys()
    assert "other" not in found, "an operator is in no class"


OWN_SHARE = """
import sys, time, onnx
from nas.latency.runtimes import RUNTIMES
name, provider, path = sys.argv[1:]
run = RUNTIMES[name](provider, 1).prepare(onnx.load(path))
shares = []
for _ in range(8):
    start = time.thread_time(), time.process_time()
    for _ in range(500):
        run()
    shares.append((time.thread_time() - start[0]) / (time.process_time() - start[1]))
print(max(shares))  # something may stir once, a second worker would work each time
"""


def test_the_calling_thread_does_all_the_work_where_its_clock_is_read(
    request, runtime, largest_graph, tmp_path
):
    devices = type(runtime).devices()
    if runtime.provider not in {devices[it] for it in runtime.works_in_caller if it in devices}:
        return
    onnx.save(largest_graph, tmp_path / "model.onnx")
    name = request.node.callspec.params["runtime"]
    # a process of its own: here other tests' threads may still be at work
    command = [sys.executable, "-c", OWN_SHARE, name, runtime.provider, tmp_path / "model.onnx"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(found.stdout) > 0.9, "another thread works too"
