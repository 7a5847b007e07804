"""Building tables: complete, resumable after a kill at any moment, never over something else."""

import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.build import BuildSettings, Purpose, build_table, open_journal
from nas.latency.measure import HIDDEN, reference_names
from nas.latency.runner import REGULAR
from nas.latency.staircase import keys_to_measure
from nas.latency.survey import pick_candidates
from nas.latency.table import LatencyTable, visits_path
from nas.network import layer_size, measure_size
from nas.space import SearchSpace


class Killed(BaseException):
    """Like KeyboardInterrupt, which pytest takes for its own."""


@pytest.fixture(scope="module")
def settings(brief):
    """Few networks and few visits, which take no part in what is tested here."""
    return BuildSettings(space_argument="tiny.yaml", plan=brief)


@pytest.fixture(scope="module")
def built(graphs, target, settings):
    """Calls ``build_table`` with the brief settings and the templates of earlier calls."""

    def build(space, path, *, target=target, settings=settings, **options):
        return build_table(space, target, path, settings=settings, graphs=graphs, **options)

    return build


@pytest.fixture
def simulated(graphs, machine, settings):
    """Like ``built``, on the simulated machine, where visits take no time."""

    def build(space, path, *, settings=settings, **options):
        return build_table(space, machine.target, path, settings=settings, graphs=graphs, **options)

    return build


@pytest.fixture(scope="module")
def table(built, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "new" / "tiny.csv"
    return built(tiny, path)


@pytest.fixture
def killed(recorder, monkeypatch):
    """A function that makes a progress which ends the build after so many visits.

    Each visit is written at once, as otherwise those of some seconds are.
    """
    monkeypatch.setattr("nas.latency.visits.CHUNK_SECONDS", -1.0)

    def kill_after(visits):
        def stop(text, done, total):
            assert (text, 0 < done <= total) == ("visits", True)
            if done > visits:
                raise Killed

        return recorder(stop)

    return kill_after


def visits_in(path):
    lines = visits_path(path).read_text().splitlines()[1:]
    return [visit for line in lines for visit in json.loads(line)["visits"]]


def counts_in(path):
    return Counter(visit[0] for visit in visits_in(path))


def test_table_holds_every_layer_of_its_space(table, tiny, target):
    assert table.rows.keys() == tiny.layers().keys()
    for row in table.rows.values():
        assert row.ms > 0
        assert row.cold_ms > 0
        assert row.ms_low <= row.ms <= row.ms_high
        assert row.cold_low <= row.cold_ms <= row.cold_high
    table.require_layers(tiny)
    table.require_target(target)


def test_sizes_are_those_of_the_networks(table, tiny):
    rng = np.random.default_rng(0)
    for _ in range(3):
        architecture = tiny.sample(rng)
        cost, size = table.cost(architecture), measure_size(architecture)
        assert (cost["params"], cost["macs"]) == (size.params, size.macs)


def test_table_on_disk_is_the_one_returned(table):
    loaded = LatencyTable.load(table.path)
    assert loaded.provenance == table.provenance
    assert list(loaded.rows) == list(table.rows)
    names = sorted(path.name for path in table.path.parent.iterdir())
    assert names == ["tiny.csv", "tiny.json", "tiny.visits.jsonl"]


def test_table_is_validated_on_held_out_networks_in_both_states(table):
    found = table.validation
    assert table.calibration.networks == 6
    assert [point.held_out for point in found.points].count(True) == 4
    assert len(found.points) == 10
    for state in ("warm", "cold"):
        it = found.of(state)
        assert it.calibrated.networks == it.raw.networks == it.macs.networks == 4
        assert it.least_ms < it.most_ms
    assert found.warm.least_ms < found.cold.least_ms


def test_the_references_are_in_the_table_a_smaller_and_larger_ones_beside_the_first(table, tiny):
    reference, *companions = table.unit.references
    assert reference.network in pick_candidates(tiny, np.random.default_rng(0))
    smaller, *larger = (measure_size(it.network).params for it in companions)
    assert smaller < measure_size(reference.network).params < min(larger)
    for it in table.unit.references:
        assert 0 < it.warm_ms < it.cold_ms
    low, high = table.provenance.spread
    assert low <= 0 <= high


def test_every_graph_has_its_visits_and_the_reference_more(table):
    counts = counts_in(table.path)
    references = [counts.pop(name) for name in reference_names(4)]
    assert set(counts.values()) == {2}
    assert counts[HIDDEN] == 2
    assert sum(references) >= sum(counts.values()) / (REGULAR + 1)
    assert max(references) - min(references) <= 3


def test_finished_table_is_not_overwritten(built, table, tiny):
    with pytest.raises(UserError, match=r"tiny\.csv: exists; --resume measures .* --force all"):
        built(tiny, table.path)


def test_resume_of_a_finished_table_measures_nothing(built, table, tiny, progress):
    before = table.path.read_bytes(), visits_path(table.path).read_bytes()
    again = built(tiny, table.path, resume=True, progress=progress)
    assert again.rows.keys() == table.rows.keys()
    assert progress.updates == []
    assert before == (table.path.read_bytes(), visits_path(table.path).read_bytes())


def copy(table, tmp_path):
    path = tmp_path / "t.csv"
    for old, new in (
        (table.path, path),
        (table.path.with_suffix(".json"), path.with_suffix(".json")),
        (visits_path(table.path), visits_path(path)),
    ):
        new.write_bytes(old.read_bytes())
    return path


def test_a_damaged_table_is_told_from_its_visits_again(built, table, tiny, tmp_path, progress):
    path = copy(table, tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace(",0.", ",7.", 1), *lines[2:-1]]))
    mended = built(tiny, path, resume=True, progress=progress)
    assert progress.updates == []
    assert path.read_bytes() == table.path.read_bytes()
    assert mended.provenance.calibration == table.provenance.calibration


def test_resume_of_a_damaged_table_writes_it_again_from_its_visits(
    built, table, tiny, settings, tmp_path
):
    path = copy(table, tmp_path)
    visits = visits_in(path)
    path.write_bytes(table.path.read_bytes()[:-40])
    patient = replace(settings, plan=settings.plan._replace(error=0.0, seconds=600.0))
    found = built(tiny, path, settings=patient, resume=True)
    assert visits_in(path) == visits
    assert found.rows == table.rows
    assert path.read_bytes() == table.path.read_bytes()


@pytest.mark.slow
def test_a_finished_table_is_measured_on_for_some_minutes(built, table, tiny, settings, tmp_path):
    path = copy(table, tmp_path)
    before = visits_in(path)
    longer = replace(settings, minutes=0.12, plan=settings.plan._replace(error=0.0))
    found = built(tiny, path, settings=longer, resume=True)
    after = visits_in(path)
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert found.rows != table.rows


def test_a_build_of_too_few_minutes_is_one_line_and_goes_on(
    simulated, convolutions, settings, tmp_path, killed
):
    path = tmp_path / "t.csv"
    with pytest.raises(UserError) as error:
        simulated(
            convolutions,
            path,
            settings=replace(settings, minutes=1e-6),
            progress=killed(math.inf),
        )
    assert re.fullmatch(
        r"--minutes 1e-06: too short for the least validation, after \d+ of \d+ visits; what was "
        r"measured is kept: --resume goes on",
        str(error.value),
    )
    assert not path.exists()
    kept = visits_in(path)
    assert sum(visit[0] not in reference_names(4) for visit in kept) == int(
        str(error.value).split()[9]
    )
    table = simulated(convolutions, path, resume=True)
    assert visits_in(path)[: len(kept)] == kept
    assert table.rows.keys() == convolutions.layers().keys()


def test_finished_table_of_another_target_is_not_resumed(built, tiny, settings, target, tmp_path):
    path = tmp_path / "t.csv"
    with open_journal(path, purpose_of(tiny, target), resume=False):
        pass
    other = target.model_copy(update={"cpu_model": "Abacus"})
    with pytest.raises(UserError, match=r"was started with cpu_model .*, got Abacus"):
        built(tiny, path, target=other, resume=True)


@pytest.mark.parametrize("visits", [0, 1, 30])
def test_a_killed_build_goes_on_with_the_visits_that_it_made(
    simulated, convolutions, tmp_path, killed, visits
):
    path = tmp_path / "t.csv"
    with pytest.raises(Killed):
        simulated(convolutions, path, progress=killed(visits))
    assert not path.exists()
    kept = visits_in(path)
    assert sum(visit[0] not in reference_names(4) for visit in kept) == visits
    with pytest.raises(UserError, match=r"visits\.jsonl: is an unfinished build; --resume"):
        simulated(convolutions, path)

    with visits_path(path).open("a") as file:  # a kill in the middle of writing a line
        file.write('{"visits": [["before 8x8')
    table = simulated(convolutions, path, resume=True)
    assert visits_in(path)[: len(kept)] == kept
    counts = counts_in(path)
    for name in reference_names(4):
        counts.pop(name)
    assert set(counts.values()) == {2}, "nothing is visited that was visited often enough"
    assert LatencyTable.load(path).rows.keys() == table.rows.keys() == convolutions.layers().keys()


def purpose_of(space, target):
    return Purpose.begun(space, target, space.smallest(), ())


@pytest.mark.parametrize("other", [{"group": 1}, {"timed": 3}])
def test_a_build_of_an_earlier_version_is_not_resumed(built, tiny, target, tmp_path, other):
    path = tmp_path / "t.csv"
    earlier = purpose_of(tiny, target).model_copy(update=other)
    with open_journal(path, earlier, resume=False):
        pass
    with pytest.raises(UserError, match=r"is of an earlier version of nas, .*; --force starts"):
        built(tiny, path, resume=True)


def test_unfinished_build_of_another_space_or_target_is_refused_and_kept(
    built, tiny, target, tmp_path
):
    path = tmp_path / "t.csv"
    for changes, difference in (
        ({"space": "other"}, "was started with space other, got tiny"),
        (
            {"target": target.model_copy(update={"threads": 2})},
            "was started with threads 2, got 1",
        ),
    ):
        purpose = purpose_of(tiny, target).model_copy(update=changes)
        with open_journal(path, purpose, resume=False) as journal:
            pass
        before = journal.path.read_bytes()
        message = re.escape(f"{journal.path}: {difference}; --force starts afresh")
        with pytest.raises(UserError, match=message):
            built(tiny, path, resume=True)
        assert journal.path.read_bytes() == before


def test_a_damaged_journal_is_one_line(built, tiny, tmp_path):
    path = tmp_path / "t.csv"
    visits_path(path).write_text("{}\n")
    with pytest.raises(UserError, match=r"t\.visits\.jsonl:1: is no line of a build; --force"):
        built(tiny, path, resume=True)


def test_a_table_whose_visits_are_gone_is_measured_anew_only(built, table, tiny, tmp_path):
    path = copy(table, tmp_path)
    visits_path(path).unlink()
    with pytest.raises(UserError, match=r"visits\.jsonl: is gone, .*; --force measures anew"):
        built(tiny, path, resume=True)


def test_second_build_into_one_file_is_refused(simulated, tiny, tmp_path, recorder):
    path = tmp_path / "t.csv"

    def build_again(*_):
        with pytest.raises(UserError, match=r"t\.csv: another build is writing it"):
            simulated(tiny, path)
        raise Killed

    with pytest.raises(Killed):
        simulated(tiny, path, progress=recorder(build_again))


def test_refused_build_leaves_nothing_behind(built, tiny, tmp_path):
    with pytest.raises(UserError, match=r"t\.txt: a latency table is a \.csv file"):
        built(tiny, tmp_path / "t.txt")
    (tmp_path / "t.csv").touch()
    with pytest.raises(UserError, match=r"t\.csv: exists"):
        built(tiny, tmp_path / "t.csv")
    assert [it.name for it in tmp_path.iterdir()] == ["t.csv"]


def test_resume_adds_the_layers_of_a_grown_space(simulated, convolutions, tmp_path):
    smaller = convolutions.model_dump(exclude_defaults=True)
    smaller["stages"] = smaller["stages"][:1]
    smaller = type(convolutions).model_validate(smaller)
    path = tmp_path / "t.csv"
    first = simulated(smaller, path)
    before = visits_in(path)
    second = simulated(convolutions, path, resume=True)
    assert visits_in(path)[: len(before)] == before
    assert second.rows.keys() == convolutions.layers().keys()
    assert second.provenance.reference.network == first.provenance.reference.network
    counts = counts_in(path)
    for name in reference_names(4):
        counts.pop(name)
    assert set(counts.values()) == {2}


def test_force_measures_all_anew(simulated, convolutions, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("not a table")
    simulated(convolutions, path, force=True)
    first = visits_in(path)
    table = simulated(convolutions, path, force=True)
    assert not set(map(tuple, first)) & set(map(tuple, visits_in(path)))
    assert LatencyTable.load(path).rows.keys() == table.rows.keys()


WIDE = {
    "name": "wide",
    "input_size": 32,
    "classes": 4,
    "stem": {"kind": "conv_stem"},
    "stages": [
        {
            "width": [32, 64, 96, 128],
            "blocks": [{"repeat": 2, "ffn": {"kind": "conv_ffn", "expansion": [1, 2, 3]}}],
        }
    ],
    "head": {"kind": "classifier"},
}


def test_quick_build_models_the_layers_that_it_does_not_measure(
    graphs, simulated, settings, tmp_path, recorder
):
    """On the simulated machine, where a layer's latency depends on its kind only."""
    space, path = SearchSpace.model_validate(WIDE), tmp_path / "t.csv"
    layers = space.layers()
    chosen = set(keys_to_measure(layers, step=1))  # widths are multiples of any step

    in_part = replace(settings, quick=True)
    quick = simulated(space, path, settings=in_part)
    assert quick.rows.keys() == layers.keys()
    modelled = {key for key, row in quick.rows.items() if row.status == "modelled"}
    assert modelled == layers.keys() - chosen
    assert 0 < len(modelled) == sum(it.modelled for it in quick.provenance.modelled)
    for key in modelled:
        row = quick.rows[key]
        truth = 0.1 * len(graphs.graph(layers[key], key[1]).graph.node)
        assert row.ms == pytest.approx(truth, rel=0.05)
        assert 0 <= row.ms_low <= row.ms <= row.ms_high
        assert (row.params, row.macs) == layer_size(layers[key], key[1])
    assert LatencyTable.load(path).provenance == quick.provenance

    again = recorder()
    simulated(space, path, settings=in_part, resume=True, progress=again)
    assert again.updates == [], "a quick build of the same table has nothing to do"
    before = visits_in(path)
    full = simulated(space, path, resume=True)
    assert full.provenance.modelled == ()
    assert all(row.status != "modelled" for row in full.rows.values())
    assert visits_in(path)[: len(before)] == before


def test_a_table_of_a_machine_of_sums_is_exact(graphs, simulated, convolutions, settings, tmp_path):
    """On the simulated machine a network takes what its layers take, so that nothing is left over."""
    more = replace(settings, plan=settings.plan._replace(least_visits=6))
    table = simulated(convolutions, tmp_path / "t.csv", settings=more)
    for (signature, shape), layer in convolutions.layers().items():
        own = len(graphs.graph(layer, shape).graph.node) - (layer.slot == "head")
        assert table.rows[signature, shape].ms == pytest.approx(0.1 * own, abs=0.005)
    assert table.validation.warm.calibrated.mape < 0.01
    assert table.predict(convolutions.largest()) == pytest.approx(
        0.1 * len(graphs.network(convolutions.largest()).graph.node), rel=0.01
    )
