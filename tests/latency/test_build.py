"""Building tables: complete, resumable after a kill at any moment, never over something else."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from nas.errors import UserError
from nas.latency.build import (
    BuildSettings,
    MeasuredRow,
    MeasuringPlan,
    Purpose,
    build_table,
    open_journal,
)
from nas.latency.networks import NetworkSample
from nas.latency.staircase import keys_to_measure
from nas.latency.table import LatencyTable, Row, space_hash
from nas.network import layer_size, measure_size
from nas.space import SearchSpace


class Killed(BaseException):
    """Like KeyboardInterrupt, which pytest takes for its own."""


@pytest.fixture(scope="module")
def settings(brief):
    """Few networks and few visits, which take no part in what is tested here."""
    sample = NetworkSample(fitted=6, held_out=4, passes=1, visits=brief)
    plan = MeasuringPlan(networks=sample, layers=brief, sweep=brief)
    return BuildSettings(space_argument="tiny.yaml", plan=plan)


@pytest.fixture(scope="module")
def built(graphs, target, settings):
    """Calls ``build_table`` with the brief settings and the templates of earlier calls."""

    def build(space, path, *, target=target, settings=settings, **options):
        return build_table(space, target, path, settings=settings, graphs=graphs, **options)

    return build


class KillAfter:
    """Progress that ends the build after so many batches of layers."""

    def __init__(self, batches):
        self.left = batches

    def update(self, text, done, total=None):
        assert total > 0
        if text == "layers" and done > 0:
            self.left -= 1
            if self.left == 0:
                raise Killed


@pytest.fixture(scope="module")
def table(built, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "new" / "tiny.csv"
    return built(tiny, path)


def test_table_holds_every_layer_of_its_space(table, tiny, target):
    assert table.rows.keys() == tiny.layers().keys()
    assert all(row.ms > 0 and row.ms_low <= row.ms <= row.ms_high for row in table.rows.values())
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
    assert sorted(path.name for path in table.path.parent.iterdir()) == ["tiny.csv", "tiny.json"]


def test_table_is_validated_on_held_out_networks(table):
    found = table.validation
    assert found.calibrated.networks == found.raw.networks == found.macs.networks == 4
    assert table.calibration.networks == 6
    assert [point.held_out for point in found.points].count(True) == 4
    assert len(found.points) == 10
    for point in found.points:
        assert point.predicted_ms == table.calibration.latency(point.sum_ms, point.params)
    assert found.least_ms < found.most_ms


def test_finished_table_is_not_overwritten(built, table, tiny):
    with pytest.raises(UserError, match=r"tiny\.csv: exists; --resume measures .* --force all"):
        built(tiny, table.path)


def test_resume_of_a_finished_table_measures_nothing(built, table, tiny, progress):
    again = built(tiny, table.path, resume=True, progress=progress)
    assert again.rows.keys() == table.rows.keys()
    assert progress.updates == []
    assert len(list(table.path.parent.iterdir())) == 2


def test_resume_of_a_damaged_table_measures_the_bad_rows_only(
    built, table, tiny, tmp_path, progress
):
    path = tmp_path / "t.csv"
    path.with_suffix(".json").write_bytes(table.path.with_suffix(".json").read_bytes())
    lines = table.path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace(",0.", ",7.", 1), *lines[2:-1]]))
    mended = built(tiny, path, resume=True, progress=progress)
    assert progress.updates[0] == ("layers", 0, 2)
    assert set(lines[2:-1]) <= set(path.read_text().splitlines(keepends=True))
    assert LatencyTable.load(path).rows.keys() == mended.rows.keys() == table.rows.keys()

    path.write_text(path.read_text() + "one more line\n")
    built(tiny, path, resume=True)
    assert LatencyTable.load(path).rows.keys() == table.rows.keys()


def test_finished_table_of_another_target_is_not_resumed(built, table, tiny, target):
    other = target.model_copy(update={"cpu_model": "Abacus"})
    with pytest.raises(UserError, match="cpu_model"):
        built(tiny, table.path, target=other, resume=True)


def test_kill_and_resume_measures_missing_rows_only(
    built, convolutions, settings, tmp_path, progress
):
    settings = replace(settings, plan=settings.plan._replace(batch=4))
    path = tmp_path / "t.csv"
    with pytest.raises(Killed):
        built(convolutions, path, settings=settings, progress=KillAfter(2))
    assert not path.exists()
    partial = path.with_suffix(".partial.jsonl")
    kept = [json.loads(line) for line in partial.read_text().splitlines()[1:]]
    assert len(kept) == 8
    with pytest.raises(UserError, match=r"partial\.jsonl: is an unfinished build; --resume"):
        built(convolutions, path)

    with partial.open("a") as file:  # a kill in the middle of writing a line
        file.write('{"key": ["conv_ffn channels=8 exp')
    table = built(convolutions, path, resume=True, progress=progress)
    layers = convolutions.layers()
    assert progress.updates[0] == ("layers", 0, len(layers) - 8)
    assert table.rows.keys() == layers.keys()
    for (signature, shape), row in ((line["key"], line["row"]) for line in kept):
        assert table.rows[signature, tuple(shape)] == tuple(row)
    assert LatencyTable.load(path).rows.keys() == layers.keys()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["t.csv", "t.json"]


def test_unfinished_build_of_another_space_or_target_is_refused_and_kept(
    built, tiny, target, tmp_path
):
    path = tmp_path / "t.csv"
    purpose = Purpose(space=tiny.name, space_sha256=space_hash(tiny), target=target)
    for changes, difference in (
        ({"space": "other"}, "was started with space other, got tiny"),
        ({"space_sha256": "0"}, "is of an unfinished build with another version of the space"),
        (
            {"target": target.model_copy(update={"threads": 2})},
            "was started with threads 2, got 1",
        ),
    ):
        with open_journal(path, purpose.model_copy(update=changes), resume=False) as journal:
            pass
        before = journal.path.read_bytes()
        message = re.escape(f"{journal.path}: {difference}; --force starts afresh")
        with pytest.raises(UserError, match=message):
            built(tiny, path, resume=True)
        assert journal.path.read_bytes() == before


def test_second_build_into_one_file_is_refused(built, tiny, tmp_path, recorder):
    path = tmp_path / "t.csv"

    def build_again(*_):
        with pytest.raises(UserError, match=r"partial\.jsonl: another build is writing it"):
            built(tiny, path)
        raise Killed

    with pytest.raises(Killed):
        built(tiny, path, progress=recorder(build_again))


def test_refused_build_leaves_nothing_behind(built, tiny, tmp_path):
    with pytest.raises(UserError, match=r"t\.txt: a latency table is a \.csv file"):
        built(tiny, tmp_path / "t.txt")
    (tmp_path / "t.csv").touch()
    with pytest.raises(UserError, match=r"t\.csv: exists"):
        built(tiny, tmp_path / "t.csv")
    assert [it.name for it in tmp_path.iterdir()] == ["t.csv"]


def test_resume_adds_the_layers_of_a_grown_space(built, convolutions, tmp_path, progress):
    smaller = convolutions.model_dump(exclude_defaults=True)
    smaller["stages"] = smaller["stages"][:1]
    smaller = type(convolutions).model_validate(smaller)
    path = tmp_path / "t.csv"
    first = built(smaller, path)
    second = built(convolutions, path, resume=True, progress=progress)
    missing = convolutions.layers().keys() - smaller.layers().keys()
    assert progress.updates[0] == ("layers", 0, len(missing))
    assert second.rows.keys() >= convolutions.layers().keys()
    for key in smaller.layers():
        assert second.rows[key].ms == pytest.approx(first.rows[key].ms, abs=1e-6)


def test_force_measures_all_anew(built, convolutions, tmp_path, progress):
    path = tmp_path / "t.csv"
    path.write_text("not a table")
    table = built(convolutions, path, force=True, progress=progress)
    assert progress.updates[0] == ("layers", 0, len(convolutions.layers()))
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
    built, target, settings, tmp_path, progress
):
    space, path = SearchSpace.model_validate(WIDE), tmp_path / "t.csv"
    layers = space.layers()
    sizes = {key: layer_size(layer, key[1]) for key, layer in layers.items()}
    # a busy machine's latencies would fit no model: those that are to be measured are known
    chosen = set(keys_to_measure(layers, step=1))  # widths are multiples of any step
    known = {
        key: Row(ms := 0.01 + 1e-7 * size.macs, ms, ms, *size, "ok")
        for key, size in sizes.items()
        if key in chosen
    }
    purpose = Purpose(space=space.name, space_sha256=space_hash(space), target=target)
    with open_journal(path, purpose, resume=False) as journal:
        journal.append(*(MeasuredRow(key=key, row=row) for key, row in known.items()))
    quick_settings = replace(settings, quick=True)
    quick = built(space, path, settings=quick_settings, resume=True)
    assert quick.rows.keys() == layers.keys()
    modelled = {key for key, row in quick.rows.items() if row.status == "modelled"}
    assert modelled == layers.keys() - chosen
    assert 0 < len(modelled) == sum(it.modelled for it in quick.provenance.modelled)
    for key in modelled:
        row = quick.rows[key]
        assert 0 <= row.ms_low < row.ms < row.ms_high
        assert (row.params, row.macs) == sizes[key]
    assert LatencyTable.load(path).provenance == quick.provenance

    assert built(space, path, settings=quick_settings, resume=True, progress=progress).rows.keys()
    assert progress.updates == [], "a quick build of the same table has nothing to do"
    full = built(space, path, resume=True, progress=progress)
    assert progress.updates[0] == ("layers", 0, len(modelled))
    assert full.provenance.modelled == ()
    assert all(row.status != "modelled" for row in full.rows.values())
