"""Public optimisers, to be compared with slimming at the same number of evaluations.

Not to be run: ``search.py`` does. Each is ``(problems, *, evaluations, rng) -> Solution``, for one
problem. All begin with the same number of random networks near the bounds, evaluate only networks
that meet them, none twice, and are told accuracies as they are. Of those whose libraries are not
part of the development's, ``MISSING`` tells the packages to install:

    .venv/bin/pip install -c constraints.txt botorch smac
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.search import Problem, Solution
from nas.search.problem import Assignment

if TYPE_CHECKING:
    from botorch.acquisition import AcquisitionFunction
    from botorch.models import SingleTaskGP
    from optuna.samplers import BaseSampler
    from sklearn.gaussian_process import GaussianProcessRegressor

Evaluated = Mapping[Assignment, float]
Floats = NDArray[np.float64]
Proposals = Callable[[Problem, Evaluated, np.random.Generator], Iterator[Assignment]]
"""From a problem, and evaluations to which each proposal is added before the next is asked for."""
Values = Callable[[Sequence[Assignment]], Floats]

INITIAL = 10
"""Random networks near the bounds that every optimiser begins with."""
POOL = 500
"""Random networks near the bounds of which a Gaussian process proposes one, or a neighbour."""
PARENTS, NEIGHBOURS = 3, 200
"""The best so far, neighbours of which join the pool for a proposal; at most so many of each."""
GROWTH = 1.1
"""Scikit-learn's process is fitted again when evaluations have grown by this factor."""
SAMPLES = 128
"""Joint draws of what networks are worth, for expected improvement."""
JITTER = 1e-6
"""Of the largest variance, so that draws of it exist."""
CLIMB = 10
"""Moves to a better neighbour that an acquisition's best may be followed by."""
STEPS, FIRST_STEPS = 30, 300
"""Of a fit that starts from the last one, and of one that does not, at most."""
MISSES = 100
"""Networks that were evaluated before, after which no more are tried."""


def search(
    proposals: Proposals,
    problems: Sequence[Problem],
    *,
    evaluations: int,
    rng: np.random.Generator,
) -> Solution:
    """Evaluate what is proposed; the best is the most accurate, or the highest expected."""
    (problem,) = (problem.ready(evaluations) for problem in problems)
    evaluated: dict[Assignment, float] = {}
    first = random_networks(problem, evaluated, rng)
    following = itertools.chain(
        itertools.islice(first, INITIAL), proposals(problem, evaluated, rng)
    )
    for proposed in itertools.islice(following, evaluations):
        evaluated[proposed] = problem.judge(proposed)
    return Solution((incumbent(proposals, problem, evaluated),), (), evaluated)


def incumbent(proposals: Proposals | None, problem: Problem, evaluated: Evaluated) -> Assignment:
    """What an optimiser would deliver after these evaluations."""
    worth = evaluated
    if proposals in EXPECTATIONS and len(evaluated) > 1:
        every = list(evaluated)
        worth = dict(zip(every, EXPECTATIONS[proposals](problem, evaluated)(every), strict=True))
    return max(filter(problem.fits, worth), key=worth.__getitem__)


def random_networks(
    problem: Problem, evaluated: Container[Assignment], rng: np.random.Generator
) -> Iterator[Assignment]:
    """Random networks near the bounds that are not evaluated, until there are hardly any."""
    misses = 0
    while misses < MISSES:
        sampled = problem.sample(rng)
        misses = misses + 1 if sampled in evaluated else 0
        if not misses:
            yield sampled


def local_search(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator
) -> Iterator[Assignment]:
    """Move to the first better neighbour; where none of twice as many as choices is, start anew."""
    current, failures = max(evaluated, key=evaluated.__getitem__), 0
    patience = 2 * len(problem.sizes)
    while True:
        if failures >= patience:
            proposed = next(random_networks(problem, evaluated, rng), None)
        else:
            proposed = moved(problem, current, evaluated, rng)
        if proposed is None:
            return
        yield proposed
        failures += 1
        if failures > patience or evaluated[proposed] > evaluated[current]:
            current, failures = proposed, 0


def thompson(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator
) -> Iterator[Assignment]:
    """The best of the pool by a joint draw of a Gaussian process (scikit-learn)."""

    def draw(process: GaussianProcessRegressor, candidates: list[Assignment]) -> Floats:
        return draws(process, scaled(problem, candidates), 1, rng)[0]

    yield from _by_process(problem, evaluated, rng, draw)


def noisy_improvement(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator
) -> Iterator[Assignment]:
    """The highest expected improvement, over what the evaluated ones may be worth without noise."""

    def improvement(process: GaussianProcessRegressor, candidates: list[Assignment]) -> Floats:
        everything = scaled(problem, [*evaluated, *candidates])
        joint = draws(process, everything, SAMPLES, rng)
        known, new = np.split(joint, [len(evaluated)], axis=1)
        return np.maximum(new - known.max(axis=1, keepdims=True), 0).mean(axis=0)

    yield from _by_process(problem, evaluated, rng, improvement)


def _by_process(
    problem: Problem,
    evaluated: Evaluated,
    rng: np.random.Generator,
    acquire: Callable[[GaussianProcessRegressor, list[Assignment]], Floats],
) -> Iterator[Assignment]:
    pool = list(dict.fromkeys(itertools.islice(random_networks(problem, (), rng), POOL)))
    process, fitted = None, 0
    while True:
        is_due = len(evaluated) > GROWTH * fitted
        process = gaussian_process(problem, evaluated, None if is_due else process)
        fitted = len(evaluated) if is_due else fitted
        expected = process.predict(scaled(problem, list(evaluated)))
        best = [list(evaluated)[index] for index in np.argsort(-expected)[:PARENTS]]
        near = itertools.chain(*(neighbours(problem, one, rng) for one in best))
        candidates = [it for it in dict.fromkeys([*pool, *near]) if it not in evaluated]
        if not candidates:
            return
        yield candidates[int(np.argmax(acquire(process, candidates)))]


def gaussian_process(
    problem: Problem, evaluated: Evaluated, known: GaussianProcessRegressor | None = None
) -> GaussianProcessRegressor:
    """Matérn 5/2 on the options, with noise; an earlier fit's kernel saves the time to fit."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    start = ConstantKernel(1.0) * Matern(len(problem.sizes) ** 0.5, nu=2.5) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(
        known.kernel_ if known else start,
        optimizer=None if known else "fmin_l_bfgs_b",
        normalize_y=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters at their limits
        return process.fit(scaled(problem, list(evaluated)), list(evaluated.values()))


def draws(
    process: GaussianProcessRegressor, inputs: Floats, count: int, rng: np.random.Generator
) -> Floats:
    """Joint draws without noise; (count, N)."""
    mean, covariance = process.predict(inputs, return_cov=True)
    noise = process.kernel_.k2.noise_level * process._y_train_std**2
    covariance[np.diag_indices_from(covariance)] += JITTER * covariance.max() - noise
    root = np.linalg.cholesky(covariance)
    return np.asarray(mean + rng.normal(size=(count, len(mean))) @ root.T)


def expected_by_process(problem: Problem, evaluated: Evaluated) -> Values:
    """What scikit-learn's process expects."""
    process = gaussian_process(problem, evaluated)
    return lambda some: np.asarray(process.predict(scaled(problem, some)))


def botorch(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator
) -> Iterator[Assignment]:
    """BoTorch's qLogNoisyExpectedImprovement, at the best of the pool, then up its neighbours."""
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.sampling import SobolQMCNormalSampler

    pool = list(dict.fromkeys(itertools.islice(random_networks(problem, (), rng), POOL)))
    model = None
    while True:
        torch.manual_seed(int(rng.integers(2**31)))
        model = botorch_process(problem, evaluated, model)
        sampler = SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=int(rng.integers(2**31)))
        known = torch.from_numpy(scaled(problem, list(evaluated)))
        acquisition = qLogNoisyExpectedImprovement(model, known, sampler, prune_baseline=True)

        def values(
            some: Sequence[Assignment], acquisition: AcquisitionFunction = acquisition
        ) -> Floats:
            with torch.no_grad():
                return acquisition(torch.from_numpy(scaled(problem, some))[:, None]).numpy()

        best = sorted(evaluated, key=evaluated.__getitem__)[-PARENTS:]
        near = itertools.chain(*(neighbours(problem, one, rng) for one in best))
        candidates = [it for it in dict.fromkeys([*pool, *near]) if it not in evaluated]
        if not candidates:
            return
        proposed, value = _highest(candidates, values)
        for _ in range(CLIMB):
            near = [it for it in neighbours(problem, proposed, rng) if it not in evaluated]
            step, height = _highest(near, values) if near else (proposed, value)
            if height <= value:
                break
            proposed, value = step, height
        yield proposed


def _highest(candidates: Sequence[Assignment], values: Values) -> tuple[Assignment, float]:
    found = values(candidates)
    return candidates[int(found.argmax())], float(found.max())


def botorch_process(
    problem: Problem, evaluated: Evaluated, known: SingleTaskGP | None = None
) -> SingleTaskGP:
    """BoTorch's standard process and priors; an earlier one is where a fit starts."""
    import torch
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.optim.fit import fit_gpytorch_mll_scipy
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.set_num_threads(1)
    accuracies = torch.tensor(list(evaluated.values()), dtype=torch.float64)[:, None]
    inputs = torch.from_numpy(scaled(problem, list(evaluated)))
    model = SingleTaskGP(inputs, accuracies, outcome_transform=Standardize(1))
    if known:
        model.covar_module.load_state_dict(known.covar_module.state_dict())
        model.likelihood.load_state_dict(known.likelihood.state_dict())
        model.mean_module.load_state_dict(known.mean_module.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that steps ran out, which the next fit continues
        mll = ExactMarginalLogLikelihood(model.likelihood, model).train()
        fit_gpytorch_mll_scipy(mll, options={"maxiter": STEPS if known else FIRST_STEPS})
    model.eval()
    return model


def expected_by_botorch(problem: Problem, evaluated: Evaluated) -> Values:
    """What BoTorch's process expects."""
    import torch

    model = botorch_process(problem, evaluated)

    def values(some: Sequence[Assignment]) -> Floats:
        with torch.no_grad():
            return model.posterior(torch.from_numpy(scaled(problem, some))).mean[:, 0].numpy()

    return values


def optuna_tpe(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator
) -> Iterator[Assignment]:
    """Optuna's multivariate TPE, which is told by how much each proposal exceeds the bounds."""
    from optuna.samplers import TPESampler

    seed = int(rng.integers(2**31))
    sampler = TPESampler(seed=seed, n_startup_trials=INITIAL, multivariate=True)
    yield from _by_optuna(problem, evaluated, rng, sampler)


def optuna_process(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator
) -> Iterator[Assignment]:
    """Optuna's Gaussian process, likewise."""
    from optuna.samplers import GPSampler

    sampler = GPSampler(seed=int(rng.integers(2**31)), n_startup_trials=INITIAL)
    yield from _by_optuna(problem, evaluated, rng, sampler)


def _by_optuna(
    problem: Problem, evaluated: Evaluated, rng: np.random.Generator, sampler: BaseSampler
) -> Iterator[Assignment]:
    """What misses a bound is told with the accuracy of the network below it that is evaluated."""
    import optuna
    from optuna.distributions import IntDistribution
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {str(j): IntDistribution(0, size - 1) for j, size in enumerate(problem.sizes)}

    def tell(one: Assignment, accuracy: float) -> None:
        params = {str(choice): option for choice, option in enumerate(one)}
        trial = create_trial(params=params, distributions=space, value=accuracy)
        for name, excess in excesses(problem, one).items():
            trial.set_constraint(name, excess)
        study.add_trial(trial)

    for known, accuracy in list(evaluated.items()):
        tell(known, accuracy)
    while True:
        trial = study.ask(space)
        asked = problem.canonical(tuple(trial.params[name] for name in space))
        proposed = new_and_feasible(problem, asked, evaluated, rng)
        if proposed is None:
            return
        yield proposed
        for name, excess in excesses(problem, asked).items():
            trial.set_constraint(name, excess)
        study.tell(trial, evaluated[proposed if asked not in evaluated else asked])
        if proposed != asked:
            tell(proposed, evaluated[proposed])


def smac(problem: Problem, evaluated: Evaluated, rng: np.random.Generator) -> Iterator[Assignment]:
    """SMAC3's random forest; it knows no constraints, so what misses a bound is told the worst."""
    from ConfigSpace import Configuration, ConfigurationSpace, Integer
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory import TrialInfo, TrialValue

    logging.getLogger("smac").setLevel(logging.ERROR)
    seed = int(rng.integers(2**31))
    space = ConfigurationSpace(seed=seed)
    names = [f"choice{choice:02}" for choice in range(len(problem.sizes))]
    space.add(
        [Integer(name, (0, size - 1)) for name, size in zip(names, problem.sizes, strict=True)]
    )

    def configured(one: Assignment) -> Configuration:
        return Configuration(space, values=dict(zip(names, one, strict=True)))

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scenario = Scenario(
            space, output_directory=folder, deterministic=True, n_trials=10**6, seed=seed
        )
        facade = HyperparameterOptimizationFacade
        optimiser = facade(
            scenario,
            lambda config, seed=0: 0.0,  # it is asked and told
            initial_design=facade.get_initial_design(
                scenario, n_configs=0, additional_configs=list(map(configured, evaluated))
            ),
            overwrite=True,
            logging_level=False,
        )
        worst = -min(evaluated.values())
        while True:
            trial = optimiser.ask()
            asked = problem.canonical(tuple(int(trial.config[name]) for name in names))
            if asked in evaluated:
                optimiser.tell(trial, TrialValue(-evaluated[asked]))
                if len(optimiser.runhistory) <= INITIAL:
                    continue
            proposed = new_and_feasible(problem, asked, evaluated, rng)
            if proposed is None:
                return
            yield proposed
            if proposed == asked:
                optimiser.tell(trial, TrialValue(-evaluated[proposed]))
                continue
            if asked not in evaluated:
                worst = max(worst, -evaluated[proposed])
                optimiser.tell(trial, TrialValue(worst))
            optimiser.tell(
                TrialInfo(configured(proposed), seed=trial.seed),
                TrialValue(-evaluated[proposed]),
            )


def scaled(problem: Problem, some: Sequence[Assignment]) -> Floats:
    """Options from 0 to 1; (N, choices)."""
    return np.array(some, float) / np.maximum(np.array(problem.sizes) - 1, 1)


def excesses(problem: Problem, one: Assignment) -> dict[str, float]:
    """How far each bound is missed, above 0, as a part of it."""
    costs = problem.price(one)
    return {name: costs[name] / bound - 1 for name, bound in problem.target.items()}


def changed(problem: Problem, one: Assignment, rng: np.random.Generator) -> Assignment:
    """The network with another option of a random choice; whether that fits or not."""
    choice = int(rng.integers(len(one)))
    others = [option for option in range(problem.sizes[choice]) if option != one[choice]]
    return problem.changed(one, choice, int(rng.choice(others))) if others else one


def moved(
    problem: Problem, one: Assignment, evaluated: Container[Assignment], rng: np.random.Generator
) -> Assignment | None:
    """A changed network, lowered to the bounds or raised to them."""
    for _ in range(MISSES):
        asked = changed(problem, one, rng)
        fitted = asked if problem.fits(asked) else problem.grow(problem.feasible(), asked, rng)
        proposed = problem.grow(fitted, problem.largest, rng)
        if proposed not in evaluated:
            return proposed
    return next(random_networks(problem, evaluated, rng), None)


def neighbours(problem: Problem, one: Assignment, rng: np.random.Generator) -> list[Assignment]:
    """Networks that differ in one choice or in two, and fit."""
    singles = [
        problem.changed(one, choice, option)
        for choice, size in enumerate(problem.sizes)
        for option in range(size)
        if option != one[choice]
    ]
    pairs = [changed(problem, changed(problem, one, rng), rng) for _ in range(NEIGHBOURS)]
    found = [it for it in dict.fromkeys([*singles, *pairs]) if it != one and problem.fits(it)]
    return found[:NEIGHBOURS]


def new_and_feasible(
    problem: Problem, asked: Assignment, evaluated: Container[Assignment], rng: np.random.Generator
) -> Assignment | None:
    """What is asked for; else the most of it that fits, else of a changed one, else any network."""
    proposed = asked
    for _ in range(MISSES):
        if not problem.fits(proposed):
            proposed = problem.grow(problem.feasible(), proposed, rng)
        if proposed not in evaluated:
            return proposed
        proposed = changed(problem, asked, rng)
    return next(random_networks(problem, evaluated, rng), None)


EXPECTATIONS: dict[Proposals, Callable[[Problem, Evaluated], Values]] = {
    thompson: expected_by_process,
    noisy_improvement: expected_by_process,
    botorch: expected_by_botorch,
}
"""Of those that deliver the network of the highest expectation, not of the highest observation."""
PROPOSALS: dict[str, Proposals] = {
    "local": local_search,
    "GP, NEI": noisy_improvement,
    "GP, TS": thompson,
    "BoTorch": botorch,
    "SMAC": smac,
    "Optuna GP": optuna_process,
    "Optuna TPE": optuna_tpe,
}
PACKAGES = {"BoTorch": "botorch", "SMAC": "smac"}
MISSING = {
    name: package for name, package in PACKAGES.items() if importlib.util.find_spec(package) is None
}
OPTIMISERS: dict[str, Callable[..., Solution]] = {
    name: partial(search, proposals) for name, proposals in PROPOSALS.items() if name not in MISSING
}
