"""The README's file tree says of each module what the module says of itself.

To write it anew:  .venv/bin/python tests/test_readme.py
"""

import ast
import re
from pathlib import Path

import numpy as np

from nas.latency.graphs import pointwise
from nas.latency.measure import measure
from nas.latency.runtimes import RUNTIMES
from nas.latency.target import detect_target

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TREE = re.compile(r"(?<=## Where everything is\n\n```\n).*?(?=```\n)", re.DOTALL)
CODE = re.compile(r"(?<=```python\n).*?(?=```\n)", re.DOTALL)


def first_sentence(path):
    """The first paragraph of a module's docstring, in one line, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "").rstrip(".")


def tree():
    lines = []
    for path in [ROOT / "nas" / "cli" / "__init__.py", *sorted((ROOT / "nas").rglob("*.py"))]:
        name = str(path.relative_to(ROOT))
        if name not in [line.split()[0] for line in lines]:
            lines.append(f"{name:<37}{first_sentence(path)}")
    lines += [
        f"{name:<37}{text}"
        for name, text in (
            ("search_spaces/*.yaml", "The built-in search spaces"),
            ("search_spaces/published/*.json", "Published networks, layer by layer"),
            ("search_spaces/schema/*.json", "JSON Schema of both file formats, for editors"),
            ("docs/", "How to bring a block of your own"),
            ("latency_tables/", "An example table, and where yours go"),
            ("runs/", "Where trainings and searches write"),
            ("examples/", "What to do with a network once it is found, one command each"),
            ("benchmarks/", "Long proofs, one command each"),
            ("tests/", "Mirrors nas/"),
        )
    ]
    return "\n".join(lines) + "\n"


def test_the_file_tree_is_up_to_date():
    found = TREE.search(README.read_text())
    assert found is not None
    assert found[0] == tree()


def test_every_module_says_what_it_is():
    assert all(first_sentence(path) for path in (ROOT / "nas").rglob("*.py"))


def test_the_runtime_of_the_readme_works(monkeypatch):
    (code,) = [it for it in CODE.findall(README.read_text()) if "class Reference(Runtime)" in it]
    names = {}
    exec(code, names)
    monkeypatch.setitem(RUNTIMES, "reference", names["Reference"])
    target = detect_target(runtime="reference", batch=2)
    assert target.statistic == "wall_median", "numpy may use threads of its own"
    (found,) = measure([pointwise((4, 4, 4))], target, rng=np.random.default_rng(0))
    assert found.ms > 0


if __name__ == "__main__":
    README.write_text(TREE.sub(lambda found: tree(), README.read_text()))
