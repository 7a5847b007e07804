"""What runtimes compute on devices: compared with onnxruntime here."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from nas.errors import UserError
from nas.latency.graphs import pointwise
from nas.latency.parity import require_same_result
from nas.latency.runtimes import RUNTIMES, Runtime
from nas.latency.runtimes.base import random_inputs
from nas.latency.target import detect_target


class Evaluator(Runtime):
    """onnx's own interpreter, whose outputs ``spoil`` changes."""

    spoil = staticmethod(lambda values: values)

    @classmethod
    def version(cls):
        return "7"

    @classmethod
    def devices(cls):
        return {"cpu": "numpy", "gpu": "numpy"}

    def prepare(self, model):
        evaluator, inputs = ReferenceEvaluator(model), dict(random_inputs(model))
        return lambda: [self.spoil(it) for it in evaluator.run(None, inputs)]


@pytest.fixture
def spoiled(monkeypatch):
    """Sets what becomes of the outputs, and gives the target of a device."""

    def set_up(spoil, device="cpu", **options):
        monkeypatch.setitem(RUNTIMES, "evaluator", Evaluator)
        monkeypatch.setattr(Evaluator, "spoil", staticmethod(spoil))
        return detect_target(device, runtime="evaluator", **options)

    return set_up


@pytest.mark.parametrize("batch", [1, 3])
def test_another_runtime_that_computes_the_same_is_taken(spoiled, batch):
    # 16,384 numbers and more, of which a part is told
    require_same_result(pointwise((16, 32, 32)), spoiled(lambda it: it * 1.001, batch=batch))


@pytest.mark.parametrize(
    ("spoil", "by"),
    [
        (lambda it: it * 1.01, "1.0e-02"),
        (lambda it: it * np.nan, "nan"),
        (lambda it: it[..., :2], "inf"),
    ],
)
def test_another_result_is_refused_with_its_distance(spoiled, spoil, by):
    message = (
        "^cpu: evaluator 7 computes another 'logits' than onnxruntime does here: it differs by "
        f"{by} of the largest number, more than 5e-03$"
    )
    with pytest.raises(UserError, match=message):
        require_same_result(pointwise((4, 8, 8)), spoiled(spoil))


def test_gpus_round_more(spoiled):
    require_same_result(pointwise((4, 8, 8)), spoiled(lambda it: it * 1.01, "gpu"))
