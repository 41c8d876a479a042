"""MagCache (Ma et al., 2506.09045): skips by a schedule measured once, and looks at nothing.

The residual of the blocks shrinks slowly from step to step. While the measured ratios say that it
is still nearly the same, the last one is added to the new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recurvid.caching.calibration import JUMP, Calibration
from recurvid.caching.protocol import Blocks, Probe, Step, after_all
from recurvid.caching.thresholds import THRESHOLDS

# Measured by FramePack-Studio (Apache-2.0): seed 31337, base size 640, 25 steps.
_INVERTED = (
    1.0, 1.30469, 1.22656, 1.05469, 1.02344, 1.03906, 1.02344, 1.03906, 1.05469, 1.02344, 1.03906,
    0.99609, 1.02344, 1.03125, 1.01562, 1.02344, 1.00781, 1.03906, 0.98828, 1.0, 1.0, 0.98828,
    0.94531, 0.93359, 0.78516,
)  # fmt: skip
_F1 = (
    1.0, 1.27344, 1.07031, 1.03906, 1.00781, 1.00781, 1.00781, 1.03125, 1.04688, 1.00781, 1.03125,
    0.99219, 1.01562, 1.01562, 1.01562, 1.00781, 0.98438, 1.05469, 0.98438, 0.96875, 1.03125,
    0.97266, 0.92578, 0.95703, 0.77734,
)  # fmt: skip

#: By the name of the model.
PUBLISHED: dict[str, Calibration] = {
    "framepack": Calibration({25: _INVERTED}),
    "framepack-f1": Calibration({25: _F1}),
}


@dataclass(frozen=True)
class MagRule:
    """When MagCache skips, as FramePack-Studio has it.

    Attributes:
        threshold: sum of the expected errors of a row of skips; 0 skips nothing.
        longest: skips in a row.
        kept: part of the run, from its start, that is always computed.
        jump: a step whose ratio is further from 1 is always computed.
    """

    threshold: float = THRESHOLDS["magcache"]
    longest: int = 2
    kept: float = 0.25
    jump: float = JUMP


@dataclass(frozen=True)
class _Row:
    """Skips since the last computed step: the residual's size now over then, the errors' sum."""

    size: float = 1.0
    error: float = 0.0
    skipped: int = 0

    def longer(self, ratio: float) -> _Row:
        """With one more skip."""
        size = self.size * ratio
        return _Row(size, self.error + abs(1 - size), self.skipped + 1)


class MagCache:
    """Adds the blocks' last residual in the steps where it is known to change little.

    Holds one tensor of the size of the video tokens, and never waits for the device.
    """

    def __init__(self, calibration: Calibration, rule: MagRule | None = None):
        self.computed: list[bool] = []
        self._calibration = calibration
        self._rule = rule or MagRule()
        self._residual: Tensor | None = None
        self._row = _Row()

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """See StepCache."""
        if step.is_first:
            self.computed, self._residual, self._row = [], None, _Row()
        ratio = self._calibration.at(step.count)[step.index]
        row = self._row.longer(ratio)
        if self._residual is not None and not self._is_due(step, ratio, row):
            out = tokens + self._residual
            self._row = row
            self.computed.append(False)
            return out
        # Its memory is free while the blocks run; and should these fail, the step stays due.
        self._residual, self._row = None, _Row()
        out = after_all(tokens, blocks())
        self._residual = out - tokens
        self.computed.append(True)
        return out

    def _is_due(self, step: Step, ratio: float, row: _Row) -> bool:
        rule = self._rule
        return (
            step.index < int(rule.kept * step.count)
            or not rule.threshold > 0
            or row.error > rule.threshold
            or row.skipped > rule.longest
            or abs(1 - ratio) > rule.jump
        )
