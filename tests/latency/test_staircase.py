"""The staircase of channels: recovered from synthetic sweeps, and shown from a table's rows."""

import numpy as np
import pytest

from nas.latency.calibration import Calibration
from nas.latency.staircase import STEPS, SWEEP_WIDTHS, fit_step, measure_step, plateaus
from nas.latency.table import LatencyTable, Provenance, Row
from nas.report.show import describe_space, print_description

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
def test_where_every_width_costs_what_it_computes_there_is_no_step(seed):
    assert fit_step(SWEEP_WIDTHS, sweep(1, 0.01, seed)) == 1


def test_a_real_sweep_finds_a_step(target):
    assert measure_step(target, np.random.default_rng(0)) in STEPS


@pytest.fixture
def table_of(convolutions, target, tmp_path):
    """A table of the space; ``ms`` prices each layer."""

    def make(ms, half_width=0.01):
        rows = {
            key: Row(
                ms(layer), ms(layer) * (1 - half_width), ms(layer) * (1 + half_width), 1, 1, "ok"
            )
            for key, layer in convolutions.layers().items()
        }
        provenance = Provenance(
            space=convolutions.name, space_argument="s", space_sha256="0", target=target,
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


def test_show_tells_the_step_and_the_plateaus(capsys, convolutions, table_of):
    print_description(describe_space(convolutions, table_of(lambda it: -(-channels(it) // 16))))
    printed = capsys.readouterr().out
    assert "this device computes 16 channels at once" in printed
    assert f"{WIDTH}: 8 costs as much as 16 (" in printed
