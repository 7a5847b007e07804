"""Targets: what they tell apart, and what is refused."""

import time

import pytest

from nas.errors import UserError
from nas.latency.graphs import chain, pointwise
from nas.latency.runtime import Target, detect_target, make_runtime
from nas.latency.runtimes import RUNTIMES


def test_detected_target_describes_this_machine(target):
    assert target.device == "cpu"
    assert target.provider == "CPUExecutionProvider"
    assert target.threads == 1
    assert target.cpu_model
    assert target == detect_target()
    assert Target.model_validate_json(target.model_dump_json()) == target


def test_difference_names_the_fields(target):
    other = target.model_copy(update={"threads": 2, "runtime_version": "0.1"})
    assert target.difference(target) == []
    assert target.difference(other) == [
        f"runtime_version: {target.runtime_version} here, 0.1 there",
        "threads: 1 here, 2 there",
    ]


def test_unknown_device_lists_those_there_are():
    with pytest.raises(UserError, match=r"device 'gpu7' is not available .*; available: cpu"):
        detect_target("gpu7")


def test_unknown_runtime_suggests_one():
    with pytest.raises(UserError, match=r"runtime 'onnxruntim' is not known; did you mean"):
        detect_target(runtime="onnxruntim")


@pytest.mark.parametrize("threads", [0, 100_000])
def test_threads_must_be_cores_of_this_machine(threads):
    with pytest.raises(UserError, match=rf"threads: must be 1 to \d+, .* got {threads}"):
        detect_target(threads=threads)


def test_several_threads_are_timed_by_the_wall():
    two = Target.model_validate({**detect_target().model_dump(), "threads": 2})
    assert detect_target().statistic == "thread_cpu_quartile"
    assert make_runtime(two).threads == 2


def test_prepared_model_runs():
    for adapter in RUNTIMES.values():
        runtime = adapter(next(iter(adapter.devices().values())), 1)
        runtime.prepare(chain([pointwise((8, 4, 4))] * 2))()


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_calling_thread_does_all_the_work_where_its_clock_is_read(name, largest_graph):
    adapter = RUNTIMES[name]
    for device in adapter.works_in_caller & adapter.devices().keys():
        run = adapter(adapter.devices()[device], 1).prepare(largest_graph)
        run()
        start = time.thread_time(), time.process_time()
        for _ in range(20):
            run()
        own, whole = time.thread_time() - start[0], time.process_time() - start[1]
        assert own > 0.9 * whole, "another thread works too"
