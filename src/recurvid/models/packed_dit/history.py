"""Patchify layers of the packed context: one projection a kernel, each with weights of its own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.errors import InputError
from recurvid.packing.kernel import Kernel

COARSEST = Kernel(8, 16, 16)
NATIVE_NAMES = {
    Kernel(1, 2, 2): "proj",
    Kernel(2, 4, 4): "proj_2x",
    Kernel(4, 8, 8): "proj_4x",
    COARSEST: "proj_8x",
}


def pooling(kernel: Kernel) -> int:
    """By what factor latents are averaged in t, h and w before a layer sees them.

    k16, k32, ... have no weights: they are averaged down to k8 (paper section 1, "Independent
    patchify parameters"). Every other kernel: 1.
    """
    factor = kernel.t // COARSEST.t
    power_of_two = factor > 0 and factor & (factor - 1) == 0
    return factor if kernel.is_short and kernel.t % COARSEST.t == 0 and power_of_two else 1


def layer_kernel(kernel: Kernel) -> Kernel:
    """The kernel whose weights serve ``kernel``: itself, or k8 for what is coarser."""
    return COARSEST if pooling(kernel) > 1 else kernel


def layer_name(kernel: Kernel) -> str:
    """Name of the layer that serves a kernel: the released names, else ``proj_{t}x{h}x{w}``."""
    own = layer_kernel(kernel)
    return NATIVE_NAMES.get(own, f"proj_{own.t}x{own.h}x{own.w}")


def pad_to_multiple(latents: Tensor, kernel: Kernel) -> Tensor:
    """Repeat the last frame, row, column of (b, c, t, h, w) up to multiples of the kernel."""
    frames, height, width = latents.shape[2:]
    t, h, w = -frames % kernel.t, -height % kernel.h, -width % kernel.w
    if not (t or h or w):
        return latents
    return F.pad(latents, (0, w, 0, h, 0, t), mode="replicate")


class HistoryEmbedder(nn.Module):
    """Latents of past frames to tokens, through the layer of their kernel."""

    def __init__(self, in_channels: int, width: int, kernels: Iterable[Kernel]):
        super().__init__()
        for kernel in dict.fromkeys(map(layer_kernel, kernels)):
            size = (kernel.t, kernel.h, kernel.w)
            layer = nn.Conv3d(in_channels, width, kernel_size=size, stride=size)
            self.add_module(layer_name(kernel), layer)

    def forward(self, latents: Tensor, kernel: Kernel) -> Tensor:
        """(b, c, t, h, w) to (b, n, d), tokens ordered by frame, row, column.

        Raises:
            InputError: no layer for this kernel.
        """
        layer = self._modules.get(layer_name(kernel))
        if layer is None:
            raise InputError(
                f"context: the model has no patchify layer for kernel {kernel}; "
                f"add it to the config's context_kernels (there is {', '.join(self._modules)})"
            )
        latents = pad_to_multiple(latents, kernel)
        if (factor := pooling(kernel)) > 1:
            latents = F.avg_pool3d(latents, factor)
        return layer(latents).flatten(2).transpose(1, 2)


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
