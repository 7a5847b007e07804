"""The steps of docs/devices/phone.md inside Termux, taken from that page and run on this machine.

    .venv/bin/python benchmarks/termux.py            # four minutes on two x86 cores

Needs root, Debian, 1 GB below ``--folder``, which is kept for the next time, and what sshd.py
needs. Debian's proot is installed, and proot-distro by pip, which is the program that Termux has
under that name. What is typed in the container is given to its shell; the ssh server is Debian's,
with keys of its own. Where Docker Hub is not reached, Debian comes from debootstrap.
Only ``pkg``, which is Termux's own, is not run. Printed is what it costs to read the CPU clock
there and here, what two tables are like, one measured through ssh and proot-distro and one here,
and by how much their predictions differ.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from emulated_arm64 import run
from old_python import show
from sshd import serving

from nas.latency.survey import pick_networks
from nas.latency.table import LatencyTable
from nas.report.terminal import print_table
from nas.space import SearchSpace

PAGE = Path(__file__).parents[1] / "docs" / "devices" / "phone.md"
TYPED = re.compile(r"```text\n(.*?)```", re.DOTALL)
NETWORKS = 40


def main() -> None:
    """Set up a phone that this machine plays, build tables, and print what they are like."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="demo_64px")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nas_termux"))
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    home, keys = folder / "home", folder / "keys"
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rm", "-rf", keys], check=True)
    keys.mkdir()
    steps, script, *_ = TYPED.findall(PAGE.read_text())
    tables = {name: folder / f"{name}.csv" for name in ("phone", "here")}
    with serving(keys, hosts=("phone",), home=home) as server:
        programs = make_programs(folder)
        with patch.dict(os.environ, PATH=f"{programs}:{server.path}"):
            with patch.dict(os.environ, HOME=str(home)):
                type_in(steps.splitlines(), folder)
            python = home / "nas-python"
            write_script(python, script, programs)
            with patch.dict(os.environ, HOME=str(home)):
                for one in (python, sys.executable):  # what it costs to read the CPU clock
                    run(one, "-m", "timeit", "-s", "import time", "time.thread_time_ns()")
            device = ["--device", "ssh:phone", "--python", "./nas-python", "--cores", "0"]
            for name, words in (("phone", device), ("here", [])):
                out = ["--out", tables[name], "--force"]
                nas = (sys.executable, "-m", "nas", "build-lut")
                run(*nas, "--space", given.space, *words, *out)
    loaded = {name: LatencyTable.load(path) for name, path in tables.items()}
    show(loaded)
    compare(SearchSpace.load(given.space), loaded)


def make_programs(folder: Path) -> Path:
    """The folder of proot-distro; proot and debootstrap, installed."""
    programs = folder / "venv" / "bin"
    if not (programs / "proot-distro").exists():
        run("apt-get", "install", "-y", "-q", "proot", "debootstrap")
        run(sys.executable, "-m", "venv", folder / "venv")
        run(programs / "pip", "install", "-q", "proot-distro")
    return programs


def type_in(lines: Sequence[str], folder: Path) -> None:
    """Run the lines that are typed on the phone; those after a login, in the container."""
    inside = lines.index("proot-distro login debian")
    after = lines.index("exit")
    for line in lines[:inside]:
        if line.startswith("pkg "):
            print(f"not run, as it is Termux's own: {line}")
        elif not (Path.home() / ".local/share/proot-distro/containers/debian").exists():
            install(line.split(), folder)
    words = [*lines[inside].split(), *lent(), "--", "/bin/sh", "-e"]
    print("$", *words, flush=True)
    typed = "\n".join(lines[inside + 1 : after])
    subprocess.run(words, input=typed, text=True, check=True)
    print(f"as a server of our own: {' '.join(lines[after + 1 :])}")


def install(words: Sequence[str], folder: Path) -> None:
    """Install the container, from Docker Hub or else from what debootstrap makes."""
    print("$", *words, flush=True)
    if subprocess.run(words, check=False).returncode == 0:
        return
    image, made = folder / "debian.tar", folder / "debootstrap"
    if not image.exists():
        if not (made / "etc" / "debian_version").exists():
            run("debootstrap", "--variant=minbase", "stable", made)
        run("tar", "-C", made, "-cf", image, ".")
    run(*words[:-1], image)


def lent() -> list[str]:
    """Options of a login for the certificates that pip needs where this machine names its own."""
    if not (certificates := os.environ.get("PIP_CERT")):
        return []
    there = Path(certificates).parent
    return ["--bind", f"{there}:{there}", "--env", f"PIP_CERT={certificates}"]


def write_script(path: Path, text: str, programs: Path) -> None:
    """Write the script of the page, with the shell and the programs of this machine."""
    _, *rest = text.splitlines()
    path.write_text("\n".join(["#!/bin/sh", f"PATH={programs}:$PATH", *rest, ""]))
    path.chmod(0o755)


def compare(space: SearchSpace, tables: dict[str, LatencyTable]) -> None:
    """By how much the predictions of two tables differ."""
    networks = pick_networks(space, np.random.default_rng(1), NETWORKS)
    lines = []
    for state in ("warm", "cold"):
        phone, here = (
            np.array([it.predict(network, state) for network in networks]) for it in tables.values()
        )
        logs = np.log(phone / here)
        lines.append((state, f"{100 * np.abs(logs).mean():.1f} %", f"{100 * logs.mean():+.1f} %"))
    print_table(("phone / here", "predictions differ by", "on average by"), lines)


if __name__ == "__main__":
    main()
