"""Which method found the best network for a target, as far as the test images can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.data.images import Images
from nas.slim.result import Verdict
from nas.statistics import mcnemar

LEVEL = 0.05
"""A difference that chance makes less often than this counts."""


def right_answers(network: nn.Module, images: Images) -> Tensor:
    """For each image whether its most probable class is its label; (N,), bool."""
    network.eval()
    with torch.inference_mode():
        found = [
            network(inputs.to(memory_format=torch.channels_last)).argmax(1) == labels
            for inputs, labels in images.batches(256)
        ]
    return torch.cat(found)


def compare_methods(
    answers: Sequence[tuple[str, Tensor]], target: Mapping[str, float], wanted: str = "slimmed"
) -> Verdict:
    """The verdict for a target; ``answers`` (N,) by the methods' names.

    The ``wanted`` network, or the best where that is another, is compared with the best of the
    rest.
    """
    ranked = sorted(answers, key=lambda it: -int(it[1].sum()))
    (best, first), (other, second) = ranked[:2]
    own = dict(answers).get(wanted)
    if own is not None and best != wanted:
        other, second = wanted, own
    p = mcnemar(first.numpy(), second.numpy())
    return Verdict(
        target=dict(target),
        winner=best if p < LEVEL else None,
        compared=(best, other),
        accuracies=(float(first.double().mean()), float(second.double().mean())),
        p=p,
        images=len(first),
    )
