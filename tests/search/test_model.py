import itertools

import numpy as np
import pytest
from scipy.linalg import solve

from nas.search.model import JITTER, Encoder, Posterior

SIZES = (3, 4, 2, 5)


def indicators(assignments):
    return np.array(
        [[float(i >= v) for i, n in zip(one, SIZES, strict=True) for v in range(1, n)]
         for one in assignments]
    )  # fmt: skip


def features(assignments):
    return indicators(assignments), np.log1p(np.sum(assignments, axis=1))[:, None]


def inputs(assignments):
    everything = list(itertools.product(*map(range, SIZES)))
    return Encoder(SIZES, *features(everything))(*features(assignments))


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    assignments = rng.permutation(list(itertools.product(*map(range, SIZES))))[:40]
    weights = rng.normal(size=len(SIZES))
    return assignments, 70 + assignments @ weights + 0.1 * rng.normal(size=40)


def covariance(left, right, deviations, reach):
    option, parabola, pair, _ = np.exp(deviations)
    total = np.zeros((len(left.options), len(right.options)))
    for i, j in np.ndindex(total.shape):
        options = sum(left.options[i] * right.options[j])
        summary = sum(left.summary[i] * right.summary[j] / reach**2)
        total[i, j] = option**2 * options + parabola**2 * summary + pair**2 * options**2
    return total


def test_the_mean_is_that_of_a_gaussian_process(some):
    assignments, accuracies = some
    seen, asked = inputs(assignments[:30]), inputs(assignments[30:])
    deviations = np.log([0.5, 0.8, 0.3, 0.2])
    posterior = Posterior(seen, accuracies[:30], deviations)
    reach = np.maximum(np.abs(seen.summary).max(axis=0), 1)
    kernel = covariance(seen, seen, deviations, reach) + (0.2**2 + JITTER) * np.eye(30)
    centre, spread = accuracies[:30].mean(), accuracies[:30].std()
    weights = solve(kernel, (accuracies[:30] - centre) / spread)
    expected = centre + spread * covariance(asked, seen, deviations, reach) @ weights
    np.testing.assert_allclose(posterior.mean(asked), expected, rtol=1e-9)


def test_draws_have_the_mean_and_the_variance_of_the_posterior(some):
    assignments, accuracies = some
    seen, asked = inputs(assignments[:12]), inputs(assignments[36:])
    deviations = np.log([0.5, 0.8, 0.3, 0.2])
    posterior = Posterior(seen, accuracies[:12], deviations)
    rng = np.random.default_rng(0)
    draws = np.array([posterior.draw(rng, 1.0)(asked) for _ in range(4000)])
    reach = np.maximum(np.abs(seen.summary).max(axis=0), 1)
    kernel = covariance(seen, seen, deviations, reach) + (0.2**2 + JITTER) * np.eye(12)
    cross = covariance(asked, seen, deviations, reach)
    prior = covariance(asked, asked, deviations, reach)
    expected = accuracies[:12].var() * (prior - cross @ solve(kernel, cross.T))
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.1 * expected.max())
    np.testing.assert_allclose(
        draws.mean(axis=0), posterior.mean(asked), atol=0.1 * np.sqrt(expected.max())
    )


def test_timid_draws_are_nearer_the_mean(some):
    assignments, accuracies = some
    seen, asked = inputs(assignments[:12]), inputs(assignments[12:])
    posterior = Posterior(seen, accuracies[:12])
    bold, timid = (posterior.draw(np.random.default_rng(0), it)(asked) for it in (1.0, 0.25))
    mean = posterior.mean(asked)
    np.testing.assert_allclose(timid - mean, (bold - mean) / 4, atol=1e-9)


def test_additive_effects_are_learnt_from_few_evaluations(some):
    assignments, accuracies = some
    posterior = Posterior(inputs(assignments[:25]), accuracies[:25])
    errors = posterior.mean(inputs(assignments[25:])) - accuracies[25:]
    assert np.sqrt(np.mean(errors**2)) < 0.25  # noise is 0.1, the spread of accuracies above 1
    assert accuracies.std() > 1


def test_effects_are_learnt_where_one_network_alone_meets_the_bounds(some):
    assignments, accuracies = some
    encode = Encoder(SIZES, *features([(0,) * len(SIZES)]))  # it has no spread to scale by
    seen, asked = (encode(*features(it)) for it in (assignments[:25], assignments[25:]))
    errors = Posterior(seen, accuracies[:25]).mean(asked) - accuracies[25:]
    assert np.sqrt(np.mean(errors**2)) < 0.25


def test_noise_is_told_from_effects(some):
    assignments, accuracies = some
    rng = np.random.default_rng(0)
    noises = [
        np.exp(Posterior(inputs(assignments), values).deviations[3])
        for values in (accuracies, rng.normal(size=40))
    ]
    assert noises[0] < 0.2 < noises[1]


def test_equal_accuracies_are_expected_everywhere(some):
    assignments, _ = some
    posterior = Posterior(inputs(assignments[:10]), [50.0] * 10)
    np.testing.assert_allclose(posterior.mean(inputs(assignments)), 50.0)
