"""The README's file tree says of each module what the module says of itself.

To write it anew:  .venv/bin/python tests/test_readme.py
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TREE = re.compile(r"(?<=## Where everything is\n\n```\n).*?(?=```\n)", re.DOTALL)


def first_sentence(path):
    """The first paragraph of a module's docstring, in one line, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "").rstrip(".")


def tree():
    lines = []
    for path in [ROOT / "nas" / "cli.py", *sorted((ROOT / "nas").rglob("*.py"))]:
        name = str(path.relative_to(ROOT))
        if name not in [line.split()[0] for line in lines]:
            lines.append(f"{name:<37}{first_sentence(path)}")
    lines += [
        f"{name:<37}{text}"
        for name, text in (
            ("search_spaces/*.yaml", "The built-in search spaces"),
            ("search_spaces/published/*.json", "Published networks, layer by layer"),
            ("search_spaces/schema/*.json", "JSON Schema of both file formats, for editors"),
            ("latency_tables/", "An example table, and where yours go"),
            ("runs/", "Where trainings and searches write"),
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


if __name__ == "__main__":
    README.write_text(TREE.sub(lambda found: tree(), README.read_text()))
