"""Standalone source files: they compute the same, bit for bit, where this package is not."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import nas
from nas.architecture import Architecture
from nas.deploy.standalone import call_text, source_file
from nas.deploy.weights import read_tensors, save_weights
from nas.families import LAYERS
from nas.space import SearchSpace

ALONE = """
import sys, importlib.util
sys.modules["nas"] = sys.modules["safetensors"] = None  # importing either fails
import numpy as np, torch
torch.set_num_threads(1)
path, images, out = sys.argv[1:]
specification = importlib.util.spec_from_file_location("network", path)
module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
with torch.no_grad():
    np.save(out, module.load()(torch.from_numpy(np.load(images))).numpy())
"""


@pytest.fixture(scope="module")
def architecture():
    return SearchSpace.load("demo_64px").largest()


def test_a_standalone_file_computes_the_same_without_this_package(architecture, tmp_path):
    torch.manual_seed(0)
    network = nas.build(architecture).eval()
    source = tmp_path / "network.py"
    source.write_text(source_file(architecture))
    save_weights(network, tmp_path / "network.safetensors")
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    paths = source, tmp_path / "images.npy", tmp_path / "logits.npy"
    command = [sys.executable, "-I", "-c", ALONE, *map(str, paths)]
    subprocess.run(command, check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.array_equal(np.load(tmp_path / "logits.npy"), expected)


def test_every_published_layer_has_source_that_builds_it():
    built_already: set[str] = set()
    for name in nas.space.built_in_architectures():
        architecture = Architecture.load(name)
        structures = {layer.structure for layer in architecture.layers}
        if structures <= built_already:
            continue
        built_already |= structures
        text = source_file(architecture)
        assert "nas" not in {line.split()[1].split(".")[0] for line in _imports(text)}
        names: dict[str, object] = {"__file__": "network.py"}
        with torch.device("meta"):
            exec(compile(text, name, "exec"), names)
            built = names["build"]().state_dict()
            expected = nas.build(architecture).state_dict()
        assert {it: tensor.shape for it, tensor in built.items()} == {
            it: tensor.shape for it, tensor in expected.items()
        }


def test_the_file_has_no_more_than_the_network_needs(architecture):
    text = source_file(architecture)
    assert "def fold" not in text
    assert "type: ignore" not in text
    smallest = source_file(SearchSpace.load("demo_64px").smallest())
    assert "class Attention4D" in text
    assert "class Attention4D" not in smallest


def test_calls_are_written_as_python_reads_them():
    layer = LAYERS["conv_ffn"](slot="stage1.block1.ffn", channels=8, expansion=2)
    assert call_text(layer.module((8, 4, 4))) == 'ConvFFNModule(8, 16, "gelu", kernel=3)'
    layer = LAYERS["classifier"](slot="head", in_channels=8, classes=5, distillation=False)
    assert call_text(layer.module((8, 4, 4))) == "ClassifierModule(8, 5, distillation=False)"


def test_the_reader_reads_what_is_saved(architecture, tmp_path):
    network = nas.build(architecture)
    save_weights(network, tmp_path / "w.safetensors")
    found = read_tensors(tmp_path / "w.safetensors")
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(found[name].dtype == expected[name].dtype for name in expected)


def _imports(text):
    return [line for line in text.splitlines() if line.startswith(("import ", "from "))]
