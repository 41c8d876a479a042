"""Flow-matching targets and loss; the conventions of this package seen from training."""

from __future__ import annotations

import torch
from torch import Tensor

from recurvid.sampling.sigmas import shift_sigma


def noised(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """State at noise level sigma, (1 - sigma) * data + sigma * noise.

    Args:
        data, noise: (b, ...), same shape and dtype.
        sigma: (b,), one level a sample.
    """
    sigma = sigma.to(device=data.device, dtype=data.dtype).view(-1, *(1,) * (data.ndim - 1))
    return (1 - sigma) * data + sigma * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """What the backbone is to predict, d x / d sigma = noise - data."""
    return noise - data


def sample_sigmas(
    batch: int,
    *,
    shift: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Logit-normal noise levels, shifted: (batch,) float32 on the CPU, strictly within 0..1.

    sigma = sigmoid(mean + std * z) (SD3, 2403.03206 section 3.1), then the same time shift as in
    inference. At shift 1, mean 0 half of the draws lie under 0.5.
    """
    logits = mean + std * torch.randn(batch, generator=generator, dtype=torch.float32)
    return shift_sigma(torch.sigmoid(logits), shift)


def flow_loss(
    prediction: Tensor, data: Tensor, noise: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Mean squared error of a predicted velocity, one number a sample: (b,) float32.

    Args:
        prediction: (b, ...), the backbone's output in any floating point type.
        data, noise: as ``prediction``.
        weight: broadcastable to ``prediction``; 0 leaves an element out, and the mean is over the
            weight that is there. A sample whose weights are all 0 has loss 0.
    """
    error = (prediction.float() - velocity(data.float(), noise.float())).square()
    if weight is None:
        return error.flatten(1).mean(1)
    weight = weight.float().expand_as(error)
    total = weight.flatten(1).sum(1)
    return (error * weight).flatten(1).sum(1) / torch.where(total > 0, total, 1.0)
