"""How much of the labels the largest subnet's outputs replace for the others.

A teacher that knows nothing costs its pupils 7 to 10 points on CIFAR-10 when they follow it from
the first step. So its word counts as far as it is right: in each epoch the share is what it got
right of the training images in the epoch before, above chance.
"""

from __future__ import annotations


def above_chance(accuracy: float, classes: int) -> float:
    """0 for guessing, 1 for knowing all."""
    chance = 1 / classes
    return max(0.0, (accuracy - chance) / (1 - chance))
