"""Models of others: measured as they are, or refused in one line that names file and reason."""

import json
import re

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nas import cli
from nas.deploy.weights import read_onnx
from nas.errors import UserError
from nas.latency.runtimes.base import random_inputs
from nas.training.distillation import load_teacher

FLOAT = TensorProto.FLOAT


def model(shape=(1, 3, 8, 8), kind=FLOAT, operator="Identity", output=FLOAT, opset=20, result=None):
    """One operator from ``x`` to ``y``."""
    node = helper.make_node(operator, ["x"], ["y"])
    ends = [helper.make_tensor_value_info("x", kind, shape)]
    results = [helper.make_tensor_value_info("y", output, shape if result is None else result)]
    graph = helper.make_graph([node], "g", ends, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def of_sequence():
    found = model()
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [1, 3]))
    found.graph.input[0].type.CopyFrom(kind)
    found.graph.output[0].type.CopyFrom(kind)
    return found


def without_input():
    value = numpy_helper.from_array(np.zeros((1, 3), np.float32))
    node = helper.make_node("Constant", [], ["y"], value=value)
    results = [helper.make_tensor_value_info("y", FLOAT, [1, 3])]
    graph = helper.make_graph([node], "g", [], results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def with_external(offset, length, location="w.bin"):
    """A model whose weight lies in another file, at a place that may not be there."""
    found = model(operator="Add")
    found.graph.node[0].input.append("w")
    weight = found.graph.initializer.add(
        name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.add(key=key, value=str(value))
    return found


def complaint(capsys, monkeypatch, *words):
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["nas", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (model(kind=TensorProto.STRING, output=TensorProto.STRING),
         r"input 'x' holds string; must hold float32, float16"),
        (of_sequence(), r"input 'x' is no tensor, but sequence$"),
        (without_input(), r"takes no input$"),
        (model(shape=None, result=[1]), r"is no ONNX model: Field 'shape' of 'type' is required"),
        (model(shape=(1, -3, 8, 8)), r"input 'x' has no fixed size: 1 x -3 x 8 x 8; "),
        (model(shape=(1, 3, 10**9, 10**9)), r"input 'x' has 3,000,000,000,000,000,000 numbers, the "),
        (model(operator="Relu", opset=9999), r"is no ONNX model: |does not run it: "),
        (model(operator="NoSuchOperator"), r"is no ONNX model: No Op registered for NoSuchOperator"),
        (with_external(10**12, 12), r"is no ONNX model: "),
        (with_external(-5, 12), r"is no ONNX model: "),
        (with_external("x", 12), r"is no ONNX model: "),
        (with_external(0, 12, "../w.bin"), r"is no ONNX model: "),
        (with_external(0, 12, "/etc/passwd"), r"is no ONNX model: "),
        (with_external(0, 12, "nowhere.bin"), r"is no ONNX model: "),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)  # fmt: skip
def test_a_model_that_cannot_be_measured_is_one_line(tmp_path, capsys, monkeypatch, found, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(bytes(12))
    (tmp_path / "m.onnx").write_bytes(found.SerializeToString())
    line = complaint(capsys, monkeypatch, "bench", "m.onnx")
    assert re.match(rf"nas: m\.onnx: (onnxruntime )?({message})", line), line


def test_a_model_that_fails_when_it_runs_is_one_line(tmp_path, capfd, monkeypatch):
    found = model(operator="Gelu")
    found.graph.node[0].attribute.append(helper.make_attribute("approximate", "no such way"))
    helper.set_model_props(found, {"mean": "[0, 0, 0]", "std": "[1, 1, 1]"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(found.SerializeToString())
    Image.new("RGB", (9, 9)).save("p.png")
    for words in (("bench", "m.onnx"), ("classify", "m.onnx", "p.png")):
        line = complaint(capfd, monkeypatch, *words)
        assert line.startswith("nas: m.onnx: onnxruntime does not run it: "), line
        assert "approximation_algorithm: no such way" in line


@pytest.mark.parametrize("suffix", ["onnx", "json", "txt", "textproto", "onnxtxt", "onnxjson"])
@pytest.mark.parametrize(
    "content",
    [
        b"# no model at all\n" * 100,
        b"",
        json_format.MessageToJson(model()).encode(),
        text_format.MessageToString(model()).encode(),
        json.dumps({"a": 1}).encode(),
        np.random.default_rng(0).bytes(5000),
    ],
    ids=["text", "empty", "json form", "text form", "json", "random"],
)
def test_a_file_in_another_form_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r": is no ONNX model: .") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


def test_the_suffix_does_not_matter_where_the_content_is_a_model(tmp_path):
    (tmp_path / "m.json").write_bytes(model().SerializeToString())
    assert read_onnx(tmp_path / "m.json") == model()


@pytest.mark.parametrize("kind", ["UINT8", "INT64", "BOOL", "FLOAT16", "DOUBLE"])
def test_inputs_of_other_numbers_are_measured(kind):
    number = TensorProto.DataType.Value(kind)
    found = random_inputs(model(kind=number, output=number))
    assert found["x"].dtype == helper.tensor_dtype_to_np_dtype(number)
    assert found["x"].shape == (1, 3, 8, 8)


def test_weights_that_are_listed_as_inputs_are_not_fed():
    found = model(operator="Add")
    found.graph.node[0].input.append("w")
    found.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "w"))
    found.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [8]))
    assert list(random_inputs(found)) == ["x"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (without_input(), "must take one float32 tensor of images"),
        (model(kind=TensorProto.INT64, output=TensorProto.INT64), "must take one float32 tensor"),
        (model(kind=TensorProto.STRING, output=TensorProto.STRING), "must take one float32 tensor"),
        (of_sequence(), "must take one float32 tensor of images"),
        (model(shape=()), "must take one float32 tensor of images"),
        (
            model(operator="Shape", output=TensorProto.INT64, result=[4]),
            "its first output must be a float32",
        ),
        (model(shape=("n", 3, 8, 8)), r"must tell 3 classes apart, has outputs of the shape"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_line(tmp_path, found, message):
    path = tmp_path / "t.onnx"
    path.write_bytes(found.SerializeToString())
    with pytest.raises(UserError, match=message) as caught:
        load_teacher(str(path), classes=("a", "b", "c"), image_size=8)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_fails_when_it_runs_is_one_line(tmp_path):
    found = model(shape=("n", 3, 8, 8), result=(7, 7))
    found.graph.initializer.append(numpy_helper.from_array(np.array([7, 7]), "shape"))
    found.graph.node[0].op_type = "Reshape"
    found.graph.node[0].input.append("shape")
    path = tmp_path / "t.onnx"
    path.write_bytes(found.SerializeToString())
    with pytest.raises(UserError, match=r"^teacher '.*t\.onnx': does not run: ") as caught:
        load_teacher(str(path), classes=("a", "b", "c"), image_size=8)
    assert "\n" not in str(caught.value)
