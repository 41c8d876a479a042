"""Extrapolation of the residual (TaylorSeer, Liu et al., 2503.06923) instead of repeating it.

TaylorSeer predicts the features of every block by finite differences over the steps computed last.
Here it is the residual of all blocks together, which costs one tensor an order instead of one a
block; and TeaCache's rule says when to compute, where TaylorSeer counts steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurvid.caching.protocol import Blocks, Probe, Step, after_all
from recurvid.caching.teacache import COEFFICIENTS, DistanceRule
from recurvid.caching.thresholds import THRESHOLDS
from recurvid.errors import InputError


class TaylorCache:
    """Follows the residual along the polynomial through the steps computed last.

    The variable is the number of the call. Before ``order + 1`` steps are computed the order is
    lower. Holds ``order + 2`` tensors of the size of the video tokens.

    Args:
        threshold: as TeaCache's.
        order: 1 or 2; 0 would be TeaCache.
        coefficients: as TeaCache's.
    """

    def __init__(
        self,
        threshold: float = THRESHOLDS["taylor"],
        order: int = 1,
        coefficients: Sequence[float] = COEFFICIENTS,
    ):
        if order not in (1, 2):
            raise InputError(f"step cache: Taylor extrapolation has orders 1 and 2, not {order}")
        self.computed: list[bool] = []
        self._order = order
        self._rule = DistanceRule(threshold, coefficients)
        self._past: list[tuple[int, Tensor]] = []  # number of the call and residual, newest first

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """See StepCache."""
        if step.is_first:
            self.computed, self._past = [], []
        seen = probe()
        covered = self._rule.covered(step, seen)
        if self._past and not self._rule.is_due(covered):
            out = self._told(step, tokens)
            self._rule.passed_over(seen, covered)
            self.computed.append(False)
            return out
        self._rule.forget()  # should the blocks fail, the step stays due
        out = after_all(tokens, blocks())
        self._past = [(step.index, out - tokens), *self._past][: self._order + 1]
        self._rule.computed(seen)
        self.computed.append(True)
        return out

    def _told(self, step: Step, tokens: Tensor) -> Tensor:
        nodes = [index for index, _ in self._past]
        # Differences of nearly equal tensors: in bf16 their digits would be lost.
        residual = torch.zeros_like(tokens, dtype=torch.promote_types(tokens.dtype, torch.float32))
        for weight, (_, value) in zip(weights_at(step.index, nodes), self._past, strict=True):
            residual.add_(value, alpha=weight)
        return tokens + residual.to(tokens.dtype)


def weights_at(position: int, nodes: Sequence[int]) -> list[float]:
    """Lagrange's weights: the polynomial through values at ``nodes``, evaluated at ``position``."""
    weights: list[float] = []
    for i, node in enumerate(nodes):
        weight = 1.0
        for k, other in enumerate(nodes):
            if k != i:
                weight *= (position - other) / (node - other)
        weights.append(weight)
    return weights
