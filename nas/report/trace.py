"""Every action that a slimming considered, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.documents import write_atomically
from nas.search import Step


def write_trace(path: Path, trace: Sequence[Step], choices: Mapping[str, Sequence[object]]) -> None:
    """Write step, choice, option, accuracy (null if not evaluated), costs and score of each.

    ``accuracy_before`` and ``mes_before`` are those of the network that the step started from;
    ``taken`` marks the action that it took.
    """
    names = list(choices)
    records = [
        {
            "step": number,
            "choice": names[action.choice],
            "option": choices[names[action.choice]][action.option],
            "accuracy": action.accuracy,
            "accuracy_before": step.accuracy,
            **action.costs,
            "mes": action.score,
            "mes_before": step.score,
            "taken": action.assignment == step.taken.assignment,
        }
        for number, step in enumerate(trace, 1)
        for action in step.actions
    ]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
