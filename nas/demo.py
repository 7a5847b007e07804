"""``nas demo``: ``nas run`` on embedded data, with fixed settings that suit a coffee break."""

from __future__ import annotations

import time

from nas.firstrun.begin import measure_alone
from nas.firstrun.estimate import Effort
from nas.firstrun.request import Request
from nas.firstrun.schedule import Schedule, schedule_of
from nas.progress import Progress

DATA = "digits"
SPACE = "demo_64px"
TARGET_SHARE = 0.6
"""Of the largest network's latency: a target that has to be earned, on any machine."""
SEARCH_SHARE = 0.25
"""More than the usual tenth: of 1,437 training images a tenth would tell accuracies in steps of
0.7 points."""
EFFORT = Effort(epochs=2, evaluations=16, retraining_epochs=4)
"""Evaluations are of slimming, of random search and of evolution each."""
REQUEST = Request(data=DATA, space=SPACE)


def plan_demo(request: Request, progress: Progress) -> Schedule:
    """The plan of the demo: what differs from machine to machine are target and seconds."""
    started = time.monotonic()
    progress.update(SPACE, 0)
    data, place, device = measure_alone(request, SEARCH_SHARE)
    made = schedule_of(data, place, EFFORT, target_share=TARGET_SHARE, training_device=device)
    return made.model_copy(update={"planning_seconds": time.monotonic() - started})
