"""``nas search``: one of Optuna's samplers, and any number of workers on a shared storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from nas.errors import UserError
from nas.latency.prices import Prices
from nas.latency.table import LatencyTable
from nas.machine import keep_freed_memory
from nas.progress import Progress
from nas.search.problem import meets
from nas.search.study import SamplerName, evaluated_in, make_sampler, open_study, work
from nas.slim.journal import Memory
from nas.slim.loop import deliver_within
from nas.slim.methods import Uniform
from nas.slim.plan import Plan, target_text
from nas.slim.preparation import identify, require_free, tell_doubts, usable_tables
from nas.slim.result import FILES, SearchResult
from nas.slim.results import Outcome, write_results
from nas.slim.slimming import judge_networks
from nas.slim.workshop import Workshop
from nas.space import Assignment
from nas.store.folder import LOCK_FILE, HeldError, hold_lock
from nas.training.run import Run

NAME, STORAGE = "searched", "study.log"
"""What the delivered network is called; the journal file of a search on one machine."""
FIRST = ".first"
"""The lock of the worker that draws by the seed."""


def search_run(
    run: Run,
    tables: Mapping[str, LatencyTable],
    plan: Plan,
    *,
    sampler: SamplerName,
    storage: str | None,
    out: Path,
    progress: Progress,
    force: bool = False,
    accept_tables: bool = False,
) -> SearchResult | None:
    """Evaluate beside other workers until the study is done; the first to see that delivers.

    ``storage`` is what ``open_study`` takes; by default a file in ``out``. A worker that finds
    another one delivering gives None. The supernet runs on one thread, as each worker has its own
    core.

    Raises:
        UserError: as ``slim_run`` does, or the storage cannot be opened or holds another search.
    """
    prices = Prices(run.space, tables)
    measured = usable_tables(run, prices, accept_tables=accept_tables, must_measure=False)
    plan.require_possible(prices)
    require_free(out, resume=False, force=force)
    with _seed_of_its_own(out, plan.seed) as seed:  # makes the folder, or says that it cannot
        study = open_study(
            storage or str(out / STORAGE), run.space.name, subject=_subject(run, plan, sampler)
        )
        tell_doubts(prices, measured, progress)
        torch.set_num_threads(1)
        keep_freed_memory()
        dataset = run.data.load(run.image_size)
        run.require_images(dataset)
        workshop = Workshop(
            plan, prices, measured, run.load_supernet(), dataset, Memory(), progress
        )
        work(
            study,
            workshop.problem,
            sampler=make_sampler(sampler, seed),
            evaluations=plan.evaluations,
            rng=np.random.default_rng(seed),
            progress=progress,
        )
    if not measured:
        progress.say("the study is done; a worker on the table's machine delivers its network")
        return None
    evaluated = evaluated_in(study.get_trials(deepcopy=False), workshop.problem)
    with _turn(out / LOCK_FILE) as is_free:
        if not is_free or ((out / FILES["result"]).exists() and not force):
            progress.say(f"the study is done; another worker delivers its network into {out}")
            return None
        return _deliver(run, workshop, evaluated, out)


@contextmanager
def _seed_of_its_own(out: Path, seed: int) -> Iterator[int | None]:
    """The seed for the first of the workers in a folder, None for others: they draw other numbers.

    A worker of another folder or machine cannot know: give it another seed.
    """
    with _turn(out / FIRST) as is_first:
        yield seed if is_first else None


@contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock; False where another does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path, held=f"{path}: another process holds it"))
        except HeldError:
            yield False
        else:
            yield True


def _deliver(
    run: Run, workshop: Workshop, evaluated: dict[Assignment, float], out: Path
) -> SearchResult:
    """The best of the study that meets the target when measured, and what it is compared with."""
    plan, cost = workshop.plan, workshop.prices.cost
    (target,) = plan.targets

    def choose(bounds: Mapping[str, float]) -> Assignment:
        fitting = [one for one in evaluated if meets(cost(one), bounds)]
        if not fitting:
            raise UserError(
                f"{out}: no network of the study meets {target_text(bounds)}; search with more "
                "--trials"
            )
        return max(fitting, key=lambda one: evaluated[one])

    uniform = Uniform(workshop)
    networks, verdicts = judge_networks(
        [
            workshop.deliver("largest", None, tuple(size - 1 for size in workshop.space.sizes)),
            deliver_within(workshop, uniform.name, target, uniform.choose),
            deliver_within(workshop, NAME, target, choose),
        ],
        workshop.dataset,
        NAME,
    )
    outcome = Outcome(
        plan=plan,
        data=run.data.spec,
        networks=networks,
        evaluated={uniform.name: uniform.evaluated, NAME: evaluated},
        trace=(),
        verdicts=verdicts,
        wanted=NAME,
    )
    return write_results(out, outcome, workshop.prices)


def _subject(run: Run, plan: Plan, sampler: SamplerName) -> str:
    """What must be the same for all workers; how many trials they make may differ."""
    found = identify(run, plan)
    hashes = f"weights {found.weights_sha256[:12]}, images {found.images_sha256[:12]}"
    return f"{sampler} on {run.space.name} to {target_text(plan.targets[0])} ({hashes})"
