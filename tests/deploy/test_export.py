"""Exported graphs: what they compute, how they are named, and that nothing of this machine leaks."""

import copy
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import nas
from nas.deploy.export import (
    INPUT,
    OPSET,
    OUTPUT,
    OnnxNetwork,
    agreement,
    largest_difference,
    require_parity,
    to_checked_onnx,
    to_onnx,
)
from nas.deploy.quantize import INTEGER_OPERATORS, quantize
from nas.errors import UserError
from nas.families import FAMILIES, LAYERS
from nas.latency.graphs import with_batch
from nas.network import fold

SHAPE = (3, 32, 32)


class Small(nn.Module):
    """A block with everything that folding and naming are about."""

    def __init__(self):
        super().__init__()
        self.stem = nas.network.make_module(LAYERS["conv_stem"](slot="stem", out_channels=8), SHAPE)
        self.head = nas.network.make_module(
            LAYERS["classifier"](slot="head", in_channels=8, classes=5), (8, 8, 8)
        )

    def forward(self, x):
        return self.head(self.stem(x))


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    module = Small().eval()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    return module


@pytest.fixture(scope="module")
def model(module):
    return to_onnx(module, SHAPE)


def test_export_is_valid_and_named(model):
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == [INPUT] == ["images"]
    assert [value.name for value in model.graph.output] == [OUTPUT] == ["logits"]
    assert [it.version for it in model.opset_import if it.domain == ""] == [OPSET]


def test_export_equals_the_module(model, module):
    assert largest_difference(OnnxNetwork(model), module, SHAPE) <= 1e-5


def test_export_holds_the_folded_tensors_by_name(model, module):
    names = {tensor.name for tensor in model.graph.initializer}
    assert set(fold(module).state_dict()) <= names
    assert not any("norm" in name for name in names)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_export_leaves_the_module_alone_and_prints_nothing(module, capfd):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    to_onnx(module, SHAPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_export_names_no_file_of_this_machine(model):
    assert b".py" not in model.SerializeToString()


def test_parity_sees_a_wrong_weight(model, module):
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    tensor = next(it for it in wrong.graph.initializer if it.name == "stem.conv1.weight")
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights[0] *= 1.1
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    assert largest_difference(OnnxNetwork(wrong), module, SHAPE) > 1e-4


def test_parity_refuses_another_output_shape(model):
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7))
    with pytest.raises(ValueError, match=r"output of shape \(1, 5\), expected \(1, 7\)"):
        largest_difference(OnnxNetwork(model), other, SHAPE)


@pytest.mark.parametrize(
    "space",
    [
        pytest.param("across_32px", marks=pytest.mark.slow),
        pytest.param("demo_64px", marks=pytest.mark.slow),
        "cifar10_32px",
    ],
)
def test_a_model_of_an_open_batch_size_takes_one_picture_and_several(space, randomized):
    architecture = nas.SearchSpace.load(space).smallest()
    network = randomized(nas.build(architecture))
    model, difference = to_checked_onnx(network, architecture.input_shape, dynamic_batch=True)
    assert difference <= 1e-3
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param, "the batch size is open"
    images = torch.randn(5, *architecture.input_shape, generator=torch.manual_seed(1))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    with torch.no_grad():
        expected = network(images)
    for batch in (images, images[:3], images[:1]):
        (found,) = session.run(None, {"images": batch.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), expected[: len(batch)], rtol=1e-3, atol=1e-3
        )
    assert torch.equal(
        OnnxNetwork(model)(images),
        torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
    )


OF_ALL_FAMILIES = (
    "efficientformer_v1_l1",
    "efficientformer_v2_s0",
    "efficientvit_m0",
    "levit_128s",
    "mobilevit_v1_xxs",
    "mobilevit_v2_050",
    "mobilevit_v3_xxs",
    "mobilevit_v3_050",
    "pvt_v2_b0",
    "pvt_v2_b2_linear",
    "efficientnet_lite_0",
    "mobilenet_v2_100",
    "mobilenet_v3_small_100",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_conv_medium",
)


def test_no_family_is_left_out():
    kinds = {it.kind for name in OF_ALL_FAMILIES for it in nas.Architecture.load(name).layers}
    for family in FAMILIES:
        assert kinds & {it.model_fields["kind"].default for it in family.layers}, family


def normalised(network, images):
    """The network with norms that know these images, whose answers then differ."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train()(images)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", OF_ALL_FAMILIES)
def test_a_batch_gets_the_answers_of_its_pictures_one_by_one(name, precision, randomized):
    """What ``nas export --dynamic-batch`` writes, in a default session of onnxruntime."""
    architecture = nas.Architecture.load(name).with_classes(7)
    drawn = torch.randn(6, *architecture.input_shape, generator=torch.manual_seed(1))
    network = normalised(randomized(nas.build(architecture)), drawn)
    images = drawn.numpy()
    model, _ = to_checked_onnx(network, architecture.input_shape, dynamic_batch=True)
    if precision == "int8":
        model = quantize(model, images, INTEGER_OPERATORS)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (together,) = session.run(None, {INPUT: images})
    alone = [session.run(None, {INPUT: image[None]})[0] for image in images]
    scale = np.abs(together).max()
    assert together.std(0).max() > 0.01 * scale, "the answers differ from picture to picture"
    # kernels of a batch add in another order; in int8 a number may then be rounded to its neighbour
    bound = 0.05 if precision == "int8" else 1e-4
    assert np.abs(together - np.concatenate(alone)).max() <= bound * scale


def test_a_model_of_a_fixed_batch_size_takes_any_number_of_pictures(model, module):
    fixed = with_batch(model, 2)
    images = torch.randn(5, *SHAPE, generator=torch.manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(OnnxNetwork(fixed)(images), module(images), rtol=1e-4, atol=1e-4)


class OtherWhenExported(torch.nn.Module):
    """A module that the exporter sees compute something else."""

    def forward(self, x):
        return x.mean((2, 3)) * (1.0 if torch.compiler.is_exporting() else 2.0)


def test_an_export_that_computes_something_else_is_refused():
    with pytest.raises(UserError, match=r"differs from torch's by 5\.0e-01 .* more than 1e-04"):
        to_checked_onnx(OtherWhenExported(), (3, 8, 8))


class Cancelling(nn.Module):
    """Logits that are small differences of large numbers: rounding of float32 is 1e-3 of them."""

    def __init__(self, shift=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.offset = nn.Parameter(torch.full((8, 1, 1), 3e4))
        self.head = nn.Linear(8, 5, bias=False)
        self.shift = shift

    def forward(self, x):
        y = self.conv(x) + self.offset
        return self.head((y - self.offset).mean((2, 3))) + self.shift


def answers_with(number):
    def run(x):
        return torch.full((len(x), 5), number)

    return run


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_proof_passes_where_a_side_gives_what_is_not_finite(module, number):
    ill = copy.deepcopy(module)
    ill.head.head.bias.data[3] = number
    sides = [(module, "the exported network gives numbers"), (ill, "the network in torch gives")]
    for given, message in sides:
        for prove in (require_parity, largest_difference):
            with pytest.raises(UserError, match=message):
                prove(answers_with(number), given, SHAPE)
        with pytest.raises(UserError, match="the exported network gives numbers"):
            agreement(answers_with(number), given, torch.zeros(2, *SHAPE))
    with pytest.raises(UserError, match="the network in torch gives numbers"):
        agreement(answers_with(0.0), ill, torch.zeros(2, *SHAPE))
    with pytest.raises(UserError, match="the network in torch gives numbers"):
        to_checked_onnx(ill, SHAPE)


def test_rounding_as_large_as_torchs_own_is_accepted():
    module = Cancelling().eval()

    def exact(x):
        return Cancelling().eval().double()(x.double()).float()

    difference = largest_difference(exact, module, (3, 8, 8))
    assert difference > 1e-4, "float32 is exact enough, so the test shows nothing"
    assert require_parity(exact, module, (3, 8, 8)) == difference
    wrong = Cancelling(shift=0.05).eval()
    message = r"differs from torch's by .* of the largest logit, more than 1e-04, and by .*float64"
    with pytest.raises(UserError, match=message):
        require_parity(wrong, module, (3, 8, 8))


def test_a_network_that_float32_cannot_compute_is_refused_even_if_torch_errs_as_much():
    module = Cancelling().eval()
    module.offset.data.fill_(3e6)
    other = Cancelling().eval()
    other.offset.data.fill_(6e6)  # rounded more coarsely
    with pytest.raises(UserError, match=r"of which torch misses [1-9]"):
        require_parity(other, module, (3, 8, 8))
