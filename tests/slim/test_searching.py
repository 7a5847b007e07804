"""Searches by Optuna's samplers on the space of seconds that slimming is tested on."""

import json

import pytest

from nas.architecture import Architecture
from nas.errors import UserError
from nas.progress import SILENT
from nas.slim.plan import Plan
from nas.slim.result import SearchResult
from nas.slim.searching import search_run
from nas.store.folder import hold_lock
from nas.training.evaluation import Evaluator

PLAN = Plan(targets=({"latency_ms": 2.2},), evaluations=5)


def search(run, tables, out, plan=PLAN, sampler="nsga2", storage=None, **options):
    return search_run(
        run, tables, plan, sampler=sampler, storage=storage, out=out, progress=SILENT,
        accept_tables=True, **options,
    )  # fmt: skip


@pytest.fixture
def counted(monkeypatch):
    """The architectures that were evaluated."""
    calls, original = [], Evaluator.accuracy
    monkeypatch.setattr(Evaluator, "accuracy", lambda *it: (calls.append(it[1]), original(*it))[1])
    return calls


def test_a_search_delivers_the_best_of_its_study_within_the_target(run, table, tmp_path):
    result = search(run, {"cpu": table}, tmp_path)
    assert SearchResult.load(tmp_path / "report.json") == result
    assert json.loads((tmp_path / "result.json").read_text()) == result.summary()
    assert [network.name for network in result.networks] == ["largest", "uniform", "searched"]
    assert result.networks[-1].costs["latency_ms"] <= 2.2
    studied = {method.name: method.evaluated for method in result.methods}["searched"]
    assert len(studied) == 5
    assert all(it.costs["latency_ms"] <= 2.2 for it in studied)
    (network,) = result.delivered
    assert network.search_accuracy == max(it.accuracy for it in studied)
    architecture = Architecture.load(tmp_path / "architecture.json")
    assert run.space.decode(network.assignment) == architecture
    (verdict,) = result.verdicts
    assert set(verdict.compared) == {"searched", "uniform"}


def test_a_folder_that_is_a_file_is_one_line(run, table, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"out.*: cannot be written: "):
        search(run, {"cpu": table}, tmp_path / "out")


def test_the_same_seed_gives_the_same_study(run, table, tmp_path):
    found = []
    for name in ("a", "b"):
        result = search(run, {"cpu": table}, tmp_path / name, sampler="random")
        found.append([it.assignment for it in result.methods[-1].evaluated])
    assert found[0] == found[1]


def test_a_worker_goes_on_with_the_study_of_a_storage(run, table, tmp_path, counted):
    storage = str(tmp_path / "shared.log")
    search(run, {"cpu": table}, tmp_path / "a", storage=storage)
    before = len(counted)
    more = PLAN.model_copy(update={"evaluations": 7})
    result = search(run, {"cpu": table}, tmp_path / "b", plan=more, storage=storage)
    assert len(result.methods[-1].evaluated) == 7
    assert len(counted) - before <= 2 + 2 + 13  # two trials, final networks, the uniform scale


def test_a_machine_that_is_not_the_tables_only_evaluates(run, tables, tmp_path, counted):
    assert search(run, {"cpu": tables["old"]}, tmp_path, plan=wide()) is None
    assert len(counted) == 5
    assert not (tmp_path / "result.json").exists()


def wide():
    return PLAN.model_copy(update={"targets": ({"latency_ms": 4.4},)})


def test_the_worker_that_finds_another_delivering_leaves_it_to_that(run, table, tmp_path):
    with hold_lock(tmp_path / ".lock", held=""):
        assert search(run, {"cpu": table}, tmp_path) is None
    assert not (tmp_path / "result.json").exists()


def test_results_are_not_replaced_unasked(run, table, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="holds the results of a search; --force replaces them"):
        search(run, {"cpu": table}, tmp_path)


def test_a_storage_of_another_search_is_one_line(run, table, tmp_path):
    storage = str(tmp_path / "shared.log")
    search(run, {"cpu": table}, tmp_path / "a", storage=storage)
    tighter = PLAN.model_copy(update={"targets": ({"latency_ms": 2.0},)})
    with pytest.raises(UserError, match=r"is about nsga2 on tiny to latency_ms <= 2.2 \(weights"):
        search(run, {"cpu": table}, tmp_path / "b", plan=tighter, storage=storage)
