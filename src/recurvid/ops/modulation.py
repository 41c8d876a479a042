"""adaLN: a LayerNorm whose shift and scale come from the timestep, and gated residuals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then scale and shift.

    Args:
        x: (b, n, d)
        shift: (b, d)
        scale: (b, d), 0 leaves the normalised value as it is.
    """
    y = F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]
    return y.half() if shift.dtype == torch.float16 else y  # see stream_type


def gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """Residual connection: x (b, n, d) + gate (b, d) * update (b, n, d), in x's type."""
    if update.dtype == torch.float16:
        return x + gate[:, None].to(x.dtype) * update
    return x + gate[:, None] * update


def stream_type(dtype: torch.dtype) -> torch.dtype:
    """Type of the tokens between layers of this type.

    float16 ends at 65504, and what residual connections add up over sixty blocks goes beyond;
    so there, and only there, they are added in float32. Layers see them normalised.
    """
    return torch.float32 if dtype == torch.float16 else dtype
