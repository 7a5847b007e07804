"""A supernet that starts from pretrained weights: its reference network, and how it absorbs it.

First the classifier of the largest network learns the images, then all of it: the *reference
network*. It is what a user would have without a search, and the teacher of the supernet. Then the
supernet takes its weights, the most important channels first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.weights import load_weights
from nas.errors import UserError
from nas.network import Network, build
from nas.printing import command
from nas.progress import Progress
from nas.space import SearchSpace
from nas.supernet import Supernet
from nas.training.importance import sort_channels
from nas.training.retraining import Retraining, retrain
from nas.training.run import REFERENCE, Run


def given_network(space: SearchSpace, architecture: str | None) -> Architecture:
    """The network that pretrained weights are of: the largest of ``space``.

    ``architecture`` names it, and brings its preprocessing along. Raises UserError if it is another
    network than the largest.
    """
    largest = space.largest()
    if architecture is None:
        return largest
    given = Architecture.load(architecture).with_classes(space.classes)
    if given.layers != largest.layers:
        raise UserError(
            f"{architecture}: is not the largest network of the space '{space.name}': "
            f"{_difference(given, largest)}; {command('nas', 'new-space', architecture)} writes a "
            "space in which it is"
        )
    return largest.with_preprocessing(given.preprocessing)


def finetune_reference(
    run: Run, dataset: Dataset, progress: Progress, device: torch.device
) -> Mapping[str, object]:
    """Train the reference network of a run, from where it was stopped; its result."""
    path, settings = run.path / REFERENCE, run.settings
    epochs = settings.reference_epochs
    if (path / Retraining.record_file).exists():
        folder = Retraining.open(path)
    else:
        folder, _ = Retraining.begin(
            path,
            run.space.largest(),
            weights=settings.weights,
            images=run.data.model_dump(),
            recipe={
                "name": "finetuning",
                "epochs": epochs,
                "head_epochs": min(max(1, epochs // 6), epochs - 1),
                "seed": settings.seed,
                "precision": settings.precision,
            },
            device=device,
            progress=progress,
            force=path.exists(),
        )
    if folder.is_finished:
        return retrain(folder, dataset)
    progress.say("the largest network learns the images: it is the reference, and the teacher")
    return retrain(folder, dataset, progress=progress, device=device)


def reference_network(run: Run) -> Network:
    """The trained reference network of a run."""
    architecture, weights = run.reference_files
    network = build(Architecture.load(architecture))
    load_weights(network, weights)
    return network.eval()


def absorb_reference(supernet: Supernet, run: Run, dataset: Dataset, progress: Progress) -> None:
    """Let a supernet take the reference's weights, the most important channels first."""
    settings = run.settings
    if settings.importance == "taylor":
        progress.say("the importance of channels is measured")
    network = sort_channels(
        reference_network(run),
        run.space,
        dataset.train.at(run.space.largest_size),
        importance=settings.importance,
        seed=settings.seed,
    )
    supernet.absorb(network, run.space.largest())


def _difference(given: Architecture, largest: Architecture) -> str:
    """The first layer in which two networks differ."""
    for one, other in zip(given.layers, largest.layers, strict=False):
        if one != other:
            mine, theirs = one.signature, other.signature
            if one.slot != other.slot:
                mine, theirs = f"{one.slot} ({mine})", f"{other.slot} ({theirs})"
            return f"{one.slot} is '{mine}', in the space '{theirs}'"
    return f"it has {len(given.layers)} layers, the space's {len(largest.layers)}"
