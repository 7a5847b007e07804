"""How a training shows itself on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from nas.report.progress import Bar
from nas.training.progress import Progress


class TrainingBar(Bar):
    """A bar with rate and time left, and after each epoch a line with three accuracies."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__("training", quiet=quiet)
        self.accuracies: Mapping[str, float] = {}
        """Of the smallest, a middle and the largest subnet on the search slice, in [0, 1]."""

    def report(self, progress: Progress) -> None:
        """Show where the training stands."""
        if progress.accuracies and progress.accuracies != self.accuracies:
            self.accuracies = progress.accuracies
            found = ", ".join(f"{name} {100 * it:.1f} %" for name, it in self.accuracies.items())
            done = progress.step * progress.epochs // progress.total_steps
            self.say(f"epoch {done} of {progress.epochs}: {found}")
        minutes, seconds = divmod(round(progress.remaining_seconds), 60)
        self.update(
            f"epoch {progress.epoch} of {progress.epochs}, "
            f"{progress.images_per_second:.0f} images/s, {minutes}:{seconds:02} left",
            progress.step,
            progress.total_steps,
        )
