from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from nas.data import Dataset
from nas.data.augmentation import normalise
from nas.deploy.description import Description
from nas.deploy.export import describe, to_onnx
from nas.deploy.weights import save_weights
from nas.errors import UserError
from nas.network import build
from nas.preprocessing import Preprocessing
from nas.space import SearchSpace
from nas.training.alone import fresh_network
from nas.training.distillation import load_teacher, teacher_accuracy
from nas.training.evaluation import accuracy

DIGITS = "0123456789"
IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network(tiny_space: SearchSpace) -> nn.Module:
    return fresh_network(tiny_space.smallest(), seed=3, layer_scale=0.5).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_space: SearchSpace, network: nn.Module):
    folder = tmp_path_factory.mktemp("teachers")
    tiny_space.smallest().save(folder / "a.json")
    save_weights(network, folder / "w.safetensors")
    onnx.save(to_onnx(network, (3, 32, 32)), folder / "m.onnx")
    return folder


@pytest.mark.parametrize("spec", ["a.json:w.safetensors", "m.onnx"])
def test_a_teacher_says_what_its_network_says(
    files: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(files)
    teacher = load_teacher(spec, classes=DIGITS, image_size=32)
    found = teacher(IMAGES)
    assert not found.requires_grad
    torch.testing.assert_close(found, network(IMAGES).detach(), rtol=1e-3, atol=1e-4)


def test_a_model_of_any_batch_size_and_side_is_run_at_once(tmp_path: Path) -> None:
    images, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", 3, "side", "side"]), ("y", ["batch", 3]))
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "means", [images], [logits])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "open.onnx",
    )
    teacher = load_teacher(str(tmp_path / "open.onnx"), classes="abc", image_size=32)
    torch.testing.assert_close(teacher(IMAGES), IMAGES.mean((2, 3)))


def test_accuracy_of_a_teacher_is_that_of_its_network(
    files: Path, network: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    teacher = load_teacher("a.json:w.safetensors", classes=DIGITS, image_size=32)
    assert teacher_accuracy(teacher, digits.search, batch_size=50) == accuracy(
        network, digits.search
    )


@pytest.mark.parametrize(
    ("spec", "classes", "size", "message"),
    [
        ("a.json:w.safetensors", 7, 32, "must tell 7 classes apart, has 10 classes"),
        ("m.onnx", 7, 32, "must tell 7 classes apart, has 10 classes"),
        ("m.onnx", 10, 64, "must take images of 3x64x64, takes 3x32x32"),
        ("a.json:w.safetensors", 10, 64, "must take images of 3x64x64, takes 3x32x32"),
        ("a.json:x.safetensors", 10, 32, "x.safetensors: no such file"),
        ("x.onnx", 10, 32, "x.onnx: no such file"),
        ("a.json", 10, 32, r"teacher 'a.json': must be ARCHITECTURE:WEIGHTS or a file \*.onnx"),
        ("w.safetensors:", 10, 32, "must be ARCHITECTURE:WEIGHTS"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: str,
    classes: int,
    size: int,
    message: str,
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(UserError, match=message) as error:
        load_teacher(spec, classes=DIGITS[:classes], image_size=size)
    assert "\n" not in str(error.value)


def test_a_teacher_sees_images_by_its_own_mean_and_deviation(tmp_path, tiny_space, randomized):
    half = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    architecture = tiny_space.largest().with_preprocessing(half)
    network = randomized(build(architecture)).eval()
    architecture.save(tmp_path / "a.json")
    save_weights(network, tmp_path / "w.safetensors")
    model = to_onnx(network, architecture.input_shape)
    describe(model, Description.of(architecture))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(normalise(pixels, half))
    for spec in (f"{tmp_path / 'a.json'}:{tmp_path / 'w.safetensors'}", str(tmp_path / "a.onnx")):
        teacher = load_teacher(spec, classes=DIGITS, image_size=32)
        found = teacher(normalise(pixels))
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_teacher_with_metadata_of_others_is_one_line(tmp_path, network, tiny_space):
    model = to_onnx(network, tiny_space.smallest().input_shape)
    helper.set_model_props(model, {"mean": "[123.7, grey]"})
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    rule = r"other\.onnx: its metadata say in no known form how it sees pictures: mean \[123\.7"
    with pytest.raises(UserError, match=rule):
        load_teacher(str(tmp_path / "other.onnx"), classes=DIGITS, image_size=32)
