"""Exports in every format: the files, the proof, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import nas
from nas.deploy.description import Description
from nas.deploy.export import (
    Examples,
    OnnxNetwork,
    agreement,
    describe,
    to_checked_int8,
    to_onnx,
)
from nas.deploy.formats import Rounding, export_network, files_of
from nas.deploy.quantize import FUSED_OPERATORS, INTEGER_OPERATORS, precision_of
from nas.deploy.timm import to_timm_state_dict
from nas.deploy.weights import load_weights, save_weights
from nas.errors import UserError
from nas.space import SearchSpace


@pytest.fixture(scope="module")
def architecture():
    return SearchSpace.load("demo_64px").smallest()


@pytest.fixture(scope="module")
def network(architecture):
    torch.manual_seed(0)
    network = nas.build(architecture).eval()
    with torch.no_grad():
        network.get_submodule("head").head.weight.normal_()  # predictions that differ
    return network


@pytest.fixture(scope="module")
def examples():
    generator = torch.Generator().manual_seed(0)
    return Examples(*torch.randn(2, 16, 3, 64, 64, generator=generator))


def test_python_is_a_source_and_its_weights(architecture, network):
    found = export_network(architecture, network, "python", Path("a/n.py"))
    assert list(found.files) == [Path("a/n.py"), Path("a/n.safetensors")]
    assert found.relative_difference == 0.0
    assert found.agreement is None


def test_timm_is_one_file_of_weights_by_its_names():
    architecture = nas.Architecture.load("efficientvit_m0").with_classes(5)
    network = nas.build(architecture).eval()
    found = export_network(architecture, network, "timm", Path("t.safetensors"))
    assert found.relative_difference <= 1e-4
    data = found.files[Path("t.safetensors")]
    assert safetensors.torch.load(data).keys() == to_timm_state_dict(network, architecture).keys()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = header["__metadata__"]
    assert (told["architecture"], told["num_classes"]) == ("efficientvit_m0", "5")
    assert json.loads(told["input_size"]) == 224
    with pytest.raises(UserError, match=r"^t\.onnx: --format timm writes a \.safetensors file$"):
        export_network(architecture, network, "timm", Path("t.onnx"))


def test_timms_own_network_proves_the_file_where_timm_runs(monkeypatch, timm):
    architecture = nas.Architecture.load("efficientvit_m0").with_classes(5)
    network = nas.build(architecture).eval()
    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: made(name, num_classes=4))
    message = r"^timm [0-9.]+\S* does not take the weights: .*size mismatch for head"
    with pytest.raises(UserError, match=message):
        export_network(architecture, network, "timm", Path("t.safetensors"))
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it fails, as where it is missing
    found = export_network(architecture, network, "timm", Path("t.safetensors"))
    assert found.relative_difference == 0.0


@pytest.mark.parametrize("form", ["onnx", "python", "timm"])
def test_a_network_with_one_weight_that_is_no_number_is_not_exported(form, architecture, tmp_path):
    network = nas.build(architecture).eval()
    name = next(name for name, it in network.state_dict().items() if it.dim() == 4)
    network.state_dict()[name].view(-1)[0] = float("nan")
    message = rf"the network in torch has numbers in '{name}' that are not finite"
    with pytest.raises(UserError, match=message):
        export_network(architecture, network, form, Path("n.py" if form == "python" else "n"))
    save_weights(network, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"w\.safetensors: '{name}' holds numbers that are not"):
        load_weights(nas.build(architecture), tmp_path / "w.safetensors")


@pytest.fixture(scope="module")
def model(architecture, network):
    return to_onnx(network, architecture.input_shape)


@pytest.mark.parametrize("placement", [INTEGER_OPERATORS, FUSED_OPERATORS])
def test_int8_is_judged_by_its_predictions(model, network, examples, placement):
    found, agreement = to_checked_int8(model, network, examples, placement)
    assert precision_of(found) == "int8"
    with torch.no_grad():
        expected = network(examples.judged).argmax(1)
    same = (OnnxNetwork(found)(examples.judged).argmax(1) == expected).float().mean()
    assert agreement == pytest.approx(float(same))
    assert agreement > 0.8


def test_int8_is_one_file_with_its_agreement(architecture, network, model, examples):
    rounding = Rounding(examples, INTEGER_OPERATORS)
    found = export_network(architecture, network, "onnx-int8", Path("n.onnx"), rounding)
    expected, agreement = to_checked_int8(model, network, *rounding)
    describe(expected, Description.of(architecture))
    assert found.files == {Path("n.onnx"): expected.SerializeToString()}
    assert (found.relative_difference, found.agreement) == (None, agreement)


def test_int8_that_predicts_other_classes_is_refused(model, network, examples):
    tiny = examples._replace(calibration=examples.calibration * 1e-3)  # the rest is cut off
    with pytest.raises(
        UserError, match=r"float32 network for \d+\.\d % of 16 images, fewer than 80"
    ):
        to_checked_int8(model, network, tiny, INTEGER_OPERATORS)


def test_agreement_is_the_share_of_equal_predictions():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [0.0, 5.0]])

    class First(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    assert agreement(First(), torch.nn.Identity(), images) == 0.5


def test_openvino_is_a_topology_and_its_weights(architecture, network, tmp_path):
    openvino = pytest.importorskip(
        "openvino", reason="not installed: pip install 'slimnas[openvino]'"
    )
    found = export_network(architecture, network, "openvino", tmp_path / "n.xml")
    assert [path.name for path in found.files] == ["n.xml", "n.bin"]
    assert found.relative_difference <= 1e-4
    for path, content in found.files.items():
        path.write_bytes(content)
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    core = openvino.Core()
    compiled = core.compile_model(tmp_path / "n.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    assert np.abs(compiled([image])[0] - expected).max() <= 1e-4 * np.abs(expected).max()
    weights = sum(tensor.numel() for tensor in network.parameters())
    assert len(found.files[tmp_path / "n.bin"]) > 3.5 * weights, "compressed to 16 bits"


@pytest.mark.parametrize(
    ("form", "out", "files"),
    [
        ("onnx", "m", ["m"]),
        ("onnx-int8", "m.onnx", ["m.onnx"]),
        ("openvino", "m.xml", ["m.xml", "m.bin"]),
        ("python", "m.py", ["m.py", "m.safetensors"]),
    ],
)
def test_files_of_a_format(form, out, files):
    assert [str(it) for it in files_of(form, Path(out))] == files


def test_another_suffix_is_refused():
    with pytest.raises(UserError, match=r"^m: --format python writes a \.py file, with a \.safe"):
        files_of("python", Path("m"))
