"""The command line. ``COMMANDS`` lists the pipeline in the order in which a user runs it.

Only the module of the called command is imported, so that ``nas --help`` answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

import typer

from nas.errors import UserError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("firstrun", "Find a network for your pictures: all of the below, planned to fit."),
    "demo": ("firstrun", "Run the whole pipeline on embedded data."),
    "spaces": ("space", "List the built-in search spaces and architectures."),
    "show": ("space", "Show a space's choices, an architecture's layers, or a run's paths."),
    "new-space": (
        "space",
        "Write the search space around a network, or a built-in one for your classes.",
    ),
    "build-lut": ("table", "Measure every distinct layer of a space on this machine."),
    "check-lut": ("table", "Measure whole networks again: does a latency table still hold?"),
    "train-supernet": ("network", "Train one supernet for all architectures of a space."),
    "check-supernet": ("network", "Train a dozen networks alone: does the supernet rank them so?"),
    "slim": ("search", "Slim a supernet until the exported networks meet their targets."),
    "search": ("search", "Search a supernet by Optuna; start it again for one more worker."),
    "retrain": ("network", "Train one architecture, from scratch or from weights that are there."),
    "evaluate": ("network", "Compute the accuracy of a network on the test images."),
    "resize": ("network", "Carry a network over to another input size."),
    "export": ("network", "Write a network as ONNX, or for OpenVINO, Python or timm."),
    "bench": ("table", "Measure the latency of ONNX models on this machine, side by side."),
    "profile": ("table", "Show where the time of networks goes, by layer and by operator."),
    "report": ("search", "Write one HTML page of all searches and the training in a folder."),
}
"""The module of ``nas.cli`` that holds each command, and the command's description."""

INTERRUPTED = 130
"""What typer returns after Ctrl-C."""


def main() -> None:
    """Run a command; a user's mistake is one line on standard error and exit code 2."""
    # Before torch is loaded: with another program on the cores, threads that spin while they wait
    # made training on two of them 30 times slower, 200 ms an image instead of 6.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    called = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        code = _application(called)(standalone_mode=False)
    except KeyboardInterrupt:  # while modules were loaded; later typer returns INTERRUPTED
        code = INTERRUPTED
    except UserError as error:
        _fail(str(error))
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        message = message.replace(": Value error, ", ": ")  # pydantic's, by which typer checks
        _fail(message if message.startswith("Usage:") else " ".join(message.split()))
    if code == INTERRUPTED:
        _fail("interrupted; what was written before is kept")
    if code:
        sys.exit(code)


def _application(called: str | None) -> typer.Typer:
    """All commands by name and help; of these, only the one that is called can run."""
    application = typer.Typer(
        help="Find the image network that is most accurate on your data within a latency budget.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, (module, description) in COMMANDS.items():
        function = _not_called
        if name == called:
            function = getattr(importlib.import_module(f"nas.cli.{module}"), name.replace("-", "_"))
        details = inspect.getdoc(function) or ""
        application.command(name, help=f"{description}\n\n{details}")(function)
    return application


def _not_called() -> None: ...


def _fail(message: str) -> NoReturn:
    print(f"nas: {message}", file=sys.stderr)
    sys.exit(2)
