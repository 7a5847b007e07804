"""A Gaussian process over assignments: predicts accuracies from the evaluations so far.

Accuracy is a sum of effects of options (ordinal indicators), a parabola of the size and of each
cost, effects of pairs of options, and noise, each with a standard deviation fitted to the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from nas.search.problem import Floats

EXPECTED = np.log([0.7, 1.0, 0.2, 0.15])
"""Expected logarithms of the standard deviations of options, parabolas, pairs and noise, relative
to that of the accuracies. The prior is normal, with a standard deviation of 1 each."""
BOUND = 7.0
"""Largest such logarithm, of either sign."""
LARGEST_FIT = 300
"""Evaluations that the four are fitted to, at most, as that takes the most time."""
JITTER = 1e-8


class Inputs(NamedTuple):
    """Assignments as the model sees them, on scales near 1."""

    options: Floats  # (N, D)
    summary: Floats  # (N, S): 1, size, costs, and the squares of size and costs


class Encoder:
    """From indicators of (choice >= option), (N, D), and logarithms of costs, (N, K), to inputs."""

    def __init__(self, sizes: Sequence[int], indicators: Floats, costs: Floats) -> None:
        """Centre and scale by these assignments; what does not vary is not scaled."""
        self._steps = np.array([1 / (size - 1) for size in sizes for _ in range(1, size)], float)
        self._mean_options = indicators.mean(axis=0)
        options = self._weighted(indicators)
        unit = float(np.sqrt(np.mean(np.sum(options**2, axis=1))))
        self._unit = unit if unit > JITTER else 1.0
        measures = self._measures(indicators, costs)
        self._mean_measures = measures.mean(axis=0)
        spread = measures.std(axis=0)
        self._spread_measures = np.where(spread > JITTER, spread + JITTER, 1.0)

    def __call__(self, indicators: Floats, costs: Floats) -> Inputs:
        measures = self._measures(indicators, costs)
        measures = (measures - self._mean_measures) / self._spread_measures
        summary = np.hstack([np.ones((len(measures), 1)), measures, measures**2])
        return Inputs(self._weighted(indicators) / self._unit, summary)

    def _weighted(self, indicators: Floats) -> Floats:
        return np.asarray((indicators - self._mean_options) * np.sqrt(self._steps))

    def _measures(self, indicators: Floats, costs: Floats) -> Floats:
        return np.column_stack([indicators @ self._steps, costs])


class Posterior:
    """The distribution of any assignment's accuracy, given the accuracies of some."""

    def __init__(
        self, inputs: Inputs, accuracies: Sequence[float], deviations: Floats | None = None
    ) -> None:
        """Condition on the accuracies; an earlier fit's ``deviations`` save the time to fit."""
        self._reach = np.maximum(np.abs(inputs.summary).max(axis=0), 1.0)
        self._inputs = self._within_reach(inputs)
        observed = np.array(accuracies, float)
        self._centre, self._spread = float(observed.mean()), max(float(observed.std()), 1e-12)
        self._observed = (observed - self._centre) / self._spread
        if deviations is None:
            stride = -(-len(observed) // LARGEST_FIT)
            part = Inputs(*(values[::stride] for values in self._inputs))
            deviations = _fitted(part, self._observed[::stride])
        self.deviations = deviations
        kernel = self._kernel(self._inputs)
        kernel[np.diag_indices_from(kernel)] += np.exp(deviations)[3] ** 2 + JITTER
        self._factor = cho_factor(kernel, lower=True)
        self._weights = cho_solve(self._factor, self._observed)

    def mean(self, inputs: Inputs) -> Floats:
        found = self._kernel(self._within_reach(inputs)) @ self._weights
        return np.asarray(self._centre + self._spread * found)

    def draw(self, rng: np.random.Generator, exploration: float) -> Callable[[Inputs], Floats]:
        """Return a function that could be the truth; ``exploration`` scales it around the mean.

        By Matheron's rule: a draw of the prior, corrected by what it gets wrong of the data.
        """
        option, parabola, pair, noise = np.exp(self.deviations)
        linear = option * rng.normal(size=self._inputs.options.shape[1])
        curved = parabola * rng.normal(size=self._inputs.summary.shape[1])
        crossed = pair * rng.normal(size=(len(linear), len(linear)))

        def prior(inputs: Inputs) -> Floats:
            pairs = np.einsum("nd,nd->n", inputs.options @ crossed, inputs.options)
            return np.asarray(inputs.options @ linear + inputs.summary @ curved + pairs)

        errors = prior(self._inputs) + noise * rng.normal(size=len(self._observed))
        weights = self._weights - exploration * cho_solve(self._factor, errors)

        def function(inputs: Inputs) -> Floats:
            inputs = self._within_reach(inputs)
            found = exploration * prior(inputs) + self._kernel(inputs) @ weights
            return np.asarray(self._centre + self._spread * found)

        return function

    def _kernel(self, rows: Inputs) -> Floats:
        option, parabola, pair, _ = np.exp(self.deviations)
        by_option, by_parabola = _products(rows, self._inputs)
        kernel = option**2 * by_option + parabola**2 * by_parabola + pair**2 * by_option**2
        return np.asarray(kernel)

    def _within_reach(self, inputs: Inputs) -> Inputs:
        return Inputs(inputs.options, inputs.summary / self._reach)


def _products(rows: Inputs, columns: Inputs) -> tuple[Floats, Floats]:
    return rows.options @ columns.options.T, rows.summary @ columns.summary.T


def _fitted(inputs: Inputs, observed: Floats) -> Floats:
    """Return the logarithms of deviations that explain the data best, tempered by ``EXPECTED``."""
    by_option, by_parabola = _products(inputs, inputs)
    parts = [by_option, by_parabola, by_option**2, np.eye(len(observed))]

    def loss(logarithms: Floats) -> tuple[float, Floats]:
        scaled = [np.exp(2 * one) * part for one, part in zip(logarithms, parts, strict=True)]
        kernel = np.sum(scaled, axis=0)
        kernel[np.diag_indices_from(kernel)] += JITTER
        factor = cho_factor(kernel, lower=True)
        inverse = cho_solve(factor, np.eye(len(observed)))
        weights = inverse @ observed
        surprise = logarithms - EXPECTED
        value = observed @ weights / 2 + np.log(np.diag(factor[0])).sum() + surprise @ surprise / 2
        slope = inverse - np.outer(weights, weights)
        return float(value), np.array([(slope * part).sum() for part in scaled]) + surprise

    bounds, options = [(-BOUND, BOUND)] * 4, {"maxiter": 30, "ftol": 1e-6}
    found = minimize(loss, EXPECTED, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x)
