"""The documents show code that runs, and a file tree that says of each module what it says itself.

To write the tree anew:  .venv/bin/python tests/test_readme.py
"""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from nas.latency.build import BuildSettings, MeasuringPlan
from nas.latency.graphs import pointwise
from nas.latency.measure import Patience, measure
from nas.latency.runtimes import RUNTIMES
from nas.latency.target import detect_target
from nas.slim.plan import Plan
from nas.training.settings import DataSettings, SupernetSettings

ROOT = Path(__file__).parent.parent
TINY = """\
name: tiny
input_size: 32
classes: 10
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - ffn: [identity, {kind: conv_ffn, expansion: 1}]
  - width: 16
    downsample: {kind: conv_downsample}
    blocks:
      - ffn: {kind: conv_ffn, expansion: 1}
head: {kind: classifier}
"""
README = ROOT / "README.md"
PYTHON = ROOT / "docs" / "python.md"
RUNTIME = ROOT / "docs" / "devices" / "own_runtime.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
TREE = re.compile(r"(?<=tests/test_readme.py`.\n\n```text\n).*?(?=```\n)", re.DOTALL)
PIPELINE = "pipeline.train"
CODE = re.compile(r"(?<=```python\n).*?(?=```\n)", re.DOTALL)


def first_sentence(path):
    """The first paragraph of a module's docstring, in one line, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "").rstrip(".")


def tree():
    """One line for each module, and for each folder beside the package."""
    described = {
        str(path.relative_to(ROOT)): first_sentence(path) for path in (ROOT / "nas").rglob("*.py")
    }
    named = dict(sorted(described.items(), key=lambda item: (item[0].rpartition("/")[0], item[0])))
    named |= {
        "search_spaces/*.yaml": "The built-in search spaces",
        "search_spaces/published/*.json": "Published networks, layer by layer",
        "search_spaces/schema/*.json": "JSON Schema of both file formats, for editors",
        "docs/": "The documentation, page by page; zensical.toml makes a site of it",
        "latency_tables/": "An example table, and where yours go",
        "runs/": "Where trainings and searches write",
        "examples/": "What to do with a network once it is found, one command each",
        "benchmarks/": "Long proofs, one command each",
        "tests/": "Mirrors nas/",
    }
    width = max(map(len, named)) + 2
    return "".join(f"{name:<{width}}{text}\n" for name, text in named.items())


def test_the_file_tree_is_up_to_date():
    found = TREE.search(ARCHITECTURE.read_text())
    assert found is not None
    assert found[0] == tree()


def test_the_walk_through_the_code_fits_on_two_pages():
    assert ARCHITECTURE.read_text().split("## Where everything is")[0].count("\n") <= 110


def test_the_walk_through_the_code_names_files_that_exist():
    text = ARCHITECTURE.read_text().split("## Where everything is")[0]
    named = re.findall(r"`((?:nas|tests|docs|search_spaces)/[a-z0-9_/]*(?:\.[a-z]+)?)`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_module_says_what_it_is():
    assert all(first_sentence(path) for path in (ROOT / "nas").rglob("*.py"))


def test_the_readme_is_short():
    assert len(README.read_text()) <= 9000


def test_a_runtime_of_ones_own_works(monkeypatch):
    (code,) = CODE.findall(RUNTIME.read_text())
    names = {}
    exec(code, names)
    monkeypatch.setitem(RUNTIMES, "reference", names["Reference"])
    target = detect_target(runtime="reference", batch=2)
    assert target.clock == "wall", "numpy may use threads of its own"
    briefly = Patience(least=2, most=2)
    rng = np.random.default_rng(0)
    (found,) = measure([pointwise((4, 4, 4))], target, rng=rng, patience=briefly)
    assert found.warm.ms > 0


@pytest.mark.slow
def test_the_pipeline_in_python_works(tmp_path, monkeypatch):
    (code,) = [it for it in CODE.findall(PYTHON.read_text()) if PIPELINE in it]
    assert code.count("\n") <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    for text, tiny in (
        ('"mobile_64px")', '"tiny.yaml")'),
        ('mobile_64px_cpu.csv")', 'tiny_cpu.csv", settings=BRIEFLY)'),
        ('"runs/mobile")', '"runs/tiny", data=DataSettings(limit=100), settings=ONE_EPOCH)'),
        ('{"latency_ms": 2.0}', "TO_5000_PARAMETERS"),
        ('"runs/mobile/slim_2")', '"runs/tiny/slim", accept_tables=True)'),
        ("supernet=run)", 'supernet=run, recipe={"epochs": 1})'),
    ):
        assert text in code
        code = code.replace(text, tiny)
    plan = MeasuringPlan(fitted=2, held_out=4, least_visits=2, error=1.0, seconds=0.0)
    names = {
        "DataSettings": DataSettings,
        "BRIEFLY": BuildSettings(plan=plan),
        "ONE_EPOCH": SupernetSettings(epochs=1),
        "TO_5000_PARAMETERS": Plan(targets=({"params": 5000.0},), evaluations=4, baselines=False),
    }
    exec(code, names)
    delivered = names["result"].delivered[0]
    assert delivered.costs["params"] <= 5000
    assert names["trained"]["params"] == delivered.costs["params"]
    assert (tmp_path / "runs/tiny/slim/report.html").exists()
    assert (tmp_path / "final.onnx").exists()


@pytest.mark.parametrize(
    "code", [it for it in CODE.findall(PYTHON.read_text()) if PIPELINE not in it]
)
def test_all_other_python_of_the_page_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(code, {})


def test_python_stands_on_pages_whose_code_is_run():
    tested = {
        PYTHON,
        RUNTIME,
        ROOT / "docs" / "own_block.md",  # by tests/families/test_own.py
        ROOT / "docs" / "devices" / "phone.md",  # by tests/latency/test_device.py
    }
    assert {it for it in ROOT.glob("docs/**/*.md") if CODE.search(it.read_text())} == tested
    assert not CODE.search(README.read_text())


if __name__ == "__main__":
    ARCHITECTURE.write_text(TREE.sub(lambda found: tree(), ARCHITECTURE.read_text()))
