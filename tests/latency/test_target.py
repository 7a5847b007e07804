"""Targets: the fields that distinguish them, refusals, and graphs in their precision."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from nas.deploy.quantize import FUSED_OPERATORS, INTEGER_OPERATORS, precision_of, quantize
from nas.errors import UserError
from nas.families import LAYERS
from nas.latency import runner
from nas.latency.graphs import chain, operators, pointwise
from nas.latency.measure import Patience, measure
from nas.latency.profile import classify
from nas.latency.runtimes import RUNTIMES, OnnxRuntime, OpenVino
from nas.latency.runtimes.base import random_inputs
from nas.latency.table import build_command
from nas.latency.target import (
    Target,
    accelerator,
    clock_of,
    detect_again,
    detect_target,
    in_precision,
    placement,
)
from nas.latency.visits import pack


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
    assert detect_target().clock == "thread_cpu"
    assert clock_of(threads=2, works_in_caller=True, is_fine=True) == "wall"


def test_a_runtime_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = (
        r"^runtime 'openvino' is not installed; to install it: pip install \"slimnas\[openvino\]\"$"
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
    return pytest.importorskip("openvino", reason="not installed: pip install 'slimnas[openvino]'")


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
    assert (target.provider, target.clock) == ("CPU", "thread_cpu")
    assert target.runtime_version == openvino.__version__.split("-")[0]
    assert detect_again(target) == target
    with pytest.raises(UserError, match=r"device 'gpu7' is not available to openvino .*: cpu"):
        detect_target("gpu7", runtime="openvino")


@pytest.fixture
def mnn():
    """The runner's adapter, where it is installed."""
    pytest.importorskip("MNN", reason="not installed: pip install 'slimnas[mnn]'")
    return runner.start_engine("mnn")


def test_mnn_computes_the_same_in_every_run(mnn, largest_graph):
    content, inputs = largest_graph.SerializeToString(), random_inputs(largest_graph)
    session = onnxruntime.InferenceSession(content)
    (expected,) = session.run(None, dict(inputs))
    made = runner.MnnSession(content, inputs, "CPU", 1)
    for _ in range(3):  # a run writes over what it was given
        made.run()
        (found,) = made.outputs().values()
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_mnn_says_what_it_lacks_and_prints_nothing(mnn, capfd):
    given, taken = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 4, 4)) for name in "xy"
    )
    graph = helper.make_graph([helper.make_node("DFT", ["x"], ["y"])], "g", [given], [taken])
    model = helper.make_model(graph)
    with pytest.raises(RuntimeError, match=r"^it lacks ONNX::DFT$"):
        mnn.prepare(model.SerializeToString(), random_inputs(model), "CPU", 1)
    assert capfd.readouterr() == ("", "")


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


QUICK = Patience(least=2, most=2)


@pytest.fixture(scope="module")
def int8():
    return detect_target(precision="int8")


def test_a_target_names_its_precision(target, int8):
    assert (target.precision, int8.precision) == ("float32", "int8")
    assert target.difference(int8) == ["precision: float32 here, int8 there"]
    assert detect_again(int8) == int8


def test_a_float32_table_is_refused_for_int8(table, int8):
    with pytest.raises(UserError, match=r"another target .*: precision: float32 here, int8 there"):
        table.require_target(int8)


def test_the_command_of_an_int8_table_names_the_precision(table, int8):
    provenance = table.provenance.model_copy(update={"target": int8})
    assert "--precision int8 --out" in build_command(table.path, provenance)
    assert "--precision" not in build_command(table.path, table.provenance)


def test_a_runtime_without_int8_is_an_error(monkeypatch):
    class Float(OnnxRuntime):
        int8 = {}

    monkeypatch.setitem(RUNTIMES, "floats", Float)
    message = r"^precision 'int8' is not available to floats on device 'cpu'; available on: none$"
    with pytest.raises(UserError, match=message):
        detect_target(runtime="floats", precision="int8")


@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        (("x86_64", "avx2", "avx_vnni"), 8),
        (("x86_64", "avx512f", "avx512_vnni"), 8),
        (("AMD64", "amx_int8"), 8),
        (("x86_64", "avx2", "fma"), 7),
        (("AMD64", "avx512f"), 7),
        (("aarch64", "asimd"), 8),
    ],
)
def test_runtimes_round_where_their_kernels_begin_and_end(int8, flags, bits):
    here = int8.model_copy(update={"cpu_flags": flags})
    assert placement(here) == INTEGER_OPERATORS._replace(weight_bits=bits)
    openvino = here.model_copy(update={"runtime": "openvino"})
    assert placement(openvino) == FUSED_OPERATORS._replace(weight_bits=bits)
    for wanted in (7, 8):
        assert placement(here, wanted) == INTEGER_OPERATORS._replace(weight_bits=wanted)


def test_float32_and_quantized_graphs_are_taken_as_they_are(target, int8):
    graph = pointwise((8, 4, 4))
    assert in_precision(graph, target) is graph
    quantized = quantize(graph, np.ones((1, 8, 4, 4), np.float32), INTEGER_OPERATORS)
    assert in_precision(quantized, int8) is quantized


def test_every_convolution_of_a_probe_runs_in_int8(graphs, int8):
    layer = LAYERS["conv_ffn"](slot="stage1.block1.ffn", channels=16, expansion=2)
    probe = graphs.probe(layer, (16, 8, 8))
    for graph in (made.make() for made in probe.graphs):
        executed = OnnxRuntime("CPUExecutionProvider", 1).operators(in_precision(graph, int8))
        assert executed["QLinearConv"] == operators(graph)["Conv"]
        assert executed["Conv"] == 0
        # one pair on each side of each activation, none twice between two layers
        assert executed["QuantizeLinear"] == 1 + operators(graph)["Gelu"]


def test_a_network_is_rounded_once_between_its_layers(largest_graph, int8):
    found = in_precision(largest_graph, int8)
    producers = {name: node.op_type for node in found.graph.node for name in node.output}
    doubled = [
        node
        for node in found.graph.node
        if node.op_type == "QuantizeLinear" and producers.get(node.input[0]) == "DequantizeLinear"
    ]
    assert doubled == []
    onnx.checker.check_model(found, full_check=True)


def test_graphs_are_quantized_for_an_int8_target(int8):
    graph = chain([pointwise((8, 4, 4))] * 2)
    for batch in (1, 2):
        target = int8.model_copy(update={"batch": batch})
        (found,) = measure([graph], target, rng=np.random.default_rng(0), patience=QUICK)
        assert found.warm.ms > 0
        packed, content = pack(graph, target)
        assert precision_of(onnx.load_model_from_string(content)) == "int8"
        assert packed.inputs[0].shape == (batch, 8, 4, 4)


def test_openvino_runs_every_convolution_in_int8(graphs):
    pytest.importorskip("openvino", reason="not installed: pip install 'slimnas[openvino]'")
    target = detect_target(runtime="openvino", precision="int8")
    layer = LAYERS["conv_ffn"](slot="stage1.block1.ffn", channels=16, expansion=2)
    graph = in_precision(graphs.probe(layer, (16, 8, 8)).cold[0][0].make(), target)
    request = OpenVino("CPU", 1).request(graph, {"PERF_COUNT": True})
    request.infer()
    kernels = [
        node.exec_type
        for node in request.get_profiling_info()
        if node.node_type in ("Convolution", "GroupConvolution")
    ]
    assert len(kernels) == operators(graph)["Conv"] == 10
    assert all(kernel.lower().endswith(("i8", "u8")) for kernel in kernels), kernels
