"""The wheel holds what it needs: installed into an empty environment it finds a network."""

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import nas
from nas.data import open_source

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
BRIEFLY = ("--space", "tiny.yaml", "--minutes", "4")
"""In a space that a busy machine searches in that time too."""
CLASSES, EACH = 3, 40
"""Of the pictures that stand for a user's."""


def succeed(*words, cwd, path=None):
    """What a program prints that must end well, with no checkout in its way."""
    hidden = ("PYTHONPATH", "MYPYPATH", "VIRTUAL_ENV")
    environment = {name: it for name, it in os.environ.items() if name not in hidden}
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    found = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, f"{' '.join(map(str, words))}\n{found.stdout}\n{found.stderr}"
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The file that a user would install."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT,
            cwd=folder)  # fmt: skip
    (found,) = folder.glob("slimnas-*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder with the programs of an environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    succeed(bin_folder / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt",
            wheel, cwd=folder)  # fmt: skip
    return bin_folder


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (place,) = [it for it in names if it.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(archive.read(place).decode())
    folder = place.partition("/")[0]
    assert (told["Name"], told["Version"]) == ("slimnas", nas.__version__)
    assert (told["License-Expression"], told.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    assert f"{folder}/licenses/LICENSE" in names
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload() == (ROOT / "README.md").read_text()
    assert told.get_all("Project-URL")
    assert "Typing :: Typed" in told.get_all("Classifier")


def test_the_wheel_holds_all_files_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {it for it in archive.namelist() if ".dist-info/" not in it}
    kept = subprocess.run(["git", "ls-files", "nas", "search_spaces", "latency_tables"],
                          cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    files = kept.stdout.split()
    assert packed == {it if it.startswith("nas/") else f"nas/{it}" for it in files}
    assert {"nas/py.typed", "nas/latency_tables/example_cpu.json"} < packed


def test_it_finds_a_network_for_embedded_data(tiny_text, programs, tmp_path):
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    command = [programs / "nas", "run", "--data", "digits", *BRIEFLY, "--json"]
    found = json.loads(succeed(*command, cwd=tmp_path))
    assert found["delivered"]["test_accuracy"] > 0.5, "a tenth is chance"
    assert (tmp_path / found["delivered"]["onnx"]).is_file()
    printed = succeed(
        programs / "nas", "show", "mobile_64px", "--table", "example_cpu", cwd=tmp_path
    )
    assert "ms warm and" in printed


def write_photos(folder):
    """Generated pictures as a camera's: ``photos/CLASS/IMG_0001.jpg``, and some in ``new``."""
    source = open_source("shapes")
    for label in range(CLASSES):
        places = [int(it) for it in (source.train.labels == label).nonzero()[0][: EACH + 1]]
        named = folder / "photos" / source.classes[label]
        named.mkdir(parents=True)
        (folder / "new").mkdir(exist_ok=True)
        for number, place in enumerate(places):
            into = named if number < EACH else folder / "new"
            source.train.open(place).save(into / f"IMG_{label}{number:03}.jpg", quality=90)


def test_the_commands_of_the_tutorial_work(tiny_text, programs, tmp_path):
    write_photos(tmp_path)
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    script = re.sub(r"--minutes \d+", " ".join(BRIEFLY), "set -e\n" + "".join(blocks))
    assert script.count("nas run") >= 1
    assert script.count("nas classify") >= 1
    printed = succeed("bash", "-c", script, cwd=tmp_path, path=programs)
    assert "delivered: " in printed
    said = re.findall(r"^(new/IMG_\d+\.jpg): (\w+)", printed, re.MULTILINE)
    assert len(said) >= 2 * CLASSES, "nas classify and classify.py name a class for each picture"
    assert (tmp_path / "runs" / "photos" / "report.html").is_file()
