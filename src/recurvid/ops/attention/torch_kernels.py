"""Single kernels of PyTorch's scaled-dot-product attention, forced by name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.requirements import HALF, Requirements
from recurvid.ops.attention.sdpa import SHORT, attend

FLOATS = (*HALF, torch.float32)


def attend_cudnn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The kernel of cuDNN, forced: on Hopper 1.6 times as fast as flash attention."""
    assert mask is None
    if q.shape[1] < SHORT:
        return attend(q, k, v, mask)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return attend(q, k, v, None)


def attend_flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The flash attention 2 that torch brings, forced."""
    assert mask is None
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return attend(q, k, v, None)


def attend_efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Torch's memory-efficient kernel, forced: also fp32, masks, and old cards."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return attend(q, k, v, mask)


# The backward pass of cuDNN's kernel has crashed under compile (torch 2.11, H100): forward only.
CUDNN = AttentionBackend(
    "cudnn", attend_cudnn, Requirements(capability=(9, 0), head_dim=128, grad=False)
)
TORCH_FLASH = AttentionBackend(
    "torch-flash",
    attend_flash,
    # On the CPU torch's flash kernel takes fp32 too, but one list says less that could be wrong.
    Requirements(devices=("cuda", "cpu"), capability=(8, 0)),
)
TORCH_EFFICIENT = AttentionBackend(
    "torch-efficient",
    attend_efficient,
    Requirements(dtypes=FLOATS, capability=(5, 0), masks=True, head_dim=2**16),
)
