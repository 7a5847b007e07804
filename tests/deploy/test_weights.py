"""Attention biases for another input size, against interpolation by hand."""

import pytest
import torch

import nas
from nas.deploy.weights import resize_attention_biases

WITH_BIASES = (
    "efficientformer_v1_l1",
    "efficientformer_v2_s0",
    "efficientvit_m0",
    "levit_128s",
)


def ramp(height, width, slopes=(3.0, -2.0)):
    """One number for each offset, linear in what part of the map the offset spans."""
    y = torch.linspace(0, slopes[0], height, dtype=torch.float64)
    x = torch.linspace(0, slopes[1], width, dtype=torch.float64)
    return 1 + y[:, None] + x


def ramps(architecture):
    state = nas.build(architecture).state_dict()
    for name, tensor in state.items():
        if name.endswith(".bias.biases"):
            heads, height, width = tensor.shape
            by_head = [(head + 1) * ramp(height, width) for head in range(heads)]
            state[name] = torch.stack(by_head).to(tensor.dtype)
    return state


@pytest.mark.parametrize(
    ("name", "pixels"), [*((name, 64) for name in WITH_BIASES), ("efficientformer_v2_s0", 160)]
)
def test_a_linear_ramp_stays_one_from_corner_to_corner(name, pixels):
    before = nas.Architecture.load(name).with_input_size(96)
    after = before.with_input_size(pixels)
    found = resize_attention_biases(ramps(before), before, after)
    expected = ramps(after)
    resized = [key for key in found if key.endswith(".bias.biases")]
    assert resized
    for key in resized:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-6, atol=1e-6)
    nas.build(after).load_state_dict(found)


def test_between_two_offsets_is_their_weighted_mean():
    before = nas.Architecture.load("efficientformer_v2_s0").with_input_size(96)
    after = before.with_input_size(160)
    state = nas.build(before).state_dict()
    key = "stage4.block4.attention.bias.biases"  # 3x3 pixels before, 5x5 after
    state[key] = torch.randn(8, 3, 3, generator=torch.manual_seed(0))
    found, own = resize_attention_biases(state, before, after)[key], state[key]
    for y in range(5):
        for x in range(5):
            (top, dy), (left, dx) = divmod(y / 2, 1), divmod(x / 2, 1)
            rows = (int(top), min(int(top) + 1, 2))
            columns = (int(left), min(int(left) + 1, 2))
            above, below = ((1 - dx) * own[:, row, columns[0]] + dx * own[:, row, columns[1]] for row in rows)  # fmt: skip
            torch.testing.assert_close(found[:, y, x], (1 - dy) * above + dy * below)


@pytest.mark.parametrize("name", [*WITH_BIASES, "pvt_v2_b0"])
def test_the_same_size_is_the_identity_bit_for_bit(name):
    architecture = nas.Architecture.load(name).with_input_size(64)
    state = nas.build(architecture).state_dict()
    found = resize_attention_biases(state, architecture, architecture.with_input_size(64))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_windows_that_keep_their_size_keep_their_biases():
    before = nas.Architecture.load("efficientvit_m0")
    state = ramps(before)
    found = resize_attention_biases(state, before, before.with_input_size(256))
    key = "stage1.block1.attention.bias.biases"
    assert state[key].shape == (4, 7, 7)
    assert torch.equal(found[key], state[key])


def test_weights_that_cannot_be_resized_are_refused():
    before = nas.Architecture.load("efficientformer_v2_s0").with_input_size(64)
    after = before.with_input_size(96)
    with pytest.raises(nas.UserError, match=r"may differ in their input size only"):
        resize_attention_biases({}, before, after.with_classes(10))
    message = r"'stem\.conv1\.conv\.weight' must be \(16, 3, 3, 3\) at 64 px, got not there"
    with pytest.raises(nas.UserError, match=message):
        resize_attention_biases({}, before, after)
    state = nas.build(after).state_dict()
    with pytest.raises(
        nas.UserError, match=r"biases' must be \(8, 2, 2\) at 64 px, got \(8, 3, 3\)"
    ):
        resize_attention_biases(state, before, after)
