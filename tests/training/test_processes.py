"""Real processes, started by torchrun, that talk by gloo."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nas.errors import UserError
from nas.space import SearchSpace
from nas.training.batches import Batch
from nas.training.distillation import Distillation
from nas.training.evaluation import evaluate_supernet
from nas.training.processes import ALONE, join_processes
from nas.training.run import Run
from nas.training.settings import DataSettings
from nas.training.supernets import add_gradients, draw_subnets, fresh_supernet

BATCH = 7


def torchrun(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            # without the dashes torchrun takes --run for an abbreviation of one of its options
            *("--nproc-per-node", "2", "script.py", "--", *arguments),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


SHARED = """
import json, os, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_file, save_file
from torch import distributed
from nas.errors import UserError
from nas.space import SearchSpace
from nas.training.evaluation import evaluate_supernet
from nas.training.supernets import fresh_supernet
from nas.training.processes import LostProcessError, join_processes
from nas.training.batches import Batch
from nas.training.distillation import Distillation
from nas.training.supernets import add_gradients, draw_subnets
from nas.training.settings import DataSettings

space = SearchSpace.load("space.json")
supernet = fresh_supernet(space, seed=0, layer_scale=0.5).double().eval()
batch = load_file("batch.safetensors")
networks = [space.largest(), *draw_subnets(space, np.random.default_rng(3), 2)]
messages, all_reduce = [], distributed.all_reduce

def counted(tensor):
    messages.append(tensor.numel())
    all_reduce(tensor)

distributed.all_reduce = counted
found = {}
with join_processes("cpu") as processes:
    rank, count = processes.rank, processes.count
    own = {name: it[rank::count] for name, it in batch.items()}
    losses = [
        part.weight * add_gradients(supernet, part, networks, Distillation(0.3))
        for part in Batch(**own, size=7, resolution=32).split(2)
    ]
    losses = processes.add_up_gradients(supernet, torch.stack(losses).sum(0))
    found["messages"] = len(messages)
    gradients = {n: it.grad for n, it in supernet.named_parameters() if it.grad is not None}
    save_file({"losses": losses, **gradients}, f"{rank}.safetensors")

    dataset = DataSettings(spec="digits", limit=300).load(32)
    found["accuracies"] = evaluate_supernet(fresh_supernet(space, seed=0, layer_scale=0.5), dataset, processes)

    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank)
    norm.running_var.fill_(3 * rank + 1)
    norm.num_batches_tracked.fill_(5)
    processes.average_statistics(norm)
    found["norm"] = [it.tolist() for it in norm.buffers()]

    found["in_turn"] = processes.in_turn(
        lambda: Path("made").write_text("x"), lambda: Path("made").read_text()
    )
    try:
        with processes.together():
            if not processes.is_first:
                raise UserError("only the second has found this")
    except BaseException as error:
        found["error"] = repr(error)
    if not processes.is_first:
        Path("1.json").write_text(json.dumps(found))
        os._exit(0)
    try:
        processes.add_up(torch.zeros(()))
    except LostProcessError as error:
        found["lost"] = str(error)
    Path("0.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_space: SearchSpace) -> Path:
    """Where two processes have left what they found."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("processes")
    (folder / "space.json").write_text(tiny_space.to_json())
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, dtype=torch.float64)
    save_file(
        {"images": images, "labels": torch.randint(10, (BATCH,))}, folder / "batch.safetensors"
    )
    done = torchrun(folder, SHARED)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one_on_the_joined_batch(
    shared: Path, tiny_space: SearchSpace
) -> None:
    supernet = fresh_supernet(tiny_space, seed=0, layer_scale=0.5).double().eval()
    losses = add_gradients(
        supernet,
        Batch(**load_file(shared / "batch.safetensors"), size=BATCH, resolution=32),
        [tiny_space.largest(), *draw_subnets(tiny_space, np.random.default_rng(3), 2)],
        Distillation(0.3),
    )
    expected = {n: it.grad for n, it in supernet.named_parameters() if it.grad is not None}
    assert len(expected) < len(list(supernet.parameters()))
    for rank in (0, 1):
        found = load_file(shared / f"{rank}.safetensors")
        torch.testing.assert_close(
            found.pop("losses"), losses, rtol=1e-6, atol=0, check_dtype=False
        )
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_step_needs_one_message(shared: Path) -> None:
    assert [found["messages"] for found in both(shared)] == [1, 1]


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(shared: Path, tiny_space: SearchSpace) -> None:
    dataset = DataSettings(spec="digits", limit=300).load(32)
    expected = evaluate_supernet(fresh_supernet(tiny_space, seed=0, layer_scale=0.5), dataset)
    assert [found["accuracies"] for found in both(shared)] == [expected] * 2


@pytest.mark.slow
def test_running_statistics_are_averaged(shared: Path) -> None:
    assert [found["norm"] for found in both(shared)] == [[[0.5, 0.5], [2.5, 2.5], 5]] * 2


@pytest.mark.slow
def test_others_begin_when_the_first_is_done(shared: Path) -> None:
    assert [found["in_turn"] for found in both(shared)] == [1, "x"]


@pytest.mark.slow
def test_a_mistake_of_one_process_ends_all_and_is_reported_once(shared: Path) -> None:
    first, second = both(shared)
    assert first["error"] == "UserError('only the second has found this')"
    assert second["error"] == "SystemExit(2)"


@pytest.mark.slow
def test_a_process_that_is_gone_is_one_line(shared: Path) -> None:
    line = both(shared)[0]["lost"]
    assert line.startswith("process 0 of 2: another process of this training has ended: ")
    assert "\n" not in line


def both(folder: Path) -> list[dict[str, object]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


TRAINING = """
import os, sys
from pathlib import Path
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from nas.cli import main
from nas.training.processes import Processes

last, steps = {}, []

def remember(optimizer, *_):
    steps.append(1)
    if len(steps) == int(os.environ.get("STOP", 0)):
        raise KeyboardInterrupt
    parameters = [it for group in optimizer.param_groups for it in group["params"]]
    last.update({str(number): it for number, it in enumerate(parameters)})

averaged, average = [], Processes.average_statistics

def counted(processes, network):
    averaged.append(1)
    average(processes, network)

Processes.average_statistics = counted
register_optimizer_step_post_hook(remember)
try:
    main()
finally:
    Path(f"averaged{os.environ['RANK']}").write_text(str(len(averaged)))
    if last:
        save_file({name: it.contiguous() for name, it in last.items()}, f"w{os.environ['RANK']}")
"""


@pytest.mark.slow
def test_two_processes_train_one_supernet(
    tmp_path: Path, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.json").write_text(tiny_space.to_json())
    train = ("train-supernet", "--space", "tiny.json", "--limit", "400", "--epochs", "2")
    done = torchrun(tmp_path, TRAINING, *train, "--run", "whole")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run:") == 1
    assert sha256(tmp_path / "w0") == sha256(tmp_path / "w1")
    assert [(tmp_path / f"averaged{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    whole = Run.open(tmp_path / "whole")
    assert whole.is_finished
    assert [json.loads(it)["epoch"] for it in whole.log_path.read_text().splitlines()] == [1, 2]
    assert len(list(whole.tensorboard_path.iterdir())) == 1
    assert not (whole.path / ".lock").exists()
    weights = {sha256_of(it) for it in load_file(tmp_path / "w0").values()}
    saved = load_file(whole.checkpoint_path)
    names = dict(whole.load_supernet().named_parameters())
    assert weights == {sha256_of(saved[f"model.{name}"]) for name in names}

    monkeypatch.setenv("STOP", "8")  # 5 steps are an epoch
    done = torchrun(tmp_path, TRAINING, *train, "--run", "stopped")
    assert done.returncode != 0
    assert done.stderr.count("stopped in epoch 2 of 2, epoch 1 is saved; to continue") == 1
    monkeypatch.delenv("STOP")
    done = torchrun(tmp_path, TRAINING, "train-supernet", "--run", "stopped", "--resume")
    assert done.returncode == 0, done.stderr
    assert Run.open(tmp_path / "stopped").checkpoint_path.read_bytes() == (
        whole.checkpoint_path.read_bytes()
    )

    done = torchrun(tmp_path, TRAINING, *train, "--run", "whole")
    assert done.returncode != 0
    assert done.stderr.count("holds a finished run; --force starts anew") == 1


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_one_process_has_nobody_to_talk_to() -> None:
    with join_processes("cpu") as processes:
        assert processes.is_first
        assert processes.count == 1
        network = nn.Linear(2, 2)
        losses = torch.arange(3.0)
        assert processes.add_up_gradients(network, losses) is losses
        assert processes == ALONE


def test_a_device_that_is_not_there_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="device 'cuda': torch finds no GPU"):
        join_processes("cuda").__enter__()
