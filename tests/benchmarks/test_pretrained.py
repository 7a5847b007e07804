"""What FastNAS is given computes the same, and can be traced."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from nas.architecture import Architecture
from nas.network import build

FOLDER = Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [str(FOLDER), *sys.path])  # as for a script of that folder
    traceable = runpy.run_path(str(FOLDER / "pretrained.py"))["traceable"]


@pytest.mark.parametrize("side", [64, 75])  # of odd maps one more row and column is padded
def test_a_traceable_network_computes_the_same(side):
    network = build(Architecture.load("efficientnet_lite_0").with_input_size(side)).eval()
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(network)
    traced = torch.fx.symbolic_trace(traceable(network, side))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(traced(images), network(images))
