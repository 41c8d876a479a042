"""PyTorch's scaled-dot-product attention; torch picks cuDNN, flash, efficient or plain."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend, AttentionSpec

#: Below this many queries speed does not count (a prompt in the refiner), but precision does, and
#: fast kernels have gaps there: they leave such calls to torch.
SHORT = 256


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by torch, which chooses among its kernels.

    A mask keeps flash kernels away, so callers crop where they can.
    """
    heads_first = (x.transpose(1, 2) for x in (q, k, v))  # (b, heads, n, head_dim)
    bias = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(*heads_first, attn_mask=bias).transpose(1, 2)


def _why_not(spec: AttentionSpec) -> str | None:
    return None if spec.dtype.is_floating_point else f"{spec.dtype} is not floating point"


SDPA = AttentionBackend("sdpa", attend, _why_not)
