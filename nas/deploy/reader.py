"""Reads safetensors with nothing but torch: it goes into standalone source files."""

from __future__ import annotations

import json
from pathlib import Path

import torch

TYPES = {"F32": torch.float32, "I64": torch.int64}
"""The types in our files (https://github.com/huggingface/safetensors#format): weights, counters."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file: the header's length, a JSON header, then the numbers."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        numbers = content[start + first : start + last]
        tensors[name] = torch.frombuffer(numbers, dtype=TYPES[entry["dtype"]]).view(entry["shape"])
    return tensors
