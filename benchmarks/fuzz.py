"""Damaged files through every reader: none may end in a traceback, hang, swell, or load wrongly.

    .venv/bin/python benchmarks/fuzz.py --inputs 3000          # five minutes on two x86 cores
    .venv/bin/python benchmarks/fuzz.py --kinds space table --seed 7
    .venv/bin/python benchmarks/fuzz.py --seed 0 --only 1234   # one input again, with its traceback

Files that nas writes are damaged in one to three places (bits, cuts, copies, words replaced by
nasty ones, contents of other files) and read by a process that may take 5 s of CPU time and 1 GB
more memory than it began with. It ends well in one line, or in a value that survives a round trip
and equals what was written wherever a hash promises that.
"""

from __future__ import annotations

import os

from nas.machine import OPENMP

os.environ.update(OPENMP | os.environ)  # as the command line does

import argparse
import contextlib
import json
import multiprocessing
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas.architecture import Architecture
from nas.documents import built_in_spaces
from nas.errors import UserError
from nas.space import SearchSpace

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "tests" / "samples"
MOST_SECONDS, MOST_BYTES = 5.0, 2**30
MOST_LINE = 2000
"""Characters of a line that people still read."""
GOOD = ("line", "loaded")
OUTCOMES = (*GOOD, "traceback", "ugly", "slow", "large", "wrong", "crash")

NASTY = (
    *("1e400", "nan", "NaN", "-1", "0", "1000000000000", "-1e-320", "9" * 5000, "1e5", "0.1"),
    *(
        "true",
        "null",
        '""',
        '"\\u0000"',
        '"\\ud83d"',
        "\N{GRINNING FACE}",
        "\0",
        "\x1b[31m",
        "\x85",
    ),
    *("[" * 3000, "[]", "{}", "{{}}", "!!int ten", "&a [*a]", "*a", "<<: *a", "%", "../../x", "\t"),
    *('"x"', "[1, 1]", "[[[]]]", "a: b", "infinity", "0x10", "1_000", "2" * 40, "identity"),
)


class Ending(NamedTuple):
    """How the reading of an input ended, and what was said."""

    outcome: str
    detail: str = ""
    seconds: float = 0.0


class WrongError(Exception):
    """A value was read that is not what was written."""


Reader = Callable[[Path], None]
"""Reads the files of a kind in a folder, and raises WrongError if what it finds is wrong."""


class Kind(NamedTuple):
    """Files that are read together, by their names in the folder, and their reader."""

    files: tuple[str, ...]
    make: Callable[[Path], Reader]
    """Writes the files as nas does, and returns their reader."""


def main() -> None:
    """Read damaged inputs, and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, help="the number of one input, to read it in here")
    options = parser.parse_args()
    with originals(options.kinds) as readers:
        if options.only is not None:
            read_here(readers, options.seed, options.only)
            return
        endings = fuzz(readers, options.seed, range(options.inputs))
    print_endings(options.kinds, endings)
    sys.exit(any(it.outcome not in GOOD for it in endings.values()))


def read_here(readers: Readers, seed: int, number: int) -> None:
    """Read one input in this process, and keep its files."""
    folder = Path(tempfile.mkdtemp())
    damaged, reader = readers.damaged(seed, number, folder)
    print(f"{damaged}: {folder}")
    reader(folder)
    print("loaded")


class Readers:
    """The originals of several kinds with their readers."""

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, kinds
        self.readers: dict[str, Reader] = {}
        for kind in kinds:
            (folder / kind).mkdir()
            self.readers[kind] = KINDS[kind].make(folder / kind)
            self.readers[kind](folder / kind)  # what is whole must load

    def damaged(self, seed: int, number: int, folder: Path) -> tuple[str, Reader]:
        """Write input ``number`` into an empty folder; returns the damaged file, and its reader."""
        rng = np.random.default_rng([seed, number])
        kind = self.kinds[number % len(self.kinds)]
        shutil.copytree(self.folder / kind, folder, dirs_exist_ok=True)
        name = str(rng.choice(KINDS[kind].files))
        others = [other.read_bytes() for other in sorted((self.folder / kind).rglob("*.*"))]
        content = (folder / name).read_bytes()
        for _ in range(int(rng.integers(1, 4))):
            content = damage(content, others, rng)
        (folder / name).write_bytes(content)
        return f"{kind}: {name}", self.readers[kind]


@contextlib.contextmanager
def originals(kinds: Sequence[str]) -> Iterator[Readers]:
    """The files that nas writes, in a folder that lasts as long as the context."""
    with tempfile.TemporaryDirectory() as folder:
        yield Readers(Path(folder), kinds)


def damage(content: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """The content with one damage more; half of the time near its beginning, where headers are."""
    size = len(content)
    reach = size if rng.random() < 0.5 else min(size, 400)
    start = int(rng.integers(reach + 1))
    length = int(rng.integers(1, 1 + max(1, min(200, size - start))))
    part = content[start : start + length]
    words = list(re.finditer(rb'"[^"\n]*"|[-+\w.]+', content[: reach + 40]))
    match int(rng.integers(8)):
        case 0 if size:
            flipped = bytearray(content)
            for place in rng.integers(reach or 1, size=int(rng.integers(1, 5))).tolist():
                flipped[place] ^= 1 << int(rng.integers(8))
            return bytes(flipped)
        case 1:
            return content[:start]
        case 2:
            return content[:start] + content[start + length :]
        case 3:
            return content[: start + length] + part * int(rng.choice([1, 2, 50])) + content[start:]
        case 4:
            return others[int(rng.integers(len(others)))]
        case 5:
            return content[:start] + rng.bytes(length) + content[start + length :]
        case _ if words:
            word = words[int(rng.integers(len(words)))]
            nasty = str(rng.choice(NASTY)).encode()
            if rng.random() < 0.3:  # another word of the same file
                nasty = words[int(rng.integers(len(words)))][0]
            return content[: word.start()] + nasty + content[word.end() :]
        case _:
            return content + str(rng.choice(NASTY)).encode()


def fuzz(readers: Readers, seed: int, numbers: Sequence[int]) -> dict[int, Ending]:
    """How each input ended; a process reads them in turn, and another one goes on if it dies."""
    endings: dict[int, Ending] = {}
    waiting = list(numbers)
    while waiting:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_read_all, args=(readers, seed, list(waiting), there), daemon=True
        )
        process.start()
        there.close()
        while waiting:
            # on a busy machine the clock runs ahead of the CPU time that is judged
            if not here.poll(6 * MOST_SECONDS):
                endings[waiting.pop(0)] = Ending("slow", "killed")
                break
            try:
                endings[waiting[0]] = Ending(*here.recv())
            except EOFError:
                endings[waiting.pop(0)] = Ending("crash", "the process died")
                break
            waiting.pop(0)
        process.kill()
        process.join()
    return endings


def _read_all(readers: Readers, seed: int, numbers: Sequence[int], there: Connection) -> None:
    _limit_memory()
    for stream in (1, 2):  # libraries in C write there themselves
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            damaged, reader = readers.damaged(seed, number, Path(folder))
            there.send(tuple(read_damaged(damaged, reader, Path(folder))))


def read_damaged(damaged: str, reader: Reader, folder: Path) -> Ending:
    """How the reading of one folder ends."""
    began = time.process_time()
    outcome, detail = "loaded", ""
    try:
        reader(folder)
    except UserError as error:
        outcome, detail = judge_line(str(error))
    except MemoryError:
        outcome, detail = "large", _last_place()
    except WrongError as error:
        outcome, detail = "wrong", str(error)
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        large = "alloc" in str(error) and "memory" in str(error)  # torch's own
        outcome, detail = (
            "large" if large else "traceback",
            f"{type(error).__name__} {_last_place()}",
        )
    seconds = time.process_time() - began
    if seconds > MOST_SECONDS:
        outcome = "slow"
    return Ending(outcome, f"{damaged}: {detail}", seconds)


def judge_line(text: str) -> tuple[str, str]:
    """Whether a message is a line for people."""
    if not text or "\n" in text or len(text) > MOST_LINE:
        return "ugly", repr(text[:100])
    return "line", text


def _last_place() -> str:
    _, error, trace = sys.exc_info()
    frames = [it for it in traceback.extract_tb(trace) if str(ROOT / "nas") in it.filename]
    place = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "?"
    return f"at {place}: {(str(error).splitlines() or [''])[0][:100]}"


def _limit_memory() -> None:
    """Let this process take a gigabyte more than it has; torch alone reserves several."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def print_endings(kinds: Sequence[str], endings: Mapping[int, Ending]) -> None:
    """Print how many inputs of each kind ended how, and each failure with its first input."""
    from nas.report.terminal import print_table

    counts = {kind: Counter[str]() for kind in kinds}
    failures = defaultdict[tuple[str, str], list[int]](list)
    for number, ending in endings.items():
        counts[kinds[number % len(kinds)]][ending.outcome] += 1
        if ending.outcome not in GOOD:
            where = re.sub(r"'[^']*'", "#", ending.detail.partition(": ")[2])
            if ending.outcome == "traceback":  # one place is one failure, whatever it says
                where = ": ".join(where.split(": ")[:2])
            failures[ending.outcome, where].append(number)
    rows = [(kind, *(str(of[outcome]) for outcome in OUTCOMES)) for kind, of in counts.items()]
    total = [str(sum(of[outcome] for of in counts.values())) for outcome in OUTCOMES]
    print_table(("files", *OUTCOMES), [*rows, ("all", *total)])
    for (outcome, where), numbers in sorted(failures.items(), key=lambda it: -len(it[1])):
        print(f"{len(numbers):5} {outcome}: {where} (--only {numbers[0]})")


# The readers. Each raises UserError, as the command line shows it, or checks what it has read.


def check(holds: bool, what: str) -> None:
    """Raise WrongError unless something holds."""
    if not holds:
        raise WrongError(what)


def _spaces(folder: Path) -> Reader:
    (folder / "a.yaml").write_bytes(built_in_spaces()["demo_64px"].read_bytes())
    (folder / "b.yaml").write_bytes((SAMPLES / "tiny.yaml").read_bytes())
    (folder / "c.json").write_text(SearchSpace.load("mobilevit_64px").to_json())

    def read(folder: Path) -> None:
        from nas.network import measure_size

        for name in KINDS["space"].files:
            space = SearchSpace.load(folder / name)
            (folder / "again.json").write_text(space.to_json())
            check(
                SearchSpace.load(folder / "again.json") == space, "another space after a round trip"
            )
            smallest, largest = (measure_size(it) for it in (space.smallest(), space.largest()))
            check(smallest.params > 0 and largest.params < 1e11, f"{smallest}, {largest}")
            space.sample(np.random.default_rng(0))

    return read


def _architectures(folder: Path) -> Reader:
    Architecture.load("mobilevit_v3_xxs").save(folder / "a.json")
    SearchSpace.load("mobile_64px").largest().save(folder / "b.json")

    def read(folder: Path) -> None:
        from nas.network import measure_size

        for name in KINDS["architecture"].files:
            found = Architecture.load(folder / name)
            check(Architecture.from_json(found.to_json()) == found, "another after a round trip")
            check(measure_size(found).params > 0, "no parameters")

    return read


def _tables(folder: Path) -> Reader:
    from nas.latency.table import LatencyTable

    for suffix in (".csv", ".json"):
        shutil.copy(ROOT / "latency_tables" / f"example_cpu{suffix}", folder / f"t{suffix}")
    original = LatencyTable.load(folder / "t.csv")
    network = SearchSpace.load(original.space).largest()

    def read(folder: Path) -> None:
        table = LatencyTable.load(folder / "t.csv")
        check(table.rows == original.rows, "other rows than the sidecar's hash is of")
        again = LatencyTable(table.rows, table.provenance, folder / "again.csv")
        again.save()
        check(LatencyTable.load(again.path).provenance == table.provenance, "another sidecar")
        for state in ("warm", "cold"):
            check(0 < table.predict(network, state) < np.inf, "a latency that is none")

    return read


def _journals(folder: Path) -> Reader:
    from pydantic import TypeAdapter

    from nas.latency.build import Chunk, Purpose, open_journal, purpose_of
    from nas.latency.estimator import Visit
    from nas.latency.table import LatencyTable, visits_path
    from nas.slim import journal
    from nas.store.journal import Journal

    given = LatencyTable.load(ROOT / "latency_tables" / "example_cpu.csv").provenance
    purpose = Purpose(space="a", target=given.target, reference=given.reference.network)
    visits = [Visit(f"graph {it % 3}", 0.1 + it / 100, 0.2 + it / 50, 9, 0.3) for it in range(9)]
    with open_journal(folder / "t.csv", purpose, resume=False) as written:
        for start in (0, 3, 6):
            written.append(Chunk(visits=tuple(visits[start : start + 3])))
    shutil.copy(SAMPLES / "slim" / "journal.jsonl", folder)
    first = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    identity = TypeAdapter(journal.Identity).validate_python(first)
    space = SearchSpace.load(SAMPLES / "run" / "space.json")
    sizes = [len(options) for options in space.choices.values()]

    def read(folder: Path) -> None:
        found = purpose_of(folder / "t.csv")
        with open_journal(folder / "t.csv", found, resume=True) as chunks:
            check(isinstance(chunks, Journal), "no journal")
            for visit in (it for chunk in chunks.lines for it in chunk.visits):
                check(0 < visit.warm < np.inf and 0 < visit.cold < np.inf, f"a visit of {visit}")
        check(visits_path(folder / "t.csv").read_bytes().endswith(b"\n"), "half a line is kept")
        path = folder / "journal.jsonl"
        with journal.open_journal(path, identity, sizes=sizes, resume=True) as memory:
            for accuracy in (*memory.accuracies.values(), *sum(memory.races.values(), ())):
                check(0 <= accuracy <= 1, f"an accuracy of {accuracy}")

    return read


def _runs(folder: Path) -> Reader:
    from nas.training.run import Run

    for name in KINDS["run"].files:
        shutil.copy(SAMPLES / "run" / name, folder)
    original = Run.open(folder).load_supernet().state_dict()

    def read(folder: Path) -> None:
        from nas.report.page import read_log

        run = Run.open(folder)
        found = run.load_supernet().state_dict()
        same = all(bool((found[name] == it).all()) for name, it in original.items())
        check(found.keys() == original.keys() and same, "other weights than were saved")
        for epoch in read_log(run.log_path).epochs:
            check(0 <= int(epoch["epoch"]) < 10**6, f"an epoch of {epoch['epoch']}")

    return read


def _reports(folder: Path) -> Reader:
    shutil.copy(SAMPLES / "slim" / "report.json", folder)
    shutil.copy(SAMPLES / "run" / "log.jsonl", folder)

    def read(folder: Path) -> None:
        from nas.report.page import read_folder, write_folder_page
        from nas.slim.result import SearchResult

        contents = read_folder(folder)
        for result in contents.searches.values():
            text = json.dumps(result.model_dump(mode="json"), allow_nan=False)
            (folder / "again.json").write_text(text)
            check(SearchResult.load(folder / "again.json") == result, "another after a round trip")
        write_folder_page(folder / "report.html", contents, title="t", force=True)

    return read


def _weights(folder: Path) -> Reader:
    import torch

    from nas.deploy.pretrained import read_pretrained
    from nas.deploy.weights import load_weights, save_weights
    from nas.network import build

    architecture = Architecture.load(SAMPLES / "slim" / "architecture.json")
    network = build(architecture)
    save_weights(network, folder / "a.safetensors")
    torch.save(network.state_dict(), folder / "b.pt")

    def read(folder: Path) -> None:
        network = build(architecture)
        load_weights(network, folder / "a.safetensors")
        finite = (bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
        check(all(finite), "weights that are not finite")
        read_pretrained(str(folder / "b.pt"), architecture).load_into(build(architecture))

    return read


def _models(folder: Path) -> Reader:
    from nas.deploy.description import Description
    from nas.deploy.export import describe, to_onnx
    from nas.network import build

    architecture = Architecture.load(SAMPLES / "slim" / "architecture.json")
    model = to_onnx(build(architecture).eval(), architecture.input_shape)
    classes = tuple(f"class {number}" for number in range(architecture.classes))
    describe(model, Description.of(architecture, classes=classes, interpolation="bicubic"))
    (folder / "a.onnx").write_bytes(model.SerializeToString())

    def read(folder: Path) -> None:
        import torch

        from nas.deploy.finished import open_finished
        from nas.deploy.weights import read_onnx
        from nas.latency.target import detect_target
        from nas.latency.visits import Turns

        model = folder / "a.onnx"
        turns = Turns(
            detect_target(), {"a.onnx": lambda: read_onnx(model)}, np.random.default_rng(0)
        )
        next(turns.visit({"a.onnx": 1}))
        finished = open_finished(model)
        seen = finished.description.preprocessing
        check(all(np.isfinite((*seen.mean, *seen.std))), f"pictures are seen as {seen}")
        logits = finished.network(torch.zeros(1, 3, finished.input_size, finished.input_size))
        check(logits.ndim > 0, f"logits of shape {tuple(logits.shape)}")

    return read


def _pictures(folder: Path) -> Reader:
    from PIL import Image

    suffixes = ("png", "jpg", "gif", "webp", "bmp", "tiff")
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = folder / "ab"[number % 2] / f"{number // 2}.{suffixes[number // 4]}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def read(folder: Path) -> None:
        _read_images(f"folder:{folder}")

    return read


def _rows(folder: Path) -> Reader:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    images, labels = [], []
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        images.append({"bytes": file.getvalue(), "path": None})
        labels.append(number % 2)
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": labels})
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(told), folder / "a.parquet")
    columns = {"bytes": [it["bytes"] for it in images], "label": ["ab"[it] for it in labels]}
    pq.write_table(pa.table(columns), folder / "b.parquet", compression="none")

    def read(folder: Path) -> None:
        _read_images(f"parquet:{folder / 'a.parquet'}")
        _read_images(f"parquet:{folder / 'b.parquet'}")

    return read


def _read_images(spec: str) -> None:
    from nas.data import load_dataset

    dataset = load_dataset(spec, 16)
    names = dataset.classes
    check(len(set(names)) == len(names) > 1, f"classes {names}")
    check(all(name.isprintable() for name in names), f"classes {names}")
    for images, labels in dataset.train.batches(8):
        check(bool(images.isfinite().all()), "pixels that are not finite")
        check(0 <= int(labels.min()) <= int(labels.max()) < len(names), "labels without a class")


KINDS: Mapping[str, Kind] = {
    "space": Kind(("a.yaml", "b.yaml", "c.json"), _spaces),
    "architecture": Kind(("a.json", "b.json"), _architectures),
    "table": Kind(("t.csv", "t.json"), _tables),
    "journal": Kind(("t.visits.jsonl", "journal.jsonl"), _journals),
    "run": Kind(("run.json", "space.json", "log.jsonl", "checkpoint.safetensors"), _runs),
    "report": Kind(("report.json", "log.jsonl"), _reports),
    "weights": Kind(("a.safetensors", "b.pt"), _weights),
    "onnx": Kind(("a.onnx",), _models),
    "parquet": Kind(("a.parquet", "b.parquet"), _rows),
    "pictures": Kind(
        ("a/0.png", "b/2.jpg", "a/4.gif", "b/6.webp", "a/8.bmp", "b/10.tiff"), _pictures
    ),
}
"""All that nas reads, by the names of ``--kinds``."""


if __name__ == "__main__":
    main()
