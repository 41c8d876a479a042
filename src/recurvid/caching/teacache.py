"""TeaCache (Liu et al., 2411.19108) with the numbers of the released FramePack code.

How far the outcome moves from step to step is guessed from how far the modulated input of the first
block moves, through a polynomial fitted on HunyuanVideo. While the guesses add up to less than the
threshold, the last residual of the blocks is added to the new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recurvid.caching.protocol import Blocks, Probe, Step, after_all, relative_change
from recurvid.caching.thresholds import THRESHOLDS

#: Highest degree first (hunyuan_video_packed.py, 822-830).
COEFFICIENTS = (7.33226126e02, -4.01131952e02, 6.75869174e01, -3.14987800e00, 9.61237896e-02)


class DistanceRule:
    """When TeaCache computes: in the first and the last step, and when the distance is covered.

    Args:
        threshold: distance that may pass; 0 computes every step.
        coefficients: of the polynomial from relative change to distance, highest degree first.
    """

    def __init__(self, threshold: float, coefficients: Sequence[float] = COEFFICIENTS):
        self.threshold = threshold
        self.coefficients = tuple(coefficients)
        self._covered = 0.0
        self._before: Tensor | None = None

    def is_due(self, step: Step, probe: Probe) -> bool:
        """Whether this step must be computed. Ask once a step: the answer moves the rule on."""
        seen = probe()
        due = step.is_first or step.is_last or self._before is None
        if not due:
            assert self._before is not None
            self._covered += self.distance(relative_change(seen, self._before))
            # Said this way round, NaN computes.
            due = not (self.threshold > 0 and self._covered < self.threshold)
        if due:
            self._covered = 0.0
        self._before = seen  # in every step, skipped or not
        return due

    def distance(self, change: float) -> float:
        """The polynomial."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value


class TeaCache:
    """Adds the blocks' last residual while little has changed.

    Holds two tensors of the size of the video tokens.
    """

    def __init__(
        self,
        threshold: float = THRESHOLDS["teacache"],
        coefficients: Sequence[float] = COEFFICIENTS,
    ):
        self.computed: list[bool] = []
        self._rule = DistanceRule(threshold, coefficients)
        self._residual: Tensor | None = None

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """See StepCache."""
        if step.is_first:
            self.computed, self._residual = [], None
        due = self._rule.is_due(step, probe) or self._residual is None
        self.computed.append(due)
        if not due:
            assert self._residual is not None
            return tokens + self._residual
        self._residual = None  # its memory is free while the blocks run
        out = after_all(tokens, blocks())
        self._residual = out - tokens
        return out
