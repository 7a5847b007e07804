from __future__ import annotations

import pytest

from nas.training.distillation import above_chance


@pytest.mark.parametrize(
    ("accuracy", "classes", "expected"),
    [(0.1, 10, 0.0), (0.05, 10, 0.0), (1.0, 10, 1.0), (0.55, 10, 0.5), (0.75, 2, 0.5)],
)
def test_knowledge_is_counted_above_chance(accuracy: float, classes: int, expected: float) -> None:
    assert above_chance(accuracy, classes) == pytest.approx(expected)
