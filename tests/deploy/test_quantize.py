"""Int8 networks: the integers that they hold, what they compute, and what is not rounded."""

import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

from nas.deploy.export import OnnxNetwork, to_onnx
from nas.deploy.quantize import (
    FUSED_OPERATORS,
    INTEGER_OPERATORS,
    activation_scale,
    measure_ranges,
    precision_of,
    quantize,
    weight_scale,
    weighted_operators,
)

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.GELU(),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


@pytest.fixture(scope="module")
def model(module):
    return to_onnx(module, SHAPE)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((6, *SHAPE), dtype=np.float32)


class Reader(CalibrationDataReader):
    def __init__(self, images):
        self.rest = iter(images)

    def get_next(self):
        image = next(self.rest, None)
        return None if image is None else {"images": image[None]}


def integers(model):
    """The tensors of 8 and 32 bits, by shape and content: names differ from maker to maker."""
    kinds = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
    found = [numpy_helper.to_array(it) for it in model.graph.initializer if it.data_type in kinds]
    return sorted((it.dtype.str, it.shape, it.tobytes()) for it in found if it.any())


def test_the_integers_are_those_of_onnxruntimes_own_quantizer(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "warning", lambda *args: None)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # it changes what it is given
    quantize_static(
        copy,
        tmp_path / "m.onnx",
        Reader(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    expected = integers(onnx.load(tmp_path / "m.onnx"))
    found = integers(quantize(model, images, INTEGER_OPERATORS))
    weights = [it for it in expected if it[0] == "|i1"]
    assert weights
    assert [it for it in found if it[0] == "|i1"] == weights
    biases = [it for it in expected if it[0] == "<i4"]
    assert [it for it in found if it[0] == "<i4"] == biases


@pytest.mark.parametrize("placement", [INTEGER_OPERATORS, FUSED_OPERATORS])
def test_int8_computes_nearly_the_same(model, module, images, placement):
    found = quantize(model, images, placement)
    onnx.checker.check_model(found, full_check=True)
    with torch.no_grad():
        expected = module(torch.from_numpy(images))
    result = OnnxNetwork(found)(torch.from_numpy(images))
    difference = (result - expected).abs().max() / expected.abs().max()
    assert 1e-5 < difference < 0.05
    assert (precision_of(model), precision_of(found)) == ("float32", "int8")


@pytest.mark.parametrize("placement", [INTEGER_OPERATORS, FUSED_OPERATORS])
def test_a_network_is_known_by_its_operators_in_both_precisions(model, images, placement):
    found = weighted_operators(quantize(model, images, placement))
    assert found == weighted_operators(model)
    kinds = {kind for kind, _ in found}
    assert {"Conv", "Gemm"} & kinds
    assert all(len(shape) >= 2 for _, shape in found)


def overflowing_share(model, images):
    """The share of outputs of the first convolution that sums of two products in 16 bits change.

    x86 without VNNI multiplies unsigned activations and signed weights of 8 bits, and adds two
    products at a time with saturation (the instruction vpmaddubsw).
    """
    weight = next(it for it in map(numpy_helper.to_array, model.graph.initializer) if it.ndim == 4)
    windows = np.lib.stride_tricks.sliding_window_view(images, weight.shape[2:], axis=(2, 3))
    least, most = images.min(), images.max()
    seen = np.round((windows - least) / (most - least) * 255).astype(np.int64)  # (N, C, H, W, K, K)
    taken = seen.transpose(0, 2, 3, 1, 4, 5).reshape(-1, weight[0].size)
    products = taken[:, None, :] * weight.reshape(1, len(weight), -1).astype(np.int64)
    products = products[..., : products.shape[-1] // 2 * 2]
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(-1)
    return (np.clip(pairs, -(2**15), 2**15 - 1).sum(-1) != pairs.sum(-1)).mean()


def test_weights_of_7_bits_cannot_overflow_where_cpus_lack_vnni(model, module, images):
    found = quantize(model, images, INTEGER_OPERATORS._replace(weight_bits=7))
    weights = [
        numpy_helper.to_array(it)
        for it in found.graph.initializer
        if it.data_type == TensorProto.INT8 and len(it.dims) > 1
    ]
    assert {np.abs(weight).max() for weight in weights} == {63}
    extreme = np.where(images > 0, np.float32(4), np.float32(-1))  # full scale, as after a ReLU6
    assert overflowing_share(found, extreme) == 0
    assert overflowing_share(quantize(model, images, INTEGER_OPERATORS), extreme) > 0.01
    with torch.no_grad():
        expected = module(torch.from_numpy(images))
    result = OnnxNetwork(found)(torch.from_numpy(images))
    assert (result - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_model_itself_stays_as_it_is(model, images):
    before = model.SerializeToString()
    quantize(model, images, INTEGER_OPERATORS)
    assert model.SerializeToString() == before


def test_no_float32_weight_is_left(model, images):
    found = quantize(model, images, INTEGER_OPERATORS)
    floats = [it for it in found.graph.initializer if it.data_type == TensorProto.FLOAT]
    assert floats
    assert all(it.name.endswith("/step") for it in floats)
    assert found.ByteSize() < model.ByteSize() + 10_000


def test_a_relu_is_rounded_with_its_convolution(model, images):
    found = quantize(model, images, INTEGER_OPERATORS)
    producers = {name: node.op_type for node in found.graph.node for name in node.output}
    sources = [
        producers.get(node.input[0], "images")
        for node in found.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    *before, pooled = sources
    assert before == ["images", "Relu", "Conv", "Gelu", "Conv"]
    assert pooled not in ("Conv", "Relu")  # the linear layer's input
    fused = quantize(model, images, FUSED_OPERATORS)
    count = sum(node.op_type == "QuantizeLinear" for node in fused.graph.node)
    assert count == 4  # the inputs of three convolutions and of the linear layer


def test_ranges_are_the_extremes_over_all_images(model, module, images):
    with torch.no_grad():
        expected = module[:2](torch.from_numpy(images))
    name = next(it for it in model.graph.node if it.op_type == "Relu").output[0]
    found = measure_ranges(model, images, ["images", name])
    assert found["images"] == pytest.approx((images.min(), images.max()))
    assert found[name] == pytest.approx((0.0, float(expected.max())), rel=1e-5)


def test_ranges_need_images(model, images):
    with pytest.raises(ValueError, match="no images"):
        measure_ranges(model, images[:0], ["images"])


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_activations_keep_an_exact_zero_and_their_range(low, high):
    step, zero = activation_scale(low, high)
    assert zero.dtype == np.uint8
    lowest, highest = (step * (bound - int(zero)) for bound in (0, 255))
    assert lowest <= min(low, 0) + step
    assert highest >= max(high, 0) - step


def test_weights_have_a_step_for_each_channel_even_for_one_of_zeros():
    weight = np.array([[1.0, -254.0], [0.0, 0.0], [0.5, 0.25]], np.float32)
    assert weight_scale(weight, 0).step == pytest.approx([2.0, 1.0, 0.5 / 127])
    assert weight_scale(weight, 1).step == pytest.approx([1 / 127, 2.0])


def test_a_bias_far_above_its_products_is_kept(images):
    weight = np.full((2, 3, 1, 1), 1e-12, np.float32)
    bias = np.array([1.0, -2.0], np.float32)
    shape = (1, 2, 16, 16)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w", "b"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, *SHAPE))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = OnnxNetwork(quantize(model, images, INTEGER_OPERATORS))(torch.from_numpy(images))
    for channel, value in enumerate(bias):
        assert found[:, channel].numpy() == pytest.approx(value, abs=0.02)
