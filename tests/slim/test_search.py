"""Searches on a space of seconds: a family of two targets on two devices' worth of tables."""

import json

import pytest

from nas.architecture import Architecture
from nas.errors import UserError
from nas.latency.measure import Session
from nas.search.problem import meets
from nas.slim.evidence import evidence
from nas.slim.plan import Plan, Term
from nas.slim.result import SearchResult
from nas.slim.search import StudySettings, search_run, slim_run
from nas.store.lock import hold_lock
from nas.training.evaluator import Evaluator
from nas.training.run import Run

METHODS = ("uniform", "random", "evolution", "slimmed")


PLAN = Plan(
    targets=({"latency_ms[here]": 2.4, "latency_ms[old]": 4.6}, {"latency_ms[here]": 1.8}),
    terms={"latency_ms[old]": Term(unit=1.0, exponent=1.0), "macs": Term(unit=1e3, exponent=0.5)},
    evaluations=6,
)


def slim(run, tables, out, plan=PLAN, **options):
    return slim_run(run, tables, plan, out=out, accept_tables=True, **options)


@pytest.fixture(scope="module")
def found(run, tables, tmp_path_factory):
    """The folder of an uninterrupted search and its result."""
    out = tmp_path_factory.mktemp("slim") / "s"
    return out, slim(run, tables, out)


def test_every_method_delivers_within_every_target(found):
    _, result = found
    named = [(network.name, network.target) for network in result.networks]
    assert named == [
        ("largest", None), *((name, target) for target in PLAN.targets for name in METHODS)
    ]  # fmt: skip
    for network in result.networks[1:]:
        assert meets(network.costs, network.target)
        assert [(it.cost, it.state) for it in network.latencies] == [
            ("latency_ms[here]", "warm"), ("latency_ms[here]", "cold")
        ]  # fmt: skip
        assert network.fits
        assert network.measured("latency_ms[here]").measured <= network.target["latency_ms[here]"]
        old, macs = network.costs["latency_ms[old]"], network.costs["macs"]
        assert network.score == pytest.approx(100 / old / (macs / 1e3) ** 0.5)
    assert [it.target for it in result.comparisons] == list(PLAN.targets)
    assert all("slimmed" in it.compared for it in result.comparisons)


def test_a_family_leaves_a_folder_for_each_target(run, found):
    out, result = found
    for place, network in zip(("2.4_4.6", "1.8"), result.delivered, strict=True):
        assert result.paths(out)[f"network {place}"] == out / place
        assert (out / place / "weights.safetensors").exists()
        assert sorted(it.name for it in (out / place / "delivered").iterdir()) == sorted(METHODS)
        architecture = Architecture.load(out / place / "architecture.json")
        assert run.space.decode(network.assignment) == architecture


def test_the_result_is_what_its_files_hold(found):
    out, result = found
    assert SearchResult.load(out / "report.json") == result
    assert json.loads((out / "result.json").read_text()) == result.summary()


def test_every_method_counts_its_evaluations_and_each_network_is_evaluated_once(found):
    out, result = found
    assert [method.name for method in result.methods] == list(METHODS)
    for method in result.methods:
        assert [it.order for it in method.evaluated] == list(range(len(method.evaluated)))
        assert len({it.assignment for it in method.evaluated}) == len(method.evaluated)
    counts = {method.name: len(method.evaluated) for method in result.methods}
    assert counts["slimmed"] <= 2 * PLAN.evaluations
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()[1:]]
    judged = [tuple(line["assignment"]) for line in lines if "accuracy" in line]
    assert len(judged) == len(set(judged)) < sum(counts.values())
    assert len(result.points()) <= len(judged)


def test_a_killed_search_goes_on_to_the_same_result_without_repeating_an_evaluation(
    run, tables, found, tmp_path, monkeypatch
):
    calls, original = [], Evaluator.accuracy

    def evaluate(self, architecture):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(architecture)
        return original(self, architecture)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "accuracy", evaluate)
        with pytest.raises(
            UserError, match=r"^stopped after 5 evaluations, which are kept; the sam"
        ):
            slim(run, tables, tmp_path)
    monkeypatch.setattr(Evaluator, "accuracy", lambda *it: (calls.append(it[1]), original(*it))[1])
    with pytest.raises(UserError, match="holds a search that was stopped; --resume goes on"):
        slim(run, tables, tmp_path)
    resumed = slim(run, tables, tmp_path, resume=True)
    assert len(calls) == len(set(calls))
    out, uninterrupted = found
    assert without_measurements(resumed) == without_measurements(uninterrupted)
    for name in ("trace.jsonl", "frontier.csv", "2.4_4.6/architecture.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def without_measurements(result):
    """All but the latencies, which another clock measured."""
    networks = tuple(it.model_copy(update={"latencies": ()}) for it in result.networks)
    return result.model_copy(update={"networks": networks})


@pytest.mark.slow
def test_a_resumed_finished_search_measures_and_evaluates_nothing(run, tables, found, monkeypatch):
    out, result = found
    monkeypatch.delattr(Evaluator, "accuracy")
    monkeypatch.delattr(Session, "measure")
    assert slim(run, tables, out, resume=True) == result


def test_another_process_is_refused_and_so_are_other_settings(run, tables, found):
    out, _ = found
    other = PLAN.model_copy(update={"evaluations": 9})
    with pytest.raises(UserError, match=r"journal\.jsonl: was started with evaluations 6, got 9"):
        slim(run, tables, out, other, resume=True)
    cold = PLAN.model_copy(update={"state": "cold", "targets": ({"latency_ms[here]": 9.0},)})
    with pytest.raises(UserError, match=r"journal\.jsonl: was started with "):
        slim(run, tables, out, cold, resume=True)
    with (
        hold_lock(out / ".lock", held=""),
        pytest.raises(UserError, match="another process is searching there; wait for it or name"),
    ):
        slim(run, tables, out, resume=True)
    with pytest.raises(UserError, match="holds the results of a search; --force replaces them"):
        slim(run, tables, out)


def test_a_second_search_is_told_that_one_is_running(run, tables, tmp_path):
    (tmp_path / "journal.jsonl").write_text("{}\n{}\n")  # of the one that is running
    with (
        hold_lock(tmp_path / ".lock", held=""),
        pytest.raises(UserError, match="another process is searching there; wait for it or name"),
    ):
        slim(run, tables, tmp_path)
    with pytest.raises(UserError, match="holds a search that was stopped; --resume goes on"):
        slim(run, tables, tmp_path)


def test_a_search_that_failed_before_its_first_evaluation_needs_no_option(
    run, tables, tmp_path, monkeypatch
):
    def refuse(*_):
        raise UserError("the images are gone")

    monkeypatch.setattr(Run, "load_images", refuse)
    for _ in range(2):
        with pytest.raises(UserError, match="the images are gone"):
            slim(run, tables, tmp_path)
    assert [it.name for it in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_table_of_another_machine_needs_one_of_this_beside_it(run, tables, tmp_path):
    plan = Plan(targets=({"latency_ms": 9.0},))
    with pytest.raises(UserError, match=r"old\.csv: was built for another target .*Zilog Z80 here"):
        slim(run, {"old": tables["old"]}, tmp_path, plan)
    assert not list(tmp_path.iterdir())


STUDY = Plan(targets=({"latency_ms": 2.2},), evaluations=5)


def search(run, tables, out, plan=STUDY, sampler="nsga2", storage=None, **options):
    return search_run(
        run, tables, plan, StudySettings(sampler, storage), out=out, accept_tables=True, **options
    )


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
    (comparison,) = result.comparisons
    assert set(comparison.compared) == {"searched", "uniform"}
    assert result.verdicts == (str(comparison),)
    assert result.evidence == evidence(run.space, from_weights=False)


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
    more = STUDY.model_copy(update={"evaluations": 7})
    result = search(run, {"cpu": table}, tmp_path / "b", plan=more, storage=storage)
    assert len(result.methods[-1].evaluated) == 7
    assert len(counted) - before <= 2 + 2 + 13  # two trials, final networks, the uniform scale


def test_a_machine_that_is_not_the_tables_only_evaluates(run, tables, tmp_path, counted):
    assert search(run, {"cpu": tables["old"]}, tmp_path, plan=wide()) is None
    assert len(counted) == 5
    assert not (tmp_path / "result.json").exists()


def wide():
    return STUDY.model_copy(update={"targets": ({"latency_ms": 4.4},)})


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
    tighter = STUDY.model_copy(update={"targets": ({"latency_ms": 2.0},)})
    with pytest.raises(UserError, match=r"is about nsga2 on tiny to latency_ms <= 2.2 \(weights"):
        search(run, {"cpu": table}, tmp_path / "b", plan=tighter, storage=storage)
