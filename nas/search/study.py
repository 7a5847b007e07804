"""A search that workers share: an Optuna study, in a storage that any number of them write to.

A journal file serves the processes of one machine, a database those of many. Each worker asks the
study what to evaluate next, so none needs to know of the others, and any of them may be killed: a
running trial has a pulse, and one whose pulse stood still is evaluated again by whoever notices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nas.errors import UserError
from nas.search.problem import Assignment, Problem

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SamplerName = Literal["nsga2", "tpe", "random"]

POPULATION = 20
"""Networks of one generation of the evolution; Optuna's 50 leave no time to evolve in 100
evaluations. Any sampler starts with so many random networks near the bounds."""
PROPOSALS = 20
"""Networks that a sampler may propose per evaluation; those that miss a bound cost none."""
MISSES = 20
"""Proposals of a worker in a row that cost no evaluation, after which it proposes a random network:
samplers like to say the same again."""
PULSE_SECONDS, PATIENCE_SECONDS = 5.0, 60.0
"""Between two beats of a running trial; without a beat for which it counts as dead. Each worker
goes by its own clock."""
WAIT_SECONDS = 0.1
"""Between two looks, while only other workers have something left to do."""

EVALUATED, PULSE, SUBJECT = "evaluated", "pulse", "subject"
"""User attributes: of a trial whether it cost an evaluation, and its beats; of a study what it is
about."""


def open_study(storage: str | None, name: str, *, subject: str) -> Study:
    """The study ``name``, made if it is not there, which maximises accuracy and minimises a cost.

    ``storage`` is the path of a journal file, or a database's URL as SQLAlchemy takes them; None
    keeps the study in memory. ``subject`` says in a line what is searched, and for what.

    Raises:
        UserError: the storage cannot be opened, or its study is about something else.
    """
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=_storage(storage) if storage else None,
            study_name=name,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        known = study.user_attrs.get(SUBJECT)
        if known is None:
            study.set_user_attr(SUBJECT, subject)
    except Exception as error:  # noqa: BLE001 - each database has errors of its own
        detail = str(error).partition("\n")[0]
        raise UserError(f"{storage}: cannot be opened as a storage: {detail}") from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    if known not in (None, subject):
        raise UserError(
            f"{storage}: its study '{name}' is about {known}, not {subject}; name another storage"
        )
    return study


def make_sampler(name: SamplerName, seed: int | None) -> BaseSampler:
    """Optuna's sampler; a ``seed`` of None draws other numbers in each process."""
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    if name == "nsga2":
        return NSGAIISampler(population_size=POPULATION, seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=POPULATION)
    return RandomSampler(seed=seed)


def work(
    study: Study,
    problem: Problem,
    accuracy: Callable[[Assignment], float],
    *,
    sampler: BaseSampler,
    evaluations: int,
    rng: np.random.Generator,
    first: Callable[[], Assignment] | None = None,
    pulse_seconds: float = PULSE_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
    tell: Callable[[int], None] | None = None,
) -> None:
    """Evaluate, beside other workers, until the study holds ``evaluations`` or has no new proposal.

    Only what meets every bound of ``problem`` is evaluated, and no assignment twice. ``first``
    gives the first networks to propose, by default random ones near the bounds. ``tell`` takes the
    number of evaluations that all workers have made.
    """
    from optuna.trial import TrialState

    pulses = _Pulses(patience_seconds)
    misses = 0
    while True:
        trials = study.get_trials(deepcopy=False)
        evaluated = evaluated_in(trials, problem)
        if tell is not None:
            tell(len(evaluated))
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        dead = pulses.dead(running)
        finished = len(trials) - len(running)
        if len(evaluated) >= evaluations or finished >= PROPOSALS * evaluations:
            return
        if len(evaluated) + len(running) - len(dead) >= evaluations:
            time.sleep(WAIT_SECONDS)
            continue
        fixed = _buried(study, dead[0], problem) if dead else None
        if fixed is None and len(trials) < POPULATION:
            fixed = _parameters(first() if first else problem.sample(rng))
        elif fixed is None and misses >= MISSES:
            fixed = _parameters(tuple(int(rng.integers(size)) for size in problem.sizes))
        trial = _ask(study, sampler, fixed)
        try:
            values = _evaluate(study, trial, problem, accuracy, evaluations, pulse_seconds)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        state = None if values else TrialState.FAIL
        study.tell(trial, values, state=state, skip_if_finished=True)
        misses = 0 if trial.user_attrs.get(EVALUATED) else misses + 1


def evaluated_in(trials: list[FrozenTrial], problem: Problem) -> dict[Assignment, float]:
    """The accuracy of each assignment that a worker evaluated, in the order of the trials."""
    return {
        _assignment(trial.params, problem): trial.values[0]
        for trial in trials
        if trial.user_attrs.get(EVALUATED) and trial.values is not None
    }


def _evaluate(
    study: Study,
    trial: Trial,
    problem: Problem,
    accuracy: Callable[[Assignment], float],
    evaluations: int,
    pulse_seconds: float,
) -> list[float] | None:
    """Accuracy and cost of what a trial proposes; None if that is another worker's to evaluate.

    Where a bound is missed the accuracy is 0, and not asked for: constraints decide before it does.
    """
    from optuna.trial import TrialState

    sizes = enumerate(problem.sizes)
    one = problem.canonical(
        tuple(trial.suggest_int(str(choice), 0, size - 1) for choice, size in sizes)
    )
    costs = problem.price(one)
    for name, bound in problem.target.items():
        trial.set_constraint(name, costs[name] - bound)
    price = costs[next(iter(problem.target))]
    if not problem.fits(one):
        return [0.0, price]
    trials = study.get_trials(deepcopy=False)
    known = evaluated_in(trials, problem)
    if one in known:
        return [known[one], price]
    # Numbers are given out in the order in which trials begin, so of all that see one evaluation
    # left just one finds no other before itself. Who has a pulse was faster, and evaluates already.
    before = [
        it
        for it in trials
        if it.state is TrialState.RUNNING and it.number != trial.number
        if it.number < trial.number or PULSE in it.user_attrs
    ]
    if len(known) + len(before) >= evaluations or any(_is_about(it, one, problem) for it in before):
        return None
    with _beating(trial, pulse_seconds):
        found = accuracy(one)
    trial.set_user_attr(EVALUATED, True)
    return [found, price]


def _ask(study: Study, sampler: BaseSampler, fixed: Mapping[str, int] | None) -> Trial:
    # not enqueued: a trial's number must tell when it began
    study.sampler = _fixed(sampler, fixed) if fixed else sampler
    return study.ask()


def _fixed(sampler: BaseSampler, values: Mapping[str, int]) -> BaseSampler:
    """The sampler, but for what it proposes. Optuna has such a one, marked as experimental."""
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
            return values[param_name]

    return Fixed()


def _buried(study: Study, dead: FrozenTrial, problem: Problem) -> Mapping[str, int] | None:
    """What a dead worker was about to evaluate; None if it had not said, or another was faster."""
    from optuna.trial import TrialState

    try:
        study.tell(dead.number, state=TrialState.FAIL)
    except (ValueError, RuntimeError):  # it is finished: another worker buried it, or it lives
        return None
    return dead.params if _is_proposed(dead, problem) else None


class _Pulses:
    """When each running trial's pulse was last seen to change, by this process's clock."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._seen: dict[int, tuple[object, float]] = {}

    def dead(self, running: list[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running trials whose pulse has stood still for too long."""
        now = time.monotonic()
        found = []
        for trial in running:
            beat = trial.user_attrs.get(PULSE)
            last, since = self._seen.get(trial.number, (None, now))
            if trial.number not in self._seen or last != beat:
                self._seen[trial.number] = (beat, now)
            elif now - since > self._patience:
                found.append(trial)
        return found


@contextmanager
def _beating(trial: Trial, seconds: float) -> Iterator[None]:
    """Let others see that the trial is alive."""
    done = threading.Event()
    trial.set_user_attr(PULSE, 0)

    def beat() -> None:
        count = 0
        while not done.wait(seconds):
            count += 1
            trial.set_user_attr(PULSE, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _storage(storage: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in storage:
        return RDBStorage(storage)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


def _parameters(assignment: Assignment) -> Mapping[str, int]:
    return {str(choice): option for choice, option in enumerate(assignment)}


def _assignment(parameters: Mapping[str, int], problem: Problem) -> Assignment:
    return problem.canonical(tuple(parameters[str(choice)] for choice in range(len(problem.sizes))))


def _is_proposed(trial: FrozenTrial, problem: Problem) -> bool:
    """Whether its worker has made all choices; one at a time they reach the storage."""
    return len(trial.params) == len(problem.sizes)


def _is_about(trial: FrozenTrial, one: Assignment, problem: Problem) -> bool:
    return _is_proposed(trial, problem) and _assignment(trial.params, problem) == one
