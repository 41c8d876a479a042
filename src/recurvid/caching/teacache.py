"""TeaCache (Liu et al., 2411.19108) with the numbers of the released FramePack code.

How far the outcome moves from step to step is guessed from how far the modulated input of the first
block moves, through a polynomial fitted on HunyuanVideo. While the guesses add up to less than the
threshold, the last residual of the blocks is added to the new tokens.
"""

from __future__ import annotations

import math
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

    def covered(self, step: Step, seen: Tensor) -> float:
        """Distance since the last computed step; infinite where this one must be computed.

        Args:
            seen: (b, n, d), the first block's modulated input in this step.
        """
        if step.is_first or step.is_last or self._before is None:
            return math.inf
        return self._covered + self.distance(relative_change(seen, self._before))

    def is_due(self, covered: float) -> bool:
        """Whether a step with so much covered must be computed. NaN must."""
        return not (self.threshold > 0 and covered < self.threshold)

    def passed_over(self, seen: Tensor, covered: float) -> None:
        """The step was skipped. The next change is measured from it all the same."""
        self._before, self._covered = seen, covered

    def computed(self, seen: Tensor) -> None:
        """The step was computed."""
        self._before, self._covered = seen, 0.0

    def forget(self) -> None:
        """Let go of what was seen; the next step, or this one once more, is then due."""
        self._before, self._covered = None, 0.0

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
            self.computed = []
        seen = probe()
        covered = self._rule.covered(step, seen)
        if self._residual is not None and not self._rule.is_due(covered):
            out = tokens + self._residual
            self._rule.passed_over(seen, covered)
            self.computed.append(False)
            return out
        # Their memory is free while the blocks run; and should these fail, the step stays due.
        self._rule.forget()
        self._residual = None
        out = after_all(tokens, blocks())
        self._residual = out - tokens
        self._rule.computed(seen)
        self.computed.append(True)
        return out
