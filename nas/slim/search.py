"""Searches of a trained run: by slimming, or by Optuna's samplers and any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nas.data import Dataset
from nas.errors import StoppedError, UserError
from nas.latency.calibration import judge
from nas.latency.table import LatencyTable, Prices
from nas.latency.target import detect_again
from nas.machine import keep_freed_memory
from nas.progress import SILENT, Progress
from nas.search.study import SamplerName, evaluated_in, make_sampler, open_study, work
from nas.slim.candidates import Candidates
from nas.slim.delivery import deliver
from nas.slim.evidence import evidence
from nas.slim.handover import hand_over
from nas.slim.journal import Identity, Memory, open_journal
from nas.slim.methods import BASELINES, Baseline, Method, Searched, Slimming, Uniform
from nas.slim.plan import Plan, target_text
from nas.slim.result import FILES, Comparison, SearchResult
from nas.slim.rivals import Rival, load_rivals
from nas.store.lock import LOCK_FILE, HeldError, Lock, hold_folder, hold_lock, require_unheld
from nas.training.evaluation import find_hits
from nas.training.run import Run

JOURNAL, STORAGE = "journal.jsonl", "study.log"
"""The file from which slimming resumes; the journal file of a study on one machine."""
FIRST = ".first"
"""The lock of the worker that draws by the seed."""


class StudySettings(NamedTuple):
    """Optuna's sampler, and the storage of ``open_study``: by default a file beside the results."""

    sampler: SamplerName = "nsga2"
    storage: str | None = None


def slim_run(
    run: Run,
    tables: Mapping[str, LatencyTable],
    plan: Plan,
    *,
    out: Path,
    progress: Progress = SILENT,
    resume: bool = False,
    force: bool = False,
    accept_tables: bool = False,
    command: str = "",
) -> SearchResult:
    """Slim to each target; what does not fit together raises UserError before images are read.

    ``command`` started it, for the cards of what is delivered.
    """
    prices = Prices(run.space, tables, plan.state)
    if plan.strategy == "importance":
        run.require_path_choice()
    measured = _usable_tables(run, prices, accept_tables=accept_tables, must_measure=True)
    plan.require_possible(prices)
    if not (resume or force):
        require_unheld(out, activity="searching", option="--out")
        _require_free(out)
    rivals = load_rivals(plan.rivals, run)  # before anything is written
    identity, sizes = identify(run, plan), run.space.sizes
    with (
        hold_folder(out, activity="searching", option="--out") as lock,
        open_journal(out / JOURNAL, identity, sizes=sizes, resume=resume) as journal,
    ):
        _warn(prices, measured, progress)
        if journal.remark:
            progress.say(journal.remark)
        if journal.accuracies:
            progress.say(f"going on after {len(journal.accuracies)} evaluations")
        try:
            images, supernet = _read_images(run, progress), run.load_supernet()
            candidates = Candidates(
                plan, prices, measured, supernet, images, journal, progress, out
            )
            methods: list[Method] = [Uniform(candidates)]
            if plan.baselines:
                methods += [Baseline(candidates, name) for name in BASELINES]
            methods.append(Slimming(candidates))
            return _finish(run, candidates, methods, out, lock, rivals, command=command)
        except KeyboardInterrupt:
            raise StoppedError(
                f"stopped after {len(journal.accuracies)} evaluations, which are kept; "
                "the same command with --resume goes on"
            ) from None


def search_run(
    run: Run,
    tables: Mapping[str, LatencyTable],
    plan: Plan,
    study_settings: StudySettings,
    *,
    out: Path,
    progress: Progress = SILENT,
    force: bool = False,
    accept_tables: bool = False,
    command: str = "",
) -> SearchResult | None:
    """Evaluate beside other workers; the first that is done delivers, the others return None."""
    prices = Prices(run.space, tables, plan.state)
    measured = _usable_tables(run, prices, accept_tables=accept_tables, must_measure=False)
    plan.require_possible(prices)
    if not force:
        _require_free(out)
    sampler, storage = study_settings
    with _turn(out / FIRST) as first:  # makes the folder, or reports that it cannot
        # other workers must draw other numbers; those of other folders need a seed of their own
        seed = plan.seed if first else None
        hashes = f"weights {run.weights_sha256[:12]}, images {run.record.images_sha256[:12]}"
        cold = " cold" if plan.state == "cold" else ""
        wanted = f"{target_text(plan.targets[0])}{cold}"
        subject = f"{sampler} on {run.space.name} to {wanted} ({hashes})"
        study = open_study(storage or str(out / STORAGE), run.space.name, subject=subject)
        _warn(prices, measured, progress)
        torch.set_num_threads(1)
        images, supernet = _read_images(run, progress), run.load_supernet()
        candidates = Candidates(plan, prices, measured, supernet, images, Memory(), progress)
        evaluated_in(study.get_trials(deepcopy=False), candidates.problem)  # or is it damaged?
        work(
            study,
            candidates.problem,
            sampler=make_sampler(sampler, seed),
            evaluations=plan.evaluations,
            rng=np.random.default_rng(seed),
            progress=progress,
        )
    if not measured:
        progress.say("the study is done; a worker on the table's machine delivers its network")
        return None
    evaluated = evaluated_in(study.get_trials(deepcopy=False), candidates.problem)
    with _turn(out / LOCK_FILE) as lock:
        if lock is None or ((out / FILES["result"]).exists() and not force):
            progress.say(f"the study is done; another worker delivers its network into {out}")
            return None
        methods = [Uniform(candidates), Searched(candidates, evaluated, out)]
        return _finish(run, candidates, methods, out, lock, command=command)


def identify(run: Run, plan: Plan) -> Identity:
    """The identity of a search, the first line of its journal."""
    images_sha256 = run.record.images_sha256
    return Identity(weights_sha256=run.weights_sha256, images_sha256=images_sha256, plan=plan)


def _usable_tables(
    run: Run, prices: Prices, *, accept_tables: bool, must_measure: bool
) -> dict[str, LatencyTable]:
    """The tables of devices at hand, or else of those by hand, by the names of their latencies."""
    measured = prices.measurable()
    if must_measure and not measured:
        measured = prices.by_hand()
    if must_measure and not measured:
        table = next(iter(prices.tables.values()))
        table.require_target(detect_again(table.target))
    for table in prices.tables.values():
        table.require_layers(run.space, str(run.space_path))
        if not accept_tables:
            table.require_trust(prices.state)
    return measured


def _warn(prices: Prices, measured: Mapping[str, LatencyTable], progress: Progress) -> None:
    """Report each table that is used in spite of its validation, or only predicts."""
    for name, table in prices.latencies.items():
        reasons = [reason for kind in judge(table.validation) for reason in kind]
        if reasons:
            progress.say(f"{table.path} is used although {'; '.join(reasons)}")
        if name not in measured:
            progress.say(
                f"{name} is predicted only: {table.path} is of a device that is not at hand"
            )


def _require_free(out: Path) -> None:
    """Raise UserError if a search, finished or stopped, would be written over."""
    if (out / FILES["result"]).exists():
        raise UserError(f"{out}: holds the results of a search; --force replaces them, or --out")
    journal = out / JOURNAL
    if journal.exists() and journal.read_bytes().count(b"\n") > 1:  # more than its header
        raise UserError(
            f"{out}: holds a search that was stopped; --resume goes on, --force starts anew"
        )


def _read_images(run: Run, progress: Progress) -> Dataset:
    keep_freed_memory()
    return run.load_images(progress)


def _finish(
    run: Run,
    candidates: Candidates,
    methods: Sequence[Method],
    out: Path,
    lock: Lock,
    rivals: Sequence[Rival] = (),
    *,
    command: str,
) -> SearchResult:
    """Deliver and judge each method's networks, and write the result; the last is ``wanted``."""
    plan, space, (*_, main) = candidates.plan, candidates.space, methods
    networks, measured_rivals = deliver(candidates, methods, rivals)
    hits = {
        made: find_hits(one.executed, candidates.dataset.test.at(made.input_size)).numpy()
        for made, one in {it.architecture: it for it in networks}.items()
    }
    rival_hits = {
        rival.name: find_hits(rival.network, rival.test_images(run)).numpy() for rival in rivals
    }
    judged = tuple(
        rival.model_copy(update={"test_accuracy": float(rival_hits[rival.name].mean())})
        for rival in measured_rivals
    )
    comparisons = []
    for target in plan.targets:
        found = {
            it.figures.name: hits[it.architecture] for it in networks if it.figures.target == target
        }
        found |= {it.name: rival_hits[it.name] for it in judged if it.meets(target)}
        comparisons.append(Comparison.of(target, found, main.name))
    figures = []
    for network in networks:
        accuracy = float(hits[network.architecture].mean())
        figures.append(network.figures.model_copy(update={"test_accuracy": accuracy}))
    result = SearchResult(
        space=space.name,
        data=run.data.spec,
        strategy=plan.strategy,
        seed=plan.seed,
        targets=plan.targets,
        wanted=main.name,
        choices=tuple(choice.name for choice in space.typed_choices),
        options=tuple(choice.options for choice in space.typed_choices),
        methods=tuple(method.result() for method in methods),
        trace=main.steps(),
        networks=tuple(figures),
        verdicts=tuple(map(str, comparisons)),
        evidence=evidence(space, from_weights=bool(run.settings.weights)),
        terms=plan.terms,
        comparisons=tuple(comparisons),
        walk=tuple(step.taken.assignment for step in main.trace),
        rivals=judged,
        run=str(run.path),
    )
    targets = " or ".join(map(target_text, plan.targets))
    lock.require()  # writing would make a folder again that is gone
    (out / FILES["result"]).unlink(missing_ok=True)  # it marks the end
    hand_over(run, candidates, networks, result, out, command or f"nas.pipeline, {targets}")
    result.save(out)
    return result


@contextmanager
def _turn(path: Path) -> Iterator[Lock | None]:
    """The lock, or None where another process holds it."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(hold_lock(path, held=f"{path}: another process holds it"))
        except HeldError:
            yield None
        else:
            yield lock
