"""First-block cache (from ParaAttention; also in diffusers): the first block is its own probe.

The first block always runs. If what it adds differs little from what it added when all blocks last
ran, the others are taken to add what they added then.
"""

from __future__ import annotations

from contextlib import closing

from torch import Tensor

from recurvid.caching.protocol import Blocks, Probe, Step, after_all, relative_change
from recurvid.caching.thresholds import THRESHOLDS


class FirstBlockCache:
    """Skips the blocks after the first while the first adds nearly the same.

    The comparison is with the last step that was *computed*, so nothing adds up unseen. The first
    and the last step are always computed. Holds two tensors of the size of the video tokens.

    Args:
        threshold: relative change of the first block's residual below which the rest is skipped.
    """

    def __init__(self, threshold: float = THRESHOLDS["first-block"]):
        self.threshold = threshold
        self.computed: list[bool] = []
        self._first: Tensor | None = None
        self._rest: Tensor | None = None

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """See StepCache."""
        if step.is_first:
            self.computed, self._first, self._rest = [], None, None
        with closing(blocks()) as running:
            start = next(running, tokens)
            added = start - tokens
            if not step.is_last and self._rest is not None and not self._has_changed(added):
                out = start + self._rest
                self.computed.append(False)
                return out
            # Their memory is free while the blocks run; and should these fail, the step stays due.
            self._first = self._rest = None
            out = after_all(start, running)
        self._first, self._rest = added, out - start
        self.computed.append(True)
        return out

    def _has_changed(self, added: Tensor) -> bool:
        if self._first is None or not self.threshold > 0:
            return True
        return not relative_change(added, self._first) < self.threshold
