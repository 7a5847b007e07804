"""Int8 targets: what is measured for them is computed in int8, as a whole."""

import numpy as np
import onnx
import pytest

from nas.deploy.quantize import FUSED_OPERATORS, INTEGER_OPERATORS, precision_of, quantize
from nas.errors import UserError
from nas.families import LAYERS
from nas.latency.graphs import chain, operators, pointwise
from nas.latency.measure import VisitPlan, measure
from nas.latency.runtimes import RUNTIMES, OnnxRuntime, OpenVino
from nas.latency.table import build_command
from nas.latency.target import detect_again, detect_target, in_precision, placement

QUICK = VisitPlan(runs=2, span_ms=0.01, least_visits=2, most_visits=2)


@pytest.fixture(scope="module")
def int8():
    return detect_target(precision="int8")


def test_a_target_says_its_precision(target, int8):
    assert (target.precision, int8.precision) == ("float32", "int8")
    assert target.difference(int8) == ["precision: float32 here, int8 there"]
    assert detect_again(int8) == int8


def test_a_float32_table_is_refused_for_int8(table, int8):
    with pytest.raises(UserError, match=r"another target .*: precision: float32 here, int8 there"):
        table.require_target(int8)


def test_the_command_of_an_int8_table_says_so(table, int8):
    provenance = table.provenance.model_copy(update={"target": int8})
    assert "--precision int8 --out" in build_command(table.path, provenance)
    assert "--precision" not in build_command(table.path, table.provenance)


def test_a_runtime_without_int8_says_so(monkeypatch):
    class Float(OnnxRuntime):
        int8 = {}

    monkeypatch.setitem(RUNTIMES, "floats", Float)
    message = r"^precision 'int8' is not available to floats on device 'cpu'; available on: none$"
    with pytest.raises(UserError, match=message):
        detect_target(runtime="floats", precision="int8")


def test_runtimes_round_where_their_kernels_begin_and_end(int8):
    assert placement(int8) == INTEGER_OPERATORS
    assert placement(int8.model_copy(update={"runtime": "openvino"})) == FUSED_OPERATORS


def test_float32_and_quantized_graphs_are_taken_as_they_are(target, int8):
    graph = pointwise((8, 4, 4))
    assert in_precision(graph, target) is graph
    quantized = quantize(graph, np.ones((1, 8, 4, 4), np.float32), INTEGER_OPERATORS)
    assert in_precision(quantized, int8) is quantized


def test_every_convolution_of_a_probe_runs_in_int8(graphs, int8):
    layer = LAYERS["conv_ffn"](slot="stage1.block1.ffn", channels=16, expansion=2)
    probe = graphs.probe(layer, (16, 8, 8))
    for graph in (probe.long, probe.short):
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


def test_what_an_int8_target_measures_is_quantized(int8, monkeypatch):
    prepared = []
    prepare = OnnxRuntime.prepare

    def remember(self, model):
        prepared.append(precision_of(model))
        return prepare(self, model)

    monkeypatch.setattr(OnnxRuntime, "prepare", remember)
    batched = int8.model_copy(update={"batch": 2})
    graph = chain([pointwise((8, 4, 4))] * 2)
    for one in (int8, batched):
        (found,) = measure([graph], one, rng=np.random.default_rng(0), plan=QUICK)
        assert found.ms > 0
    assert prepared == ["int8", "int8"]


def test_openvino_runs_every_convolution_in_int8(graphs):
    pytest.importorskip("openvino", reason="not installed: pip install 'nas[openvino]'")
    target = detect_target(runtime="openvino", precision="int8")
    layer = LAYERS["conv_ffn"](slot="stage1.block1.ffn", channels=16, expansion=2)
    graph = in_precision(graphs.probe(layer, (16, 8, 8)).long, target)
    request = OpenVino("CPU", 1).request(graph, {"PERF_COUNT": True})
    request.infer()
    kernels = [
        node.exec_type
        for node in request.get_profiling_info()
        if node.node_type in ("Convolution", "GroupConvolution")
    ]
    assert len(kernels) == operators(graph)["Conv"] == 10
    assert all(kernel.lower().endswith(("i8", "u8")) for kernel in kernels), kernels
