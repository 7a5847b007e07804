"""What the pages take as given, all small: pictures, runs, tables and networks for ``pages.py``."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pages import ROOT, SERIAL, write_shown_files

from nas.architecture import Architecture
from nas.data.generated import generate
from nas.deploy.weights import save_weights
from nas.firstrun.begin import begin, measure_alone
from nas.firstrun.estimate import Effort
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule, schedule_of
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.network import build
from nas.progress import Progress

CLASSES = (
    *("cardboard", "glass", "metal", "paper", "plastic", "trash"),
    *("battery", "biological", "clothes", "shoes"),
)
"""As many as the default space has: its table is then one of a run on these pictures too."""
PHOTOS, OTHERS, NEW = 600, 120, 12
"""Pictures that are drawn; a sixth of them are of classes that are not used."""
BRIEFLY = "--epochs 1 --limit 200"
COMPLETE = "complete"
"""The file that ends a folder."""
FEW = "--accept-table --evaluations 4 --no-baselines"


def furnish(given: Path, environment: Mapping[str, str]) -> None:
    """Make what is not in the folder: ``all``, and by their names what single pages have else."""
    maker = Maker(given, environment)
    for name, make in (
        ("pictures", make_pictures),
        ("all", maker.make_all),
        ("training", maker.make_supernet),
        ("searching", maker.copy_supernet),
        ("pretrained", maker.make_pretrained),
        ("by_hand", maker.make_bundle),
        ("own_block", maker.make_own),
    ):
        folder = given / name  # never renamed: documents name files in it by their whole path
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            (folder / COMPLETE).touch()


@dataclass(frozen=True)
class Maker:
    """Fills folders by commands of ``nas``."""

    given: Path
    environment: Mapping[str, str]

    @property
    def data(self) -> str:
        """The pictures where they stay, as runs remember them."""
        return f"folder:{self.given}/pictures/photos"

    def make_all(self, folder: Path) -> None:
        """A run of ``nas run``, one on digits, tables of three devices, networks."""
        begin(Request(data=self.data), folder / "runs" / "photos", brief_plan)
        self._nas(folder, f"run --data {self.data} --out runs/photos")
        self._nas(folder, f"train-supernet {BRIEFLY}")
        write_tables(folder)
        self._nas(folder, f"slim --target-ms 2 {FEW}")
        shutil.copytree(folder / "runs" / "mobile_64px_digits", folder / "runs" / "mobile")
        (found,) = (folder / "runs").glob("mobile/slim_2/delivered/slimmed")
        for name in ("a.onnx", "final.onnx"):
            shutil.copy(found / "model.onnx", folder / name)
        delivered = folder / "runs" / "photos" / "delivered" / "slimmed"
        shutil.copy(delivered / "model.onnx", folder / "theirs.onnx")
        shutil.copy(delivered / "architecture.json", folder / "A.json")
        shutil.copy(delivered / "weights.safetensors", folder / "W.safetensors")
        self._nas(folder, "export --architecture mobilenet_v4_conv_small --out b.onnx")
        for name, out in (("efficientnet_lite_0", "lite0"), ("efficientformer_v2_s0", "s0")):
            self._nas(folder, f"export --architecture {name} --format timm --out {out}.safetensors")
        save_weights(build(Architecture.load("efficientformer_v2_s0")), folder / "S0.safetensors")

    def make_supernet(self, folder: Path) -> None:
        """``runs/photos`` of the default space."""
        table = self.given / "all" / "latency_tables" / "mobile_64px_cpu.csv"
        self._nas(folder, f"train-supernet --data {self.data} --run runs/photos {BRIEFLY}")
        self._nas(folder, f"slim --run runs/photos --table {table} --target-ms 2 {FEW}")

    def copy_supernet(self, folder: Path) -> None:
        """The same without the search, which that page makes itself."""
        left = shutil.ignore_patterns("slim_2", COMPLETE)
        shutil.copytree(self.given / "training", folder, ignore=left, dirs_exist_ok=True)

    def make_pretrained(self, folder: Path) -> None:
        """``runs/photos`` of a space around a network with weights, and a table of that space."""
        data = f"--data {self.data}"
        weights = f"--weights {self.given}/all/lite0.safetensors --reference-epochs 1"
        size = "--input-size 128 --out space.yaml"
        self._nas(folder, f"new-space efficientnet_lite_0 {data} {size}")
        train = f"train-supernet --space space.yaml {data} {weights} --run runs/photos {BRIEFLY}"
        self._nas(folder, train)
        table = "latency_tables/space_cpu.csv"
        # the page makes this search itself; what it would have left is brought after it
        apart = f"--out {self.given}/all/runs/photos/slim_1"
        self._nas(folder, "build-lut --space runs/photos/space.json --device cpu --quick")
        trust(folder / table)
        self._nas(folder, f"slim --run runs/photos --table {table} --target-ms 1 {FEW} {apart}")

    def make_bundle(self, folder: Path) -> None:
        """``bundle``, of a small space and measured."""
        self._nas(folder, "bundle --space demo_64px --out bundle")
        self._run(folder, "python3 bundle/run.py --minutes 0.2")

    def make_own(self, folder: Path) -> None:
        """``runs/own`` and its table, of the space that the page shows."""
        write_shown_files(ROOT / "docs" / "own_block.md", folder)
        self._nas(folder, f"train-supernet --space own.yaml --run runs/own {BRIEFLY}")
        self._nas(folder, "build-lut --space own.yaml --device cpu")
        trust(folder / "latency_tables" / "own_cpu.csv")

    def _nas(self, folder: Path, words: str) -> None:
        self._run(folder, f"nas {words}")

    def _run(self, folder: Path, line: str) -> None:
        print(f"for {folder.stem}: {line}", flush=True)
        done = subprocess.run(
            shlex.split(line), cwd=folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}"


def make_pictures(folder: Path) -> None:
    """``photos`` and ``other_photos`` by classes, and ``new`` ones."""
    write_photos(folder / "photos", PHOTOS, seed=1)
    write_photos(folder / "other_photos", OTHERS, seed=2)
    write_photos(folder / "by_classes", NEW, seed=3)
    (folder / "new").mkdir()
    for file in (folder / "by_classes").rglob("*.jpg"):
        file.rename(folder / "new" / file.name)
    shutil.rmtree(folder / "by_classes")


def write_photos(folder: Path, count: int, *, seed: int) -> None:
    """Generated pictures as ``CLASS/IMG_0001.jpg``; of the twelve classes, the first ten."""
    pictures = generate("train", count, seed)
    for index, label in enumerate(pictures.labels):
        if label < len(CLASSES):
            file = folder / CLASSES[label] / f"IMG_{index:04}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            pictures.open(index).save(file, quality=90)


def brief_plan(request: Request, _: Progress) -> Schedule:
    """A plan of few epochs in the smallest space."""
    data, place, device = measure_alone(request.model_copy(update={"space": "demo_64px"}), 0.25)
    effort = Effort(epochs=2, evaluations=8, retraining_epochs=2)
    target_ms = round(0.6 * place.largest_ms, 2)
    return schedule_of(data, place, effort, target_ms=target_ms, training_device=device)


def write_tables(folder: Path) -> None:
    """The table that comes with ``nas``, told to be of this machine, and of others.

    Searches take it on a machine that is too busy for a table of its own that they would trust.
    """
    example, here = LatencyTable.load("example_cpu"), detect_target()
    for place, changes in {
        "latency_tables/mobile_64px_cpu.csv": {},
        "latency_tables/mobile_64px_ssh_pi.csv": {"device": "ssh:pi", "python": "nas/bin/python"},
        "latency_tables/mobile_64px_adb_0123ABCD.csv": {"device": f"adb:{SERIAL}"},
        "a.csv": {},
        "b.csv": {"device": "hand:gpu"},
    }.items():
        target = here.model_copy(update=changes)
        provenance = example.provenance.model_copy(update={"target": target})
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        LatencyTable(example.rows, provenance, path).save()


def trust(path: Path) -> None:
    """Give a table the validation of the example, that searches take it however it came out."""
    table, example = LatencyTable.load(path), LatencyTable.load("example_cpu")
    known = {"validation": example.validation}
    LatencyTable(table.rows, table.provenance.model_copy(update=known), path).save()
