"""Which of the networks that it evaluated a method chooses: (number,) costs number percent."""

from types import SimpleNamespace

import pytest

from nas.errors import UserError
from nas.search import Problem
from nas.slim.methods import Method, Searched, Uniform
from nas.slim.plan import Plan


def chooser(accuracies, progress, images=100, target=None):
    """A study that evaluated these networks on so many images."""
    plan = Plan(targets=(target or {"latency_ms": 1.0},))
    evaluated = {(number,): accuracy for number, accuracy in accuracies.items()}
    candidates = SimpleNamespace(
        plan=plan,
        prices=SimpleNamespace(cost=lambda it: {"latency_ms": it[0] / 100, "params": 10.0 * it[0]}),
        dataset=SimpleNamespace(search=range(images)),
        accuracy=evaluated.__getitem__,
        progress=progress,
    )
    return Searched(candidates, evaluated, "study")


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({70: 0.60, 95: 0.55, 96: 0.58, 101: 0.90}, 96),  # 0.098 is what chance makes likely
        ({70: 0.60, 94: 0.59}, 70),  # nothing is near
        ({70: 0.60, 97: 0.60, 99: 0.60}, 99),  # of equals the nearest
    ],
)
def test_networks_near_the_bound_are_preferred(recorder, accuracies, chosen):
    progress = recorder()
    assert chooser(accuracies, progress).choose({"latency_ms": 1.0}) == (chosen,)
    assert progress.lines == []


def test_a_clearly_better_network_is_chosen_wherever_it_is_and_a_line_says_so(recorder):
    progress = recorder()
    method = chooser({70: 0.60, 96: 0.50}, progress)
    for _ in range(2):
        assert method.choose({"latency_ms": 1.0}) == (70,)
    assert progress.lines == [
        "searched: takes a network at 70 % of its bound, 10.0 points more accurate than any near it"
    ]
    assert method.explain((70,), 0.7) == (
        "its network is clearly more accurate than those that it found near the target"
    )
    assert method.explain((96,), 0.9) == "found no network between 0.900 ms and the target"


def test_on_more_images_a_smaller_difference_is_clear(recorder):
    accuracies = {70: 0.60, 96: 0.58}
    assert chooser(accuracies, recorder(), images=100).choose({"latency_ms": 1.0}) == (96,)
    assert chooser(accuracies, recorder(), images=10_000).choose({"latency_ms": 1.0}) == (70,)


def test_a_network_at_its_bound_of_parameters_is_near(recorder):
    bounds = {"latency_ms": 1.0, "params": 700.0}
    assert chooser({70: 0.6, 50: 0.5}, recorder(), target=bounds).choose(bounds) == (70,)


def test_sizes_alone_are_no_reason_to_be_near(recorder):
    bounds = {"params": 1000.0}
    assert chooser({70: 0.60, 96: 0.58}, recorder(), target=bounds).choose(bounds) == (70,)


def test_a_corrected_bound_needs_no_evaluation(recorder):
    method = chooser({70: 0.60, 90: 0.62, 96: 0.65}, recorder())
    assert method.choose({"latency_ms": 1.0}) == (96,)
    assert method.choose({"latency_ms": 0.92}) == (90,)
    assert method.choose({"latency_ms": 1.3}) == (96,)
    with pytest.raises(UserError, match=r"no network of the study meets latency_ms <= 0.5; search"):
        method.choose({"latency_ms": 0.5})


class Given(Method):
    """Finds the networks that it is told of, of which a second choice adds 10 percent an option."""

    name = "given"

    def __init__(self, accuracies, progress, evaluations=10, images=100):
        def cost(network):
            return {"latency_ms": network[0] / 100 + 0.1 * network[1]}

        problem = Problem((100, 4), cost, self._accuracy, {"latency_ms": 1.0})
        candidates = SimpleNamespace(
            plan=Plan(targets=({"latency_ms": 1.0},), evaluations=evaluations),
            prices=SimpleNamespace(cost=problem.cost),
            problem=problem,
            largest=(0, 3),
            dataset=SimpleNamespace(search=range(images)),
            accuracy=self._accuracy,
            progress=progress,
        )
        super().__init__(candidates)
        self.accuracies = {(number, 0): accuracy for number, accuracy in accuracies.items()}

    def _accuracy(self, network):
        return self.accuracies.get(network, self.accuracies.get((network[0], 0), 0.5))

    def _search(self, targets, evaluations):  # noqa: ARG002
        self._spend(self.accuracies)
        return [self._best(target) for target in targets]


def test_a_network_far_from_the_bound_is_enlarged(recorder):
    assert Given({68: 0.60, 50: 0.55}, recorder()).choose({"latency_ms": 1.0}) == (68, 3)
    assert Given({76: 0.60, 50: 0.55}, recorder()).choose({"latency_ms": 1.0}) == (76, 2)


def test_it_is_enlarged_rather_than_one_near_the_bound_taken_that_is_worse(recorder):
    assert Given({68: 0.60, 97: 0.45}, recorder()).choose({"latency_ms": 1.0}) == (68, 3)
    assert Given({68: 0.60, 97: 0.55}, recorder()).choose({"latency_ms": 1.0}) == (97, 0)


def test_it_stays_where_enlarging_leads_nowhere_near_or_no_evaluation_is_left(recorder):
    assert Given({50: 0.60}, recorder()).choose({"latency_ms": 1.0}) == (50, 0)
    assert Given({68: 0.60}, recorder(), evaluations=1).choose({"latency_ms": 1.0}) == (68, 0)


def test_between_two_scaled_networks_the_smaller_gets_a_part_of_the_larger(recorder):
    def ms(network):
        return {"latency_ms": 0.2 + 0.1 * sum(network)}

    accuracies = []
    problem = Problem((3, 3, 3), ms, lambda it: 0.5, {"latency_ms": 0.65})
    candidates = SimpleNamespace(
        plan=Plan(targets=({"latency_ms": 0.65},), baselines=False),
        prices=SimpleNamespace(cost=ms),
        problem=problem,
        largest=(2, 2, 2),
        space=SimpleNamespace(
            canonical=lambda it: it, uniform=lambda share: (round(2 * share),) * 3
        ),
        accuracy=lambda it: accuracies.append(it) or 0.5,
        progress=recorder(),
    )
    found = Uniform(candidates).choose({"latency_ms": 0.65})
    assert sorted(found) == [1, 1, 2]
    assert accuracies[-1] == found
