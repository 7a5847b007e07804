"""Weights of others: files, namings, precisions, input sizes and classes, and what is refused."""

import re

import pytest
import torch
from safetensors.torch import save_file

from nas.architecture import Architecture
from nas.deploy.pretrained import (
    class_axes,
    load_finished,
    read_pretrained,
    read_tensors_of,
)
from nas.deploy.timm import to_timm_state_dict
from nas.errors import UserError
from nas.network import build


@pytest.fixture(scope="module")
def lite(randomized):
    """EfficientNet-Lite 0 at 64 px, and a network of it."""
    architecture = Architecture.load("efficientnet_lite_0").with_input_size(64)
    return architecture, randomized(build(architecture)).eval()


@pytest.fixture(scope="module")
def attentive(randomized):
    """A network with attention biases, whose number depends on the input size."""
    architecture = Architecture.load("efficientformer_v2_s0").with_input_size(64)
    return architecture, randomized(build(architecture)).eval()


def same(found, network):
    state = network.state_dict()
    assert found.state.keys() <= state.keys()
    for name, tensor in found.state.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), name


def module_names(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


WRAPPINGS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"lr": 0.1}},
    "averaged": lambda state: {
        "state_dict": {name: torch.zeros_like(it) for name, it in state.items()},
        "state_dict_ema": state,
    },
    "several processes": lambda state: {"model": module_names(state)},
}


@pytest.mark.parametrize("naming", ["ours", "timm"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_state_dict_is_found_where_trainings_keep_it(lite, tmp_path, naming, wrapping):
    architecture, network = lite
    state = network.state_dict()
    if naming == "timm":
        state = to_timm_state_dict(network, architecture)
    path = tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](state), path)
    found = read_pretrained(path, architecture)
    same(found, network)
    assert (found.fresh, found.notes) == (frozenset(), ())


def test_a_finished_network_takes_timms_names_and_needs_its_classifier(lite, tmp_path, recorder):
    architecture, network = lite
    state, path, progress = (
        to_timm_state_dict(network, architecture),
        tmp_path / "w.pth",
        recorder(),
    )
    unknown = {f"layer{number}.{name}": it for number, (name, it) in enumerate(state.items())}
    for tensors, lines in ((state, 0), (unknown, 1)):
        torch.save(tensors, path)
        load_finished(found := build(architecture), architecture, path, progress)
        assert all(torch.equal(it, found.state_dict()[name])
                   for name, it in network.state_dict().items())  # fmt: skip
        assert len(progress.lines) == lines
    assert progress.lines[0].startswith(f"{path}: their names are unknown")
    three = architecture.with_classes(3)
    with pytest.raises(UserError, match=r"w\.pth: has no classifier of 3 classes$"):
        load_finished(build(three), three, path)


def test_safetensors_are_read_by_their_content(lite, tmp_path):
    architecture, network = lite
    path = tmp_path / "weights.bin"
    save_file({name: it.clone() for name, it in network.state_dict().items()}, path)
    same(read_pretrained(path, architecture), network)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_other_precisions_are_converted(lite, tmp_path, precision):
    architecture, network = lite
    state = {
        name: it.to(precision) if it.is_floating_point() else it
        for name, it in network.state_dict().items()
    }
    torch.save(state, tmp_path / "half.pt")
    found = read_pretrained(tmp_path / "half.pt", architecture)
    assert {it.dtype for it in found.state.values()} == {torch.float32, torch.int64}
    assert torch.equal(found.state["head.head.bias"], state["head.head.bias"].float())


def test_another_classifier_is_left_out_and_said(lite, tmp_path):
    architecture, network = lite
    torch.save(to_timm_state_dict(network, architecture), tmp_path / "imagenet.pth")
    six = architecture.with_classes(6)
    found = read_pretrained(tmp_path / "imagenet.pth", six)
    assert found.fresh == {"head.head.weight", "head.head.bias"} == set(class_axes(six))
    assert found.notes == ("their classifier of 1,000 classes is replaced by one of 6",)
    started = build(six)
    before = started.state_dict()["head.head.weight"].clone()
    found.load_into(started)
    assert torch.equal(started.state_dict()["head.head.weight"], before)
    assert torch.equal(
        started.state_dict()["head.conv.conv.weight"], network.state_dict()["head.conv.conv.weight"]
    )


@pytest.mark.parametrize("naming", ["ours", "timm"])
def test_a_backbone_without_a_classifier_gets_one(lite, tmp_path, naming):
    architecture, network = lite
    state, gone = network.state_dict(), "head.head."
    if naming == "timm":
        state, gone = to_timm_state_dict(network, architecture), "classifier."
    kept = {name: it for name, it in state.items() if not name.startswith(gone)}
    torch.save(kept, tmp_path / "backbone.pth")
    found = read_pretrained(tmp_path / "backbone.pth", architecture)
    assert len(found.fresh) == 2
    assert found.notes == ("they have no classifier: it starts afresh",)
    same(found, network)


def test_names_that_nobody_knows_are_matched_by_order(lite, tmp_path):
    architecture, network = lite
    state = {
        f"a{place}.{name.rpartition('.')[2]}": tensor
        for place, (name, tensor) in enumerate(network.state_dict().items())
    }
    torch.save(state, tmp_path / "renamed.pth")
    found = read_pretrained(tmp_path / "renamed.pth", architecture)
    same(found, network)
    assert "taken in their order" in found.notes[0]


def test_by_order_the_ends_of_names_must_agree(lite, tmp_path):
    architecture, network = lite
    state = {
        f"a{place}.x": tensor
        for place, (name, tensor) in enumerate(network.state_dict().items())
        if not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "renamed.pth")
    with pytest.raises(UserError, match=r"do not fit efficientnet_lite_0: .* is missing"):
        read_pretrained(tmp_path / "renamed.pth", architecture)


@pytest.mark.parametrize("naming", ["ours", "timm"])
def test_attention_biases_are_resized(attentive, tmp_path, naming):
    architecture, network = attentive
    state = network.state_dict()
    if naming == "timm":
        state = to_timm_state_dict(network, architecture)
    torch.save(state, tmp_path / "small.pth")
    larger = architecture.with_input_size(96).with_classes(7)
    found = read_pretrained(tmp_path / "small.pth", larger)
    assert found.notes == (
        "their attention biases are interpolated from 64 to 96 px",
        "their classifier of 1,000 classes is replaced by one of 7",
    )
    started = build(larger)
    found.load_into(started)
    name = next(it for it in found.state if it.endswith("bias.biases"))
    before, after = network.state_dict()[name], started.state_dict()[name]
    assert after.shape[1] > before.shape[1]
    assert torch.allclose(after[:, 0, 0], before[:, 0, 0])


def test_weights_of_another_network_are_refused_with_the_closest(lite, tmp_path):
    _, network = lite
    source = Architecture.load("efficientnet_lite_0")
    torch.save(to_timm_state_dict(network, source), tmp_path / "lite0.pth")
    other = Architecture.load("efficientnet_lite_2")
    rule = r"lite0\.pth: weights do not fit efficientnet_lite_2: .*are those of efficientnet_lite_0"
    with pytest.raises(UserError, match=rule):
        read_pretrained(tmp_path / "lite0.pth", other)


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_that_would_execute_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth: holds Python objects beside tensors"):
        read_tensors_of(str(tmp_path / "evil.pth"))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(lite, tmp_path, value):
    architecture, network = lite
    state = {name: it.clone() for name, it in network.state_dict().items()}
    state["stem.conv.norm.weight"][3] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"'stem\.conv\.norm\.weight' holds numbers that are not"):
        read_pretrained(tmp_path / "w.pth", architecture)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "holds no weights"),
        (b"garbage of some length", "holds no weights"),
        (b"PK\x03\x04 a broken archive", "holds no weights"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}", "is no safetensors file"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content, rule):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path))}/w\.pth: {rule}[^\n]*$"):
        read_tensors_of(str(tmp_path / "w.pth"))


def test_what_is_no_state_dict_and_what_is_not_there(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_tensors_of(str(tmp_path / "list.pth"))
    with pytest.raises(UserError, match="no such file"):
        read_tensors_of(str(tmp_path / "gone.pth"))
