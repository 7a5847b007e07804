"""Networks timed together on a machine of known latencies, whose speed changes."""

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from nas.errors import UserError
from nas.latency import runner
from nas.latency.graphs import chain, pointwise
from nas.latency.survey import network_name
from nas.progress import SILENT
from nas.slim import finalists as module
from nas.slim.finalists import Finalists
from nas.slim.journal import Memory


@pytest.fixture
def networks(run):
    space = run.space
    return space.smallest(), space.decode(space.uniform(0.5)), space.largest()


@pytest.fixture
def makers(networks):
    """Three networks of the space; the machine of these tests needs no graphs."""
    return {network_name(network): object for network in networks}


@pytest.fixture
def finalists_of(networks):
    """Finalists of a table whose rows are those of the three networks."""

    def make(table, memory=None, progress=SILENT):
        made = Finalists(table, memory or Memory(), progress)
        made.sums |= {network_name(network): table.sums(network) for network in networks}
        return made

    return make


def latencies(finalists, makers):
    return [ms for name in makers for ms in (it.ms for it in finalists.latencies[name])]


def truth(machine, makers):
    return [ms for name in makers for ms in machine.latencies[name]]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_machine_that_is_slower_now_changes_no_latency(
    table, machine, makers, monkeypatch, recorder, factor, finalists_of
):
    monkeypatch.setattr(machine, "slowness", lambda visits: factor)
    progress = recorder()
    finalists = finalists_of(table, progress=progress)
    for _ in range(2):
        finalists.measure(makers)
    assert latencies(finalists, makers) == pytest.approx(truth(machine, makers), rel=1e-3)
    told = [line for line in progress.lines if "than when cpu.csv was measured" in line]
    assert len(told) == (factor != 1.0)
    if told:
        assert told[0].startswith(
            f"this machine is {abs(100 * (factor - 1)):.0f} % {'slower' if factor > 1 else 'faster'}"
        )


def test_what_a_network_itself_takes_more_is_measured(
    table, machine, makers, monkeypatch, finalists_of
):
    _, name, _ = makers
    warm, cold = machine.latencies[name]
    monkeypatch.setitem(machine.latencies, name, (1.1 * warm, 1.3 * cold))
    finalists = finalists_of(table)
    finalists.measure(makers)
    assert finalists.latencies[name].warm.ms == pytest.approx(1.1 * warm)
    assert finalists.latencies[name].cold.ms == pytest.approx(1.3 * cold)


@pytest.mark.parametrize(("swing", "is_told"), [(0.05, False), (0.3, True)])
def test_a_machine_whose_speed_varied_much_is_told_of(
    table, machine, makers, monkeypatch, recorder, swing, is_told, finalists_of
):
    start = machine.visits
    monkeypatch.setattr(
        machine, "slowness", lambda visits: 1 + swing * math.sin((visits - start) / 15)
    )
    progress = recorder()
    finalists = finalists_of(table, progress=progress)
    for _ in range(4):
        finalists.measure(makers)
    assert latencies(finalists, makers) == pytest.approx(truth(machine, makers), rel=0.03)
    finalists.tell_spread()
    told = [line for line in progress.lines if "speed varied" in line]
    assert len(told) == is_told


def test_sessions_in_which_the_machine_was_another_are_told_in_one_unit(
    table, machine, makers, monkeypatch, finalists_of
):
    finalists = finalists_of(table)
    for factor, name in zip((1.0, 1.5, 0.7), makers, strict=True):
        monkeypatch.setattr(machine, "slowness", lambda visits, factor=factor: factor)
        finalists.measure({name: makers[name]})
    assert latencies(finalists, makers) == pytest.approx(truth(machine, makers), rel=1e-3)


def test_sessions_are_remembered_and_add_up(table, machine, makers, finalists_of):
    memory = Memory()
    first = finalists_of(table, memory)
    some = dict(list(makers.items())[:2])
    for names in (makers, some, makers):
        first.measure(names)
    before = machine.visits
    again = finalists_of(table, memory)
    again.measure(makers)
    again.measure(some)
    assert machine.visits == before, "the memory answered"
    again.measure(makers)
    assert again.latencies == first.latencies
    assert machine.visits == before
    again.measure(makers)
    assert machine.visits > before


def test_visits_of_a_session_that_was_stopped_are_kept(
    table, machine, makers, monkeypatch, finalists_of
):
    memory, start = Memory(), machine.visits

    def stop(visits):
        if visits - start == 12:
            raise KeyboardInterrupt
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(machine, "slowness", stop)
        with pytest.raises(KeyboardInterrupt):
            finalists_of(table, memory).measure(makers)
    ((stopped,),) = memory.sessions.values()
    assert not stopped.is_whole
    assert 10 <= len(stopped.visits) <= 12
    finalists = finalists_of(table, memory)
    finalists.measure(makers)
    assert latencies(finalists, makers) == pytest.approx(truth(machine, makers), rel=1e-3)
    ((_, whole),) = memory.sessions.values()
    assert whole.is_whole
    assert finalists.sessions == [stopped.visits, whole.visits]


def test_a_table_with_another_reference_has_other_sessions(run, table, makers, finalists_of):
    memory = Memory()
    finalists_of(table, memory).measure(makers)
    reference = table.provenance.reference.model_copy(update={"network": run.space.largest()})
    provenance = table.provenance.model_copy(update={"reference": reference})
    other = type(table)(table.rows, provenance, table.path)
    finalists_of(other, memory).measure(makers)
    assert len(memory.sessions) == 2


def test_networks_of_a_device_by_hand_go_there_and_come_back(table, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BY_HAND_MINUTES", 0.001)

    def of_device(**changes):
        target = table.target.model_copy(update={"device": "hand:pi", **changes})
        return replace(table, provenance=table.provenance.model_copy(update={"target": target}))

    models = {
        name: lambda count=count: chain([pointwise((4, 4, 4))] * count)
        for name, count in (("one", 1), ("three", 3))
    }
    hand, memory = of_device(), Memory()
    for _ in range(2):
        with pytest.raises(UserError, match=r"copy the folder there, run in it python3 run\.py"):
            Finalists(hand, memory, folder=tmp_path).measure(models)
    (folder,) = tmp_path.iterdir()
    program = folder / "run.py"
    program.write_text(program.read_text().replace("96_000_000", "96_000"))
    subprocess.run([sys.executable, program], check=True, capture_output=True)

    finalists = Finalists(hand, memory, folder=tmp_path)
    finalists.measure(models)
    assert not any(map(finalists.uncertainty, models)), "nobody carries a folder there again"
    assert finalists.latencies.keys() == models.keys()
    assert all(it.ms > 0 for latency in finalists.latencies.values() for it in latency)
    assert len(finalists.sessions) == 1
    again = Finalists(hand, memory, folder=tmp_path / "nowhere")
    again.measure(models)
    assert again.latencies == finalists.latencies, "the memory answers"

    (folder / runner.SAMPLES).rename(tmp_path / "samples")
    other = of_device(runtime_version="0.1")
    with pytest.raises(UserError, match="copy it back"):
        Finalists(other, Memory(), folder=tmp_path).measure(models)
    (newer,) = [it for it in tmp_path.iterdir() if it.is_dir() and it != folder]
    (newer / runner.PLAN).write_bytes((folder / runner.PLAN).read_bytes())
    (tmp_path / "samples").rename(newer / runner.SAMPLES)
    with pytest.raises(UserError, match=r"another device than the table: runtime_version: 0\.1"):
        Finalists(other, Memory(), folder=tmp_path).measure(models)


def test_what_one_session_leaves_unsure_is_not_asked_for_after_a_second(
    table, machine, makers, monkeypatch, finalists_of
):
    monkeypatch.setattr(machine, "slowness", lambda visits: 1 + 0.01 * (7 * visits % 11))
    finalists, name = finalists_of(table), next(iter(makers))
    finalists.measure(makers)
    ms, low, high = finalists.latencies[name].warm
    widest = max(high - ms, ms - low) / ms
    assert 0 < finalists.uncertainty(name) <= widest
    finalists.measure(dict(list(makers.items())[1:]))
    assert [finalists.uncertainty(it) > 0 for it in makers] == [True, False, False]


def test_a_session_goes_on_for_the_networks_that_are_new(
    table, machine, makers, monkeypatch, finalists_of
):
    monkeypatch.setattr(machine, "slowness", lambda visits: 1 + 0.01 * (7 * visits % 11))
    never_sure = module.PATIENCE._replace(tolerance=-1.0)
    monkeypatch.setattr(module, "PATIENCE", never_sure)
    memory, (one, other, _) = Memory(), makers
    finalists = finalists_of(table, memory)
    finalists.measure({name: makers[name] for name in (one, other)})
    finalists.measure(makers, list(makers)[2:])
    visits = Counter(visit.graph for visit in finalists.sessions[-1])
    assert [visits[it] for it in makers] == [never_sure.least, never_sure.least, never_sure.most]
    assert all(map(finalists.uncertainty, makers)), "one session has asked for each"
    finalists.measure({one: makers[one]})
    assert [finalists.uncertainty(it) > 0 for it in makers] == [False, True, True]
    again = finalists_of(table, memory)
    again.measure({name: makers[name] for name in (one, other)})
    again.measure(makers, list(makers)[2:])
    assert all(map(again.uncertainty, makers)), "the memory answers, and changes nothing"
