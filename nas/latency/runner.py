"""Times networks on the device that will run them: one file for Python 3.8, numpy and a runtime.

    python3 run.py                     this file in a bundle: measures what plan.json beside it says
    python3 runner.py                  elsewhere: answers requests, JSON lines on standard input

It imports nothing of nas, which sends it to devices as it is, and runs it for this machine too.

*Warm* is what a loop over one network sees: the graph runs until it gets no faster, which takes a
few runs or a few dozen, and then the last runs count. *Cold* is the next run after other work had
the caches, as in an application that runs the network once per frame: 96 MB are read before it,
each part twice, as some caches keep what was in use when memory is read once. What caches larger
than that keep is what the application finds there too, however many other graphs take turns.

Graphs take turns. A turn is of one network, or of several layers that follow others in a network:
these are all run warm, then the caches are read over once, and each is run cold behind the others,
which leave it their code and not its weights, as the layers of a network do. Graphs with regular
visits, the references, have a turn after every few others.

Requests are objects whose ``do`` names a method of ``Runner``; where ``bytes`` stands in one, so
many bytes follow its line. Each is answered by one line, ``visit`` by one for each visit as well.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import glob
import hashlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import (
    Any,
    BinaryIO,
    Callable,
    Container,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

try:
    import numpy as np
except ImportError:
    sys.exit(f"numpy is missing; install it: {sys.executable} -m pip install numpy onnxruntime")

FORMAT = 2
"""Of requests, plans and samples: both sides must speak the same."""

Run = Callable[[], object]
Reply = Dict[str, Any]
Inputs = Mapping[str, np.ndarray]
Turn = List[str]
"""Of one graph, or of layers that are visited together."""

CLOCKS: Dict[str, Callable[[], int]] = {
    "thread_cpu": time.thread_time_ns,
    "wall": time.perf_counter_ns,
}
"""Clocks in nanoseconds. The thread's CPU time is latency without pre-emption."""

CACHES_BYTES = 96_000_000
"""Read before a cold run: more than the caches of most machines hold."""

PARTS = 12
"""In which they are read: each is larger than the caches of a core and smaller than shared ones."""

WINDOW = 3
"""Runs that are compared with as many before them."""

TIMED = 5
"""The last runs of a warm graph, whose median counts. Three leave a sixth more noise on a busy
machine; more of 16 would count some in which caches still fill (benchmarks/README.md)."""

STILL = 0.01
"""A graph is warm when the fastest of the last runs saves less than this share."""

LEAST_RUNS, MOST_RUNS = 16, 40
"""Caches come to keep a part of weights that do not fit, slowly: the test alone would end 6 % too
early (benchmarks/visits.py). A graph whose weights just fit may get faster for long."""

REGULAR = 12
"""Visits to others for one to a reference, at most."""

GROUP = 24
"""Layers in a turn, about as many as a network has: the first ones of a turn take a quarter more
than the others, and to read the caches over takes longer than a layer (benchmarks/groups.py)."""

LIFE = 2
"""Visits to a graph in one round. Where the weights of a session lie in memory decides how they
share the caches: sessions of one network differ by 1 to 3 % (benchmarks/sessions.py), and to open
one costs as much as a visit. All are closed after a round, together: memory that is given back bit
by bit is scattered, and what is opened in it takes 10 to 17 % longer, cold."""

GOLDEN = 0.618
"""Multiples of the golden ratio less whole numbers are spread as evenly as can be."""

MOST_OPEN_BYTES, OPEN_SHARE = 400_000_000, 0.15
"""Of graphs whose sessions are open at once, and of the memory that is free: the runtime packs a
second copy of weights. Memory that a virtual machine has not used of late its host must find first,
at 6 ms a MB in place of 0.1 (benchmarks/rooms.py)."""

TRIES = 5

LOOK_SECONDS = 5.0
"""Between two looks at the machine's own speed; garbage is collected then, too."""

READS, READ_NS = 50, 5_000
"""A clock is read that costs fewer nanoseconds in the best of these tries: see
benchmarks/termux.py."""

KERNEL_RUNS, BURSTS, THROTTLED = 9, 3, 1.10
"""A phone is throttled when a tiny kernel's minimum exceeds 1.10 of its baseline."""

SLOW_LOOKS = 3
"""In a row, until a machine is taken for hot: others on the cores come and go."""

WAIT_SECONDS, MOST_WAITS = 2.0, 15
"""A machine that stays slow for so many waits is as it is: its speed is the new baseline, and the
next time it is given half as many."""

MOST_TOLD = 4096
"""Numbers of an output."""

SEQUENCE = 65_521
"""Random numbers: a prime, so that no two rows of weights are the same."""

MOST_INTEGER = 63
"""In int8: sums of products stay exact on every processor."""

SUFFIX = ".graph"
"""Of files in the working folder: ONNX, but for the weights to be made up."""

KEPT_BYTES = 2_000_000_000
"""Of graphs that stay in the working folder for the next time."""

LOCK_TRIES, LOCK_SECONDS = 30, 0.1
"""A run that ends may take a moment to give a folder free."""

RELEVANT_FLAGS = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimddp", "fphp", "sve", "sve2", "i8mm", "bf16"),
)
"""CPU features that choose among a runtime's kernels."""

CPUFREQ = "/sys/devices/system/cpu/cpu*/cpufreq"

NVIDIA_DEVICES = ("cuda", "tensorrt", "nvtensorrtrtx")
"""The devices of onnxruntime's providers for NVIDIA's GPUs."""


class Refusal(Exception):  # noqa: N818 - it is nobody's error
    """What a user can correct; the message is one line."""


# Visits


class Sample(NamedTuple):
    """A visit: the ms of each run until they were warm, and of the cold run after them."""

    times: List[float]
    cold: float

    @property
    def warm(self) -> float:
        return float(np.median(self.times[-TIMED:]))

    @property
    def runs(self) -> int:
        return len(self.times) + 1


class Stopwatch:
    """Times runs by a clock in nanoseconds; ``caches`` is what is read to clear them."""

    def __init__(self, read: Callable[[], int], caches: np.ndarray) -> None:
        self.read, self.caches = read, caches

    def visit(self, runs: Mapping[str, Run]) -> Dict[str, Sample]:
        """Each until it is warm, then all cold, by name; Refusal if one fails or no time passes."""
        for _ in range(TRIES):
            times, cold = {}, {}
            for name, run in runs.items():
                with named(name):
                    times[name] = self._warm(run)
            evict(self.caches)
            for name, run in runs.items():
                with named(name):
                    cold[name] = self._time(run)
            found = {name: Sample(times[name], cold[name]) for name in runs}
            if all(min(*it.times, it.cold) > 0 for it in found.values()):
                return found  # a clock that was set back in between tells nothing
        raise Refusal("the clock of this machine stands still or runs backwards")

    def _warm(self, run: Run) -> List[float]:
        times = [self._time(run) for _ in range(LEAST_RUNS)]
        while len(times) < MOST_RUNS and not _is_warm(times):
            times.append(self._time(run))
        return times

    def _time(self, run: Run) -> float:
        start = self.read()
        run()
        return (self.read() - start) / 1e6


@contextlib.contextmanager
def named(graph: str) -> Iterator[None]:
    """Tell which graph a runtime did not run."""
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - each runtime has errors of its own
        raise Refusal(f"{graph}: {_first_line(error)}") from None


def evict(memory: np.ndarray) -> None:
    """Read memory, which takes the place of what the caches hold.

    Each part is read twice: caches may keep what was in use when memory is read once, and how much
    they keep differs from hour to hour (benchmarks/README.md).
    """
    for part in np.array_split(memory, PARTS):
        part.sum()
        part.sum()


def _is_warm(times: Sequence[float]) -> bool:
    return min(times[-WINDOW:]) >= (1 - STILL) * min(times[-2 * WINDOW : -WINDOW])


# Turns


def rounds(counts: Mapping[str, int]) -> Iterator[Dict[str, int]]:
    """Visits by graph in each round, none above ``LIFE``; a graph is in as few rounds as can be.

    Which rounds these are differs from graph to graph, and they are evenly spread.
    """
    number = math.ceil(max(counts.values(), default=0) / LIFE)
    found: List[Dict[str, int]] = [{} for _ in range(number)]
    shift = 0.0
    for name, count in counts.items():
        parts = math.ceil(count / LIFE)
        for part in range(parts):
            place = int((part + shift) * number / parts)
            found[place][name] = count * (part + 1) // parts - count * part // parts
        shift = (shift + GOLDEN) % 1
    return iter(found)


def batches(
    counts: Mapping[str, int],
    open_: Callable[[str], int],
    room: int,
    rng: np.random.Generator,
    inner: Container[str] = (),
) -> Iterator[List[Turn]]:
    """Turns in random order, with each name as often as counted, batch by batch.

    ``open_`` opens a graph and returns its bytes: a batch ends when it has more than ``room``.
    ``inner`` are the layers that share turns.
    """
    names = [name for name, count in counts.items() if count]
    waiting = [names[index] for index in rng.permutation(len(names))]
    while waiting:
        batch: List[str] = []
        size = 0
        while waiting and size <= room:
            batch.append(waiting.pop())
            size += open_(batch[-1])
        turns = [[name] for name in batch if name not in inner for _ in range(counts[name])]
        turns += _shared([name for name in batch if name in inner], counts, rng)
        yield [turns[index] for index in rng.permutation(len(turns))]


def _shared(
    names: Sequence[str], counts: Mapping[str, int], rng: np.random.Generator
) -> Iterator[Turn]:
    """Turns of about ``GROUP`` names in random order, none twice: it would be warm."""
    visits = [
        names[index] for index in rng.permutation(len(names)) for _ in range(counts[names[index]])
    ]
    number = max([round(len(visits) / GROUP), *(counts[name] for name in names)])
    for place in range(number):
        dealt = visits[place::number]
        yield [dealt[index] for index in rng.permutation(len(dealt))]


def interleaved(
    turns: Iterable[Turn], references: Optional[Iterator[str]], every: int
) -> Iterator[Turn]:
    """The turns, and between them the next of the references for each so many visits."""
    visits = every
    for turn in turns:
        while references is not None and visits >= every:
            visits -= every
            yield [next(references)]
        visits += len(turn)
        yield turn


def left_of(turns: Iterable[Turn], done: int) -> List[Turn]:
    """The turns less the visits that were made of them."""
    found = []
    for turn in turns:
        found.append(turn[done:])
        done = max(0, done - len(turn))
    return [turn for turn in found if turn]


def spacing(graphs: int, references: int) -> int:
    """Visits to other graphs between two to references.

    A graph is told against all references: where each graph has n visits and they have r together,
    its variance goes with 1 / n + 1 / r, which n * graphs + r visits make least at sqrt(graphs) * n
    for r. No reference needs more visits than a graph.
    """
    return min(REGULAR, max(round(math.sqrt(graphs)), math.ceil(graphs / (1 + references))))


# Runtimes


class Engine(NamedTuple):
    """A runtime: version, provider by device, and functions of a serialised model and its inputs.

    ``works_in_caller`` are devices where a single thread is the caller: its CPU time is latency
    without pre-emption. ``profile`` gives the ms of each kind of operator for each of some runs,
    ``compute`` the outputs by their names, or nothing.
    """

    version: str
    devices: Mapping[str, str]
    prepare: Callable[[bytes, Inputs, str, int], Run]
    profile: Callable[[bytes, Inputs, str, int, int], Optional[List[Dict[str, float]]]]
    compute: Callable[[bytes, Inputs, str, int], Dict[str, np.ndarray]]
    works_in_caller: Sequence[str] = ("cpu",)


def onnxruntime_engine() -> Engine:
    """https://onnxruntime.ai with all graph optimisations; providers are devices by their names."""
    import onnxruntime

    devices = {
        provider[: -len("ExecutionProvider")].lower(): provider
        for provider in onnxruntime.get_available_providers()
    }
    devices.pop("azure", None)  # a service that the wheels list and cannot call

    def options_of(threads: int) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised
        # threads that spin for work starve the other open sessions
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def session_of(
        model: bytes, provider: str, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
        if provider not in session.get_providers():  # it falls back to the CPU in silence
            raise Refusal(f"onnxruntime lists {provider}, but cannot start it here")
        return session

    def prepare(model: bytes, inputs: Inputs, provider: str, threads: int) -> Run:
        session, given = session_of(model, provider, options_of(threads)), dict(inputs)
        return lambda: session.run(None, given)

    def profile(
        model: bytes, inputs: Inputs, provider: str, threads: int, runs: int
    ) -> Optional[List[Dict[str, float]]]:
        if provider != "CPUExecutionProvider":
            return None  # other providers return before their kernels have run
        options = options_of(threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = session_of(model, provider, options)
            for _ in range(runs):
                session.run(None, dict(inputs))
            with open(session.end_profiling(), encoding="utf-8") as file:
                return kernels_by_run(json.load(file))

    def compute(model: bytes, inputs: Inputs, provider: str, threads: int) -> Dict[str, np.ndarray]:
        session = session_of(model, provider, options_of(threads))
        return {
            output.name: session.run([output.name], dict(inputs))[0]
            for output in session.get_outputs()
        }

    return Engine(str(onnxruntime.__version__), devices, prepare, profile, compute)


def kernels_by_run(events: Sequence[Mapping[str, Any]]) -> List[Dict[str, float]]:
    """Onnxruntime's kernels of each run, summed by kind, in ms; a run's event follows them."""
    found: List[Dict[str, float]] = []
    kinds: Dict[str, float] = {}
    for event in sorted(events, key=lambda it: int(it["ts"]) + int(it["dur"])):
        if event["name"] == "model_run":
            found.append(kinds)
            kinds = {}
        elif event["name"].endswith("_kernel_time"):
            kind = _kernel_kind(event["args"])
            kinds[kind] = kinds.get(kind, 0.0) + int(event["dur"]) / 1000
    return found


def _kernel_kind(arguments: Mapping[str, Any]) -> str:
    kind = str(arguments["op_name"])
    if not kind.endswith("Conv"):
        return kind
    (image,), (weight,) = (shape.values() for shape in arguments["input_type_shape"][:2])
    if weight[1] == 1 < image[1]:  # (out, in per group, height, width)
        return "Conv depthwise"
    return "Conv 1x1" if weight[2:] == [1, 1] else "Conv"


def openvino_engine() -> Engine:
    """https://docs.openvino.ai on the CPU, one stream; its default of bfloat16 is turned off."""
    import openvino

    # 2026.4.1-22982-e213a147257-releases/2026/4: the rest describes the build
    version = str(openvino.get_version()).split("-")[0]
    devices = {"cpu": "CPU"} if "CPU" in openvino.Core().available_devices else {}

    def prepare(model: bytes, inputs: Inputs, provider: str, threads: int) -> Run:
        infer: Run = openvino_request(model, inputs, provider, threads, {}).infer
        return infer

    def profile(
        model: bytes, inputs: Inputs, provider: str, threads: int, runs: int
    ) -> Optional[List[Dict[str, float]]]:
        request = openvino_request(model, inputs, provider, threads, {"PERF_COUNT": True})
        found: List[Dict[str, float]] = []
        for _ in range(runs):
            request.infer()
            kinds: Dict[str, float] = {}
            for node in request.get_profiling_info():
                kind = _node_kind(str(node.node_type), str(node.exec_type))
                ms = node.real_time.total_seconds() * 1000
                kinds[kind] = kinds.get(kind, 0.0) + ms
            found.append({kind: ms for kind, ms in kinds.items() if ms > 0})
        return found

    def compute(model: bytes, inputs: Inputs, provider: str, threads: int) -> Dict[str, np.ndarray]:
        found = openvino_request(model, inputs, provider, threads, {}).infer()
        return {output.any_name: np.array(values) for output, values in found.items()}

    return Engine(version, devices, prepare, profile, compute)


def openvino_request(
    model: bytes,
    inputs: Inputs,
    provider: str,
    threads: int,
    options: Mapping[str, object],
) -> Any:  # noqa: ANN401 - the module may not be there
    """The model compiled, with its inputs: an openvino.InferRequest."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(core.read_model(model, b""), provider, {**settings, **options})
    request = compiled.create_infer_request()
    for name, values in inputs.items():
        request.set_tensor(name, openvino.Tensor(values))
    return request


def _node_kind(kind: str, execution: str) -> str:
    """Operators that are fused into a node count with it, such as GELU with its convolution."""
    if kind == "GroupConvolution":
        return "Conv depthwise"
    if kind == "Convolution":
        return "Conv 1x1" if "1x1" in execution else "Conv"
    return kind


def mnn_engine() -> Engine:
    """https://github.com/alibaba/MNN on the CPU, in float32; its wheel holds its converter."""
    with hushed():
        import _tools  # noqa: F401 - the converter
        import MNN

    def prepare(model: bytes, inputs: Inputs, provider: str, threads: int) -> Run:
        return MnnSession(model, inputs, provider, threads).run

    def profile(
        model: bytes, inputs: Inputs, provider: str, threads: int, runs: int
    ) -> Optional[List[Dict[str, float]]]:
        session = MnnSession(model, inputs, provider, threads)
        return [session.profile() for _ in range(runs)]

    def compute(model: bytes, inputs: Inputs, provider: str, threads: int) -> Dict[str, np.ndarray]:
        session = MnnSession(model, inputs, provider, threads)
        session.run()
        return session.outputs()

    return Engine(str(MNN.version()), {"cpu": "CPU"}, prepare, profile, compute)


class MnnSession:
    """A model with its inputs, which are copied in before each run: runs write over them."""

    def __init__(self, model: bytes, inputs: Inputs, provider: str, threads: int) -> None:
        import MNN

        options = {"backend": provider, "numThread": threads, "precision": "high"}
        with mnn_file(model) as path, hushed():
            self._interpreter = MNN.Interpreter(path)
            self._session = self._interpreter.createSession(options)
        self._inputs = [
            (self._interpreter.getSessionInput(self._session, name), mnn_tensor(values))
            for name, values in inputs.items()
        ]

    def run(self) -> None:
        self._feed()
        code = self._interpreter.runSession(self._session)
        if code:
            raise RuntimeError(f"MNN ends with error {code}")

    def profile(self) -> Dict[str, float]:
        """The ms of each kind of operator in one run."""
        found: Dict[str, float] = {}
        channels, begun = 1, 0

        def begin(inputs: Sequence[Any], operator: object) -> bool:
            nonlocal channels, begun
            del operator
            shape: Sequence[int] = inputs[0].getShape() if inputs else ()
            channels, begun = shape[1] if len(shape) == 4 else 1, time.perf_counter_ns()
            return True

        def end(outputs: Sequence[Any], operator: Any) -> bool:  # noqa: ANN401
            ms = (time.perf_counter_ns() - begun) / 1e6
            kind = str(operator.getType())
            if kind == "Convolution":
                products = 1e6 * operator.getFlops() / np.prod(outputs[0].getShape())
                kind = "Conv 1x1" if products < 1.5 * channels else "Conv"
            found[kind] = found.get(kind, 0.0) + ms
            return True

        self._feed()
        self._interpreter.runSessionWithCallBackInfo(self._session, begin, end)
        return found

    def outputs(self) -> Dict[str, np.ndarray]:
        found = {}
        for name, tensor in self._interpreter.getSessionOutputAll(self._session).items():
            there = mnn_tensor(np.zeros(tensor.getShape(), np.float32))
            tensor.copyToHostTensor(there)
            found[name] = np.array(there.getNumpyData())
        return found

    def _feed(self) -> None:
        for tensor, values in self._inputs:
            tensor.copyFrom(values)


def mnn_tensor(values: np.ndarray) -> Any:  # noqa: ANN401 - the module may not be there
    """An MNN.Tensor of numbers in the order (batch, channels, height, width)."""
    import MNN

    numbers = {
        "float32": MNN.Halide_Type_Float,
        "int32": MNN.Halide_Type_Int,
        "uint8": MNN.Halide_Type_Uint8,
    }
    values = values.astype(np.int32) if values.dtype == np.int64 else values
    number = numbers.get(str(values.dtype))
    if number is None:
        raise Refusal(f"mnn takes {', '.join(numbers)}, and no {values.dtype}")
    order = MNN.Tensor_DimensionType_Caffe
    return MNN.Tensor(values.shape, number, np.ascontiguousarray(values), order)


@contextlib.contextmanager
def mnn_file(model: bytes) -> Iterator[str]:
    """A file of the model in MNN's own format; RuntimeError with its converter's reason.

    The function is called as it is: MNN's command mnnconvert installs a client of a service for
    logs, and tells it what was converted.
    """
    from _tools import mnnconvert

    with tempfile.TemporaryDirectory() as folder:
        source, path = os.path.join(folder, "model.onnx"), os.path.join(folder, "model.mnn")
        with open(source, "wb") as file:
            file.write(model)
        words = ["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", path]
        with hushed() as said:
            mnnconvert([*words, "--bizCode", "nas"])
        if not os.path.exists(path):
            lines = said().splitlines()
            missing = [line.rpartition(": ")[2].strip() for line in lines if "Not Support" in line]
            raise RuntimeError(f"it lacks {missing[0]}" if missing else lines[-1])
        yield path


@contextlib.contextmanager
def hushed() -> Iterator[Callable[[], str]]:
    """Keep what a library prints from the screen; gives what it has said, afterwards."""
    content = b""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield lambda: content.decode(errors="replace")
        finally:
            with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):  # Windows
                import ctypes

                ctypes.CDLL(None).fflush(None)
            for place, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, place)
                os.close(descriptor)
            file.seek(0)
            content = file.read()


ENGINES: Dict[str, Callable[[], Engine]] = {
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "mnn": mnn_engine,
}
"""The runtimes by name, which is also that of the package to install."""

MODULES = {"mnn": "MNN"}
"""Of runtimes that are imported by another name."""


def start_engine(name: str) -> Engine:
    """Import a runtime; Refusal with the line that installs it."""
    if name not in ENGINES:
        raise Refusal(f"runtime '{name}' is not known here; known: {', '.join(ENGINES)}")
    try:
        return ENGINES[name]()
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({_first_line(error)})"
        install = shlex.join([sys.executable or "python3", "-m", "pip", "install", name])
        raise Refusal(f"runtime '{name}' is missing{reason}; install it: {install}") from None


def require_import(name: str) -> None:
    """Import a runtime in a process of its own; Refusal if that dies of a missing instruction."""
    command = [sys.executable, "-c", f"import {MODULES.get(name, name)}"]
    code = subprocess.run(command, capture_output=True, check=False).returncode
    if code not in (0, 1):  # 1 is an ImportError, which is told where it is raised
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        older = f"{name}==1.23.2" if name == "onnxruntime" else f"an older {name}"
        raise Refusal(
            f"{name} {_installed(name)} dies there when it is imported ({how}): it does not suit "
            f"this processor; install another version: {sys.executable} -m pip install {older}"
        )


def _installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


# The machine


def cpu_model() -> str:
    """The processor's name as the system reports it."""
    name = _cpuinfo().get("model name", "") or _read("/proc/device-tree/model").strip("\0\n")
    if not name and platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        name = found.stdout.strip()
    return name or platform.processor() or platform.machine()


def cpu_flags() -> List[str]:
    """Those of ``RELEVANT_FLAGS`` that this processor has; the architecture's name first."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [platform.machine(), *(flag for flag in RELEVANT_FLAGS if flag in flags)]


def _cpuinfo() -> Dict[str, str]:
    pairs = (line.partition(":") for line in _read("/proc/cpuinfo").split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def accelerator(device: str) -> str:
    """The name of the GPU behind a device of NVIDIA's; empty for other devices."""
    if device not in NVIDIA_DEVICES:
        return ""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refusal(f"device '{device}': nvidia-smi does not report its name: {error}") from None


def usable_cores() -> List[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_bytes() -> int:
    """The memory that is free or can be freed; 4 GB where the system does not tell."""
    try:
        fields = dict(line.split(":") for line in _read("/proc/meminfo").splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (KeyError, ValueError):
        return 4_000_000_000


def room() -> int:
    """The bytes of graphs whose sessions may be open at once."""
    return int(min(MOST_OPEN_BYTES, OPEN_SHARE * available_bytes()))


def has_fine_clock() -> bool:
    """Whether a thread's CPU time is told in microseconds, and is read as fast.

    Where each call of the system is traced, as by a proot without seccomp, runs would look longer.
    """
    if time.get_clock_info("thread_time").resolution >= 1e-6:  # seconds
        return False
    taken = []
    for _ in range(READS):
        start = time.perf_counter_ns()
        time.thread_time_ns()
        taken.append(time.perf_counter_ns() - start)
    return min(taken) < READ_NS


def conditions() -> Dict[str, object]:
    """What the system tells of itself and of this moment: clock rates, temperature, load."""
    rates = [int(text) / 1000 for text in _each(f"{CPUFREQ}/scaling_cur_freq")]
    degrees = [int(text) / 1000 for text in _each("/sys/class/thermal/thermal_zone*/temp")]
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "governor": " ".join(sorted(set(_each(f"{CPUFREQ}/scaling_governor", numbers=False)))),
        "megahertz": [min(rates), max(rates)] if rates else None,
        "celsius": max(degrees) if degrees else None,
        "load": _load_averages(),
    }


def _load_averages() -> Optional[List[float]]:
    try:
        return list(os.getloadavg())
    except (AttributeError, OSError):  # Windows has none, Android hides them
        return None


def _each(pattern: str, numbers: bool = True) -> List[str]:
    found = [_read(path).strip() for path in sorted(glob.glob(pattern))]
    return [text for text in found if text and (not numbers or text.lstrip("-").isdigit())]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Guard:
    """Notices a machine that has become slower than it was, such as a hot one, and lets it rest."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep, self._slow_looks, self._most = sleep, 0, MOST_WAITS
        self._clock = CLOCKS["thread_cpu" if has_fine_clock() else "wall"]
        self._matrix = np.full((96, 96), 0.5, np.float32)
        self.baseline = min(self.kernel_ms() for _ in range(BURSTS))

    def kernel_ms(self) -> float:
        """The least time of a tiny computation."""
        times = []
        for _ in range(BURSTS):
            time.sleep(0.01)  # what others do to a core lasts for less
            for _ in range(KERNEL_RUNS):
                start = self._clock()
                self._matrix @ self._matrix
                times.append((self._clock() - start) / 1e6)
        return min(times)

    def rest(self) -> Iterator[float]:
        """Waits if it has been slow for a while; before each wait, by how much it is; a share."""
        if not self._slower():
            self._slow_looks = 0
            return
        self._slow_looks += 1
        if self._slow_looks < SLOW_LOOKS:
            return
        slower = self._slower()
        for _ in range(self._most if slower else 0):
            yield slower
            self._sleep(WAIT_SECONDS)
            slower = self._slower()
            if not slower:
                return
        self.baseline, self._most = self.kernel_ms(), self._most // 2

    def _slower(self) -> float:
        """By how much it is slower than at its fastest, a share; 0 where that is nothing."""
        found = self.kernel_ms()
        self.baseline = min(found, self.baseline)
        return found / self.baseline - 1 if found > THROTTLED * self.baseline else 0.0


# Requests


class Runner:
    """Opens and visits graphs by name; ``folder`` keeps graphs by their hashes, if there is one.

    Sessions are opened and run in a thread of their own, whose memory other work has not scattered:
    there small networks take 1 to 14 % less, cold (benchmarks/visits.py).
    """

    def __init__(
        self,
        start: Callable[[str], Engine] = start_engine,
        folder: Optional[str] = None,
        *,
        rests: bool = False,
    ) -> None:
        self._start, self._folder = start, folder
        self._engines: Dict[str, Engine] = {}
        self._runs: Dict[str, Run] = {}
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._caches: Optional[np.ndarray] = None
        self._guard = Guard() if rests else None

    def answer(self, request: Mapping[str, Any], payload: bytes = b"") -> Iterator[Reply]:
        """The replies to a request; one with ``error`` is the last."""
        try:
            if request["do"] in ("open", "profile", "compute"):
                yield getattr(self, request["do"])(request, payload)
            elif request["do"] == "visit":
                yield from self.visit(request)
            else:
                known = {"describe": self.describe, "kept": self.kept, "close": self.close}
                yield known[request["do"]](request)
        except Refusal as error:
            yield {"error": str(error)}
        except MemoryError as error:
            yield {"error": f"not enough memory: {_first_line(error)}", "is_memory": True}
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            yield {"error": f"{where}{error.strerror or error}"}

    def describe(self, request: Mapping[str, Any]) -> Reply:
        """The machine and a runtime on it; ``checks`` imports the runtime in a child before."""
        name = request["runtime"]
        if request.get("checks") and name in ENGINES:
            require_import(name)
        engine = self._engine(name)
        is_there = request["device"] in engine.devices
        return {
            "runtime_version": engine.version,
            "devices": dict(engine.devices),
            "works_in_caller": list(engine.works_in_caller),
            "cpu_model": cpu_model(),
            "cpu_flags": cpu_flags(),
            "accelerator": accelerator(request["device"]) if is_there else "",
            "cores": usable_cores(),
            "has_fine_clock": has_fine_clock(),
            "node": platform.node(),
            "conditions": conditions(),
        }

    def kept(self, request: Mapping[str, Any]) -> Reply:
        """The graphs that lie in the folder, by their hashes."""
        del request
        paths = glob.glob(os.path.join(self._folder, f"*{SUFFIX}")) if self._folder else []
        return {"kept": [os.path.basename(path)[: -len(SUFFIX)] for path in paths]}

    def close(self, request: Mapping[str, Any]) -> Reply:
        """Close all sessions but those to ``keep``; tells the room there is then."""
        self._runs = {name: run for name, run in self._runs.items() if name in request["keep"]}
        return {"room": room()}

    def open(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        """Open the session of a graph, by its content or from the folder."""
        begun = time.monotonic()
        try:
            model = filled(self._content(request["sha256"], payload))
            inputs = made_up(request["inputs"])
            prepare = self._engine(request["runtime"]).prepare
            arguments = model, inputs, request["provider"], request["threads"]
            run = self._thread.submit(prepare, *arguments).result()
        except (MemoryError, OSError):
            raise
        except Refusal as error:
            return {"failed": str(error), "at": "refused"}
        except Exception as error:  # noqa: BLE001 - each runtime has errors of its own
            return {"failed": _first_line(error), "at": "open"}
        try:
            self._thread.submit(run).result()  # the first run of a session allocates its memory
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001
            return {"failed": _first_line(error), "at": "run"}
        self._runs[request["name"]] = run
        return {"opened": request["name"], "seconds": round(time.monotonic() - begun, 6)}

    def profile(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        """The ms of each kind of operator in each of some runs; None without a profiler."""
        engine = self._engine(request["runtime"])
        model = filled(self._content(request["sha256"], payload))
        arguments = request["provider"], request["threads"], request["runs"]
        return {"profile": engine.profile(model, made_up(request["inputs"]), *arguments)}

    def compute(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        """The outputs of a graph for its made-up inputs, thinned."""
        engine = self._engine(request["runtime"])
        model = filled(self._content(request["sha256"], payload))
        arguments = made_up(request["inputs"]), request["provider"], request["threads"]
        try:
            found = self._thread.submit(engine.compute, model, *arguments).result()
        except (Refusal, MemoryError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - each runtime has errors of its own
            raise Refusal(f"{request['runtime']} does not run it: {_first_line(error)}") from None
        return {"outputs": {name: thinned(values) for name, values in found.items()}}

    def visit(self, request: Mapping[str, Any]) -> Iterator[Reply]:
        """Visit open graphs by turns; one line of raw samples each, and what the machine did."""
        wanted = {name for turn in request["turns"] for name in turn}
        if missing := wanted - set(self._runs):  # the host does not wait for answers
            raise Refusal(f"{min(missing)}: is not open")
        if self._caches is None:
            self._caches = np.ones(CACHES_BYTES // 8, np.int64)  # are read faster than floats
        stopwatch, done = Stopwatch(CLOCKS[request["clock"]], self._caches), 0
        is_enabled, looked = gc.isenabled(), time.monotonic()
        gc.disable()
        try:
            for turn in request["turns"]:
                start = time.monotonic()
                runs = {name: self._runs[name] for name in turn}
                samples = self._thread.submit(stopwatch.visit, runs).result()
                yield from _told(samples, time.monotonic() - start)
                done += len(turn)
                if time.monotonic() - looked > LOOK_SECONDS:
                    gc.collect(0)
                    yield from self._look()
                    looked = time.monotonic()
        finally:
            if is_enabled:
                gc.enable()
        yield {"visited": done, "conditions": conditions()}

    def _look(self) -> Iterator[Reply]:
        """Let a machine rest that has become slow, where that is wanted."""
        for slower in self._guard.rest() if self._guard else ():
            yield {"waits": WAIT_SECONDS, "slower": round(slower, 3), "conditions": conditions()}

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = self._start(name)
        return self._engines[name]

    def _content(self, sha256: str, payload: bytes) -> bytes:
        """A graph as it came, which joins the folder; or as it lies there."""
        if not self._folder:
            return payload
        path = os.path.join(self._folder, f"{sha256}{SUFFIX}")
        if payload:
            _write(path, payload)
            return payload
        with open(path, "rb") as file:
            found = file.read()
        if hashlib.sha256(found).hexdigest() != sha256:
            os.replace(path, f"{path}.damaged")
            raise Refusal(f"{path}: was damaged, and is set aside; send it again")
        os.utime(path)
        return found


def _told(samples: Mapping[str, Sample], seconds: float) -> Iterator[Reply]:
    """The lines of a turn, which took so long; what is no graph's own time is that of all."""
    own = {name: (sum(it.times) + it.cold) / 1e3 for name, it in samples.items()}
    shared = max(0.0, seconds - sum(own.values())) / len(samples)
    for name, sample in samples.items():
        yield {
            "graph": name,
            "ms": [round(ms, 6) for ms in sample.times],
            "cold_ms": round(sample.cold, 6),
            "seconds": round(own[name] + shared, 6),
        }


def made_up(inputs: Iterable[Tuple[str, Sequence[int], str]]) -> Dict[str, np.ndarray]:
    """The same numbers at each call for inputs of (name, shape, dtype); integers are zeros."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape, number in inputs:
        dtype = np.dtype(number)
        is_float = dtype.kind == "f"
        found[name] = (
            np.asarray(rng.standard_normal(shape, dtype=np.float32), dtype)
            if is_float
            else np.zeros(shape, dtype)
        )
    return found


def filled(content: bytes) -> bytes:
    """A serialised model, with random numbers where weights were left out (nas/latency/light.py).

    All are taken from one sequence: to draw them takes longer than to read them from a disk.
    """
    if not content.startswith(b"{"):  # as no model does
        return content
    end = content.index(b"\n") + 1
    view, place, drawn = memoryview(content), end, 0
    parts: List[Any] = []  # of bytes, which are copied once
    sequence = np.random.default_rng(0).standard_normal(SEQUENCE, np.float32)
    for size, count, dtype, mean, deviation in json.loads(content[:end])["fills"]:
        values = np.roll(sequence, -drawn)[:count] * np.float32(deviation)
        values += np.float32(mean)
        if np.dtype(dtype).kind == "i":
            values = np.clip(np.rint(values), -MOST_INTEGER, MOST_INTEGER)
        values = values.astype(dtype)
        whole, rest = divmod(count, len(values))
        parts += [view[place : end + size], *[values] * whole, values[:rest]]
        place, drawn = end + size, (drawn + count) % SEQUENCE
    return b"".join([*parts, view[place:]])


def thinned(values: np.ndarray) -> List[float]:
    """Some of the numbers in the order of memory, evenly spread."""
    step = -(-values.size // MOST_TOLD)
    return [float(value) for value in values.reshape(-1)[:: max(1, step)]]


# The working folder


@contextlib.contextmanager
def held(folder: str, token: str = "") -> Iterator[None]:
    """Hold a folder's lock; a runner that has lost the same host makes way, others are refused."""
    os.makedirs(folder, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows, where nobody else is kept away
        yield
        return
    with open(os.path.join(folder, "lock"), "a+", encoding="utf-8") as file:
        owner = ""
        for attempt in range(LOCK_TRIES):
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            file.seek(0)
            owner, _, its_token = file.read().partition(" ")
            if token and its_token == token and attempt == 0:
                with contextlib.suppress(OSError):
                    os.kill(int(owner), signal.SIGKILL)
            time.sleep(LOCK_SECONDS)
        else:
            raise Refusal(f"{folder}: another run, process {owner}, measures there; wait for it")
        file.truncate(0)
        file.write(f"{os.getpid()} {token}")
        file.flush()
        yield


def pin(cores: str) -> None:
    """Keep this process to cores, such as ``0-3,6``; Refusal if there are no such."""
    if not cores:
        return
    try:
        os.sched_setaffinity(0, parse_cores(cores))  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:
        raise Refusal(f"cores {cores}: this system does not keep processes to cores") from None
    except OSError:
        there = ",".join(map(str, usable_cores()))
        raise Refusal(f"cores {cores}: there are no such here; there are {there}") from None


def parse_cores(text: str) -> List[int]:
    """``0-3,6`` as numbers; ValueError if it is nothing such."""
    found = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return sorted(found)


def make_room(folder: str) -> None:
    """Make the folder, and let the graphs go that were not used for longest."""
    os.makedirs(folder, exist_ok=True)
    kept, paths = 0, glob.glob(os.path.join(folder, f"*{SUFFIX}"))
    for path in sorted(paths, key=os.path.getmtime, reverse=True):
        kept += os.path.getsize(path)
        if kept > KEPT_BYTES:
            os.unlink(path)


def _write(path: str, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = f"{path}.{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        where = os.path.dirname(path)
        raise Refusal(f"{where}: {error.strerror}; name another folder there: --workdir") from None


# A host at the other end of a pipe


def serve(folder: str, token: str, cores: str, *, rests: bool) -> None:
    """Answer the requests on standard input until it ends."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some runtimes print

    def tell(reply: Reply) -> None:
        channel.write(json.dumps(reply).encode() + b"\n")
        channel.flush()

    folder = os.path.expanduser(folder)
    try:
        with held(folder, token) if folder else contextlib.nullcontext():
            pin(cores)
            if folder:
                make_room(folder)
            runner = Runner(folder=folder, rests=rests)
            tell({"runner": FORMAT, "process": os.getpid()})
            for request, payload in requests(sys.stdin.buffer):
                for reply in runner.answer(request, payload):
                    tell(reply)
    except Refusal as error:
        tell({"error": str(error)})
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # the host is gone
            tell({"error": f"{error.filename or folder}: {error.strerror}"})


def requests(stream: BinaryIO) -> Iterator[Tuple[Reply, bytes]]:
    """Each request with its bytes, up to one that was cut."""
    for line in stream:
        if not line.endswith(b"\n"):
            return
        request = json.loads(line)
        size = request.get("bytes", 0)
        payload = stream.read(size)
        if len(payload) < size:
            return
        yield request, payload


# A plan in a folder, by hand

PLAN, SAMPLES, GRAPHS = "plan.json", "samples.jsonl", "graphs"
"""In a bundle: what to measure, what was measured, and the graphs by their hashes."""

TELL_SECONDS = 10.0

LEAST_ROUNDS = 2
"""Rounds that are made whatever time they take."""


def run_bundle(folder: str, cores: str, minutes: Optional[float]) -> None:
    """Measure what a bundle's plan says, on from where it was stopped."""
    with held(folder):
        pin(cores)
        content = _read(os.path.join(folder, PLAN))
        plan = json.loads(content)
        if plan["format"] != FORMAT:
            raise Refusal(f"{PLAN}: is of another version than run.py; make the bundle anew")
        require_import(plan["runtime"])
        runner = Runner(folder=os.path.join(folder, GRAPHS), rests=True)
        request = {"runtime": plan["runtime"], "device": plan["device"]}
        header = {
            "format": FORMAT,
            "plan": hashlib.sha256(content.encode()).hexdigest(),
            "kept_to": cores,
            **runner.describe(request),
        }
        if plan["device"] not in header["devices"]:
            raise Refusal(
                f"{plan['runtime']} {header['runtime_version']} has no device "
                f"'{plan['device']}' here; there are {', '.join(header['devices'])}"
            )
        with Samples(os.path.join(folder, SAMPLES), header) as samples:
            ByHand(plan, header, runner, samples).measure(60 * (minutes or plan["minutes"]))


class Samples:
    """A file of JSON lines: what the machine is, then visits; what a kill cut short is dropped."""

    def __init__(self, path: str, header: Mapping[str, Any]) -> None:
        lines = _read(path).split("\n")[:-1]
        replies = [json.loads(line) for line in lines]
        if replies and any(replies[0].get(name) != header[name] for name in SAME):
            raise Refusal(
                f"{path}: is of another plan, machine or runtime; move it away to measure anew"
            )
        self.made: Dict[str, int] = {}
        self.seconds = self._synced = 0.0
        for reply in replies:
            self._count(reply)
        self._file = open(path, "ab")  # noqa: SIM115 - it is closed by __exit__
        self._file.truncate(sum(len(line.encode()) + 1 for line in lines))
        if not replies:
            self.append(header)

    def __enter__(self) -> Samples:  # noqa: PYI034 - Python 3.8 has no Self
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, reply: Mapping[str, Any]) -> None:
        """Write a line; a device that loses its power loses a few seconds."""
        self._file.write(json.dumps(reply).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > LOOK_SECONDS:
            self._synced = time.monotonic()
            os.fsync(self._file.fileno())  # takes long on the cards of small boards
        self._count(reply)

    def _count(self, reply: Mapping[str, Any]) -> None:
        self.seconds += reply.get("seconds", 0.0) + reply.get("waits", 0.0)
        if "graph" in reply:
            self.made[reply["graph"]] = self.made.get(reply["graph"], 0) + 1


SAME = ("format", "plan", "kept_to", "runtime_version", "cpu_model", "cpu_flags")
"""What the lines of one file have in common."""


class ByHand:
    """The visits of a plan: round by round, each graph so often, until its time is over."""

    def __init__(
        self, plan: Mapping[str, Any], header: Mapping[str, Any], runner: Runner, samples: Samples
    ) -> None:
        self.plan, self.runner, self.samples = plan, runner, samples
        self._provider = header["devices"][plan["device"]]
        in_caller = plan["threads"] == 1 and plan["device"] in header["works_in_caller"]
        self._clock = "thread_cpu" if in_caller and header["has_fine_clock"] else "wall"
        self._told = time.monotonic()

    def measure(self, seconds: float) -> None:
        """The first rounds are always made; the others as long as there is time."""
        regular, graphs = self.plan["regular"], self.plan["graphs"]
        inner = set(self.plan["inner"])
        references = cycle(regular) if regular else None
        every = spacing(len(graphs), len(regular))
        while True:
            number, counts = self._next_round()
            is_needed = number < LEAST_ROUNDS
            if not counts or (not is_needed and self.samples.seconds >= seconds):
                break
            rng = np.random.default_rng([self.plan["seed"], number])
            space = int(self.runner.close({"keep": []})["room"])
            for batch in batches(counts, self._size, space, rng, inner):
                turns = list(interleaved(batch, references, every))
                for name in dict.fromkeys(name for turn in turns for name in turn):
                    self._open(name)
                self._visit(turns, math.inf if is_needed else seconds)
                self.runner.close({"keep": []})
        print(f"done: {sum(self.samples.made.values())} visits; take this folder back")

    def _next_round(self) -> Tuple[int, Dict[str, int]]:
        """The round that is not whole yet, and the visits that it lacks."""
        made = self.samples.made
        graphs = {
            name: graph["most"]
            for name, graph in self.plan["graphs"].items()
            if name not in self.plan["regular"] and made.get(name, 0) < graph["most"]
        }
        number = min((made.get(name, 0) // LIFE for name in graphs), default=0)
        counts = {
            name: min((number + 1) * LIFE, most) - made.get(name, 0)
            for name, most in graphs.items()
        }
        return number, {name: count for name, count in counts.items() if count > 0}

    def _size(self, name: str) -> int:
        return int(self.plan["graphs"][name]["size"])

    def _open(self, name: str) -> None:
        graph, plan = self.plan["graphs"][name], self.plan
        request = {"name": name, "runtime": plan["runtime"], "threads": plan["threads"]}
        request.update(graph, provider=self._provider)
        reply = self.runner.open(request, b"")
        if "failed" in reply:
            raise Refusal(f"{name}: {plan['runtime']} does not run it: {reply['failed']}")

    def _visit(self, turns: Sequence[Turn], seconds: float) -> None:
        waits = False
        for reply in self.runner.visit({"turns": turns, "clock": self._clock}):
            self.samples.append(reply)
            if "waits" in reply and not waits:
                print(f"{100 * reply['slower']:.0f} % slower than before, as when hot: waiting")
            waits = "waits" in reply
            self._tell()
            if self.samples.seconds >= seconds:
                return

    def _tell(self) -> None:
        """How far it is, now and then."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            made, each = self.samples.made, LEAST_ROUNDS * LIFE
            least = each * len(self.plan["graphs"])
            first = sum(min(count, each) for count in made.values())
            minutes = f"{sum(made.values())} visits, {self.samples.seconds / 60:.1f} min"
            whole = "" if first >= least else f", {100 * first // least} % of the least"
            print(f"{minutes}{whole}; stop it as you like, it goes on", flush=True)


def main(words: Sequence[str]) -> None:
    """Serve a host, or measure the bundle that this file lies in."""
    here = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else ""
    parser = argparse.ArgumentParser(description="Times networks on this machine.")
    parser.add_argument("--cores", default="", help="cores to keep to, such as 0-3")
    if here and os.path.exists(os.path.join(here, PLAN)):
        parser.add_argument(
            "--minutes", type=float, help="most minutes, but for the least that is needed"
        )
        arguments = parser.parse_args(words)
        run_bundle(here, arguments.cores, arguments.minutes)
        return
    parser.add_argument("--workdir", default="")
    parser.add_argument("--token", default="")
    parser.add_argument("--rests", action="store_true", help="wait while the machine is hot")
    arguments = parser.parse_args(words)
    serve(arguments.workdir, arguments.token, arguments.cores, rests=arguments.rests)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refusal as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)  # what a shell calls a program that Ctrl-C has ended
    except OSError as problem:
        sys.exit(f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem))
