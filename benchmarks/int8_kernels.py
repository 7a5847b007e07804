"""Int8 through the kernels of a CPU without VNNI, on one that has it: plain sessions, emulated.

    .venv/bin/python benchmarks/int8_kernels.py --emulator "qemu-x86_64-static -cpu Haswell"

The emulator runs Python as a program of its own (QEMU 7.2 or later: it has AVX2 and no VNNI), so
that onnxruntime takes other kernels, which add two products of 8 bits in 16. A network of the
demo's space is trained on digits and exported in int8 by what ``nas export`` does on a CPU without
VNNI (weights of 7 bits) and on one with it (8 bits). ``agreement`` is the share of the test images
that get the class that torch gives in float32; the proof's is of images of the search slice. The
first line shows that sums of extreme products saturate there, and with 7 bits do not.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nas.architecture import Architecture
from nas.data import Dataset
from nas.deploy.export import to_checked_int8, to_checked_onnx
from nas.deploy.quantize import largest_integer
from nas.deploy.weights import load_weights, save_weights
from nas.latency.target import detect_target, placement
from nas.network import build
from nas.report.terminal import print_table
from nas.slim.candidates import take_examples
from nas.space import SearchSpace
from nas.training.alone import train_alone
from nas.training.settings import RECIPES, DataSettings

WITHOUT_VNNI = ("x86_64", "avx", "avx2", "fma")
WITH_VNNI = (*WITHOUT_VNNI, "avx_vnni")
BITS = {7: WITHOUT_VNNI, 8: WITH_VNNI}
PLAIN = """
import sys
import numpy, onnxruntime
model, inputs, outputs = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
images = numpy.load(inputs)
numpy.save(outputs, numpy.concatenate([session.run(None, {name: it[None]})[0] for it in images]))
"""
"""A user's program: nothing but a session as onnxruntime makes it."""
SUMMED = 64
"""Products that the extreme sum adds."""


def main() -> None:
    """Train the network if it is not there, and print a line for each model and machine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_int8_kernels"))
    parser.add_argument("--emulator", required=True, help="what stands before python")
    parser.add_argument("--pictures", type=int, default=359, help="test images, at most")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    machines = {"native": [], "emulated": shlex.split(arguments.emulator)}
    show_extremes(arguments.out, machines)
    space = SearchSpace.load("demo_64px")
    dataset = DataSettings().load(space.largest_size)
    architecture = space.decode(space.uniform(0.5)).with_classes(len(dataset.classes))
    network = trained(architecture, dataset, arguments.out / f"{arguments.epochs}.safetensors",
                      arguments.epochs)  # fmt: skip
    test = dataset.test.subset(range(min(arguments.pictures, len(dataset.test))))
    ((images, labels),) = test.batches(len(test))
    with torch.inference_mode():
        exact = network(images).argmax(1).numpy()
    rows = [("float32 in torch", "", "", f"{100 * np.mean(exact == labels.numpy()):.1f} %")]
    for bits, flags in BITS.items():
        model, proof = in_int8(architecture, network, dataset, flags)
        file = arguments.out / f"{bits}_bits.onnx"
        onnx.save(model, file)
        for machine, before in machines.items():
            said = run_plain(file, images.numpy(), before).argmax(1)
            shares = (proof, np.mean(said == exact), np.mean(said == labels.numpy()))
            rows.append((f"{bits} bits, {machine}", *(f"{100 * it:.1f} %" for it in shares)))
    title = f"{len(test)} test images of digits, {arguments.emulator}"
    print_table(("model", "proof", "agreement", "accuracy"), rows, title=title)


def trained(architecture: Architecture, dataset: Dataset, file: Path, epochs: int) -> nn.Module:
    """The network after its training, from its file where that is there."""
    if not file.exists():
        recipe = RECIPES["light"].model_copy(update={"epochs": epochs})
        save_weights(train_alone(architecture, dataset, recipe), file)
    network = build(architecture).eval()
    load_weights(network, file)
    return network


def in_int8(
    architecture: Architecture, network: nn.Module, dataset: Dataset, flags: Sequence[str]
) -> tuple[onnx.ModelProto, float]:
    """The network as it is exported on a CPU with these features, and the agreement of its proof.

    The proof runs here, on the kernels of this machine.
    """
    target = detect_target(precision="int8").model_copy(update={"cpu_flags": tuple(flags)})
    exact, _ = to_checked_onnx(network, architecture.input_shape)
    return to_checked_int8(exact, network, take_examples(dataset), placement(target))


def run_plain(file: Path, inputs: np.ndarray, before: Sequence[str]) -> np.ndarray:
    """What a user's program computes, started by the words ``before``; (N, outputs)."""
    given, found = file.with_suffix(".in.npy"), file.with_suffix(".out.npy")
    np.save(given, inputs)
    words = [*before, sys.executable, "-c", PLAIN, str(file), str(given), str(found)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(before)} ended with {done.returncode}: {done.stderr[-2000:]}")
    outputs: np.ndarray = np.load(found)
    return outputs


def show_extremes(folder: Path, machines: dict[str, list[str]]) -> None:
    """Print a sum of the largest products, as it is and as each machine computes it."""
    for bits in BITS:
        file, exact = folder / f"extreme_{bits}.onnx", 255 * largest_integer(bits) * SUMMED
        onnx.save(extreme(bits), file)
        sums = {
            name: run_plain(file, np.full((1, SUMMED), 255, np.float32), before)[0, 0]
            for name, before in machines.items()
        }
        told = ", ".join(f"{name} {total:,.0f}" for name, total in sums.items())
        print(f"the largest sum of {SUMMED} products of {bits} bits is {exact:,}: {told}")


def extreme(bits: int) -> onnx.ModelProto:
    """A product of rounded matrices in which every weight is the largest; numbers are integers."""
    weight = np.full((SUMMED, 4), largest_integer(bits), np.int8)
    one, step = np.float32(1), np.float32(largest_integer(bits) * SUMMED)
    zero, signed = np.uint8(0), np.int8(0)
    constants = {"weight": weight, "one": one, "step": step, "zero": zero, "signed": signed}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "one", "zero"], ["x1"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "signed"], ["w1"]),
        helper.make_node("MatMul", ["x1", "w1"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "step", "zero"], ["y8"]),
        helper.make_node("DequantizeLinear", ["y8", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "extreme",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SUMMED])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(it), name) for name, it in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


if __name__ == "__main__":
    main()
