from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from nas.errors import UserError
from nas.store.checkpoint import (
    PREVIOUS,
    DamagedError,
    State,
    load_model,
    load_optimizer,
    mend_checkpoint,
    read_state,
    save_checkpoint,
)
from nas.training.step import make_optimizer

STATE = State(epoch=3, teacher=0.25, accuracies={"largest": 0.5}, recipe_sha256="abc")


def trained(seed: int, *, width: int = 5) -> tuple[nn.Module, AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    optimizer = make_optimizer(model, learning_rate=0.1, weight_decay=0.1)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: AdamW) -> None:
    model(torch.linspace(0, 1, 12).reshape(3, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def test_what_is_loaded_goes_on_as_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model, optimizer = trained(0)
    save_checkpoint(path, model, optimizer, STATE)
    other, other_optimizer = trained(1)
    load_model(path, other)
    load_optimizer(path, other, other_optimizer)
    step(model, optimizer)
    step(other, other_optimizer)
    assert all(it.equal(other.state_dict()[name]) for name, it in model.state_dict().items())
    assert read_state(path) == STATE
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_no_step_used_has_no_optimizer_state(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model, optimizer = trained(0)
    unused = nn.Sequential(model, nn.Linear(2, 2))
    optimizer.add_param_group({"params": unused[1].parameters(), "weight_decay": 0.0})
    save_checkpoint(path, unused, optimizer, STATE)
    load_optimizer(path, unused, optimizer)
    assert not any(parameter in optimizer.state for parameter in unused[1].parameters())


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path, files_limited) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model, optimizer = trained(0)
    save_checkpoint(path, model, optimizer, STATE)
    before = path.read_bytes()
    refused = pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be written: ")
    with refused, files_limited(1000):
        save_checkpoint(path, model, optimizer, STATE.model_copy(update={"epoch": 4}))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        save_checkpoint(tmp_path / "gone" / "checkpoint.safetensors", *trained(0), STATE)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, *trained(0), STATE)
    message = r"holds the weights of another network: '0.weight' must be \(6, 4\), got \(5, 4\)"
    with pytest.raises(UserError, match=message):
        load_model(path, trained(0, width=6)[0])
    with pytest.raises(UserError, match=r"another network: lacks tensor '0\.0\.weight'"):
        load_model(path, nn.Sequential(trained(0)[0]))
    with pytest.raises(UserError, match=r"another network: has an unknown tensor '1\.bias'"):
        load_model(path, nn.Sequential(nn.Linear(4, 5)))


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 100])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be read: ") as error:
        read_state(path)
    assert "\n" not in str(error.value)


def test_a_file_without_state_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "checkpoint.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is no checkpoint of nas train-supernet"):
        read_state(path)


@pytest.fixture
def two_epochs(tmp_path: Path) -> Path:
    """A checkpoint after epoch 4, and the one before, after epoch 3."""
    path = tmp_path / "checkpoint.safetensors"
    model, optimizer = trained(0)
    save_checkpoint(path, model, optimizer, STATE)
    step(model, optimizer)
    save_checkpoint(path, model, optimizer, STATE.model_copy(update={"epoch": 4}))
    return path


def with_a_flipped_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def load_all(path: Path, model: nn.Module, optimizer: AdamW) -> None:
    load_model(path, model)
    load_optimizer(path, model, optimizer)


def test_the_checkpoint_before_is_kept(two_epochs: Path) -> None:
    assert read_state(two_epochs).epoch == 4
    assert read_state(two_epochs.with_name(PREVIOUS)) == STATE
    assert mend_checkpoint(two_epochs) is None
    assert read_state(two_epochs).epoch == 4


def test_a_flipped_bit_anywhere_is_found(two_epochs: Path) -> None:
    whole = two_epochs.read_bytes()
    model, optimizer = trained(0)
    state = whole.index(b'epoch\\":4') + len(b'epoch\\":')
    for place in (0, 100, state, *range(len(whole) // 2, len(whole), 97), len(whole) - 1):
        two_epochs.write_bytes(whole)
        with_a_flipped_bit(two_epochs, place)
        with pytest.raises(DamagedError):
            load_all(two_epochs, model, optimizer)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(two_epochs: Path, damage: str) -> None:
    content = two_epochs.read_bytes()
    if damage == "flipped":
        with_a_flipped_bit(two_epochs, len(content) - 5)
    else:
        two_epochs.write_bytes(content[: len(content) // 2] if damage == "short" else b"")
    with pytest.raises(DamagedError):
        load_optimizer(two_epochs, *trained(0))
    line = mend_checkpoint(two_epochs)
    assert line is not None
    assert line.startswith(str(two_epochs))
    assert line.endswith("; going on from the one before, previous.safetensors")
    assert "\n" not in line
    load_all(two_epochs, *trained(0))
    assert read_state(two_epochs) == STATE
    assert mend_checkpoint(two_epochs) is None


def test_a_missing_checkpoint_gives_way_to_the_one_before(two_epochs: Path) -> None:
    two_epochs.unlink()  # a kill between the two renames
    assert mend_checkpoint(two_epochs) is None
    assert read_state(two_epochs) == STATE


def test_two_damaged_checkpoints_are_one_line(two_epochs: Path) -> None:
    for path in (two_epochs, two_epochs.with_name(PREVIOUS)):
        path.write_bytes(b"x")
    with pytest.raises(DamagedError, match=r"previous\.safetensors: cannot be read"):
        mend_checkpoint(two_epochs)
    two_epochs.with_name(PREVIOUS).unlink()
    with pytest.raises(DamagedError, match=r"checkpoint\.safetensors: cannot be read"):
        mend_checkpoint(two_epochs)
