"""Finished networks beside a search's: measured in the same turns, judged on the same images.

A run that started from pretrained weights has one by itself, its reference network: what its user
would have without a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nas.architecture import Architecture
from nas.data.images import Images
from nas.deploy.pretrained import read_pretrained
from nas.deploy.weights import load_weights
from nas.errors import UserError
from nas.network import build
from nas.printing import command
from nas.training.run import REFERENCE, Run


@dataclass(frozen=True, eq=False)
class Rival:
    """A network with its own weights, by a name that no method has."""

    name: str
    architecture: Architecture
    network: nn.Module

    @property
    def model_name(self) -> str:
        """Its name among models that are timed together."""
        return f"rival {self.name}"

    def test_images(self, run: Run) -> Images:
        """The test images of a run, as this network wants to see them."""
        return run.data.load(self.architecture.input_size, self.architecture.preprocessing).test


def load_rivals(specs: Sequence[str], run: Run) -> list[Rival]:
    """The run's reference network, if it has one, and networks by ``ARCHITECTURE:WEIGHTS``.

    Raises UserError if weights do not fit, or know other classes than the run.
    """
    found = []
    if run.settings.weights and run.has_reference:
        architecture, weights = run.reference_files
        reference = Architecture.load(architecture)
        network = build(reference)
        load_weights(network, weights)
        found.append(Rival(REFERENCE, reference, network.eval()))
    for spec in specs:
        name, _, weights_name = spec.partition(":")
        if not weights_name:
            raise UserError(f"rival '{spec}': must be ARCHITECTURE:WEIGHTS")
        rival = Architecture.load(name).with_classes(len(run.classes))
        weights_of = read_pretrained(weights_name, rival, run.classes)
        if weights_of.fresh:
            raise UserError(
                f"rival '{spec}': its classifier does not tell the {len(run.classes)} classes of "
                f"{run.data.spec} apart; train it first: "
                + command(
                    *("nas", "retrain", "--architecture", name, "--weights", weights_name),
                    *("--data", run.data.spec, "--run", "FOLDER"),
                )
            )
        network = build(rival)
        weights_of.load_into(network)
        taken = {it.name for it in found}
        title = rival.name or name
        numbered = (title, *(f"{title} ({number})" for number in range(2, len(specs) + 2)))
        free = next(it for it in numbered if it not in taken)
        found.append(Rival(free, rival, network.eval()))
    return found
