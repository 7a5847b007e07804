"""Chains of graphs, and whole networks composed of layers."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nas.deploy.export import parity, to_onnx
from nas.families.efficientformer_v2.layers import ConvFFN
from nas.latency.graphs import (
    chain,
    input_shape_of,
    operators,
    output_shape_of,
    pointwise,
    random_module,
    with_batch,
)
from nas.latency.runtimes import OnnxRuntime
from nas.network import Network

LAYER = ConvFFN(slot="stage1.block1.ffn", channels=16, expansion=2)
SHAPE = (16, 8, 8)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {model.graph.input[0].name: x})[0]


def test_chain_applies_the_graphs_one_after_the_other(graphs):
    before, graph = pointwise(SHAPE), graphs.graph(LAYER, SHAPE)
    chained = chain([before, graph, graph])
    onnx.checker.check_model(chained, full_check=True)
    x = np.random.default_rng(0).standard_normal((1, *SHAPE), dtype=np.float32)
    expected = run(graph, run(graph, run(before, x)))
    np.testing.assert_allclose(run(chained, x), expected, rtol=1e-4, atol=1e-4)


def test_copies_in_a_chain_have_weights_of_their_own(graphs):
    graph = graphs.graph(LAYER, SHAPE)
    one, three = chain([graph]), chain([graph] * 3)
    assert len(three.graph.initializer) == 3 * len(one.graph.initializer)
    assert len({tensor.name for tensor in three.graph.initializer}) == len(three.graph.initializer)


def test_chain_refuses_shapes_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"graph 1 takes \(1, 8, 4, 4\), the graph before it returns"
    ):
        chain([pointwise((16, 4, 4)), pointwise((8, 4, 4))])


def test_composed_network_equals_the_torch_network_and_its_export(tiny, graphs):
    architecture = tiny.largest()
    composed = graphs.network(architecture)
    onnx.checker.check_model(composed, full_check=True)
    network = Network(
        [(layer.slot, random_module(layer, shape)) for layer, shape in architecture.placed()]
    ).eval()
    assert parity(composed, network, architecture.input_shape) <= 1e-4
    assert operators(composed) == operators(to_onnx(network, architecture.input_shape))
    assert input_shape_of(composed) == (1, *architecture.input_shape)
    assert output_shape_of(composed) == (1, architecture.classes)


def test_probes_stand_for_each_layer_of_a_space(tiny, graphs):
    for (_, shape), layer in tiny.layers().items():
        probe = graphs.probe(layer, shape)
        convolutions = operators(graphs.graph(layer, shape))["Conv"]
        if layer.slot == "stem":
            assert probe.short is None
            added = operators(probe.long)["Conv"]
        elif layer.slot == "head":
            assert output_shape_of(probe.short) == (1, 1, 1, 1), "a call costs what the stem's does"
            added = operators(probe.long)["Conv"]
        else:
            added = operators(probe.long)["Conv"] - operators(probe.short)["Conv"]
        assert added == probe.copies * convolutions
        assert input_shape_of(probe.long) == (1, *shape)


def test_runtime_fuses_residuals_and_scales_in_a_chain(graphs):
    graph = graphs.graph(LAYER, SHAPE)
    found = OnnxRuntime("CPUExecutionProvider", 1).operators(
        chain([pointwise(SHAPE), graph, graph])
    )
    left = {"Add", "Mul", "BatchNormalization"} & set(found)
    assert not left, "layer scales, norms or residual sums cost time of their own"
    assert found["Conv"] == 7


def test_blocks_of_tokens_pay_no_transposition_between_them(tokens, graphs):
    architecture = tokens.decode((1, 1, 2, 2, 0))  # pooling, then attention twice
    composed = graphs.network(architecture)
    network = Network(
        [(layer.slot, random_module(layer, shape)) for layer, shape in architecture.placed()]
    ).eval()
    assert parity(composed, network, architecture.input_shape) <= 1e-4
    runtime = OnnxRuntime("CPUExecutionProvider", 1)
    found = runtime.operators(composed)
    assert found == runtime.operators(to_onnx(network, architecture.input_shape))
    assert found["Transpose"] <= 2 * 4 + 1, "four inside each attention, one back to a map"


def test_pooling_blocks_leave_convolutions_only(tokens, graphs):
    layers = tokens.layers()
    (_, shape), layer = next(item for item in layers.items() if item[1].kind == "metablock4d")
    model = chain([pointwise(shape), *[graphs.graph(layer, shape)] * 2])
    found = OnnxRuntime("CPUExecutionProvider", 1).operators(model)
    assert set(found) <= {"Conv", "AveragePool", "Gelu", "ReorderInput", "ReorderOutput"}
    assert found["ReorderInput"] <= 1


def test_composed_random_network_of_torch_seed(tiny, graphs):
    rng = np.random.default_rng(5)
    architecture = tiny.sample(rng)
    x = torch.randn(1, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    result = run(graphs.network(architecture), x.numpy())
    assert result.shape == (1, 4)
    assert np.isfinite(result).all()


@pytest.mark.parametrize("name", ["tiny", "tokens"])
def test_a_batch_computes_what_its_images_do_one_by_one(name, graphs, request):
    largest = request.getfixturevalue(name).largest()
    model = graphs.network(largest)
    batched = with_batch(model, 3)
    onnx.checker.check_model(batched, full_check=True)
    assert (input_shape_of(batched)[0], output_shape_of(batched)[0]) == (3, 3)
    x = np.random.default_rng(0).standard_normal((3, *largest.input_shape), dtype=np.float32)
    expected = np.concatenate([run(model, image[None]) for image in x])
    np.testing.assert_allclose(run(batched, x), expected, rtol=1e-4, atol=1e-4)
    assert input_shape_of(model)[0] == 1, "the model itself is left alone"


def test_a_batch_that_is_open_is_fixed():
    model = pointwise((8, 4, 4))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    assert input_shape_of(with_batch(model, 1)) == (1, 8, 4, 4)
    assert with_batch(pointwise((8, 4, 4)), 1) == pointwise((8, 4, 4))
