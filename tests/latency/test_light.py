"""Graphs without their random weights: small, whole again on the device, and fit to be timed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nas.architecture import Architecture
from nas.deploy.quantize import cpu_session
from nas.documents import built_in_architectures
from nas.latency import runner
from nas.latency.graphs import LayerGraphs, chain, pointwise
from nas.latency.light import INTEGERS, LEAST_BYTES, MARK
from nas.latency.runtimes.base import random_inputs
from nas.latency.visits import pack
from nas.network import build


def sent(graph, target):
    """The bytes that a graph is sent as, and the graph that the runner makes of them."""
    packed, content = pack(graph, target)
    whole = runner.filled(content)
    assert packed.size == len(whole)
    return content, onnx.load_model_from_string(whole)


def tensors(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def without_values(model):
    """The same model, whose tensors hold nothing."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        tensor.ClearField("raw_data")
    return found


def test_a_graph_is_whole_again_but_for_the_values_of_its_weights(target, largest_graph):
    content, whole = sent(largest_graph, target)
    assert len(content) < 0.5 * largest_graph.ByteSize()
    before, after = tensors(largest_graph), tensors(whole)
    exchanged = {name for name in before if not np.array_equal(before[name], after[name])}
    assert exchanged == {
        name for name, it in before.items() if it.ndim > 1 and it.nbytes >= LEAST_BYTES
    }
    for name in exchanged:
        assert after[name].shape == before[name].shape
        error = before[name].std() / np.sqrt(before[name].size)
        assert abs(after[name].mean() - before[name].mean()) < 4 * error
        assert after[name].std() == pytest.approx(before[name].std() / 2, rel=0.2)
    assert without_values(whole) == without_values(largest_graph)


def test_copies_of_a_layer_differ_and_no_two_filters_are_the_same(target):
    _, whole = sent(chain([pointwise((64, 4, 4))] * 3), target)
    one, *others = [it[:, :, 0, 0] for it in tensors(whole).values() if it.ndim == 4]
    assert not any(np.array_equal(one, other) for other in others)
    assert len(np.unique(one, axis=0)) == 64


def test_the_same_network_is_sent_alike_each_time(target, tiny, graphs):
    one, two = (pack(graphs.network(tiny.largest()), target) for _ in range(2))
    assert one == two


def test_int8_weights_are_made_up_as_integers(target, largest_graph):
    content, whole = sent(largest_graph, target.model_copy(update={"precision": "int8"}))
    assert len(content) < len(whole.SerializeToString())
    weights = [it for name, it in tensors(whole).items() if name.endswith(f"weight{INTEGERS}")]
    large = [it for it in weights if it.nbytes >= LEAST_BYTES]
    assert {str(it.dtype) for it in large} == {"int8"}
    assert all(0 < np.abs(it).max() <= 63 for it in large)
    assert all(len(np.unique(it)) > 20 for it in large)


def test_a_network_with_weights_of_its_own_is_sent_whole(target, tiny, graphs):
    architecture = tiny.largest()
    graphs.network(architecture)  # its layers serve as templates
    model = graphs.compose(build(architecture).eval(), architecture)
    _, content = pack(model, target)
    assert content == model.SerializeToString()
    assert MARK.encode() not in content


def inner_values(model):
    """What every operator gives in a run."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return cpu_session(watched, optimised=False).run(names, dict(random_inputs(model)))


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_architectures())
def test_numbers_in_a_network_of_made_up_weights_are_ordinary(name, target):
    _, whole = sent(LayerGraphs().network(Architecture.load(name)), target)
    for values in inner_values(whole):
        sizes = np.abs(values[values != 0])
        assert np.isfinite(values).all()
        assert sizes.min(initial=1) > np.finfo(np.float32).tiny
        assert sizes.max(initial=1) < 1e4
