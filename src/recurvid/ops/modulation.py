"""adaLN: a LayerNorm whose shift and scale come from the timestep, and gated residuals."""

from __future__ import annotations

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
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]


def gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """Residual connection: x (b, n, d) + gate (b, d) * update (b, n, d)."""
    return x + gate[:, None] * update
