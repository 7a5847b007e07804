"""A bundle runs in an emulated arm64 userland and comes back as a table: times mean nothing there.

    .venv/bin/python benchmarks/emulated_arm64.py            # ten minutes on two x86 cores

Needs root, Debian, and 1 GB below ``--folder``, which is kept for the next time. Debian's
qemu-user-static runs programs of another processor; Python and its libraries come as Debian's arm64
packages, numpy and onnxruntime as the wheels that a Raspberry Pi installs. Printed are the rows of
the table and how its networks fit; and that a runtime that dies when it is imported is told so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from nas.documents import write_atomically
from nas.latency.table import LatencyTable
from nas.report.terminal import print_table

EMULATOR = "qemu-aarch64-static"
LIBRARIES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "zlib1g"),
    *("libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libstdc++6", "libgcc-s1"),
    *("libuuid1", "libsqlite3-0", "libgomp1"),
)
WORKS, DIES = "1.23.2", "1.32.0"
"""Versions of onnxruntime in the emulator, whose processor has no features that Linux describes."""

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
    """Make the userland, then bundle, run and import."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas_arm64"))
    folder: Path = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_root(folder / "root")
    for version in (WORKS, DIES):
        make_site(folder / f"site-{version}", version)
    python = make_python(folder, WORKS)
    write_atomically(folder / "small.yaml", SPACE)
    nas = [sys.executable, "-m", "nas"]
    bundle, table = folder / "bundle", folder / "arm64.csv"
    subprocess.run(["rm", "-rf", bundle], check=True)
    run(*nas, "bundle", "--space", folder / "small.yaml", "--out", bundle, "--minutes", "0.1")
    run(python, bundle / "run.py")
    run(*nas, "import-lut", bundle, "--out", table, "--name", "emulated", "--force")
    show(LatencyTable.load(table))
    dead = make_python(folder, DIES)
    found = subprocess.run([dead, bundle / "run.py"], capture_output=True, text=True, check=False)
    print(f"onnxruntime {DIES}: exit code {found.returncode}: {found.stderr.strip()}")


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


def make_site(site: Path, version: str) -> None:
    """The wheels of numpy and onnxruntime for arm64, unpacked."""
    if (site / "onnxruntime").exists():
        return
    wheels = site.with_name(f"wheels-{version}")
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    run(
        *(sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:"),
        *("--python-version", "3.11", *platforms, "-d", wheels),
        *("numpy", f"onnxruntime=={version}"),
    )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def make_python(folder: Path, version: str) -> Path:
    """A program that is the emulated Python with one version of onnxruntime."""
    program, root = folder / f"python-{version}", folder / "root"
    write_atomically(
        program,
        f'#!/bin/sh\nPYTHONPATH={folder}/site-{version} exec {EMULATOR} -0 "$0" -L {root} '
        f'{root}/usr/bin/python3.11 "$@"\n',
    )
    program.chmod(0o755)
    return program


def run(*words: object, cwd: Path | None = None) -> None:
    """Run a command and show it."""
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=cwd, env=os.environ)


if __name__ == "__main__":
    main()
