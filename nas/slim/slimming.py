"""``nas slim``: from a trained run and latency tables to networks that meet their targets."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from nas.architecture import Architecture
from nas.data import Dataset
from nas.errors import UserError
from nas.latency.prices import Prices
from nas.latency.table import LatencyTable
from nas.machine import keep_freed_memory
from nas.progress import Progress
from nas.slim.journal import SearchJournal
from nas.slim.loop import deliver_within
from nas.slim.methods import Evolution, Method, Random, Slimming, Uniform
from nas.slim.network import Delivered
from nas.slim.plan import Plan, target_text
from nas.slim.preparation import (
    JOURNAL,
    identify,
    require_free,
    tell_doubts,
    usable_tables,
)
from nas.slim.result import SearchResult, Verdict
from nas.slim.results import Outcome, write_results
from nas.slim.verdict import compare_methods, right_answers
from nas.slim.workshop import Workshop
from nas.store.folder import hold_folder
from nas.training.run import Run


def slim_run(
    run: Run,
    tables: Mapping[str, LatencyTable],
    plan: Plan,
    *,
    out: Path,
    progress: Progress,
    resume: bool = False,
    force: bool = False,
    accept_tables: bool = False,
) -> SearchResult:
    """Slim a trained run to each target, write all results into ``out``, and sum them up.

    ``resume``: go on with the search that was stopped there. ``accept_tables``: use tables that
    failed their validation, and say so. Tables of other machines only predict, beside one of this.

    Raises:
        UserError: a table is for another machine or space or failed its validation, ``out`` holds
            results already, the strategy needs path choice and the run has none, a bound or a term
            names no cost, or a target is out of reach; each is found before any image is read.
    """
    prices = Prices(run.space, tables)
    if plan.strategy == "importance":
        run.require_path_choice()
    measured = usable_tables(run, prices, accept_tables=accept_tables)
    plan.require_possible(prices)
    require_free(out, resume=resume, force=force)
    with ExitStack() as stack:
        stack.enter_context(hold_folder(out, activity="searching", option="--out"))
        journal = SearchJournal(out / JOURNAL, identify(run, plan), resume=resume)
        stack.enter_context(journal)
        tell_doubts(prices, measured, progress)
        try:
            return _search(run, prices, measured, plan, journal, out, progress)
        except KeyboardInterrupt:
            raise UserError(
                f"stopped after {len(journal.accuracies)} evaluations, which are kept; "
                "the same command with --resume goes on"
            ) from None


def find_networks(workshop: Workshop, methods: list[Method]) -> list[Delivered]:
    """The largest network, and for each target what each method delivers within it."""
    largest = tuple(size - 1 for size in workshop.space.sizes)
    found = [workshop.deliver("largest", None, largest)]
    for target in workshop.plan.targets:
        found += [deliver_within(workshop, it.name, target, it.choose) for it in methods]
    return found


def judge_networks(
    networks: list[Delivered], dataset: Dataset, wanted: str = "slimmed"
) -> tuple[tuple[Delivered, ...], tuple[Verdict, ...]]:
    """The networks with their test accuracies, and the verdict for each target."""
    answers: dict[Architecture, Tensor] = {}
    for network in networks:
        if network.architecture not in answers:
            images = dataset.test.at(network.architecture.input_size)
            answers[network.architecture] = right_answers(network.delivered, images)
    judged = tuple(
        replace(it, test_accuracy=float(answers[it.architecture].double().mean()))
        for it in networks
    )
    targets = {target_text(it.target): it.target for it in networks if it.target}
    verdicts = tuple(
        compare_methods(
            [(it.name, answers[it.architecture]) for it in networks if it.target == target],
            target,
            wanted,
        )
        for target in targets.values()
    )
    return judged, verdicts


def _search(
    run: Run,
    prices: Prices,
    measured: Mapping[str, LatencyTable],
    plan: Plan,
    journal: SearchJournal,
    out: Path,
    progress: Progress,
) -> SearchResult:
    if journal.accuracies:
        progress.say(f"going on after {len(journal.accuracies)} evaluations")
    keep_freed_memory()
    dataset = run.data.load(run.image_size)
    run.require_images(dataset)
    workshop = Workshop(plan, prices, measured, run.load_supernet(), dataset, journal, progress)
    slimming = Slimming(workshop, np.random.default_rng(plan.seed))
    rngs = [np.random.default_rng([plan.seed, index]) for index in (1, 2)]
    others = [Random(workshop, rngs[0]), Evolution(workshop, rngs[1])] if plan.baselines else []
    methods = [Uniform(workshop), *others, slimming]
    networks, verdicts = judge_networks(find_networks(workshop, methods), dataset)
    outcome = Outcome(
        plan=plan,
        data=run.data.spec,
        networks=networks,
        evaluated={method.name: method.evaluated for method in methods},
        trace=tuple(slimming.trace),
        verdicts=verdicts,
    )
    return write_results(out, outcome, prices)
