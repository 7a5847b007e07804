"""One network's weights on images of several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.architecture import Architecture
from nas.network import build


class MultiScale(nn.Module):
    """The weights of a network of ``architecture``, for square images of each of ``resolutions``.

    Resolutions differ in attention biases only, which are stored by offset: those of a smaller map
    are a leading corner. Offsets that the network has no biases of start at 0, as fresh ones do.

    Raises:
        ValueError: a layer has other weights at another resolution, not merely more of them.
    """

    def __init__(
        self, architecture: Architecture, network: nn.Module, resolutions: Sequence[int]
    ) -> None:
        super().__init__()
        self.architecture = architecture
        with torch.device("meta"):
            plain = {it: build(architecture.with_input_size(it)) for it in resolutions}
        # beside the modules, not among them: they hold no weights
        self._plain = tuple(plain.items())
        self.weights = build(architecture.with_input_size(max(resolutions)))
        self.weights.to(next(network.parameters()))
        whole = self.weights.state_dict()
        for module in plain.values():
            for name, tensor in module.state_dict().items():
                if any(p > w for p, w in zip(tensor.shape, whole[name].shape, strict=True)):
                    raise ValueError(f"{name}: {tensor.shape} is no corner of {whole[name].shape}")
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if whole[name].shape != tensor.shape:
                    whole[name].zero_()
                whole[name][_corner(tensor)] = tensor

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, S, S) of one of the resolutions to logits (N, classes)."""
        module = dict(self._plain)[images.shape[-1]].train(self.training)
        return functional_call(module, self._views(module), (images,), strict=True)  # type: ignore[no-any-return]

    def extract(self) -> nn.Module:
        """An ordinary network at the architecture's own size that holds a copy of the weights."""
        with torch.device("meta"):
            network = build(self.architecture)
        state = {name: it.detach().clone() for name, it in self._views(network).items()}
        network.load_state_dict(state, strict=True, assign=True)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        return network.train(self.training)

    def _views(self, module: nn.Module) -> dict[str, Tensor]:
        whole = self.weights.state_dict(keep_vars=True)
        return {
            name: whole[name] if whole[name].shape == it.shape else whole[name][_corner(it)]
            for name, it in module.state_dict().items()
        }


def _corner(part: Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, side) for side in part.shape)
