"""Baselines of slimming, and studies that workers share: random search and Optuna's samplers.

Workers share a study's storage. Any of them may be killed: a running trial has a pulse, and the
worker that first notices a dead one evaluates it again.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nas.errors import UserError
from nas.printing import readable
from nas.progress import SILENT, Progress
from nas.search.problem import Assignment, Problem
from nas.search.walk import Solution, most_accurate

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SamplerName = Literal["nsga2", "tpe", "random"]

POPULATION = 20
"""Networks of a generation of the evolution; any sampler starts with so many random ones."""
PROPOSALS = 20
"""Networks that a sampler may propose per evaluation; those that miss a bound cost none."""
MISSES = 20
"""Proposals in a row that cost no evaluation, after which a worker proposes a random network."""
RANDOM_MISSES = 100
"""Random networks in a row that were evaluated before, after which random search ends."""
WAIT_SECONDS = 0.1
"""Between two looks, while only other workers have something left to do."""
EVALUATED, BEAT, SUBJECT = "evaluated", "pulse", "subject"
"""User attributes: whether a trial cost an evaluation, its beats; the subject of a study."""


def open_study(storage: str | None, name: str, *, subject: str) -> Study:
    """Return the study ``name``, made if need be, which maximises accuracy and minimises a cost.

    ``storage`` is the path of a journal file (one machine), a database's URL, or None (in memory).
    Raises UserError if it cannot be opened, or its study is about another ``subject`` (one line).
    """
    import optuna

    from nas.search.storage import open_storage

    place = readable(storage or "memory")  # without the password of a database
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=open_storage(storage) if storage else None,
            study_name=name,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        known = study.user_attrs.get(SUBJECT)
        if known is None:
            study.set_user_attr(SUBJECT, subject)
    except Exception as error:  # noqa: BLE001 - each database has errors of its own
        detail = str(error).partition("\n")[0]
        raise UserError(f"{place}: cannot be opened as a storage: {readable(detail)}") from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    if known not in (None, subject):
        raise UserError(
            f"{place}: its study '{name}' is about {known}, not {subject}; name another storage"
        )
    return study


def make_sampler(name: SamplerName, seed: int | None) -> BaseSampler:
    """Return Optuna's sampler; a ``seed`` of None draws other numbers in each process."""
    from optuna import samplers

    if name == "nsga2":
        return samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    if name == "tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=POPULATION)
    return samplers.RandomSampler(seed=seed)


class Pulse(NamedTuple):
    """Seconds between two beats of a running trial, and without one until it counts as dead."""

    seconds: float = 5.0
    patience_seconds: float = 60.0


PULSE = Pulse()


def search_randomly(
    problems: Sequence[Problem], *, evaluations: int, rng: np.random.Generator
) -> Solution:
    """Evaluate random networks near the bounds of each problem in turn; see ``slim_problems``."""
    problems = [problem.ready(evaluations) for problem in problems]
    evaluated: dict[Assignment, float] = {}
    misses = 0
    for problem in itertools.cycle(problems):
        if len(evaluated) >= evaluations or misses >= RANDOM_MISSES * len(problems):
            break
        sampled = problem.sample(rng)
        misses = misses + 1 if sampled in evaluated else 0
        if not misses:
            evaluated[sampled] = problem.judge(sampled)
    return _solution(problems, evaluated)


def evolve(problems: Sequence[Problem], *, evaluations: int, rng: np.random.Generator) -> Solution:
    """Run NSGA-II on accuracy and the first bounded cost, with the loosest bounds as constraints.

    The first generation is random networks near the bounds; for the rest see ``slim_problems``.
    """
    problems = [problem.ready(evaluations) for problem in problems]
    names = problems[0].target
    loosest = {name: max(it.target.get(name, math.inf) for it in problems) for name in names}
    turns = itertools.cycle(problems)
    study = open_study(None, "evolution", subject="evolution")
    work(
        study,
        problems[0].within(loosest),
        sampler=make_sampler("nsga2", int(rng.integers(2**31))),
        evaluations=evaluations,
        rng=rng,
        first=lambda: next(turns).sample(rng),
    )
    return _solution(problems, _accuracies(study.get_trials(deepcopy=False), problems[0]))


def work(
    study: Study,
    problem: Problem,
    *,
    sampler: BaseSampler,
    evaluations: int,
    rng: np.random.Generator,
    first: Callable[[], Assignment] | None = None,
    pulse: Pulse = PULSE,
    progress: Progress = SILENT,
) -> None:
    """Evaluate, beside other workers, until the study holds ``evaluations`` or has no new proposal.

    Only assignments that meet every bound are evaluated, and none twice. ``first`` returns the
    first networks to propose, by default random ones near the bounds.
    """
    from optuna.trial import TrialState

    beats: dict[int, tuple[object, float]] = {}
    misses = 0
    while True:
        trials = study.get_trials(deepcopy=False)
        evaluated = _accuracies(trials, problem)
        progress.update("networks evaluated", len(evaluated), evaluations)
        running = [trial for trial in trials if not trial.state.is_finished()]
        dead = _dead(running, beats, pulse.patience_seconds)
        finished = len(trials) - len(running)
        if len(evaluated) >= evaluations or finished >= PROPOSALS * evaluations:
            return
        if len(evaluated) + len(running) - len(dead) >= evaluations:
            time.sleep(WAIT_SECONDS)
            continue
        fixed = _take_over(study, dead[0], problem) if dead else None
        if fixed is None and len(trials) < POPULATION:
            fixed = first() if first else problem.sample(rng)
        elif fixed is None and misses >= MISSES:
            fixed = tuple(int(rng.integers(size)) for size in problem.sizes)
        study.sampler = _fixed(sampler, fixed) if fixed else sampler
        trial = study.ask()  # not enqueued: a trial's number must show when it began
        try:
            values = _evaluate(study, trial, problem, evaluations, pulse.seconds)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        state = None if values else TrialState.FAIL
        study.tell(trial, values, state=state, skip_if_finished=True)
        misses = 0 if trial.user_attrs.get(EVALUATED) else misses + 1


def evaluated_in(trials: Sequence[FrozenTrial], problem: Problem) -> dict[Assignment, float]:
    """Return the accuracy of each assignment that a worker evaluated, in the order of trials.

    Raises UserError if a trial holds what no worker writes.
    """
    for trial in _evaluated(trials):
        if not 0 <= (accuracy := trial.values[0]) <= 1:  # so is what is no number
            raise UserError(
                f"trial {trial.number} of the study: accuracy must be from 0 to 1, got "
                f"{accuracy:g}; name another storage"
            )
    return _accuracies(trials, problem)


def _accuracies(trials: Sequence[FrozenTrial], problem: Problem) -> dict[Assignment, float]:
    return {
        proposal: trial.values[0]
        for trial in _evaluated(trials)
        if (proposal := _proposal(trial, problem)) is not None
    }


def _evaluated(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [it for it in trials if it.user_attrs.get(EVALUATED) and it.values is not None]


def _evaluate(
    study: Study, trial: Trial, problem: Problem, evaluations: int, pulse_seconds: float
) -> list[float] | None:
    """Return accuracy and cost of a trial's proposal; None if another worker is to evaluate it.

    Where a bound is missed nothing is evaluated and the accuracy is 0: constraints count first.
    """
    sizes = enumerate(problem.sizes)
    options = [trial.suggest_int(str(choice), 0, size - 1) for choice, size in sizes]
    proposed = problem.canonical(tuple(options))
    costs = problem.price(proposed)
    for name, bound in problem.target.items():
        trial.set_constraint(name, costs[name] - bound)
    price = costs[next(iter(problem.target))]
    if not problem.fits(proposed):
        return [0.0, price]
    trials = study.get_trials(deepcopy=False)
    known = _accuracies(trials, problem)
    if proposed in known:
        return [known[proposed], price]
    before = _before(trial, trials, problem)
    if len(known) + len(before) >= evaluations or proposed in before:
        return None
    with _beating(trial, pulse_seconds):
        # A worker that was still choosing may have chosen the same, and looked before the pulse.
        if None in before:
            trials = study.get_trials(deepcopy=False)
            if proposed in [*_accuracies(trials, problem), *_before(trial, trials, problem)]:
                return None
        found = problem.judge(proposed)
    trial.set_user_attr(EVALUATED, True)
    return [found, price]


def _before(
    trial: Trial, trials: Sequence[FrozenTrial], problem: Problem
) -> list[Assignment | None]:
    """Return the proposals of the running trials that come before ``trial``.

    Trials are numbered in the order in which they begin, so of all workers that see one evaluation
    left only one finds no trial before its own. One with a pulse evaluates already.
    """
    return [
        _proposal(other, problem)
        for other in trials
        if not other.state.is_finished() and other.number != trial.number
        if other.number < trial.number or BEAT in other.user_attrs
    ]


def _fixed(sampler: BaseSampler, proposal: Assignment) -> BaseSampler:
    """Return the sampler, but with this proposal; Optuna's own such sampler is experimental."""
    from optuna.samplers import BaseSampler

    class Fixed(BaseSampler):
        infer_relative_search_space = staticmethod(sampler.infer_relative_search_space)
        before_trial = staticmethod(sampler.before_trial)
        after_trial = staticmethod(sampler.after_trial)

        def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
        ) -> dict[str, Any]:
            sampler.sample_relative(study, trial, search_space)  # evolution counts generations
            return {}

        def sample_independent(
            self,
            study: Study,  # noqa: ARG002
            trial: FrozenTrial,  # noqa: ARG002
            param_name: str,
            param_distribution: BaseDistribution,  # noqa: ARG002
        ) -> int:
            return proposal[int(param_name)]

    return Fixed()


def _take_over(study: Study, dead: FrozenTrial, problem: Problem) -> Assignment | None:
    """Return a dead worker's proposal; None if there is none, or another worker was faster."""
    from optuna.trial import TrialState

    try:
        study.tell(dead.number, state=TrialState.FAIL)
    except (ValueError, RuntimeError):  # it is finished: another worker took it over, or it lives
        return None
    return _proposal(dead, problem)


def _dead(
    running: list[FrozenTrial], beats: dict[int, tuple[object, float]], patience_seconds: float
) -> list[FrozenTrial]:
    """Return the trials whose pulse stands still; ``beats`` keeps the last ones and times."""
    now = time.monotonic()
    for trial in running:
        beat = trial.user_attrs.get(BEAT)
        if trial.number not in beats or beats[trial.number][0] != beat:
            beats[trial.number] = beat, now
    return [trial for trial in running if now - beats[trial.number][1] > patience_seconds]


@contextmanager
def _beating(trial: Trial, seconds: float) -> Iterator[None]:
    done = threading.Event()
    trial.set_user_attr(BEAT, 0)

    def beat() -> None:
        count = 0
        while not done.wait(seconds):
            count += 1
            try:
                trial.set_user_attr(BEAT, count)
            except Exception:  # noqa: BLE001 - the worker cannot write its accuracy either
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _proposal(trial: FrozenTrial, problem: Problem) -> Assignment | None:
    """Return a trial's proposal; None until all its choices have reached the storage."""
    if len(trial.params) < len(problem.sizes):
        return None
    options = [trial.params.get(str(choice), -1) for choice in range(len(problem.sizes))]
    for option, size in zip(options, problem.sizes, strict=True):
        if not (isinstance(option, int) and 0 <= option < size):
            raise UserError(
                f"trial {trial.number} of the study: its options must be whole numbers below "
                f"{', '.join(map(str, problem.sizes))}, got {options}; name another storage"
            )
    return problem.canonical(tuple(options))


def _solution(problems: Sequence[Problem], evaluated: dict[Assignment, float]) -> Solution:
    bests = [most_accurate(problem, evaluated, problem.feasible()) for problem in problems]
    return Solution(tuple(bests), (), evaluated)
