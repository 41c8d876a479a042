"""How the size of the blocks' residual goes from step to step, measured once for a model.

MagCache rests on it: the ratios hardly depend on prompt, picture and seed. They do depend on the
weights and on the number of steps, so a calibration may hold several runs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from recurvid.caching.protocol import Blocks, Probe, Step, after_all
from recurvid.errors import CheckpointError, InputError

FILE = "magcache.json"  # beside a transformer's weights
_LARGEST_FILE = 1_000_000
JUMP = 0.06  # FramePack-Studio's


@dataclass(frozen=True)
class Calibration:
    """Mean over tokens of |residual| / |residual of the step before|, for each step of a run.

    Attributes:
        runs: number of steps -> that many ratios, the first of which is 1.
        jump: a step whose ratio is further from 1 stands out, and is always computed. A model whose
            residual shrinks evenly, but faster than that, needs a higher one.

    Raises:
        InputError: no run, a run of another length, or a number that is not above zero.
    """

    runs: Mapping[int, tuple[float, ...]]
    jump: float = JUMP

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("magcache calibration: holds no run")
        if not (math.isfinite(self.jump) and self.jump > 0):
            raise InputError(f"magcache calibration: the jump {self.jump} is not above 0")
        for steps, ratios in self.runs.items():
            if len(ratios) != steps or not ratios:
                raise InputError(f"magcache calibration: {len(ratios)} ratios for {steps} steps")
            if not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
                raise InputError(
                    f"magcache calibration: a ratio of the {steps} steps is not above 0"
                )

    def at(self, steps: int) -> tuple[float, ...]:
        """Ratios for a run of ``steps``: of the run nearest in length, each step's nearest."""
        measured = self.runs[min(sorted(self.runs), key=lambda known: abs(known - steps))]
        if steps == 1:
            return measured[-1:]
        scale = (len(measured) - 1) / (steps - 1)
        return tuple(measured[round(i * scale)] for i in range(steps))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        runs = {str(steps): list(ratios) for steps, ratios in sorted(self.runs.items())}
        known = {"format": 1, "jump": self.jump, "ratios": runs}
        path.write_text(json.dumps(known, indent=1) + "\n", "utf-8")

    def digest(self) -> str:
        """A short text that differs for other numbers."""
        runs = sorted((steps, tuple(ratios)) for steps, ratios in self.runs.items())
        told = repr(runs) if self.jump == JUMP else repr((runs, self.jump))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @staticmethod
    def load(path: Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is something else.
        """
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ValueError("too large")
            known = json.loads(path.read_text("utf-8"))
            runs = known["ratios"]
            measured = {int(n): tuple(map(float, runs[n])) for n in runs}
            return Calibration(measured, float(known.get("jump", JUMP)))
        except (OSError, ValueError, TypeError, KeyError, RecursionError, InputError) as error:
            raise CheckpointError(f"{path}: not a calibration for magcache ({error})") from None

    @staticmethod
    def of(runs: Sequence[Sequence[float]], jump: float = JUMP) -> Calibration:
        """Of recorded runs; those of one length are averaged.

        Raises:
            InputError: nothing was recorded, or the blocks added nothing.
        """
        lengths = {len(run) for run in runs}
        return Calibration(
            {
                length: tuple(
                    round(sum(values) / len(values), 5)
                    for values in zip(*(r for r in runs if len(r) == length), strict=True)
                )
                for length in lengths
            },
            jump,
        )


class RatioRecorder:
    """A cache that skips nothing and writes down the ratios."""

    def __init__(self) -> None:
        self.computed: list[bool] = []
        self.ratios: list[float] = []
        self._size: Tensor | None = None

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """See StepCache."""
        if step.is_first:
            self.computed, self.ratios, self._size = [], [], None
        out = after_all(tokens, blocks())
        size = (out - tokens).float().norm(dim=-1)  # (b, n)
        ratio = 1.0 if self._size is None else (size / self._size).mean().item()
        self.ratios.append(ratio)
        self.computed.append(True)
        self._size = size
        return out
