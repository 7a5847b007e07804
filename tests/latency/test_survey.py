"""Where visits go, by brute force; and what visits of known latencies tell of layers and networks."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from nas.latency.estimator import Visit
from nas.latency.graphs import LayerGraphs
from nas.latency.measure import HIDDEN
from nas.latency.runner import LIFE
from nas.latency.survey import (
    Survey,
    network_name,
    pick_candidates,
    pick_companions,
    pick_networks,
    pick_reference,
    share_out,
)
from nas.network import measure_size


def error(variances, made):
    return float((variances / made).sum())


@pytest.mark.parametrize("seed", range(6))
def test_visits_are_shared_out_as_well_as_brute_force_would(seed):
    rng = np.random.default_rng(seed)
    variances, costs = rng.uniform(0.1, 4, 3), rng.uniform(0.5, 2, 3)
    made, budget = rng.integers(2, 8, 3).astype(float), 20.0
    found = share_out(variances, costs, made, budget)
    assert (found >= 0).all()
    assert float((found * costs).sum()) == pytest.approx(budget, abs=costs.sum() / 2)
    spent = float((found * costs).sum())
    best = min(
        error(variances, made + more)
        for more in itertools.product(range(41), repeat=3)
        if (np.array(more) * costs).sum() <= spent + 1e-9
    )
    assert error(variances, made + found) <= 1.01 * best


@pytest.mark.parametrize("seed", range(4))
def test_graphs_are_opened_where_that_is_worth_it(seed):
    rng = np.random.default_rng(seed)
    variances, costs = rng.uniform(0.1, 4, 3), rng.uniform(0.5, 2, 3)
    made, opening = rng.integers(2, 8, 3).astype(float), 6.0

    def price(more):
        return float((more * costs + opening * np.ceil(np.array(more) / LIFE)).sum())

    found = share_out(variances, costs, made, 40.0, opening=opening)
    best = min(
        error(variances, made + more)
        for more in itertools.product(range(25), repeat=3)
        if price(np.array(more)) <= price(found) + 1e-9
    )
    assert price(found) <= 40 + 2 * opening
    assert error(variances, made + found) <= 1.06 * best


def test_no_more_visits_are_asked_for_than_lower_the_error_as_wanted():
    variances, made = np.array([1.0, 4.0, 2.0]), np.array([4.0, 4.0, 4.0])
    found = share_out(variances, np.ones(3), made, 1000.0, error=1.0)
    assert error(variances, made + found) == pytest.approx(1.0, rel=0.05)
    assert found.sum() < 20
    assert not share_out(variances, np.ones(3), made, 0.0).any()


def test_graphs_that_take_long_to_open_get_fewer_visits():
    found = share_out(np.ones(2), np.ones(2), np.full(2, 2.0), 200.0, opening=np.array([0.0, 30.0]))
    assert found[0] > 2 * found[1] > 0


def test_graphs_that_are_alike_are_all_opened():
    found = share_out(np.ones(3), np.ones(3), np.full(3, 4.0), 2.0, opening=5.0)
    assert (found > 0).all()


def test_a_graph_that_was_visited_too_often_gets_no_more():
    found = share_out(np.ones(2), np.ones(2), np.array([100.0, 1.0]), 9.0)
    assert found.tolist() == [0, 9]


def test_what_no_latency_depends_on_gets_no_visits():
    found = share_out(np.array([0.0, 1.0]), np.ones(2), np.array([2.0, 2.0]), 6.0)
    assert found.tolist() == [0, 6]


@pytest.fixture(scope="module")
def survey(convolutions, graphs):
    rng = np.random.default_rng(0)
    networks = pick_networks(convolutions, rng, 6)
    made = Survey(networks, [networks[2], networks[1]], graphs)
    made.add(convolutions.layers())
    return made


def latency_of(layer, shape):
    """The truth: ms of a layer, warm and cold."""
    ms = 0.02 + 0.001 * sum(layer.widths)
    return ms, 1.4 * ms + 0.01


def visits_of(survey, convolutions, *, count=6, seed=0, noise=0.0):
    """Visits to all graphs of a machine where a network is the sum of its layers."""
    rng = np.random.default_rng(seed)
    call, neighbour = 0.003, 0.05
    truths = {"reference": (1.0, 1.5), "reference 2": (0.4, 0.7), HIDDEN: (1.0, 1.5)}
    for (_, shape), layer in convolutions.layers().items():
        probe = survey.graphs.probe(layer, shape)
        for graph in probe.graphs:
            if graph.name == "call":
                truths[graph.name] = (call, call)
            elif graph.name.startswith("before"):
                truths[graph.name] = (neighbour, neighbour)
            elif layer.slot in ("stem", "head"):
                extra = call if layer.slot == "head" else 0.0
                truths[graph.name] = tuple(ms + extra for ms in latency_of(layer, shape))
            else:
                copies = int(graph.name.split(" of ")[0])
                truths[graph.name] = tuple(
                    neighbour + copies * ms for ms in latency_of(layer, shape)
                )
    for network in survey.networks:
        sums = np.sum([latency_of(*place) for place in network.placed()], axis=0)
        truths[network_name(network)] = tuple(1.1 * sums)
    order = [name for name in truths for _ in range(count)]
    return [
        Visit(name, *(ms * math.exp(rng.normal(0, noise)) for ms in truths[name]), 7, 0.02)
        for name in (order[index] for index in rng.permutation(len(order)))
    ]


def test_every_layer_and_network_is_told_from_visits(survey, convolutions):
    layers, networks = survey.latencies(visits_of(survey, convolutions))
    assert layers.keys() == convolutions.layers().keys()
    for key, layer in convolutions.layers().items():
        warm, cold = latency_of(layer, key[1])
        assert layers[key].warm.ms == pytest.approx(warm, rel=1e-6)
        assert layers[key].cold.ms == pytest.approx(cold, rel=1e-6)
    for network, found in zip(survey.networks, networks, strict=True):
        sums = np.sum([latency_of(*place) for place in network.placed()], axis=0)
        assert found["warm"].ms == pytest.approx(1.1 * sums[0])
        assert found["cold"].ms == pytest.approx(1.1 * sums[1])


def test_the_reference_is_compared_with_itself(survey, convolutions):
    visits = [
        visit._replace(warm=1.02 * visit.warm) if visit.graph == HIDDEN else visit
        for visit in visits_of(survey, convolutions)
    ]
    (first, second), deviation = survey.of_references(visits)
    assert (first.warm_ms, first.cold_ms) == (pytest.approx(1.0), pytest.approx(1.5))
    assert (second.warm_ms, second.cold_ms) == (pytest.approx(0.4), pytest.approx(0.7))
    assert (first.network, second.network) == (survey.networks[2], survey.networks[1])
    assert deviation == (pytest.approx(0.02), pytest.approx(0.0, abs=1e-9))


def test_first_visits_are_those_that_each_graph_lacks(survey, convolutions):
    assert set(survey.first_counts([], 3).values()) == {3}
    assert not {"reference", "reference 2"} & survey.first_counts([], 3).keys()
    visits = visits_of(survey, convolutions, count=2)
    counts = survey.first_counts([*visits, visits[0]], 3)
    assert Counter(counts.values()) == (
        {1: len(counts)} if visits[0].graph in survey.regular else {1: len(counts) - 1, 0: 1}
    )


def test_noise_is_the_error_that_new_visits_repeat(survey, convolutions):
    """An oracle by simulation: errors of predictions less measurements, over many sessions."""
    differences = []
    for seed in range(12):
        layers, networks = survey.latencies(visits_of(survey, convolutions, seed=seed, noise=0.03))
        for network, found in zip(survey.networks, networks, strict=True):
            placed = [(layer.signature, shape) for layer, shape in network.placed()]
            total = 1.1 * sum(layers[key].warm.ms for key in placed)
            differences.append(total / found["warm"].ms - 1)
    noise = survey.noise(visits_of(survey, convolutions, noise=0.03))
    assert noise == pytest.approx(np.std(differences), rel=0.5)


def test_more_visits_go_where_they_lower_the_noise(survey, convolutions):
    visits = visits_of(survey, convolutions, noise=0.03)
    counts = survey.next_counts(visits, 2.0)
    assert 0.02 * sum(counts.values()) == pytest.approx(2.0, rel=0.3)
    by_name = [name for name in counts if name.startswith("network")]
    others = [name for name in counts if "of " in name]
    assert np.mean([counts[name] for name in by_name]) > np.mean([counts[name] for name in others])
    few = survey.next_counts([visit for visit in visits if visit.graph != by_name[0]] + [
        visit for visit in visits if visit.graph == by_name[0]][:2], 2.0)  # fmt: skip
    assert few[by_name[0]] > counts[by_name[0]]


def test_networks_span_the_space(tiny):
    found = pick_networks(tiny, np.random.default_rng(0), 10)
    sizes = [measure_size(network).macs for network in found]
    assert sizes == sorted(sizes)
    assert (found[0], found[-1]) == (tiny.smallest(), tiny.largest())
    assert len(set(found)) == 10


def test_candidates_for_the_reference_are_of_middle_size(tiny):
    found = pick_candidates(tiny, np.random.default_rng(0))
    sizes = [measure_size(network).macs for network in found]
    assert sizes == sorted(sizes)
    assert len(set(found)) == len(found) > 2
    least, most = (measure_size(it).macs for it in (tiny.smallest(), tiny.largest()))
    assert 1.3 * least < min(sizes)
    assert max(sizes) < most / 1.1


@pytest.mark.parametrize("unsteady", [(0, 3), (1, 2), (2, 4)])
def test_the_reference_is_a_steady_candidate(tiny, graphs, machine, unsteady):
    rng = np.random.default_rng(0)
    candidates = pick_candidates(tiny, rng)
    nodes = [len(graphs.network(it).graph.node) for it in candidates]
    assert len(set(nodes)) == 5
    machine.unsteady = {nodes[place] for place in unsteady}
    found = pick_reference(candidates, machine.target, graphs, rng, 24)
    assert candidates.index(found) not in unsteady


def test_names_of_graphs_tell_networks_apart(tiny):
    survey = Survey([tiny.smallest(), tiny.largest()], [tiny.smallest()], LayerGraphs())
    assert len(survey.makers) == 4


def test_companions_are_smaller_and_larger_than_whichever_candidate_is_the_reference(tiny):
    for reference in pick_candidates(tiny, np.random.default_rng(0)):
        found = pick_companions(tiny, np.random.default_rng(1), reference)
        smaller, *larger = (measure_size(it).params for it in found)
        assert smaller < measure_size(reference).params < min(larger)
        assert found[-1] == tiny.largest()


def test_the_smallest_network_has_larger_companions_alone_and_the_largest_none(tiny):
    found = pick_companions(tiny, np.random.default_rng(1), tiny.smallest())
    assert all(measure_size(it).params > measure_size(tiny.smallest()).params for it in found)
    (smaller,) = pick_companions(tiny, np.random.default_rng(1), tiny.largest())
    assert measure_size(smaller).params < measure_size(tiny.largest()).params
