"""How long a job will take, from what its steps have taken."""

from __future__ import annotations

from collections import deque
from statistics import median

_KEPT = 15


class Estimate:
    """Time left, measured while a job runs.

    Args:
        sections: of the whole video.
        done: sections that were finished before this run.
    """

    def __init__(self, sections: int, done: int = 0):
        self._sections, self._done = sections, done
        self._steps: deque[float] = deque(maxlen=_KEPT)
        self._decodes: deque[float] = deque(maxlen=_KEPT)
        self._last: tuple[str, int, float] | None = None
        self._decode_began: float | None = None
        self._step, self._of = 0, 0

    def step(self, phase: str, step: int, steps: int, now: float) -> None:
        """Take notice of a finished step at ``now`` seconds."""
        if phase == "denoise":
            # The first step of a section has packing in it; the first of a run warms up, too.
            if self._last is not None and self._last[0] == phase and step == self._last[1] + 1:
                self._steps.append(now - self._last[2])
            self._step, self._of = step, steps
        elif phase == "decode" and step == 0:
            self._decode_began = now
        self._last = (phase, step, now)

    def section(self, now: float) -> None:
        """Take notice of a finished section."""
        if self._decode_began is not None:
            self._decodes.append(now - self._decode_began)
        self._done += 1
        self._step, self._decode_began = 0, None

    def seconds_left(self) -> float | None:
        """None while nothing is measured."""
        if not self._steps or not self._of:
            return None
        sections = max(0, self._sections - self._done)
        steps = max(0, sections * self._of - self._step)
        decode = median(self._decodes) if self._decodes else 0.0
        return round(steps * median(self._steps) + sections * decode, 1)
