"""The staircase of channels, recovered from synthetic sweeps; models of layers never measured."""

import math

import numpy as np
import pytest

from nas.families.efficientformer_v2.layers import ConvFFN
from nas.families.layer import WIDTH_FIELDS
from nas.latency.calibration import Calibration
from nas.latency.staircase import (
    STEPS,
    SWEEP_WIDTHS,
    fit_step,
    group_layers,
    keys_misfit,
    keys_to_measure,
    measure_step,
    model_rows,
    plateaus,
)
from nas.latency.table import LatencyTable, Provenance, Row, format_rows, parse_rows
from nas.latency.unit import Reference
from nas.network import layer_size
from nas.report.show import describe_space, print_description
from nas.space import SearchSpace

WIDTH = "stage1.width"


def sweep(step, noise, seed=0):
    rng = np.random.default_rng(seed)
    padded = np.ceil(np.asarray(SWEEP_WIDTHS) / step) * step
    return (1e-3 + 2e-5 * padded + 6e-6 * padded**2) * rng.normal(1, noise, len(SWEEP_WIDTHS))


@pytest.mark.parametrize("step", [8, 16, 32])
@pytest.mark.parametrize("seed", range(5))
def test_step_is_recovered_under_noise(step, seed):
    assert fit_step(SWEEP_WIDTHS, sweep(step, 0.01, seed)) == step


@pytest.mark.parametrize("seed", range(5))
def test_there_is_no_step_where_cost_follows_width(seed):
    assert fit_step(SWEEP_WIDTHS, sweep(1, 0.01, seed)) == 1


def test_a_real_sweep_finds_a_step(target):
    assert measure_step(target, np.random.default_rng(0)) in STEPS


def row_of(ms, half_width=0.0, cold=2.0):
    """A row of a layer that takes ``cold`` times as long where it is cold."""
    cells = [
        it * factor
        for it in (1.0, cold)
        for factor in (ms, ms * (1 - half_width), ms * (1 + half_width))
    ]
    return Row(*cells, 1, 1, "ok")


@pytest.fixture
def table_of(convolutions, target, tmp_path):
    """A table of the space; ``ms`` prices each layer."""

    def make(ms, half_width=0.01):
        rows = {key: row_of(ms(layer), half_width) for key, layer in convolutions.layers().items()}
        provenance = Provenance(
            space=convolutions.name, space_argument="s", space_sha256="0", target=target,
            reference=Reference(network=convolutions.smallest(), warm_ms=1.0, cold_ms=2.0),
            calibration=Calibration(factor=1.0), validation=None, channel_step=16,
            date="", nas_version="0", load_average=None, seed=0,
        )  # fmt: skip
        return LatencyTable(rows, provenance, tmp_path / "t.csv")

    return make


def channels(layer):
    return max(getattr(layer, name, 0) for name in ("channels", "in_channels", "out_channels"))


def test_widths_of_one_step_cost_as_much_as_the_widest(convolutions, table_of):
    found = plateaus(convolutions, table_of(lambda it: -(-channels(it) // 16) * 0.1))
    widths = [it for it in found if it.choice.endswith("width")]
    assert [(it.choice, it.option, it.dearer_option) for it in widths] == [(WIDTH, "8", "16")]
    assert widths[0].ms == pytest.approx(widths[0].dearer_ms)


def test_widths_that_cost_less_are_no_plateau(convolutions, table_of):
    found = plateaus(convolutions, table_of(channels))
    assert not [it for it in found if it.choice.endswith("width")]
    noisy = plateaus(convolutions, table_of(channels, half_width=0.9))
    assert [it for it in noisy if it.choice == WIDTH], "within the noise nothing is known"


def test_leaving_a_layer_out_is_no_plateau(convolutions, table_of):
    found = plateaus(convolutions, table_of(lambda it: 1e-6, half_width=1.0))
    assert not [it for it in found if it.option == "identity"]


def test_show_prints_the_step_and_the_plateaus(capsys, convolutions, table_of):
    print_description(describe_space(convolutions, table_of(lambda it: -(-channels(it) // 16))))
    printed = capsys.readouterr().out
    assert "this device computes 16 channels at once" in printed
    assert f"{WIDTH}: 8 costs as much as 16 (" in printed


STEP = 16


@pytest.fixture(scope="module")
def layers():
    return SearchSpace.load("efficientformer_v2_s0_224px").layers()


def padded(width):
    return math.ceil(width / STEP) * STEP


def truth(layer, key):
    """A staircase in all widths; what is no multiple of the step costs half as much again."""
    _, height, width = key[1]
    fields = layer.model_dump()
    if "expansion" in fields:
        a, b = fields["channels"], round(fields["channels"] * fields["expansion"])
    else:
        a = fields.get("channels") or fields["in_channels"]
        b = fields.get("out_channels", a)
    ms = 0.002 + height * width * (padded(a) * padded(b) * 1e-8 + padded(a) * 2e-7 + 1e-7)
    return ms * (1.5 if a % STEP or b % STEP else 1.0)


def rows_of(layers, keys, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    ms = {key: truth(layers[key], key) * rng.normal(1, noise) for key in keys}
    return {key: row_of(it) for key, it in ms.items()}


def modelled(layers, noise=0.0):
    rows = rows_of(layers, keys_to_measure(layers, STEP), noise)
    return rows, *model_rows(layers, rows, STEP)


def test_staircase_is_recovered_from_less_than_half_of_the_entries(layers):
    rows, found, records = modelled(layers)
    assert len(rows) < len(layers) / 2
    assert rows.keys() | found.keys() == layers.keys()
    for key, row in found.items():
        assert row.ms == pytest.approx(truth(layers[key], key), rel=1e-6)
        assert row.cold_ms == pytest.approx(2 * row.ms, rel=1e-6)
        assert row[6:] == (*layer_size(layers[key], key[1]), "modelled")
    assert all(it.error < 1e-6 for it in records)
    assert sum(it.modelled for it in records) == len(found)
    assert keys_misfit(layers, rows, STEP) == []


def test_noise_shows_in_the_error_of_left_out_entries_and_in_the_intervals(layers):
    _, found, records = modelled(layers, noise=0.03)
    errors = np.array([row.ms / truth(layers[key], key) - 1 for key, row in found.items()])
    assert np.abs(errors).mean() < 0.035
    assert 0.02 < np.mean([it.error for it in records]) < 0.08
    inside = [row.ms_low < truth(layers[key], key) < row.ms_high for key, row in found.items()]
    assert np.mean(inside) > 0.9


def test_no_model_crosses_an_alignment_class_or_a_map(layers):
    """Another cost of one group changes no row of any other group."""
    rows, found, _ = modelled(layers)
    groups = group_layers(layers, STEP)
    assert sum(map(len, groups.values())) == len(layers)
    for keys in groups.values():
        assert len({key[1][1:] for key in keys}) == 1
        own = set(keys)
        costlier = {
            key: it._replace(ms=3 * it.ms) if key in own else it for key, it in rows.items()
        }
        changed, _ = model_rows(layers, costlier, STEP)
        assert {key for key in found if changed[key].ms > 1.01 * found[key].ms} == own & set(found)


def test_measured_entries_span_their_group(layers):
    chosen = set(keys_to_measure(layers, STEP))
    for keys in group_layers(layers, STEP).values():
        own = chosen & set(keys)
        assert len(own) >= min(6, len(keys))
        costs = {key: truth(layers[key], key) for key in keys}
        assert max(costs[key] for key in own) == max(costs.values())
        assert min(costs[key] for key in own) == min(costs.values())


def test_group_that_does_not_fit_is_measured_entirely(layers):
    rows = rows_of(layers, keys_to_measure(layers, STEP))
    victim = max(group_layers(layers, STEP).values(), key=len)
    rng = np.random.default_rng(0)
    for key in victim:
        if key in rows:
            rows[key] = rows[key]._replace(ms=float(rng.uniform(0.1, 1)))
    assert set(keys_misfit(layers, rows, STEP)) == {key for key in victim if key not in rows}
    few = {key: row for key, row in rows.items() if key not in victim}
    assert set(victim) <= set(keys_misfit(layers, few, STEP)), "too few to know"


@pytest.mark.parametrize(
    "name",
    ["efficientvit_64px", "pvt_v2_64px", "mobilevit_64px", "levit_64px", "mobilenet_64px"],
)
def test_every_width_of_a_template_distinguishes_layers(name):
    layers = SearchSpace.load(name).layers()
    for keys in group_layers(layers, STEP).values():
        sizes = {
            tuple(
                value
                for field, value in layers[key]
                if field in WIDTH_FIELDS and field != "classes"
            )
            for key in keys
        }
        assert len({layers[key].widths for key in keys}) == len(sizes) == len(keys)


@pytest.mark.parametrize(
    ("step", "classes"),
    [(16, ["step", "step", "four", "four", "odd"]), (1, ["four"] * 4 + ["odd"])],
)
def test_widths_that_are_no_multiple_of_4_never_share_a_model(step, classes):
    layers = {
        ("ffn", (channels, 8, 8)): ConvFFN(slot="a", channels=channels, expansion=2)
        for channels in (16, 32, 20, 12, 18)
    }
    groups = group_layers(layers, step)
    found = {key: group.alignment[0] for group, keys in groups.items() for key in keys}
    assert [found[key] for key in layers] == classes


def test_status_survives_the_file():
    rows = {("conv_ffn", (8, 4, 4)): Row(0.01, 0.009, 0.011, 0.02, 0.019, 0.021, 3, 4, "modelled")}
    assert parse_rows(format_rows(rows).encode(), "t.csv") == rows
