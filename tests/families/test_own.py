"""Layers of a user's own: the page that explains them works, and mistakes are one line."""

import hashlib
import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from nas import cli
from nas.architecture import Architecture
from nas.deploy.formats import export_network
from nas.documents import Value, read_document
from nas.errors import UserError
from nas.latency.graphs import LayerGraphs
from nas.latency.table import space_hash
from nas.network import build, measure_size
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.batches import Batch
from nas.training.distillation import Distillation
from nas.training.supernets import add_gradients, draw_subnets

PAGE = (Path(__file__).parents[2] / "docs" / "own_block.md").read_text()
CODE, YAML = (
    re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1] for language in ("python", "yaml")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "gated_ffn.py").write_text(CODE)
    (folder / "own.yaml").write_text(YAML)
    return folder


@pytest.fixture(scope="module")
def space(folder):
    return SearchSpace.load(folder / "own.yaml")


@pytest.fixture(scope="module")
def supernet(space):
    torch.manual_seed(0)
    supernet = Supernet(space).double().eval()
    with torch.no_grad():
        for tensor in [*supernet.parameters(), *supernet.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.0)
    return supernet


def own_layers(architecture):
    return [layer for layer in architecture.layers if layer.kind == "gated_ffn"]


def test_the_commands_of_the_page_exist(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["nas", "show", "own.yaml"])
    cli.main()
    assert "own" in capsys.readouterr().out
    commands = {line.split()[1] for line in PAGE.splitlines() if line.startswith("nas ")}
    assert commands == {"show", "build-lut", "train-supernet", "slim"}


def test_a_space_with_own_layers_is_written_and_read_again(folder, space, tmp_path):
    (tmp_path / "space.json").write_text(space.to_json())
    assert SearchSpace.load(tmp_path / "space.json") == space
    assert space.with_classes(5).largest().layers[:-1] == space.largest().layers[:-1]
    assert space_hash(space) == space_hash(SearchSpace.load(folder / "own.yaml"))


def test_an_architecture_names_the_files_of_its_own_layers(folder, space, tmp_path):
    largest, smallest = space.largest(), space.smallest().with_classes(3)
    assert largest.with_classes(3).blocks == smallest.blocks
    path = tmp_path / "found.json"
    smallest.save(path)
    assert str(folder / "gated_ffn.py") in path.read_text()
    loaded = Architecture.load(path)
    assert loaded == smallest
    assert loaded.with_input_size(64).blocks == smallest.blocks
    assert build(loaded)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_subnet_is_the_largest_network_with_zeros(space, supernet):
    (wide,) = own_layers(with_kinds(space, 1, 0))[:1]
    (small,) = own_layers(space.decode([0, 1, 0, *[0] * (len(space.choices) - 3)]))[:1]
    assert (wide.channels, wide.expansion, small.channels, small.expansion) == (16, 2, 8, 1)
    module = small.module((8, 8, 8))().double().eval()
    masked = wide.module((16, 8, 8))().double().eval()
    state = {name: torch.zeros_like(it) for name, it in masked.state_dict().items()}
    for name, tensor in module.state_dict().items():
        key = f"{small.slot}:gated_ffn:{name}".replace(".", "/")
        if ".norm." in name:
            whole = supernet.state_dict()[f"{key}@{tensor.shape[0] if tensor.dim() else 8}"]
        else:
            whole = supernet.state_dict()[key]
        corner = tuple(slice(side) for side in tensor.shape)
        state[name][corner] = tensor[...] = whole[corner]
        if "running_var" in name:
            state[name][tensor.shape[0] :] = 1
    masked.load_state_dict(state)
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        y = masked(torch.cat([x, torch.zeros_like(x)], 1))
        torch.testing.assert_close(y[:, :8], module(x), rtol=1e-12, atol=1e-12)
        extracted = supernet.extract(of_layer(space, small)).get_submodule(small.slot)
        assert torch.equal(extracted(x), module(x))
    assert not y[:, 8:].any()


def with_kinds(space, first, second):
    """The largest architecture with these candidates in the two slots."""
    assignment = [size - 1 for size in space.sizes]
    assignment[space.kind_choices["stage1.block1.ffn"]] = first
    assignment[space.kind_choices["stage2.block1.ffn"]] = second
    return space.decode(assignment)


def of_layer(space, layer):
    rng = np.random.default_rng(0)
    return next(it for it in (space.sample(rng) for _ in range(1000)) if layer in it.layers)


def test_a_sandwich_step_reaches_every_weight_of_own_layers(space):
    supernet = Supernet(space).train()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    subnets = [*draw_subnets(space, np.random.default_rng(0), 1), with_kinds(space, 1, 0)]
    batch = Batch(images, labels, size=len(labels), resolution=space.largest_size)
    add_gradients(supernet, batch, [space.largest(), *subnets], Distillation(0.5))
    weights = {
        name: parameter.grad
        for name, parameter in supernet.named_parameters()
        if ":gated_ffn:" in name and "norm" not in name
    }
    assert len(weights) == 2 * 4 * 2
    assert all(grad is not None for grad in weights.values())


def test_a_table_has_rows_of_own_layers_that_name_the_version(space):
    rows = [key for key in space.layers() if key[0].startswith("gated_ffn@")]
    version = own_layers(space.smallest())[0].origin.sha256[:8]
    assert {signature.split()[0] for signature, _ in rows} == {f"gated_ffn@{version}"}
    assert len(rows) == 2 * 2 * 2
    graphs = LayerGraphs(templates={})
    for key in rows[:2]:
        graphs.graph(space.layers()[key], key[1])
    assert (graphs.exported, graphs.substituted) == (1, 1)


def test_a_batch_norm_that_is_not_folded_is_one_line(tmp_path):
    text = CODE.replace(
        "self.out = ConvNorm(hidden, channels)",
        "self.out = nn.Sequential(nn.BatchNorm2d(hidden), nn.Conv2d(hidden, channels, 1))",
    )
    (tmp_path / "gated_ffn.py").write_text(text)
    (tmp_path / "own.yaml").write_text(YAML)
    layers = SearchSpace.load(tmp_path / "own.yaml").layers()
    key = next(key for key in layers if key[0].startswith("gated_ffn@"))
    with pytest.raises(UserError, match="'gated_ffn': a BatchNormalization is left after folding"):
        LayerGraphs().graph(layers[key], key[1])


@pytest.mark.parametrize("form", ["onnx", "python"])
def test_own_layers_are_exported(space, form, tmp_path):
    architecture = space.smallest()
    network = build(architecture).eval()
    out = tmp_path / ("network.py" if form == "python" else "network.onnx")
    exported = export_network(architecture, network, form, out)
    assert exported.relative_difference < 1e-4
    for path, content in exported.files.items():
        path.write_bytes(content)
    if form == "python":
        text = out.read_text()
        assert "class Gated(" in text
        assert "import nas" not in text
        assert runpy.run_path(str(out))["load"]()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_file_of_version_0_1_which_must_not_be_edited_works_as_it_did(tmp_path):
    text = CODE.replace("from nas.families import Layer", "from nas.layers import Layer")
    text = text.replace("from nas.families.parts import", "from nas.blocks.norm import")
    assert "nas.families" not in text
    text = "from nas.layers import Attention4D, ConvFFN  # as base classes, say\n" + text
    (tmp_path / "gated_ffn.py").write_text(text)
    (tmp_path / "own.yaml").write_text(YAML)
    architecture = SearchSpace.load(tmp_path / "own.yaml").largest()
    assert own_layers(architecture)
    network = build(architecture).eval()
    exported = export_network(architecture, network, "python", tmp_path / "network.py")
    for path, content in exported.files.items():
        path.write_bytes(content)
    source = (tmp_path / "network.py").read_text()
    assert source.count("class ConvNorm(") == 1
    assert runpy.run_path(str(tmp_path / "network.py"))["load"]()(torch.zeros(1, 3, 32, 32)).shape


def test_a_layer_may_be_a_built_in_one_with_other_rules(tmp_path):
    (tmp_path / "narrow.py").write_text(
        "from typing import Literal\n"
        "from nas.families.efficientformer_v2.layers import ConvFFN\n"
        "class Narrow(ConvFFN):\n"
        '    kind: Literal["narrow_ffn"] = "narrow_ffn"\n'
        '    fixed = frozenset({"kernel"})\n'
    )
    text = YAML.replace("gated_ffn.py", "narrow.py").replace("gated_ffn", "narrow_ffn")
    (tmp_path / "own.yaml").write_text(text)
    space = SearchSpace.load(tmp_path / "own.yaml")
    assert build(space.largest())(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import torch\n", "import torch\n1 / 0\n", r"gated_ffn\.py:5: ZeroDivisionError: division"),
        ("class Gated(nn.Module):", "class Gated nn:",
         r"gated_ffn\.py:25: SyntaxError: invalid syntax"),
        ("def output_shape", "def shape",
         r"GatedFFN: must define output_shape\(self, input_shape\)"),
        ("def module", "def network", r"GatedFFN: must define module\(self, input_shape\), which"),
        ('"gated_ffn"', '"conv_ffn"', r"gated_ffn\.py: kind 'conv_ffn' exists already; choose"),
        ('"gated_ffn"', '"GatedFFN"', r"a kind must be in lower case .*, got 'GatedFFN'"),
        (' = "gated_ffn"', "", r"gated_ffn\.py: defines no layer: a subclass of nas\.families\.Layer"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_one_line(tmp_path, old, new, message):
    (tmp_path / "gated_ffn.py").write_text(CODE.replace(old, new))
    (tmp_path / "own.yaml").write_text(YAML)
    with pytest.raises(UserError, match=rf"own\.yaml:4:10: blocks\[0\]: .*{message}") as caught:
        SearchSpace.load(tmp_path / "own.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return x + self.out(y)", "return x + self.out(y.cpu())",
         r"stage1\.block1\.ffn: gated_ffn@.* on \(8, 8, 8\): its module fails: NotImplementedError"),
        ("return x + self.out(y)", "return self.out(y).mean(2, keepdim=True)",
         r"its module makes \(8, 1, 8\), output_shape says \(8, 8, 8\)"),
        ("return partial(Gated, self.channels, round(self.channels * self.expansion))",
         "return Gated(self.channels, self.channels)",
         r"module must return functools\.partial\(MODULE_CLASS, ARGUMENTS\.\.\.\), got Gated"),
        ("groups=hidden", "groups=4",
         r"channels per group of local\.conv must be the same at all widths, got \(2, 2\) and \(4"),
        ("self.gate = ConvNorm", "self.attention = nn.MultiheadAttention(hidden, 2)\n        "
         "self.gate = ConvNorm", r"channels per group of attention must be the same at all"),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_used_are_one_line(tmp_path, old, new, message):
    assert old in CODE
    (tmp_path / "gated_ffn.py").write_text(CODE.replace(old, new))
    (tmp_path / "own.yaml").write_text(YAML)
    space = SearchSpace.load(tmp_path / "own.yaml")
    with pytest.raises(UserError, match=message) as caught:
        Supernet(space)
    assert "\n" not in str(caught.value)


def test_a_missing_own_kind_is_named_among_the_known_ones(folder):
    (folder / "typo.yaml").write_text(YAML.replace("kind: gated_ffn", "kind: gatd_ffn"))
    with pytest.raises(UserError, match="unknown kind 'gatd_ffn'; did you mean 'gated_ffn'"):
        SearchSpace.load(folder / "typo.yaml")


def test_a_missing_or_changed_file_is_one_line_and_one_beside_the_document_will_do(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    (old / "gated_ffn.py").write_text(CODE + "# of another place\n")
    (old / "own.yaml").write_text(YAML)
    loaded = SearchSpace.load(old / "own.yaml")
    path = new / "space.json"
    path.write_text(loaded.to_json().replace(loaded.blocks[0].sha256, "0" * 64))
    with pytest.raises(UserError, match=r"space\.json:6:3: blocks\[0\].*outside .* is not run"):
        SearchSpace.load(path)
    (new / "gated_ffn.py").write_text(CODE)
    with pytest.raises(UserError, match=r"space\.json:6:3: blocks\[0\].*has changed since it was"):
        SearchSpace.load(path)
    (new / "gated_ffn.py").unlink()
    (old / "gated_ffn.py").rename(old / "away.py")
    with pytest.raises(UserError, match=r"gated_ffn\.py: cannot be read: No such file"):
        SearchSpace.load(path)
    (old / "away.py").rename(new / "gated_ffn.py")
    path.write_text(loaded.to_json())
    assert measure_size(SearchSpace.load(path).largest()) == measure_size(loaded.largest())


EVIL = """
from pathlib import Path
Path("ran").write_text("x")
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A function that writes a document into a folder of its own, and code beside that folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sent").mkdir()
    (tmp_path / "evil.py").write_text(EVIL + CODE + f"# {tmp_path}\n")
    space = {"name": "stranger", "input_size": 32, "classes": 3, "stem": {"kind": "conv_stem"}}
    space |= {"stages": [{"width": 8}], "head": {"kind": "classifier"}}
    layers = [
        {"slot": "stem", "kind": "conv_stem", "in_channels": 3, "out_channels": 8},
        {"slot": "head", "kind": "classifier", "in_channels": 8, "classes": 3},
    ]
    network = {"input_shape": [3, 32, 32], "layers": layers}

    def write(name, entry, kind="space"):
        path = tmp_path / "sent" / name
        path.write_text(json.dumps({**(space if kind == "space" else network), "blocks": [entry]}))
        return path

    return write


def evil(tmp_path, path="../evil.py", sha256=None):
    content = (tmp_path / "evil.py").read_bytes()
    return {"path": path, "sha256": sha256 or hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("kind", ["space", "network"])
@pytest.mark.parametrize(
    "entry",
    [
        lambda folder: "../evil.py",
        lambda folder: str(folder / "evil.py"),
        lambda folder: {"path": "../evil.py"},
        evil,
        lambda folder: evil(folder, str(folder / "evil.py")),
        lambda folder: "inside.py",  # below the document, but its hash is not recorded
        lambda folder: "link.py",  # below the document, but only by name
        lambda folder: evil(folder, "link.py"),
        lambda folder: {"path": "/dev/zero", "sha256": "0" * 64},  # would be read for ever
    ],
)
def test_code_that_a_document_names_is_not_run(tmp_path, stranger, capsys, kind, entry):
    (tmp_path / "sent" / "inside.py").write_text(EVIL + CODE)
    (tmp_path / "sent" / "link.py").symlink_to(tmp_path / "evil.py")
    path = stranger("stranger.json", entry(tmp_path), kind)
    with pytest.raises(UserError) as caught:
        (SearchSpace if kind == "space" else Architecture).load(path)
    assert re.search(
        r"stranger\.json:1:\d+: blocks\[0\]: .*(not run.*--trust \S+\.py|No such file)$",
        str(caught.value),
    )
    assert not Path("ran").exists()


def test_a_yaml_runs_what_lies_below_it_and_nothing_else(tmp_path, stranger):
    (tmp_path / "sent" / "below").mkdir()
    (tmp_path / "sent" / "below" / "mine.py").write_text(EVIL + CODE)
    SearchSpace.load(stranger("own.yaml", "below/mine.py"))
    assert Path("ran").exists()
    Path("ran").unlink()
    with pytest.raises(UserError, match=r"is not run"):
        SearchSpace.load(stranger("own.yaml", "../evil.py"))
    assert not Path("ran").exists()


def test_code_below_a_document_runs_if_its_hash_agrees(tmp_path, stranger):
    entry = evil(tmp_path, "inside.py")
    (tmp_path / "evil.py").rename(tmp_path / "sent" / "inside.py")
    SearchSpace.load(stranger("stranger.json", entry))
    assert Path("ran").exists()


def test_a_block_file_with_line_ends_of_windows_is_the_same_code(tmp_path):
    (tmp_path / "gated_ffn.py").write_text(CODE, newline="\n")
    (tmp_path / "own.yaml").write_text(YAML)
    written = SearchSpace.load(tmp_path / "own.yaml").to_json()
    (tmp_path / "space.json").write_text(written)
    (tmp_path / "gated_ffn.py").write_text(CODE, newline="\r\n")
    assert SearchSpace.load(tmp_path / "space.json").to_json() == written


@pytest.mark.parametrize("form", ["--trust {}", "--trust={}"])
def test_code_that_the_user_names_runs(tmp_path, stranger, monkeypatch, capsys, form):
    path = stranger("stranger.json", str(tmp_path / "evil.py"))
    words = form.format(tmp_path / "evil.py").split()
    monkeypatch.setattr("sys.argv", ["nas", "show", str(path), *words])
    cli.main()
    assert Path("ran").exists()


def test_the_advice_of_the_message_allows_it(tmp_path, stranger, monkeypatch, capsys):
    path = stranger("stranger.json", "../evil.py")
    monkeypatch.setattr("sys.argv", ["nas", "show", str(path)])
    with pytest.raises(SystemExit):
        cli.main()
    advice = capsys.readouterr().err.strip().partition("add ")[2]
    monkeypatch.setattr("sys.argv", ["nas", "show", str(path), *advice.split()])
    cli.main()
    assert Path("ran").exists()


def test_other_documents_that_hold_networks_run_nothing_either(tmp_path, stranger):
    class Holder(Value):
        network: Architecture

    document = read_document(stranger("stranger.json", evil(tmp_path), "network"))
    nested = replace(document, data={"network": document.data})
    with pytest.raises(UserError, match="is not run"):
        nested.validated(Holder)
    with pytest.raises(ValidationError, match="is not run"):
        Architecture.model_validate(document.data)
    assert not Path("ran").exists()


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)\n", "raise SystemExit\n"])
def test_a_block_file_that_ends_the_program_is_one_line(tmp_path, code):
    (tmp_path / "gated_ffn.py").write_text(code + CODE)
    (tmp_path / "own.yaml").write_text(YAML)
    with pytest.raises(UserError, match=r"gated_ffn\.py:\d: SystemExit"):
        SearchSpace.load(tmp_path / "own.yaml")


IN_ANOTHER_PROCESS = """
import sys
from nas.architecture import Architecture
from nas.space import SearchSpace
kind = SearchSpace if sys.argv[1].endswith("space.json") else Architecture
print(len(kind.load(sys.argv[1]).blocks))
"""


@pytest.mark.parametrize("name", ["space.json", "found.json"])
@pytest.mark.parametrize(
    "other", [None, pytest.param("# another file of that name\n", marks=pytest.mark.slow)]
)
def test_what_is_saved_elsewhere_brings_its_code_along(tmp_path, name, other):
    (tmp_path / "mine").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "mine" / "gated_ffn.py").write_text(CODE + f"# {tmp_path}\n")
    (tmp_path / "mine" / "own.yaml").write_text(YAML)
    if other:
        (tmp_path / "saved" / "gated_ffn.py").write_text(other)
    space = SearchSpace.load(tmp_path / "mine" / "own.yaml")
    saved = tmp_path / "saved" / name
    (space if name == "space.json" else space.largest()).save(saved)
    (space if name == "space.json" else space.largest()).save(saved)  # again: nothing is added
    assert len(list(saved.parent.glob("gated_ffn*.py"))) == (2 if other else 1)
    if other:
        assert (tmp_path / "saved" / "gated_ffn.py").read_text() == other
    done = subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, str(saved)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "1\n"
    if name == "space.json":
        assert SearchSpace.load(saved) == space
        assert space_hash(SearchSpace.load(saved)) == space_hash(space)


def test_the_source_of_a_block_that_needs_another_package_is_refused(tmp_path):
    needy = CODE.replace("import torch\n", "import numpy as np\nimport torch\n").replace(
        "return x + self.out(y)", "return x + np.float32(1) * self.out(y)"
    )
    (tmp_path / "gated_ffn.py").write_text(needy)
    (tmp_path / "own.yaml").write_text(YAML)
    architecture = SearchSpace.load(tmp_path / "own.yaml").smallest()
    with pytest.raises(UserError, match="numpy: is neither torch nor a part of Python"):
        export_network(architecture, build(architecture), "python", tmp_path / "network.py")
