"""Examples run as their first lines say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nas
from nas.deploy.weights import save_weights

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason='transformers is not installed: pip install "slimnas[detection]"',
)
def test_a_slimmed_network_learns_to_detect_under_rt_detr(tmp_path):
    architecture = nas.SearchSpace.load("mobile_64px").smallest()
    architecture.save(tmp_path / "architecture.json")
    save_weights(nas.build(architecture), tmp_path / "weights.safetensors")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "rt_detr.py", "--steps", "12"]
        + ["--architecture", tmp_path / "architecture.json"]
        + ["--weights", tmp_path / "weights.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"step +\d+  loss ([\d.]+)", done.stdout)]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
