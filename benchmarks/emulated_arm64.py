"""A bundle runs in an emulated arm64 userland and comes back as a table: times mean nothing there.

    .venv/bin/python benchmarks/emulated_arm64.py            # ten minutes on two x86 cores
    .venv/bin/python benchmarks/emulated_arm64.py --runtime mnn

Needs root, Debian, and 1 GB below ``--folder``, which is kept for the next time. Debian's
qemu-user-static runs programs of another processor; Python and its libraries come as Debian's arm64
packages, numpy and the runtime as the wheels that a Raspberry Pi installs. Printed are by how much
the outputs of all graphs differ from those of onnxruntime here, the rows of the table and how its
networks fit; and that a runtime that dies when it is imported is told so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from nas.documents import write_atomically
from nas.latency.device import Device, reach
from nas.latency.graphs import LayerGraphs
from nas.latency.parity import differences
from nas.latency.table import LatencyTable
from nas.latency.target import detect_target
from nas.report.terminal import print_table
from nas.space import SearchSpace

EMULATOR = "qemu-aarch64-static"
LIBRARIES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "zlib1g"),
    *("libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libstdc++6", "libgcc-s1"),
    *("libuuid1", "libsqlite3-0", "libgomp1"),
)
WORKS = {"onnxruntime": "onnxruntime==1.23.2", "mnn": "MNN==3.6.1"}
DIES = "onnxruntime==1.32.0"
"""Wheels in the emulator, whose processor has no features that Linux describes."""

PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014", "manylinux_2_17")

SPACE = """\
name: small
input_size: 32
classes: 4
stem: {kind: conv_stem}
stages:
  - width: [8, 16]
    blocks:
      - {repeat: 2, ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]}
  - width: [16, 24]
    downsample: {kind: conv_downsample}
    blocks:
      - {ffn: [identity, {kind: conv_ffn, expansion: [1, 2]}]}
head: {kind: classifier}
"""


def main() -> None:
    """Make the userland, then compare, bundle, run and import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas_arm64"))
    parser.add_argument("--runtime", choices=WORKS, default="onnxruntime")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_root(folder / "root")
    python, dead = (make_python(folder, wheel) for wheel in (WORKS[given.runtime], DIES))
    space = folder / "small.yaml"
    write_atomically(space, SPACE)
    compare(SearchSpace.load(space), Device(python=str(python)), given.runtime)
    nas = [sys.executable, "-m", "nas"]
    bundle, table = folder / "bundle", folder / "arm64.csv"
    subprocess.run(["rm", "-rf", bundle], check=True)
    words = ["--runtime", given.runtime, "--out", bundle, "--minutes", "0.1"]
    run(*nas, "bundle", "--space", space, *words)
    run(python, bundle / "run.py")
    run(*nas, "import-lut", bundle, "--out", table, "--name", "emulated", "--force")
    show(LatencyTable.load(table))
    if given.runtime == "onnxruntime":
        found = subprocess.run(
            [dead, bundle / "run.py"], capture_output=True, text=True, check=False
        )
        print(f"{DIES}: exit code {found.returncode}: {found.stderr.strip()}")


def compare(space: SearchSpace, device: Device, runtime: str) -> None:
    """The outputs of the graphs of all layers, and of the largest network."""
    target, graphs = detect_target(device, runtime=runtime), LayerGraphs()
    models = [graphs.graph(layer, shape) for (_, shape), layer in space.layers().items()]
    models.append(graphs.network(space.largest()))
    found = [difference for it in models for difference in differences(it, target).values()]
    print(f"{len(found)} graphs: outputs differ by at most {max(found):.1e} of the largest number")
    reach(device).drop()


def show(table: LatencyTable) -> None:
    """What came back."""
    validation, target = table.validation, table.target
    assert validation is not None
    print_table(
        ("device", "processor", "runtime", "rows", "networks", "error, warm", "error, cold"),
        [
            (
                target.device,
                target.cpu_flags[0],
                f"{target.runtime} {target.runtime_version}",
                str(len(table.rows)),
                str(len(validation.points)),
                f"{100 * validation.warm.calibrated.mape:.1f} %",
                f"{100 * validation.cold.calibrated.mape:.1f} %",
            )
        ],
    )


def make_root(root: Path) -> None:
    """Debian's arm64 packages, unpacked; the emulator, installed."""
    if (root / "usr" / "bin" / "python3.11").exists():
        return
    run("apt-get", "install", "-y", "-q", "qemu-user-static")
    run("dpkg", "--add-architecture", "arm64")
    try:
        run("apt-get", "update", "-q")
        packages = root.parent / "packages"
        packages.mkdir(exist_ok=True)
        run("apt-get", "download", "-q", *(f"{name}:arm64" for name in LIBRARIES), cwd=packages)
        for package in packages.glob("*.deb"):
            run("dpkg", "-x", package, root)
    finally:
        run("dpkg", "--remove-architecture", "arm64")


def make_site(site: Path, wheel: str) -> None:
    """The wheels of numpy and of a runtime for arm64, unpacked."""
    platforms = [f"{name}_aarch64" for name in PLATFORMS]
    unpack_wheels(site, ["numpy", wheel], "3.11", platforms)


def unpack_wheels(
    site: Path, wheels: Sequence[str], version: str, platforms: Sequence[str] = ()
) -> None:
    """Wheels for a version of Python, in a folder to import from."""
    if site.exists():
        return
    there, partial = site.with_name(f"{site.name}-wheels"), site.with_name(f"{site.name}-partial")
    options = [word for name in platforms for word in ("--platform", name)]
    run(
        *(sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:"),
        *("--python-version", version, *options, "-d", there, *wheels),
    )
    for wheel in there.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
    partial.rename(site)


def make_python(folder: Path, wheel: str) -> Path:
    """A program that is the emulated Python with numpy and the wheel of a runtime."""
    site = folder / f"site-{wheel}"
    make_site(site, wheel)
    program, root = folder / f"python-{wheel}", folder / "root"
    write_program(
        program, f'PYTHONPATH={site} exec {EMULATOR} -0 "$0" -L {root} {root}/usr/bin/python3.11'
    )
    return program


def write_program(path: Path, command: str) -> None:
    """Write a program that is a command before its own words."""
    write_atomically(path, f'#!/bin/sh\n{command} "$@"\n')
    path.chmod(0o755)


def run(*words: object, cwd: Path | None = None) -> None:
    """Run a command and show it."""
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=cwd, env=os.environ)


if __name__ == "__main__":
    main()
