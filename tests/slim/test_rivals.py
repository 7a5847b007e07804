"""Finished networks in the table of a search: measured with the others, judged on their images."""

import json

import numpy as np
import pytest
import torch

from nas.data.augmentation import normalise
from nas.deploy.weights import save_weights
from nas.errors import UserError
from nas.latency.measure import Session
from nas.network import build
from nas.preprocessing import Preprocessing
from nas.report import write_search
from nas.report.terminal import print_search
from nas.slim.plan import Plan
from nas.slim.result import SearchResult
from nas.slim.rivals import load_rivals
from nas.slim.search import slim_run
from nas.training.evaluation import accuracy

FAST, SLOW = (0.5, 0.9), (9.0, 12.0)
"""Warm and cold ms of rivals; the target is 2.4 warm."""


@pytest.fixture(scope="module")
def files(run, tmp_path_factory, randomized):
    """A rival like the smallest network, which sees pictures in another way."""
    folder = tmp_path_factory.mktemp("rival")
    seen = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    architecture = run.space.smallest().with_preprocessing(seen)
    architecture = architecture.model_copy(update={"name": "small"})
    network = randomized(build(architecture)).eval()
    architecture.save(folder / "a.json")
    save_weights(network, folder / "w.safetensors")
    return f"{folder / 'a.json'}:{folder / 'w.safetensors'}", network, seen


def search(run, table, out, machine, monkeypatch, rivals, latencies):
    for name, times in latencies.items():
        monkeypatch.setitem(machine.latencies, f"rival {name}", times)
    plan = Plan(targets=({"latency_ms": 2.4},), evaluations=6, baselines=False, rivals=rivals)
    return slim_run(run, {"cpu": table}, plan, out=out, accept_tables=True)


def test_a_rival_is_measured_and_judged_like_all(
    run, table, files, tmp_path, machine, monkeypatch, capsys
):
    spec, network, seen = files
    latencies = {"small": FAST, "small (2)": SLOW}
    out, sums = tmp_path / "s", {}

    def record(*arguments, **options):
        session = Session(*arguments, **options)
        sums.update(session.sums)
        return session

    monkeypatch.setattr("nas.slim.finalists.Session", record)
    result = search(run, table, out, machine, monkeypatch, (spec, spec), latencies)
    assert {"rival small", "rival small (2)"} <= machine.sessions[-1]
    assert sums["rival small"] == table.sums(run.space.smallest()), "as any network of these layers"
    first, second = result.rivals
    assert first.measured("latency_ms").measured == pytest.approx(FAST[0], rel=1e-3)
    assert second.measured("latency_ms", "cold").measured == pytest.approx(SLOW[1], rel=1e-3)
    pixels = run.load_images().test
    expected = accuracy(network, pixels.seen_as(seen))
    assert first.test_accuracy == second.test_accuracy == expected
    with torch.no_grad():
        raw = pixels.pixels[:4]
        images, _ = next(pixels.seen_as(seen).batches(4))
        assert torch.equal(network(images), network(normalise(raw, seen)))
    assert (first.meets({"latency_ms": 2.4}), second.meets({"latency_ms": 2.4})) == (True, False)
    write_search(out, result)
    assert SearchResult.load(out / "report.json") == result
    told = json.loads((out / "result.json").read_text())["rivals"]
    assert [it["name"] for it in told] == ["small", "small (2)"]
    page = (out / "report.html").read_text()
    assert "small (2)" in page
    print_search(result)
    line = next(it for it in capsys.readouterr().out.splitlines() if "small " in it)
    assert "0.500" in line


@pytest.mark.slow
def test_a_rival_within_the_target_is_compared(run, table, files, tmp_path, machine, monkeypatch):
    spec, *_ = files
    monkeypatch.setattr(
        "nas.slim.search.find_hits",
        lambda network, images: torch.from_numpy(np.arange(len(images)) % 3 > 0),
    )
    hits = {}
    from nas.slim.result import Comparison

    of = Comparison.of
    monkeypatch.setattr(
        Comparison,
        "of",
        lambda target, found, wanted: hits.update(found) or of(target, found, wanted),
    )
    search(run, table, tmp_path / "fast", machine, monkeypatch, (spec,), {"small": FAST})
    assert set(hits) == {"uniform", "slimmed", "small"}
    hits.clear()
    search(run, table, tmp_path / "slow", machine, monkeypatch, (spec,), {"small": SLOW})
    assert set(hits) == {"uniform", "slimmed"}


def test_a_search_without_rivals_has_none(run, table, tmp_path, machine, monkeypatch):
    result = search(run, table, tmp_path / "s", machine, monkeypatch, (), {})
    assert result.rivals == ()


@pytest.mark.parametrize("spec", ["small", "small:"])
def test_a_rival_is_an_architecture_with_weights(run, spec):
    with pytest.raises(UserError, match=f"rival '{spec}': must be ARCHITECTURE:WEIGHTS"):
        load_rivals([spec], run)


def test_a_rival_must_know_the_classes(run, files, tmp_path):
    few = run.space.smallest().with_classes(3)
    save_weights(build(few), tmp_path / "w.safetensors")
    few.save(tmp_path / "a.json")
    rule = r"does not tell the 10 classes of digits apart; train it first: nas retrain"
    with pytest.raises(UserError, match=rule):
        load_rivals([f"{tmp_path / 'a.json'}:{tmp_path / 'w.safetensors'}"], run)


def test_a_wrong_rival_is_refused_before_anything_is_written(
    run, table, tmp_path, machine, monkeypatch
):
    out = tmp_path / "s"
    with pytest.raises(UserError, match="no such file"):
        search(run, table, out, machine, monkeypatch, ("efficientnet_lite_0:gone.pth",), {})
    assert not out.exists()
