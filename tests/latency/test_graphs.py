"""Graphs compute what their torch modules compute, alone, in chains and in whole networks."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nas.architecture import Architecture
from nas.deploy.export import OnnxNetwork, largest_difference, to_onnx
from nas.families import LAYERS
from nas.families.efficientformer_v2.layers import ConvFFN
from nas.latency.graphs import (
    LayerGraphs,
    chain,
    input_shape_of,
    is_equal,
    operators,
    output_shape_of,
    pointwise,
    random_module,
    substitute,
    with_batch,
)
from nas.latency.runtimes import OnnxRuntime
from nas.network import Network, fold

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
    assert largest_difference(OnnxNetwork(composed), network, architecture.input_shape) <= 1e-4
    assert operators(composed) == operators(to_onnx(network, architecture.input_shape))
    assert input_shape_of(composed) == (1, *architecture.input_shape)
    assert output_shape_of(composed) == (1, architecture.classes)


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_probes_stand_for_each_layer_of_a_space(tiny, graphs, state):
    for (_, shape), layer in tiny.layers().items():
        probe = graphs.probe(layer, shape)
        made = {graph.name: graph.make() for graph in probe.graphs}
        counts = {name: operators(model)["Conv"] for name, model in made.items()}
        added = sum(times * counts[graph.name] for graph, times in probe.terms(state))
        own = operators(graphs.graph(layer, shape))["Conv"]
        # the call of a runtime, which the stem pays for all, is a convolution of one number
        assert added == pytest.approx(own - (layer.slot == "head"))
        if layer.slot == "head":
            assert output_shape_of(made["call"]) == (1, 1, 1, 1)
            made.pop("call")
        assert {input_shape_of(model) for model in made.values()} == {(1, *shape)}


def test_a_cold_layer_that_keeps_its_shape_comes_after_a_first_copy(graphs):
    probe = graphs.probe(LAYER, SHAPE)
    own = operators(graphs.graph(LAYER, SHAPE))["Conv"]
    (several, share), (one, minus) = probe.cold
    assert share == -minus == 1 / 2
    assert operators(one.make())["Conv"] == 1 + own
    assert operators(several.make())["Conv"] == 1 + 3 * own
    assert [graph.name for graph, _ in probe.warm] == [one.name, "before 16x8x8"]


def test_graphs_of_layers_are_told_apart_and_shared(tiny, graphs):
    names = [
        graph.name
        for (_, shape), layer in tiny.layers().items()
        for graph in graphs.probe(layer, shape).graphs
    ]
    shared = {name for name in names if name.startswith("before") or name == "call"}
    assert len(names) - len(set(names)) == len([it for it in names if it in shared]) - len(shared)


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
    assert largest_difference(OnnxNetwork(composed), network, architecture.input_shape) <= 1e-4
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


def test_composed_random_network_runs(tiny, graphs):
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


HEADS = {"heads": 2, "key_dim": 8, "value_dim": 8}
PAIRS = {  # two layers of one structure and other widths, with their input shapes
    "conv_stem": (({"out_channels": 8}, (3, 32, 32)), ({"out_channels": 24}, (3, 16, 16))),
    "conv_ffn": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 4)),
    ),
    "attention4d": (
        ({"channels": 16, "stride": 2, **HEADS}, (16, 4, 4)),
        ({"channels": 24, "stride": 2, **HEADS}, (24, 4, 4)),
    ),
    "conv_downsample": (
        ({"in_channels": 8, "out_channels": 12}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8}, (16, 8, 8)),
    ),
    "attention_downsample": (
        ({"in_channels": 8, "out_channels": 12, **HEADS}, (8, 4, 4)),
        ({"in_channels": 16, "out_channels": 8, **HEADS}, (16, 4, 4)),
    ),
    "pooling": (({"channels": 8}, (8, 6, 6)), ({"channels": 12}, (12, 4, 5))),
    "pointwise_ffn": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 5)),
    ),
    "separable_attention": (({"channels": 8}, (8, 3, 4)), ({"channels": 12}, (12, 3, 4))),
    "metablock4d": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 5)),
    ),
    "metablock3d": (
        ({"channels": 8, "expansion": 2, **HEADS}, (8, 3, 4)),
        ({"channels": 12, "expansion": 3.5, **HEADS}, (12, 3, 4)),
    ),
    "deep_conv_stem": (({"out_channels": 8}, (3, 32, 32)), ({"out_channels": 24}, (3, 16, 16))),
    "depthwise_ffn": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 1.5}, (12, 4, 5)),
    ),
    "cascaded_attention": (
        ({"channels": 8, "heads": 2, "window": 3}, (8, 4, 5)),
        ({"channels": 12, "heads": 2, "window": 3}, (12, 4, 5)),
    ),
    "patch_merging": (
        ({"in_channels": 8, "out_channels": 12}, (8, 6, 6)),
        ({"in_channels": 12, "out_channels": 8, "expansion": 3}, (12, 7, 7)),
    ),
    "pooled_classifier": (
        ({"in_channels": 8, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "classes": 7}, (12, 2, 2)),
    ),
    "patch_stem": (({"out_channels": 8}, (3, 32, 32)), ({"out_channels": 24}, (3, 16, 16))),
    "patch_downsample": (
        ({"in_channels": 8, "out_channels": 12}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8}, (16, 8, 8)),
    ),
    "reduced_attention": (
        ({"channels": 8, "heads": 2, "head_dim": 4, "reduction": 2}, (8, 4, 6)),
        ({"channels": 12, "heads": 2, "head_dim": 4, "reduction": 2}, (12, 4, 6)),
    ),
    "token_ffn": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 4)),
    ),
    "token_classifier": (
        ({"in_channels": 8, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "classes": 7}, (12, 2, 2)),
    ),
    "short_stem": (({"out_channels": 8}, (3, 32, 32)), ({"out_channels": 24}, (3, 16, 16))),
    "inverted_residual": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 4)),
    ),
    "inverted_downsample": (
        ({"in_channels": 8, "out_channels": 12, "expansion": 2}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8, "expansion": 3.5}, (16, 8, 8)),
    ),
    "levit_attention": (
        ({"channels": 8, "heads": 2}, (8, 3, 4)),
        ({"channels": 12, "heads": 2}, (12, 3, 4)),
    ),
    "levit_ffn": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 1.5}, (12, 4, 5)),
    ),
    "levit_downsample": (
        ({"in_channels": 8, "out_channels": 12, "heads": 2}, (8, 7, 5)),
        ({"in_channels": 16, "out_channels": 8, "heads": 2}, (16, 7, 5)),
    ),
    "levit_classifier": (
        ({"in_channels": 8, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "classes": 7}, (12, 2, 2)),
    ),
    "mobilevit_v1_block": (
        ({"channels": 8, "dim": 12, "depth": 2}, (8, 4, 6)),
        ({"channels": 12, "dim": 16, "depth": 2, "expansion": 3}, (12, 4, 6)),
    ),
    "mobilevit_v2_block": (
        ({"channels": 8, "dim": 12, "depth": 1}, (8, 4, 6)),
        ({"channels": 12, "dim": 16, "depth": 1, "expansion": 3}, (12, 4, 6)),
    ),
    "mobilevit_v3_block": (
        ({"channels": 8, "dim": 12, "depth": 1}, (8, 4, 6)),
        ({"channels": 12, "dim": 16, "depth": 1, "expansion": 3}, (12, 4, 6)),
    ),
    "mobilevit_v3_separable_block": (
        ({"channels": 8, "dim": 12, "depth": 1}, (8, 4, 6)),
        ({"channels": 12, "dim": 16, "depth": 1, "expansion": 3}, (12, 4, 6)),
    ),
    "mean_classifier": (
        ({"in_channels": 8, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "classes": 7}, (12, 2, 2)),
    ),
    "conv_classifier": (
        ({"in_channels": 8, "features": 12, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "features": 16, "classes": 7}, (12, 2, 2)),
    ),
    "classifier": (
        ({"in_channels": 8, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "classes": 7}, (12, 2, 2)),
    ),
    "mobile_stem": (({"out_channels": 8}, (3, 32, 32)), ({"out_channels": 24}, (3, 16, 16))),
    "separable_residual": (({"channels": 8}, (8, 6, 6)), ({"channels": 12}, (12, 4, 5))),
    "separable_downsample": (
        ({"in_channels": 8, "out_channels": 12}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8}, (16, 7, 8)),
    ),
    "mobile_residual": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 5)),
    ),
    "mobile_downsample": (
        ({"in_channels": 8, "out_channels": 12, "expansion": 2}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8, "expansion": 3.5}, (16, 8, 8)),
    ),
    "pointwise_conv": (
        ({"in_channels": 8, "out_channels": 12}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8}, (16, 4, 5)),
    ),
    "universal_residual": (
        ({"channels": 8, "expansion": 2}, (8, 6, 6)),
        ({"channels": 12, "expansion": 3.5}, (12, 4, 5)),
    ),
    "universal_downsample": (
        ({"in_channels": 8, "out_channels": 12, "expansion": 2, "start_kernel": 5}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8, "expansion": 3, "start_kernel": 5}, (16, 8, 8)),
    ),
    "fused_downsample": (
        ({"in_channels": 8, "out_channels": 12, "expansion": 2}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8, "expansion": 3.5}, (16, 8, 8)),
    ),
    "edge_downsample": (
        ({"in_channels": 8, "out_channels": 12, "expansion": 2}, (8, 6, 6)),
        ({"in_channels": 16, "out_channels": 8, "expansion": 3.5}, (16, 8, 8)),
    ),
    "pooled_norm_classifier": (
        ({"in_channels": 8, "features": 12, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "features": 16, "classes": 7}, (12, 2, 2)),
    ),
    "mobile_classifier": (
        ({"in_channels": 8, "features": 12, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "features": 16, "classes": 7}, (12, 2, 2)),
    ),
    "pooled_first_classifier": (
        ({"in_channels": 8, "features": 12, "classes": 5}, (8, 3, 3)),
        ({"in_channels": 12, "features": 16, "classes": 7}, (12, 2, 2)),
    ),
}


FINER = {  # options that change the nodes, each for the pair of its kind
    "conv_ffn": {"kernel": 5, "activation": "hardswish"},
    "depthwise_ffn": {"kernel": 5},
    "token_ffn": {"kernel": 5},
    "inverted_residual": {"kernel": 5},
    "inverted_downsample": {"kernel": 5},
    "attention4d": {"talking_heads": False, "stride": 1},
    "universal_residual": {"kernel": 0, "start_kernel": 3},
    "mobile_stem": {"padding": "same", "epsilon": 1e-3},
    "separable_residual": {"squeeze": True, "activation": "relu"},
    "mobile_residual": {"kernel": 5, "squeeze": True, "activation": "hardswish"},
    "mobile_downsample": {"kernel": 5, "squeeze": True, "padding": "same"},
}


def made(kind, index):
    kind, _, finer = kind.partition(" ")
    fields, shape = PAIRS[kind][index]
    fields = {**fields, **(FINER[kind] if finer else {})}
    return LAYERS[kind](slot="stage1.block1.layer", **fields), shape


def test_every_layer_kind_is_tested():
    assert set(PAIRS) == set(LAYERS)


EVERY = [*PAIRS, *(f"{kind} finer" for kind in FINER)]


# two of a kind of convolution or three, and attention: an export takes a second
EXPORTED = [
    *PAIRS,
    *("conv_ffn finer", "inverted_downsample finer", "attention4d finer"),
    *("mobile_residual finer", "mobile_downsample finer"),
]
ALIKE = {  # made of operators that others here have too
    *("separable_attention", "mobilevit_v2_block", "mobilevit_v3_block"),
    *("conv_classifier", "pooled_classifier", "pooled_first_classifier", "mean_classifier"),
    *("deep_conv_stem", "short_stem", "mobile_stem", "pointwise_ffn", "token_ffn"),
    *("inverted_residual", "mobile_residual", "separable_residual", "mobile_downsample"),
    *("edge_downsample", "fused_downsample", "universal_downsample", "separable_downsample"),
    *("patch_downsample", "inverted_downsample finer"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(it, marks=[pytest.mark.slow] * (it in ALIKE)) for it in EXPORTED]
)
def test_substituted_graph_equals_the_module(kind, graphs):
    graphs.graph(*made(kind, 0))
    exported = graphs.exported
    layer, shape = made(kind, 1)
    model = graphs.graph(layer, shape)
    assert graphs.exported == exported, "exported anew, although only widths differ"
    onnx.checker.check_model(model, full_check=True)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = random_module(layer, shape)(x).numpy()
    np.testing.assert_allclose(run(model, x.numpy()), expected, atol=1e-4 * abs(expected).max())
    assert operators(model)["BatchNormalization"] == 0


@pytest.mark.parametrize("kind", EVERY)
def test_folding_changes_nothing(kind):
    layer, shape = made(kind, 0)
    module = random_module(layer, shape).double()
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        torch.testing.assert_close(fold(module)(x), module(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "kind",
    [
        *("attention4d", "metablock3d", "cascaded_attention"),
        *(kind for kind in PAIRS if kind.startswith("mobilevit")),
    ],
)
def test_every_tensor_of_a_random_module_matters(kind):
    layer, shape = made(kind, 0)
    x = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    module = random_module(layer, shape).double()
    # they add the same to all logits of a query, which softmax drops
    shifts = {"k.conv.bias", "k.norm.bias", "k.norm.running_mean", "talking_head1.bias"}
    shifts |= {"attention.k.bias"}
    shifts |= {f"heads.{head}.{shift}" for head in range(2) for shift in tuple(shifts)}
    shifts |= {name for name in module.state_dict() if name.endswith("attention.k.bias")}
    shifts |= {name for name in module.state_dict() if name.endswith("attention.query.bias")}
    with torch.no_grad():
        expected = module(x)
        for name, tensor in module.state_dict(keep_vars=True).items():
            if not tensor.is_floating_point() or name in shifts:
                continue
            kept = tensor.clone()
            tensor.mul_(1.5)
            assert (module(x) - expected).abs().max() > 1e-8, name
            tensor.copy_(kept)


def test_what_one_instance_exported_serves_all_of_the_process():
    for _ in range(2):
        graphs = LayerGraphs()
        graphs.graph(*made("conv_ffn", 0))
    assert (graphs.exported, graphs.substituted) == (0, 1)


def test_templates_hold_no_weights(graphs):
    layer, shape = made("conv_ffn", 0)
    graphs.graph(layer, shape)
    (template, *_) = graphs.templates[type(layer), layer.structure]
    assert {it.name.rpartition(".")[2] for it in template.graph.initializer} == {"weight", "bias"}
    assert not any(it.raw_data for it in template.graph.initializer)


def test_layers_are_exported_together_where_no_template_serves_their_map(monkeypatch):
    kinds = "attention4d", "mobilevit_v1_block", "conv_ffn"
    layers = [made(kind, 0) for kind in kinds]
    graphs = LayerGraphs(templates={})
    graphs.prepare(layers)
    asked = []
    monkeypatch.setattr(graphs, "_export_together", asked.extend)
    graphs.prepare(layers)
    assert not asked
    graphs.prepare([(layer, (shape[0], 10, 10)) for layer, shape in layers])
    assert [layer.kind for layer, _ in asked] == ["attention4d", "mobilevit_v1_block"]


@pytest.mark.parametrize("kind", ["attention4d", "mobilevit_v1_block"])
def test_attention_on_another_map_is_exported_anew(kind, graphs):
    layer, shape = made(kind, 0)
    graphs.graph(layer, shape)
    exported = graphs.exported
    other = (shape[0], 10, 10)  # no other test has this map
    model = graphs.graph(layer, other)
    assert graphs.exported == exported + 1
    assert is_equal(model, random_module(layer, other), other)


def test_weights_of_another_structure_are_refused(graphs):
    layer, shape = made("conv_ffn", 0)
    template = graphs.graph(layer, shape)
    other, other_shape = made("conv_stem", 0)
    folded = fold(random_module(other, other_shape))
    assert substitute(template, folded, other, other_shape) is None


def test_a_graph_that_computes_something_else_is_refused(graphs):
    layer, shape = made("conv_ffn", 0)
    model = graphs.graph(layer, shape)
    module = random_module(layer, shape)
    assert is_equal(model, module, shape)
    with torch.no_grad():
        module.scale.gamma[0] *= 1.01
    assert not is_equal(model, module, shape)


def test_weights_depend_on_the_layer_alone():
    layer, shape = made("conv_ffn", 0)
    torch.manual_seed(1)
    first = random_module(layer, shape).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = random_module(layer, shape).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["efficientformer_v2_s0", "levit_128s", "efficientvit_m0"])
def test_numbers_in_a_network_of_random_layers_stay_as_in_a_trained_one(name, monkeypatch):
    softmax, least = torch.Tensor.softmax, []

    def noted(logits, axis):
        weights = softmax(logits, axis)
        least.append(float(weights[weights > 0].min()))
        return weights

    monkeypatch.setattr(torch.Tensor, "softmax", noted)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer, shape in Architecture.load(name).placed():
            x = random_module(layer, shape)(x)
            assert 1e-3 < x.square().mean().sqrt() < 100
    assert min(least) > torch.finfo(torch.float32).tiny
