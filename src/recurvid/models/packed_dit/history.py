"""Patchify layers of the packed context: one projection a kernel, each with weights of its own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.errors import InputError

Size = tuple[int, int, int]  # (t, h, w) in latents

NATIVE_NAMES: dict[Size, str] = {
    (1, 2, 2): "proj",
    (2, 4, 4): "proj_2x",
    (4, 8, 8): "proj_4x",
    (8, 16, 16): "proj_8x",
}
COARSEST: Size = (8, 16, 16)


def pooling(size: Size) -> int:
    """How often a kernel's latents are halved 2x2x2 before a layer sees them, as a factor.

    k16, k32, ... have no weights: they are averaged down to k8 (paper section 1, "Independent
    patchify parameters"). Every other kernel: 1.
    """
    factor = size[0] // COARSEST[0]
    coarser = factor > 1 and factor & (factor - 1) == 0
    return factor if coarser and size == tuple(factor * n for n in COARSEST) else 1


def layer_name(size: Size) -> str:
    """Name of the layer that serves a kernel: the released names, else ``proj_{t}x{h}x{w}``."""
    own = COARSEST if pooling(size) > 1 else size
    return NATIVE_NAMES.get(own, f"proj_{own[0]}x{own[1]}x{own[2]}")


def pad_to_multiple(latents: Tensor, size: Size) -> Tensor:
    """Repeat the last frame, row, column of (b, c, t, h, w) up to multiples of ``size``."""
    t, h, w = (-n % k for n, k in zip(latents.shape[2:], size, strict=True))
    if not (t or h or w):
        return latents
    return F.pad(latents, (0, w, 0, h, 0, t), mode="replicate")


class HistoryEmbedder(nn.Module):
    """Latents of past frames to tokens, through the layer of their kernel."""

    def __init__(self, in_channels: int, width: int, kernels: Iterable[Size]):
        super().__init__()
        for size in kernels:
            own = COARSEST if pooling(size) > 1 else size
            layer = nn.Conv3d(in_channels, width, kernel_size=own, stride=own)
            self.add_module(layer_name(own), layer)

    def forward(self, latents: Tensor, size: Size) -> Tensor:
        """(b, c, t, h, w) to (b, n, d), tokens ordered by frame, row, column.

        Raises:
            InputError: no layer for this kernel.
        """
        name = layer_name(size)
        if name not in self._modules:
            raise InputError(
                f"the model has no patchify layer for context kernel {size}; add it to the "
                f"config's context_kernels (it has {', '.join(self._modules)})"
            )
        latents = pad_to_multiple(latents, size)
        if (factor := pooling(size)) > 1:
            latents = F.avg_pool3d(latents, factor)
        return self.get_submodule(name)(latents).flatten(2).transpose(1, 2)


@torch.no_grad()
def init_from_patchify(layer: nn.Conv3d, pretrained: nn.Conv3d) -> None:
    """Start a coarse patchify layer from the (1, 2, 2) one, as the paper's code does.

    The weight is repeated to fill the larger kernel and divided by the ratio of volumes, the bias
    copied: at first the layer equals the pretrained one on average-pooled latents.
    """
    big, small = layer.kernel_size, pretrained.kernel_size
    if any(b % s for b, s in zip(big, small, strict=True)):
        raise InputError(f"a {big} kernel cannot be tiled with {small}")
    ratio = [b // s for b, s in zip(big, small, strict=True)]
    weight = pretrained.weight
    for axis, count in enumerate(ratio, start=2):
        weight = weight.repeat_interleave(count, dim=axis)
    layer.weight.copy_(weight / (ratio[0] * ratio[1] * ratio[2]))
    if layer.bias is not None and pretrained.bias is not None:
        layer.bias.copy_(pretrained.bias)
