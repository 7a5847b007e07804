"""The command line. ``COMMANDS`` lists the pipeline in the order in which a user runs it.

Only the module of the called command is imported, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import _thread
import importlib
import inspect
import io
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from nas.errors import UserError
from nas.machine import OPENMP

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("firstrun", "Find a network for your pictures: all of the below, planned to fit."),
    "demo": ("firstrun", "Run the whole pipeline on embedded data."),
    "spaces": ("space", "List the built-in search spaces and architectures."),
    "show": ("space", "Show a space's choices, an architecture's layers, or a run's paths."),
    "new-space": (
        "space",
        "Write the search space around a network, or a built-in one for your classes.",
    ),
    "build-lut": ("table", "Measure every distinct layer of a space on a device."),
    "bundle": ("bundle", "Write a folder that measures a space on a device by hand."),
    "import-lut": ("bundle", "Make the latency table of what a bundle has measured."),
    "check-lut": ("table", "Measure whole networks again: does a latency table still hold?"),
    "train-supernet": ("network", "Train one supernet for all architectures of a space."),
    "check-supernet": ("network", "Train a dozen networks alone: does the supernet rank them so?"),
    "slim": ("search", "Slim a supernet until the exported networks meet their targets."),
    "search": ("search", "Search a supernet by Optuna; start it again for one more worker."),
    "retrain": ("network", "Train one architecture, from scratch or from weights that are there."),
    "evaluate": ("network", "Compute the accuracy of a network on the test images."),
    "classify": ("network", "Say what a finished network sees in pictures."),
    "resize": ("network", "Carry a network over to another input size."),
    "export": ("network", "Write a network as ONNX, or for OpenVINO, Python or timm."),
    "bench": ("table", "Measure the latency of ONNX models on a device, side by side."),
    "profile": ("table", "Show where the time of networks goes, by layer and by operator."),
    "report": ("search", "Write one HTML page of all searches and the training in a folder."),
}
"""The module of ``nas.cli`` that holds each command, and the command's description."""

INTERRUPTED = 130
"""What typer returns after Ctrl-C."""

DEBUG, TRUST = "--debug", "--trust"


def main() -> None:
    """Run a command; a user's mistake is one line on standard error and exit code 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(OPENMP | os.environ)  # before torch is loaded
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a letter of a name
            stream.reconfigure(errors="backslashreplace")
    is_debug = DEBUG in sys.argv[1:]
    sys.unraisablehook = interrupt_again
    try:
        code = _run([word for word in sys.argv[1:] if word != DEBUG])
        sys.stdout.flush()
    except BaseException as error:
        from nas.cli.mistakes import explain

        ending = None if is_debug else explain(error)
        if ending is None:
            raise
        code = ending.code
        if ending.line:
            _tell(ending.line)
        else:  # nobody reads any more: what is left must not be written when Python ends
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if code:
        sys.exit(code)


def interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """What Python does with errors that it cannot raise: a Ctrl-C among them is pressed again.

    One that comes while an object is deleted would be lost, and torch deletes many.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _press_ctrl_c).start()  # at once it would be lost here
    else:
        sys.__unraisablehook__(unraisable)


def _press_ctrl_c() -> None:
    """Interrupt the main thread, where it can be even while it waits."""
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, signal.SIGINT)
    else:  # on Windows
        _thread.interrupt_main()


def _run(words: list[str]) -> int | None:
    """Run the command of these words; returns its exit code, which None stands for 0 in."""
    words, trusted = _without_trusted(words)
    called = next((word for word in words if not word.startswith("-")), None)
    application = _application(called)
    if not trusted:
        code: int | None = application(words, standalone_mode=False)
    else:
        from nas.families.own import trusting

        with trusting(trusted):
            code = application(words, standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _without_trusted(words: list[str]) -> tuple[list[str], list[Path]]:
    """The words without ``--trust FILE``, which may stand anywhere, and the files."""
    rest: list[str] = []
    files: list[Path] = []
    waiting = iter(words)
    for word in waiting:
        option, equals, value = word.partition("=")
        if option != TRUST:
            rest.append(word)
        elif file := value if equals else next(waiting, ""):
            files.append(Path(file))
        else:
            raise UserError(f"{TRUST} needs a file")
    return rest, files


def _application(called: str | None) -> typer.Typer:
    """All commands by name and help; of these, only the one that is called can run."""
    application = typer.Typer(
        help="Find the image network that is most accurate on your data within a latency budget.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    application.callback()(_everywhere)
    for name, (module, description) in COMMANDS.items():
        function = _not_called
        if name == called:
            function = getattr(importlib.import_module(f"nas.cli.{module}"), name.replace("-", "_"))
        details = inspect.getdoc(function) or ""
        application.command(name, help=f"{description}\n\n{details}")(function)
    return application


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from nas.machine import nas_version
        from nas.printing import print_line

        print_line(f"nas {nas_version()}")
        raise typer.Exit


def _everywhere(
    *,
    version: Annotated[  # noqa: ARG001 - its callback has done it
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error; anywhere in a command.")
    ] = False,
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Run this block file, which a document names; several."),
    ] = None,
) -> None:
    """The help of what ``main`` takes out of the words before typer reads them."""
    del debug, trust


def _not_called() -> None: ...


def _tell(line: str) -> None:
    from nas.printing import print_line

    is_usage = line.startswith("Usage:")
    for part in (
        f"nas: {line}".splitlines() if is_usage else [f"nas: {' '.join(line.splitlines())}"]
    ):
        print_line(part, file=sys.stderr)
