"""How long a run trains: seconds of the clock (a rented device), or steps (to be repeatable)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """The length of a run.

    Attributes:
        seconds: after ``began``; used where ``steps`` is 0.
        steps: optimiser steps.
    """

    seconds: float
    steps: int = 0
    began: float = field(default_factory=time.monotonic)

    def progress(self, step: int) -> float:
        """Share of the run that is over before step number ``step``; 1 or more at its end."""
        if self.steps:
            return step / self.steps
        return (time.monotonic() - self.began) / self.seconds


def warm_cosine(step: int, progress: float, *, warm: int, flat: float) -> float:
    """Factor of the learning rate: linear warm-up, constant until ``flat``, cosine to 2 %."""
    decay = 1.0
    if progress > flat:
        decay = 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - flat) / (1 - flat)))
    return min(1.0, (step + 1) / warm) * max(0.02, decay)
