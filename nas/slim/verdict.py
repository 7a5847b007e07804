"""Which method found the best network for a target, as far as the test images can tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from nas.data import Images

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


def chance(one: Tensor, other: Tensor) -> float:
    """How often chance alone makes two networks differ like this on the same images, in [0, 1].

    The exact McNemar test: of the images that one of them gets right, half should be each one's.
    """
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def judge_methods(answers: Sequence[tuple[str, Tensor]], wanted: str = "slimmed") -> str:
    """One line: which network won, or that none did; ``answers`` by the methods' names.

    The ``wanted`` network, or the best where that is another, is compared with the best of the
    rest.
    """
    ranked = sorted(answers, key=lambda it: -int(it[1].sum()))
    (best, first), (next_best, second) = ranked[:2]
    own = dict(answers).get(wanted)
    if own is not None and best != wanted:
        next_best, second = wanted, own
    p = chance(first, second)
    shares = [f"{100 * float(it.double().mean()):.1f} %" for it in (first, second)]
    evidence = f"on {len(first):,} test images, p = {p:.2g}"
    if p >= LEVEL:
        return f"no method won: {best} {shares[0]}, {next_best} {shares[1]} {evidence}"
    return f"{best} won: {shares[0]}, {next_best} {shares[1]} {evidence}"
