"""StepCache: what stands between a backbone and its blocks.

A cache is born for one section and one guidance branch and dies with them; it is handed in with
every call, and nothing of it lies on the model. The backbone gives it the tokens before the blocks,
a cheap look at what has changed, and the blocks, not run yet; it gives back the tokens after them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from recurvid.errors import InputError

Probe = Callable[[], Tensor]
"""Makes the modulated input of the first block, (b, n, d)."""

Blocks = Callable[[], Generator[Tensor, None, None]]
"""Starts the blocks: yields the video tokens (b, n, d) after each, run as they are asked for."""


@dataclass(frozen=True)
class Step:
    """One model call of a denoising run.

    Attributes:
        index: 0-based number of the call. A solver that looks twice a step makes two calls.
        count: calls that the run will make.
        sigma: noise level of the call.
    """

    index: int
    count: int
    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"step cache: call {self.index + 1} of {self.count}; a cache serves one section "
                f"and one guidance branch"
            )

    @property
    def is_first(self) -> bool:
        """Whether nothing was computed before it."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether its outcome is final."""
        return self.index == self.count - 1


@runtime_checkable
class StepCache(Protocol):
    """Decides which steps run the blocks, and answers for the others."""

    @property
    def computed(self) -> list[bool]:
        """Whether the blocks ran, for each call since the run's first."""
        ...

    def run(self, step: Step, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """Video tokens after the blocks, computed or told.

        Calls come in order. The first of a run forgets whatever was before. A call that failed,
        for want of memory say, may be made again, and is then as if it were the first attempt.

        Args:
            step: which call of the run it is.
            tokens: (b, n, d) before the blocks, context first.
            probe: what the first block sees, for caches that measure it.
            blocks: started at most once.

        Returns:
            (b, n, d). Where the blocks ran, their own outcome, to the bit.
        """
        ...


@dataclass(frozen=True)
class CachedStep:
    """A cache, and which call of its run this is: what a backbone takes as ``cache``."""

    cache: StepCache
    step: Step

    def run(self, tokens: Tensor, probe: Probe, blocks: Blocks) -> Tensor:
        """Video tokens (b, n, d) after the blocks, computed or told.

        Raises:
            InputError: the cache has seen other calls than those before this one.
        """
        seen = len(self.cache.computed)
        if self.step.index not in (0, seen):
            raise InputError(
                f"step cache: call {self.step.index + 1} came after {seen} calls; a cache serves "
                f"one section and one guidance branch"
            )
        return self.cache.run(self.step, tokens, probe, blocks)


def after_all(tokens: Tensor, blocks: Generator[Tensor, None, None]) -> Tensor:
    """Tokens after the last of the blocks; as they are where there is none."""
    for tokens in blocks:  # noqa: B007 - the last one is the result
        pass
    return tokens


def relative_change(now: Tensor, before: Tensor) -> float:
    """Mean of |now - before| over mean of |before|, in their dtype as the original takes it.

    NaN where both are zero: a rule that skips only what is *below* its threshold then computes.
    """
    return ((now - before).abs().mean() / before.abs().mean()).item()
