"""The runner under an old Python: a table here, and a bundle by hand, beside those of this Python.

    .venv/bin/python benchmarks/old_python.py                     # five minutes on two x86 cores
    .venv/bin/python benchmarks/old_python.py --python python3.8

Without ``--python`` it is that of Debian 11, 3.9, whose packages apt fetches and dpkg unpacks below
``--folder``; nothing is installed. numpy and the runtime are the newest wheels for that version.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from emulated_arm64 import run, unpack_wheels, write_program

from nas.documents import write_atomically
from nas.latency.table import LatencyTable
from nas.report.terminal import print_table

SOURCE = (
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    "http://deb.debian.org/debian bullseye main"
)
PACKAGES = ("python3.9-minimal", "libpython3.9-minimal", "libpython3.9-stdlib")
VERSION = "import sys; print('.'.join(map(str, sys.version_info[:2])))"


def main() -> None:
    """Build two tables, run a bundle, and print what they are like."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", help="a Python 3.8 or later")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--space", default="demo_64px")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas_old_python"))
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    python = given.python or debian_python(folder / "debian")
    old = with_wheels(folder, python, given.runtime)
    nas, bundle = [sys.executable, "-m", "nas"], folder / "bundle"
    options = ["--space", given.space, "--runtime", given.runtime]
    tables = {name: folder / f"{name}.csv" for name in ("old", "own", "hand")}
    for name, words in (("own", []), ("old", ["--python", old])):
        out = ["--out", tables[name], "--force"]
        run(*nas, "build-lut", *options, "--quick", *words, *out)
    subprocess.run(["rm", "-rf", bundle], check=True)
    run(*nas, "bundle", *options, "--out", bundle, "--minutes", "0.5")
    run(old, bundle / "run.py")
    run(*nas, "import-lut", bundle, "--out", tables["hand"], "--force")
    show({name: LatencyTable.load(path) for name, path in tables.items()})


def show(tables: dict[str, LatencyTable]) -> None:
    """Where and how well each was measured."""
    lines = []
    for name, table in tables.items():
        validation, conditions = table.validation, table.provenance.conditions
        assert validation is not None
        errors = (validation.of(state).calibrated.mape for state in ("warm", "cold"))
        lines.append(
            (
                name,
                conditions.python,
                conditions.numpy,
                table.target.runtime_version,
                str(len(table.rows)),
                *(f"{100 * error:.1f} %" for error in errors),
            )
        )
    print_table(
        ("table", "Python", "numpy", "runtime", "rows", "error, warm", "error, cold"), lines
    )


def with_wheels(folder: Path, python: str, runtime: str) -> Path:
    """A program that is a Python with numpy and a runtime, and nothing else."""
    command = [python, "-c", VERSION]
    version = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    site = folder / f"site-{version}-{runtime}"
    unpack_wheels(site, ["numpy", runtime], version)
    program = folder / f"python-{version}-{runtime}"
    write_program(program, f"PYTHONPATH={site} exec {python}")
    return program


def debian_python(root: Path) -> str:
    """Debian 11's Python, unpacked."""
    program = root / "usr" / "bin" / "python3.9"
    if not program.exists():
        apt = root / "apt"
        for part in ("lists/partial", "cache/archives/partial"):
            (apt / part).mkdir(parents=True, exist_ok=True)
        write_atomically(apt / "sources.list", f"{SOURCE}\n")
        options = {
            "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": apt / "lists", "Dir::Cache": apt / "cache",
        }  # fmt: skip
        words = [word for name, it in options.items() for word in ("-o", f"{name}={it}")]
        run("apt-get", *words, "-q", "update")
        run("apt-get", *words, "-q", "download", *PACKAGES, cwd=apt)
        for package in apt.glob("*.deb"):
            run("dpkg", "-x", package, root)
    return str(program)


if __name__ == "__main__":
    main()
