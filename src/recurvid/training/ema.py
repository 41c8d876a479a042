"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Keeps fp32 averages of a model's parameters; the decay warms up with the step count."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.values = [p.detach().clone().float() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the averages towards the model's parameters."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        params: list[Tensor] = [p.detach().float() for p in model.parameters()]
        # one launch for many small weights
        torch._foreach_lerp_(self.values, params, weight)  # pyright: ignore

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the averages into the model."""
        for p, value in zip(model.parameters(), self.values, strict=True):
            p.copy_(value)
