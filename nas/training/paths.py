"""Path choice: a Gumbel-softmax over the candidates of each slot learns which of them matter.

MetaPath supernets: EfficientFormer V1 (Li et al. 2022, arXiv 2206.01191); the Gumbel-softmax: Jang
et al. 2017, arXiv 1611.01144. Neither temperatures nor rate of the former were published.

The mixture teaches the path logits alone, so it leaves the networks as they would be without it and
with one random subnet fewer, bit for bit. Norms do not remember what it shows them, because no
network that anybody runs sees such maps. Alternatives that were tried: benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nas.architecture import Architecture
from nas.space import SearchSpace
from nas.supernet import Supernet

Probabilities = Mapping[str, Mapping[str, float]]
"""Of each kind in each slot that is a path choice; those of a slot add up to 1."""


def path_probabilities(supernet: Supernet) -> Probabilities:
    """The softmax of the logits: how often each candidate wins when Gumbel noise is added to them.

    That holds for any temperature, which only says how clear a win is.
    """
    space = supernet.space
    found: dict[str, dict[str, float]] = {}
    for slot, logits in supernet.path_logits.items():
        kinds = map(str, space.typed_choices[space.kind_choices[slot]].options)
        chances = logits.detach().double().softmax(0).tolist()
        found[slot] = dict(zip(kinds, chances, strict=True))
    return found


def scheduled_temperature(step: int, *, steps: int, start: float, end: float) -> float:
    """The temperature of a step, from 0: it falls by the same factor in each step."""
    share = step / max(1, steps - 1)
    return float(start ** (1 - share) * end**share)


def gumbel_weights(
    logits: Mapping[str, Tensor], rng: np.random.Generator, temperature: float
) -> dict[str, Tensor]:
    """softmax((logits + noise) / temperature) of each slot, the noise -log(-log U)."""
    return {
        slot: ((vector + gumbel_noise(rng, len(vector)).to(vector)) / temperature).softmax(0)
        for slot, vector in logits.items()
    }


def gumbel_noise(rng: np.random.Generator, count: int) -> Tensor:
    """So many draws of -log(-log U) for U uniform in (0, 1)."""
    return torch.from_numpy(rng.gumbel(size=count))


def sample_by_paths(
    space: SearchSpace, rng: np.random.Generator, probabilities: Probabilities
) -> Architecture:
    """A random architecture like ``space.sample``, with each path choice by its probabilities."""
    assignment = list(space.sample_assignment(rng))
    for slot, chances in probabilities.items():
        drawn = rng.choice(len(chances), p=list(chances.values()))
        assignment[space.kind_choices[slot]] = int(drawn)
    return space.decode(assignment)
