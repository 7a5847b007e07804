"""The processes that train together: started by torchrun, or this one alone.

All draw the same subnets for a step, each takes its share of the batch, and gradients are added up.
Norms see the images of their own process only, as in torch's DistributedDataParallel, so a share
wants 16 images or more. All processes must see the run folder and the images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from nas.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # while the first process reads the images, or writes


class LostProcessError(UserError):
    """Another process has ended, and this one cannot continue alone."""


@dataclass(frozen=True)
class Processes:
    """This process, number ``rank`` of ``count`` (from 0), and the device that it computes on."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over all processes."""
        if self.count > 1:
            with self._one_line():
                distributed.all_reduce(tensor)

    def add_up_gradients(self, network: nn.Module, losses: Tensor) -> Tensor:
        """Add up the gradients, of the same parameters in each process; and return the losses'."""
        if self.count == 1:
            return losses
        gradients = [it.grad for it in network.parameters() if it.grad is not None]
        return self._add_up_together([*gradients, losses.clone()])[-1]

    def average_statistics(self, network: nn.Module) -> None:
        """Replace each norm's running statistics by their mean over all processes."""
        statistics = [tensor for tensor in network.buffers() if tensor.is_floating_point()]
        if self.count > 1 and statistics:
            for total in self._add_up_together(statistics):
                total.div_(self.count)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Stop all processes if one fails inside; the first process alone raises the UserError."""
        if self.count == 1:
            yield
            return
        message = None
        try:
            yield
        except LostProcessError:
            raise
        except UserError as error:
            message = str(error)
        messages: list[str | None] = [None] * self.count
        with self._one_line():
            distributed.all_gather_object(messages, message)
        message = next(filter(None, messages), None)
        if message is not None:
            raise UserError(message) if self.is_first else SystemExit(2)

    def in_turn(self, first: Callable[[], T], others: Callable[[], T]) -> T:
        """Call ``first`` in the first process, then ``others`` in the others; return the result."""
        results = []
        with self.together():
            if self.is_first:
                results.append(first())
        return results[0] if results else others()

    def _add_up_together(self, tensors: list[Tensor]) -> list[Tensor]:
        flat = torch.cat([tensor.reshape(-1).to(tensors[0].dtype) for tensor in tensors])
        self.add_up(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))  # in place: each keeps its memory format
        return tensors

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise LostProcessError(
                f"process {self.rank} of {self.count}: another process of this training has "
                f"ended: {reason}"
            ) from None


ALONE = Processes()


def is_first_process() -> bool:
    """Whether this process prints and writes; torchrun numbers the processes that it starts."""
    return os.environ.get("RANK", "0") == "0"


def find_device(name: str) -> torch.device:
    """The device, cpu or cuda, that one process computes on; raises UserError if there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': torch finds no GPU on this machine")
    return torch.device(name)


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Meet the processes that torchrun has started, if any: by gloo on CPUs, by nccl on GPUs."""
    own = find_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes(device=own)
        return
    if device == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), own)
    finally:
        distributed.destroy_process_group()
