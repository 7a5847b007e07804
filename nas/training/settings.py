"""How a supernet is trained, and on what: the values that a run records."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nas.data import Dataset, load_dataset
from nas.documents import Value
from nas.training.distillation import Divergence
from nas.training.latency_term import LatencyTerm
from nas.training.precision import TrainingPrecision
from nas.training.resolutions import Resolutions

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
DropRate = Annotated[float, Field(ge=0, lt=1)]


class Settings(Value):
    """The recipe.

    ``warmup`` is the share of all steps in which the rate rises to ``learning_rate``; from there it
    falls to 0 along a cosine. ``random_subnets`` train in each step beside the largest and the
    smallest; if ``staggered``, each of them from another batch, see ``nas/training/lessons.py``.
    ``distillation`` is how much the largest network's outputs may replace the labels of the others;
    0 means labels only. ``divergence`` is how far outputs are from outputs, see
    ``nas/training/distillation.py``. A ``teacher``, see ``load_teacher``, takes the place of the
    largest network, which then learns from it too. ``layer_scale`` is where the residuals' scales
    start. A batch is processed in ``accumulate`` parts, which need less memory: their gradients add
    up to those of the whole batch, but for the norms, which see one part at a time. The largest
    network drops paths, its last block with rate ``drop_path``, see ``nas/training/drop_path.py``.
    ``precision`` is what products are computed in; by default what suits the device.

    With ``resolutions`` all networks of a step see one of them in place of their own input size,
    and a batch holds more or fewer images, see ``nas/training/resolutions.py``. Without, each sees
    images of its own input size, all resized from the largest.

    With ``path_choice``, in spaces where slots may vary in kind or be left out, a mixture of all
    candidates takes the place of one of the random subnets in every ``path_interval``-th step, from
    an epoch's first on. Its path logits learn at a rate of their own, which rises and falls as the
    others do; the temperature of the noise falls from ``first_temperature`` to
    ``last_temperature``, by the same factor in each step. ``latency`` adds what the mixture costs
    to its loss. With ``path_sampling``, the random subnets of the second half of the epochs take
    their kinds by the path probabilities.

    What subnets inherit, less what the same twelve networks reach alone in as many epochs, and
    Kendall's tau between the two (benchmarks/ranking.py; CIFAR-10, 10,000 images, 12 epochs): +2.2
    and +1.2 points, 0.94 and 0.87, with two seeds. All that follows is from before networks were
    ``staggered``: batches of 50 -1.0 and -1.3 points, 0.85 and 0.94. Rates of 3e-3 to 8e-3, one or
    three random subnets, batches of 32 and shared norms are between -0.3 and -2.7, which is what
    seeds differ by, see benchmarks/README.md. Batches of 100 and a mixture every step: -2.7, 0.79;
    with labels only -3.7, 0.81; with shared norms -2.3, 0.75 (one seed).

    Mean inherited accuracy of eight subnets, CIFAR-10, 10,000 images, batch 100, 8 epochs, one
    seed, on an early `cifar10_32px` of four stages, labels only: 54.4 % at a rate of 4e-3; 53.3 at
    8e-3; 51.4 with layer scales of 1. The published 1e-5 (for 300 epochs) had 54.7,
    but was behind after 96 steps on digits: the smallest, middle and largest subnet of `demo_64px`
    had 96.4, 96.7 and 98.6 % of 360 images with it, and 98.6, 98.3 and 99.2 with 0.1.
    """

    epochs: Count = 10
    batch_size: Annotated[int, Field(gt=1)] = 64
    accumulate: Count = 1
    resolutions: Resolutions = ()
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.025
    warmup: Share = 0.1
    random_subnets: Annotated[int, Field(ge=0)] = 2
    staggered: bool = True
    distillation: Share = 1.0
    divergence: Divergence = "kl"
    teacher: str | None = None
    layer_scale: Annotated[float, Field(gt=0)] = 0.1
    precision: TrainingPrecision | None = None
    drop_path: DropRate = 0.0
    path_choice: bool = True
    path_interval: Count = 4
    path_learning_rate: Annotated[float, Field(gt=0)] = 0.05
    first_temperature: Annotated[float, Field(gt=0)] = 5.0
    last_temperature: Annotated[float, Field(gt=0)] = 0.5
    latency: LatencyTerm | None = None
    path_sampling: bool = False
    seed: Annotated[int, Field(ge=0)] = 0


class DataSettings(Value):
    """Which images: the arguments of ``load_dataset``."""

    spec: str
    seed: Annotated[int, Field(ge=0)] = 0
    search_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    limit: Count | None = None

    def load(self, image_size: int) -> Dataset:
        """The data set as square images of ``image_size`` pixels."""
        return load_dataset(
            self.spec,
            image_size,
            seed=self.seed,
            search_share=self.search_share,
            limit=self.limit,
        )
